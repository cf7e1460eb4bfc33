"""Images with label maps: folders of pairs, ADE20K as it lies on disk, and shapes, built in.

A folder of pairs has `images/` and `masks/` (or `labels/` or `annotations/`), each with or without
`train/` and `val/` in it, or the other way round: `train/images/`, `train/masks/`. A mask has the
name of its image but for the suffix. Its numbers are the labels, from 0 on, and 255 means none; it
is a PNG or another image of grey levels, of 8 or 16 bits, or with a palette. Where labels are
written as colours, `classes.csv` has a line `name,red,green,blue` for each; a class called
`ignored` or `void` is none. Else `classes.txt` may have the names, a line each.
"""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from modicum.data.folders import (
    FileKind,
    Split,
    Tree,
    list_files,
    own_split,
    recognise_unlabelled,
    some,
)
from modicum.data.sample_set import BadFile
from modicum.engine.random import fold_keys
from modicum.errors import ConfigError, DataError
from modicum.images.check import check_images, with_reasons
from modicum.images.decode import SUFFIXES, image_size
from modicum.images.folders import IMAGES
from modicum.images.image_set import FileImages
from modicum.methods.tinymim.segmentation.pair_sets import (
    IGNORED,
    MOST_CLASSES,
    Coding,
    FilePairs,
    PairSet,
    sizes_differ,
)
from modicum.methods.tinymim.segmentation.shapes import shapes
from modicum.system.cache import cache_folder
from modicum.system.files import read_text, write_text
from modicum.system.progress import report_progress
from modicum.system.threads import Progress, in_threads, state_of_files

_MASKS = FileKind("mask", SUFFIXES)
MASK_FOLDERS = ("masks", "labels", "annotations")
_COLOUR_FILES = ("classes.csv", "class_dict.csv")
_NOT_CLASSES = frozenset({"ignored", "ignore", "void", "unlabelled", "unlabeled"})
_ADE20K_CLASSES = 150
_ADE20K_NAMES = "objectInfo150.txt"

log = logging.getLogger(__name__)


def open_pairs(
    source: str | Path,
    split: Split = "train",
    *,
    holdout: float = 0.1,
    skip_bad: bool = False,
    quiet: bool = True,
) -> PairSet:
    """Open one split of a folder of images with label maps, or of the built-in shapes.

    Every image and mask is decoded to check it, once for an unchanged folder. Where there is no
    split but for training, a share is held out, the same at every call; `val` and `test` stand in
    for each other.

    Args:
        source: A folder of pairs (see the module), `ade20k=FOLDER` for ADEChallengeData2016, or
            `shapes`. In ADE20K the number 0 means none, 1 to 150 are the labels 0 to 149.
        split: "train", "val" or "test".
        holdout: Share held out where the data has no split of its own for it. 0: none.
        skip_bad: Leave unusable pairs out, with a warning, rather than raise. They are listed in
            `PairSet.skipped`.
        quiet: Show no progress while files are checked.

    Raises:
        DataError: Nothing there, no known layout, no images, images without a mask, files that
            cannot be decoded, sizes of image and mask that differ, numbers that are no label, or
            fewer than two classes.
        ConfigError: `source`, `split` or `holdout` makes no sense.
    """
    if split not in ("train", "val", "test"):
        raise ConfigError(f"split: found {split!r}, expected 'train', 'val' or 'test'.")
    if source == "shapes":
        return shapes(split)
    found = recognise_pairs(source)
    root, own = found.tree.root, own_split(found.tree, split)
    undivided = set(found.masks) <= {"all", "train"}
    if undivided and split != "train" and not holdout:
        raise ConfigError(
            f"holdout: {root} has no {split} split, and with holdout=0 none is made. Give the "
            f"share to hold out, such as 0.1."
        )
    with report_progress(f"check {split} pairs", quiet=quiet) as progress:
        part = inspect_pairs(found, own, progress)
        if part.bad and not skip_bad:
            raise DataError(f"{root}: {summary(part, 'cannot be used')}")
        classes = found.classes or classes_in(found, {own: part}, progress)
    pairs = replace(part.pairs, classes=classes, skipped=part.bad)
    if part.bad:
        log.warning("%s: %s", root, summary(part, "are left out"))
    if not len(pairs):
        raise DataError(f"{root}: no usable pair is left. {summary(part, 'cannot be used')}")
    if undivided and holdout:
        if len(pairs) < 2:
            raise DataError(f"{root}: of one pair none can be held out. Add pairs, or a val/.")
        train, val = pairs.hold_out(holdout)
        pairs = train if split == "train" else val
    log.info("%s: %s; %s: %d pairs", root, pairs.layout, split, len(pairs))
    return pairs


