"""Dividing nodes into those to train on, to stop early by, and to tell results of."""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from modicum.errors import ConfigError, DataError
from modicum.system.arrays import read_arrays

SEED = 20
"""The published splits' seed."""

Index = npt.NDArray[np.int64]


class Splits(NamedTuple):
    """Numbers of nodes, int64."""

    train: Index
    val: Index
    test: Index


def split_per_class(
    labels: npt.ArrayLike, train: float = 0.3, val: float = 0.2, *,
    at_most: int | None = None, seed: int = SEED,
) -> Splits:  # fmt: skip
    """Divide the nodes of each class at random, by the rule of the published splits.

    The numbers of each class, class 0 first, are shuffled by Python's `random` with one seed. The
    first are for training, the next for validation, the rest for testing. Nodes without a label
    (-1) are in no split.

    Args:
        labels: `(N,)`, classes from 0.
        train: Share of each class.
        val: The same.
        at_most: Train on at most so many of each class. The rest of its share is in no split, as
            in Credit and German (where they go is inferred).
        seed: Of the shuffle.

    Raises:
        ConfigError: Nothing would be left for one of the splits.
    """
    if train <= 0 or val <= 0 or train + val >= 1:
        raise ConfigError(
            f"train {train} and val {val}: expected shares above 0, which leave some for testing."
        )
    labels = np.asarray(labels)
    shuffler = random.Random(seed)
    parts: list[list[int]] = [[], [], []]
    for label in range(int(labels.max(initial=-1)) + 1):
        nodes: list[int] = np.flatnonzero(labels == label).tolist()
        shuffler.shuffle(nodes)
        # Shares are added before they are rounded down: the published splits are so.
        middle, end = int(train * len(nodes)), int((train + val) * len(nodes))
        parts[0] += nodes[:middle][:at_most]
        parts[1] += nodes[middle:end]
        parts[2] += nodes[end:]
    return Splits(*(np.array(part, np.int64) for part in parts))


def read_splits(folder: Path) -> Splits | None:
    """The published splits of a folder, `{train,val,test}_split.npy`; None if there is none.

    A `DataError` is raised if one is missing, damaged, or holds no whole numbers.
    """
    paths = [folder / f"{name}_split.npy" for name in Splits._fields]
    return Splits(*map(_read_split, paths)) if any(path.exists() for path in paths) else None


def _read_split(path: Path) -> Index:
    if not path.exists():
        raise DataError(
            f"{path}: absent, though other splits are there; expected train, val and test."
        )
    numbers = read_arrays(path).get("")
    if numbers is None:
        raise DataError(f"{path}: expected one array of NumPy, .npy; found several, .npz.")
    whole = numbers.ndim == 1 and len(numbers) > 0 and numbers.dtype.kind in "iuf"
    if not whole or (numbers % 1 != 0).any():
        raise DataError(
            f"{path}: expected whole numbers of nodes, found {numbers.dtype} of the shape "
            f"{numbers.shape}."
        )
    return numbers.astype(np.int64)
