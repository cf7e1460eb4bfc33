"""What can be done to events: reverse, drift, crop and drop them, a whole batch at once.

Every function takes recordings sorted by time and gives new ones, sorted by time; events at the
same time keep the order they came in. It takes one recording (`Events`) as well as an `EventBatch`
of B and gives what it was given; one recording is a batch of B = 1. What differs from recording to
recording is an array with a value a recording, `(B,)`; a single number serves all. Nothing here is
random: the transforms that draw the numbers are in `modicum.events.transforms` and in the methods.

The definitions are inferred from the abstracts of arXiv 2207.11659.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Concatenate, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from typing_extensions import ParamSpec

from modicum.errors import ConfigError, DataError
from modicum.events.container import EventBatch, Events

Array = npt.NDArray[Any]
Integers: TypeAlias = npt.NDArray[np.int64]
Border: TypeAlias = Literal["drop", "wrap", "clip"]
OneOrBatch = TypeVar("OneOrBatch", Events, EventBatch)
_P = ParamSpec("_P")
_CHUNK = 2**17
"""Events that are put in order at a time: few enough that what is computed stays in the cache."""


@dataclass(frozen=True)
class Fragments:
    """The part of each recording that an operation changes: a window of time, perhaps a box.

    All ends are included. A window that ends before it starts holds nothing. For frames
    (`modicum.events.frame_operations`) the window counts frames instead of microseconds.
    """

    start: Integers
    """First microsecond of each window, (B,)."""
    end: Integers
    """Last microsecond of each window, (B,)."""
    box: Integers | None = None
    """(x0, y0, x1, y1) in pixels, (B,4); none: the whole sensor."""

    @classmethod
    def whole(cls, events: Events | EventBatch) -> Fragments:
        """Whole recordings, from the first event to the last."""
        return cls(*first_and_last(events))

    def only(self, chosen: npt.NDArray[np.bool_]) -> Fragments:
        """These fragments where `chosen` (B,) is true; nothing of the other recordings."""
        return replace(self, start=np.where(chosen, self.start, self.end + 1))


def as_batch(events: Events | EventBatch) -> EventBatch:
    """A batch as it is, one recording as a batch of one."""
    return events if isinstance(events, EventBatch) else EventBatch.of([events])


class _Operation(Protocol[_P]):
    def __call__(
        self, events: OneOrBatch, /, *args: _P.args, **kwargs: _P.kwargs
    ) -> OneOrBatch: ...


def one_or_batch(operation: Callable[Concatenate[EventBatch, _P], EventBatch]) -> _Operation[_P]:
    """An operation on batches that also takes one recording, and then gives one."""

    @functools.wraps(operation)
    def apply(events: Any, /, *args: _P.args, **kwargs: _P.kwargs) -> Any:
        changed = operation(as_batch(events), *args, **kwargs)
        return changed if isinstance(events, EventBatch) else changed[0]

    return apply


def first_and_last(events: Events | EventBatch) -> tuple[Integers, Integers]:
    """Time of the first and of the last event of each recording, (B,) each; empty: 0 and -1."""
    batch = as_batch(events)
    first, last = np.zeros(batch.size, np.int64), np.full(batch.size, -1, np.int64)
    filled = batch.lengths > 0
    first[filled] = batch.t[batch.starts[:-1][filled]]
    last[filled] = batch.t[batch.starts[1:][filled] - 1]
    return first, last


@one_or_batch
def reverse_time(
    events: EventBatch, fragments: Fragments | None = None, *, couple_polarity: bool = True
) -> EventBatch:
    """Play fragments backwards: `t' = start + end - t` and, coupled, `p' = 1 - p`.

    A change of brightness seen backwards has the opposite sign, so reversing time alone describes
    nothing that a camera could record; `couple_polarity=False` is for ablations.
    """
    fragments = Fragments.whole(events) if fragments is None else fragments
    chosen = _choose(events, fragments)
    if not chosen.bounds[-1]:
        return events
    turn = chosen.spread(fragments.start + fragments.end)
    flip = np.uint8(couple_polarity)
    if fragments.box is not None:  # the events outside the box stay in between
        t, p = events.t.copy(), events.p.copy()
        t[chosen.index] = turn - t[chosen.index]
        p[chosen.index] ^= flip
        return in_order(events.replace(t=t, p=p))
    # Nothing else lies in the window, so its events only change their order.
    index = chosen.index
    opposite = chosen.spread(chosen.bounds[:-1] + chosen.bounds[1:] - 1)
    t = events.t[index]
    t = turn - (t[::-1] if len(opposite) == 1 else t.take(opposite - np.arange(len(t))))
    others = [column[index] for column in (events.x, events.y, events.p)]
    x, y, p = _reversed(others, t, chosen.bounds, opposite)
    return events.replace(
        t=_put(events.t, index, t),
        x=_put(events.x, index, x),
        y=_put(events.y, index, y),
        p=_put(events.p, index, p ^ flip),
    )


@one_or_batch
def reverse_polarity(events: EventBatch, fragments: Fragments | None = None) -> EventBatch:
    """Exchange ON and OFF: `p' = 1 - p`, what a camera sees where bright and dark change roles."""
    chosen = _choose(events, fragments)
    return events.replace(p=_put(events.p, chosen.index, events.p[chosen.index] ^ np.uint8(1)))


@one_or_batch
def reverse_x(events: EventBatch, fragments: Fragments | None = None) -> EventBatch:
    """Mirror left and right: `x' = x0 + x1 - x` in the box, `width - 1 - x` without one."""
    return events.replace(x=_mirror(events, fragments, 0))


@one_or_batch
def reverse_y(events: EventBatch, fragments: Fragments | None = None) -> EventBatch:
    """Mirror top and bottom: `y' = y0 + y1 - y` in the box, `height - 1 - y` without one."""
    return events.replace(y=_mirror(events, fragments, 1))


@one_or_batch
def drift_space(
    events: EventBatch,
    dx: npt.ArrayLike,
    dy: npt.ArrayLike,
    fragments: Fragments | None = None,
    *,
    border: Border = "drop",
) -> EventBatch:
    """Shift fragments over the sensor: `x' = x + dx`, `y' = y + dy`, whole pixels, (B,) or one.

    Events that leave the sensor are dropped, or come in again on the other side (`border` "wrap":
    modulo the width and the height).

    Raises:
        DataError: A shift is larger than the sensor.
        ConfigError: "clip" was asked for.
    """
    chosen = _choose(events, fragments)
    across, down = (chosen.spread(s.astype(np.int16)) for s in _shifts(events, dx=dx, dy=dy))
    return _shifted(events, chosen, across, down, border)


@one_or_batch
def drift_velocity(
    events: EventBatch,
    vx: npt.ArrayLike,
    vy: npt.ArrayLike,
    fragments: Fragments | None = None,
    *,
    border: Border = "drop",
) -> EventBatch:
    """Shift fragments more and more: `x' = x + rint(vx s)`, `s = (t - start) / (end - start)`.

    `vx` and `vy` are the shifts in pixels at the end of the fragment, (B,) or one, floats; halves
    are rounded to even. The rest is as for `drift_space`.
    """
    fragments = Fragments.whole(events) if fragments is None else fragments
    chosen = _choose(events, fragments)
    share = events.t[chosen.index] - chosen.spread(fragments.start)
    share = share / chosen.spread(np.maximum(fragments.end - fragments.start, 1))
    shifts = (chosen.spread(largest) * share for largest in _shifts(events, vx=vx, vy=vy))
    across, down = (np.rint(shift, out=shift).astype(np.int16) for shift in shifts)
    return _shifted(events, chosen, across, down, border)


@one_or_batch
def drift_time(
    events: EventBatch,
    dt: npt.ArrayLike,
    fragments: Fragments | None = None,
    *,
    border: Border = "drop",
) -> EventBatch:
    """Shift fragments in time: `t' = t + dt` microseconds, (B,) or one, (B,2) for OFF and ON.

    Events that come before the first or after the last event of the recording are dropped, come in
    again at the other end (`border` "wrap": modulo last - first + 1), or stay at the end ("clip").
    """
    chosen = _choose(events, fragments)
    first, last = (chosen.spread(time) for time in first_and_last(events))
    dt = np.asarray(dt, np.int64)
    if dt.shape == (events.size, 2):
        bright = events.p[chosen.index].view(np.bool_)
        moved = np.where(bright, chosen.spread(dt[:, 1]), chosen.spread(dt[:, 0]))
    else:
        moved = chosen.spread(_per_recording(events, dt, "dt"))
    moved = events.t[chosen.index] + moved
    if border == "wrap":
        moved = first + (moved - first) % (last - first + 1)
    elif border == "clip":
        moved = np.clip(moved, first, last)
    elif border != "drop":
        raise ConfigError(f"drift_time: the border is {border!r}; expected drop, wrap or clip.")
    drifted = events.replace(t=_put(events.t, chosen.index, moved))
    if border != "drop":
        return in_order(drifted)
    kept, lengths = _kept(events, chosen.index, (moved >= first) & (moved <= last))
    order = _order(drifted.t[kept], lengths)
    return _take(drifted, kept if order is None else kept[order], lengths)


@one_or_batch
def crop_time(events: EventBatch, start: npt.ArrayLike, end: npt.ArrayLike) -> EventBatch:
    """Only the events with `start <= t <= end`, microseconds, (B,) or one."""
    window = (_per_recording(events, time, "time") for time in (start, end))
    chosen = _choose(events, Fragments(*window))
    return _take(events, chosen.index, np.diff(chosen.bounds))


@one_or_batch
def crop_space(events: EventBatch, box: npt.ArrayLike, *, resize: bool = False) -> EventBatch:
    """Only the events in a box (x0, y0, x1, y1), ends included, (B,4), or (4,) for all.

    With `resize`, the box is stretched over the sensor, which leaves columns and rows between the
    old ones empty: `x' = floor((x - x0) width / (x1 - x0 + 1))`, and the same for y.
    """
    box = np.asarray(box)
    box = np.tile(box, (events.size, 1)) if box.shape == (4,) else box
    inside = _choose(events, replace(Fragments.whole(events), box=box))
    cropped = _take(events, inside.index, np.diff(inside.bounds))
    if not resize:
        return cropped
    sides = {}
    for axis, (name, size) in enumerate((("x", events.width), ("y", events.height))):
        near, far = box[:, axis], box[:, axis + 2]
        place = getattr(cropped, name).astype(np.int32) - inside.spread(near.astype(np.int32))
        sides[name] = place * np.int32(size) // inside.spread((far - near + 1).astype(np.int32))
    return cropped.replace(**sides)


@one_or_batch
def drop_fragments(events: EventBatch, fragments: Fragments) -> EventBatch:
    """All events but those of the fragments."""
    chosen = _choose(events, fragments)
    return _take(events, *_kept(events, chosen.index, np.zeros(chosen.bounds[-1], np.bool_)))


def keep_or_restore(before: EventBatch, after: EventBatch) -> EventBatch:
    """`after`, but recordings of which nothing is left are given back as they were `before`."""
    lost = (after.lengths == 0) & (before.lengths > 0)
    if not lost.any():
        return after
    if before.size == 1:
        return before
    columns = {name: np.concatenate([getattr(b, name) for b in (after, before)]) for name in "txyp"}
    both = after.replace(**columns)
    low = np.where(lost, before.starts[:-1] + len(after), after.starts[:-1])
    lengths = np.where(lost, before.lengths, after.lengths)
    return _take(both, _ranges(low, low + lengths), lengths)


@one_or_batch
def in_order(events: EventBatch) -> EventBatch:
    """Each recording sorted by time; events at the same time keep their order."""
    order = _order(events.t, events.lengths)
    return events if order is None else _take(events, order, events.lengths)


def decreases(t: Integers, lengths: Integers) -> Integers:
    """The places of events (N,) that are earlier than the one before in their recording (B,)."""
    falls = np.zeros(len(t) + 1, np.bool_)
    np.less(t[1:], t[:-1], out=falls[1:-1])
    falls[np.cumsum(lengths)] = False
    return np.flatnonzero(falls)


@dataclass(frozen=True)
class _Chosen:
    """Where the events of the fragments are in a batch."""

    index: slice | Integers
    """Places of the events: a slice where they follow each other, which is many times as fast."""
    bounds: Integers
    """Where each recording starts among them, and the end of the last: (B + 1,)."""

    def spread(self, values: Array) -> Array:
        """The value (B,) of its recording for each event; just one if only one is needed."""
        counts = np.diff(self.bounds)
        used = np.flatnonzero(counts)
        return values[used] if len(used) == 1 else np.repeat(values, counts)


def _choose(batch: EventBatch, fragments: Fragments | None) -> _Chosen:
    """Find the events of fragments, which are refused if a box is not on the sensor."""
    if fragments is None:
        return _Chosen(slice(0, len(batch)), batch.starts)
    if not fragments.start.shape == fragments.end.shape == (batch.size,):
        raise DataError(
            f"fragments: starts of shape {fragments.start.shape} and ends of shape "
            f"{fragments.end.shape}; expected ({batch.size},), one a recording."
        )
    low = search(batch, fragments.start, "left")
    high = np.maximum(search(batch, fragments.end, "right"), low)
    used = np.flatnonzero(high > low)
    follow = bool((low[used[1:]] == high[used[:-1]]).all())
    if len(used) and follow:
        index = slice(int(low[used[0]]), int(high[used[-1]]))
    else:
        index = _ranges(low, high)
    chosen = _Chosen(index, np.concatenate([[0], np.cumsum(high - low)]))
    return chosen if fragments.box is None else _in_box(batch, chosen, fragments.box)


def _in_box(batch: EventBatch, chosen: _Chosen, box: Integers) -> _Chosen:
    """Those of the chosen events that lie in their recording's box."""
    sides = np.array([batch.width, batch.height])
    wrong = (box[:, :2] < 0) | (box[:, 2:] >= sides) | (box[:, :2] > box[:, 2:])
    if box.shape != (batch.size, 4) or wrong.any():
        worst = box[int(np.argmax(wrong.any(axis=1)))].tolist()
        raise DataError(
            f"fragments: boxes of shape {box.shape}, such as (x0, y0, x1, y1) = {worst}; expected "
            f"({batch.size}, 4) with x0 <= x1 < {batch.width} and y0 <= y1 < {batch.height}."
        )
    x, y = batch.x[chosen.index], batch.y[chosen.index]
    x0, y0, x1, y1 = (chosen.spread(side) for side in box.T.astype(np.int16))
    inside = np.flatnonzero((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1))
    bounds = np.searchsorted(inside, chosen.bounds)
    if isinstance(chosen.index, slice):
        return _Chosen(inside + chosen.index.start, bounds)
    return _Chosen(chosen.index[inside], bounds)


