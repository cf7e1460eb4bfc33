"""What is in a folder of images, before anything is trained on it."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from modicum.data.folders import recognise_unlabelled
from modicum.errors import DataError
from modicum.images.check import what_is_wrong, with_reasons
from modicum.images.decode import opened
from modicum.images.folders import IMAGES, list_files, recognise
from modicum.images.image_set import MemoryImages
from modicum.images.published import find_cifar
from modicum.images.sources import available_splits, files_of, open_images
from modicum.system.threads import Progress, in_threads

_MOST_LISTED = 100
_IMBALANCE = 10
_SMALLEST_SIDE = 32


def survey(
    source: str | Path, *, labelled: bool = True, progress: Progress | None = None
) -> dict[str, Any]:
    """Describe a folder of images, or the built-in digits; nothing is raised for what is wrong.

    Every file is decoded. `source` and `labelled` are as of `open_images`; without labels there are
    no classes. `progress` is called with (files done, files in all).

    Returns:
        A dict of plain values, ready for JSON:

        - `source`, `layout`, `usable` (bool: `open_images` would open it), `problems` (what keeps
          it from that) and `warnings`, both lists of sentences;
        - `classes`: names;
        - `splits`: by name, each with `images`, `per_class` (class to count), `width` and `height`
          (each `min`, `median`, `max`), `formats` and `modes` (name to count), `transparent`
          (count), `ignored` (suffix to count of files that are no images), `unreadable` (`count`
          and a list of up to 100 `files` with `name` and `reason`);
        - `duplicates`: groups of files with the same bytes in more than one split (a leak): `count`
          and up to 100 `groups` of names.
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
            _survey_files(Path(source), labelled, report, progress)
    except DataError as error:
        report["problems"].append(str(error))
    report["usable"] = not report["problems"]
    return report


class _Look(NamedTuple):
    """One file, looked at."""

    width: int
    height: int
    format: str
    mode: str
    transparent: bool
    reason: str | None


def _look(path: Path) -> _Look:
    try:
        with opened(path) as image:
            transparent = image.has_transparency_data
            look = _Look(*image.size, image.format or "", image.mode, transparent, None)
    except DataError as error:
        return _Look(0, 0, "", "", False, str(error).removeprefix(f"{path}: "))
    return look._replace(reason=what_is_wrong(path))


