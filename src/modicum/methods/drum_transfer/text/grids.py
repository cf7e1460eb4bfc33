"""Texts, malformed ones too, as arrays over grooves, steps and instruments.

What a language model writes need not be a groove. Here a line that cannot be read keeps its place
and is marked, where `drumroll.to_hits` would raise an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from modicum.methods.drum_transfer.text.notation import (
    COLUMN_OF_ROW,
    DRUMROLL,
    END,
    SEPARATOR,
    Notation,
)

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
_NEWLINE = ord("\n")
_SEPARATOR = np.frombuffer(SEPARATOR.strip().encode(), np.uint8)


@dataclass(frozen=True)
class Lines:
    """All lines of some texts, up to the end mark of each."""

    owner: Integers
    """`(L,)`, the text that a line is of."""
    separator: Mask
    """`(L,)`, whether it is a separator."""
    broken_separator: Mask
    """`(L,)`, whether it holds the letters of a separator among others. Such a line is not readable
    and ends no bar."""
    number: Integers
    """`(L,)`, its place in its text, separators not counted."""
    readable: Mask
    """`(L,)`, whether it is as the notation wants it at this place. Separators are not."""
    codes: npt.NDArray[np.int8]
    """`(L, width)`, the index of each character among those allowed at its place; without meaning
    where not readable."""
    ended: Mask
    """`(texts,)`, whether a text has the end mark."""

    @property
    def count(self) -> Integers:
        """`(texts,)`, lines of each text, separators not counted."""
        return np.bincount(self.owner[~self.separator], minlength=len(self.ended))


@lru_cache(maxsize=8)
def _codes_of_characters(notation: Notation) -> npt.NDArray[np.int8]:
    """`(lines of a bar, width, 256)`: what a byte stands for at a place, -1 where not allowed."""
    places = notation.bar()
    width = places.index("\n")
    table = np.full((len(places) // (width + 1), width, 256), -1, np.int8)
    for index, allowed in enumerate(places):
        line, place = divmod(index, width + 1)
        if place < width:
            table[line, place, [ord(character) for character in allowed]] = range(len(allowed))
    return table


def read_lines(texts: Sequence[str], notation: Notation = DRUMROLL) -> Lines:
    """Read whatever texts, with or without separators.

    Args:
        texts: A last line without newline counts as a line, an empty line as one too.
        notation: How they should be written.
    """
    bodies = [text.partition(END)[0] for text in texts]
    bodies = [body + "\n" if body and not body.endswith("\n") else body for body in bodies]
    # One byte a character; what is not Latin becomes "?", which no notation has.
    joined = np.frombuffer("".join(bodies).encode("latin-1", "replace"), np.uint8)
    ends = np.flatnonzero(joined == _NEWLINE)
    starts = np.concatenate([[0], ends + 1])[:-1]
    lengths = ends - starts
    owner = np.repeat(np.arange(len(bodies)), [body.count("\n") for body in bodies])

    table = _codes_of_characters(notation)
    bar, width, _ = table.shape
    # Short lines see characters of the next, or those added; their length gives them away.
    padded = np.concatenate([joined, np.zeros(width, np.uint8)])
    characters = padded[starts[:, None] + np.arange(width)]
    mark = len(_SEPARATOR)
    separator = (lengths == mark) & (characters[:, :mark] == _SEPARATOR).all(1)
    marks = np.lib.stride_tricks.sliding_window_view(padded, mark) == _SEPARATOR
    with_mark = np.searchsorted(starts, np.flatnonzero(marks.all(1)), "right") - 1
    broken = np.zeros(len(starts), np.bool_)
    broken[with_mark] = True
    broken &= ~separator

    per_text = np.bincount(owner[~separator], minlength=len(bodies))
    before = np.cumsum(per_text) - per_text
    number = np.cumsum(~separator) - 1 - before[owner]
    codes = table[number[:, None] % bar, np.arange(width), characters]
    readable = (lengths == width) & (codes >= 0).all(1) & ~separator
    ended = np.array([END in text for text in texts], np.bool_)
    return Lines(owner, separator, broken, number, readable, codes, ended)


@dataclass(frozen=True)
class Grids:
    """Grooves of any lengths, one after another, filled up with silence to whole bars."""

    notation: Notation
    hits: npt.NDArray[np.int8]
    """`(G, S, 6)`, the index of each cell's character; 0 where silent, unreadable or after the
    end."""
    readable: Mask
    """`(G, S)`, which steps were read. In the layout `rows` a line that cannot be read takes its
    whole bar with it."""
    steps: Integers
    """`(G,)`, steps of each groove, unreadable ones too."""

    @property
    def struck(self) -> Mask:
        """`(G, S, 6)`, where something is hit, however loud."""
        return self.hits > 0

    @property
    def unreadable(self) -> Integers:
        """`(G,)`, steps that no measure counts."""
        return self.steps - self.readable.sum(1)


def read_grids(
    texts: Sequence[str], notation: Notation = DRUMROLL, *, given_bars: int = 0
) -> Grids:
    """Texts as arrays; nothing in them raises an error.

    Args:
        texts: Grooves, with or without separators and end mark, see `read_lines`.
        notation: How they should be written.
        given_bars: Bars to leave out at the beginning of each, such as those of a prompt.
    """
    lines = read_lines(texts, notation)
    bar, width, _ = _codes_of_characters(notation).shape
    count = lines.count
    bars = -(-int(count.max(initial=0)) // bar)
    read = lines.readable
    codes = np.zeros((len(texts), bars * bar, width), np.int8)
    readable = np.zeros(codes.shape[:2], np.bool_)
    codes[lines.owner[read], lines.number[read]] = lines.codes[read]
    readable[lines.owner[read], lines.number[read]] = True
    if notation.layout == "steps":
        hits, steps = codes, count
    else:
        beat = notation.steps_per_beat + 1  # with the bar line after it
        cells = [place for place in range(3, width) if (place - 3) % beat < beat - 1]
        by_row = codes.reshape(len(texts), bars, bar, width)[..., cells]
        hits = np.empty((len(texts), bars, len(cells), bar), np.int8)
        hits[..., list(COLUMN_OF_ROW)] = by_row.swapaxes(2, 3)
        whole: Mask = np.all(readable.reshape(len(texts), bars, bar), axis=2)
        hits = (hits * whole[:, :, None, None]).reshape(len(texts), -1, bar)
        readable = whole.repeat(len(cells), axis=1)
        steps = -(-count // bar) * len(cells)
    first = given_bars * notation.steps_per_bar
    return Grids(notation, hits[:, first:], readable[:, first:], np.maximum(0, steps - first))
