from __future__ import annotations

import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from modicum.images import check as checking
from modicum.images import check_images, contact_sheet, open_images, survey


@pytest.fixture
def files(make):
    for number in range(6):
        for suffix in ("jpg", "png", "webp", "gif", "bmp"):
            make.picture(f"{'ab'[number % 2]}/{number}.{suffix}", (20 + number, 16), seed=number)
    return open_images(make.root, holdout=0)


@pytest.fixture
def count_decodes(monkeypatch) -> list:
    decoded = []
    original = checking.decode_image

    def counted(path):
        decoded.append(path)
        return original(path)

    monkeypatch.setattr(checking, "decode_image", counted)
    return decoded


def test_thorough_check_is_done_once(files, count_decodes):
    first = check_images(files, thorough=True)  # open_images did it already
    assert first.remembered
    assert (first.count, first.bad, first.thorough) == (30, (), True)
    assert count_decodes == []
    files.path(3).write_bytes(files.path(3).read_bytes() + b"\0")
    again = check_images(files, thorough=True)
    assert not again.remembered
    assert len(count_decodes) == 30


def test_cheap_check_decodes_only_what_looks_wrong(files, count_decodes, monkeypatch, tmp_path):
    monkeypatch.setenv("MODICUM_CACHE", str(tmp_path / "other"))
    seen = []
    report = check_images(
        files, thorough=False, progress=lambda done, total: seen.append((done, total))
    )
    assert report.bad == ()
    assert not report.thorough
    assert count_decodes == []
    assert seen[-1] == (30, 30)
    monkeypatch.setenv("MODICUM_CACHE", str(tmp_path / "third"))
    broken = {}
    for number, name in enumerate(files.names):
        path = files.path(number)
        if number % 3 == 0:
            path.write_bytes(path.read_bytes()[:-40])
            broken[name] = path
    report = check_images(files, thorough=False)
    assert count_decodes  # a file that ends strangely is decoded before it is called bad
    assert set(count_decodes) <= set(broken.values())
    thorough = check_images(files, thorough=True)
    assert not thorough.remembered
    assert {name for name, _ in report.bad} == {name for name, _ in thorough.bad}
    assert {name for name, _ in report.bad} == set(broken)


def test_cache_that_cannot_be_used_costs_time_only(files, monkeypatch, tmp_path, count_decodes):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MODICUM_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        assert not check_images(files).remembered
    monkeypatch.setenv("MODICUM_CACHE", str(tmp_path / "cache"))
    check_images(files)
    (memory,) = (tmp_path / "cache" / "images").iterdir()
    memory.write_text("[]")
    assert not check_images(files).remembered
    assert check_images(files).remembered


def test_sets_in_memory_are_good():
    assert check_images(open_images("digits", "test")).bad == ()


def test_survey_of_a_sound_folder(make):
    make.tree("train", ["cat", "dog"], count=5, size=(40, 36))
    make.picture("train/dog/wide.jpg", (90, 36), seed=77)
    make.tree("val", ["cat", "dog"], count=2, size=(41, 36))
    (make.root / "train" / "cat" / "notes.txt").write_text("x")
    report = survey(make.root)
    assert json.loads(json.dumps(report)) == report
    assert report["usable"]
    assert report["problems"] == []
    train = report["splits"]["train"]
    assert train["images"] == 11
    assert train["per_class"] == {"cat": 5, "dog": 6}
    assert train["width"] == {"min": 40, "median": 40, "max": 90}
    assert train["height"] == {"min": 36, "median": 36, "max": 36}
    assert train["formats"] == {"PNG": 10, "JPEG": 1}
    assert train["modes"] == {"RGB": 11}
    assert train["ignored"] == {".txt": 1}
    assert report["duplicates"] == {"count": 0, "groups": []}
    assert report["warnings"] == []


