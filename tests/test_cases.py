"""Files that people had trouble with, in `cases/`: what is said of each, and how the command ends.

`images.zip` holds the folders of images. What takes minutes of training is marked slow.
"""

from __future__ import annotations

import functools
import json
import re
import resource
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from modicum.cli import main

CASES = Path(__file__).parent / "cases"
MEMORY = 1 << 30
"""Bytes that a command may take more for one of these files."""
PYTHON = re.compile(
    r"Traceback|PosixPath|np\.\w+\(|tensor\(|<class|\bNone\b|\bnan\b|\{'|\[\]|\bb'|\w+Error\b"
    r"|(?<![\d,.])1 (?:image|recording|file|groove|feature|byte|track|hit|node|row|thread)s\b"
)
"""What no message for people holds: text of Python, and a plural of one."""
OF_OTHERS = {"--sort": "convert events", "--no-strict": "convert events"}
"""Options in messages that name the command they are of."""


@functools.cache
def options_of(*words: str) -> set[str]:
    with redirect_stdout(shown := StringIO()), pytest.raises(SystemExit):
        main([*words, "--help"])
    return set(re.findall(r"--[a-z][a-z0-9-]+", shown.getvalue()))


@contextmanager
def little_memory() -> Iterator[None]:
    """Let this process take no more than `MEMORY` besides what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(
        resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY + (1 << 28), before[1])
    )
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def said(capsys: pytest.CaptureFixture[str], code: int, *words: object) -> str:
    """What a command that ends with `code` prints, in one line."""
    command = [str(word) for word in words]
    capsys.readouterr()
    assert main(command) == code, capsys.readouterr()
    printed = "".join(capsys.readouterr())
    assert not (found := PYTHON.search(printed)), (found, printed)
    if command[1].startswith("-"):
        command[1:1] = ["vgnet"]  # whose options name those of every run
    room = 3 if command[1:3] in (["reliant", "teacher"], ["reliant", "distil"]) else 2
    for option in re.findall(r"--[a-z][a-z0-9-]+", printed):
        of = OF_OTHERS.get(option, "").split() or command[:room]
        assert option in options_of(*of), (option, printed)
    return " ".join(printed.split())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    with zipfile.ZipFile(CASES / "images.zip") as archive:
        archive.extractall(root)
    return root


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of vgnet on `varied` that learned nothing."""
    out = tmp_path_factory.mktemp("runs") / "varied"
    assert main(["train", "vgnet", "--data", str(images / "varied"), "--preset", "smoke",
                 "--device", "cpu", "--out", str(out)]) == 0  # fmt: skip
    return out


