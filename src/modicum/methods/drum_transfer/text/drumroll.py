"""The text of a groove: to hits and back, in bars, and as records of prompt and completion."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from modicum.errors import ConfigError, DataError
from modicum.methods.drum_transfer.text.notation import (
    COLUMN_OF_ROW,
    DRUMROLL,
    END,
    INSTRUMENTS,
    ROWS,
    SEPARATOR,
    Groove,
    Notation,
)
from modicum.options import refuse

MORE_THAN = 8
"""Bars that a groove must have more than to give a record."""
Hits: TypeAlias = npt.NDArray[np.int8]
Repair: TypeAlias = Literal["pad", "drop"]


@dataclass(frozen=True)
class Record:
    """What a language model is trained on."""

    prompt: str
    """The first bars, a separator after each."""
    completion: str
    """The other bars, a separator between them, and `END`."""
    name: str
    notation: Notation = DRUMROLL
    """Notation of prompt and completion, which says how long their bars are."""


def to_hits(
    text: str, notation: Notation = DRUMROLL, *, repair: Repair | None = None, source: str = "text"
) -> Hits:
    """What is hit at each step of a text without separators, whose last newline may be absent.

    Messages call the text by its source. Lines of a wrong width or with a wrong character are
    refused or repaired: `pad` writes silence for wrong and absent characters and cuts what is too
    much, `drop` leaves such lines out, in the layout `rows` the bars with such lines.

    Returns:
        `(steps, 6)`, int8: index in `notation.columns[i]` of the character of instrument `i`; 0 is
        silence.

    Raises:
        DataError: A line is malformed and `repair` is None.
    """
    if text and not text.endswith("\n"):
        text += "\n"
    unit = unit_of(notation)
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    places, characters = unit.indices.shape
    if len(codes) % places == 0:
        codes = np.minimum(codes, characters - 1).reshape(-1, places)
        found = unit.indices[np.arange(places), codes]
        if (found >= 0).all():
            return found[:, unit.cells].reshape(-1, len(INSTRUMENTS))
    if repair is None:
        raise _malformed(text, notation, source)
    return to_hits(_mend(text, notation, repair), notation, source=source)


def to_text(hits: npt.ArrayLike, notation: Notation = DRUMROLL) -> str:
    """Lines in `notation` of hits `(steps, 6)`, the inverse of `to_hits`.

    Raises:
        DataError: An index is out of range, or the layout `rows` is given a part of a bar.
    """
    cells, unit = np.asarray(hits), unit_of(notation)
    if cells.ndim != 2 or cells.shape[1] != len(INSTRUMENTS):
        raise DataError(f"hits: expected the shape (steps, 6), found {cells.shape}.")
    steps, sizes = len(unit.cells), notation.sizes
    if len(wrong := np.argwhere((cells < 0) | (cells >= np.array(sizes)))):
        step, column = wrong[0]
        raise DataError(
            f"hits: found {cells[step, column]} for the {INSTRUMENTS[column]} at step {step}; "
            f"expected 0..{sizes[column] - 1}."
        )
    if len(cells) % steps:
        raise DataError(
            f"hits: the layout rows needs whole bars of {steps} steps; found {len(cells)} steps. "
            f"Cut the rest, or add silence."
        )
    written = np.tile(unit.characters[:, 0], (len(cells) // steps, 1))
    # `take` counts through the table, row after row, and is quicker than two indices.
    place = unit.cells * unit.characters.shape[1]
    written[:, unit.cells] = unit.characters.take(cells.reshape(-1, *place.shape) + place)
    return written.tobytes().decode("utf-32-le")


def line_numbers(hits: Hits, notation: Notation) -> npt.NDArray[np.int64]:
    """`(steps,)`: a number for each combination of hits `(steps, 6)`, below `prod(notation.sizes)`.

    0 is silence.
    """
    return np.asarray(np.ravel_multi_index(tuple(hits.T), notation.sizes), np.int64)


def convert(text: str, notation: Notation, to: Notation) -> str:
    """A text in another layout of the same characters: steps to rows, or rows to steps.

    Raises:
        ConfigError: The notations differ in more than their layout and their beats a bar.
        DataError: The text is malformed, or rows are asked of a part of a bar.
    """
    if (notation.columns, notation.steps_per_beat) != (to.columns, to.steps_per_beat):
        raise ConfigError(
            "convert: the notations have different characters or steps a beat; expected another "
            "layout of the same. Read the MIDI file again in the other notation."
        )
    return to_text(to_hits(text, notation), to)


def bars(text: str, notation: Notation = DRUMROLL) -> list[str]:
    """The bars of a text without separators that may be malformed; a short tail is the last."""
    lines = re.findall(r".*\n|.+\Z", text)
    height = notation.lines_per_bar
    return ["".join(lines[start : start + height]) for start in range(0, len(lines), height)]


def silent_bars(groove: Groove) -> npt.NDArray[np.bool_]:
    """`(bars,)`: whether nothing is hit in a bar of a well-formed text, a short tail included."""
    return ~np.any(_struck(groove), 1)


def without_leading_silence(groove: Groove, *, keep_pickups: bool = False) -> Groove:
    """A groove from the first bar that begins with a hit, as in the paper's records.

    The official code looks at the first quarter note of a bar alone, so that a pick-up before the
    first bar is lost with it. With `keep_pickups` only bars without any hit are left out. Of a
    silent groove no text is left.

    Raises:
        DataError: The text is malformed.
    """
    struck = _struck(groove)
    begins = struck if keep_pickups else struck[:, : groove.notation.steps_per_beat]
    audible = np.flatnonzero(begins.any(1))
    first = int(audible[0]) if len(audible) else len(struck)
    return _part(groove, _bars_of(groove), slice(first, None))


def to_record(groove: Groove, *, prompt_bars: int = 2, keep_pickups: bool = False) -> Record | None:
    """The record of a groove, leading silence left out as `without_leading_silence` does.

    None if no more than `MORE_THAN` bars are left (README, The text).

    Raises:
        ConfigError: The prompt would leave nothing to complete.
        DataError: The text is malformed.
    """
    if not 1 <= prompt_bars <= MORE_THAN:
        raise refuse("prompt_bars", prompt_bars, f"1 to {MORE_THAN}, as records have more bars")
    heard = without_leading_silence(groove, keep_pickups=keep_pickups)
    if heard.text.count("\n") <= MORE_THAN * groove.notation.lines_per_bar:
        return None
    found = _bars_of(heard)
    prompt = "".join(bar + SEPARATOR for bar in found[:prompt_bars])
    completion = SEPARATOR.join(found[prompt_bars:]) + END
    return Record(prompt, completion, groove.name, groove.notation)


def to_prompt(groove: Groove, bars: int | None = 2) -> str:
    """The first bars of a groove, None for all, a separator after each, for a model to go on with.

    Raises:
        ConfigError: `bars` is less than 1.
        DataError: The groove has fewer bars, or not only whole ones, or is malformed.
    """
    if bars is not None and bars < 1:
        raise refuse("prompt_bars", bars, "at least 1")
    size = groove.notation.steps_per_bar
    steps = len(to_hits(groove.text, groove.notation, source=groove.name))
    if bars is None and steps % size:
        raise DataError(
            f"{groove.name}: found {steps} steps; expected a multiple of {size}, whole bars. Add "
            f"silence to the last bar, or cut it."
        )
    if steps < (wanted := bars or 1) * size:
        raise DataError(
            f"{groove.name}: found {steps} steps; a prompt of {wanted} bars needs {wanted * size}. "
            f"Take fewer (--prompt-bars), or a longer groove."
        )
    return "".join(bar + SEPARATOR for bar in _bars_of(groove)[:bars])


def without_separators(text: str) -> str:
    """The lines of a record or of what a model wrote: up to `END`, without separators.

    Lines that are malformed, a separator among other characters included, stay as they are.
    """
    return re.sub(rf"^{SEPARATOR.strip()}(\n|\Z)", "", text.partition(END)[0], flags=re.MULTILINE)


def windows(groove: Groove, bars: int = 16, *, pad: bool = True) -> list[Groove]:
    """A long performance in parts of so many bars, each but the first with its first bar, from 1,
    in its name. With `pad` the last is made as long as the others by silence.
    """
    found = _bars_of(groove)
    parts: list[Groove] = []
    for start in range(0, max(len(found), 1), bars):
        name = f"{groove.name}@{start + 1}" if start else ""
        part = _part(groove, found, slice(start, start + bars), name)
        parts.append(_padded(part, bars) if pad else part)
    return parts


def _bars_of(groove: Groove) -> list[str]:
    return bars(groove.text, groove.notation)


def _part(groove: Groove, found: list[str], part: slice, name: str = "") -> Groove:
    """Some of the bars that were found in a groove, perhaps with a name of their own."""
    size, velocities = groove.notation.steps_per_bar, groove.velocities
    if velocities is not None:
        stop = None if part.stop is None else part.stop * size
        velocities = velocities[part.start * size : stop]
    return dataclasses.replace(
        groove, name=name or groove.name, text="".join(found[part]), velocities=velocities
    )


def _padded(groove: Groove, bars: int) -> Groove:
    hits = to_hits(groove.text, groove.notation, source=groove.name)
    absent = ((0, max(bars * groove.notation.steps_per_bar - len(hits), 0)), (0, 0))
    text, velocities = to_text(np.pad(hits, absent), groove.notation), groove.velocities
    velocities = None if velocities is None else np.pad(velocities, absent)
    return dataclasses.replace(groove, text=text, velocities=velocities)


def _struck(groove: Groove) -> npt.NDArray[np.bool_]:
    """`(bars, steps of a bar)`: whether anything is hit."""
    struck = np.any(to_hits(groove.text, groove.notation, source=groove.name), 1)
    size = groove.notation.steps_per_bar
    return np.pad(struck, (0, -len(struck) % size)).reshape(-1, size)


class Unit(NamedTuple):
    """What repeats in a text: a line in the layout `steps`, a bar in the layout `rows`."""

    indices: npt.NDArray[np.int8]
    """`(places, codes)`: index of a character at a place of the unit, -1 if it may not be there.
    The last code stands for all characters that are nowhere allowed.
    """
    cells: npt.NDArray[np.int64]
    """`(steps, 6)`: the place of each cell."""
    characters: npt.NDArray[np.uint32]
    """`(places, k)`: the characters allowed at a place, the first where nothing is hit."""


@lru_cache(maxsize=64)
def unit_of(notation: Notation) -> Unit:
    """The tables that texts in a notation are read and written by."""
    if notation.layout == "steps":
        places = (*notation.columns, "\n")
        cells = np.arange(len(INSTRUMENTS))[None]
    else:
        places = notation.bar()
        # After `K: `, beats are a bar line apart.
        step = np.arange(notation.steps_per_bar)
        in_row = len("K: ") + step + step // notation.steps_per_beat
        cells = np.argsort(COLUMN_OF_ROW) * (len(places) // len(ROWS)) + in_row[:, None]
    index = np.full((len(places), 2 + max(map(ord, notation.alphabet))), -1, np.int8)
    characters = np.zeros((len(places), max(notation.sizes)), np.uint32)
    for place, allowed in enumerate(places):
        codes = list(map(ord, allowed))
        index[place, codes], characters[place, : len(codes)] = np.arange(len(codes)), codes
    return Unit(index, cells, characters)


def fault(line: str, allowed: tuple[str, ...]) -> tuple[int, str] | None:
    """Column, from 1, and kind of the first fault in a line, given what may be at each place."""
    for column, (found, expected) in enumerate(zip(line, allowed, strict=False), 1):
        if found not in expected:
            return column, f"found {found!r}; expected one of {expected!r}"
    if len(line) == len(allowed):
        return None
    problem = f"the line has {len(line)} characters; expected {len(allowed)}"
    return min(len(line), len(allowed)) + 1, problem


def _malformed(text: str, notation: Notation, source: str) -> DataError:
    """The error for the first character that is not what it must be."""
    height, lines = notation.lines_per_bar, text.removesuffix("\n").split("\n")
    place = f"line {len(lines) + 1}, column 1"
    problem = f"the text ends within a bar of {height} lines"
    for number, line in enumerate(lines):
        if found := fault(line, notation.lines[number % height]):
            place, problem = f"line {number + 1}, column {found[0]}", found[1]
            if line == SEPARATOR.strip():
                problem = "found a separator. Take it out by `without_separators`"
            break
    return DataError(
        f'{source}, {place}: {problem}. repair="pad" or repair="drop" mends such lines.'
    )


def _mend(text: str, notation: Notation, repair: Repair) -> str:
    """A text without malformed lines; see `to_hits`."""
    rows = notation.lines[:1] if notation.layout == "steps" else notation.lines
    lines = text.removesuffix("\n").split("\n")
    if repair == "pad":
        lines += [""] * (-len(lines) % len(rows))
    units = [lines[start : start + len(rows)] for start in range(0, len(lines), len(rows))]

    def padded(line: str, row: tuple[str, ...]) -> str:
        pairs = zip_longest(line[: len(row)], row, fillvalue="\0")
        return "".join(found if found in allowed else allowed[0] for found, allowed in pairs)

    if repair == "pad":
        units = [list(map(padded, unit, rows)) for unit in units]
    else:
        units = [u for u in units if len(u) == len(rows) and not any(map(fault, u, rows))]
    return "".join(line + "\n" for unit in units for line in unit)
