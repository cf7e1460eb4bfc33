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

import itertools
import math
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

    Args:
        groove: What to write. Velocities are left out.
        bars_per_line: Bars side by side; four of 16 steps are 71 characters.

    Raises:
        DataError: The text is no text in the groove's notation.
    """
    notation = groove.notation
    hits = to_hits(groove.text, notation, source=groove.name)
    title = re.sub(r"[\r\n]+", " ", groove.name)
    lines = [
        f"Title: {title}",
        f"Tempo: {repr(float(groove.tempo)).removesuffix('.0')}",
        f"Meter: {groove.meter[0]}/{groove.meter[1]}",
    ]
    count = _counting(notation)
    across = bars_per_line * notation.steps_per_bar
    for start in range(0, len(hits), across):
        part = hits[start : start + across]
        lines += ["", "  " + _with_bar_lines((count * bars_per_line)[: len(part)], len(count))]
        for letters, instrument in ROWS.items():
            marks = np.array(list(_marks(notation, instrument)))
            row = "".join(marks[part[:, instrument]])
            lines.append(letters + _with_bar_lines(row, len(count)))
    return "\n".join(lines) + "\n"


def from_tablature(
    text: str, notation: Notation = DRUMROLL, *, meter_bars: bool = False, source: str = "the tab"
) -> Groove:
    """Read a drum tab: what `to_tablature` writes, or one of other people on the same grid.

    Rows of a block may be missing, which is silence, and may have any of the letters of `ROWS` and
    `OTHER_LETTERS`. Lines without a `|` are passed over, save `Title:`, `Tempo:` and `Meter:`.

    Bars of a tab are as long as its meter or, as a model of 16-line bars writes them in 3/4 too, as
    those of the notation. Where the groove's are to be others, they are divided anew, as those of a
    MIDI file are, and the last is filled up with silence; otherwise it may be shorter.

    Args:
        text: The tab.
        notation: Of the groove: how many steps a quarter note and a bar have, and what its hits are
            called.
        meter_bars: Bars of the groove follow the meter; otherwise they are those of the notation.
            Without `Meter:` the meter is the length of the first bar, or the notation's.
        source: What the tab is called in errors.

    Raises:
        DataError: With line and column: a row of unknown letters, a character that is none of the
            instrument's, a bar that has neither length, rows of a block that differ in length,
            counts of other steps a quarter note, as `to_tablature` writes them, or a header that is
            no number, or no meter in quarters. Or there are no rows.
    """
    header = {"title": source, "tempo": "120", "meter": ""}
    places: dict[str, int] = {}
    blocks: list[list[tuple[int, re.Match[str]]]] = [[]]
    for number, line in enumerate(text.split("\n"), 1):
        line = line.rstrip("\r")
        name, colon, value = line.partition(":")
        if row := _ROW.fullmatch(line.rstrip()):
            blocks[-1].append((number, row))
        elif colon and name.strip().lower() in header and not any(blocks):
            header[name.strip().lower()] = value.removeprefix(" ")
            places[name.strip().lower()] = number
        else:
            if counted := _COUNTED.fullmatch(line):
                _check_counts(counted[1], notation, f"{source}, line {number}")
            if blocks[-1]:
                blocks.append([])
    if not any(blocks):
        raise DataError(
            f"{source}: no row of a drum tab is in it; expected lines such as "
            f"'HH|x-x-x-x-x-x-x-x-|'."
        )
    line, first = next(rows[0] for rows in blocks if rows)
    width = len(first[2].strip("|").partition("|")[0])
    if "meter" in places:
        meter = _meter(header["meter"], source, places["meter"])
    elif meter_bars:
        meter = _meter_of(width, notation, f"{source}, line {line}"), 4
    else:
        meter = notation.beats_per_bar, 4
    follows = replace(notation, beats_per_bar=meter[0])
    wanted = follows if meter_bars else notation
    # Of a bar that is as long as neither, or a single short one, `_block` tells.
    written = next((one for one in (follows, notation) if one.steps_per_bar == width), wanted)
    parts = [_block(rows, written, source) for rows in blocks if rows]
    for (part, line), _ in itertools.pairwise(parts):
        if len(part) % written.steps_per_bar:
            raise DataError(
                f"{source}, line {line}: the last bar has {len(part) % written.steps_per_bar} "
                f"steps; expected {written.steps_per_bar}, as only the last bar of all may be "
                f"shorter."
            )
    hits = np.concatenate([part for part, _ in parts])
    if written != wanted or wanted.layout == "rows":
        hits = np.pad(hits, ((0, -len(hits) % wanted.steps_per_bar), (0, 0)))
    return Groove(
        name=header["title"],
        text=to_text(hits, wanted),
        tempo=_tempo(header["tempo"], source, places.get("tempo")),
        meter=meter,
        notation=wanted,
    )


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
        beats = len(counts) // other.steps_per_beat
        if (
            other.steps_per_beat != notation.steps_per_beat
            and beats
            and counts == _counting(replace(other, beats_per_bar=beats))
        ):
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


def _with_bar_lines(row: str, bar: int) -> str:
    return "".join(f"|{row[start : start + bar]}" for start in range(0, len(row), bar)) + "|"


def _block(
    rows: list[tuple[int, re.Match[str]]], notation: Notation, source: str
) -> tuple[npt.NDArray[np.int8], int]:
    """The hits `(steps, 6)` of rows that stand below each other, and the line of the first."""
    first_line, first = rows[0]
    bar_lines = [place for place, character in enumerate(first[2]) if character == "|"]
    steps = len(first[2].replace("|", ""))
    hits = np.zeros((steps, len(INSTRUMENTS)), np.int8)
    for line, row in rows:
        letters, cells, begin = row[1].upper(), row[2], row.start(2)
        instrument = ROWS.get(letters, OTHER_LETTERS.get(letters))
        if instrument is None:
            raise DataError(
                f"{source}, line {line}, column 1: {row[1]!r} is no instrument; expected one of "
                f"{', '.join(ROWS)} or {', '.join(OTHER_LETTERS)}."
            )
        bars = cells.strip("|").split("|")
        begin += len(cells) - len(cells.lstrip("|"))
        for place, bar in enumerate(bars):
            last = place == len(bars) - 1
            if len(bar) > notation.steps_per_bar or (
                len(bar) < notation.steps_per_bar and not (last and bar)
            ):
                raise DataError(
                    f"{source}, line {line}, column {begin + 1}: a bar has {len(bar)} steps; "
                    f"expected {notation.steps_per_bar}, {notation.beats_per_bar} quarter notes of "
                    f"{notation.steps_per_beat}. Mend it, or the line 'Meter:', or take "
                    f"{ANOTHER_NOTATION}"
                )
            begin += len(bar) + 1
        if [place for place, character in enumerate(cells) if character == "|"] != bar_lines:
            raise DataError(
                f"{source}, line {line}: its bars do not stand below those of line {first_line}; "
                f"expected {steps} steps in as many bars. Separate lines of bars by an empty line."
            )
        codes = _codes(notation, instrument)
        found = [codes.get(character, -1) for character in cells if character != "|"]
        if -1 in found:
            at = next(i for i, c in enumerate(cells) if c != "|" and c not in codes)
            raise DataError(
                f"{source}, line {line}, column {row.start(2) + at + 1}: found {cells[at]!r}; "
                f"expected one of {' '.join(codes)}. Mend it, or take {ANOTHER_NOTATION}"
            )
        struck = np.array(found, np.int8)
        hits[:, instrument] = np.where(struck > 0, struck, hits[:, instrument])
    return hits, first_line


def _codes(notation: Notation, instrument: int) -> dict[str, int]:
    """Index in the column of every character that a tab may have there."""
    column = notation.columns[instrument]
    if len(column) == 2:
        return {"-": 0} | dict.fromkeys(HITS, 1)
    return {character: code for code, character in enumerate(_marks(notation, instrument))}


def _tempo(text: str, source: str, line: int | None) -> float:
    try:
        tempo = float(text)
    except ValueError:
        tempo = math.nan
    if not 0 < tempo < math.inf:
        raise DataError(
            f"{source}, line {line}: the tempo is {text!r}; expected quarter notes a minute, such "
            f"as 120."
        )
    return tempo


def _meter(text: str, source: str, line: int) -> tuple[int, int]:
    found = re.fullmatch(r"\s*([1-9]\d?)\s*/\s*([1-9]\d?)\s*", text, re.ASCII)
    if found is None:
        raise DataError(
            f"{source}, line {line}: the meter is {text!r}; expected two numbers, such as 4/4."
        )
    if found[2] != "4":
        raise DataError(
            f"{source}, line {line}: the meter is {text.strip()}; expected quarters, such as 4/4."
        )
    return int(found[1]), 4


def _meter_of(width: int, notation: Notation, place: str) -> int:
    """How many quarter notes a bar of so many steps has."""
    beats, rest = divmod(width, notation.steps_per_beat)
    if rest or not beats:
        raise DataError(
            f"{place}: the first bar has {width} steps, which are no whole quarter notes of "
            f"{notation.steps_per_beat}. Mend it, or take {ANOTHER_NOTATION}"
        )
    return beats
