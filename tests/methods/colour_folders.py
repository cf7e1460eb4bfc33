"""Photographs that are easily told apart, in folders as a person keeps them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}
"""Colour of each class."""
SUFFIXES = ("jpg", "png", "webp")


def write_photographs(root: Path, count: int, classes: tuple[str, ...] = tuple(COLOURS)) -> Path:
    """Class folders with `count` noisy pictures each, in three formats and of sizes that differ."""
    random = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(count):
            height, width = random.integers(40, 60, 2)
            noise = random.normal(0, 30, (height, width, 3)) + np.array(COLOURS[name])
            file = root / name / f"{number}.{SUFFIXES[number % 3]}"
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(file)
    return root
