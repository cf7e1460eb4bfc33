"""Augmentations of events to compare with: EventDrop, and the shift and flip of EST's code.

EventDrop: F. Gu et al., IJCAI 2021. EST: D. Gehrig et al., ICCV 2019. Rules and numbers are those
of the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from modicum.engine.random import SampleRandom, uniform
from modicum.errors import ConfigError
from modicum.events import EventBatch, operations
from modicum.events.operations import Fragments, OneOrBatch, drop_fragments
from modicum.events.transforms import EventTransform, Random, check_probability, samples

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Drops:
    """What `EventDrop` drops of each of B recordings. Single values serve all."""

    kind: npt.ArrayLike
    """`"time"`, `"area"`, `"random"`, or `""` for nothing, (B,)."""
    share: npt.ArrayLike = 0.1
    """Share of the time, or of the events at random, that is dropped, (B,)."""
    start: npt.ArrayLike = 0.0
    """Where the time that is dropped begins, as a share of the last event's, (B,)."""
    centre: npt.ArrayLike = (0.0, 0.0)
    """Centre of the area, x and y in pixels, (B,2)."""
    ratio: npt.ArrayLike = 0.1
    """Sides of the area as a share of the sensor's, (B,)."""


@dataclass(frozen=True)
class EventDrop(EventTransform):
    """Drop events: none, those of a time, those of an area, or any, with equal chance.

    A recording of which nothing is left is given back unchanged. `draw` gives what is drawn for
    recordings, and `apply` applies `Drops` of your own.
    """

    official_area_bug: bool = False
    """Drop a cross instead of a rectangle, as the authors' code does: all events whose column or
    whose row is one of the rectangle's."""

    def draw(self, batch: EventBatch, random: SampleRandom) -> Drops:
        """What of each of B recordings is dropped."""
        draws = random.uniform(5, "event drop")
        return Drops(
            kind=np.array(["", "time", "area", "random"])[(4 * draws[:, 0]).astype(np.int64)],
            share=(1 + np.floor(9 * draws[:, 1])) / 10,
            start=draws[:, 2],
            centre=draws[:, 2:4] * [batch.width, batch.height],
            ratio=(1 + np.floor(5 * draws[:, 1])) / 20,
        )

    def apply(self, events: OneOrBatch, drops: Drops, random: Random = 0) -> OneOrBatch:
        """Recordings, sorted by time, less what is told; one without events left stays as it was.

        `random` decides which events the kind `"random"` drops; see `EventTransform`.
        """

        def drop(batch: EventBatch) -> EventBatch:
            return self._drop(batch, drops, samples(random, batch.size))

        return self._apply(events, drop)

    def on_batch(self, batch: EventBatch, random: SampleRandom) -> EventBatch:
        """See `EventTransform.on_batch`."""
        return self._drop(batch, self.draw(batch, random), random)

    def _drop(self, batch: EventBatch, drops: Drops, random: SampleRandom) -> EventBatch:
        kind = np.broadcast_to(np.asarray(drops.kind), batch.size)
        if unknown := sorted({*kind.tolist()} - {"", "time", "area", "random"}):
            raise ConfigError(f"EventDrop: no kind {unknown[0]!r}; known: time, area, random.")
        share, start, ratio = (
            np.broadcast_to(np.asarray(value, np.float64), batch.size)
            for value in (drops.share, drops.start, drops.ratio)
        )
        if (kind == "time").any():
            window = time_window(batch, start, share)
            batch = drop_fragments(batch, window.only(kind == "time"))
        if (kind == "area").any():
            centre = np.broadcast_to(np.asarray(drops.centre, np.float64), (batch.size, 2))
            drop = drop_cross if self.official_area_bug else drop_fragments
            batch = drop(batch, area(batch, centre, ratio).only(kind == "area"))
        if (kind == "random").any():
            batch = drop_random(batch, np.where(kind == "random", share, 0), random)
        return batch


