"""Grooves in files, whatever kind of file it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from modicum.errors import DataError
from modicum.inference import input_files
from modicum.methods.drum_transfer.options import Reading
from modicum.methods.drum_transfer.text.drumroll import to_hits, to_text, without_separators
from modicum.methods.drum_transfer.text.grids import Lines, read_lines
from modicum.methods.drum_transfer.text.midi import read_midi
from modicum.methods.drum_transfer.text.notation import END, NOTATIONS, Groove, Notation
from modicum.methods.drum_transfer.text.tablature import (
    ANOTHER_NOTATION,
    from_tablature,
    is_tablature,
)

SUFFIXES = (".mid", ".midi", ".tab", ".txt")
"""Of files of grooves; the first of a name says most, as lines of a drumroll have no tempo."""


def groove_paths(inputs: Sequence[Path]) -> list[Path]:
    """Files of grooves; of those of one name in a folder that is given, the first of `SUFFIXES`.

    Args:
        inputs: Files, which are meant whatever their names are, and folders of any depth.

    Raises:
        DataError: There is none.
    """
    best: dict[tuple[Path, str], Path] = {}
    for path in input_files(inputs, set(SUFFIXES), "groove"):
        if path in inputs:
            best[path, ""] = path
            continue
        other = best.setdefault((path.parent, path.stem), path)
        if SUFFIXES.index(path.suffix.lower()) < SUFFIXES.index(other.suffix.lower()):
            best[path.parent, path.stem] = path
    return list(best.values())


def numbered(names: Iterable[str]) -> list[str]:
    """Names that differ: those that came before, with the first number that makes them new."""
    taken: dict[str, None] = {}
    for name in names:
        tried, number = name, 1
        while tried in taken:
            number += 1
            tried = f"{name}-{number}"
        taken[tried] = None
    return list(taken)


def read_groove(
    path: Path,
    reading: Reading | None = None,
    *,
    name: str = "",
    tempo: float = 120.0,
    bars: int | None = None,
    malformed: Literal["refuse", "keep", "pad", "drop"] = "refuse",
    advice: str = "",
) -> Groove:
    """A groove from a MIDI file, a drum tab, or lines of a drumroll.

    Lines are refused, whatever `malformed` is, if they are not in the notation of `reading`: if
    more than half of those that are not silence cannot be read in it, or some cannot and every line
    can in another of `notation.NOTATIONS`.

    Args:
        path: A file of `SUFFIXES`. What a text is, is seen from it.
        reading: How. With `meter_bars`, bars follow the meter of MIDI and tabs; lines say none and
            are in 4/4.
        name: Of the groove; empty: that of the file without its suffix.
        tempo: Of lines, which say none.
        bars: Of MIDI so many, filled up with silence; None: to the last hit. Texts are read whole.
        malformed: What is done about malformed lines: `keep` them as they are; see
            `drumroll.to_hits` for the others.
        advice: How else a refused line can be mended, for the message: a sentence.

    Raises:
        DataError: The file cannot be used.
        MissingExtraError: MIDI needs the extra `music`.
    """
    name, reading = name or path.stem, reading or Reading()
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(
            f"{path}: expected a file ending in {', '.join(SUFFIXES)}. Rename it, if it is one of "
            f"MIDI, a drum tab or lines of a drumroll."
        )
    if suffix in (".mid", ".midi"):
        return read_midi(path, reading, name=name, bars=bars)
    notation = NOTATIONS[reading.notation]
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read as text: {error}. Expected a drum tab, or lines of a drumroll."
        ) from error
    if is_tablature(text):
        groove = from_tablature(text, notation, meter_bars=reading.meter_bars, source=str(path))
        return dataclasses.replace(groove, name=name)
    lines = read_lines([text], notation)
    _check_notation(text, lines, notation, str(path))
    if malformed == "refuse":
        _refuse_malformed(text, lines, notation, str(path), advice)
    text = without_separators(text)
    if malformed in ("pad", "drop"):
        text = to_text(to_hits(text, notation, repair=malformed), notation)
    return Groove(name, text, tempo=tempo, notation=notation)


def _check_notation(text: str, lines: Lines, notation: Notation, source: str) -> None:
    """Refuse lines of another notation; see `read_groove`."""
    if lines.separator.all():
        raise DataError(f"{source}: there is no groove in it. Expected {_usual(notation)}.")
    unreadable = _unreadable(lines)
    if not len(unreadable):
        return
    silent = lines.readable & (lines.codes == 0).all(1)
    sounding = np.count_nonzero(~(lines.separator | silent))
    fitting = [
        name for name, other in NOTATIONS.items() if not len(_unreadable(read_lines([text], other)))
    ]
    if fitting:
        found = f"all can in {' or '.join(fitting)}"
    elif 2 * len(unreadable) > sounding:
        found = f"expected {_usual(notation)}"
    else:
        return
    line = int(unreadable[0])
    raise DataError(
        f"{source}: {len(unreadable)} of its {int(lines.count[0])} lines cannot be read in this "
        f"notation, the first in line {line + 1}, {_line(text, line)[:40]!r}; {found}. Take "
        f"{ANOTHER_NOTATION}"
    )


def _unreadable(lines: Lines) -> npt.NDArray[np.intp]:
    """Which lines are neither as the notation wants them nor separators."""
    return np.flatnonzero(~(lines.readable | lines.separator))


def _line(text: str, number: int) -> str:
    """A line as `grids.read_lines` counts them."""
    return text.partition(END)[0].split("\n")[number]


def _usual(notation: Notation) -> str:
    """What lines look like."""
    bar = "".join(allowed[0] for allowed in notation.bar())
    return f"lines such as {bar.partition(chr(10))[0]!r}"


def _refuse_malformed(
    text: str, lines: Lines, notation: Notation, source: str, advice: str
) -> None:
    """Raise an error for the first malformed line, with its place in the file."""
    mend = f"Mend it. {advice}".strip()
    unreadable = _unreadable(lines)
    if len(unreadable):
        at = int(unreadable[0])
        line = _line(text, at)
        places = notation.bar()
        width = places.index("\n")
        first = int(lines.number[at]) * (width + 1) % len(places)
        allowed = places[first : first + width]
        fits = [found in some for found, some in zip(line, allowed, strict=False)]
        column = fits.index(False) if False in fits else len(fits)
        if column < len(fits):
            problem = f"found {line[column]!r}; expected one of {allowed[column]!r}"
        else:
            problem = f"the line has {len(line)} characters; expected {width}"
        raise DataError(f"{source}, line {at + 1}, column {column + 1}: {problem}. {mend}")
    height = notation.lines_per_bar
    if notation.layout == "rows" and (rest := int(lines.count[0]) % height):
        raise DataError(
            f"{source}: it ends within a bar, of which {rest} of {height} lines are there. {mend}"
        )
