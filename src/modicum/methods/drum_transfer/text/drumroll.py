"""The text of a groove: to hits and back, in bars, and as records of prompt and completion."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, zip_longest
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
    """Name of the groove."""
    notation: Notation = DRUMROLL
    """Notation of prompt and completion, which says how long their bars are."""


def to_hits(
    text: str, notation: Notation = DRUMROLL, *, repair: Repair | None = None, source: str = "text"
) -> Hits:
    """What is hit at each step.

    Args:
        text: Lines in `notation` without separators; the last newline may be absent.
        notation: Of the text.
        repair: What is done about lines of a wrong width or with a wrong character. None refuses
            them. `pad` writes silence for wrong and absent characters and cuts what is too much.
            `drop` leaves such lines out, in the layout `rows` the bars with such lines.
        source: What the text is, for messages.

    Returns:
        `(steps, 6)`, int8: index in `notation.columns[i]` of the character of instrument `i`; 0 is
        silence.

    Raises:
        DataError: A line is malformed and `repair` is None.
    """
    if text and not text.endswith("\n"):
        text += "\n"
    unit = _unit(notation)
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    codes = np.minimum(codes, unit.indices.shape[1] - 1)
    places = unit.indices.shape[0]
    if len(codes) % places == 0:
        found = unit.indices[np.arange(places), codes.reshape(-1, places)]
        if (found >= 0).all():
            return found[:, unit.cells].reshape(-1, len(INSTRUMENTS))
    if repair is None:
        raise _malformed(text, codes, notation, source)
    return to_hits(_mend(text, notation, repair), notation, source=source)


def to_text(hits: npt.ArrayLike, notation: Notation = DRUMROLL) -> str:
    """Lines in `notation`, the inverse of `to_hits`.

    Args:
        hits: `(steps, 6)`, integers: index in `notation.columns[i]`; 0 is silence.
        notation: Of the text.

    Raises:
        DataError: An index is out of range, or the layout `rows` is given a part of a bar.
    """
    cells, unit = np.asarray(hits), _unit(notation)
    if cells.ndim != 2 or cells.shape[1] != len(INSTRUMENTS):
        raise DataError(f"hits: expected the shape (steps, 6), found {cells.shape}.")
    steps, sizes = len(unit.cells), unit.sizes
    if cells.size and ((cells < 0) | (cells >= sizes)).any():
        step, column = np.argwhere((cells < 0) | (cells >= sizes))[0]
        raise DataError(
            f"hits: found {cells[step, column]} for the {INSTRUMENTS[column]} at step {step}; "
            f"expected 0..{sizes[column] - 1}."
        )
    if len(cells) % steps:
        raise DataError(
            f"hits: the layout rows needs whole bars of {steps} steps; found {len(cells)} steps. "
            f"Cut the rest, or add silence."
        )
    written = np.empty((len(cells) // steps, len(unit.silence)), np.uint32)
    written[:] = unit.silence
    # `take` counts through the table, row after row, and is quicker than two indices.
    row = np.arange(len(INSTRUMENTS)) * unit.characters.shape[1]
    written[:, unit.cells] = unit.characters.take(cells + row).reshape(-1, *unit.cells.shape)
    return written.tobytes().decode("utf-32-le")


def convert(text: str, notation: Notation, to: Notation) -> str:
    """A text in another layout of the same characters: steps to rows, or rows to steps.

    Args:
        text: Lines in `notation`.
        notation: Of the text.
        to: Of the result; only its layout and its beats a bar may differ.

    Raises:
        ConfigError: The notations differ in more than that.
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
    """`(bars,)`: whether nothing is hit in a bar, a short tail included.

    Raises:
        DataError: The text is malformed.
    """
    return ~np.any(_struck(groove), 1)


def without_leading_silence(groove: Groove, *, keep_pickups: bool = False) -> Groove:
    """A groove from the first bar that begins with a hit, as in the paper's records.

    The official code looks at the first quarter note of a bar alone, so that a pick-up before the
    first bar is lost with it.

    Args:
        groove: Any.
        keep_pickups: Leave out bars only if they are silent to the end.

    Returns:
        The groove, with no text if it is silent.

    Raises:
        DataError: The text is malformed.
    """
    struck = _struck(groove)
    begins = struck if keep_pickups else struck[:, : groove.notation.steps_per_beat]
    audible = np.flatnonzero(begins.any(1))
    first = int(audible[0]) if len(audible) else len(struck)
    return _part(groove, _bars_of(groove), slice(first, None))