@dataclass(frozen=True)
class PairTree:
    """A folder of pairs whose layout is known."""

    tree: Tree
    """Of the images: for each split the folder they are in."""
    masks: Mapping[str, Path]
    """For each split the folder of its masks."""
    coding: Coding
    classes: tuple[str, ...] | None
    """None: what the masks hold decides."""

    def pairs(self, split: str) -> tuple[FilePairs, tuple[BadFile, ...], list[str]]:
        """The pairs of a split, images without one, and names of masks without an image.

        Raises:
            DataError: There are no images or no masks, or two masks for an image.
        """
        root = self.tree.root
        images = list_files(self.tree, split)
        masks = list_files(Tree(root, "", (), (), self.masks, _MASKS), split)
        mask_of: dict[str, str] = {}
        for name in masks.names:
            stem = _stem(root / name, self.masks[split])
            if stem in mask_of:
                raise DataError(
                    f"{root}: both {mask_of[stem]} and {name} could be the mask of {stem}. Remove "
                    f"or rename one of them."
                )
            mask_of[stem] = name
        stems = {name: _stem(root / name, self.tree.splits[split]) for name in images.names}
        names = [name for name, stem in stems.items() if stem in mask_of]
        bad = [*images.bad, *masks.bad]
        for name, stem in stems.items():
            if stem not in mask_of:
                mask = self.masks[split] / f"{stem}.png"
                reason = f"there is no mask for it, expected {mask}. Add it, or remove the image."
                bad.append(BadFile(name, reason))
        paired = np.array([mask_of[stems[name]] for name in names], np.str_)
        pairs = FilePairs(
            self.classes or (), torch.empty(len(names), 0), np.array(names, np.str_),
            self.tree.layout, root, paired, self.coding,
        )  # fmt: skip
        alone = set(mask_of) - set(stems.values())
        return pairs, tuple(bad), sorted(mask_of[stem] for stem in alone)


def _stem(path: Path, folder: Path) -> str:
    return os.path.splitext(path.relative_to(folder).as_posix())[0]


def recognise_pairs(source: str | Path) -> PairTree:
    """Find out how a folder of pairs is laid out, without reading images.

    Args:
        source: A folder, or `ade20k=FOLDER`. ADE20K is also known by its objectInfo150.txt.

    Raises:
        DataError: There is no such folder, it is of no known layout, or its list of classes cannot
            be read.
        ConfigError: A name that is not known, or one without a folder.
    """
    name, named, place = str(source).partition("=")
    ade20k = name.casefold() == "ade20k"
    root = Path(place if named and ade20k else source)
    if not root.exists() and ade20k and not named:
        raise ConfigError(f"{source}: say where it lies: {source}=FOLDER. Nothing is downloaded.")
    if not root.exists() and named and not ade20k and "/" not in name:
        raise ConfigError(
            f"{source}: there is no data set {name!r}; known are shapes and ade20k=FOLDER. A "
            f"folder of your own is given without a name."
        )
    splits = recognise_unlabelled(root, IMAGES).splits
    images, masks = _one_of(root, ("images",)), _one_of(root, MASK_FOLDERS)
    if images and masks:
        inside = recognise_unlabelled(images, IMAGES).splits
        pairs = {
            split: (folder, masks if split == "all" else masks / folder.name)
            for split, folder in inside.items()
        }
    else:
        pairs = {
            split: (_one_of(folder, ("images",)), _one_of(folder, MASK_FOLDERS))
            for split, folder in splits.items()
        }
    unmasked = pairs.get("test", (None, root))[1]
    if len(pairs) > 1 and (unmasked is None or not unmasked.is_dir()):
        del pairs["test"]  # as it is often published
    image_folders: dict[str, Path] = {}
    mask_folders: dict[str, Path] = {}
    for split, (image_folder, mask_folder) in pairs.items():
        if image_folder is None or mask_folder is None:
            there = sorted(path.name for path in splits[split].iterdir() if path.is_dir())
            raise DataError(
                f"{root}: expected images/ and masks/ (or labels/ or annotations/), both with the "
                f"same train/ and val/ in them or without, or both in train/ and in val/; the "
                f"folders found are {some(there)}. Arrange the files so."
            )
        if not mask_folder.is_dir():
            raise DataError(f"{mask_folder}: expected the masks of {image_folder} here. Add them.")
        image_folders[split], mask_folders[split] = image_folder, mask_folder
    if ade20k or (root / _ADE20K_NAMES).is_file():
        layout, coding = "ADE20K, 150 classes", Coding((IGNORED, *range(_ADE20K_CLASSES)))
        classes = _ade20k_classes(root / _ADE20K_NAMES)
    else:
        below = (folder.relative_to(root).as_posix() for folder in image_folders.values())
        layout = "images with masks in " + " and ".join(f"{folder}/" for folder in below)
        classes, coding = _listed_classes(root)
    tree = Tree(root, layout, (), (), image_folders, IMAGES)
    return PairTree(tree, mask_folders, coding, classes)


