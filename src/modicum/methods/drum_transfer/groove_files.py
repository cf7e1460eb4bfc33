"""Grooves in files, whatever kind of file it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from modicum.classification import input_files
from modicum.errors import DataError
from modicum.methods.drum_transfer.drumroll import without_separators
from modicum.methods.drum_transfer.midi import Reading, read_midi
from modicum.methods.drum_transfer.notation import Groove
from modicum.methods.drum_transfer.tablature import from_tablature, is_tablature

PitchMap: TypeAlias = tuple[tuple[int, str], ...]
"""`Reading.pitch_map` as an option, `--pitch-map 33 snare 31 none`."""
SUFFIXES = (".mid", ".midi", ".tab", ".txt")
"""Of files of grooves; the first of a name says most, as lines of a drumroll have no tempo."""


def groove_paths(inputs: Sequence[Path]) -> list[Path]:
    """Files of grooves; of those of one name in a folder that is given, the first of `SUFFIXES`.

    Args:
        inputs: Files, and folders of any depth.

    Raises:
        DataError: There is none.
    """
    best: dict[tuple[Path, str], Path] = {}
    for path in input_files(inputs, set(SUFFIXES), "groove"):
        # A file that is named is meant.
        group = (path, "") if path in inputs else (path.parent, path.stem)
        other = best.setdefault(group, path)
        if SUFFIXES.index(path.suffix.lower()) < SUFFIXES.index(other.suffix.lower()):
            best[group] = path
    return list(best.values())


def numbered(names: Iterable[str]) -> list[str]:
    """The same names, those that came before with the first number that makes them new."""
    taken: dict[str, None] = {}
    for name in names:
        tried, number = name, 1
        while tried in taken:
            number += 1
            tried = f"{name}-{number}"
        taken[tried] = None
    return list(taken)


def read_groove(
    path: Path, reading: Reading | None = None, *, name: str = "", tempo: float = 120.0
) -> Groove:
    """A groove from a MIDI file, a drum tab, or lines of a drumroll.

    Args:
        path: A file of `SUFFIXES`. What a text is, is seen from it.
        reading: How MIDI becomes text, and the notation of a text; with `meter_bars`, bars of a tab
            are as long as they are there.
        name: Of the groove; empty: that of the file without its suffix.
        tempo: Of lines of a drumroll, which say none.

    Raises:
        DataError: The file cannot be used; lines of a drumroll are not looked at.
        MissingExtraError: MIDI needs the extra `music`.
    """
    name = name or path.stem
    if path.suffix.lower() in (".mid", ".midi"):
        return read_midi(path, reading, name=name)
    reading = reading or Reading()
    notation = reading.notation
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read as text: {error}. Expected a drum tab, or lines of a drumroll."
        ) from error
    if is_tablature(text):
        groove = from_tablature(text, notation, own_bars=reading.meter_bars, source=str(path))
        return dataclasses.replace(groove, name=name)
    return Groove(name, without_separators(text), tempo=tempo, notation=notation)