def search(batch: EventBatch, times: Integers, side: Literal["left", "right"]) -> Integers:
    """`np.searchsorted` in each recording, all at once, for times (B,) or (B, T).

    "left" finds the first event at this time or later, "right" the first that is later: its place
    in the batch, or the end of the recording.
    """
    shape = (-1,) + (1,) * (times.ndim - 1)
    low, high = batch.starts[:-1].reshape(shape), batch.starts[1:].reshape(shape)
    low, high, _ = np.broadcast_arrays(low, high, times)
    while (low < high).any():  # once for every doubling of the longest recording
        middle = (low + high) // 2
        found = batch.t[np.minimum(middle, len(batch) - 1)]
        after = (found < times) if side == "left" else (found <= times)
        after &= low < high
        low, high = np.where(after, middle + 1, low), np.where(after, high, middle)
    return low


def _ranges(low: Integers, high: Integers) -> Integers:
    """All of `low[0]..high[0] - 1`, then of `low[1]..high[1] - 1` and so on."""
    counts = np.maximum(high - low, 0)
    if len(low) == 1:
        return np.arange(low[0], low[0] + counts[0])
    ends = np.cumsum(counts)
    numbers = np.repeat(low - ends + counts, counts)
    numbers += np.arange(len(numbers))
    return numbers


