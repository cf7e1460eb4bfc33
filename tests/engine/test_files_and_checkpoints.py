"""Files appear whole; damaged checkpoints are passed over; foreign ones are not executed."""

from __future__ import annotations

import errno
import logging
import os
import signal
import tempfile
from pathlib import Path

import pytest
import torch

from modicum.engine.checkpoint import (
    checkpoints,
    load_newest,
    remove_checkpoints,
    save_checkpoint,
    set_aside,
)
from modicum.engine.folder import RunFolder
from modicum.engine.run import Run
from modicum.errors import CheckpointError, ConfigError, DataError
from modicum.options import whole_path
from modicum.system.files import (
    FolderLock,
    atomic_write,
    ready_folder,
    what_is_wrong,
    write_text,
)


def test_data_is_named_with_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("mine", "a=b"):
        (tmp_path / folder).mkdir()
    root = tmp_path.resolve()
    for given, expected in {
        "mine": f"{root}/mine",
        "a=b": f"{root}/a=b",
        "N-Cars=mine": f"N-Cars={root}/mine",
        "digits": "digits",
        "n-cars=absent": "n-cars=absent",
    }.items():
        assert whole_path(given) == whole_path(whole_path(given)) == expected


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "file.txt"
    write_text(path, "old")

    def fail() -> None:
        with atomic_write(path) as file:
            file.write(b"half of the ne")
            raise RuntimeError("power")

    with pytest.raises(RuntimeError, match="power"):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["file.txt"]
    assert path.stat().st_mode & 0o600 == 0o600


def test_a_folder_is_made_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a" / "b"
    for _ in range(2):
        ready_folder(folder)
        assert os.listdir(folder) == []
    (folder / "file").touch()
    for path in (folder / "file", folder / "file" / "c" / "d"):
        with pytest.raises(ConfigError, match=r"/b/file: is a file, where a folder is needed"):
            ready_folder(path)

    def deny(**given: object) -> None:  # those who run the tests may be allowed everything
        raise PermissionError(errno.EACCES, "Permission denied", f"{given['dir']}/tmp123")

    monkeypatch.setattr(tempfile, "TemporaryFile", deny)
    with pytest.raises(ConfigError, match=r"/a/b: Permission denied\. Give another path"):
        ready_folder(folder)


def test_what_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as raised:
        write_text(tmp_path / "file" / "a.txt", "")
    assert what_is_wrong(raised.value).startswith(f"{tmp_path}/file: is a file, where a folder")
    with pytest.raises(OSError) as raised:
        write_text(tmp_path, "")
    assert what_is_wrong(raised.value).startswith(f"{tmp_path}: is a folder, where a file")

    def full(*name: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", *name)

    with pytest.raises(OSError) as raised, atomic_write(tmp_path / "b.txt"):
        full()
    expected = f"{tmp_path}/b.txt: No space left on device. Make room on the disk"
    assert what_is_wrong(raised.value).startswith(expected)
    monkeypatch.setattr(tempfile, "mkstemp", lambda **given: full("a temporary name"))
    with pytest.raises(OSError) as raised:
        write_text(tmp_path / "b.txt", "")
    assert what_is_wrong(raised.value).startswith(expected)


def test_two_newest_are_kept(tmp_path: Path) -> None:
    for steps in (1, 20, 300):
        save_checkpoint(tmp_path, steps, {"steps": steps, "w": torch.full((3,), float(steps))})
    assert [path.name.split("-")[1] for path in checkpoints(tmp_path)] == ["00000300", "00000020"]
    restored = load_newest(tmp_path)
    assert restored is not None
    assert restored["steps"] == 300
    assert torch.equal(restored["w"], torch.full((3,), 300.0))
    assert load_newest(tmp_path / "nothing") is None


def test_a_disk_that_fails_leaves_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, 1, {"steps": 1})
    real, calls = os.fsync, list[int]()

    def fail_once(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr("modicum.engine.checkpoint.FORCED_BYTES", 1000)
    monkeypatch.setattr(os, "fsync", fail_once)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, 2, {f"w{i}": torch.zeros(1000) for i in range(9)})
    assert [path.name.split("-")[1] for path in checkpoints(tmp_path)] == ["00000001"]
    monkeypatch.setattr(os, "fsync", real)
    save_checkpoint(tmp_path, 3, {f"w{i}": torch.full((1000,), float(i)) for i in range(9)})
    restored = load_newest(tmp_path)
    assert restored is not None
    assert restored["w7"].eq(7).all()


