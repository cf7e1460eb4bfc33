"""Standard MIDI files: chunks, events and notes ("Standard MIDI Files 1.0", RP-001, MMA 1996).

Where an event ends is known only when the one before it has been read: a byte over 127 is part of
a time or a status, depending on where one stands. But an event of two data bytes, as notes are, has
exactly three bytes below 128, the last of its time and its data: in a run of such events one ends
at every third. Only the others (meta and exclusive events, statuses of one data byte) are read one
by one.
"""

from __future__ import annotations

import logging
import struct
from bisect import bisect_left
from collections.abc import Callable
from itertools import chain
from operator import itemgetter
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from modicum.errors import DataError
from modicum.system.terminal import counted

Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

MOST_BYTES: Final = 4 << 20
"""Of a file. What is found in one takes up to fifty times its memory."""
MOST_TRACKS: Final = 1024
_NOTE_ON, _SYSEX, _ESCAPE, _META = 0x90, 0xF0, 0xF7, 0xFF
_TEMPO, _METER, _END_OF_TRACK = 0x51, 0x58, 0x2F
_SIZE = {_TEMPO: 3, _METER: 4}
"""Bytes of the meta events that are read."""

_log = logging.getLogger(__name__)


class Notes(NamedTuple):
    """What a file holds."""

    division: int
    """Ticks a quarter note."""
    tick: Integers
    """`(notes,)`, int64: when a note begins, from 0."""
    channel: Bytes
    """`(notes,)`, uint8, 0 to 15."""
    pitch: Bytes
    """`(notes,)`, uint8, 0 to 127."""
    velocity: Bytes
    """`(notes,)`, uint8, 1 to 127."""
    tempos: list[tuple[int, int]]
    """Ticks in order, and the microseconds a quarter note from there on. Of one tick the last is in
    force."""
    meters: list[tuple[int, int, int]]
    """Ticks in order, numerator and denominator."""


def read_notes(data: bytes, source: str) -> Notes:
    """The notes of all tracks and channels, whether or not they are ever switched off.

    What is odd and harmless is passed over and logged: tracks that the header does not count, bytes
    after the end of a track or of the file, a tempo or a meter without all of its bytes.

    Args:
        data: The bytes of a file of type 0 or 1, or of one in a RIFF container (RMID).
        source: What they are, for messages.

    Raises:
        DataError: It is no such file, or is damaged.
    """
    division, tracks = _chunks(data, source)
    found = [
        _track(data[begin:end], begin, f"{source}: track {number}")
        for number, (begin, end) in enumerate(tracks, 1)
    ]
    tick, channel, pitch, velocity = (
        np.concatenate(column) for column in zip(*(notes for notes, _ in found), strict=True)
    )
    changes = sorted(chain(*(each for _, each in found)), key=itemgetter(0))
    tempos = [(at, int.from_bytes(value, "big")) for at, value in changes if len(value) == 3]
    meters = [(at, value[0], 1 << min(value[1], 16)) for at, value in changes if len(value) == 4]
    return Notes(division, tick, channel, pitch, velocity, tempos, meters)