def time_window(batch: EventBatch, start: Floats, share: Floats) -> Fragments:
    """The time `last start <= t <= last (start + share)`, where last is a recording's last time."""
    _, last = operations.first_and_last(batch)
    low, high = np.ceil(last * start), np.floor(last * (start + share))
    return Fragments(low.astype(np.int64), high.astype(np.int64))


def area(batch: EventBatch, centre: Floats, ratio: Floats) -> Fragments:
    """The box around `centre` (x, y) (B,2) with a `ratio` (B,) of the sensor's sides, at all times.

    As in the authors' code: its corner is rounded down to a pixel, both ends are included, and at
    the border it is moved inside on the left and at the top, cut on the right and at the bottom.
    """
    sides = np.array([batch.width, batch.height])
    lengths = sides * ratio[:, None]
    low = np.floor(np.maximum(centre - lengths / 2, 0))
    high = np.floor(np.minimum(low + lengths, sides - 1))
    box = np.concatenate([low, high], axis=1).astype(np.int64)
    return replace(Fragments.whole(batch), box=box)


def drop_cross(batch: EventBatch, fragments: Fragments) -> EventBatch:
    """Drop all events whose column or whose row is one of the fragments' boxes."""
    assert fragments.box is not None
    columns, rows = fragments.box.copy(), fragments.box.copy()
    columns[:, [1, 3]] = 0, batch.height - 1
    rows[:, [0, 2]] = 0, batch.width - 1
    batch = drop_fragments(batch, replace(fragments, box=columns))
    return drop_fragments(batch, replace(fragments, box=rows))


def drop_random(batch: EventBatch, share: Floats, random: SampleRandom) -> EventBatch:
    """Drop `floor(share N)` of the N events of each recording, each set of them equally likely."""
    count = np.floor(batch.lengths * share).astype(np.int64)
    rows = np.flatnonzero(count)
    lengths, count = batch.lengths[rows], count[rows]
    ends = np.cumsum(lengths)
    # A number for each event that depends on its recording and its place in it alone.
    key = np.floor(random.uniform(1, "event drop: recordings")[rows, 0] * 2.0**53).astype(np.int64)
    place = np.arange(lengths.sum()) + np.repeat(key - ends + lengths, lengths)
    number = uniform(place, 1, random.seed, random.epoch, "event drop: events")[:, 0]
    number += np.repeat(np.arange(len(rows)), lengths)  # to sort all recordings at once
    threshold = np.sort(number)[ends - lengths + count - 1]
    kept = np.ones(len(batch), np.bool_)
    affected = np.zeros(batch.size, np.bool_)
    affected[rows] = True
    kept[np.repeat(affected, batch.lengths)] = number > np.repeat(threshold, lengths)
    return batch.keep(kept)


@dataclass(frozen=True)
class EstShiftFlip(EventTransform):
    """Shift by up to `max_shift` pixels each way and mirror by chance: the recipe of EST's code."""

    max_shift: int = 20
    """Pixels; events that leave the sensor are dropped."""
    flip: float = 0.5
    """Probability that left and right are exchanged."""

    def __post_init__(self) -> None:
        check_probability(self, "flip")
        if self.max_shift < 0:
            raise ConfigError(
                f"EstShiftFlip: max_shift is {self.max_shift}; expected 0 pixels or more."
            )

    def on_batch(self, batch: EventBatch, random: SampleRandom) -> EventBatch:
        """See `EventTransform.on_batch`."""
        draws = random.uniform(3, "est shift flip")
        reach = 2 * self.max_shift + 1
        shift = np.floor(draws[:, :2] * reach).astype(np.int64) - self.max_shift
        shift = np.clip(shift, *np.array([[-1], [1]]) * [batch.width, batch.height])
        batch = operations.drift_space(batch, shift[:, 0], shift[:, 1])
        return operations.reverse_x(batch, Fragments.whole(batch).only(draws[:, 2] < self.flip))