def _one_of(folder: Path, names: Sequence[str]) -> Path | None:
    """The subfolder of one of these names, in any case.

    Raises:
        DataError: There are several.
    """
    there = sorted(path for path in folder.iterdir() if path.name.casefold() in names)
    there = [path for path in there if path.is_dir()]
    if len(there) > 1:
        listed = " and ".join(f"{path.name}/" for path in there)
        raise DataError(f"{folder}: {listed} could both be meant. Rename or remove one of them.")
    return there[0] if there else None


def _ade20k_classes(path: Path) -> tuple[str, ...]:
    """The first word of each class in the list that comes with ADE20K, else numbers from 1 on."""
    if not path.is_file():
        return tuple(map(str, range(1, _ADE20K_CLASSES + 1)))
    rows = [line.split("\t") for line in read_text(path).splitlines()[1:] if line.strip()]
    if [row[0].strip() for row in rows] != [str(n + 1) for n in range(_ADE20K_CLASSES)]:
        raise DataError(
            f"{path}: expected a line of names and a line for each of {_ADE20K_CLASSES} classes, "
            f"number first, name last, with tabs between; found {len(rows)}. Unpack the archive "
            f"again."
        )
    full = [row[-1].strip() for row in rows]
    short = [name.split(",")[0].split(";")[0].strip() for name in full]
    return tuple(
        name if short.count(name) == 1 else whole for name, whole in zip(short, full, strict=True)
    )


def _listed_classes(root: Path) -> tuple[tuple[str, ...] | None, Coding]:
    """What classes.csv or classes.txt says."""
    for path in (root / name for name in _COLOUR_FILES):
        if path.is_file():
            return _classes_of_colours(path)
    path = root / "classes.txt"
    if not path.is_file():
        return None, Coding()
    names = tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
    return _checked(names, path), Coding(tuple(range(len(names))))


def _classes_of_colours(path: Path) -> tuple[tuple[str, ...], Coding]:
    names, labels, colours = list[str](), list[int](), list[tuple[int, int, int]]()
    for number, row in enumerate(csv.reader(read_text(path).splitlines()), 1):
        cells = [cell.strip() for cell in row]
        levels = [int(cell) for cell in cells[1:] if cell.isdecimal() and int(cell) < 256]
        if number == 1 and not levels:
            continue  # what the columns are called
        if len(cells) != 4 or len(levels) != 3 or not cells[0]:
            raise DataError(
                f"{path}, line {number}: expected name,red,green,blue with levels from 0 to 255, "
                f"found {','.join(row)[:80]!r}."
            )
        if cells[0].casefold() in _NOT_CLASSES:
            labels.append(IGNORED)
        else:
            labels.append(len(names))
            names.append(cells[0])
        colours.append((levels[0], levels[1], levels[2]))
    if len(set(colours)) < len(colours):
        raise DataError(f"{path}: two classes have the same colour. Give each its own.")
    return _checked(tuple(names), path), Coding(tuple(labels), tuple(colours))


def _checked(names: tuple[str, ...], path: Path) -> tuple[str, ...]:
    if not 2 <= len(names) <= MOST_CLASSES or len(set(names)) < len(names):
        raise DataError(
            f"{path}: expected 2 to {MOST_CLASSES} classes of different names, found {len(names)}, "
            f"{len(set(names))} of them different."
        )
    return names


