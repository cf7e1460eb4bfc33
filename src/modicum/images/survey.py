"""What is in a folder of images, before anything is trained on it."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from modicum.data.folders import recognise_unlabelled, remarks, some
from modicum.errors import DataError
from modicum.images.check import THOROUGH_UP_TO, Look, look_at, with_reasons
from modicum.images.decode import FORMATS
from modicum.images.folders import IMAGES, AnnotatedTree, list_files, recognise
from modicum.images.image_set import MemoryImages
from modicum.images.published import find_cifar
from modicum.images.sources import available_splits, files_of, open_images
from modicum.system.terminal import ByName, counted
from modicum.system.threads import Progress

_MOST_LISTED = 100
_IMBALANCE = 10
_SMALLEST_SIDE = 32


def survey(
    source: str | Path,
    *,
    labelled: bool = True,
    holdout: float = 0.1,
    whole: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Describe a folder of images, or the built-in digits; nothing is raised for what is wrong.

    Every file is decoded, once as long as it does not change.

    Args:
        source: As of `open_images`.
        labelled: The same; without labels there are no classes.
        holdout: The same.
        whole: Decode the files of sets of any size; otherwise of more than `THOROUGH_UP_TO` only
            their places are looked at.
        progress: Called with (files done, files in all).

    Returns:
        A dict of plain values, ready for JSON:

        - `source`, `layout`, `usable` (bool: `open_images` would open it), `problems` (what keeps
          it from that) and `warnings`, both lists of sentences;
        - `classes`: names;
        - `splits`: by name, each with `images`, `per_class` (class to count), `width` and `height`
          (each `min`, `median`, `max`), `formats` and `modes` (name to count), `transparent`
          (count), `ignored` (suffix to count of files that are no images), `unreadable` (`count`
          and a list of up to 100 `files` with `name` and `reason`);
        - `duplicates`: groups of images with the same pixels in more than one split, in more than
          one class, or of which a part is held out: `count` and up to 100 `groups` of names.
    """
    report: dict[str, Any] = {
        "source": str(source),
        "layout": None,
        "usable": False,
        "problems": [],
        "warnings": [],
        "classes": [],
        "splits": {},
        "duplicates": {"count": 0, "groups": []},
    }
    try:
        if source == "digits" or find_cifar(Path(source)) is not None:
            _survey_arrays(source, report)
        else:
            _survey_files(Path(source), labelled, holdout, whole, report, progress)
    except DataError as error:
        report["problems"].append(str(error))
    report["usable"] = not report["problems"]
    return report


class _Place(NamedTuple):
    """Where an image is that may be a copy."""

    name: str
    split: str
    label: int
    held_out: bool = False


def _survey_files(
    root: Path,
    labelled: bool,
    holdout: float,
    whole: bool,
    report: dict[str, Any],
    progress: Progress | None,
) -> None:
    tree = recognise(root) if labelled else recognise_unlabelled(root, IMAGES)
    report["layout"], report["classes"] = tree.layout, list(tree.classes)
    if labelled and not isinstance(tree, AnnotatedTree):
        report["warnings"] += remarks(tree)
    copies: dict[str, list[_Place]] = defaultdict(list)
    divided = not set(tree.splits) <= {"all", "train"}
    for split in tree.splits:
        try:
            listing = list_files(tree, split)
        except DataError as error:
            report["problems"].append(str(error))
            continue
        files = files_of(tree, listing)
        paths = [files.path(number) for number in range(len(files))]
        looked = whole or len(paths) <= THOROUGH_UP_TO
        looks = look_at(paths, progress) if looked else [Look()] * len(paths)
        bad = (*listing.bad, *with_reasons(listing.names, [look.reason for look in looks]))
        labels = np.array(listing.labels, np.int64)
        out = np.zeros(len(paths), np.bool_)
        if not divided and 0 < holdout < 1:
            out = files.held_out(holdout)
        places = zip(
            looks, listing.names, listing.labels or out.tolist(), out.tolist(), strict=True
        )
        for look, name, label, away in places:
            if look.digest:
                copies[look.digest].append(_Place(name, split, label, bool(away)))
        good = [look for look in looks if look.digest]
        report["splits"][split] = _described(tree.classes, labels, good) | {
            "images": len(files),
            "ignored": ByName(listing.ignored),
            "unreadable": {
                "count": len(bad),
                "files": [{"name": name, "reason": why} for name, why in bad[:_MOST_LISTED]],
            },
        }
        if bad:
            report["problems"].append(
                f"{split}: {len(bad)} of {len(files)} files cannot be used, the first is "
                f"{bad[0][0]}: {bad[0][1]}"
            )
        _warn(report, split, good, divided)
    _report_copies(report, copies.values())


def _survey_arrays(source: str | Path, report: dict[str, Any]) -> None:
    copies: dict[bytes, list[_Place]] = defaultdict(list)
    for split in available_splits(source):
        images = open_images(source, split)
        assert isinstance(images, MemoryImages)
        report["layout"], report["classes"] = images.layout, list(images.classes)
        height, width = images.images.shape[-2:]
        look = Look(width, height, mode="L" if images.channels == 1 else "RGB")
        labels, looks = images.labels.numpy(), [look] * len(images)
        report["splits"][split] = _described(images.classes, labels, looks)
        _warn(report, split, looks, divided=True)
        arrays = zip(images.names, labels.tolist(), images.images.numpy(), strict=True)
        for name, label, pixels in arrays:
            digest = hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()
            copies[digest].append(_Place(str(name), split, label))
    _report_copies(report, copies.values())


