"""What random transforms of events and frames share: forms of input, and random numbers.

A transform is called with events in whatever form they are at hand and gives back the same form:

    events = EventReverse()(events, seed)

Its random numbers belong to recordings. A `SampleRandom` says which; then a recording is changed in
the same way whatever batch it is in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modicum.engine.random import SampleRandom
from modicum.errors import ConfigError, DataError
from modicum.events import operations
from modicum.events.container import EventBatch, Events
from modicum.events.operations import Fragments, Integers, OneOrBatch, keep_or_restore

Array: TypeAlias = npt.NDArray[Any]
Draws: TypeAlias = npt.NDArray[np.float64]
"""Random numbers in [0, 1), a row a sample: (B, how many each needs)."""
Random: TypeAlias = int | np.random.Generator | SampleRandom
Recordings = TypeVar("Recordings", Events, EventBatch, Array)
Frames = TypeVar("Frames", Tensor, Array)


class EventTransform(ABC):
    """A random transform of event recordings; see `__call__`."""

    @abstractmethod
    def on_batch(self, batch: EventBatch, random: SampleRandom) -> EventBatch:
        """Transform recordings sorted by time; each by its own random numbers."""

    def on_frames(self, frames: Tensor, random: SampleRandom) -> Tensor:
        """Transform frames (B,T,2,H,W), each sample by its own random numbers."""
        name = type(self).__name__
        raise ConfigError(f"{name} works on events alone: apply it before frames are made.")

    def __call__(
        self,
        events: Recordings,
        random: Random,
        *,
        columns: str = "xytp",
        sensor: tuple[int, int] | None = None,
        signed: bool | None = None,
        assume_sorted: bool = True,
    ) -> Recordings:
        """The events transformed, in the form they came in; the input is not changed.

        A recording without events stays so; one of which no event would be left is given back
        unchanged (the rule of EventDrop's code).

        Args:
            events: `Events`, an `EventBatch`, a structured array with the fields t, x, y, p in any
                order, or an array (N,4).
            random: A seed, a generator (which gives one seed), or the `SampleRandom` of the
                recordings.
            columns: What the columns of an array (N,4) are.
            sensor: (height, width) in pixels; arrays need it.
            signed: Whether the polarity of an array is coded -1 and 1 rather than 0 and 1; none:
                if a -1 occurs.
            assume_sorted: Time must not decrease. With False the events are sorted first.
        """
        if isinstance(events, EventBatch):
            return self._transform(events, random, assume_sorted)
        if isinstance(events, Events):
            return self._transform(EventBatch.of([events]), random, assume_sorted)[0]
        made = _from_array(events, columns, sensor)
        changed = self._transform(EventBatch.of([made]), random, assume_sorted)[0]
        return _to_array(changed, events, columns, signed)

    def frames(self, frames: Frames, random: Random) -> Frames:
        """Frames `[..., T, 2, H, W]` transformed, a tensor or an array; the channels are OFF, ON.

        All axes before T together count the samples. The random numbers are those that events
        would be transformed by. A sample that would be left empty is given back unchanged.
        """
        return transform_frames(frames, random, self._on_frames)

    @staticmethod
    def _apply(events: OneOrBatch, change: Callable[[EventBatch], EventBatch]) -> OneOrBatch:
        """One recording or a batch changed, with recordings restored of which nothing is left."""
        return operations.one_or_batch(lambda batch: keep_or_restore(batch, change(batch)))(events)

    def _transform(self, batch: EventBatch, random: Random, assume_sorted: bool) -> EventBatch:
        if not assume_sorted:
            batch = operations.in_order(batch)
        elif len(places := operations.decreases(batch.t, batch.lengths)):
            place = int(places[0])
            raise DataError(
                f"events: time goes back from {batch.t[place - 1]} to {batch.t[place]} us at event "
                f"{place:,}, and at {len(places)} of {len(batch):,} events. Sort them, or pass "
                f"assume_sorted=False."
            )
        return keep_or_restore(batch, self.on_batch(batch, samples(random, batch.size)))

    def _on_frames(self, frames: Tensor, random: SampleRandom) -> Tensor:
        changed = self.on_frames(frames, random)
        lost = ~changed.flatten(1).any(dim=1)
        return torch.where(lost.view(-1, 1, 1, 1, 1), frames, changed) if lost.any() else changed


def transform_frames(
    frames: Frames, random: Random, transform: Callable[[Tensor, SampleRandom], Tensor]
) -> Frames:
    """Apply a transform of tensors (B,T,2,H,W) to frames of `EventTransform.frames`."""
    given = isinstance(frames, Tensor)
    tensor = frames if given else torch.from_numpy(np.ascontiguousarray(frames))
    if tensor.ndim < 4 or tensor.shape[-3] != 2 or 0 in tensor.shape[-4:]:
        raise DataError(
            f"frames: found the shape {tuple(tensor.shape)}; expected [..., T, 2, height, width] "
            f"with T of 1 at least and the channels OFF and ON."
        )
    batch = tensor.reshape(-1, *tensor.shape[-4:])
    changed = transform(batch, samples(random, len(batch))).reshape(tensor.shape)
    return cast(Frames, changed if given else changed.numpy())


def samples(random: Random, count: int) -> SampleRandom:
    """The random numbers of `count` samples, from a seed, a generator, or as they are."""
    if isinstance(random, np.random.Generator):
        random = int(random.integers(2**63))
    if not isinstance(random, SampleRandom):
        return SampleRandom(int(random), 0, np.arange(count))
    if len(random.index) != count:
        raise DataError(f"random numbers for {len(random.index)} samples; there are {count}.")
    return random


def between(draws: Draws, low: float | Draws, high: float | Draws) -> Draws:
    """Numbers in [0, 1) as numbers in [low, high)."""
    return low + (high - low) * draws


def random_window(whole: Fragments, draws: Draws, ratio: tuple[float, float]) -> Fragments:
    """A part of each recording: its length is a `ratio` of the whole, its place uniform.

    With `D = end - start` of the whole, `L = r D`: the part is `ta = floor(start + u (D - L))` to
    `floor(ta + L)` (inferred). Two numbers each are needed, (B,2); r is between those of `ratio`.
    """
    duration = whole.end - whole.start
    length = between(draws[:, 0], *ratio) * duration
    start = whole.start + np.floor(draws[:, 1] * (duration - length)).astype(np.int64)
    return Fragments(start, start + np.floor(length).astype(np.int64))


def random_frame_window(frames: Tensor, draws: Draws, ratio: tuple[float, float]) -> Fragments:
    """The frames of what `random_window` makes of events, to the nearest whole frame."""
    total = frames.shape[1]
    share = between(draws[:, 0], *ratio)
    length = np.maximum(np.rint(share * total), 1).astype(np.int64)
    start = np.rint(draws[:, 1] * (1 - share) * total).astype(np.int64)
    start = np.minimum(start, total - length)
    return Fragments(start, start + length - 1)


def random_box(draws: Draws, ratio: tuple[float, float], height: int, width: int) -> Integers:
    """A box (x0, y0, x1, y1), ends included, (B,4), by four numbers each: (B,4).

    Its sides are, each by itself, a `ratio` of the sensor's, to the nearest pixel (inferred); its
    place is uniform.
    """
    sides = np.array([width, height])
    lengths = np.maximum(np.rint(between(draws[:, :2], *ratio) * sides), 1)
    corner = np.floor(draws[:, 2:] * (sides - lengths + 1))
    return np.concatenate([corner, corner + lengths - 1], axis=1).astype(np.int64)


def check_share(transform: object, name: str, share: tuple[float, float]) -> None:
    """Refuse a field that is not two shares in (0, 1], the smaller first (`ConfigError`)."""
    if not 0 < share[0] <= share[1] <= 1:
        raise ConfigError(
            f"{type(transform).__name__}: {name} is {share}; expected two shares in (0, 1], the "
            f"smaller first."
        )


def check_probability(transform: object, *names: str) -> None:
    """Refuse fields that are not probabilities (`ConfigError`)."""
    for name in names:
        if not 0 <= getattr(transform, name) <= 1:
            found = f"{type(transform).__name__}: {name} is {getattr(transform, name)}"
            raise ConfigError(f"{found}; expected a probability, 0 to 1.")


def _from_array(array: Array, columns: str, sensor: tuple[int, int] | None) -> Events:
    if sensor is None:
        raise DataError(
            "events: an array does not say how large the sensor is; pass sensor=(height, width)."
        )
    height, width = sensor
    names = array.dtype.names
    if names is None:
        return Events.from_array(array, columns, height=height, width=width)
    if extra := sorted(set(names) - set("txyp")):
        raise DataError(
            f"events: the structured array has the fields {', '.join(names)}; only t, x, y and p "
            f"can be transformed. Leave out: {', '.join(extra)}."
        )
    return Events.from_structured(array, height=height, width=width)


def _to_array(events: Events, like: Array, columns: str, signed: bool | None) -> Array:
    """Events as an array of the type of another, with its columns and coding of polarity."""
    named = like.dtype.names is not None
    made = np.empty(len(events) if named else (len(events), 4), like.dtype)
    places, coded = (
        {name: array[name] if named else array[:, columns.index(name)] for name in "txyp"}
        for array in (made, like)
    )
    for name, place in places.items():
        place[...] = getattr(events, name)
    if signed or (signed is None and coded["p"].dtype.kind in "if" and (coded["p"] < 0).any()):
        places["p"][...] = 2 * events.p.astype(np.int8) - 1
    return made