class PairLook(NamedTuple):
    """What is seen of a pair that is decoded."""

    height: int = 0
    width: int = 0
    pixels: Sequence[tuple[int, int]] = ()
    """(label, number of pixels) of the labels that are there, `IGNORED` among them."""
    reason: str | None = None
    """Why its mask cannot be used."""


@dataclass(frozen=True)
class Inspected:
    """The pairs of a split, looked at."""

    pairs: FilePairs
    """The good ones."""
    looks: Sequence[PairLook]
    """Of each of them."""
    bad: tuple[BadFile, ...]
    alone: Sequence[str]
    """Masks without an image."""


def inspect_pairs(found: PairTree, split: str, progress: Progress | None = None) -> Inspected:
    """Decode all pairs of a split; what is seen is remembered as long as no file changes.

    Raises:
        DataError: There are no images or no masks, or two masks for an image.
    """
    pairs, missing, alone = found.pairs(split)
    images = FileImages((), pairs.labels, pairs.names, pairs.layout, pairs.root)
    unreadable = check_images(images, progress=progress).bad
    looks = _looked_at(pairs, progress)
    bad = (*missing, *unreadable, *with_reasons(pairs.masks, [look.reason for look in looks]))
    names = {file.name for file in bad}
    good = [
        number
        for number, (image, mask) in enumerate(zip(pairs.names, pairs.masks, strict=True))
        if image not in names and mask not in names
    ]
    kept = pairs.subset(np.array(good, np.int64))
    return Inspected(kept, [looks[number] for number in good], bad, alone)


def _looked_at(pairs: FilePairs, progress: Progress | None) -> list[PairLook]:
    state = state_of_files([pairs.root / name for name in pairs.files])
    kept = cache_folder() / "segmentation" / f"{state}-{fold_keys(repr(pairs.coding)):x}.json"
    try:
        looks = [PairLook(*look) for look in json.loads(kept.read_text(encoding="utf-8"))]
        if len(looks) == len(pairs):
            return looks
    except (OSError, ValueError, TypeError):
        pass  # not there, or of another version: look again
    looks = in_threads(lambda number: _look(pairs, number), range(len(pairs)), progress)
    try:
        write_text(kept, json.dumps(looks))
    except OSError as error:
        log.info("what was seen of the masks is not kept in %s: %s", cache_folder(), error)
    return looks


def _look(pairs: FilePairs, number: int) -> PairLook:
    mask = pairs.root / str(pairs.masks[number])
    try:
        labels = pairs.coding.read(mask)
    except DataError as error:
        return PairLook(reason=str(error).removeprefix(f"{mask}: "))
    height, width = labels.shape
    try:
        reason = sizes_differ(image_size(pairs.root / str(pairs.names[number])), labels.shape)
    except DataError:
        reason = None  # told of with the images
    counts = np.bincount(labels.ravel(), minlength=256)
    seen = [(label, int(counts[label])) for label in np.flatnonzero(counts).tolist()]
    return PairLook(height, width, seen, reason)


def classes_in(
    found: PairTree, inspected: Mapping[str, Inspected], progress: Progress | None = None
) -> tuple[str, ...]:
    """Names for the labels that the masks of all splits hold, from 0 to the highest: numbers.

    Args:
        found: A folder of pairs.
        inspected: By split, what is known already.
        progress: See `inspect_pairs`.

    Raises:
        DataError: There are fewer than two.
    """
    parts = [
        inspected[split] if split in inspected else inspect_pairs(found, split, progress)
        for split in found.masks
    ]
    labels = {label for part in parts for look in part.looks for label, _ in look.pixels}
    highest = max(labels - {IGNORED}, default=-1)
    if highest < 1:
        mend = (
            "255 is no class; if it marks one here, say so in classes.csv, such as "
            "background,0,0,0 and object,255,255,255."
            if IGNORED in labels
            else "Are these the right masks?"
        )
        raise DataError(
            f"{found.tree.root}: expected labels of two classes at least in the masks, found "
            f"{some(map(str, sorted(labels)))}. {mend}"
        )
    return tuple(map(str, range(highest + 1)))


def summary(part: Inspected, verdict: str) -> str:
    """How many pairs are bad, and the first of them."""
    shown = "; ".join(f"{name}: {reason}" for name, reason in part.bad[:5])
    more = f"; and {len(part.bad) - 5} more" if len(part.bad) > 5 else ""
    files = len(part.pairs) + len(part.bad)
    return f"{len(part.bad)} of {files} pairs {verdict}. {shown}{more}"
