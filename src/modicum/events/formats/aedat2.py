"""AEDAT 2.0 of the DVS128: CIFAR10-DVS and MNIST-DVS.

A text header of lines that start with `#`. An event is two big-endian 32-bit words: the address of
the pixel (bit 0 polarity, bits 1 to 7 x, bits 8 to 14 y, bit 15 of no meaning) and the time in
microseconds. A polarity bit of 0 means ON. Pictures appear upright in the convention `jaer`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from modicum.events.formats.recording import BLOCK, Block, File, Recording, check_aedat, places

RECORD = 8
"""Bytes an event."""
SIDE = 128
"""Rows and columns of the DVS128."""

Convention: TypeAlias = Literal["jaer", "dat2mat", "raw"]
"""What code makes of the bits (x_raw, y_raw, bit):

- `jaer`: x = 127 - y_raw, y = 127 - x_raw, p = 1 - bit, as jAER shows them and SpikingJelly reads.
- `dat2mat`: x = 127 - x_raw, y = y_raw, p = 1 - bit, times from 0 and never decreasing, as the
  MATLAB reader of the authors of MNIST-DVS; the preparation used by TET, conv_snn and NDA.
- `raw`: x = x_raw, y = y_raw, p = bit: inverted polarity.

`jaer` and `dat2mat` differ by a transpose: state in results which one was used.
"""

_LONGEST_LINE = 1 << 16


def recording(file: File, convention: Convention) -> Recording:
    """Open an AEDAT 2.0 file of a DVS128."""
    check_aedat(file, "2.0")
    start = _header_end(file)
    count = file.count_records(start, RECORD)
    return Recording((SIDE, SIDE), count, lambda: _blocks(file, start, count, convention))


def _header_end(file: File) -> int:
    """Where the events start. Events may start with the byte of `#` too: lines must be text."""
    start = 0
    while file.data[start : start + 1] == b"#":
        end = file.data.find(b"\n", start, start + _LONGEST_LINE)
        if end < 0 or not _is_text(file.data[start:end]):
            break
        start = end + 1
    return start


def _is_text(line: bytes) -> bool:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c in "\r\t" for c in text)


def _blocks(file: File, start: int, count: int, convention: Convention) -> Iterator[Block]:
    words = np.ndarray((count, 2), ">u4", file.data, start)
    repair = _Repair()
    for first in range(0, count, BLOCK):
        block = words[first : first + BLOCK]
        place = start + RECORD * first
        address = block[:, 0].astype(np.uint32)
        if address.max() > 0xFFFF:
            bad = int(np.argmax(address > 0xFFFF))
            raise file.error(
                place + RECORD * bad,
                f"the address of event {first + bad:,} is 0x{address[bad]:08X}; expected at most "
                f"0xFFFF, the addresses of a DVS128. The file is damaged or of another camera.",
            )
        t: npt.NDArray[Any] = block[:, 1]
        x, y, p = (address >> 1) & 0x7F, (address >> 8) & 0x7F, address & 1
        if convention == "jaer":
            x, y, p = 127 - y, 127 - x, 1 - p
        elif convention == "dat2mat":
            x, p = 127 - x, 1 - p
            t = repair(t.astype(np.int64))
        yield Block(t, x, y, p, places(place, RECORD))


class _Repair:
    """Times from 0 and never decreasing: where they decrease, they go on from the last one.

    How several decreases add up is inferred.
    """

    def __init__(self) -> None:
        self._first: int | None = None
        self._last = self._shift = 0

    def __call__(self, t: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if self._first is None:
            self._first = self._last = int(t[0])
        before = np.concatenate([[self._last], t[:-1]])
        self._last = int(t[-1])
        shifts = self._shift + np.cumsum(np.where(t < before, before, 0))
        self._shift = int(shifts[-1])
        return t + shifts - self._first