def _reversed(
    columns: list[Array], t: Integers, bounds: Integers, opposite: Integers
) -> list[Array]:
    """Columns of events from the last to the first, but those at the same time in their order.

    `t` are the times after the reversal. Each recording is reversed by itself: they start at
    `bounds`, and event `opposite - i` comes to place i, where `opposite` is first plus last place
    of the recording of each event, (N,), or one for all.
    """
    count = len(t)
    begins = np.ones(count + 1, np.bool_)  # whether a group of events at one time begins here
    np.not_equal(t[1:], t[:-1], out=begins[1:-1])
    begins[bounds] = True
    turned = [np.empty_like(column) for column in columns]
    low = 0
    while low < count:
        high = min(low + _CHUNK, count)
        high += int(begins[high:].argmax())  # no group is cut
        source = (opposite if len(opposite) == 1 else opposite[low:high]) - low
        source = source - _swapped(begins[low : high + 1])
        for column, result in zip(columns, turned, strict=True):
            # All places exist. "clip" says so: the default would check them and write to a copy.
            column.take(source, out=result[low:high], mode="clip")
        low = high
    return turned


def _swapped(begins: npt.NDArray[np.bool_]) -> Integers:
    """The places 0..n - 1, each group of them backwards: `first + last - i` instead of i.

    `begins` says whether a group begins here, (n + 1,); the last is the end.
    """
    places = np.arange(len(begins) - 1)
    tied = ~(begins[:-1] & begins[1:])  # in a group of two or more
    if 3 * np.count_nonzero(tied) < len(tied):  # picking these is faster than handling all
        tied = np.flatnonzero(tied)
        places[tied] = _ends(tied, begins.take(tied)) - tied
        return places
    return _ends(places, begins[:-1]) - places