def _described(
    classes: Sequence[str], labels: npt.NDArray[np.int64], good: Sequence[Look]
) -> dict[str, Any]:
    """A split of which all that was looked at is good."""
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    return {
        "images": len(good),
        "per_class": ByName(zip(classes, counts, strict=True)),
        "width": _spread([look.width for look in good]),
        "height": _spread([look.height for look in good]),
        "formats": dict(Counter(look.format for look in good if look.format)),
        "modes": dict(Counter(look.mode for look in good)),
        "transparent": sum(look.transparent for look in good),
        "ignored": {},
        "unreadable": {"count": 0, "files": []},
    }


def _warn(report: dict[str, Any], split: str, good: Sequence[Look], divided: bool) -> None:
    found = report["splits"][split]
    warnings: list[str] = report["warnings"]
    counts: dict[str, int] = found["per_class"]
    if len(counts) == 1 and not any("one class only" in warning for warning in warnings):
        warnings.append(
            f"{split}: there is one class only, {next(iter(counts))}. Is this the folder that "
            f"holds the class folders?"
        )
    singles = [name for name, count in counts.items() if count == 1]
    if singles:
        warnings.append(
            f"{split}: {len(singles)} of {len(counts)} classes have a single image, such as "
            f"{singles[0]}"
            + ("." if divided else "; nothing of them is held out to score the network on.")
        )
    if counts and max(counts.values()) > _IMBALANCE * max(1, min(counts.values())):
        warnings.append(
            f"{split}: the largest class has {counted(max(counts.values()), 'image')}, the "
            f"smallest {min(counts.values())}. Report accuracy per class, too."
        )
    if found["transparent"]:
        warnings.append(
            f"{split}: {counted(found['transparent'], 'image')} with transparency, which is "
            f"dropped: what is below a transparent pixel appears."
        )
    narrowest = min(found["width"]["min"], found["height"]["min"])
    if 0 < narrowest < _SMALLEST_SIDE:
        warnings.append(
            f"{split}: the smallest image has a side of {narrowest} pixels; most networks need "
            f"{_SMALLEST_SIDE} at least and will enlarge it."
        )
    deep = [look.brightest for look in good if look.brightest is not None]
    if deep and 0 < max(deep) < 1 << 13:
        warnings.append(
            f"{split}: {counted(len(deep), 'image')} of 16-bit grey with levels up to "
            f"{max(deep):,} of 65,535, so nearly black. If the levels are of "
            f"{max(deep).bit_length()} bits, multiply them by "
            f"{1 << 16 - max(deep).bit_length()} and save them again."
        )
    pictures = {suffix: n for suffix, n in found["ignored"].items() if suffix in _OTHER_PICTURES}
    if pictures:
        listed = ", ".join(f"{count:,} {suffix}" for suffix, count in pictures.items())
        plugin = "" if _WITH_PLUGIN.isdisjoint(pictures) else ", or: pip install 'modicum[heif]'"
        warnings.append(
            f"{split}: pictures of formats that are not read are ignored: {listed}. Read are "
            f"{', '.join(FORMATS)}. Export them as JPEG or PNG{plugin}."
        )


_WITH_PLUGIN = frozenset({".heic", ".heif", ".avif"})
_OTHER_PICTURES = _WITH_PLUGIN | {
    ".jp2", ".jxl", ".ppm", ".pgm", ".npy", ".svg", ".tga", ".psd", ".dng", ".cr2", ".nef", ".dcm"
}  # fmt: skip


def _spread(values: Sequence[int]) -> dict[str, float]:
    if not values:
        return {"min": 0, "median": 0, "max": 0}
    return {"min": min(values), "median": float(np.median(values)), "max": max(values)}


def _report_copies(report: dict[str, Any], found: Iterable[Sequence[_Place]]) -> None:
    """Tell of images that are in places which should share none."""
    groups = [places for places in found if len(places) > 1]
    advice = "Scores would be too good; remove all but one of each."
    kinds = {
        "in more than one split": (lambda place: place.split, advice),
        "in more than one class": (lambda place: place.label, "Keep each in the class it shows."),
        "partly held out and partly trained on": (lambda place: place.held_out, advice),
    }
    told: dict[int, list[str]] = {}
    for kind, (where, mend) in kinds.items():
        leaks = [places for places in groups if len({where(place) for place in places}) > 1]
        told |= {id(places): [place.name for place in places] for places in leaks}
        if leaks:
            names = some((place.name for place in leaks[0]), 4)
            report["warnings"].append(
                f"{counted(len(leaks), 'image has', 'images have')} copies {kind}, the first as "
                f"{names}. {mend}"
            )
    report["duplicates"] = {"count": len(told), "groups": [*told.values()][:_MOST_LISTED]}
