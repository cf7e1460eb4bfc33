"""MIDI files to grooves and back (README, The text).

symusic reads. It keeps silent about three things: which format and division a file has, that a file
ends too early, and notes that are never switched off. So the chunks of a file are looked over here,
and symusic is given tracks that in the end switch every drum off. Drums that are not on channel 9
are read by mido, a hundred times slower.
"""

from __future__ import annotations

import io
import logging
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from modicum.errors import ConfigError, DataError, require
from modicum.methods.drum_transfer.options import MOST_BARS, Reading
from modicum.methods.drum_transfer.text.drumroll import to_hits, to_text
from modicum.methods.drum_transfer.text.kit import DRUMS, reading_tables, writing_tables
from modicum.methods.drum_transfer.text.notation import INSTRUMENTS, NOTATIONS, Groove, Notation
from modicum.system.files import atomic_write

Integers = npt.NDArray[np.int64]

TICKS = 480
"""Ticks a quarter note of the files written."""
_NEEDED_FOR = "Reading MIDI files"
_END_OF_TRACK = b"\xff\x2f\x00"
_LATER = 0x0FFFFFFF
"""The longest time that an event can have before it, in ticks."""
# An empty text takes the time that stood before the end of the track. Note-ons of velocity 0, the
# first with its status, the others running on it, 0 ticks apart, switch the drums off.
_LATER_ON_DRUMS = b"\xff\x01\x00" + b"\xff\xff\xff\x7f" + bytes([0x90 | DRUMS])
_EVERY_PITCH = bytes(range(128))
_NO_NOTES = tuple(np.zeros(0, kind) for kind in (np.int32, np.int32, np.int8, np.int8))
_arrays_of = itemgetter("time", "duration", "pitch", "velocity")

_log = logging.getLogger(__name__)


