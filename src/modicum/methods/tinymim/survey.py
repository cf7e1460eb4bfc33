"""What images hold, for each recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tyro

from modicum import images
from modicum.errors import ConfigError
from modicum.methods.tinymim.segmentation.data import MASK_FOLDERS
from modicum.methods.tinymim.segmentation.survey import survey_pairs
from modicum.system.files import atomic_write
from modicum.system.progress import report_progress

DATASETS = images.DATASETS | {
    "ade20k": "ADEChallengeData2016, sceneparsing.csail.mit.edu: ade20k=PATH of what was unpacked",
    "shapes": "built in: made-up pictures of discs, squares and triangles with label maps",
    "your own": "any folder of images to pre-train and distil; to fine-tune a folder a class, with "
    "or without train/ and val/ above them; to segment, images/ and masks/ with equal names",
}


def data(
    path: tyro.conf.Positional[str], labels: bool = True, sheet: Path | None = None
) -> dict[str, Any]:
    """Say what an image folder holds: layout, classes, sizes, unreadable files, shares of pixels.

    Args:
        path: Images, or `digits`; or pairs of images and masks, ade20k=PATH or `shapes`.
        labels: Look at images as fine-tuning does, with a folder a class; otherwise as mae and
            distil do, which need no labels.
        sheet: PNG file to write: a contact sheet of the first images.
    """
    if _has_masks(path):
        if sheet is not None:
            raise ConfigError("--sheet shows images without masks; leave it out for pairs.")
        with report_progress("look at pairs") as progress:
            return survey_pairs(path, progress=progress)
    with report_progress("look at images") as progress:
        found = images.survey(path, labelled=labels, progress=progress)
    if sheet is None or not found["usable"]:
        return found
    image_set = images.open_images(path, labelled=labels)
    count = min(len(image_set), 60)
    pictures = [image_set.picture(number) for number in range(count)]
    if not count:
        raise ConfigError(f"{path}: no images for a sheet.")
    with atomic_write(sheet) as file:
        file.write(images.contact_sheet(pictures, list(map(str, image_set.names[:count]))))
    return found | {"sheet": str(sheet)}


def _has_masks(path: str) -> bool:
    """Whether data is pairs of images and masks."""
    if path == "shapes" or path.startswith("ade20k="):
        return True
    root = Path(path)
    folders = [root, *(each for each in root.glob("*") if each.is_dir())]
    return any(
        (each / "images").is_dir() and any((each / name).is_dir() for name in MASK_FOLDERS)
        for each in folders
    )
