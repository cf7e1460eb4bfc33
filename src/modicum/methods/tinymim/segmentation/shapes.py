"""Built-in data: coloured shapes on textured ground, with their label maps."""

from __future__ import annotations

import numpy as np
import torch

from modicum.data.folders import Split
from modicum.engine.random import uniform
from modicum.methods.tinymim.segmentation.pair_sets import IGNORED, MemoryPairs
from modicum.methods.tinymim.segmentation.pictures import rgb_of_hsv

_CLASSES = ("ground", "disc", "square", "triangle")
_SIDES = np.array([1, 4, 3])
_SHAPES_AN_IMAGE = 3
_FIRST = {"train": 0, "val": 1 << 20, "test": 2 << 20}
_COUNT = {"train": 240, "val": 60, "test": 60}
_BORDER = 0.5


def shapes(split: Split = "train", *, count: int | None = None, size: int = 64) -> MemoryPairs:
    """Up to three discs, squares and triangles in each image, one over the other.

    The hues of the classes overlap by a third, so that outlines count, too. A line of about
    a pixel around each shape is `IGNORED`.

    Args:
        split: "train", "val" or "test", which share no image.
        count: Images; none: 240 for training, else 60.
        size: Height and width in pixels.
    """
    index = _FIRST[split] + np.arange(count or _COUNT[split])
    draws = uniform(index, 8, "shapes", "ground")[:, :, None, None]
    row, column = np.mgrid[:size, :size] / size
    # Two waves of a random direction and length, and noise.
    texture = sum(
        np.sin(20 * (draw[0] - 0.5) * row + 20 * (draw[1] - 0.5) * column + 6.28 * draw[2])
        for draw in (draws[:, :3].swapaxes(0, 1), draws[:, 3:6].swapaxes(0, 1))
    )
    noise = uniform(index, size * size, "shapes", "noise").reshape(-1, size, size) - 0.5
    value = 0.35 + 0.4 * draws[:, 6] + 0.08 * texture
    hue, saturation = np.broadcast_to(draws[:, 7], value.shape), np.full_like(value, 0.2)
    labels = np.zeros(value.shape, np.uint8)
    for number in range(_SHAPES_AN_IMAGE):
        kind = np.floor(uniform(index, 1, "shapes", number, "kind") * 3).astype(np.int64)[:, 0]
        place = uniform(index, 6, "shapes", number)[:, :, None, None]
        radius = 0.12 + 0.14 * place[:, 0]
        down, right = row - 0.1 - 0.8 * place[:, 1], column - 0.1 - 0.8 * place[:, 2]
        outside = size * (_distance(right, down, 6.28 * place[:, 3], _SIDES[kind]) - radius)
        inside, own = outside < _BORDER, (kind + 1)[:, None, None]
        hue = np.where(inside, (kind[:, None, None] + 1.5 * place[:, 4] - 0.75) / 3, hue)
        saturation = np.where(inside, 0.7, saturation)
        value = np.where(inside, 0.5 + 0.4 * place[:, 5], value)
        labels = np.where(inside, own, labels).astype(np.uint8)
        labels[np.abs(outside) < _BORDER] = IGNORED
    value = (value + 0.15 * noise).clip(0, 1)
    colours = (torch.from_numpy(part) for part in (hue, saturation, 255 * value))
    pixels = rgb_of_hsv(*colours).round().to(torch.uint8)
    names = np.array([f"shapes/{split}/{number}" for number in range(len(index))])
    layout, no_labels = "built-in shapes", torch.empty(len(index), 0)
    return MemoryPairs(_CLASSES, no_labels, names, layout, pixels, torch.from_numpy(labels))


def _distance(x: np.ndarray, y: np.ndarray, turn: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """From the middle of regular shapes, in circumradii: 1 on the outline; `sides` 1 is a disc."""
    angle = np.arctan2(y, x) - turn
    sector = 2 * np.pi / sides[:, None, None]
    bent = np.where(sides[:, None, None] == 1, 0, (angle + sector / 2) % sector - sector / 2)
    inner = np.where(sides == 1, 1, np.cos(np.pi / sides))[:, None, None]
    return np.hypot(x, y) * np.cos(bent) / inner