def read_midi(
    path: str | Path,
    reading: Reading | None = None,
    *,
    name: str = "",
    bars: int | None = None,
    pad: bool = True,
) -> Groove:
    """The drums of a MIDI file as text.

    The step of a hit is its tick rounded to the nearest, halves up, in integers whatever the ticks
    a quarter note are. Tracks are merged; how long notes last does not matter. Of several tempos
    the first is kept.

    Args:
        path: A file of type 0 or 1.
        reading: How; None: as in the paper.
        name: Of the groove; empty: that of the file without its suffix.
        bars: At most so many bars of the file's meter, the paper's 16; None: to the bar of the last
            hit.
        pad: Add silence up to `bars`, if they are given.

    Raises:
        DataError: It is no MIDI file, is damaged, has no drums, or has a meter other than x/4 or
            several.
        MissingExtraError: symusic, or where it is needed mido, is not installed.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error
    groove, unknown = parse_midi(
        data, str(path), reading or Reading(), name=name or path.stem, bars=bars, pad=pad
    )
    if unknown:
        _log.warning("%s: %s", path, unknown_pitches(unknown))
    return groove


def parse_midi(
    data: bytes,
    source: str,
    reading: Reading,
    *,
    name: str,
    bars: int | None = None,
    pad: bool = True,
    strict: bool = False,
    silent: bool = False,
) -> tuple[Groove, Counter[int]]:
    """As `read_midi`, from the bytes of a file.

    Args:
        data: The bytes.
        source: What they are, for messages.
        reading: How.
        name: Of the groove.
        bars: See `read_midi`.
        pad: See `read_midi`.
        strict: Unknown pitches are an error.
        silent: A file in which nothing is hit is a silent groove, and no error.

    Returns:
        The groove, and how many hits of which unknown pitches were left out.
    """
    notes = parse_notes(data, source, reading.channel)
    notation = NOTATIONS[reading.notation]
    tables = reading_tables(notation, reading.pitch_map)
    column = tables.column.take(notes.pitch)
    unknown = Counter(notes.pitch[column == -2].tolist())
    if unknown and strict:
        raise DataError(f"{source}: {unknown_pitches(unknown)}")
    (known,) = (column >= 0).nonzero()
    if not (len(known) or silent):
        raise DataError(_no_drums(data, source, reading.channel))
    tick = notes.tick[known]
    meter = _meter(notes.meters, int(tick.max(initial=0)), source)
    if reading.meter_bars:
        notation = replace(notation, beats_per_bar=meter[0])
    step = (2 * notation.steps_per_beat * tick + notes.division) // (2 * notes.division)
    most = None if bars is None else bars * meter[0] * notation.steps_per_beat
    length = most if most is not None and pad else _length(step, most, notation, source)
    inside = step < length
    kept = known[inside]
    velocity = notes.velocity[kept]
    # `take` counts through the table: the soft and the loud letter of a pitch are side by side.
    letter = tables.letter.take(2 * notes.pitch[kept] + (velocity >= reading.loud))
    cell = len(INSTRUMENTS) * step[inside] + column[kept]
    hits, velocities = np.zeros((2, length, len(INSTRUMENTS)), np.int8)
    # Of hits that share a cell the last letter of the column is written, so order does not matter.
    # `at` is quick for a single index and equal types only.
    np.maximum.at(hits.reshape(-1), cell, letter)
    np.maximum.at(velocities.reshape(-1), cell, velocity)
    text = to_text(hits, notation)
    groove = Groove(name, text, notes.tempo, meter, notation, velocities.view(np.uint8))
    return groove, unknown


class Notes(NamedTuple):
    """What a file holds of one channel."""

    division: int
    """Ticks a quarter note."""
    tick: Integers
    """`(notes,)`, int64: when a note begins, from 0."""
    pitch: Integers
    """`(notes,)`, int64, 0 to 127."""
    velocity: npt.NDArray[np.int8]
    """`(notes,)`, int8, 1 to 127."""
    tempo: float
    """Quarter notes a minute: the first tempo, 120 without one."""
    meters: list[tuple[int, int, int]]
    """Tick, numerator and denominator of the time signatures."""


def parse_notes(data: bytes, source: str, channel: int = DRUMS) -> Notes:
    """The notes of one channel of a MIDI file, those included that are never switched off.

    Args:
        data: The bytes of a file of type 0 or 1.
        source: What they are, for messages.
        channel: 0 to 15.

    Returns:
        The notes of all tracks, in no particular order.

    Raises:
        DataError: It is no MIDI file, or is damaged.
        MissingExtraError: symusic, or for other channels than 9 mido, is not installed.
    """
    division, tracks = _chunks(data, source)
    if not all(track.endswith(_END_OF_TRACK) for track in tracks):
        _parse(division, tracks, source)  # is it cut off within an event?
    score, tick, pitch, velocity = _drums(division, tracks, source)
    if channel != DRUMS:
        notes = _notes_by_mido(data, source)
        tick, _, pitch, velocity = notes[notes[:, 1] == channel].T
        velocity = velocity.astype(np.int8)
    meters = [(m.time, m.numerator, m.denominator) for m in score.time_signatures]
    tempos = [tempo.mspq for tempo in score.tempos]  # microseconds a quarter note, sorted by tick
    microseconds = tempos[0] if tempos else 500_000
    if microseconds <= 0:
        raise DataError(f"{source}: found a tempo of 0 microseconds a quarter note.")
    return Notes(division, tick, pitch, velocity, 60_000_000 / microseconds, meters)


def write_midi(
    groove: Groove,
    path: str | Path,
    *,
    tempo: float | None = None,
    meter: tuple[int, int] | None = None,
) -> None:
    """Write a groove as a MIDI file of type 0, drums on channel 9, 480 ticks a quarter note.

    Notes last half a step. They have the groove's own velocities where it has any, otherwise 100,
    those of loud and soft letters 115 and 60.

    Args:
        groove: Any.
        path: The file, overwritten.
        tempo: Quarter notes a minute; None: the groove's.
        meter: Time signature; None: the groove's.

    Raises:
        ConfigError: Tempo or meter are out of range.
        DataError: The text is malformed, or the velocities are of another number of steps.
        MissingExtraError: mido is not installed.
    """
    tempo = groove.tempo if tempo is None else tempo
    beats, denominator = meter or groove.meter
    if not 4 <= tempo <= 1000:
        raise ConfigError(f"--tempo {tempo}: must be 4 to 1000 quarter notes a minute.")
    if not (1 <= beats <= 255 and denominator in (1, 2, 4, 8, 16, 32, 64)):
        raise ConfigError(f"meter {beats}/{denominator}: expected one such as 4/4.")
    mido: Any = require("mido", "music", "Writing MIDI files")
    notation = groove.notation
    hits = to_hits(groove.text, notation, source=groove.name)
    step, column = np.nonzero(hits)
    pitches, plain = writing_tables(notation)
    letter = column, hits[step, column]
    velocity = plain[letter]
    if groove.velocities is not None:
        if groove.velocities.shape != hits.shape:
            raise DataError(
                f"{groove.name}: velocities have the shape {groove.velocities.shape}, hits "
                f"{hits.shape}. Set velocities to None where the text is another."
            )
        known = groove.velocities[step, column].astype(np.int64)
        velocity = np.where(known > 0, np.minimum(known, 127), velocity)
    # Halves up, as in reading, for grids that do not divide the ticks.
    steps = notation.steps_per_beat
    tick_of = (2 * np.arange(len(hits) + 1) * TICKS + steps) // (2 * steps)
    on, pitch = tick_of[step], pitches[letter]
    # Tick, whether it begins, pitch, velocity: notes end before others begin at the same tick.
    begin = np.stack([on, np.ones_like(on), pitch, velocity], 1)
    end = np.stack([on + TICKS // steps // 2, np.zeros_like(on), pitch, np.full_like(on, 64)], 1)
    track = mido.MidiTrack(
        [
            mido.MetaMessage("track_name", name=groove.name.encode("ascii", "replace").decode()),
            mido.MetaMessage("set_tempo", tempo=round(60_000_000 / tempo)),
            mido.MetaMessage("time_signature", numerator=beats, denominator=denominator),
        ]
    )
    now = 0
    for tick, begins, note, loudness in sorted(np.concatenate([begin, end]).tolist()):
        kind = "note_on" if begins else "note_off"
        time, now = tick - now, tick
        track.append(mido.Message(kind, channel=DRUMS, note=note, velocity=loudness, time=time))
    track.append(mido.MetaMessage("end_of_track", time=max(int(tick_of[-1]) - now, 0)))
    with atomic_write(Path(path)) as file:
        mido.MidiFile(type=0, ticks_per_beat=TICKS, tracks=[track]).save(file=file)


def unknown_pitches(counts: Mapping[int, int]) -> str:
    """A sentence on hits of unknown pitches, from how many there are of each pitch."""
    listed = ", ".join(f"{pitch} ({count})" for pitch, count in sorted(counts.items()))
    return (
        f"{sum(counts.values())} hits of unknown drum pitches are left out: {listed}. Say what "
        f"they are: --pitch-map 33 snare 31 none, where none leaves a pitch out in silence."
    )


def _chunks(data: bytes, source: str) -> tuple[int, list[bytes]]:
    """Ticks a quarter note, and the tracks, after the header is found to be usable."""
    if not data:
        raise DataError(f"{source}: the file is empty; expected a MIDI file.")
    if data[:4] != b"MThd":
        raise DataError(
            f"{source}: no MIDI file: it begins with {data[:4]!r} instead of b'MThd'. Export it as "
            f"a standard MIDI file."
        )
    if len(data) < 14:
        raise DataError(f"{source}: cut off within the header, after {len(data)} bytes of 14.")
    size, kind, count, division = struct.unpack_from(">IHHH", data, 4)
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
    tracks: list[bytes] = []
    start = 8 + size
    while len(tracks) < count:
        if start + 8 > len(data):
            raise DataError(
                f"{source}: cut off: its header tells of {count} tracks, {len(tracks)} are there."
            )
        length = struct.unpack_from(">I", data, start + 4)[0]
        end = start + 8 + length
        if end > len(data):
            raise DataError(
                f"{source}: cut off: it has {len(data):,} bytes, but a track until {end:,}."
            )
        if data[start : start + 4] == b"MTrk":  # other chunks are to be passed over
            tracks.append(data[start + 8 : end])
        start = end
    return division, tracks


def _join(division: int, tracks: Iterable[bytes]) -> bytes:
    """A file of type 1 of these tracks."""
    chunks = [b"MTrk" + struct.pack(">I", len(track)) + track for track in tracks]
    return b"MThd" + struct.pack(">IHHH", 6, 1, len(chunks), division) + b"".join(chunks)


def _parse(division: int, tracks: Iterable[bytes], source: str) -> Any:
    """The score of tracks, by symusic."""
    symusic: Any = require("symusic", "music", _NEEDED_FOR)
    try:
        return symusic.Score.from_midi(_join(division, tracks))
    except Exception as error:  # whatever the library raises, the file is what is wrong
        raise _damaged(source, error) from error


def _drums(
    division: int, tracks: list[bytes], source: str
) -> tuple[Any, Integers, Integers, npt.NDArray[np.int8]]:
    """The score, by symusic, and the ticks, pitches and velocities of its drums.

    symusic leaves out notes that are never switched off, without a word. With drums switched off
    long after the end of each track, such notes are very long instead. A note-off ends one note, so
    note-offs are added until they bring no more notes to light.
    """
    switched_off, found = _EVERY_PITCH, 0
    while True:
        ended = [_switched_off(track, switched_off) for track in tracks]
        score = _parse(division, ended, source)
        drums = [_arrays_of(track.notes.numpy()) for track in score.tracks if track.is_drum]
        tick, duration, pitch, velocity = (
            drums[0]
            if len(drums) == 1
            else map(np.concatenate, zip(*drums or [_NO_NOTES], strict=True))
        )
        if tick.min(initial=0) < 0:
            raise DataError(f"{source}: found ticks beyond 2^31; the file is damaged.")
        if not (pitch.tobytes() + velocity.tobytes()).isascii():  # ASCII has 7 bits as well
            raise DataError(f"{source}: found pitches or velocities beyond 127; it is damaged.")
        very_long = pitch[duration >= _LATER]
        if len(very_long) == found:
            return score, tick.astype(np.int64), pitch.astype(np.int64), velocity
        switched_off, found = _EVERY_PITCH + 8 * very_long.tobytes(), len(very_long)


def _switched_off(track: bytes, pitches: bytes) -> bytes:
    """A track long after whose end drums of these pitches are switched off, one note each."""
    ending = track.endswith(_END_OF_TRACK)
    track = track.removesuffix(_END_OF_TRACK) if ending else track + b"\x00"
    events = bytearray(3 * len(pitches))  # pitch, velocity 0, and 0 ticks to the next event
    events[::3] = pitches
    return track + _LATER_ON_DRUMS + events + _END_OF_TRACK


def _notes_by_mido(data: bytes, source: str) -> Integers:
    """`(notes, 4)`: tick, channel, pitch and velocity of the notes of all channels."""
    mido: Any = require("mido", "music", _NEEDED_FOR)
    notes: list[tuple[int, int, int, int]] = []
    try:
        for track in mido.MidiFile(file=io.BytesIO(_join(*_chunks(data, source)))).tracks:
            now = 0
            for message in track:
                now += message.time
                if message.type == "note_on" and message.velocity:
                    notes.append((now, message.channel, message.note, message.velocity))
    except Exception as error:  # whatever the library raises, the file is what is wrong
        raise _damaged(source, error) from error
    return np.array(notes, np.int64).reshape(-1, 4)


def _damaged(source: str, error: Exception) -> DataError:
    reason = str(error).removesuffix(": iostream error") or type(error).__name__
    return DataError(f"{source}: a damaged MIDI file: {reason}")


def _no_drums(data: bytes, source: str, channel: int) -> str:
    """The message for a file without drums: what it has instead."""
    notes = _notes_by_mido(data, source)
    if not len(notes):
        return f"{source}: no notes are in it; expected drums on channel {channel}."
    seen = "; ".join(
        f"channel {other}: " + ", ".join(map(str, np.unique(notes[notes[:, 1] == other, 2])))
        for other in np.unique(notes[:, 1])
    )
    return (
        f"{source}: no drums on channel {channel} (counted from 0) are known. Pitches found: {seen}"
        f". Choose another by --channel, or say what pitches are: --pitch-map 33 snare 31 none."
    )


def _meter(meters: list[tuple[int, int, int]], last: int, source: str) -> tuple[int, int]:
    """The one meter in force until the tick `last`; 4/4 where a file says nothing."""
    found = sorted(signature for signature in meters if signature[0] <= last)
    if not found or found[0][0] > 0:
        found = [(0, 4, 4), *found]
    if len({(numerator, beat) for _, numerator, beat in found}) > 1:
        listed = ", ".join(f"{numerator}/{beat} at tick {tick}" for tick, numerator, beat in found)
        raise DataError(f"{source}: the meter changes: {listed}. Cut the file where it does.")
    _, numerator, beat = found[0]
    if beat != 4 or not numerator:
        raise DataError(
            f"{source}: the meter is {numerator}/{beat}; expected quarters, such as 4/4."
        )
    return numerator, beat


def _length(steps: Integers, most: int | None, notation: Notation, source: str) -> int:
    """Steps to the end of the bar of the last hit; hits from the step `most` on do not count."""
    if most is not None:
        steps = steps[steps < most]
    bars = int(steps.max(initial=0)) // notation.steps_per_bar + 1
    if bars > MOST_BARS:
        raise DataError(
            f"{source}: {bars:,} bars long; expected at most {MOST_BARS:,}. Is it damaged?"
        )
    length = bars * notation.steps_per_bar
    return length if most is None else min(length, most)
