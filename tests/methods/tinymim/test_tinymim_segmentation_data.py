"""Pairs of images and label maps: layouts, codings, what is wrong with them, what they hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modicum.cli import main
from modicum.data.sample_set import describe
from modicum.errors import ConfigError, DataError
from modicum.methods.tinymim.segmentation import data
from modicum.methods.tinymim.segmentation.data import open_pairs
from modicum.methods.tinymim.segmentation.pair_sets import IGNORED, FilePairs
from modicum.methods.tinymim.segmentation.shapes import shapes
from modicum.methods.tinymim.segmentation.survey import survey_pairs

SIZE = (6, 8)


def labels_of(number: int, classes: int = 3) -> np.ndarray:
    labels = (np.arange(48).reshape(SIZE) + number) % classes
    labels[0, 0] = IGNORED
    return labels.astype(np.uint8)


def save_image(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 100, np.uint8)).save(path)


def save_mask(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path)


def save_pairs(images: Path, masks: Path, count: int = 4, **how: int) -> None:
    for number in range(count):
        save_image(images / f"{number}.jpg")
        save_mask(masks / f"{number}.png", labels_of(number, **how))


@pytest.mark.parametrize(
    ("places", "counts"),
    [
        (("images:masks",), (9, 1)),
        (("Images:labels",), (9, 1)),
        (
            ("images/training:annotations/training", "images/validation:annotations/validation"),
            (10, 10),
        ),
        (("train/images:train/masks", "val/images:val/masks", "test/images:"), (10, 10)),
        (("images/deep/a:masks/deep/a",), (9, 1)),
    ],
)
def test_layouts(tmp_path: Path, places: tuple[str, ...], counts: tuple[int, int]):
    for place in places:
        images, _, masks = place.partition(":")
        if masks:
            save_pairs(tmp_path / images, tmp_path / masks, 10)
        else:
            save_image(tmp_path / images / "alone.png")
    for split, count in zip(("train", "val"), counts, strict=True):
        pairs = open_pairs(tmp_path, split)
        assert isinstance(pairs, FilePairs)
        assert len(pairs) == count
        assert pairs.classes == ("0", "1", "2")
        for number, name in enumerate(pairs.names):
            image, label_map = pairs.read(number)
            assert image.shape == (3, *SIZE)
            assert (label_map.numpy() == labels_of(int(Path(name).stem))).all()
        assert describe(x=pairs)["x"] == count
    if counts == (9, 1):
        both = {*open_pairs(tmp_path).names, *open_pairs(tmp_path, "val").names}
        assert len(both) == 10


def save_ade20k(root: Path, names: bool = True) -> None:
    save_image(root / "images/training/a.jpg")
    labels = np.arange(48, dtype=np.uint8).reshape(SIZE)
    labels[5, 7] = 150
    save_mask(root / "annotations/training/a.png", labels)
    save_image(root / "images/validation/b.jpg")
    save_mask(root / "annotations/validation/b.png", labels)
    if names:
        rows = [f"{n}\t0.1\t5\t5\t0\tthing {n}, object" for n in range(1, 149)]
        rows += ["149\t0\t0\t0\t0\tpole, bar", "150\t0\t0\t0\t0\tpole, stick"]
        text = "Idx\tRatio\tTrain\tVal\tStuff\tName\n" + "\n".join(rows) + "\n"
        (root / "objectInfo150.txt").write_text(text)


def test_ade20k(tmp_path: Path):
    save_ade20k(tmp_path)
    for source in (tmp_path, f"ade20k={tmp_path}"):
        pairs = open_pairs(source, "val")
        assert list(pairs.names) == ["images/validation/b.jpg"]
        assert pairs.classes[:2] == ("thing 1", "thing 2")
        assert pairs.classes[148:] == ("pole, bar", "pole, stick")
        labels = pairs.read(0).label_map.flatten().tolist()
        assert labels == [IGNORED, *range(46), 149]
    (tmp_path / "objectInfo150.txt").unlink()
    assert open_pairs(f"ADE20K={tmp_path}").classes == tuple(map(str, range(1, 151)))
    save_mask(tmp_path / "annotations/training/a.png", np.full(SIZE, 151, np.uint8))
    with pytest.raises(DataError, match=r"annotations/training/a\.png: column 0, row 0 is 151"):
        open_pairs(f"ade20k={tmp_path}")
    (tmp_path / "objectInfo150.txt").write_text("Idx\tName\n1\twall\n")
    with pytest.raises(DataError, match=r"objectInfo150\.txt: expected a line of names"):
        open_pairs(tmp_path)


def test_codings_of_masks(tmp_path: Path):
    labels = labels_of(0)
    palette = Image.fromarray(labels)
    palette.putpalette([7, 7, 7] * 256)
    (tmp_path / "masks").mkdir()
    palette.save(tmp_path / "masks/palette.png")
    save_mask(tmp_path / "masks/grey.tif", labels)
    save_mask(tmp_path / "masks/deep.png", labels.astype(np.uint16))
    for stem in ("palette", "grey", "deep"):
        save_image(tmp_path / f"images/{stem}.png")
    (tmp_path / "classes.txt").write_text("sky\nsea\nland\n\n")
    pairs = open_pairs(tmp_path, holdout=0)
    assert pairs.classes == ("sky", "sea", "land")
    assert all((pairs.read(number).label_map.numpy() == labels).all() for number in range(3))


def test_labels_as_colours(tmp_path: Path):
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 9, 255]], np.uint8)
    numbers = (np.arange(48) % 3).reshape(SIZE)
    save_image(tmp_path / "images/a.png")
    save_mask(tmp_path / "masks/a.png", colours[numbers])
    with pytest.raises(DataError, match=r"Say in classes\.csv"):
        open_pairs(tmp_path, holdout=0)
    (tmp_path / "classes.csv").write_text("name,r,g,b\nVoid, 0,0,0\nred,255,0,0\nblue,0,9,255\n")
    pairs = open_pairs(tmp_path, holdout=0)
    assert pairs.classes == ("red", "blue")
    assert (pairs.read(0).label_map.numpy() == np.array([IGNORED, 0, 1])[numbers]).all()


def test_foreground_of_255_can_be_a_class(tmp_path: Path):
    save_image(tmp_path / "images/a.png")
    save_mask(tmp_path / "masks/a.png", np.uint8(255) * (np.arange(48).reshape(SIZE) % 2 == 1))
    with pytest.raises(DataError, match=r"found 0, 255\. .*object,255,255,255"):
        open_pairs(tmp_path, holdout=0)
    (tmp_path / "classes.csv").write_text("background,0,0,0\nobject,255,255,255")
    labels = open_pairs(tmp_path, holdout=0).read(0).label_map
    assert (labels.flatten() == torch.arange(48) % 2).all()


def test_classes_are_those_of_all_splits(tmp_path: Path):
    save_pairs(tmp_path / "train/images", tmp_path / "train/masks", classes=2)
    save_pairs(tmp_path / "val/images", tmp_path / "val/masks", classes=5)
    assert open_pairs(tmp_path).classes == tuple("01234")


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda root: root.rename(root.with_name("away")), "there is no such folder"),
    "no layout": (lambda root: (root / "masks").rename(root / "truth"), "found are images, truth"),
    "two mask folders": (lambda root: (root / "labels").mkdir(), "labels/ and masks/ could both"),
    "no images": (
        lambda root: [path.unlink() for path in (root / "images").iterdir()],
        "there is no image below it",
    ),
    "no mask": (
        lambda root: (root / "masks/2.png").unlink(),
        r"1 of 4 pairs .*images/2\.jpg: .*Add",
    ),
    "two masks": (
        lambda root: save_mask(root / "masks/1.tif", labels_of(1)),
        "could be the mask of 1",
    ),
    "sizes": (
        lambda root: save_mask(root / "masks/1.png", np.zeros((3, 5), np.uint8)),
        r"masks/1\.png: the mask has 5 x 3 pixels, its image 8 x 6",
    ),
    "label": (
        lambda root: save_mask(root / "masks/1.png", np.full(SIZE, 3, np.uint8)),
        r"masks/1\.png: column 0, row 0 is 3, expected 0 to 2",
    ),
    "deep label": (
        lambda root: save_mask(root / "masks/1.png", np.full(SIZE, 256, np.uint16)),
        "column 0, row 0 is 256",
    ),
    "broken image": (
        lambda root: (root / "images/3.jpg").write_bytes(b"no image"),
        r"images/3\.jpg: not an image",
    ),
    "broken mask": (
        lambda root: (root / "masks/3.png").write_bytes(b"no image"),
        r"masks/3\.png: not an image",
    ),
    "jpeg mask": (
        lambda root: (root / "masks/3.png").write_bytes((root / "images/3.jpg").read_bytes()),
        "does not keep the numbers",
    ),
    "classes": (lambda root: (root / "classes.txt").write_text("a\nb\na\n"), "2 of them different"),
    "colours": (
        lambda root: (root / "classes.csv").write_text("a,0,0,0\nb,0,0,256\n"),
        r"classes\.csv, line 2: .*found 'b,0,0,256'",
    ),
    "same colours": (
        lambda root: (root / "classes.csv").write_text("a,0,0,0\nb,0,0,0\n"),
        "the same colour",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_pairs_are_named(tmp_path: Path, what: str):
    root = tmp_path / "pairs"
    save_pairs(root / "images", root / "masks")
    (root / "classes.txt").write_text("a\nb\nc\n")
    change, message = BAD[what]
    change(root)
    with pytest.raises(DataError, match=message):
        open_pairs(root)
    report = survey_pairs(root)
    assert not report["usable"]
    assert len(report["problems"]) == 1


def test_masks_of_a_split_that_are_not_there(tmp_path: Path):
    save_pairs(tmp_path / "images/train", tmp_path / "masks/train")
    save_image(tmp_path / "images/val/a.png")
    with pytest.raises(DataError, match="masks/val: expected the masks of"):
        open_pairs(tmp_path)


def test_names_and_splits_that_make_no_sense(tmp_path: Path):
    save_pairs(tmp_path / "images", tmp_path / "masks", 1)
    for source, message in (("ade20k", "ade20k=FOLDER"), ("coco=here", "no data set 'coco'")):
        with pytest.raises(ConfigError, match=message):
            open_pairs(source)
    with pytest.raises(ConfigError, match="has no val split"):
        open_pairs(tmp_path, "val", holdout=0)
    with pytest.raises(DataError, match="of one pair none can be held out"):
        open_pairs(tmp_path)


def test_bad_pairs_can_be_left_out(tmp_path: Path):
    save_pairs(tmp_path / "images", tmp_path / "masks", 5)
    (tmp_path / "masks/0.png").unlink()
    save_mask(tmp_path / "masks/1.png", np.zeros((2, 2), np.uint8))
    pairs = open_pairs(tmp_path, holdout=0, skip_bad=True)
    assert list(pairs.names) == [f"images/{number}.jpg" for number in (2, 3, 4)]
    assert [file.name for file in pairs.skipped] == ["images/0.jpg", "masks/1.png"]
    assert (pairs.read(0).label_map.numpy() == labels_of(2)).all()


def test_what_was_seen_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_pairs(tmp_path / "images", tmp_path / "masks")
    assert open_pairs(tmp_path).classes == ("0", "1", "2")

    def look(*_: object) -> None:
        raise AssertionError("looked again")

    monkeypatch.setattr(data, "_look", look)
    assert open_pairs(tmp_path).classes == ("0", "1", "2")
    save_mask(tmp_path / "masks/0.png", np.full(SIZE, 30, np.uint8))
    with pytest.raises(AssertionError, match="looked again"):
        open_pairs(tmp_path)


def test_files_that_change_after_they_were_checked(tmp_path: Path):
    save_pairs(tmp_path / "images", tmp_path / "masks")
    pairs = open_pairs(tmp_path, holdout=0)
    save_mask(tmp_path / "masks/0.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(DataError, match=r"masks/0\.png: the mask has 2 x 2 pixels"):
        pairs.read(0)


def test_shapes_are_the_same_and_show_their_labels():
    train, val = shapes("train"), shapes("val")
    assert torch.equal(train.images, shapes("train").images)
    assert torch.equal(shapes("train", count=5).label_maps, train.label_maps[:5])
    assert not torch.equal(train.images[:5], val.images[:5])
    shares = torch.bincount(train.label_maps.flatten(), minlength=256) / train.label_maps.numel()
    assert (shares[:4] > 0.03).all()
    assert 0.01 < shares[IGNORED] < 0.05
    # Shapes stand out from the ground by their saturation.
    low, high = train.images.amin(1).float(), train.images.amax(1).float()
    saturation = 1 - low / high.clamp(min=1)
    shown = (train.label_maps > 0) & (train.label_maps < 4)
    assert saturation[shown].mean() > 0.6
    assert saturation[train.label_maps == 0].mean() < 0.3


def test_survey_counts_pixels(tmp_path: Path):
    save_pairs(tmp_path / "train/images", tmp_path / "train/masks", 2, classes=2)
    save_image(tmp_path / "val/images/a.png", (2, 2))
    save_mask(tmp_path / "val/masks/a.png", np.array([[255, 255], [255, 0]], np.uint8))
    save_mask(tmp_path / "val/masks/alone.png", np.zeros((2, 2), np.uint8))
    report = survey_pairs(tmp_path)
    assert report["usable"]
    assert report["classes"] == ["0", "1"]
    train, val = report["splits"]["train"], report["splits"]["val"]
    # 48 pixels of two classes in turn, in the second image the other way round; one is ignored.
    assert train["pixels"] == pytest.approx({"0": 100 * 47 / 94, "1": 100 * 47 / 94})
    assert train["ignored"] == pytest.approx(100 / 48)
    assert train["images_with"] == {"0": 2, "1": 2}
    assert (train["images"], train["width"]["max"], train["height"]["min"]) == (2, 8, 6)
    assert val["pixels"] == {"0": 100, "1": 0}
    warnings = "\n".join(report["warnings"])
    for part in ("1 masks have no image", "1 of 2 classes are on no mask: 1", "75 % of all"):
        assert f"val: {part}" in warnings


def test_survey_of_the_shapes():
    report = survey_pairs("shapes")
    assert report["usable"]
    assert report["splits"]["val"]["images"] == 60
    assert sum(report["splits"]["train"]["pixels"].values()) == pytest.approx(100)


@pytest.mark.parametrize("place", ["{kind}/{split}", "{split}/{kind}", "{kind}"])
def test_the_verb_data_knows_pairs_by_their_folders(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            folder = tmp_path / place.format(kind=kind, split=split)
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(3):
                pixels = np.indices((20, 30)).sum(0) % 3
                shape = np.repeat(pixels[:, :, None], 3, 2) * 40 if kind == "images" else pixels
                picture = Image.fromarray((shape + number * (kind == "images")).astype(np.uint8))
                picture.save(folder / f"{split}{number}.png")
    assert main(["data", "tinymim", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["usable"]
    assert len(found["classes"]) == 3
    assert sum(part["images"] for part in found["splits"].values()) == 6
