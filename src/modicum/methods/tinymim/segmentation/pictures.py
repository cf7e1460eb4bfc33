"""Label maps as pictures: with a palette, laid over photographs, side by side."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from modicum.images.sheet import contact_sheet
from modicum.methods.tinymim.segmentation.pair_sets import IGNORED

_GOLDEN = (5**0.5 - 1) / 2


def rgb_of_hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Hue, saturation and value, float (B,...), to red, green and blue (B,3,...).

    Hue and saturation are from 0 to 1, the result has the range of `value`.
    """
    places = [(channel + 6 * hue) % 6 for channel in (5, 3, 1)]
    parts = [torch.minimum(place, 4 - place).clamp(0, 1) for place in places]
    return torch.stack([value - value * saturation * part for part in parts], dim=1)


@cache
def palette() -> npt.NDArray[np.uint8]:
    """A colour for each label, (256,3): hues a golden angle apart; `IGNORED` is black.

    Neighbouring labels differ most. Saturation and value take one of four levels in turn, so that
    all colours differ.
    """
    label = torch.arange(256, dtype=torch.float64)
    saturation, value = 0.9 - 0.15 * (label % 4), 240 - 40 * (label // 4 % 3)
    colours = rgb_of_hsv(label * _GOLDEN % 1, saturation, value).round().to(torch.uint8)
    colours[IGNORED] = 0
    return colours.numpy()


def label_png(label_map: Tensor | npt.NDArray[np.uint8]) -> bytes:
    """A label map, uint8 (H,W), as a PNG with a palette, whose numbers are the labels."""
    image = Image.fromarray(np.asarray(label_map, np.uint8)).convert("L")
    image.putpalette(palette().tobytes())
    return _png(image)


def overlay(
    photo: npt.NDArray[np.uint8], label_map: Tensor | npt.NDArray[np.uint8], opacity: float = 0.5
) -> npt.NDArray[np.uint8]:
    """A photograph, (H,W,3), with its label map, (H,W), laid over: uint8 (H,W,3).

    Where labels are `IGNORED` the photograph is as it was.

    Raises:
        ValueError: The two differ in size.
    """
    labels = np.asarray(label_map, np.uint8)
    if photo.shape != (*labels.shape, 3):
        raise ValueError(f"found a photograph {photo.shape} and a label map {labels.shape}")
    mixed = (1 - opacity) * photo.astype(np.float32) + opacity * palette()[labels]
    return np.where((labels == IGNORED)[:, :, None], photo, mixed.round()).astype(np.uint8)


def sheet(
    photos: Sequence[npt.NDArray[np.uint8]],
    maps: dict[str, Sequence[Tensor | npt.NDArray[np.uint8]]],
    classes: Sequence[str],
    titles: Sequence[str] | None = None,
    *,
    cell: int = 192,
    legend: int = 24,
) -> bytes:
    """Photographs in rows, beside each its label maps laid over, and which colour is which class.

    Args:
        photos: uint8 (H,W,3), of any sizes.
        maps: By what they are, such as "truth" and "predicted", a map (H,W) for each photograph.
        classes: Names; the colours of those on most pixels are shown.
        titles: Of the photographs; none: their numbers.
        cell: Width and height of the room for a picture, in pixels.
        legend: Classes shown at most.

    Returns:
        The bytes of a PNG file.
    """
    pictures, texts = list[npt.NDArray[np.uint8]](), list[str]()
    counts = np.zeros(256, np.int64)
    for number, photo in enumerate(photos):
        pictures.append(photo)
        texts.append(titles[number] if titles else str(number))
        for name, of_all in maps.items():
            labels = np.asarray(of_all[number], np.uint8)
            counts += np.bincount(labels.ravel(), minlength=256)
            pictures.append(overlay(photo, labels))
            texts.append(name)
    columns = (1 + len(maps)) * math.ceil((len(photos) / (1 + len(maps))) ** 0.5)
    parts = [contact_sheet(pictures, texts, columns=columns, cell=cell)]
    order: list[int] = (-counts[: len(classes)]).argsort(kind="stable").tolist()
    if shown := {label for label in order[:legend] if counts[label]}:
        colours = [np.full((64, 64, 3), palette()[label], np.uint8) for label in sorted(shown)]
        names = [name for label, name in enumerate(classes) if label in shown]
        parts.append(contact_sheet(colours, names, columns=max(1, columns * cell // 72), cell=64))
    sheets = [Image.open(io.BytesIO(part)) for part in parts]
    size = max(one.width for one in sheets), sum(one.height for one in sheets)
    whole = Image.new("RGB", size, "white")
    for number, one in enumerate(sheets):
        whole.paste(one, (0, number * sheets[0].height))
    return _png(whole)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()
