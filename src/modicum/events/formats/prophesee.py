"""Prophesee `.dat`: N-CARS and GEN1.

A text header of lines that start with `%`, one byte for the type of the events and one for their
size; neither where no line starts with `%`. An event is two little-endian 32-bit words: the time in
microseconds, and 14 bits x, 14 bits y and the polarity from the lowest bit up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from modicum.events.formats.recording import BLOCK, Block, File, Recording, Size, places

RECORD = 8
"""Bytes an event."""
CHANGE_DETECTION = 0x0C
"""The type of events of current cameras; N-CARS has 0. Other types are triggers and the like."""
TIME_BITS = 32

_LONGEST_LINE = 1 << 16


def recording(file: File) -> Recording:
    """Open a Prophesee `.dat` file."""
    sensor, start = _header(file)
    count = file.count_records(start, RECORD)
    return Recording(sensor, count, lambda: _blocks(file, start, count))


def _header(file: File) -> tuple[Size | None, int]:
    """Sensor size, and where the events start."""
    data, start = file.data, 0
    sides: dict[bytes, int] = {}
    while data[start : start + 1] == b"%":
        end = data.find(b"\n", start, start + _LONGEST_LINE)
        if end < 0:
            raise file.error(start, "a header line, begun by %, has no end; the header is damaged.")
        line = data[start:end]
        if re.match(rb"%\s*(evt\s|format\s+EVT)", line):
            raise file.error(
                start,
                f"the header says {line.decode('latin-1').strip('% ')!r}: a RAW file, which is "
                f"not read. Convert it to .dat or .h5 with Prophesee's tools.",
            )
        if found := re.match(rb"%\s*(height|width)\s+(\d{1,9})\s*$", line, re.IGNORECASE):
            sides[found[1].lower()] = file.side(found[1].decode().lower(), int(found[2]), start)
        start = end + 1
    sensor = (sides[b"height"], sides[b"width"]) if len(sides) == 2 else None
    if start == 0:  # no header, and then no type and size either
        return sensor, start
    if len(data) < start + 2:
        raise file.error(start, "the file ends after its header, before the size of its events.")
    kind, size = data[start], data[start + 1]
    if kind not in (0, CHANGE_DETECTION):
        raise file.error(
            start,
            f"the events are of type 0x{kind:02X}; expected 0x00 or 0x0C, the changes of pixels.",
        )
    if size != RECORD:
        raise file.error(start + 1, f"the events have {size} bytes; expected {RECORD}.")
    return sensor, start + 2


def _blocks(file: File, start: int, count: int) -> Iterator[Block]:
    words = np.ndarray((count, 2), "<u4", file.data, start)
    last, wraps = None, 0
    for first in range(0, count, BLOCK):
        block = words[first : first + BLOCK]
        stored, word = block[:, 0], block[:, 1].copy()
        t, wraps = unwrap(stored, last, wraps)
        last = int(stored[-1])
        x, y, p = word & 0x3FFF, (word >> 14) & 0x3FFF, (word >> 28) & 1
        yield Block(t, x, y, p, places(start + RECORD * first, RECORD))


def unwrap(
    stored: npt.NDArray[np.uint32], last: int | None = None, wraps: int = 0
) -> tuple[npt.NDArray[Any], int]:
    """Times of their lowest 32 bits, and how often time has wrapped up to the end.

    A time that is smaller by more than 2^31 than that before has wrapped. Before the first, `last`
    was stored, and time had wrapped `wraps` times.
    """
    half = 1 << (TIME_BITS - 1)
    low, high = int(stored.min()), int(stored.max())
    if max(high, last or 0) - low <= half:  # nothing can have wrapped
        return (stored + np.int64(wraps << TIME_BITS) if wraps else stored), wraps
    times = stored.astype(np.int64)
    steps = np.diff(times, prepend=times[0] if last is None else last)
    turns = wraps + np.cumsum(steps < -half)
    return times + (turns << TIME_BITS), int(turns[-1])
