"""Grooves in files, whatever kind of file it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from modicum.errors import DataError
from modicum.inference import input_files
from modicum.methods.drum_transfer.options import MOST_BARS, Reading
from modicum.methods.drum_transfer.text.drumroll import fault, to_hits, to_text, without_separators
from modicum.methods.drum_transfer.text.grids import read_lines
from modicum.methods.drum_transfer.text.midi import read_midi
from modicum.methods.drum_transfer.text.notation import END, NOTATIONS, Groove, Notation
from modicum.methods.drum_transfer.text.smf import MOST_BYTES
from modicum.methods.drum_transfer.text.tablature import (
    ANOTHER_NOTATION,
    from_tablature,
    is_tablature,
)
from modicum.system.files import read_bytes
from modicum.system.terminal import counted

SUFFIXES = (".mid", ".midi", ".tab", ".txt")
"""Of files of grooves; the first of a name says most, as lines of a drumroll have no tempo."""


def groove_paths(inputs: Sequence[Path]) -> list[Path]:
    """Files of grooves; of those of one name in a folder that is given, the first of `SUFFIXES`.

    Files that are given are meant whatever their names are.

    Raises:
        DataError: There is none.
    """
    best: dict[tuple[Path, str], Path] = {}
    for path in input_files(inputs, set(SUFFIXES), "groove"):
        if path in inputs:
            best[path, ""] = path
        else:
            rivals = best.get((path.parent, path.stem), path), path
            first = min(rivals, key=lambda one: SUFFIXES.index(one.suffix.lower()))
            best[path.parent, path.stem] = first
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
        reading: How files become text.
        name: What the groove is called; empty: the file's name without its suffix.
        tempo: That of lines, which say none.
        bars: Of MIDI so many, filled up with silence; None: to the last hit. Texts are read whole.
        malformed: What is done about malformed lines: `keep` them as they are; see
            `drumroll.to_hits` for the others.
        advice: How else a refused line can be mended, for the message: a sentence.

    Raises:
        DataError: The file cannot be used.
        MissingExtraError: MIDI needs the extra `music`.
    """
    name, reading = name or path.stem, reading or Reading()
    if (suffix := path.suffix.lower()) not in SUFFIXES:
        raise DataError(
            f"{path}: expected a file ending in {', '.join(SUFFIXES)}. Rename it, if it is one of "
            f"MIDI, a drum tab or lines of a drumroll."
        )
    if suffix in (".mid", ".midi"):
        return read_midi(path, reading, name=name, bars=bars)
    notation = NOTATIONS[reading.notation]
    try:
        text = read_bytes(path, MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: cannot be read as text: {error}. Expected a drum tab, or lines of a drumroll."
        ) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if (lines := text.count("\n")) > (most := MOST_BARS * (notation.lines_per_bar + 1)):
        raise DataError(
            f"{path}: {lines:,} lines; expected at most {most:,}, those of {MOST_BARS:,} bars. Cut "
            f"it, or remove empty lines."
        )
    if is_tablature(text):
        groove = from_tablature(text, notation, meter_bars=reading.meter_bars, source=str(path))
        return dataclasses.replace(groove, name=name)
    advice = f"Mend it. {advice}".strip() if malformed == "refuse" else ""
    _check_lines(text, notation, str(path), advice)
    text = without_separators(text)
    if malformed in ("pad", "drop"):
        text = to_text(to_hits(text, notation, repair=malformed), notation)
    return Groove(name, text, tempo=tempo, notation=notation)


def _check_lines(text: str, notation: Notation, source: str, advice: str) -> None:
    """Refuse lines of another notation, see `read_groove`, and with advice malformed ones."""
    lines, height = read_lines([text], notation), notation.lines_per_bar
    count, bad = int(lines.count[0]), int(lines.bad.sum())
    if not count:
        raise DataError(
            f"{source}: there is no groove in it. Expected lines such as {notation.silence!r}."
        )
    if bad:
        at = int(lines.bad.argmax())
        line = text.partition(END)[0].split("\n")[at]
        silent = lines.readable & (lines.codes == 0).all(1)
        fitting = [name for name, one in NOTATIONS.items() if not read_lines([text], one).bad.any()]
        if fitting or 2 * bad > count - silent.sum():
            usual = f"expected lines such as {notation.silence!r}"
            found = f"all can in {' or '.join(fitting)}" if fitting else usual
            raise DataError(
                f"{source}: of its {counted(count, 'line')} {bad:,} cannot be read in this "
                f"notation, the first in line {at + 1}, {line[:40]!r}; {found}. Take "
                f"{ANOTHER_NOTATION}"
            )
        found = fault(line, notation.lines[lines.number[at] % height])
        if advice and found:
            raise DataError(f"{source}, line {at + 1}, column {found[0]}: {found[1]}. {advice}")
    elif advice and notation.layout == "rows" and count % height:
        raise DataError(
            f"{source}: it ends within a bar, of which {count % height} of {height} lines are "
            f"there. {advice}"
        )
