"""Clouds of points: made up, or files of yours."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from modicum.engine.random import SampleRandom, generator
from modicum.errors import DataError


@dataclass(frozen=True)
class Clouds:
    """Clouds of points, each of another number of them."""

    index: Tensor
    """(B,), int64: numbers in the data set."""
    moments: Tensor
    """(B, 5): what the network is given, see `moments_of`."""
    points: list[Tensor]
    """B tensors (n, 2)."""

    def batch(self, random: SampleRandom) -> Clouds:
        """The clouds `random.index`."""
        index = torch.from_numpy(random.index)
        return Clouds(index, self.moments[index], [self.points[i] for i in random.index])


def moments_of(points: Tensor) -> Tensor:
    """Mean and covariance (xx, xy, yy) of points (n, 2), as (5,)."""
    centred = points - points.mean(0)
    covariance = centred.T @ centred / len(points)
    return torch.cat([points.mean(0), covariance.flatten()[[0, 1, 3]]])


def open_clouds(data: str, split: Literal["train", "val"]) -> Clouds:
    """Made-up `points`; or files, of which every fourth is for `val`. Raises `DataError`."""
    if data == "points":
        random = generator("toy", split)
        sizes = torch.randint(2, 10, (64,), generator=random).tolist()
        ends = torch.randn(64, 2, 2, generator=random)
        points = [
            a + b * torch.rand(n, 1, generator=random)
            for (a, b), n in zip(ends, sizes, strict=True)
        ]
    else:
        files = sorted(Path(data).glob("*.npy"))
        if len(files) < 4:
            raise DataError(f"{data}: found {len(files)} files *.npy, expected at least 4.")
        points = [read(f) for i, f in enumerate(files) if (i % 4 == 3) == (split == "val")]
    moments = torch.stack([moments_of(cloud) for cloud in points])
    return Clouds(torch.arange(len(points)), moments, points)


def digest_of(clouds: Clouds) -> str:
    """A text that tells clouds apart."""
    return hashlib.sha256(repr([points.tolist() for points in clouds.points]).encode()).hexdigest()


def read(file: Path) -> Tensor:
    """The points of a file, (n, 2) float32."""
    try:
        points = torch.from_numpy(np.load(file, allow_pickle=False).astype(np.float32))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not a file of NumPy ({error}). Save it by numpy.save.") from error
    if points.ndim != 2 or points.shape[1] != 2 or not len(points) or not points.isfinite().all():
        raise DataError(f"{file}: {tuple(points.shape)}, expected finite numbers (n, 2), n > 0.")
    return points
