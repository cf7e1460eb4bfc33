"""Augmentations of events to compare with: EventDrop, and the shift and flip of EST's code.

EventDrop: F. Gu et al., IJCAI 2021. EST: D. Gehrig et al., ICCV 2019. Rules and numbers are those
of the authors' code (specification, section 6).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from modicum.engine.random import SampleRandom, uniform
from modicum.errors import ConfigError
from modicum.events import EventBatch
from modicum.events.operations import (
    Fragments,
    drift_space,
    drop_fragments,
    first_and_last,
    reverse_x,
)
from modicum.events.transforms import EventTransform, check_probability

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class EventDrop(EventTransform):
    """Drop events: none, those of a time, those of an area, or any, with equal chance.

    A recording of which nothing is left is given back unchanged.
    """

    official_area_bug: bool = False
    """Drop a cross instead of a rectangle, as the authors' code does: all events whose column or
    whose row is one of the rectangle's."""

    def on_batch(self, batch: EventBatch, random: SampleRandom) -> EventBatch:
        """See `EventTransform.on_batch`."""
        draws = random.uniform(5, "event drop")
        choice = np.floor(4 * draws[:, 0])  # 0 drops nothing
        share = (1 + np.floor(9 * draws[:, 1])) / 10
        ratio = (1 + np.floor(5 * draws[:, 1])) / 20
        if (choice == 1).any():
            window = time_window(batch, draws[:, 2], share)
            batch = drop_fragments(batch, window.only(choice == 1))
        if (choice == 2).any():
            box = area(batch, draws[:, 2:4] * [batch.width, batch.height], ratio)
            drop = drop_cross if self.official_area_bug else drop_fragments
            batch = drop(batch, box.only(choice == 2))
        if (choice == 3).any():
            batch = drop_random(batch, np.where(choice == 3, share, 0), random)
        return batch


def time_window(batch: EventBatch, start: Floats, share: Floats) -> Fragments:
    """The time `last start <= t <= last (start + share)`, where last is a recording's last time.

    Args:
        batch: Recordings.
        start: Where the window starts, as a share of the last time, (B,).
        share: How long it is, likewise.
    """
    _, last = first_and_last(batch)
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
        batch = drift_space(batch, shift[:, 0], shift[:, 1])
        return reverse_x(batch, Fragments.whole(batch).only(draws[:, 2] < self.flip))
