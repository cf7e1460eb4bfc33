from __future__ import annotations

import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from modicum.errors import DataError
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
    original = checking.upright_rgb

    def counted(image, path):
        decoded.append(path)
        return original(image, path)

    monkeypatch.setattr(checking, "upright_rgb", counted)
    return decoded


def test_thorough_check_is_done_once(files, count_decodes):
    first = check_images(files, thorough=True)  # open_images did it already
    assert first.remembered
    assert (first.count, first.bad, first.thorough) == (30, (), True)
    assert count_decodes == []
    files.path(3).write_bytes(files.path(3).read_bytes() + b"\0")
    again = check_images(files, thorough=True)
    assert not again.remembered
    assert count_decodes == [files.path(3)]


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
    make.picture("train/dog/scan.ppm")
    report = survey(make.root)
    assert not report["usable"]
    assert any("broken.jpg" in problem for problem in report["problems"])
    unreadable = report["splits"]["train"]["unreadable"]
    assert unreadable["count"] == 1
    assert unreadable["files"][0]["name"] == "train/dog/broken.jpg"
    assert report["duplicates"]["count"] == 1
    assert sorted(report["duplicates"]["groups"][0]) == ["train/cat/3.png", "val/cat/leaked.png"]
    warnings = " ".join(report["warnings"])
    for words in ("more than one split", "single image", "transparency", "1 .ppm", "12 pixels"):
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


def warned(make, **options) -> str:
    return "\n".join(survey(make.root, **options)["warnings"])


@pytest.mark.parametrize("splits", [("seg_train", "seg_test"), ("Fold 1", "Fold 2", "Fold 3")])
def test_splits_of_other_names_are_told(make, splits):
    for split in splits:
        make.tree(split, ["cat", "dog"], size=(40, 40))
    assert "hold folders of the same names (cat, dog)" in warned(make)


def test_folders_within_classes_are_no_splits(make):
    for name in ("cat", "dog"):
        for image in range(3):
            make.picture(f"{name}/images/{image}.png", (40, 40), seed=image + len(name + "c") * 9)
    make.picture("dog/images/9.png", (40, 40), seed=99)
    assert "same names" not in warned(make)


def test_a_folder_in_a_folder_is_told(make):
    make.tree("photos", ["cat", "dog"], size=(40, 40))
    assert f"give {make.root / 'photos'}" in warned(make)
    assert "cat, dog" in warned(make)


@pytest.mark.parametrize("name", ["training", "Dev", "testing"])
def test_usual_names_of_splits_are_understood(make, name):
    make.tree("train" if name != "training" else "val", ["cat", "dog"])
    make.tree(name, ["cat", "dog"])
    assert survey(make.root)["classes"] == ["cat", "dog"]


def test_images_of_no_class_are_told(make):
    make.tree("train", ["cat", "dog"], size=(40, 40))
    make.tree("val", ["cat", "dog"], count=3, size=(41, 40))
    for place in ("loose.jpg", "train/loose.jpg", "extra/deep/loose.jpg"):
        make.picture(place)
    assert "3 images belong to no class" in warned(make)
    assert "extra/deep/loose.jpg, loose.jpg, train/loose.jpg" in warned(make)


def test_copies_are_told_wherever_they_matter(make):
    make.tree("", ["cat", "dog"], count=10, size=(40, 40))
    with Image.open(make.root / "cat/3.png") as picture:
        picture.save(make.root / "dog/copy.bmp")
    assert "1 image has copies in more than one class" in warned(make, holdout=0)
    assert "cat/3.png, dog/copy.bmp" in warned(make, holdout=0)
    _, val = open_images(make.root, "train"), open_images(make.root, "val")
    name = next(name for name in val.names if name.startswith("cat"))
    copy = next(
        f"cat/copy{n}.png" for n in range(99) if is_trained_on(make, name, f"cat/copy{n}.png")
    )
    assert f"partly held out and partly trained on, the first as {name}, {copy}" in warned(make)
    assert survey(make.root)["duplicates"]["count"] == 2


def is_trained_on(make, original: str, name: str) -> bool:
    shutil.copy(make.root / original, make.root / name)
    if original in open_images(make.root, "val").names and name in open_images(make.root).names:
        return True
    (make.root / name).unlink()
    return False


def test_12_bits_in_16_are_told(make):
    make.tree("", ["cat", "dog"], size=(40, 40))
    levels = np.random.default_rng(0).integers(0, 4096, (40, 40)).astype(np.uint16)
    Image.fromarray(levels).save(make.root / "cat" / "deep.png")
    Image.fromarray(levels).save(make.root / "dog" / "deep.tif")
    assert "2 images of 16-bit grey with levels up to" in warned(make)
    assert "of 12 bits, multiply them by 16" in warned(make)


def test_a_class_with_one_image_is_told(make):
    make.tree("", ["cat", "dog"], count=1, size=(40, 40))
    assert "2 of 2 classes have a single image, such as cat; nothing of them" in warned(make)
    with pytest.raises(DataError, match="no class has two images"):
        open_images(make.root, "val")


def test_pictures_that_are_not_read_are_named(make):
    make.tree("", ["cat", "dog"], size=(40, 40))
    (make.root / "cat" / "raw.nef").write_bytes(b"")
    assert "1 .nef" in warned(make)


def test_runs_in_the_data_are_no_classes(make):
    make.tree("", ["cat", "dog"], size=(40, 40))
    for run in ("runs/vgnet-1", "result"):
        (make.root / run).mkdir(parents=True)
        (make.root / run / ".lock").touch()
    assert survey(make.root)["classes"] == ["cat", "dog"]
    assert survey(make.root)["usable"]
