"""STCF, spatio-temporal cropping and flipping: more recordings from few.

Named in the abstract of arXiv 2207.11670 (version 1); the four operations, their order and their
ranges are inferred.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from modicum.engine.random import SampleRandom
from modicum.errors import ConfigError
from modicum.events import EventBatch, frame_operations, operations
from modicum.events.operations import Fragments, OneOrBatch
from modicum.events.transforms import (
    Draws,
    EventTransform,
    check_probability,
    check_share,
    random_box,
    random_frame_window,
    random_window,
)


@dataclass(frozen=True)
class Crops:
    """What `STCF` does to each of B recordings. Single values serve all."""

    window: Fragments | None = None
    """The time that is kept, in microseconds (of frames, in frames); none: all."""
    box: npt.ArrayLike | None = None
    """The part of the sensor that is kept, (x0, y0, x1, y1) in pixels, ends included, (B,4); none:
    all."""
    dx: npt.ArrayLike = 0
    """Whole pixels that everything is shifted to the right by, (B,)."""
    dy: npt.ArrayLike = 0
    """Whole pixels that everything is shifted down by, (B,)."""
    flip: npt.ArrayLike = False
    """Whether left and right are exchanged, bool (B,)."""
    flip_time: npt.ArrayLike = False
    """Whether it is played backwards, with ON for OFF, bool (B,)."""

    def flips(self, count: int) -> Sequence[npt.NDArray[np.bool_]]:
        """`flip` and `flip_time` of each of `count` recordings."""
        return [np.broadcast_to(f, count) for f in (self.flip, self.flip_time)]


@dataclass(frozen=True)
class STCF(EventTransform):
    """Crop in time, crop in space, mirror, and reverse in time: each by its own chance, in order.

    What happens in space is the same at all times. Of events, a crop in time leaves a shorter
    recording, of which frames are made anew; of frames it leaves as many frames, some repeated.
    `draw` gives what is drawn for recordings, and `apply` applies `Crops` of your own.
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

    def draw(self, batch: EventBatch, random: SampleRandom) -> Crops:
        """What is done to each of B recordings."""
        whole = Fragments.whole(batch)
        draws = random.uniform(10, "stcf")
        part = random_window(whole, draws[:, 4:6], self.length)
        return self._crops(draws, whole, part, batch.height, batch.width)

    def apply(self, events: OneOrBatch, crops: Crops) -> OneOrBatch:
        """Recordings, one or a batch, sorted by time, changed as told; none loses all events."""
        return self._apply(events, partial(self._crop, crops=crops))

    def on_batch(self, batch: EventBatch, random: SampleRandom) -> EventBatch:
        """See `EventTransform.on_batch`."""
        return self._crop(batch, self.draw(batch, random))

    def _crop(self, batch: EventBatch, crops: Crops) -> EventBatch:
        window = Fragments.whole(batch) if crops.window is None else crops.window
        if crops.window is not None:
            cropped = operations.crop_time(batch, window.start, window.end)
            batch = operations.keep_or_restore(batch, cropped)
        if crops.box is not None:
            cropped = operations.crop_space(batch, crops.box, resize=self.space == "resize")
            batch = operations.keep_or_restore(batch, cropped)
        if np.any(crops.dx) or np.any(crops.dy):
            cropped = operations.drift_space(batch, crops.dx, crops.dy)
            batch = operations.keep_or_restore(batch, cropped)
        flip, flip_time = crops.flips(batch.size)
        if flip.any():
            batch = operations.reverse_x(batch, Fragments.whole(batch).only(flip))
        if flip_time.any():
            batch = operations.reverse_time(batch, window.only(flip_time))
        return batch

    def draw_frames(self, frames: Tensor, random: SampleRandom) -> Crops:
        """What is done to each of the frames `(B, T, 2, H, W)`; the window counts frames."""
        draws = random.uniform(10, "stcf")
        part = random_frame_window(frames, draws[:, 4:6], self.length)
        height, width = frames.shape[-2:]
        return self._crops(draws, frame_operations.whole(frames), part, height, width)

    def apply_frames(self, frames: Tensor, crops: Crops) -> Tensor:
        """Frames `(B, T, 2, H, W)` changed as told."""
        count = len(frames)
        if crops.window is not None:
            window = crops.window
            frames = frame_operations.crop_time(frames, window.start, window.end + 1)
        if crops.box is not None:
            box = np.broadcast_to(crops.box, (count, 4))
            frames = frame_operations.crop_space(frames, box, resize=self.space == "resize")
        if np.any(crops.dx) or np.any(crops.dy):
            frames = frame_operations.drift_space(frames, crops.dx, crops.dy)
        flip, flip_time = crops.flips(count)
        whole = frame_operations.whole(frames)
        frames = frame_operations.reverse_x(frames, whole.only(flip))
        return frame_operations.reverse_time(frames, whole.only(flip_time))

    def on_frames(self, frames: Tensor, random: SampleRandom) -> Tensor:
        """See `EventTransform.on_frames`."""
        return self.apply_frames(frames, self.draw_frames(frames, random))

    def _crops(
        self, draws: Draws, whole: Fragments, part: Fragments, height: int, width: int
    ) -> Crops:
        """By ten numbers each: four chances, two for the part of the time, four for space."""
        chances = (self.crop_time, self.crop_space, self.flip, self.flip_time)
        crop_time, crop_space, flip, flip_time = (draws[:, :4] < chances).T
        window = box = None
        shift = np.zeros((len(draws), 2), np.int64)
        if crop_time.any():
            window = Fragments(
                np.where(crop_time, part.start, whole.start),
                np.where(crop_time, part.end, whole.end),
            )
        if crop_space.any() and self.space == "pad":
            reach = np.minimum(self.pad, [width, height])
            shift = np.floor(draws[:, 6:8] * (2 * reach + 1)) - reach
            shift = np.where(crop_space[:, None], shift, 0).astype(np.int64)
        elif crop_space.any():
            box = random_box(draws[:, 6:], self.side, height, width)
            box = np.where(crop_space[:, None], box, [0, 0, width - 1, height - 1])
        return Crops(window, box, shift[:, 0], shift[:, 1], flip, flip_time)
