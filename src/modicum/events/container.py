"""Event streams: one recording, and a batch of recordings of unequal length.

An event camera reports, for every pixel by itself, when its brightness has changed by a step: an
event is (t, x, y, p), the time, the pixel, and whether it became brighter (ON, p = 1) or darker
(OFF, p = 0). A recording is kept as one array a column, which is what every operation works on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from modicum.errors import DataError

Array = npt.NDArray[Any]
LARGEST_SIDE = 2**15
"""Pixels. Coordinates are int16, which every format read here fits."""
DECODED = 13
"""Bytes of an event in memory: 8 of t, 2 of x, 2 of y, 1 of p."""


@dataclass(frozen=True, eq=False)
class _Columns:
    """The four columns and the sensor's size, which recordings and batches share."""

    t: npt.NDArray[np.int64]
    """Time in microseconds, int64 (N,)."""
    x: npt.NDArray[np.int16]
    """Column of the pixel, 0 to width - 1 from the left, int16 (N,)."""
    y: npt.NDArray[np.int16]
    """Row of the pixel, 0 to height - 1 from the top, int16 (N,)."""
    p: npt.NDArray[np.uint8]
    """Polarity, uint8 (N,): 1 is ON (brighter), 0 is OFF (darker)."""
    height: int
    """Rows of the sensor."""
    width: int
    """Columns of the sensor."""

    def __post_init__(self) -> None:
        length = len(self.t)
        for name, kind in (("t", np.int64), ("x", np.int16), ("y", np.int16), ("p", np.uint8)):
            column: Array = getattr(self, name)
            if column.ndim != 1 or len(column) != length:
                raise ValueError(
                    f"events: the column {name} has the shape {column.shape}, expected "
                    f"({length},) as t has."
                )
            # A view that cannot be written to, so that no operation changes its input.
            column = column.astype(kind, copy=False).view()
            column.flags.writeable = False
            object.__setattr__(self, name, column)
        _check_sensor(self.height, self.width)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are made by the constructor: their columns are read-only too."""
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    def __len__(self) -> int:
        """Number of events."""
        return len(self.t)

    def replace(self, **changes: Any) -> Self:
        """A copy with other columns or another sensor size."""
        return replace(self, **changes)

    def on_sensor(self, height: int, width: int) -> Self:
        """The same events on a sensor that is at least as large; a `DataError` if it is smaller."""
        if self.height > height or self.width > width:
            raise DataError(
                f"events: the recording needs a sensor of {self.height} x {self.width} pixels "
                f"(height x width), expected was one of {height} x {width} or smaller. Use "
                f"recordings of that sensor, or crop them to that size."
            )
        return self.replace(height=height, width=width)


@dataclass(frozen=True, eq=False)
class Events(_Columns):
    """One recording: columns `t, x, y, p` and the sensor's `height` and `width`. Immutable.

    The constructor looks at shapes alone; `Events.of` checks every value of unknown origin.
    """

    @classmethod
    def of(
        cls,
        t: npt.ArrayLike,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        p: npt.ArrayLike,
        *,
        height: int | None = None,
        width: int | None = None,
    ) -> Self:
        """Events from columns of any number type; a `DataError` for values that are none.

        Args:
            t: Microseconds; fractions of one are rounded down.
            x: Columns.
            y: Rows.
            p: Polarities, coded 0 and 1, -1 and 1, or bool.
            height: Rows of the sensor; none: just enough for the largest y.
            width: Columns of the sensor; none: just enough for the largest x.
        """
        columns = {n: np.asarray(c) for n, c in (("t", t), ("x", x), ("y", y), ("p", p))}
        lengths = {name: column.shape for name, column in columns.items()}
        if len(set(lengths.values())) > 1 or columns["t"].ndim != 1:
            raise DataError(
                f"events: the columns have the shapes {lengths}; expected four of one length (N,)."
            )
        whole = {name: _whole(name, column) for name, column in columns.items()}
        height = int(whole["y"].max(initial=0)) + 1 if height is None else height
        width = int(whole["x"].max(initial=0)) + 1 if width is None else width
        _check_sensor(height, width)
        for name, size in (("x", width), ("y", height)):
            low, high = int(whole[name].min(initial=0)), int(whole[name].max(initial=0))
            if low < 0 or high >= size:
                raise DataError(
                    f"events: {name} goes from {low} to {high}, but the sensor has {height} rows "
                    f"and {width} columns: expected 0 to {size - 1}. Give the sensor's real size, "
                    f"or crop the events."
                )
        columns = (whole["t"], whole["x"], whole["y"], _zero_or_one(whole["p"]))
        return cls(*columns, height, width)

    @classmethod
    def from_structured(
        cls, array: Array, *, height: int | None = None, width: int | None = None
    ) -> Self:
        """Events from a structured array with fields t, x, y, p in any order, as tonic has them."""
        names = array.dtype.names or ()
        if missing := [name for name in "txyp" if name not in names]:
            raise DataError(
                f"events: the structured array has the fields {', '.join(names) or 'none'}; "
                f"missing: {', '.join(missing)}."
            )
        return cls.of(*(array[name] for name in "txyp"), height=height, width=width)

    def to_structured(self, order: str = "xytp") -> Array:
        """A structured array (N,) of tonic's types: t is int64, x and y are int16, p is bool."""
        kinds = {"t": np.int64, "x": np.int16, "y": np.int16, "p": np.bool_}
        made = np.empty(len(self), dtype=[(name, kinds[name]) for name in order])
        for name in order:
            made[name] = getattr(self, name)
        return made

    @classmethod
    def from_array(
        cls,
        array: npt.ArrayLike,
        columns: str = "xytp",
        *,
        height: int | None = None,
        width: int | None = None,
    ) -> Self:
        """Events from an array `(N, 4)` of integers, or floats without fractions.

        `columns` says what its columns are. For the sensor's size and what is raised see `of`.
        """
        values = np.asarray(array)
        if values.ndim != 2 or values.shape[1] != 4 or sorted(columns) != sorted("txyp"):
            raise DataError(
                f"events: an array of shape {values.shape} with the columns {columns!r}; expected "
                f"(N, 4) and the letters t, x, y, p once each."
            )
        order = (values[:, columns.index(name)] for name in "txyp")
        return cls.of(*order, height=height, width=width)

    def to_array(self, columns: str = "xytp", *, signed: bool = False) -> npt.NDArray[np.int64]:
        """An array `(N, 4)`, int64; with `signed`, polarity is -1 and 1."""
        p = self.p.astype(np.int64)
        named = {"t": self.t, "x": self.x, "y": self.y, "p": 2 * p - 1 if signed else p}
        return np.stack([named[name] for name in columns], axis=1, dtype=np.int64)

    @property
    def duration(self) -> int:
        """Microseconds from the first event to the last; 0 for fewer than two."""
        return int(self.t[-1] - self.t[0]) if len(self) else 0

    @property
    def is_sorted(self) -> bool:
        """Whether time never decreases."""
        return bool((self.t[1:] >= self.t[:-1]).all())

    def sort(self) -> Self:
        """The events in order of time; those at the same time keep their order."""
        return self if self.is_sorted else self[np.argsort(self.t, kind="stable")]

    def __getitem__(self, key: slice | Array) -> Self:
        """Some of the events: by a slice, indices or a mask."""
        return self.replace(t=self.t[key], x=self.x[key], y=self.y[key], p=self.p[key])

    def __repr__(self) -> str:
        size = f"{self.height} x {self.width}"
        return f"Events({len(self):,} events, {self.duration / 1e6:.3f} s, {size})"