def _ends(places: Integers, heads: npt.NDArray[np.bool_]) -> Integers:
    """First plus last place of the group of each of these places; at `heads` a group begins."""
    edges = np.append(np.flatnonzero(heads), len(places))
    ends = places.take(edges[:-1]) + places.take(edges[1:] - 1)
    # The number of each place's group: quicker than `np.repeat`, which branches at every group.
    return ends.take(np.cumsum(heads) - 1)


def _order(t: Integers, lengths: Integers) -> Integers | None:
    """The order that sorts each recording by time and keeps ties; none if they are sorted."""
    if not len(decreases(t, lengths)):
        return None
    if len(lengths) > 1:  # one sort for all: each recording's times after those of the one before
        low = int(t.min())
        span = int(t.max()) - low + 1
        recording = np.arange(len(lengths))
        if span * len(lengths) >= 2**63:
            return np.lexsort((t, np.repeat(recording, lengths)))
        key = np.repeat(recording * span - low, lengths)
        key += t
        t = key
    # NumPy's stable sort merges runs that are in order already, of which there are few.
    return np.argsort(t, kind="stable")


def _put(column: Array, index: slice | Integers, values: Array) -> Array:
    """A copy of the column with other values in some places."""
    if len(values) == len(column):
        return values
    column = column.copy()
    column[index] = values
    return column


