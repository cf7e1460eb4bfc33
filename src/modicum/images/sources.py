"""Opening images by path or name: which layout it is, which split is asked for."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from modicum.data.digits import read_digits
from modicum.data.folders import Listing, Split, Tree, own_split, recognise_unlabelled
from modicum.engine.random import permutation
from modicum.errors import ConfigError, DataError
from modicum.images.check import check_images, with_reasons
from modicum.images.decode import decode_image, image_size
from modicum.images.folders import IMAGES, list_files, recognise
from modicum.images.image_set import BadImage, FileImages, ImageSet, MemoryImages
from modicum.images.published import find_cifar, read_cifar
from modicum.system.progress import report_progress
from modicum.system.threads import Progress, in_threads

MEMORY_LIMIT = 2 * 2**30
"""Bytes of decoded images up to which files of one size are decoded once, into memory."""

_DIGITS_TRAIN = 1200

_WORTH_A_THREAD = 128 * 128
"""Pixels; with smaller images threads mostly wait for each other at Python's lock."""

log = logging.getLogger(__name__)


DATASETS = {
    "digits": "built in: 1,797 handwritten digits of scikit-learn, 8x8",
    "imagenet": "ILSVRC2012, registration at image-net.org: train/<wnid>/*.JPEG and "
    "val/<wnid>/*.JPEG (sort the official flat val/ into folders)",
    "cifar": "CIFAR-10 and CIFAR-100, cs.toronto.edu/~kriz/cifar.html: the unpacked python or "
    "binary version",
    "tiny-imagenet": "tiny-imagenet-200, cs231n.stanford.edu: the unpacked folder",
}
"""Sets of images by name, with where to get each and how it must lie on disk."""


def open_images(
    source: str | Path,
    split: Split = "train",
    *,
    labelled: bool = True,
    holdout: float = 0.1,
    skip_bad: bool = False,
    memory_limit: int = MEMORY_LIMIT,
    quiet: bool = True,
) -> ImageSet:
    """Open one split of a folder of images, or of the built-in digits.

    Read are class-per-folder trees with or without `train/` and `val|valid|validation|test/`
    folders (see `modicum.images.folders`), tiny-imagenet-200, and CIFAR-10 and CIFAR-100 as Python
    or binary batches. Every file is checked to be an image, once for an unchanged folder (see
    `check_images`); sets too large for that have the ends of their files checked, and the rest is
    found when a file is decoded. With several processes, let one open the set first.

    Which images a split has: those of its folder. Where there is a test but no validation split,
    or the other way round, both names mean the one there is, as it is usual for CIFAR and
    ImageNet; to choose anything by validation, use `ImageSet.hold_out` on the training images.
    Where there is neither, a share of each class is held out, the same at every call.

    Args:
        source: A folder; or "digits": scikit-learn's 1,797 handwritten digits of 8x8 pixels and 17
            grey levels, resized bilinearly to 32x32 with 1 channel, in a fixed random order of
            which the first 1,200 are for training and the other 597 for testing. (A folder of that
            name is "./digits".)
        split: "train", "val" or "test".
        labelled: False: labels are not needed. Any folder will do, with images in it or in folders
            however nested, or in `train/` and `val/` of that kind; labels that are there are left
            out.
        holdout: Share of each class (without labels: of all) held out where the data has
            no split of its own for it. 0: all images are for training.
        skip_bad: Leave unusable files out, with a warning, rather than raise. They are listed in
            `ImageSet.skipped`. Every file is then decoded to find them, in sets of any size.
        memory_limit: Files of one size that take at most so many bytes when decoded are held in
            memory, as digits and CIFAR are (`MemoryImages`); others are `FileImages`.
        quiet: Show no progress while files are decoded or checked.

    Raises:
        DataError: Nothing there, no known layout, classes that differ between splits, empty or
            doubled class folders, symbolic links out of the folder, or unusable files.
        ConfigError: `split` or `holdout` makes no sense.
    """
    if split not in ("train", "val", "test"):
        raise ConfigError(f"split: found {split!r}, expected 'train', 'val' or 'test'.")
    root = Path(source)
    if source == "digits" or find_cifar(root) is not None:
        arrays = _digits(split) if source == "digits" else _cifar(root, split)
        if labelled:
            return arrays
        return dataclasses.replace(arrays, classes=(), labels=torch.empty(len(arrays), 0))
    tree = recognise(root) if labelled else recognise_unlabelled(root, IMAGES)
    own = own_split(tree, split)
    listing = list_files(tree, own)
    files = files_of(tree, listing)
    if listing.bad and not skip_bad:
        raise _unusable(root, listing.bad, len(listing.names))
    if set(tree.splits) <= {"all", "train"} and holdout > 0:
        train, val = files.hold_out(holdout)
        if split != "train" and not len(val):
            raise DataError(
                f"{root}: no class has two images, so that none can be held out. Add images, or "
                f"divide the folder into train/ and val/."
            )
        files = train if split == "train" else val
    elif split != "train" and own in ("all", "train"):
        raise ConfigError(
            f"holdout: {root} has no {split} split, and with holdout={holdout} none is made. Give "
            f"the share to hold out, such as 0.1, or split the folder into train/ and val/."
        )
    log.info("%s: %s; %s: %d images", root, tree.layout, split, len(files))
    with report_progress(f"check {split} images", quiet=quiet) as progress:
        return _checked(files, listing.bad, skip_bad, memory_limit, progress)