def _survey_files(
    root: Path, labelled: bool, report: dict[str, Any], progress: Progress | None
) -> None:
    tree = recognise(root) if labelled else recognise_unlabelled(root, IMAGES)
    report["layout"], report["classes"] = tree.layout, list(tree.classes)
    paths: dict[str, list[Path]] = {}
    for split in tree.splits:
        try:
            listing = list_files(tree, split)
        except DataError as error:
            report["problems"].append(str(error))
            continue
        files = files_of(tree, listing)
        paths[split] = [files.path(number) for number in range(len(files))]
        looks = in_threads(_look, paths[split], progress)
        bad = (*listing.bad, *with_reasons(listing.names, [look.reason for look in looks]))
        good = [look for look in looks if look.reason is None]
        labels = np.array(listing.labels, np.int64)
        report["splits"][split] = _described(tree.classes, labels, good) | {
            "images": len(files),
            "ignored": dict(listing.ignored),
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
        _warn(report, split)
    _find_shared(paths, root, report)


def _survey_arrays(source: str | Path, report: dict[str, Any]) -> None:
    seen: dict[bytes, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for split in available_splits(source):
        images = open_images(source, split)
        assert isinstance(images, MemoryImages)
        report["layout"], report["classes"] = images.layout, list(images.classes)
        height, width = images.images.shape[-2:]
        look = _Look(width, height, "", "L" if images.channels == 1 else "RGB", False, None)
        labels, looks = images.labels.numpy(), [look] * len(images)
        report["splits"][split] = _described(images.classes, labels, looks)
        _warn(report, split)
        for name, pixels in zip(images.names, images.images.numpy(), strict=True):
            seen[hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()][split].append(name)
    _report_duplicates(report, seen.values())


def _described(
    classes: Sequence[str], labels: npt.NDArray[np.int64], good: Sequence[_Look]
) -> dict[str, Any]:
    """A split of which all that was looked at is good."""
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    return {
        "images": len(good),
        "per_class": dict(zip(classes, counts, strict=True)),
        "width": _spread([look.width for look in good]),
        "height": _spread([look.height for look in good]),
        "formats": dict(Counter(look.format for look in good if look.format)),
        "modes": dict(Counter(look.mode for look in good)),
        "transparent": sum(look.transparent for look in good),
        "ignored": {},
        "unreadable": {"count": 0, "files": []},
    }


def _warn(report: dict[str, Any], split: str) -> None:
    found = report["splits"][split]
    warnings: list[str] = report["warnings"]
    counts: dict[str, int] = found["per_class"]
    if len(counts) == 1:
        warnings.append(
            f"{split}: there is one class only, {next(iter(counts))}. Is this the folder that "
            f"holds the class folders?"
        )
    singles = [name for name, count in counts.items() if count == 1]
    if singles:
        warnings.append(
            f"{split}: {len(singles)} classes have a single image, such as {singles[0]}; without "
            f"split folders none of it can be held out."
        )
    if counts and max(counts.values()) > _IMBALANCE * max(1, min(counts.values())):
        warnings.append(
            f"{split}: the largest class has {max(counts.values())} images, the smallest "
            f"{min(counts.values())}. Report accuracy per class, too."
        )
    if found["transparent"]:
        warnings.append(
            f"{split}: {found['transparent']} images have transparency, which is dropped: what is "
            f"below a transparent pixel appears."
        )
    narrowest = min(found["width"]["min"], found["height"]["min"])
    if 0 < narrowest < _SMALLEST_SIDE:
        warnings.append(
            f"{split}: the smallest image has a side of {narrowest} pixels; most networks need "
            f"{_SMALLEST_SIDE} at least and will enlarge it."
        )
    pictures = {suffix: n for suffix, n in found["ignored"].items() if suffix in _OTHER_PICTURES}
    if pictures:
        listed = ", ".join(f"{count} {suffix}" for suffix, count in pictures.items())
        warnings.append(f"{split}: pictures of formats that are not read are ignored: {listed}.")


_OTHER_PICTURES = frozenset(
    {".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".ppm", ".pgm", ".npy", ".svg", ".tga"}
)


def _spread(values: Sequence[int]) -> dict[str, float]:
    if not values:
        return {"min": 0, "median": 0, "max": 0}
    return {"min": min(values), "median": float(np.median(values)), "max": max(values)}


def _find_shared(paths: dict[str, list[Path]], root: Path, report: dict[str, Any]) -> None:
    """Report files with the same bytes in several splits; only files of the same size are read."""
    by_size: dict[int, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for split, files in paths.items():
        for path in files:
            if path.is_file():
                by_size[path.stat().st_size][split].append(path)
    seen: dict[bytes, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for splits in by_size.values():
        if len(splits) > 1:
            for split, files in splits.items():
                for path, digest in zip(files, in_threads(_digest, files), strict=True):
                    seen[digest][split].append(path.relative_to(root).as_posix())
    _report_duplicates(report, seen.values())


def _digest(path: Path) -> bytes:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).digest()


def _report_duplicates(report: dict[str, Any], seen: Iterable[dict[str, list[str]]]) -> None:
    groups = [
        [str(name) for names in splits.values() for name in names]
        for splits in seen
        if len(splits) > 1
    ]
    report["duplicates"] = {"count": len(groups), "groups": groups[:_MOST_LISTED]}
    if groups:
        report["warnings"].append(
            f"{len(groups)} images are in more than one split, the first as "
            f"{' and '.join(groups[0])}. Scores would be too good; remove one of each."
        )
