"""Recordings that are easily told apart, in folders as a person keeps them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from modicum import events

CLASSES = ("left", "middle", "right")
"""Where most of the events are."""
SENSOR = (20, 24)
"""Height and width in pixels."""
SUFFIXES = ("bin", "npz", "dat")


def recording(label: int, number: int = 0, count: int = 300) -> events.Events:
    """A recording of a tenth of a second."""
    random = np.random.default_rng((label, number))
    return events.Events.of(
        np.sort(random.integers(0, 100_000, count)),
        random.normal(4 + 8 * label, 1.5, count).round().clip(0, SENSOR[1] - 1),
        random.integers(0, SENSOR[0], count),
        random.integers(0, 2, count),
        height=SENSOR[0],
        width=SENSOR[1],
    )


def write_folder(root: Path, count: int, classes: tuple[str, ...] = CLASSES) -> Path:
    """Class folders with `count` recordings each, in three formats."""
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(count):
            file = root / name / f"{number}.{SUFFIXES[number % 3]}"
            events.write(file, recording(CLASSES.index(name), number))
    return root
