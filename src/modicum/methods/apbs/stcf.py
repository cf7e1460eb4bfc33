"""STCF, spatio-temporal cropping and flipping: more recordings from few.

Named in the abstract of arXiv 2207.11670 (version 1); the four operations, their order and their
ranges are inferred (specification `apbs.md`, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modicum.engine.random import SampleRandom
from modicum.errors import ConfigError
from modicum.events import EventBatch, frame_operations, operations
from modicum.events.operations import Fragments
from modicum.events.transforms import (
    Draws,
    EventTransform,
    check_probability,
    check_share,
    random_box,
    random_frame_window,
    random_window,
)

Integers = npt.NDArray[np.int64]
Chosen = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class STCF(EventTransform):
    """Crop in time, crop in space, mirror, and reverse in time: each by its own chance, in order.

    What happens in space is the same at all times. Of events, a crop in time leaves a shorter
    recording, of which frames are made anew; of frames it leaves as many frames, some repeated.
    """

    crop_time: float = 0.5
    """Probability of keeping only a part of the time."""
    crop_space: float = 0.5
    """Probability of keeping only a part of the sensor."""
    flip: float = 0.5
    """Probability of exchanging left and right; 0 for digits, letters and gestures."""
    flip_time: float = 0.0
    """Probability of playing backwards, with ON for OFF. Recordings in which the camera always
    moves in the same way (N-MNIST, MNIST-DVS) gain nothing from it."""
    length: tuple[float, float] = (0.8, 1.0)
    """Shortest and longest time kept, as a share."""
    side: tuple[float, float] = (0.85, 1.0)
    """Smallest and largest side of the part of the sensor kept, as a share; for width and height
    independently."""
    space: Literal["resize", "keep", "pad"] = "resize"
    """What a crop in space does: stretch the part over the sensor, keep it where it is, or shift
    everything by up to `pad` pixels (zero padding and a crop of the old size)."""
    pad: int = 4
    """Pixels."""

    def __post_init__(self) -> None:
        check_probability(self, "crop_time", "crop_space", "flip", "flip_time")
        check_share(self, "length", self.length)
        check_share(self, "side", self.side)
        if self.space not in ("resize", "keep", "pad") or self.pad < 0:
            raise ConfigError(
                f"STCF: found space={self.space!r} and pad={self.pad}; expected resize, keep or "
                f"pad, and 0 pixels or more."
            )

    def on_batch(self, batch: EventBatch, random: SampleRandom) -> EventBatch:
        """See `EventTransform.on_batch`."""
        draws = random.uniform(10, "stcf")
        crop_time, crop_space, flip, flip_time = self._chosen(draws)
        window = Fragments.whole(batch)
        if crop_time.any():
            part = random_window(window, draws[:, 4:6], self.length)
            window = Fragments(
                np.where(crop_time, part.start, window.start),
                np.where(crop_time, part.end, window.end),
            )
            cropped = operations.crop_time(batch, window.start, window.end)
            batch = operations.keep_or_restore(batch, cropped)
        if crop_space.any():
            if self.space == "pad":
                dx, dy = self._shift(draws, crop_space, batch.height, batch.width)
                cropped = operations.drift_space(batch, dx, dy)
            else:
                box = self._box(draws, crop_space, batch.height, batch.width)
                resize = self.space == "resize"
                cropped = operations.crop_space(batch, box, resize=resize)
            batch = operations.keep_or_restore(batch, cropped)
        if flip.any():
            batch = operations.reverse_x(batch, Fragments.whole(batch).only(flip))
        if flip_time.any():
            batch = operations.reverse_time(batch, window.only(flip_time))
        return batch

    def on_frames(self, frames: Tensor, random: SampleRandom) -> Tensor:
        """See `EventTransform.on_frames`."""
        draws = random.uniform(10, "stcf")
        crop_time, crop_space, flip, flip_time = self._chosen(draws)
        height, width = frames.shape[-2:]
        changed = frames.clone()
        if crop_time.any():
            part = random_frame_window(frames, draws[:, 4:6], self.length)[crop_time]
            rows = torch.from_numpy(crop_time)
            changed[rows] = frame_operations.crop_time(changed[rows], part.start, part.end + 1)
        if crop_space.any():
            rows = torch.from_numpy(crop_space)
            if self.space == "pad":
                dx, dy = self._shift(draws, crop_space, height, width)
                changed[rows] = frame_operations.drift_space(
                    changed[rows], dx[crop_space], dy[crop_space]
                )
            else:
                box = self._box(draws, crop_space, height, width)[crop_space]
                changed[rows] = frame_operations.crop_space(
                    changed[rows], box, resize=self.space == "resize"
                )
        for chosen, reverse in (
            (flip, frame_operations.reverse_x),
            (flip_time, frame_operations.reverse_time),
        ):
            rows = torch.from_numpy(chosen)
            changed[rows] = reverse(changed[rows])
        return changed

    def _chosen(self, draws: Draws) -> tuple[Chosen, ...]:
        chances = (self.crop_time, self.crop_space, self.flip, self.flip_time)
        return tuple(draws[:, number] < chance for number, chance in enumerate(chances))

    def _shift(
        self, draws: Draws, chosen: Chosen, height: int, width: int
    ) -> tuple[Integers, Integers]:
        """How far the chosen samples are shifted, right and down, (B,) each."""
        reach = np.minimum(self.pad, [width, height])
        shift = np.floor(draws[:, 6:8] * (2 * reach + 1)) - reach
        shift = np.where(chosen[:, None], shift, 0).astype(np.int64)
        return shift[:, 0], shift[:, 1]

    def _box(self, draws: Draws, chosen: Chosen, height: int, width: int) -> Integers:
        """(x0, y0, x1, y1), ends included, (B,4); the whole sensor where not chosen."""
        box = random_box(draws[:, 6:], self.side, height, width)
        return np.where(chosen[:, None], box, [0, 0, width - 1, height - 1])
