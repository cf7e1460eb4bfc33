"""Which MIDI pitch is which character of a notation, and back.

In a column `o` and `O` are the instrument struck as usual, `x` and `X` its second articulation;
where both cases of a letter are there, the capital is loud and the other soft. Without an `x` all
articulations are `o`, and with one case of a letter all velocities are that. So the drumroll of the
paper and its extensions are read and written alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from modicum.errors import ConfigError
from modicum.methods.drum_transfer.text.notation import INSTRUMENTS, Notation

PitchMap: TypeAlias = tuple[tuple[int, str], ...]
"""Pitches with the instruments they are, or `none`."""
DRUMS = 9
"""The MIDI channel of drums, counted from 0."""
PITCHES: Mapping[str, tuple[int, ...]] = {
    "crash": (49, 55, 57, 52),
    "ride": (51, 59, 53),
    "snare": (38, 40, 37),
    "kick": (36,),
    "hi-hat": (42, 22, 46, 26),
    "toms": (50, 48, 45, 47, 43, 58),
}
"""MIDI pitches merged into each instrument, in the numbering of the Groove MIDI Dataset; the first
is what is written where the notation knows no articulations (README, The text).
"""
SECOND: Mapping[str, tuple[int, ...]] = {"ride": (51, 59), "snare": (37,), "hi-hat": (42, 22)}
"""Pitches read as `x`: bow of the ride, cross-stick, closed hi-hat. The first is written for `x`;
for `o` then the bell, the head and the open hi-hat are.
"""
DISCARDED = (44, 54, 56, 39)
"""Known pitches that have no column: hi-hat pedal, tambourine, cowbell, clap."""
SOFT, PLAIN, LOUD = 60, 100, 115
"""Velocities written for soft hits, hits of no known loudness and loud ones (inferred, but for 100,
which is that of the official code)."""


class ReadingTables(NamedTuple):
    """What MIDI pitches are."""

    column: npt.NDArray[np.int64]
    """`(128,)`: the column of a pitch; -1 if it is discarded, -2 if it is unknown."""
    letter: npt.NDArray[np.int8]
    """`(128, 2)`: index in that column of the soft and of the loud hit."""


class WritingTables(NamedTuple):
    """What the characters of columns are, `(6, k)` each."""

    pitch: npt.NDArray[np.int64]
    velocity: npt.NDArray[np.int64]


@lru_cache(maxsize=64)
def reading_tables(notation: Notation, pitch_map: PitchMap = ()) -> ReadingTables:
    """How to read MIDI pitches in a notation.

    Those of the `pitch_map` count as struck as usual, `o`, but for pitches of `SECOND`.

    Raises:
        ConfigError: A pitch or an instrument does not exist, or a column has other letters than
            o, O, x and X.
    """
    column, index = np.full(128, -2), np.zeros((128, 2), np.int8)
    column[list(DISCARDED)] = -1
    for number, pitches in enumerate(PITCHES[name] for name in INSTRUMENTS):
        column[list(pitches)] = number
    if twice := [pitch for pitch, times in Counter(p for p, _ in pitch_map).items() if times > 1]:
        raise ConfigError(f"--pitch-map: the pitch {twice[0]} is given twice. Say once what it is.")
    for pitch, instrument in pitch_map:
        if not 0 <= pitch < 128 or instrument not in (*INSTRUMENTS, "none"):
            raise ConfigError(
                f"--pitch-map {pitch} {instrument}: expected a pitch of 0..127 and one of "
                f"{', '.join(INSTRUMENTS)}, none."
            )
        column[pitch] = -1 if instrument == "none" else INSTRUMENTS.index(instrument)
    second = np.isin(np.arange(128), [pitch for pitches in SECOND.values() for pitch in pitches])
    for number, characters in enumerate(notation.columns):
        _check(characters)
        for articulation in (False, True):
            family = "xX" if articulation and set("xX") & set(characters) else "oO"
            letters = [letter if letter in characters else letter.swapcase() for letter in family]
            of_it = (column == number) & (second == articulation)
            index[of_it] = [characters.index(letter) for letter in letters]
    return ReadingTables(column, index)


def writing_tables(notation: Notation) -> WritingTables:
    """How to write the characters of a notation as MIDI; raises as `reading_tables` does."""
    shape = len(INSTRUMENTS), max(map(len, notation.columns))
    pitch, velocity = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for number, characters in enumerate(notation.columns):
        _check(characters)
        first = PITCHES[INSTRUMENTS[number]]
        second = SECOND.get(INSTRUMENTS[number], first)
        if set("xX") & set(characters):
            first = [of_it for of_it in first if of_it not in second] or first
        for index, letter in enumerate(characters[1:], 1):
            pitch[number, index] = second[0] if letter in "xX" else first[0]
            both = letter.swapcase() in characters
            velocity[number, index] = (LOUD if letter.isupper() else SOFT) if both else PLAIN
    return WritingTables(pitch, velocity)


def _check(characters: str) -> None:
    if set(characters[1:]) - set("oOxX") or not set("oO") & set(characters[1:]):
        raise ConfigError(
            f"notation: found the characters {characters!r} of a column; MIDI is known for silence "
            f"and then o or O, perhaps x and X."
        )