def _chunks(data: bytes, source: str) -> tuple[int, list[tuple[int, int]]]:
    """Ticks a quarter note, and where the tracks begin and end."""
    if not data:
        raise DataError(f"{source}: the file is empty; expected a MIDI file.")
    first = 20 if data[:4] == b"RIFF" and data[8:16] == b"RMIDdata" else 0
    if data[first : first + 4] != b"MThd":
        raise DataError(
            f"{source}: no MIDI file: it begins with {data[:4].decode('latin-1')!r} instead of "
            f"'MThd'. Export it as a standard MIDI file."
        )
    if len(data) < first + 14:
        raise DataError(f"{source}: cut off within the header, after {len(data)} bytes of 14.")
    size, kind, count, division = struct.unpack_from(">IHHH", data, first + 4)
    if kind not in (0, 1):
        raise DataError(
            f"{source}: a MIDI file of type {kind}; types 0 and 1 are supported. Export it as one."
        )
    if division & 0x8000:
        raise DataError(
            f"{source}: time is in SMPTE frames; expected ticks a quarter note, without which "
            f"there are no beats. Export it with musical time."
        )
    if not division:
        raise DataError(f"{source}: 0 ticks a quarter note; the header is damaged.")
    tracks: list[tuple[int, int]] = []
    start, chunks = first + 8 + size, 0
    while start + 8 <= len(data) and (chunks < count or data[start : start + 4] == b"MTrk"):
        name, length = struct.unpack_from(">4sI", data, start)
        if not name.isascii() or not name.decode().isprintable():
            raise DataError(
                f"{source}: byte {start:,}: expected a chunk, found {name.decode('latin-1')!r}; "
                f"the length of the chunk before it is wrong."
            )
        start, chunks = start + 8, chunks + 1
        if start + length > len(data):
            raise DataError(
                f"{source}: cut off: it has {len(data):,} bytes, but a track until "
                f"{start + length:,}."
            )
        if name == b"MTrk":  # other chunks are to be passed over
            tracks.append((start, start + length))
        start += length
    if chunks < count:
        raise DataError(
            f"{source}: cut off: its header tells of {counted(count, 'track')}, {chunks} of them "
            f"there."
        )
    if not 0 < len(tracks) <= MOST_TRACKS:
        raise DataError(f"{source}: {len(tracks):,} tracks; expected 1 to {MOST_TRACKS:,}.")
    if chunks > count:
        read = counted(chunks, "track")
        _log.warning("%s: read %s, though its header counts %d.", source, read, count)
    # The container's last byte may be there to make its size even, and other chunks may follow.
    if start < len(data) and not first:
        left = counted(len(data) - start, "byte")
        _log.warning("%s: passed over %s after the last track.", source, left)
    return division, tracks


def _track(
    raw: bytes, offset: int, source: str
) -> tuple[tuple[Integers, Bytes, Bytes, Bytes], list[tuple[int, bytes]]]:
    """Ticks, channels, pitches and velocities of a track's notes; ticks and bytes of its changes.

    Args:
        raw: Its bytes.
        offset: Of the track in its file, for messages.
        source: The track's name, for messages.
    """

    def damaged(at: int, reason: str) -> DataError:
        return DataError(f"{source}: damaged at byte {offset + at:,}: {reason}.")

    track = np.frombuffer(raw, np.uint8)
    (lows,) = (track < 128).nonzero()
    runs, changes, end = _between(raw, track, lows, damaged)
    if end < len(raw):
        left = counted(len(raw) - end, "byte")
        _log.warning("%s: passed over %s after its end.", source, left)
    begins, ends, passed = np.array(runs).T
    first_low, last_low = lows.searchsorted(begins), lows.searchsorted(ends)
    count = last_low - first_low
    if count[-1] % 3 or (begins[-1] < ends[-1] and track[ends[-1] - 1] > 127):
        raise damaged(len(raw), "cut off within an event")
    of_runs = [lows[first:last] for first, last in zip(first_low, last_low, strict=True)]
    time_end, first, second = np.concatenate(of_runs).reshape(-1, 3).T
    events = count // 3
    events_until = events.cumsum()
    begin = np.empty_like(second)
    begin[1:] = second[:-1] + 1
    begin[(events_until - events)[events > 0]] = begins[events > 0]
    length, gap = time_end - begin, first - time_end
    for wrong, reason in (
        (length > 3, "a number of over four bytes"),
        ((gap > 2) | (second > first + 1), "data over 127"),
    ):
        if wrong.any():
            raise damaged(int(begin[wrong.argmax()]), reason)
    ticks = track[time_end].astype(np.int64)
    for byte in range(1, length.max(initial=0) + 1):
        (longer,) = (length >= byte).nonzero()
        ticks[longer] += (track[time_end[longer] - byte] & 127).astype(np.int64) << 7 * byte
    ticks = ticks.cumsum()
    status = track[first - 1]
    running = gap == 1
    if running.any():
        if running[0]:
            raise damaged(int(begin[0]), "data before any status")
        status = status[np.maximum.accumulate(np.where(running, 0, np.arange(len(gap))))]
    velocity = track[second]
    (on,) = ((status & 0xF0 == _NOTE_ON) & (velocity > 0)).nonzero()
    tick = ticks[on] + np.repeat(passed, events)[on]
    channel = np.bitwise_and(status[on], np.uint8(0x0F))
    notes = tick, channel, track[first[on]], velocity[on]
    elapsed = np.append(0, ticks)[events_until]
    whole = [
        (int(elapsed[runs_before - 1]) + ticks_before, value)
        for runs_before, ticks_before, kind, value in changes
        if len(value) == _SIZE[kind]
    ]
    if len(whole) < len(changes):
        odd = counted(len(changes) - len(whole), "tempo or meter", "tempos or meters")
        _log.warning("%s: passed over %s of a wrong size.", source, odd)
    return notes, whole


