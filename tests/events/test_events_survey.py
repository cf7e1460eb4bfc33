from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from event_files import golden_formats, random_events
from PIL import Image

from modicum.cli import main
from modicum.events import Events, open_digits, read, write
from modicum.events.survey import survey


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any]]:
    """Exit code and result of a command."""
    code = main([*map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_folder_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = random_events(1000)
    for number in range(3):
        write(tmp_path / "train" / "car" / f"{number}.dat", random_events(1000, seed=number))
    write(tmp_path / "train" / "other" / "10.npz", events.replace(t=events.t * 2))
    write(tmp_path / "train" / "other" / "9.npz", random_events(100))
    (tmp_path / "readme.txt").write_text("hello")
    code, found = run(capsys, "data", "events", tmp_path)
    assert code == 0
    assert found["usable"]
    assert (found["problems"], found["warnings"], found["unreadable"]) == ([], [], [])
    assert found["recordings"] == 5
    assert found["formats"] == {"prophesee": 3, "npz": 2}
    assert found["sensors"] == {"100 x 120": 5}
    assert found["events"] == {"total": 4100, "min": 100, "median": 1000, "max": 1000}
    assert found["duration_seconds"]["max"] == 2 * events.duration / 1e6
    rate = found["events_per_second"]
    assert rate["median"] == pytest.approx(1e9 / events.duration, rel=0.01)
    assert found["on_share"] == pytest.approx(0.5, abs=0.03)
    assert found["per_class"] == {"train/car": 3, "train/other": 2}
    assert set(found["damage"].values()) == {0}
    assert found["ignored"] == {".txt": 1}


def test_damage_is_reported_and_makes_a_folder_unusable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "good.bin", random_events(100))
    (tmp_path / "cut.bin").write_bytes(bytes(11))
    (tmp_path / "empty.bin").write_bytes(b"")
    (tmp_path / "old.aedat").write_bytes(b"#!AER-DAT4.0\r\n")
    (tmp_path / "gone.bin").symlink_to(tmp_path / "nowhere")
    write(tmp_path / "twice.npz", Events.of([5, 1], [0, 0], [0, 0], [0, 1]))
    write(tmp_path / "twice again.npz", Events.of([5, 1], [0, 0], [0, 0], [0, 1]))
    code, found = run(capsys, "data", "events", tmp_path)
    assert code == 1
    assert not found["usable"]
    assert found["damage"] == {"unreadable": 4, "decrease": 2, "empty": 0, "duplicates": 1}
    reasons = {row["file"]: row["reason"] for row in found["unreadable"]}
    assert reasons["cut.bin"].startswith("byte 10: 1 byte left over")
    assert reasons["old.aedat"] == "byte 0: AEDAT 4.0 is not read; expected AEDAT 2.0 or 3.1."
    assert reasons["gone.bin"] == "cannot be read: No such file or directory."
    assert "4 of 7 recordings cannot be read, the first is cut.bin" in found["problems"][0]
    assert len(found["warnings"]) == 3


def test_decreasing_times_are_seen_between_windows_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modicum.events import survey as module

    events = random_events(20)
    t = np.concatenate([events.t[10:], events.t[:10]])
    write(tmp_path / "a.npz", events.replace(t=t))
    whole = module.windows
    monkeypatch.setattr(module, "windows", lambda path, **options: whole(path, 10, **options))
    found = survey(tmp_path / "a.npz")
    assert found["damage"]["decrease"] == 1
    assert found["duration_seconds"]["max"] == events.duration / 1e6


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_nothing_is_not_usable(
    make: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "a")
    code, found = run(capsys, "data", "events", tmp_path / "a")
    assert code == 1
    assert "there" in (found.get("message") or found["problems"][0])


def test_a_sample_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (2, 10):
        write(tmp_path / "data" / "a" / f"{number}.npz", random_events(500, seed=number))
    picture, gif = tmp_path / "new" / "a.png", tmp_path / "a.gif"
    for sample in ("1", "a/10.npz"):  # numbers in names count as numbers: 10 comes after 2
        words = ("--sample", sample, "--picture", picture, "--gif", gif)
        code, found = run(capsys, "data", "events", tmp_path / "data", *words)
        assert code == 0
        assert found["sample"] == str(Path("a/10.npz"))
        assert (found["picture"], found["gif"]) == (str(picture), str(gif))
        for path, kind in ((picture, "PNG"), (gif, "GIF")):
            with Image.open(path) as image:
                assert image.format == kind
    code, found = run(capsys, "data", "events", tmp_path / "data", "--sample", "5", *words[2:])
    assert code == 2
    assert "--sample 5: expected a number below 2, or a name such as a" in found["message"]


def test_a_single_file_and_its_convention(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.aedat"
    path.write_bytes(golden_formats()["aedat2.bytes"].tobytes())
    code, found = run(capsys, "data", "events", path, "--convention", "raw")
    assert code == 0
    assert (found["recordings"], found["per_class"]) == (1, {})
    raw = golden_formats()["aedat2.raw_p"].mean()
    assert found["on_share"] == pytest.approx(raw)
    _, found = run(capsys, "data", "events", path)
    assert found["on_share"] == pytest.approx(1 - raw)
    code, found = run(capsys, "data", "events", path, "--sensor", 64, 64)
    assert code == 1
    assert "outside the sensor of 64 rows and 64 columns" in found["problems"][0]


def test_real_recordings_are_described(
    shared_data: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--sensor", "34", "34")
    code, found = run(capsys, "data", "events", shared_data("nmnist-small"), *words)
    assert code == 0
    assert found["recordings"] == 600
    assert found["sensors"] == {"34 x 34": 600}
    assert found["events"]["total"] == 2_440_263
    assert list(found["per_class"]) == list("0123456789")
    assert sum(found["per_class"].values()) == 600
    assert found["warnings"] == []


def test_recordings_are_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "a.aedat", tmp_path / "b.npz"
    source.write_bytes(golden_formats()["aedat31.bytes"].tobytes())
    code, found = run(capsys, "convert", "events", source, target)
    assert code == 0
    events = read(source)
    assert read(target).to_array().tolist() == events.to_array().tolist()
    assert found == {
        "source": str(source),
        "format": "aedat3",
        "target": str(target),
        "events": len(events),
        "duration_seconds": events.duration / 1e6,
        "height": 128,
        "width": 128,
        "bytes_before": source.stat().st_size,
        "bytes_after": target.stat().st_size,
    }
    _, found = run(capsys, "convert", "events", source, target, "--keep-invalid")
    assert found["events"] == 185


@pytest.mark.parametrize(
    ("source", "target", "sensor", "warning"),
    [
        ("a.bin", "b.npz", (), "a.bin does not store the size of its sensor; the 50 x 60 pixels"),
        ("a.npy", "b.DAT", (), "--sensor HEIGHT WIDTH"),
        ("a.bin", "b.npz", ("--sensor", 100, 120), ""),
        ("a.npz", "b.dat", (), ""),
        ("a.npz", "b.npy", (), "b.npy does not keep the size of the sensor, 100 x 120 pixels"),
        ("a.bin", "b.bs2", ("--sensor", 100, 120), "b.bs2 does not keep the size"),
        ("a.bin", "b.npy", (), ""),  # nothing is lost
    ],
)
def test_a_conversion_warns_where_the_sensors_size_is_lost(
    source: str,
    target: str,
    sensor: tuple[object, ...],
    warning: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    events = Events.of([0, 1], [59, 3], [49, 3], [0, 1], height=100, width=120)
    write(tmp_path / source, events)
    code, _ = run(capsys, "convert", "events", tmp_path / source, tmp_path / target, *sensor)
    assert code == 0
    assert len(caplog.records) == bool(warning)
    assert warning in caplog.text


def test_a_data_set_may_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    for number in range(2):
        write(folder / "Train" / "3" / f"{number}.bin", random_events(50, 10 + number, 12))
    for verb in ("events", "apbs", "event-augmentation"):
        code, found = run(capsys, "data", verb, f"n-mnist={folder}")
        assert code == 0
        assert found["sensors"] == {"34 x 34": 2}
        assert found["per_class"] == {"Train/3": 2}
        assert found["warnings"] == []
    picture = tmp_path / "a.png"
    code, found = run(capsys, "data", "events", f"n-mnist={folder}", "--picture", picture)
    assert (code, found["sample"]) == (0, str(Path("Train/3/0.bin")))
    assert picture.exists()
    _, found = run(capsys, "data", "events", folder)
    assert len(found["sensors"]) == 2
    code, found = run(capsys, "data", "events", f"n-mnist={folder}", "--sensor", 5, 5)
    assert code == 1
    code, found = run(capsys, "data", "events", f"n-mist={folder}".replace("/", "-"))
    assert (code, "known are n-mnist" in found["message"]) == (2, True)
    code, found = run(capsys, "data", "events", f"n-mnist={tmp_path / 'none'}")
    assert (code, "there is no such" in found["message"]) == (1, True)


def test_the_built_in_set_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run(capsys, "data", "apbs", "digits", "--sample", 7, "--gif", tmp_path / "a.gif")
    assert code == 0
    assert found["usable"]
    assert found["recordings"] == 1797
    assert found["sensors"] == {"34 x 34": 1797}
    assert found["splits"] == {"train": 1200, "test": 597}
    assert found["sample"] == str(Path("digits/train/7"))
    assert open_digits("train", 8).names[7] == "digits/train/7"
    assert (tmp_path / "a.gif").exists()
    code, found = run(capsys, "data", "apbs", "digits", "--sample", 1200, "--gif", tmp_path / "b")
    assert (code, "expected a number below 1200" in found["message"]) == (2, True)


def test_conversions_that_cannot_be_leave_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "a.npz"
    write(source, Events.of([5, 1], [300, 0], [0, 0], [0, 1]))
    before = source.read_bytes()
    for words, code, message in (
        ((source, tmp_path / "b.bin"), 1, "x goes up to 300"),
        ((source, tmp_path / "b.aedat"), 2, "AEDAT is read, but not written"),
        ((source, source), 2, "the same file"),
        ((tmp_path / "none.bin", tmp_path / "b.npz"), 1, "cannot be read"),
    ):
        found = run(capsys, "convert", "events", *words)
        assert found[0] == code
        assert message in found[1]["message"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    assert source.read_bytes() == before
    run(capsys, "convert", "events", source, tmp_path / "b.npz", "--sort")
    assert read(tmp_path / "b.npz").t.tolist() == [1, 5]
    (tmp_path / "cut.bin").write_bytes(bytes(11))
    code, found = run(
        capsys, "convert", "events", tmp_path / "cut.bin", tmp_path / "c.npz", "--no-strict"
    )
    assert (code, found["events"]) == (0, 2)


def test_help_and_list_name_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    main(["list"])
    listed = capsys.readouterr().out
    for verb in ("modicum data events", "modicum convert events"):
        assert verb in shown
        assert verb in listed
    assert main(["convert"]) == 2
    assert "Known: events" in capsys.readouterr().err
    assert main(["convert", "vgnet"]) == 2