@dataclass(frozen=True, eq=False)
class EventBatch(_Columns):
    """Recordings of one sensor, one after the other: what operations on a batch work on."""

    starts: npt.NDArray[np.int64]
    """Where each recording starts, and the end of the last: int64 (B + 1,), starts[0] = 0."""

    @classmethod
    def of(cls, recordings: Sequence[Events]) -> Self:
        """Put one recording or more together; the sensor is as large as the largest needs."""
        if not recordings:
            raise DataError("events: a batch needs at least one recording.")
        if len(recordings) == 1:
            (one,) = recordings
            ends = np.array([0, len(one)])
            return cls(one.t, one.x, one.y, one.p, one.height, one.width, ends)
        lengths = [len(recording) for recording in recordings]
        return cls(
            *(np.concatenate([getattr(r, name) for r in recordings]) for name in "txyp"),
            height=max(r.height for r in recordings),
            width=max(r.width for r in recordings),
            starts=np.concatenate([[0], np.cumsum(lengths)]),
        )

    @property
    def size(self) -> int:
        """Number of recordings, B."""
        return len(self.starts) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Events of each recording, (B,)."""
        return np.diff(self.starts)

    @property
    def sample(self) -> npt.NDArray[np.int64]:
        """Which recording each event belongs to, (N,)."""
        return np.repeat(np.arange(self.size), self.lengths)

    @overload
    def __getitem__(self, key: int) -> Events: ...
    @overload
    def __getitem__(self, key: slice) -> list[Events]: ...
    def __getitem__(self, key: int | slice) -> Events | list[Events]:
        """One recording by its number, or several."""
        if isinstance(key, slice):
            return [self[number] for number in range(self.size)[key]]
        number = range(self.size)[key]  # an IndexError, and negative numbers count from the end
        part = slice(int(self.starts[number]), int(self.starts[number + 1]))
        columns = (self.t[part], self.x[part], self.y[part], self.p[part])
        return Events(*columns, self.height, self.width)

    def __iter__(self) -> Iterator[Events]:
        return (self[number] for number in range(self.size))

    def keep(self, mask: npt.NDArray[np.bool_]) -> Self:
        """The events where the mask `(N,)` is true; recordings may become empty."""
        kept = np.concatenate([[0], np.cumsum(mask, dtype=np.int64)])
        return self.replace(
            t=self.t[mask], x=self.x[mask], y=self.y[mask], p=self.p[mask], starts=kept[self.starts]
        )

    def __repr__(self) -> str:
        return f"EventBatch({self.size} recordings, {len(self):,} events)"


def _check_sensor(height: int, width: int) -> None:
    """Raise a `DataError` for sides that no sensor has."""
    if not (0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE):
        raise DataError(
            f"events: the sensor is {height} x {width} pixels (height x width); expected sides "
            f"of 1 to {LARGEST_SIDE}."
        )


def _whole(name: str, column: Array) -> Array:
    """A column as integers; a `DataError` if it holds something else."""
    if column.dtype == np.bool_:
        return column.astype(np.uint8)
    if column.dtype.kind not in "iuf":
        raise DataError(f"events: the column {name} is of type {column.dtype}; expected numbers.")
    if column.dtype.kind in "iu" and column.dtype != np.uint64:
        return column
    with np.errstate(invalid="ignore"):  # signalling NaN
        bad = ~(np.abs(column) < 2.0**63)
        if name != "t":  # times with a fraction of a microsecond are rounded down
            bad |= column != np.floor(column)
    if bad.any():
        place = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"events: {name}[{place}] is {column[place]}; expected a whole number. Such values: "
            f"{int(bad.sum()):,} of {len(column):,}."
        )
    return np.floor(column).astype(np.int64)


def _zero_or_one(p: Array) -> npt.NDArray[np.uint8]:
    """Polarity coded 0 and 1, from that or from -1 and 1; a `DataError` of another value."""
    low, high = p.min(initial=0), p.max(initial=0)
    if low < -1 or high > 1 or (low == -1 and (p == 0).any()):
        values = np.unique(p).tolist()
        raise DataError(
            f"events: polarity has the values {values[:6]}; expected 0 and 1, -1 and 1, or bool."
        )
    return (p > 0).astype(np.uint8)
