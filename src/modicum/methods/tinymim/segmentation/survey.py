"""What is in a folder of images with label maps, before anything is trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modicum.data.folders import some
from modicum.data.sample_set import BadFile
from modicum.errors import ConfigError, DataError
from modicum.methods.tinymim.segmentation.data import (
    classes_in,
    inspect_pairs,
    recognise_pairs,
    summary,
)
from modicum.methods.tinymim.segmentation.pair_sets import IGNORED
from modicum.methods.tinymim.segmentation.shapes import shapes
from modicum.system.threads import Progress

_MOST_LISTED = 100


def survey_pairs(source: str | Path, *, progress: Progress | None = None) -> dict[str, Any]:
    """Describe images with label maps; nothing is raised for what is wrong with them.

    Args:
        source: As of `open_pairs`.
        progress: Called with (files done, files in all).

    Returns:
        A dict of plain values, ready for JSON:

        - `source`, `layout`, `usable` (bool: `open_pairs` would open it), `problems` (what keeps
          it from that) and `warnings`, both lists of sentences;
        - `classes`: names;
        - `splits`: by name, each with `images`, `width` and `height` (each `min`, `median`,
          `max`), `pixels` (class to percent of the labelled pixels), `images_with` (class to
          number of images), `ignored` (percent of all pixels that have no class), `unusable`
          (`count` and up to 100 `files` with `name` and `reason`).
    """
    report: dict[str, Any] = {
        "source": str(source), "layout": None, "usable": False, "problems": [], "warnings": [],
        "classes": [], "splits": {},
    }  # fmt: skip
    try:
        if source == "shapes":
            _survey_shapes(report)
        else:
            _survey_files(source, report, progress)
    except (ConfigError, DataError) as error:
        report["problems"].append(str(error))
    report["usable"] = not report["problems"]
    return report


def _survey_shapes(report: dict[str, Any]) -> None:
    for split in ("train", "val"):
        pairs = shapes(split)
        report["layout"], report["classes"] = pairs.layout, list(pairs.classes)
        counts = np.stack([np.bincount(one.flatten(), minlength=256) for one in pairs.label_maps])
        size = (pairs.images.shape[2], pairs.images.shape[3])
        report["splits"][split] = _described(pairs.classes, counts, [size] * len(pairs), ())


def _survey_files(source: str | Path, report: dict[str, Any], progress: Progress | None) -> None:
    found = recognise_pairs(source)
    report["layout"] = found.tree.layout
    parts = {split: inspect_pairs(found, split, progress) for split in found.masks}
    for split, part in parts.items():
        if part.bad:
            report["problems"].append(f"{split}: {summary(part, 'cannot be used')}")
        if part.alone:
            report["warnings"].append(
                f"{split}: {len(part.alone)} masks have no image and are left out: "
                f"{some(part.alone)}."
            )
    classes = found.classes or classes_in(found, parts)
    report["classes"] = list(classes)
    for split, part in parts.items():
        counts = np.zeros((len(part.looks), 256), np.int64)
        for row, look in enumerate(part.looks):
            counts[row, [label for label, _ in look.pixels]] = [n for _, n in look.pixels]
        sizes = [(look.height, look.width) for look in part.looks]
        report["splits"][split] = _described(classes, counts, sizes, part.bad)
        _warn(report, split)


def _described(
    classes: Sequence[str],
    counts: npt.NDArray[np.int64],
    sizes: Sequence[tuple[int, int]],
    bad: Sequence[BadFile],
) -> dict[str, Any]:
    """A split, of how many pixels of each image have each label, (images, 256)."""
    labelled, total = counts[:, : len(classes)].sum(axis=0), max(int(counts.sum()), 1)
    percent = 100 * labelled / max(int(labelled.sum()), 1)
    images_with = (counts[:, : len(classes)] > 0).sum(axis=0)
    sides = np.array(sizes or [(0, 0)])
    height, width = (
        {"min": int(side.min()), "median": float(np.median(side)), "max": int(side.max())}
        for side in sides.T
    )
    return {
        "images": len(counts),
        "height": height,
        "width": width,
        "pixels": dict(zip(classes, percent.tolist(), strict=True)),
        "images_with": dict(zip(classes, images_with.tolist(), strict=True)),
        "ignored": 100 * int(counts[:, IGNORED].sum()) / total,
        "unusable": {
            "count": len(bad),
            "files": [{"name": name, "reason": why} for name, why in bad[:_MOST_LISTED]],
        },
    }


def _warn(report: dict[str, Any], split: str) -> None:
    found, warnings = report["splits"][split], report["warnings"]
    absent = [name for name, count in found["images_with"].items() if not count]
    if absent:
        warnings.append(
            f"{split}: {len(absent)} of {len(report['classes'])} classes are on no mask: "
            f"{some(absent)}."
        )
    if found["ignored"] > 50:
        warnings.append(
            f"{split}: {found['ignored']:.0f} % of all pixels are 255, which is no class. If it "
            f"is meant as one, say so in classes.csv (name,red,green,blue)."
        )
    largest = max(found["pixels"], key=found["pixels"].__getitem__)
    if found["pixels"][largest] > 95:
        warnings.append(
            f"{split}: {found['pixels'][largest]:.1f} % of the labelled pixels are {largest}. "
            f"Look at the mean IoU rather than at the accuracy of pixels."
        )
