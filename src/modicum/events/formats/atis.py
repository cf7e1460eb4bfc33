"""ATIS `.bin` and SLAYER's `.bs2`: N-MNIST and N-Caltech101.

No header. An event is 40 bits, big-endian: 8 bits x, 8 bits y, 1 bit polarity, 23 bits time in
microseconds. 23 bits last 8.4 seconds; what looks like an event with y = 240 is none, but says that
all events after it are 2^13 microseconds later. The sensor's size is not stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from modicum.events.formats.recording import BLOCK, Block, File, Recording, places

RECORD = 5
"""Bytes an event."""
MARKER = 240
"""The y of an overflow marker."""
MARKER_SHIFT = 13
"""A marker stands for 2^13 microseconds."""
TIME_BITS = 23


def recording(file: File) -> Recording:
    """Open an ATIS file."""
    count = file.count_records(0, RECORD)
    return Recording(None, count, lambda: _blocks(file, count))


def _blocks(file: File, count: int) -> Iterator[Block]:
    markers = 0
    for start in range(0, count, BLOCK):
        shape, first = (min(BLOCK, count - start),), RECORD * start
        x: npt.NDArray[Any] = np.ndarray(shape, np.uint8, file.data, first, (RECORD,))
        rest = np.ndarray(shape, ">u4", file.data, first + 1, (RECORD,)).astype(np.uint32)
        y = rest >> 24
        p = (rest >> TIME_BITS) & 1
        t: npt.NDArray[Any] = rest & ((1 << TIME_BITS) - 1)
        kept = None
        is_marker = y == MARKER
        if is_marker.any():
            before = markers + np.cumsum(is_marker, dtype=np.int64)
            markers = int(before[-1])
            kept = np.flatnonzero(~is_marker)
            t = (t + (before << MARKER_SHIFT))[kept]
            x, y, p = x[kept], y[kept], p[kept]
        elif markers:
            t = t + np.int64(markers << MARKER_SHIFT)
        yield Block(t, x, y, p, places(first, RECORD, kept))
