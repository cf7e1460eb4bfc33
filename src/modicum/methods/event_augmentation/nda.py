"""Augmentations of frames for spiking networks: NDA, and the flip and roll of TET's code.

NDA: Y. Li et al., "Neuromorphic data augmentation for training spiking neural networks", ECCV 2022.
TET: S. Deng et al., "Temporal efficient training of spiking neural network via gradient
re-weighting", ICLR 2022. Rules and numbers are those of the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modicum.engine.random import SampleRandom
from modicum.errors import ConfigError
from modicum.events.transforms import Frames, Random, check_probability, transform_frames
from modicum.methods.event_augmentation.augment import check_modes

Places: TypeAlias = npt.NDArray[np.float64]
"""Where pixels are, (B,H,W)."""


@dataclass(frozen=True)
class NDA:
    """Mirror left and right by chance, then roll, rotate or shear, equally likely.

    The same for all time steps of a sample. Pixels are moved to the nearest place; what comes in
    from outside is 0, except that a roll brings in what left on the other side. The default values
    are those for frames of 48 x 48; N-Caltech101 has roll 3, rotate 15 and shear 15.
    """

    flip: float = 0.5
    """Probability that left and right are exchanged."""
    roll: int = 5
    """Largest roll in each direction, in pixels."""
    rotate: float = 30.0
    """Largest rotation, in degrees."""
    shear: float = 30.0
    """Largest angle by which columns are sheared, in degrees."""
    modes: Sequence[str] = ("roll", "rotate", "shear")
    """What there is to choose from, one for each sample."""

    def __post_init__(self) -> None:
        check_modes(self, self.modes, ("roll", "rotate", "shear"))
        check_probability(self, "flip")
        if min(self.roll, self.rotate, self.shear) < 0 or self.shear >= 90:
            raise ConfigError(
                f"NDA: found roll={self.roll}, rotate={self.rotate} and shear={self.shear}; "
                f"expected 0 or more, and a shear below 90."
            )

    def __call__(self, frames: Frames, random: Random) -> Frames:
        """Frames `[..., T, 2, H, W]`, a tensor or an array, to new ones. See `EventTransform`."""
        return transform_frames(frames, random, self._on_frames)

    def _on_frames(self, frames: Tensor, random: SampleRandom) -> Tensor:
        draws = random.uniform(4, "nda")
        x, y = self._sources(draws, *frames.shape[-2:])
        flipped = draws[:, 0] < self.flip
        x = np.where(flipped[:, None, None], frames.shape[-1] - 1 - x, x)
        return move_pixels(frames, x, y)

    def _sources(self, draws: Places, height: int, width: int) -> tuple[Places, Places]:
        """Where each pixel comes from in the (mirrored) frame."""
        names = np.array(self.modes)[np.floor(draws[:, 1] * len(self.modes)).astype(int)]
        pixels, spread = draws[:, 2:].T, draws[:, 2] * 2 - 1
        rolls = np.floor(pixels * (2 * self.roll + 1)) - self.roll
        turn = np.where(names == "rotate", np.deg2rad(self.rotate) * spread, 0.0)
        slant = np.where(names == "shear", np.tan(np.deg2rad(self.shear) * spread), 0.0)

        x, y = np.arange(width)[None, None, :], np.arange(height)[None, :, None]
        rolled = names == "roll"
        right, below = x - (width - 1) / 2, y - (height - 1) / 2
        cos, sin, slant, across, down, rolled = (
            values[:, None, None] for values in (np.cos(turn), np.sin(turn), slant, *rolls, rolled)
        )
        turned_x = cos * right - sin * below + slant * below
        turned_y = sin * right + cos * below
        return (
            np.where(rolled, (x - across) % width, turned_x + (width - 1) / 2),
            np.where(rolled, (y - down) % height, turned_y + (height - 1) / 2),
        )


@dataclass(frozen=True)
class TetFlipRoll:
    """Mirror left and right by chance, then roll by up to `roll` pixels: TET's code."""

    flip: float = 0.5
    """Probability that left and right are exchanged."""
    roll: int = 5
    """Largest roll in each direction, in pixels of 48."""

    def __call__(self, frames: Frames, random: Random) -> Frames:
        """See `NDA.__call__`."""
        return NDA(self.flip, self.roll, modes=("roll",))(frames, random)


def move_pixels(frames: Tensor, x: Places, y: Places) -> Tensor:
    """Frames (B,T,2,H,W) of the pixels nearest to the places `x`, `y` (B,H,W); 0 from outside."""
    height, width = frames.shape[-2:]
    column, row = np.rint(x), np.rint(y)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    source = np.where(inside, row * width + column, 0).astype(np.int64)
    source = source.reshape(len(frames), 1, -1)
    flat = frames.reshape(len(frames), -1, height * width)
    index = torch.from_numpy(source).to(frames.device).expand(-1, flat.shape[1], -1)
    outside = torch.from_numpy(~inside).to(frames.device).view(len(frames), 1, -1)
    return flat.gather(2, index).masked_fill_(outside, 0).view(frames.shape)
