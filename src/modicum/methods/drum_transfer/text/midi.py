"""MIDI files to grooves and back (README, The text)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modicum.errors import ConfigError, DataError, require
from modicum.methods.drum_transfer.options import MOST_BARS, Reading
from modicum.methods.drum_transfer.text.drumroll import to_hits, to_text
from modicum.methods.drum_transfer.text.kit import DRUMS, reading_tables, writing_tables
from modicum.methods.drum_transfer.text.notation import INSTRUMENTS, NOTATIONS, Groove, Notation
from modicum.methods.drum_transfer.text.smf import MOST_BYTES, Notes, read_notes
from modicum.system.files import atomic_write, read_bytes
from modicum.system.terminal import counted

Integers = npt.NDArray[np.int64]

TICKS = 480
"""Ticks a quarter note of the files written."""

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
    a quarter note are. Tracks are merged; how long notes last does not matter. The tempo is the one
    in force at the first hit, 120 where none is; a file's only tempo counts from the start where it
    stands after the last hit, as Logic writes it. A meter of n/2 is read as 2n/4.

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
    """
    path = Path(path)
    groove, unknown = parse_midi(
        read_bytes(path, MOST_BYTES), str(path), reading or Reading(),
        name=name or path.stem, bars=bars, pad=pad,
    )  # fmt: skip
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
    notes = read_notes(data, source)
    (ours,) = (notes.channel == reading.channel).nonzero()
    pitch = notes.pitch[ours].astype(np.int64)
    notation = NOTATIONS[reading.notation]
    tables = reading_tables(notation, reading.pitch_map)
    column = tables.column.take(pitch)
    unknown = Counter(pitch[column == -2].tolist())
    if unknown and strict:
        raise DataError(f"{source}: {unknown_pitches(unknown)}")
    (known,) = (column >= 0).nonzero()
    if not (len(known) or silent):
        raise DataError(_no_drums(notes, source, reading.channel))
    tick = notes.tick[ours[known]]
    tempo = _tempo(notes.tempos, tick, source)
    meter = _meter(notes.meters, int(tick.max(initial=0)), source)
    if reading.meter_bars:
        notation = replace(notation, beats_per_bar=meter[0])
    step = (2 * notation.steps_per_beat * tick + notes.division) // (2 * notes.division)
    most = None if bars is None else bars * meter[0] * notation.steps_per_beat
    length = most if most is not None and pad else _length(step, most, notation, source)
    inside = step < length
    kept = known[inside]
    velocity = notes.velocity[ours[kept]]
    # `take` counts through the table: the soft and the loud letter of a pitch are side by side.
    letter = tables.letter.take(2 * pitch[kept] + (velocity >= reading.loud))
    cell = len(INSTRUMENTS) * step[inside] + column[kept]
    hits = np.zeros((length, len(INSTRUMENTS)), np.int8)
    velocities = np.zeros_like(hits, np.uint8)
    # Of hits that share a cell the last letter of the column is written, so order does not matter.
    # `at` is quick for a single index and equal types only.
    np.maximum.at(hits.reshape(-1), cell, letter)
    np.maximum.at(velocities.reshape(-1), cell, velocity)
    text = to_text(hits, notation)
    groove = Groove(name, text, tempo, meter, notation, velocities)
    return groove, unknown


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
        f"{counted(sum(counts.values()), 'hit')} of unknown drum pitches left out: {listed}. Say "
        f"what they are: --pitch-map 33 snare 31 none, where none leaves a pitch out in silence."
    )


def _no_drums(notes: Notes, source: str, channel: int) -> str:
    """The message for a file without drums: what it has instead."""
    if not len(notes.pitch):
        return f"{source}: no notes are in it; expected drums on channel {channel}."
    seen = "; ".join(
        f"channel {other}: "
        + ", ".join(map(str, np.unique(notes.pitch[notes.channel == other]).tolist()))
        for other in np.unique(notes.channel).tolist()
    )
    return (
        f"{source}: no drums on channel {channel} (counted from 0) are known. Pitches found: {seen}"
        f". Choose another by --channel, or say what pitches are: --pitch-map 33 snare 31 none."
    )


def _tempo(tempos: list[tuple[int, int]], hits: Integers, source: str) -> float:
    """Quarter notes a minute where the hits of these ticks begin."""
    first, last = (int(hits.min()), int(hits.max())) if len(hits) else (0, 0)
    microseconds = 500_000
    if len(tempos) == 1 and tempos[0][0] > last:
        microseconds = tempos[0][1]
    for tick, found in tempos:
        if tick <= first:
            microseconds = found
    if not microseconds:
        raise DataError(f"{source}: found a tempo of 0 microseconds a quarter note.")
    return 60_000_000 / microseconds


def _meter(meters: list[tuple[int, int, int]], last: int, source: str) -> tuple[int, int]:
    """The one meter in force until the tick `last`; 4/4 where a file says nothing."""
    in_force = {0: (4, 4)}  # of one tick the later
    for tick, numerator, beat in meters:
        if tick <= last:
            in_force[tick] = (2 * numerator, 4) if beat == 2 else (numerator, beat)
    if len(set(in_force.values())) > 1:
        listed = ", ".join(
            f"{numerator}/{beat} at tick {tick}" for tick, (numerator, beat) in in_force.items()
        )
        raise DataError(f"{source}: the meter changes: {listed}. Cut the file where it does.")
    numerator, beat = in_force[0]
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
