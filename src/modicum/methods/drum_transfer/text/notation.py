"""How a groove is written as text.

The drumroll of the paper: one line a 16th note, six characters a line, one of six instruments each,
`o` where it is hit and `-` where not. Sixteen lines are a bar. The other notations are extensions;
what their letters mean is told in `kit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from modicum.errors import ConfigError
from modicum.options import Interval, check_arguments

INSTRUMENTS = ("crash", "ride", "snare", "kick", "hi-hat", "toms")
"""What the six columns of a drumroll stand for, in order."""
SEPARATOR = "SEP\n"
"""The line after a bar of a record."""
END = "END"
"""What ends a record."""
ROWS = "KSHTCR"
"""The letters before the rows of the layout `rows`, from top to bottom, by instrument."""
COLUMN_OF_ROW = (3, 2, 4, 5, 0, 1)
"""The column of the instrument of each of `ROWS`."""


@dataclass(frozen=True)
class Notation:
    """What the characters of a text are, and how many make a bar. The default is the paper's."""

    columns: tuple[str, ...] = ("-o",) * len(INSTRUMENTS)
    """The characters that each instrument may have at a step; the first is silence."""
    steps_per_beat: Annotated[int, Interval(ge=1, le=48)] = 4
    """Lines a quarter note: 4 for 16ths, 3 for eighth triplets, 12 for both."""
    beats_per_bar: Annotated[int, Interval(ge=1, le=1024)] = 4
    """Quarter notes a bar."""
    layout: Literal["steps", "rows"] = "steps"
    """`steps`: a line a step, of six characters. `rows`: a line an instrument, as in the follow-up
    paper (arXiv:2505.08203), `K: O---|----|O---|----`, beats divided by `|`."""

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any]) -> Notation:
        """The notation of the fields that `asdict` gave, from a file.

        Raises:
            ConfigError: They are of none.
        """
        notation = check_arguments(cls)(**fields)
        columns = tuple(notation.columns)
        for letters in columns:
            plain = letters.isascii() and letters.isprintable() and letters[:1] == "-"
            if not (plain and 2 <= len(letters) == len(set(letters)) <= 8):
                raise ConfigError(f"notation: {letters[:20]!r} is no column; expected such as -oO.")
        if len(columns) != len(INSTRUMENTS):
            raise ConfigError(f"notation: {len(columns)} columns; expected {len(INSTRUMENTS)}.")
        return replace(notation, columns=columns)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many characters each instrument may have at a step."""
        return tuple(map(len, self.columns))

    @property
    def steps_per_bar(self) -> int:
        """16 in the drumroll of the paper."""
        return self.steps_per_beat * self.beats_per_bar

    @property
    def lines_per_bar(self) -> int:
        """Lines of a bar: its steps, or the six rows."""
        return self.steps_per_bar if self.layout == "steps" else len(ROWS)

    @property
    def lines(self) -> tuple[tuple[str, ...], ...]:
        """The characters allowed at each place of each line of a bar, without newlines."""
        if self.layout == "steps":
            return (self.columns,) * self.steps_per_bar
        beats = [(*(self.columns[column],) * self.steps_per_beat, "|") for column in COLUMN_OF_ROW]
        return tuple(
            (letter, ":", " ", *(beat * self.beats_per_bar)[:-1])
            for letter, beat in zip(ROWS, beats, strict=True)
        )

    @property
    def silence(self) -> str:
        """The first line of a bar in which nothing is hit, without its newline."""
        return "".join(allowed[0] for allowed in self.lines[0])

    def bar(self) -> tuple[str, ...]:
        """The characters allowed at each place of a bar's text, newlines included.

        For the drumroll of the paper 112 places: six times `-o`, then a newline, sixteen times.
        """
        return tuple(place for line in self.lines for place in (*line, "\n"))

    @property
    def alphabet(self) -> str:
        """Every character that a record in this notation can hold, in a fixed order."""
        return "".join(dict.fromkeys("\n-o" + SEPARATOR + END + "".join(self.bar())))

    def of_any_meter(self) -> Notation:
        """This notation with bars of 4/4, to compare all but the beats of a bar."""
        return replace(self, beats_per_bar=4)


DRUMROLL = Notation()
"""The notation of the paper."""
ARTICULATED = Notation(("-oO", "-xoXO", "-xoXO", "-oO", "-xoXO", "-oO"))
"""Loudness, and `x` and `X` for the bow of the ride, the cross-stick and the closed hi-hat."""
NotationName = Literal[
    "drumroll", "loudness", "articulated", "rows", "triplets", "sextuplets", "twelfths"
]
NOTATIONS: Mapping[NotationName, Notation] = {
    "drumroll": DRUMROLL,
    "loudness": Notation(("-oO",) * 6),
    "articulated": ARTICULATED,
    "rows": replace(ARTICULATED, layout="rows"),
    "triplets": replace(DRUMROLL, steps_per_beat=3),
    "sextuplets": replace(DRUMROLL, steps_per_beat=6),
    "twelfths": replace(DRUMROLL, steps_per_beat=12),
}
"""Notations by name. Of two hits in one cell the one later in its column is written, so that loud
stands before soft and, equally loud, `o` before `x`. `rows` is the layout and the letters of the
follow-up paper. Steps a quarter note are 4, but for `triplets` 3, for shuffles; `sextuplets` 6, for
eighths and their triplets; `twelfths` 12, for 16ths and triplets."""


@dataclass(frozen=True)
class Groove:
    """A drum performance as text, with what is needed to play it."""

    name: str
    text: str
    """Lines in `notation`, each with its newline, without separators."""
    tempo: float = 120.0
    """Quarter notes a minute."""
    meter: tuple[int, int] = (4, 4)
    """The time signature."""
    notation: Notation = DRUMROLL
    velocities: npt.NDArray[np.uint8] | None = field(default=None, compare=False)
    """MIDI velocities (steps, 6), 0 where nothing is hit, where they are known."""
