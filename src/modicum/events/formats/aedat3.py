"""AEDAT 3.1: DVS128 Gesture.

A text header up to `#!END-HEADER`, then packets of events of one type. A packet has a little-endian
header of 28 bytes; polarity events are two 32-bit words: bit 0 valid, bit 1 polarity, 15 bits y,
15 bits x, and the lower 31 bits of the time in microseconds, the rest of which is in the header.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from modicum.events.formats.recording import BLOCK, Block, File, Recording, Size, check_aedat

RECORD = 8
"""Bytes a polarity event."""
POLARITY = 1
"""The type of packets that are read; frames, accelerations and so on are skipped."""
CHIPS: dict[bytes, Size] = {b"DVS128": (128, 128), b"DAVIS240": (180, 240), b"DAVIS346": (260, 346)}
"""Sensor sizes by what the header calls the source."""

_HEADER = struct.Struct("<hhiiiiii")
_END = b"#!END-HEADER\r\n"
_LONGEST_HEADER = 1 << 20


_Part: TypeAlias = tuple[int, int, int]
"""Polarity events that lie together: the byte of the first, their number, the time's overflow."""


def recording(file: File, keep_invalid: bool) -> Recording:
    """Open an AEDAT 3.1 file.

    With `keep_invalid`, events stay that the camera's software has marked as noise filters do.
    """
    check_aedat(file, "3.1")
    end = file.data.find(_END, 0, _LONGEST_HEADER)
    if end < 0:
        raise file.error(0, "the header has no end: the line #!END-HEADER is missing.")
    chip = re.search(rb"^#\s?Source \d+: ?([A-Z]+\d{3})", file.data[:end], re.MULTILINE)
    sensor = CHIPS.get(chip[1]) if chip else None
    start = end + len(_END)
    most = (len(file.data) - start) // RECORD
    return Recording(sensor, most, lambda: _blocks(file, start, keep_invalid))


def _parts(file: File, start: int) -> Iterator[_Part]:
    """The polarity packets, in parts of at most `BLOCK` events."""
    data, size, header = file.data, len(file.data), _HEADER.size
    while start < size:
        if size - start < header:
            file.cut(start, f"{size - start} bytes left over, less than a packet's header.")
            return
        kind, _, event, _, overflow, capacity, count, _ = _HEADER.unpack_from(data, start)
        if event < 1 or not 0 <= count <= capacity or overflow < 0 or kind < 0:
            raise file.error(
                start,
                f"no packet starts here: type {kind}, {count} events of a capacity of {capacity}, "
                f"{event} bytes each, time overflow {overflow}. The file is damaged.",
            )
        if kind == POLARITY and event != RECORD:
            raise file.error(start, f"polarity events of {event} bytes; expected {RECORD}.")
        place = start + header
        end = place + event * count
        if end > size:
            file.cut(
                start,
                f"a packet of {count:,} events of {event} bytes runs past the end of the file by "
                f"{end - size:,} bytes.",
            )
            count = (size - place) // event
        if kind == POLARITY:
            for first in range(0, count, BLOCK):
                yield place + RECORD * first, min(BLOCK, count - first), overflow
        start = end


def _blocks(file: File, start: int, keep_invalid: bool) -> Iterator[Block]:
    """Decode many small packets at once: a packet often holds less than a hundred events."""
    gathered: list[_Part] = []
    total = 0
    for part in _parts(file, start):
        if total + part[1] > BLOCK:
            yield _decode(file, gathered, keep_invalid)
            gathered, total = [], 0
        gathered.append(part)
        total += part[1]
    if gathered:
        yield _decode(file, gathered, keep_invalid)


def _decode(file: File, parts: Sequence[_Part], keep_invalid: bool) -> Block:
    data = memoryview(file.data)
    stored = b"".join([data[place : place + RECORD * count] for place, count, _ in parts])
    events = np.frombuffer(stored, "<u8")
    kept = None
    if not keep_invalid and not (valid := (events & 1).astype(np.bool_)).all():
        kept = np.flatnonzero(valid)
        events = events[kept]
    starts, counts, overflows = np.array(parts, dtype=np.int64).T

    def place(event: int) -> int:
        number = event if kept is None else int(kept[event])
        ends = np.cumsum(counts)
        part = int(np.searchsorted(ends, number, side="right"))
        return int(starts[part] + RECORD * (number - ends[part] + counts[part]))

    t: npt.NDArray[Any] = events >> 32
    word = events.astype(np.uint32)
    if t.max(initial=0) >> 31:
        bad = int(np.argmax(t >> 31))
        raise file.error(place(bad), f"the time of an event is {t[bad]:,}; expected below 2^31.")
    if overflows.any():
        high = np.repeat(overflows << 31, counts)
        t = t.astype(np.int64) + (high if kept is None else high[kept])
    return Block(t, word >> 17, (word >> 2) & 0x7FFF, (word >> 1) & 1, place)