def test_what_is_no_checkpoint_is_left_alone(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"steps": 1})
    for name in (".hidden", ".step-00000002.saved", "step-00000009-0123456789abcdef.pt"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-00000009-0123456789abcdef.damaged").mkdir()
    assert load_newest(tmp_path) == {"steps": 1}
    for steps in (2, 3, 4):
        save_checkpoint(tmp_path, steps, {"steps": steps})
    remove_checkpoints(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_several_processes_look_before_one_sets_aside(tmp_path: Path) -> None:
    for steps in (1, 2):
        newest = save_checkpoint(tmp_path, steps, {"steps": steps})
    newest.write_bytes(newest.read_bytes()[:-1])
    seen: list[list[Path]] = [[], []]
    for damaged in seen:
        assert load_newest(tmp_path, damaged) == {"steps": 1}
    assert seen == [[newest], [newest]]
    set_aside(seen[0])
    assert not newest.exists()
    assert newest.with_suffix(".damaged").exists()


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_newest_falls_back(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save_checkpoint(tmp_path, 1, {"steps": 1})
    newest = save_checkpoint(tmp_path, 2, {"steps": 2})
    content = bytearray(newest.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    newest.write_bytes(content[: {"flip": None, "truncate": -7, "empty": 0}[damage]])
    with caplog.at_level(logging.WARNING, "modicum"):
        restored = load_newest(tmp_path)
    assert restored == {"steps": 1}
    assert newest.name in caplog.text
    assert "damaged" in caplog.text


def test_all_damaged_is_an_error(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"steps": 1}).write_bytes(b"")
    with pytest.raises(CheckpointError, match="all 1 checkpoints are damaged"):
        load_newest(tmp_path)


def test_a_foreign_pickle_is_not_executed(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.mkdir, (str(tmp_path / "executed"),))

    path = save_checkpoint(tmp_path, 1, {"steps": 1})
    torch.save(Hostile(), path)
    import hashlib

    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    path.rename(tmp_path / f"step-00000001-{digest}.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_newest(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_damaged_checkpoints_stay_an_error(tmp_path: Path) -> None:
    for steps in (1, 2):
        save_checkpoint(tmp_path, steps, {"steps": steps}).write_bytes(b"")
    for _ in range(2):  # nothing is put away meanwhile, so that the second try finds the same
        with pytest.raises(CheckpointError, match=r"all 2 checkpoints .* modicum train --restart"):
            load_newest(tmp_path)
    assert len(checkpoints(tmp_path)) == 2


def test_a_lock_is_not_inherited(tmp_path: Path) -> None:
    ready, done = os.pipe(), os.pipe()
    holder = os.fork()
    if holder == 0:
        lock = FolderLock(tmp_path)  # noqa: F841 - held until it is killed
        if os.fork() == 0:  # as a worker does, which lives on
            os.write(ready[1], b"1")
            os.read(done[0], 1)
            os._exit(0)
        os.wait()
        os._exit(0)
    os.read(ready[0], 1)
    with pytest.raises(BlockingIOError):
        FolderLock(tmp_path)
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    FolderLock(tmp_path).release()
    os.write(done[1], b"1")


def test_a_lock_that_is_a_link_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("words")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        FolderLock(tmp_path / "run")
    assert (tmp_path / "precious").read_text() == "words"


@pytest.mark.parametrize("name", ["checkpoints", "metrics.jsonl", "tensorboard"])
def test_a_run_is_not_written_through_links(tmp_path: Path, name: str) -> None:
    outside, run = tmp_path / "outside", tmp_path / "run"
    outside.mkdir()
    (outside / ".step-1.saving").write_text("somebody's")
    run.mkdir()
    (run / name).symlink_to(outside)
    for way in ({"resume": True}, {"restart": True}):
        with pytest.raises(ConfigError, match="a link that leads out of the run folder"):
            RunFolder(run, method="test", **way)
    assert [entry.name for entry in outside.iterdir()] == [".step-1.saving"]
    moved = tmp_path / "link"  # but the whole folder may lie elsewhere
    (run / name).unlink()
    moved.symlink_to(run)
    RunFolder(moved, method="test", resume=True).close(keep=True)


def test_what_a_killed_run_left_goes_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".config.json.ab12_xyz.part").write_text("{")
    RunFolder(tmp_path, method="test").close(keep=True)  # it never began: it can be begun
    assert not list(tmp_path.glob(".config*"))
    inner = tmp_path / "checkpoints"
    inner.mkdir()
    others = [inner / ".notes", inner / "a.part", inner / ".hidden"]
    others[0].write_text("mine")
    others[1].write_text("mine")
    others[2].mkdir()
    left = [inner / ".step-00000003.saving", inner / "..step-00000003.saving.abcdefgh.part"]
    for path in left:
        path.write_text("half")
    kept = save_checkpoint(inner, 3, {"steps": 3})
    RunFolder(tmp_path, method="test", resume=True).close(keep=True)
    assert all(path.exists() for path in [*others, kept])
    assert not any(path.exists() for path in left)
    run = RunFolder(tmp_path, method="test", restart=True)
    assert kept.exists()
    run.clear()
    run.close(keep=True)
    assert all(path.exists() for path in others)
    assert not kept.exists()


def test_a_run_begun_anew_has_nothing_of_the_one_before(tmp_path: Path) -> None:
    names = ["metrics.jsonl", "model.safetensors", "best.safetensors", "report.html"]
    names += ["confusion.json", "pictures/mistakes.png", "pictures/mistakes.txt"]
    names += ["pictures/a.wav", "evaluation.json", "written/people/1.tab"]
    names += ["tensorboard/events.out.tfevents.1", "checkpoints/step-00000003-0123456789abcdef.pt"]
    mine = [tmp_path / name for name in ("notes.txt", "mine.png", "pictures/mine.jpg")]
    for path in [*mine, *(tmp_path / name for name in names)]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("before")
    with pytest.raises(DataError), Run(tmp_path, method="test", config=1, restart=True):
        raise DataError("of data that cannot be used, a run is not begun anew")
    assert all((tmp_path / name).exists() for name in names)
    with Run(tmp_path, method="test", config=1, restart=True, quiet=True) as run:
        for _ in run.iterations(1):
            left = {path for path in tmp_path.rglob("*") if path.is_file()}
    described = {tmp_path / name for name in ("config.json", "environment.json", ".lock")}
    assert left == {*mine, *described, tmp_path / "metrics.jsonl"}
    assert (tmp_path / "metrics.jsonl").stat().st_size == 0


def test_an_ended_run_without_its_checkpoints_is_kept(tmp_path: Path) -> None:
    for name in ("model.safetensors", "metrics.jsonl"):
        (tmp_path / name).write_text("valuable")
    with pytest.raises(CheckpointError, match=r"checkpoints are gone.*modicum train --restart"):
        Run(tmp_path, method="test", config=1, resume=True, quiet=True)
    assert (tmp_path / "metrics.jsonl").read_text() == "valuable"


def test_one_checkpoint_too_many_goes(tmp_path: Path) -> None:
    """As after a kill between writing one and removing the oldest."""
    folder = tmp_path / "checkpoints"
    content = {"best": None, "scores": {}, "metrics": {"window": {}, "seconds": 0.0}}
    kept = [save_checkpoint(folder, steps, content | {"steps": steps}) for steps in (2, 3)]
    first = save_checkpoint(tmp_path / "other", 1, content)
    first.rename(folder / first.name)
    with Run(tmp_path, method="test", config=1, resume=True, quiet=True) as run:
        assert run.steps == 3
    assert checkpoints(folder) == kept[::-1]