def available_splits(source: str | Path) -> tuple[Split, ...]:
    """The splits that differ from each other: what `open_images` has more than a name for.

    A tree without splits has ("train", "val"), ImageNet too, CIFAR and digits ("train", "test").
    As `has_splits`, it raises a `DataError` for what is seen without listing the files.
    """
    own = _own_splits(source)
    if set(own) <= {"all", "train"}:
        return ("train", "val")
    order: tuple[Split, ...] = ("train", "val", "test")
    return tuple(split for split in order if split in own)


def has_splits(source: str | Path) -> bool:
    """Whether the data comes divided, rather than being one folder that `open_images` divides."""
    return set(_own_splits(source)) != {"all"}


def files_of(tree: Tree, listing: Listing) -> FileImages:
    """The listed files as an image set, unchecked."""
    names = np.array(listing.names, dtype=np.str_)
    labels = (
        torch.tensor(listing.labels, dtype=torch.int64)
        if tree.folders
        else torch.empty(len(names), 0)
    )
    return FileImages(tree.classes, labels, names, tree.layout, tree.root)


def _own_splits(source: str | Path) -> Iterable[str]:
    if source == "digits" or find_cifar(Path(source)) is not None:
        return ("train", "test")
    return recognise(Path(source)).splits


def _checked(
    files: FileImages,
    not_followed: Sequence[BadImage],
    skip_bad: bool,
    memory_limit: int,
    progress: Progress | None,
) -> ImageSet:
    """The files that can be used, in memory if they fit; an error for the others, or a warning."""
    images, bad = _into_memory(files, memory_limit, progress)
    if images is None:
        thorough = True if skip_bad else None
        bad = check_images(files, thorough=thorough, progress=progress).bad
    names = {name for name, _ in bad}
    good = np.array([number for number, name in enumerate(files.names) if name not in names])
    if bad and not skip_bad:
        raise _unusable(files.root, bad, len(files))
    kept = files if not bad else files.subset(good.astype(np.int64))
    skipped = (*not_followed, *bad)
    if skipped:
        gone = set(files.labels.flatten().tolist()) - set(kept.labels.flatten().tolist())
        if gone:
            classes = ", ".join(files.classes[label] for label in sorted(gone))
            raise DataError(
                f"{files.root}: no usable image is left of {classes}. "
                f"{_summary(skipped, len(files), 'cannot be used')}"
            )
        log.warning("%s: %s", files.root, _summary(skipped, len(files), "left out"))
    if images is None:
        return dataclasses.replace(kept, skipped=skipped)
    pixels = images if not bad else images[torch.from_numpy(good)]
    return MemoryImages(
        kept.classes, kept.labels, kept.names, kept.layout, pixels,
        skipped=skipped, read_from=kept.root,
    )  # fmt: skip


class _SizesDifferError(Exception):
    pass


def _into_memory(
    files: FileImages, memory_limit: int, progress: Progress | None
) -> tuple[torch.Tensor | None, tuple[BadImage, ...]]:
    """All images as one tensor (N,3,H,W), and those that cannot be decoded; None if too much."""
    size = _common_size(files)
    if size is None or len(files) * 3 * size[0] * size[1] > memory_limit:
        return None, ()
    pixels_of = np.zeros((len(files), 3, *size), dtype=np.uint8)

    def decode(number: int) -> str | None:
        path = files.path(number)
        try:
            pixels = decode_image(path)
        except DataError as error:
            return str(error).removeprefix(f"{path}: ")
        if pixels.shape[:2] != size:
            raise _SizesDifferError
        pixels_of[number] = pixels.transpose(2, 0, 1)
        return None

    try:
        threads = 1 if size[0] * size[1] < _WORTH_A_THREAD else None
        reasons = in_threads(decode, range(len(files)), progress, threads)
    except _SizesDifferError:
        return None, ()
    return torch.from_numpy(pixels_of), with_reasons(files.names, reasons)


def _common_size(files: FileImages, looked_at: int = 100) -> tuple[int, int] | None:
    """(height, width) if some files from all over the set agree in it."""
    sizes: set[tuple[int, int]] = set()
    for number in np.linspace(0, len(files) - 1, min(looked_at, len(files))).astype(int):
        with suppress(DataError):  # found and named later
            sizes.add(image_size(files.path(number)))
    return sizes.pop() if len(sizes) == 1 else None


def _unusable(root: Path, bad: Sequence[BadImage], count: int) -> DataError:
    return DataError(
        f"{root}: {_summary(bad, count, 'cannot be used')} --skip-bad leaves such files out."
    )


def _summary(bad: Sequence[BadImage], count: int, verdict: str) -> str:
    shown = "; ".join(f"{name}: {reason}" for name, reason in bad[:5])
    more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
    return f"{len(bad)} of {count} files {verdict}. {shown}{more}"


def _cifar(root: Path, split: Split) -> MemoryImages:
    cifar = find_cifar(root)
    assert cifar is not None
    kind, folder = cifar
    part = read_cifar(kind, folder, "train" if split == "train" else "test")
    labels, images = torch.from_numpy(part.labels), torch.from_numpy(part.images)
    return MemoryImages(part.classes, labels, np.array(part.names), kind.layout, images)


def _digits(split: Split) -> MemoryImages:
    pixels, digits = read_digits()
    order = permutation(len(digits), "digits")
    part = order[:_DIGITS_TRAIN] if split == "train" else order[_DIGITS_TRAIN:]
    small = torch.from_numpy(pixels[part]).view(-1, 1, 8, 8) * (255.0 / 16.0)
    images = torch.nn.functional.interpolate(small, size=(32, 32), mode="bilinear")
    classes, names = tuple(map(str, range(10))), np.array([f"digits/{number}" for number in part])
    labels, images = torch.from_numpy(digits[part]), images.round().to(torch.uint8)
    return MemoryImages(classes, labels, names, "built-in digits", images)
