"""A run goes on with the same data only: one value that changed, at equal sizes, is named."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from event_folders import write_folder
from PIL import Image
from small_networks import SMALL

from modicum.cli import main
from modicum.methods.drum_transfer.data.generator import made_up_grooves
from modicum.methods.drum_transfer.text.midi import write_midi


def images(folder: Path) -> list[str]:
    random = np.random.default_rng(0)
    for name in ("blue", "red"):
        (folder / name).mkdir(parents=True)
        for number in range(6):
            pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.bmp")
    return ["--data", str(folder)]


def recordings(folder: Path) -> list[str]:
    write_folder(folder, 6)
    return ["--data", str(folder)]


def grooves(folder: Path) -> list[str]:
    folder.mkdir()
    for number, groove in enumerate(made_up_grooves(range(12))):
        write_midi(groove, folder / f"{number}.mid")
    return ["--data", str(folder)]


def people(folder: Path) -> list[str]:
    folder.mkdir()
    random = np.random.default_rng(0)
    rows = [
        f"{random.random():.3f},{random.integers(10, 99)},{n % 2},{n % 3 % 2}" for n in range(60)
    ]
    (folder / "people.csv").write_text("\n".join(["income,age,group,label", *rows]))
    pairs = random.integers(10, 60, (90, 2))
    (folder / "edges.csv").write_text("\n".join(f"{a},{b}" for a, b in pairs))
    table = ["--nodes", str(folder / "people.csv"), "--label", "label", "--sensitive", "group"]
    return [*table, "--edges", str(folder / "edges.csv")]


def one_byte(name: str, place: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[place] ^= 1
        (folder / name).write_bytes(content)

    return change


def one_field(column: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        lines = (folder / "people.csv").read_text().splitlines()
        fields = lines[7].split(",")
        last = fields[column][-1]
        fields[column] = fields[column][:-1] + str(int(last) ^ 1)
        (folder / "people.csv").write_text("\n".join([*lines[:7], ",".join(fields), *lines[8:]]))

    return change


def one_note(folder: Path) -> None:
    groove = made_up_grooves([3])[0]
    hit = groove.text.index("o")
    text = f"{groove.text[:hit]}-{groove.text[hit + 1 :]}"
    write_midi(dataclasses.replace(groove, text=text, velocities=None), folder / "3.mid")


def two_labels(folder: Path) -> None:
    one, other, away = folder / "left/0.bin", folder / "middle/0.bin", folder / "away"
    one.rename(away)
    other.rename(one)
    away.rename(other)


CHANGES = [
    ("vgnet", images, one_byte("red/2.bmp", -7), r"changed: red/2\.bmp \((train|val)\)"),
    ("apbs", recordings, one_byte("left/3.bin", 0), r"changed: left/3\.bin \((train|val)\)"),
    ("event-augmentation", recordings, two_labels, r"left/0\.bin \(\w+\), .*middle/0\.bin \(\w+\)"),
    ("reliant teacher", people, one_field(0), "changed: features"),
    ("reliant distil", people, one_field(1), "changed: features"),
    ("reliant distil", people, one_field(2), "changed: groups"),
    ("reliant distil", people, one_field(3), "labels"),
    ("reliant distil", people, one_byte("edges.csv", 4), "changed: edges"),
    ("drum-transfer", grooves, one_note, r"changed: .*3.* \((train|val)\)"),
]


@pytest.mark.parametrize(
    ("method", "write", "change", "said"),
    CHANGES,
    ids=[f"{method} {number}" for number, (method, *_) in enumerate(CHANGES)],
)
def test_one_changed_value_is_noticed(
    method: str, write: Callable[[Path], list[str]], change: Callable[[Path], None], said: str,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = ["train", *method.split(), *write(tmp_path / "data"), "--out", str(tmp_path / "run")]
    if method in SMALL:
        words += ["--epochs", "1", "--batch-size", "4", "--workers", "0", "--holdout", "0.3"]
        for name, value in SMALL[method].items():
            words += [f"--{name}", *str(value).split()]
    elif method == "drum-transfer":
        words += ["--model", "ngram"]
    else:
        words += ["--epochs", "2", "--hidden", "8"]
        words += ["--teacher.epochs", "2"] if method == "reliant distil" else []
    assert main([*words, "--device", "cpu"]) == 0, capsys.readouterr().err
    resume = ["train", "--resume", str(tmp_path / "run")]
    assert main(resume) == 0, capsys.readouterr().err
    files = [path for path in (tmp_path / "data").rglob("*.*") if path.suffix != ".mid"]
    sizes = {path: path.stat().st_size for path in files}
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    change(tmp_path / "data")
    assert sizes == {path: path.stat().st_size for path in sizes}
    capsys.readouterr()
    assert main(resume) == 1
    error = capsys.readouterr().err
    assert "the run began with other data: " in error
    assert re.search(said, error), error
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