def to_record(groove: Groove, *, prompt_bars: int = 2, keep_pickups: bool = False) -> Record | None:
    """The record of a groove, leading silence left out (README, The text).

    Args:
        groove: Any.
        prompt_bars: Bars of the prompt.
        keep_pickups: See `without_leading_silence`.

    Returns:
        None if no more than `MORE_THAN` bars are left.

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
    return Record(
        prompt="".join(bar + SEPARATOR for bar in found[:prompt_bars]),
        completion=SEPARATOR.join(found[prompt_bars:]) + END,
        name=groove.name,
        notation=groove.notation,
    )


def to_prompt(groove: Groove, bars: int | None = 2) -> str:
    """The first bars of a groove, a separator after each, for a model to go on with.

    Args:
        groove: Any.
        bars: How many; None for all of it, which must then be whole bars.

    Raises:
        ConfigError: `bars` is less than 1.
        DataError: The groove has fewer bars, or is malformed.
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
    """Parts of a long performance, cut at bar boundaries.

    Args:
        groove: Any.
        bars: Bars of a part, at least 1.
        pad: Make the last as long as the others by silence.

    Returns:
        Parts that together hold all of the groove, each but the first with its first bar, from 1,
        in its name.
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
    velocities = groove.velocities
    return dataclasses.replace(
        groove,
        text=to_text(np.pad(hits, absent), groove.notation),
        velocities=velocities if velocities is None else np.pad(velocities, absent),
    )


def _struck(groove: Groove) -> npt.NDArray[np.bool_]:
    """`(bars, steps of a bar)`: whether anything is hit."""
    struck = np.any(to_hits(groove.text, groove.notation, source=groove.name), 1)
    size = groove.notation.steps_per_bar
    return np.pad(struck, (0, -len(struck) % size)).reshape(-1, size)


class _Unit(NamedTuple):
    """What repeats in a text: a line in the layout `steps`, a bar in the layout `rows`."""

    indices: npt.NDArray[np.int8]
    """`(places, codes)`: index of a character at a place of the unit, -1 if it may not be there.
    The last code stands for all characters that are nowhere allowed.
    """
    cells: npt.NDArray[np.int64]
    """`(steps, 6)`: the place of each cell."""
    silence: npt.NDArray[np.uint32]
    """`(places,)`: characters of the unit in which nothing is hit."""
    characters: npt.NDArray[np.uint32]
    """`(6, k)`: the characters of each instrument."""
    sizes: npt.NDArray[np.int8]
    """`(6,)`: how many they are."""


@lru_cache(maxsize=64)
def _unit(notation: Notation) -> _Unit:
    if notation.layout == "steps":
        places = (*notation.columns, "\n")
        cells = np.arange(len(INSTRUMENTS))[None]
    else:
        places = notation.bar()
        # After `K: `, beats are a bar line apart.
        step = np.arange(notation.steps_per_bar)
        in_row = len("K: ") + step + step // notation.steps_per_beat
        rows = np.argsort(COLUMN_OF_ROW)
        cells = rows * (len(places) // len(ROWS)) + in_row[:, None]
    index = np.full((len(places), 2 + max(map(ord, notation.alphabet))), -1, np.int8)
    for place, allowed in enumerate(places):
        index[place, list(map(ord, allowed))] = np.arange(len(allowed))
    characters = np.zeros((len(INSTRUMENTS), max(map(len, notation.columns))), np.uint32)
    for column, allowed in enumerate(notation.columns):
        characters[column, : len(allowed)] = list(map(ord, allowed))
    silence = np.array([ord(allowed[0]) for allowed in places], np.uint32)
    sizes = np.array(list(map(len, notation.columns)), np.int8)
    return _Unit(index, cells, silence, characters, sizes)


def _malformed(
    text: str, codes: npt.NDArray[np.uint32], notation: Notation, source: str
) -> DataError:
    """The error for the first character that is not what it must be."""
    unit = _unit(notation).indices
    place = np.arange(len(codes)) % len(unit)
    wrong = np.flatnonzero(unit[place, codes] < 0)
    at = int(wrong[0]) if len(wrong) else len(codes)
    start = text.rfind("\n", 0, at) + 1
    line, column, content = text.count("\n", 0, at) + 1, at - start + 1, text[start:].split("\n")[0]
    expected = notation.bar()[at % len(unit)]
    if content == SEPARATOR.strip():
        problem = "found a separator. Take it out by `without_separators`"
    elif at == len(codes):
        problem = f"the text ends within a bar of {notation.lines_per_bar} lines"
    elif text[at] == "\n":
        problem = f"the line ends after {len(content)} characters; expected one of {expected!r}"
    elif expected == "\n":
        problem = f"found {text[at]!r}; expected the end of the line, which has {len(content)}"
        problem += f" characters instead of {column - 1}"
    else:
        problem = f"found {text[at]!r}; expected one of {expected!r}"
    return DataError(
        f"{source}, line {line}, column {column}: {problem}. "
        f'repair="pad" or repair="drop" mends such lines.'
    )


def _mend(text: str, notation: Notation, repair: Repair) -> str:
    """A text without malformed lines; see `to_hits`."""
    rows = [tuple(row) for ends, row in groupby(notation.bar(), "\n".__eq__) if not ends]
    rows = rows[:1] if notation.layout == "steps" else rows
    lines = text.removesuffix("\n").split("\n")
    units = [lines[start : start + len(rows)] for start in range(0, len(lines), len(rows))]

    def fits(line: str, row: tuple[str, ...]) -> bool:
        return len(line) == len(row) and all(map(str.__contains__, row, line))

    def padded(line: str, row: tuple[str, ...]) -> str:
        pairs = zip_longest(line[: len(row)], row, fillvalue="\0")
        return "".join(found if found in allowed else allowed[0] for found, allowed in pairs)

    if repair == "drop":
        whole = [unit for unit in units if len(unit) == len(rows)]
        units = [unit for unit in whole if all(map(fits, unit, rows))]
    else:
        units[-1] += [""] * (-len(lines) % len(rows))
        units = [list(map(padded, unit, rows)) for unit in units]
    return "".join(line + "\n" for unit in units for line in unit)