def _between(
    raw: bytes, track: Bytes, lows: Integers, damaged: Callable[[int, str], DataError]
) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int, bytes]], int]:
    """Reads the events of a track that are not of a status with two data bytes.

    Args:
        raw: The track.
        track: The same, `(bytes,)`.
        lows: Where bytes below 128 are.
        damaged: Makes an error of a byte's index and a reason.

    Returns:
        The runs of events between them, that is where one begins and ends and the ticks of what was
        read here until then; tempos and meters, that is how many runs are before one, ticks, kind
        and value; and where the track ends.
    """
    (odd,) = (((track & 0xE0) == 0xC0) | (track >= _SYSEX)).nonzero()
    # Of a run from b on, the bytes below 128 before a status are one more than before b, modulo 3.
    statuses: tuple[list[int], ...] = [], [], []
    for index, low in zip(odd.tolist(), lows.searchsorted(odd).tolist(), strict=True):
        statuses[(low - 1) % 3].append(index)
    runs: list[tuple[int, int, int]] = []
    changes: list[tuple[int, int, int, bytes]] = []
    at, one_byte, passed = 0, 0, 0
    while True:
        ahead = statuses[lows.searchsorted(at) % 3]
        index = bisect_left(ahead, at)
        begin, at = at, len(raw)
        if index < len(ahead):
            at = ahead[index] - 1
            if raw[at] > 127:
                raise damaged(at, "data over 127")
            while at > begin and raw[at - 1] > 127:  # the other bytes of its time
                at -= 1
        runs.append((begin, at, passed))
        while at < len(raw):
            try:
                ticks, body = _number(raw, at)
                status = raw[body]
                if status < 128:
                    status = one_byte
                else:
                    body += 1
                    if status < _SYSEX:
                        one_byte = status if 0xC0 <= status < 0xE0 else 0
                if status < _SYSEX and not one_byte:
                    break
                length, end = 1, body
                if status >= _SYSEX:
                    length, end = _number(raw, body + (status == _META))
                kind = raw[body]
            except IndexError as error:
                raise damaged(at, "cut off within an event") from error
            except ValueError as error:
                raise damaged(at, str(error)) from error
            if end + length > len(raw):
                raise damaged(at, "cut off within an event")
            if status > _SYSEX and status not in (_ESCAPE, _META):
                raise damaged(at, f"the status {status:#x}, which no file may hold")
            if status < _SYSEX and kind > 127:
                raise damaged(at, "data over 127")
            at, passed = end + length, passed + ticks
            if status == _META and kind in _SIZE:
                changes.append((len(runs), passed, kind, raw[end:at]))
            elif status == _META and kind == _END_OF_TRACK:
                return runs, changes, at
        if at == len(raw):
            return runs, changes, at


def _number(raw: bytes, at: int) -> tuple[int, int]:
    """The number that begins at a byte, seven bits a byte, and where it ends."""
    value = 0
    for end in range(at + 1, at + 5):
        byte = raw[end - 1]
        value = value << 7 | byte & 127
        if byte < 128:
            return value, end
    raise ValueError("a number of over four bytes")
