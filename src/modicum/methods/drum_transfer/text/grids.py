"""Texts, malformed ones too, as arrays over grooves, steps and instruments.

A line that cannot be read keeps its place and is marked, where `drumroll.to_hits` would raise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modicum.methods.drum_transfer.text.drumroll import unit_of
from modicum.methods.drum_transfer.text.notation import DRUMROLL, END, SEPARATOR, Notation

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
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
    def bad(self) -> Mask:
        """`(L,)`, whether it is neither as the notation wants it nor a separator."""
        return ~(self.readable | self.separator)

    @property
    def count(self) -> Integers:
        """`(texts,)`, lines of each text, separators not counted."""
        return np.bincount(self.owner[~self.separator], minlength=len(self.ended))


def read_lines(texts: Sequence[str], notation: Notation = DRUMROLL) -> Lines:
    """Read whatever texts, with or without separators.

    A last line without newline counts as a line, an empty line as one too.
    """
    bodies = [text.partition(END)[0] for text in texts]
    bodies = [body + "\n" if body and not body.endswith("\n") else body for body in bodies]
    # One byte a character; what is not Latin becomes "?", which no notation has.
    joined = np.frombuffer("".join(bodies).encode("latin-1", "replace"), np.uint8)
    ends = np.flatnonzero(joined == ord("\n"))
    starts = np.concatenate([[0], ends + 1])[:-1]
    lengths = ends - starts
    owner = np.repeat(np.arange(len(bodies)), [body.count("\n") for body in bodies])

    table, width = unit_of(notation).indices, len(notation.lines[0])
    # Short lines see characters of the next, or those added; their length gives them away.
    padded = np.concatenate([joined, np.zeros(width, np.uint8)])
    characters = padded[starts[:, None] + np.arange(width)]
    mark = len(_SEPARATOR)
    separator = (lengths == mark) & (characters[:, :mark] == _SEPARATOR).all(1)
    marks = np.lib.stride_tricks.sliding_window_view(padded, mark) == _SEPARATOR
    broken = np.zeros(len(starts), np.bool_)
    broken[np.searchsorted(starts, np.flatnonzero(marks.all(1)), "right") - 1] = True
    broken &= ~separator

    per_text = np.bincount(owner[~separator], minlength=len(bodies))
    before = np.cumsum(per_text) - per_text
    number = np.cumsum(~separator) - 1 - before[owner]
    places = number[:, None] * (width + 1) % len(table) + np.arange(width)
    codes = table[places, np.minimum(characters, table.shape[1] - 1)]
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
    """Texts, see `read_lines`, as arrays; nothing in them raises an error.

    The first `given_bars` of each, such as those of a prompt, are left out.
    """
    lines, unit = read_lines(texts, notation), unit_of(notation)
    width, steps = lines.codes.shape[1], len(unit.cells)
    height = len(unit.indices) // (width + 1)
    bars = -(-int(lines.count.max(initial=0)) // notation.lines_per_bar)
    read = lines.readable
    at = lines.owner[read], *np.divmod(lines.number[read], height)
    codes = np.zeros((len(texts), bars * notation.lines_per_bar // height, height, width), np.int8)
    readable = np.zeros(codes.shape[:3], np.bool_)
    codes[at], readable[at] = lines.codes[read], True
    whole: Mask = np.all(readable, axis=2)
    line, place = np.divmod(unit.cells, width + 1)
    hits = codes[:, :, line, place] * whole[:, :, None, None]
    hits = hits.reshape(len(texts), bars * notation.steps_per_bar, unit.cells.shape[1])
    first = given_bars * notation.steps_per_bar
    counts = np.maximum(0, -(-lines.count // height) * steps - first)
    return Grids(notation, hits[:, first:], whole.repeat(steps, 1)[:, first:], counts)
