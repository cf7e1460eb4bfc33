"""Writing recordings, in the formats that hold them without loss."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from modicum.errors import ConfigError, DataError, require
from modicum.events.container import Events
from modicum.events.formats import atis, prophesee
from modicum.system.files import atomic_write

WITHOUT_SIZE = (".npy", ".bin", ".bs2")
"""Suffixes of files that do not hold the size of the sensor."""
_MOST_MARKERS = 1 << 24


def write(path: str | Path, events: Events) -> None:
    """Write a recording; the suffix says how. `modicum.events.read` gives the same events back.

    | suffix | holds |
    |---|---|
    | `.npz`, `.h5` | everything; `.h5` needs h5py |
    | `.npy` | the events, as a structured array with fields t, x, y, p |
    | `.dat` | x and y up to 16,383, times from 0 without gaps of an hour |
    | `.bin`, `.bs2` | the events, x up to 255, y up to 239, times that fall by 8.3 s at most |

    `.npy`, `.bin` and `.bs2` do not hold the size of the sensor: give it to `read` again.

    The file appears whole or not at all.

    Raises:
        ConfigError: The suffix is of no format that is written.
        DataError: The format cannot hold these events; the message says which ones.
        MissingExtraError: `.h5`, and h5py is not installed.
    """
    path = Path(path)
    try:
        data = encode(path.suffix, events)
    except (ConfigError, DataError) as error:
        raise type(error)(f"{path}: {error}") from None
    with atomic_write(path) as file:
        file.write(data)


def encode(suffix: str, events: Events) -> bytes:
    """The bytes of a file with this suffix; see `write`."""
    suffix = suffix.lower()
    if suffix == ".aedat":
        raise ConfigError(
            "AEDAT is read, but not written: its readers disagree on which way up it is. Write "
            ".npz instead."
        )
    if suffix not in _ENCODERS:
        raise ConfigError(
            f"no format that is written has the suffix {suffix!r}. Known: {', '.join(_ENCODERS)}."
        )
    try:
        return _ENCODERS[suffix](events)
    except DataError as error:
        raise DataError(f"{suffix} cannot hold these events: {error} Or write .npz.") from None


def _npz(events: Events) -> bytes:
    stream = io.BytesIO()
    columns = {name: getattr(events, name) for name in "txyp"}
    np.savez(stream, **columns, height=np.int64(events.height), width=np.int64(events.width))
    return stream.getvalue()


def _npy(events: Events) -> bytes:
    stream = io.BytesIO()
    np.save(stream, events.to_structured("txyp"), allow_pickle=False)
    return stream.getvalue()


def _h5(events: Events) -> bytes:
    library = require("h5py", "events", "writing .h5 files")
    stream = io.BytesIO()
    with library.File(stream, "w") as file:
        group = file.create_group("events")
        for name in "txyp":
            group.create_dataset(name, data=getattr(events, name))
        group.attrs["height"], group.attrs["width"] = events.height, events.width
    return stream.getvalue()


def _bin(events: Events) -> bytes:
    """40-bit events, with an overflow marker for every 2^13 microseconds that 23 bits lack."""
    _check_range(events, largest_x=255, largest_y=atis.MARKER - 1)
    most = (1 << atis.TIME_BITS) - 1
    lacking = np.maximum(events.t - most, 0)
    markers = np.maximum.accumulate(-(-lacking >> atis.MARKER_SHIFT))
    t = events.t - (markers << atis.MARKER_SHIFT)
    if t.min(initial=0) < 0:
        place = int(np.argmax(t < 0))
        raise DataError(
            f"the time of event {place:,} is {events.t[place]:,} us, too far before that of an "
            f"event before it. Sort them."
        )
    needed = int(markers[-1]) if len(events) else 0
    if needed > _MOST_MARKERS:
        raise DataError(
            f"times go up to {events.t.max():,} us, for which {needed:,} overflow markers of "
            f"8,192 us would be needed. Subtract the first time."
        )
    records = np.zeros((len(events) + needed, atis.RECORD), np.uint8)
    records[:, 1] = atis.MARKER
    word = t | (events.p.astype(np.int64) << atis.TIME_BITS)
    columns = (events.x, events.y, word >> 16, word >> 8 & 0xFF, word & 0xFF)
    records[np.arange(len(events)) + markers] = np.stack(columns, axis=1).astype(np.uint8)
    return records.tobytes()


def _dat(events: Events) -> bytes:
    _check_range(events, largest_x=0x3FFF, largest_y=0x3FFF)
    words = np.empty((len(events), 2), "<u4")
    words[:, 0] = events.t & 0xFFFFFFFF
    words[:, 1] = events.x | events.y.astype(np.uint32) << 14 | events.p.astype(np.uint32) << 28
    if len(events) and not np.array_equal(prophesee.unwrap(words[:, 0])[0], events.t):
        raise DataError(
            "times are stored modulo 2^32 us, 71 minutes, and these cannot be told from that. Sort "
            "them, and subtract the first time."
        )
    header = f"% Version 2\n% Height {events.height}\n% Width {events.width}\n"
    kind = bytes([prophesee.CHANGE_DETECTION, prophesee.RECORD])
    return f"% Data file containing CD events.\n{header}".encode() + kind + words.tobytes()


def _check_range(events: Events, largest_x: int, largest_y: int) -> None:
    x, y = int(events.x.max(initial=0)), int(events.y.max(initial=0))
    if x > largest_x or y > largest_y:
        raise DataError(
            f"x goes up to {x} and y up to {y}; the largest are x = {largest_x}, y = {largest_y}."
        )
    if (earliest := int(events.t.min(initial=0))) < 0:
        raise DataError(f"the earliest time is {earliest:,} us; times must not be negative.")


_ENCODERS: dict[str, Callable[[Events], bytes]] = {
    **{".npz": _npz, ".npy": _npy, ".h5": _h5, ".hdf5": _h5},
    **{".dat": _dat, ".bin": _bin, ".bs2": _bin},
}
