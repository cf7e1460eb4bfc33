"""Grooves as drum tabs, the plain text in which drummers share what they play.

```
Title: 1_3_rock_120
Tempo: 120
Meter: 4/4

  |1e&a2e&a3e&a4e&a|1e&a2e&a3e&a4e&a|
CC|x---------------|----------------|
HH|x-x-x-x-x-x-x-x-|x-x-x-x-x-x-x-x-|
SD|----o-------o---|----o-------o---|
BD|o-------o-------|o-----o-o-------|
```
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from modicum.errors import DataError
from modicum.methods.drum_transfer.text.drumroll import to_hits, to_text
from modicum.methods.drum_transfer.text.notation import (
    DRUMROLL,
    INSTRUMENTS,
    NOTATIONS,
    Groove,
    Notation,
)

ROWS = {"CC": 0, "RD": 1, "HH": 4, "T1": 5, "SD": 2, "BD": 3}
"""Letters before the rows, from top to bottom, and the instrument each is."""
OTHER_LETTERS = {
    **dict.fromkeys(["C", "C1", "C2", "CR", "SC", "SP", "CH"], 0),
    **dict.fromkeys(["R", "RC", "RB"], 1),
    **dict.fromkeys(["S", "SN"], 2),
    **dict.fromkeys(["B", "K", "KD"], 3),
    **dict.fromkeys(["H"], 4),
    **dict.fromkeys(["T", "T2", "T3", "T4", "HT", "MT", "LT", "FT", "F"], 5),
}
"""Letters that tabs of other people use; several rows of an instrument become one."""
HITS = "oOxXgfdbB#@"
"""What tabs write for a hit of some kind: the only kind there is where a column has one letter."""
ANOTHER_NOTATION = (
    f"another notation: --notation {', '.join(NOTATIONS)}; a model has that of its training."
)
"""The end of a message about a text that is perhaps written in one."""
_CYMBALS = (0, 1, 4)
_COUNTS = {1: "", 2: "&", 3: "&a", 4: "e&a"}
_COUNTED = re.compile(r"\s*\|(1[^|]*)\|.*")
_ROW = re.compile(r"([A-Za-z][A-Za-z0-9]?)\s*(\|.*)")


def to_tablature(groove: Groove, *, bars_per_line: int = 4) -> str:
    """Write a groove as a drum tab.

    A hit is `x` on cymbals and `o` on drums, as tabs have it, where the notation has one letter for
    an instrument; where it has more, they are written as they are.

    Velocities are left out. Four bars of 16 steps side by side are 71 characters.

    Raises:
        DataError: The text is no text in the groove's notation.
    """
    notation = groove.notation
    hits = to_hits(groove.text, notation, source=groove.name)
    tab = "Title: " + re.sub(r"[\r\n]+", " ", groove.name)
    tab += f"\nTempo: {repr(float(groove.tempo)).removesuffix('.0')}"
    tab += f"\nMeter: {groove.meter[0]}/{groove.meter[1]}\n"
    bar = notation.steps_per_bar
    for start in range(0, len(hits), bars_per_line * bar):
        part = hits[start : start + bars_per_line * bar]
        rows = {"  ": (_counting(notation) * bars_per_line)[: len(part)]}
        for letters, instrument in ROWS.items():
            marks = _marks(notation, instrument)
            rows[letters] = "".join(marks[index] for index in part[:, instrument])
        tab += "\n"
        for letters, row in rows.items():
            bars = [row[first : first + bar] for first in range(0, len(row), bar)]
            tab += f"{letters}|{'|'.join(bars)}|\n"
    return tab


def from_tablature(
    text: str, notation: Notation = DRUMROLL, *, meter_bars: bool = False, source: str = "the tab"
) -> Groove:
    """Read a drum tab: what `to_tablature` writes, or one of other people on the same grid.

    Rows of a block may be missing, which is silence, and may have any of the letters of `ROWS` and
    `OTHER_LETTERS`. Lines without a `|` are passed over, save `Title:`, `Tempo:` and `Meter:`.

    Bars of a tab are as long as its meter or, as a model of 16-line bars writes them in 3/4 too, as
    those of the notation. Where the groove's are to be others, they are divided anew, as those of a
    MIDI file are, and the last is filled up with silence; otherwise it may be shorter.
    With `meter_bars` the bars of the groove follow the meter, without `Meter:` the length of the
    first bar; otherwise they are those of the notation. Errors call the tab by its source.

    Raises:
        DataError: There are no rows; or with line and column: unknown letters or characters, a bar
            that has neither length, rows of a block that differ in length, counts of other steps a
            quarter note, as `to_tablature` writes them, or a header that is no number, or no meter
            in quarters.
    """
    header = {"title": source, "tempo": "120", "meter": ""}
    places: dict[str, int] = {}
    blocks: list[list[tuple[int, re.Match[str]]]] = [[]]
    for number, line in enumerate(text.split("\n"), 1):
        line = line.rstrip("\r")
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if row := _ROW.fullmatch(line.rstrip()):
            blocks[-1].append((number, row))
        elif colon and name in header and not any(blocks):
            header[name], places[name] = value.removeprefix(" "), number
        else:
            if counted := _COUNTED.fullmatch(line):
                _check_counts(counted[1], notation, f"{source}, line {number}")
            if blocks[-1]:
                blocks.append([])
    blocks = list(filter(None, blocks))
    if not blocks:
        raise DataError(
            f"{source}: no row of a drum tab is in it; expected lines such as "
            f"'HH|x-x-x-x-x-x-x-x-|'."
        )
    line, first = blocks[0][0]
    width = len(first[2].strip("|").partition("|")[0])
    if "meter" in places:
        beats = _meter(header["meter"], f"{source}, line {places['meter']}")
    elif meter_bars:
        beats, rest = divmod(width, notation.steps_per_beat)
        if rest or not beats:
            raise DataError(
                f"{source}, line {line}: the first bar has {width} steps, which are no whole "
                f"quarter notes of {notation.steps_per_beat}. Mend it, or take {ANOTHER_NOTATION}"
            )
    else:
        beats = notation.beats_per_bar
    follows = replace(notation, beats_per_bar=beats)
    wanted = follows if meter_bars else notation
    # Of a bar that is as long as neither, or a single short one, `_block` tells.
    written = next((one for one in (follows, notation) if one.steps_per_bar == width), wanted)
    parts = [_block(rows, written, source) for rows in blocks]
    for part, rows in zip(parts[:-1], blocks, strict=False):
        if rest := len(part) % written.steps_per_bar:
            raise DataError(
                f"{source}, line {rows[0][0]}: the last bar has {rest} steps; expected "
                f"{written.steps_per_bar}, as only the last bar of all may be shorter."
            )
    hits = np.concatenate(parts)
    if written != wanted or wanted.layout == "rows":
        hits = np.pad(hits, ((0, -len(hits) % wanted.steps_per_bar), (0, 0)))
    tempo = _tempo(header["tempo"], f"{source}, line {places.get('tempo')}")
    return Groove(header["title"], to_text(hits, wanted), tempo, (beats, 4), wanted)


def is_tablature(text: str) -> bool:
    """Whether a text has a row of a drum tab, and so is no drumroll."""
    return any(_ROW.fullmatch(line.rstrip()) for line in text.split("\n"))


def _counting(notation: Notation) -> str:
    """The counts of a bar, such as `1e&a2e&a3e&a4e&a`."""
    after = _COUNTS.get(notation.steps_per_beat, "." * (notation.steps_per_beat - 1))
    return "".join(f"{beat % 10}{after}" for beat in range(1, notation.beats_per_bar + 1))


def _check_counts(counts: str, notation: Notation, place: str) -> None:
    """Refuse the counts of a bar of another notation; those of other people may be anything."""
    for other in NOTATIONS.values():
        if other.steps_per_beat == notation.steps_per_beat:
            continue
        beats = len(counts) // other.steps_per_beat
        if beats and counts == _counting(replace(other, beats_per_bar=beats)):
            raise DataError(
                f"{place}: {counts!r} counts {other.steps_per_beat} steps a quarter note; expected "
                f"{notation.steps_per_beat}. Take {ANOTHER_NOTATION}"
            )


def _marks(notation: Notation, instrument: int) -> str:
    """What a tab writes for each character of a column."""
    column = notation.columns[instrument]
    if len(column) == 2:
        return "-x" if instrument in _CYMBALS else "-o"
    return "-" + column[1:]


def _block(
    rows: list[tuple[int, re.Match[str]]], notation: Notation, source: str
) -> npt.NDArray[np.int8]:
    """The hits `(steps, 6)` of rows that stand below each other."""
    first_line, first = rows[0]
    bar_lines = [place.start() for place in re.finditer(r"\|", first[2])]
    hits = np.zeros((len(first[2]) - len(bar_lines), len(INSTRUMENTS)), np.int8)
    size = notation.steps_per_bar
    for line, row in rows:
        letters, cells = row[1].upper(), row[2]
        instrument = ROWS.get(letters, OTHER_LETTERS.get(letters))
        if instrument is None:
            raise DataError(
                f"{source}, line {line}, column 1: {row[1]!r} is no instrument; expected one of "
                f"{', '.join(ROWS)} or {', '.join(OTHER_LETTERS)}."
            )
        begin = row.start(2) + len(cells) - len(cells.lstrip("|"))
        *whole, last = cells.strip("|").split("|")
        for bar, shortest in (*((bar, size) for bar in whole), (last, 1)):
            if not shortest <= len(bar) <= size:
                raise DataError(
                    f"{source}, line {line}, column {begin + 1}: a bar has {len(bar)} steps; "
                    f"expected {size}, {notation.beats_per_bar} quarter notes of "
                    f"{notation.steps_per_beat}. Mend it, or the line 'Meter:', or take "
                    f"{ANOTHER_NOTATION}"
                )
            begin += len(bar) + 1
        of_it = [place.start() for place in re.finditer(r"\|", cells)]
        if of_it != bar_lines or len(cells) != len(first[2]):
            raise DataError(
                f"{source}, line {line}: its bars do not stand below those of line {first_line}; "
                f"expected {len(hits)} steps in as many bars. Separate lines of bars by an empty "
                f"line."
            )
        codes = _codes(notation, instrument)
        for at, cell in enumerate(cells):
            if cell not in codes and cell != "|":
                raise DataError(
                    f"{source}, line {line}, column {row.start(2) + at + 1}: found {cell!r}; "
                    f"expected one of {' '.join(codes)}. Mend it, or take {ANOTHER_NOTATION}"
                )
        struck = np.array([codes[cell] for cell in cells if cell != "|"], np.int8)
        hits[:, instrument] = np.where(struck > 0, struck, hits[:, instrument])
    return hits


def _codes(notation: Notation, instrument: int) -> dict[str, int]:
    """Index in the column of every character that a tab may have there."""
    column = notation.columns[instrument]
    if len(column) == 2:
        return {"-": 0} | dict.fromkeys(HITS, 1)
    return {character: code for code, character in enumerate(_marks(notation, instrument))}


def _tempo(text: str, place: str) -> float:
    found = re.fullmatch(r"\s*(\d{1,9}(\.\d{1,24})?)\s*", text, re.ASCII)
    if found is None or float(found[1]) < 0.01:
        raise DataError(
            f"{place}: the tempo is {text[:40]!r}; expected quarter notes a minute, such as 120."
        )
    return float(found[1])


def _meter(text: str, place: str) -> int:
    """Quarter notes of a bar."""
    found = re.fullmatch(r"\s*([1-9]\d?)\s*/\s*([1-9]\d?)\s*", text, re.ASCII)
    if found is None:
        raise DataError(f"{place}: the meter is {text!r}; expected two numbers, such as 4/4.")
    if found[2] != "4":
        raise DataError(f"{place}: the meter is {text.strip()}; expected quarters, such as 4/4.")
    return int(found[1])
