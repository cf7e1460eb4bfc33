"""Augmentations of frames for spiking networks: NDA, and the flip and roll of TET's code.

NDA: Y. Li et al., "Neuromorphic data augmentation for training spiking neural networks", ECCV 2022.
TET: S. Deng et al., "Temporal efficient training of spiking neural network via gradient
re-weighting", ICLR 2022. Rules and numbers are those of the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modicum.engine.random import SampleRandom
from modicum.errors import ConfigError, DataError
from modicum.events.transforms import Frames, Random, check_probability, samples, transform_frames

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
        known = ("roll", "rotate", "shear")
        if isinstance(self.modes, str) or not self.modes or not set(self.modes) <= set(known):
            raise ConfigError(
                f"NDA: modes is {self.modes!r}; expected a sequence of some of {', '.join(known)}."
            )
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
        across, down = np.where(names == "roll", rolls, 0)
        turn = np.where(names == "rotate", np.deg2rad(self.rotate) * spread, 0.0)
        slant = np.where(names == "shear", np.tan(np.deg2rad(self.shear) * spread), 0.0)

        def each(values: Places) -> Places:
            return values[:, None, None]

        x, y = np.arange(width)[None, None, :], np.arange(height)[None, :, None]
        rolled = each(names == "roll")
        right, below = x - (width - 1) / 2, y - (height - 1) / 2
        turned_x = each(np.cos(turn)) * right - each(np.sin(turn)) * below + each(slant) * below
        turned_y = each(np.sin(turn)) * right + each(np.cos(turn)) * below
        return (
            np.where(rolled, (x - each(across)) % width, turned_x + (width - 1) / 2),
            np.where(rolled, (y - each(down)) % height, turned_y + (height - 1) / 2),
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


class Mixed(NamedTuple):
    """Frames of two samples each."""

    frames: Tensor
    """(B,T,2,H,W)."""
    partner: Tensor
    """Which sample of the batch was pasted into each, int64 (B,); itself where none was."""
    weight: Tensor
    """Share of the sample's own area, float32 (B,): the loss is
    `weight loss(label) + (1 - weight) loss(label[partner])`."""


def cutmix(frames: Tensor, random: Random, *, p: float = 0.5) -> Mixed:
    """CutMix (S. Yun et al., ICCV 2019), NDA's option: paste a box of another sample into each.

    The box's area is uniform in (0, 1) of the sensor (a Beta(1, 1) distribution), it is centred
    anywhere and cut at the border. Unlike all other transforms, what becomes of a sample depends
    on the batch it is in, for the partner is of that batch.

    Args:
        frames: (B,T,2,H,W).
        random: See `EventTransform`.
        p: Probability that something is pasted into a sample.

    Raises:
        ValueError: The frames have another shape.
    """
    if frames.ndim != 5:
        raise DataError(
            f"cutmix: found frames of the shape {tuple(frames.shape)}; expected (B,T,2,H,W)."
        )
    count, height, width = len(frames), *frames.shape[-2:]
    draws = samples(random, count).uniform(5, "cutmix")
    order = np.argsort(draws[:, 0], kind="stable")  # each gets the next in a random circle
    partner = np.empty(count, np.int64)
    partner[order] = np.roll(order, -1)
    partner = np.where(draws[:, 1] < p, partner, np.arange(count))

    sides = np.array([height, width])
    cut = np.floor(sides * np.sqrt(1 - draws[:, 2, None]))
    centre = np.floor(draws[:, 3:] * sides)
    low, high = np.maximum(centre - cut // 2, 0), np.minimum(centre + cut // 2, sides)
    high = np.where((partner == np.arange(count))[:, None], low, high)
    rows, columns = (
        (np.arange(size) >= low[:, axis, None]) & (np.arange(size) < high[:, axis, None])
        for axis, size in enumerate(sides)
    )
    box = torch.from_numpy(rows[:, :, None] & columns[:, None, :]).to(frames.device)
    others = torch.from_numpy(partner).to(frames.device)
    return Mixed(
        torch.where(box[:, None, None], frames[others], frames),
        others,
        1 - box.float().mean(dim=(1, 2)),
    )
