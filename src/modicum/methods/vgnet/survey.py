"""What an image folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tyro

from modicum import images
from modicum.system.files import atomic_write
from modicum.system.progress import report_progress

DATASETS = images.DATASETS | {
    "your own": "a folder a class, with or without train/ and val/ above them",
}


def data(path: tyro.conf.Positional[str], sheet: Path | None = None) -> dict[str, Any]:
    """Say what an image folder holds: layout, classes, sizes, unreadable files.

    Args:
        path: A folder a class, with or without train/ and val/; CIFAR or tiny-imagenet as
            distributed; or `digits`.
        sheet: PNG file to write: a contact sheet with images of every class.
    """
    with report_progress("look at images") as progress:
        found = images.survey(path, progress=progress)
    if sheet is None or not found["usable"]:
        return found
    with atomic_write(sheet) as file:
        file.write(sample_sheet(images.open_images(path)))
    return found | {"sheet": str(sheet)}


def sample_sheet(image_set: images.ImageSet, shown: int = 60) -> bytes:
    """A contact sheet (PNG) of about `shown` images: the first ones of every class in turn."""
    labels = image_set.labels.numpy()
    rank = np.zeros(len(labels), dtype=np.int64)
    for label in range(len(image_set.classes)):
        members = np.flatnonzero(labels == label)
        rank[members] = np.arange(len(members))
    chosen = np.lexsort((labels, rank))[:shown]
    crop = images.ResizeCentreCrop(128, 128)
    pixels = image_set.read(chosen, crop, images.SampleRandom(0, 0, chosen))
    return images.contact_sheet(pixels, [image_set.classes[label] for label in labels[chosen]])
