"""Using what was trained: files from folders, records as a table, latency."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modicum.errors import ConfigError, DataError
from modicum.inference import input_files, latency, predict_files, predictions, write_table
from modicum.system.tables import plain

# Files


def test_files_of_folders_are_sorted_and_files_named_are_taken_as_they_are(
    tmp_path: Path,
) -> None:
    for name in ("b.TXT", "sub/a.txt", "a.md", ".hidden.txt", "sub/c.txt", "folder.txt/d.txt"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    single = tmp_path / "in" / "a.md"
    found = input_files([single, tmp_path / "in", single], {".txt"}, "text")
    names = [path.relative_to(tmp_path / "in").as_posix() for path in found]
    assert names == ["a.md", "b.TXT", "folder.txt/d.txt", "sub/a.txt", "sub/c.txt", "a.md"]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent: no such file or folder\. Expected texts"):
        input_files([tmp_path / "absent"], {".txt"}, "text")
    with pytest.raises(DataError, match=r": no text found\. Expected files ending in \.md, \.txt"):
        input_files([tmp_path], {".txt", ".md"}, "text")
    with pytest.raises(DataError, match="the command: no text found"):
        input_files([], {".txt"}, "text")


def test_links_in_a_folder_are_followed_as_in_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "in"
    for name in ("in/a.txt", "in/sub/b.txt", "elsewhere/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (root / "inside.txt").symlink_to("a.txt")
    (root / "outside.txt").symlink_to(tmp_path / "elsewhere" / "c.txt")
    (root / "folder").symlink_to(tmp_path / "elsewhere")
    (root / "twice").symlink_to("sub")
    (root / "up").symlink_to("..")
    (root / "nowhere.txt").symlink_to("gone.txt")
    (root / "notes.md").symlink_to(tmp_path / "elsewhere" / "c.txt")

    def names() -> list[str]:
        caplog.clear()
        return [path.relative_to(root).as_posix() for path in input_files([root], {".txt"}, "text")]

    assert sorted(names()) == ["a.txt", "inside.txt", "sub/b.txt"]
    told = "\n".join(caplog.messages)
    assert "outside.txt: the symbolic link leads out of" in told
    assert "folder: the symbolic link leads out of" in told
    assert "nowhere.txt: the symbolic link leads nowhere" in told
    assert "notes.md" not in told
    assert input_files([root / "outside.txt"], {".txt"}, "text") == [root / "outside.txt"]
    monkeypatch.setenv("MODICUM_FOLLOW_LINKS", "1")
    assert {"outside.txt", "folder/c.txt"} <= set(names())
    assert not any("out of" in message for message in caplog.messages)
    assert "twice/b.txt" not in names()


# Predictions


def numbers_in(path: Path) -> int:
    if path.stem.startswith("bad"):
        raise DataError(f"{path}: not a number")
    return int(path.stem)


def test_files_are_predicted_in_batches_and_bad_ones_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    batches: list[list[int]] = []

    def classify(samples: list[int]) -> Iterator[dict[str, Any]]:
        batches.append(samples)
        return ({"class_1": f"class {sample}"} for sample in samples)

    files = [Path(name) for name in ("1.x", "bad a.x", "2.x", "bad b.x", "bad c.x", "3.x")]
    with caplog.at_level(logging.WARNING, logger="modicum"):
        rows = predict_files(files, numbers_in, classify, 2)
    assert batches == [[1], [2], [3]]
    assert rows == [
        {"file": "1.x", "class_1": "class 1"},
        {"file": "bad a.x", "error": "bad a.x: not a number"},
        {"file": "2.x", "class_1": "class 2"},
        {"file": "bad b.x", "error": "bad b.x: not a number"},
        {"file": "bad c.x", "error": "bad c.x: not a number"},
        {"file": "3.x", "class_1": "class 3"},
    ]
    assert [record.getMessage() for record in caplog.records] == [
        rows[number]["error"] for number in (1, 3, 4)
    ]
    batches.clear()
    predict_files([*files[:1], *files[3:5], *files[5:]], numbers_in, classify, 1)
    assert batches == [[1], [3]]  # never with a batch of none
    with pytest.raises(DataError, match=r"none of the 2 files can be read\. The first: bad b\.x"):
        predict_files(files[3:5], numbers_in, classify, 2)


def test_predictions_are_printed_whole_or_are_in_a_table(tmp_path: Path) -> None:
    rows = [{"file": f"{number}.x", "class_1": "a"} for number in range(12)]
    rows[3] = {"file": "3.x", "error": "unreadable"}
    assert predictions(rows, None) == {"files": 12, "unreadable": 1, "predictions": rows}
    table = tmp_path / "table.csv"
    shown = predictions(rows, table)
    assert shown == {
        "files": 12, "unreadable": 1, "table": str(table), "predictions": rows[:10]
    }  # fmt: skip
    with table.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 12


def test_a_table_has_the_columns_of_all_rows(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    rows = [
        {"file": "broken", "error": 'a "quoted", reason\nof two lines'},
        {"file": "name \udcff", "class_1": "a"},
        {"file": "c", "class_1": "b", "spikes": 3},
    ]
    write_table(table, rows)
    assert table.read_bytes().splitlines()[0] == b"file,class_1,spikes,error"
    with table.open(newline="", errors="surrogateescape") as file:
        found = list(csv.DictReader(file))
    assert found == [
        {"file": "broken", "class_1": "", "spikes": "", "error": rows[0]["error"]},
        {"file": "name \udcff", "class_1": "a", "spikes": "", "error": ""},
        {"file": "c", "class_1": "b", "spikes": "3", "error": ""},
    ]
    assert list(tmp_path.iterdir()) == [table]


def test_nothing_in_a_table_is_run(tmp_path: Path) -> None:
    formulas = ["=cmd|' /C calc'!A0", "+1+cmd", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1"]
    rows = [{"file": text, "=score": -1.5, "of": "-1e5", "error": text} for text in formulas]
    write_table(tmp_path / "table.csv", rows)
    with (tmp_path / "table.csv").open(newline="") as file:
        header, *found = csv.reader(file)
    assert header == ["file", "'=score", "of", "error"]
    assert found == [["'" + text, "-1.5", "-1e5", "'" + text] for text in formulas]
    assert [plain(row[0]) for row in found] == formulas
    assert [plain(text) for text in ("'tis", "'", "", "'-1")] == ["'tis", "'", "", "'-1"]


# Latency


def test_latency_is_ordered_and_warmed_up() -> None:
    class Counting(nn.Module):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert torch.is_inference_mode_enabled()
            Counting.calls += 1
            return x

    found = latency(Counting(), torch.zeros(1), repeats=5)
    assert 0 <= found["minimum"] <= found["median"]
    assert Counting.calls == 3 + 5


def test_batches_of_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--batch-size 0"):
        predict_files([tmp_path / "a"], lambda path: path, lambda paths: [], batch_size=0)


def test_samples_in_memory_are_for_those_who_take_them(tmp_path: Path) -> None:
    sample = object()
    (tmp_path / "a.png").touch()
    files = input_files([sample, tmp_path], {".png"}, "image", in_memory=True)
    assert files == [sample, tmp_path / "a.png"]
    with pytest.raises(DataError, match="class object, expected paths of images"):
        input_files([sample], {".png"}, "image")