def test_survey_finds_what_is_wrong(make):
    make.tree("train", ["cat", "dog"], count=15, size=(40, 36))
    make.tree("val", ["cat", "dog"], count=1, size=(12, 36))
    shutil.copy(make.root / "train/cat/3.png", make.root / "val/cat/leaked.png")
    (make.root / "train/dog/broken.jpg").write_bytes(b"<html>")
    Image.new("RGBA", (50, 50)).save(make.root / "train/dog/clear.png")
    make.picture("train/dog/scan.tiff")
    report = survey(make.root)
    assert not report["usable"]
    assert any("broken.jpg" in problem for problem in report["problems"])
    unreadable = report["splits"]["train"]["unreadable"]
    assert unreadable["count"] == 1
    assert unreadable["files"][0]["name"] == "train/dog/broken.jpg"
    assert report["duplicates"]["count"] == 1
    assert sorted(report["duplicates"]["groups"][0]) == ["train/cat/3.png", "val/cat/leaked.png"]
    warnings = " ".join(report["warnings"])
    for words in ("more than one split", "single image", "transparency", "1 .tiff", "12 pixels"):
        assert words in warnings


def test_survey_of_imbalance_and_a_single_class(make):
    make.tree("", ["cat"], count=40)
    make.tree("", ["dog"], count=2)
    assert any("largest class has 40" in warning for warning in survey(make.root)["warnings"])
    assert any("one class only" in warning for warning in survey(make.root / "..")["warnings"])


def test_survey_of_what_is_no_data(make):
    report = survey(make.root)
    assert not report["usable"]
    assert "no such folder" in report["problems"][0]
    make.tree("train", ["cat", "dog"])
    make.tree("val", ["cat", "fox"])
    assert "only in val/: fox" in survey(make.root)["problems"][0]


def test_survey_of_digits():
    report = survey("digits")
    assert report["usable"]
    assert {split: found["images"] for split, found in report["splits"].items()} == {
        "train": 1200,
        "test": 597,
    }
    assert report["splits"]["train"]["modes"] == {"L": 1200}
    assert json.dumps(report)


def test_contact_sheet():
    images = torch.zeros((5, 1, 8, 8), dtype=torch.uint8)
    images[3] = 200
    titles = ["zero", "one", "two", "three", "a title much too long for so small a cell"]
    sheet = np.asarray(Image.open(io.BytesIO(contact_sheet(images, titles, columns=3, cell=64))))
    assert sheet.shape == (8 + 2 * (64 + 18 + 8), 8 + 3 * (64 + 8), 3)
    assert (sheet[8 + 90 : 8 + 90 + 64, 8 : 8 + 64] == 200).all()  # the fourth, second row, first
    assert (sheet[8 : 8 + 64, 8 : 8 + 64] == 0).all()
    assert (sheet[8 + 64 : 8 + 64 + 18, 8 : 8 + 64] < 128).any()  # its title
    assert (sheet[:, -8:] == 255).all()
    assert (sheet[8 + 90 + 64 :, 8 + 72 + 64 : 8 + 72 + 72] == 255).all()  # the long title is cut


def test_contact_sheet_of_arrays_of_many_sizes():
    arrays = [np.zeros((300, 100, 3), dtype=np.uint8), np.zeros((10, 20), dtype=np.uint8)]
    assert contact_sheet(arrays, ["high", "grey"]).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="2 images and 1 titles"):
        contact_sheet(arrays, ["high"])
    with pytest.raises(ValueError, match="uint8"):
        contact_sheet([np.zeros((4, 4))], ["float"])


def test_survey_of_photographs_without_labels(make):
    make.picture("a.png", (40, 50))
    make.picture("2024/b.png", (60, 50), seed=1)
    assert not survey(make.root / "2024")["usable"]
    found = survey(make.root, labelled=False)
    assert found["usable"]
    assert found["classes"] == []
    assert found["splits"]["all"]["images"] == 2
    assert found["splits"]["all"]["per_class"] == {}
    assert found["splits"]["all"]["width"] == {"min": 40, "median": 50.0, "max": 60}