def _take(batch: EventBatch, index: slice | Integers, lengths: Integers) -> EventBatch:
    """A batch of the events at `index`, of which the first `lengths[0]` are recording 0, ..."""
    columns: dict[str, Array] = {name: getattr(batch, name) for name in "txyp"}
    for name, column in columns.items():
        # `take` is faster than indexing, but copies what a slice does not need to.
        columns[name] = column[index] if isinstance(index, slice) else column.take(index)
    return batch.replace(**columns, starts=np.concatenate([[0], np.cumsum(lengths)]))


def _kept(
    batch: EventBatch, index: slice | Integers, good: npt.NDArray[np.bool_]
) -> tuple[Integers, Integers]:
    """All places but those at `index` that are not good; how many of each recording."""
    kept = np.flatnonzero(_put(np.ones(len(batch), np.bool_), index, good))
    return kept, np.diff(np.searchsorted(kept, batch.starts))


def _mirror(batch: EventBatch, fragments: Fragments | None, axis: int) -> Array:
    """The column x (axis 0) or y (axis 1) mirrored in the fragments."""
    chosen = _choose(batch, fragments)
    column, size = ((batch.x, batch.width), (batch.y, batch.height))[axis]
    total = np.full(batch.size, size - 1)
    if fragments is not None and fragments.box is not None:
        total = fragments.box[:, axis] + fragments.box[:, axis + 2]
    # A sum of two coordinates may not fit int16; the difference, of 16 bits as well, does.
    return _put(column, chosen.index, chosen.spread(total.astype(np.int16)) - column[chosen.index])


def _shifted(
    batch: EventBatch, chosen: _Chosen, dx: Array, dy: Array, border: Border
) -> EventBatch:
    """The chosen events moved by int16 shifts, at the border dropped or wrapped."""
    if border not in ("drop", "wrap"):
        raise ConfigError(
            f"a drift in space with the border {border!r}; expected drop or wrap; clip is for time."
        )
    moved, good = [], []
    for column, shift, size in ((batch.x, dx, batch.width), (batch.y, dy, batch.height)):
        place = column[chosen.index]
        if border == "wrap":
            place = ((place + shift.astype(np.int32)) % np.int32(size)).astype(np.int16)
        else:
            # Of unsigned numbers those below 0 are large: one comparison finds both sides.
            place = place.view(np.uint16) + shift.view(np.uint16)
            good.append(place < np.uint16(size))
            place = place.view(np.int16)
        moved.append(_put(column, chosen.index, place))
    drifted = batch.replace(x=moved[0], y=moved[1])
    if border == "wrap":
        return drifted
    return _take(drifted, *_kept(batch, chosen.index, good[0] & good[1]))


def _per_recording(batch: EventBatch, values: npt.ArrayLike, name: str) -> Array:
    """Values (B,) from that or from one for all."""
    array = np.asarray(values)
    if array.shape not in ((), (1,), (batch.size,)):
        raise DataError(
            f"{name}: an array of shape {array.shape}; expected one number or ({batch.size},), "
            f"one a recording."
        )
    return np.broadcast_to(array, (batch.size,))


def _shifts(batch: EventBatch, **values: npt.ArrayLike) -> Iterator[Array]:
    """Shifts (B,) in pixels, first of columns, then of rows; none is larger than the sensor."""
    for (name, shift), size in zip(values.items(), (batch.width, batch.height), strict=True):
        shifts = _per_recording(batch, shift, name)
        largest = np.abs(shifts).max(initial=0)
        if not largest <= size:
            raise DataError(
                f"{name}: a drift of {largest} pixels on a sensor of {batch.height} x "
                f"{batch.width} (height x width); expected {size} at most."
            )
        yield shifts