# Images


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("varied", ["usable yes", "problems none", "warnings none", "count 0"]),
        ("no-signal", ["usable yes", "warnings none", "a 40 b 40", "a 20 b 20"]),
        ("same-size", ["usable yes", "warnings none", "min 32 median 32 max 32"]),
        (
            "splits/seg_train-seg_test",
            ["the classes seg_test, seg_train hold folders of the same names (blue, green, red)",
             "name these folders train, val and test", "seg_test 6 seg_train 12"],
        ),
        ("duplicates/twice", ["12 images have copies partly held out and partly trained on",
                              "count 12"]),
        ("duplicates/two-classes", ["6 images have copies in more than one class",
                                    "blue/0.jpg, green/copy_of_blue_0.jpg", "count 6"]),
        ("other-formats", ["images 29", "JPEG 9 AVIF 10 TIFF 10", "are ignored: 1 .heic"]),
        ("stray", ["2 images belong to no class", "extra/loose.jpg, train/loose.jpg"]),
    ],
)  # fmt: skip
def test_folders_are_told_what_is_odd_about_them(
    folder: str, expected: list[str], images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = said(capsys, 0, "data", "vgnet", images / folder)
    for words in expected:
        assert words in printed


@pytest.mark.parametrize(
    "folder",
    ["splits/seg_train-seg_test", "duplicates/twice", "duplicates/two-classes", "other-formats",
     "stray"],
)  # fmt: skip
def test_training_says_what_data_says_once(
    folder: str, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main(["data", "vgnet", str(images / folder), "--json"]) == 0
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    words = ["train", "vgnet", "--data", images / folder, "--out", tmp_path / "run"]
    said(capsys, 0, *words, "--preset", "smoke", "--epochs", 1, "--device", "cpu")
    told = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert [told.count(warning) for warning in warnings] == [1] * len(warnings)


def test_equally_sized_images_are_evaluated(
    images: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = said(capsys, 0, "evaluate", "vgnet", "--run", run, "--data", images / "same-size")
    assert "images 12 top1" in printed


def test_a_class_that_was_renamed_is_refused_with_both_lists(
    images: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, folder = tmp_path / "varied", tmp_path / "run"
    shutil.copytree(images / "varied", data)
    shutil.copytree(run, folder)
    for split in ("train", "val"):
        (data / split / "blue").rename(data / split / "violet")
    printed = said(capsys, 1, "train", "--resume", folder, "--data", data)
    assert "blue, green, red" in printed
    assert "green, red, violet" in printed


def test_data_and_runs_may_lie_in_the_current_folder(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shutil.copytree(images / "varied" / "train", tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    for _ in range(2):  # the folder `runs` is there the second time
        said(capsys, 0, "train", "vgnet", "--data", ".", "--preset", "smoke", "--epochs", 1,
             "--device", "cpu")  # fmt: skip
        assert "classes blue, green, red" in said(capsys, 0, "data", "vgnet", ".")


@pytest.mark.slow
def test_a_small_folder_is_learned_with_every_default(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "vgnet", "--data", str(images / "varied"), "--out", str(tmp_path / "r"),
                 "--json"]) == 0  # fmt: skip
    assert json.loads(capsys.readouterr().out)["top1"] > 90


@pytest.mark.slow
def test_of_noise_there_is_no_verdict(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    main(["check", "vgnet", "--data", str(images / "no-signal"), "--seeds", "3", "--json"])
    claims: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["claims"]
    assert {claim["verdict"] for claim in claims} == {"inconclusive"}


# Tables


@pytest.mark.parametrize(
    ("table", "amount"), [("thousands", "30,000"), ("decimal-comma", "30000,5")]
)
def test_amounts_are_no_categories(
    table: str, amount: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = CASES / "tables" / f"{table}.csv"
    how = ("--label", "approve", "--sensitive", "race", "--id-column", "id")
    printed = said(capsys, 1, "data", "reliant", path, *how)
    assert f"{path.name}, line 2, column 'income': numbers such as '{amount}'" in printed
    printed = said(capsys, 1, "data", "reliant", path, *how, "--drop", "income")
    assert "no column is left to be a feature" in printed


# Hostile and damaged files


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("midi-segfault-26-bytes.mid", "track 1: damaged at byte 23: data over 127."),
        ("midi-double-free-42-bytes.mid", "track 1: damaged at byte 42: cut off within an event."),
        ("midi-abort-306-bytes.mid", "track 1: damaged at byte 124: data over 127."),
        ("tab-valueerror.txt", "line 2: its bars do not stand below those of line 1"),
    ],
)
def test_hostile_grooves_are_refused(
    file: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with little_memory():
        printed = said(
            capsys, 1, "analyse", "drum-transfer", CASES / "reliability" / file, "--out", tmp_path
        )
    assert expected in printed
    assert printed.count(expected) == 1
    assert not list(tmp_path.iterdir())


def test_a_bomb_of_ticks_takes_little_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bomb = CASES / "reliability" / "midi-bomb-27kB-700MB.mid"
    with little_memory():
        printed = said(capsys, 0, "analyse", "drum-transfer", bomb, "--out", tmp_path)
    assert "midi-bomb-27kB-700MB.mid 1 0 undefined" in printed


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("events-external-storage.h5", "the numbers of x lie in other files, which are not read"),
        ("events-10-to-12.h5", "t claims 1,000,000,000,000 numbers of int64"),
        ("events-overflow.h5", "HDF5 cannot read it: a size in it is beyond 64 bits."),
    ],
)
def test_hostile_recordings_are_refused(
    file: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = CASES / "reliability" / file
    with little_memory():
        printed = said(capsys, 1, "convert", "events", path, tmp_path / "out.npz")
        assert expected in said(capsys, 1, "data", "events", path)
    assert f"{file}, byte 0: {expected}" in printed
    assert not list(tmp_path.iterdir())


def test_a_picture_of_gigabytes_is_not_predicted(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = CASES / "reliability" / "png-67-bytes-2GB.png"
    with little_memory():
        printed = said(capsys, 1, "predict", "vgnet", "--run", run, picture)
    assert printed.count("refused, the image is too large (1 x 89,000,000 pixels") == 1


def test_a_pickle_of_nine_bytes_is_no_cifar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("batches.meta", "test_batch", *(f"data_batch_{number}" for number in range(1, 6))):
        shutil.copyfile(CASES / "reliability" / "pickle-memo-9-bytes.pkl", tmp_path / name)
    with little_memory():
        printed = said(capsys, 1, "data", "vgnet", tmp_path)
    assert "data_batch_1" in printed
    assert "usable no" in printed


@pytest.mark.parametrize("verb", ["predict", "evaluate", "export"])
def test_a_model_without_notes_is_refused(
    verb: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "a.safetensors"
    shutil.copyfile(CASES / "reliability" / "vgnet-notes-empty.safetensors", model)
    words: list[Any] = [verb, "vgnet", "--run", model]
    if verb == "predict":
        words.append(images / "varied" / "val" / "red" / "0.jpg")
    elif verb == "evaluate":
        words += ["--data", images / "varied"]
    printed = said(capsys, 1, *words)
    assert "a.safetensors: describes a network that cannot be built or used: it lacks" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_every_case_has_a_test(images: Path) -> None:
    tested = Path(__file__).read_text()
    names = [path.name for path in (CASES / "reliability").iterdir()]
    names += [path.stem for path in (CASES / "tables").iterdir()]
    names += [folder.name for folder in images.iterdir()]
    assert [name for name in names if name not in tested] == []
