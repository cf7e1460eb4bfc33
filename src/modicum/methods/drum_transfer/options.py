"""Options that verbs and the recipe share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from modicum.methods.drum_transfer.text.kit import DRUMS, PitchMap, reading_tables
from modicum.methods.drum_transfer.text.notation import NOTATIONS, NotationName
from modicum.options import Ge, Interval, Options

MOST_BARS = 10_000
"""Longer performances are refused: they come of damaged files."""


@dataclass(frozen=True)
class Reading(Options):
    """How files of grooves become text. The default is that of the paper, to the byte."""

    notation: NotationName = "drumroll"
    """How grooves are written: drumroll is the paper's, rows the follow-up paper's. What a model
    wrote is in the notation of its training."""
    meter_bars: bool = False
    """Bars follow the meter of MIDI and tabs; otherwise they have 16 lines in 3/4 and 5/4 too, as
    the paper's. Lines say no meter: 4/4."""
    channel: Annotated[int, Interval(ge=0, le=15)] = DRUMS
    """MIDI channel of the drums, counted from 0."""
    pitch_map: PitchMap = ()
    """What MIDI pitches are: --pitch-map 33 snare 31 none; none leaves one out."""
    loud: Annotated[int, Interval(ge=1, le=127)] = 80
    """Least velocity that is loud, in notations that know loudness."""

    def __post_init__(self) -> None:
        """Raise a `ConfigError` for a value out of range, or a pitch or instrument unknown."""
        super().__post_init__()
        reading_tables(NOTATIONS[self.notation], self.pitch_map)


@dataclass(frozen=True)
class ModelReading(Reading):
    """How files of grooves become what a model knows."""

    keep_pickups: bool = False
    """Keep a pick-up before the first bar; the paper's pipeline drops it."""


@dataclass(frozen=True)
class Corpus(ModelReading):
    """How a data set of grooves is read."""

    bars: Annotated[int, Interval(ge=1, le=MOST_BARS)] = 16
    """Most bars of a groove; what is longer is cut, see --cut."""
    cut: bool = False
    """Cut a long performance into grooves, instead of taking its beginning alone."""
    pad: bool = True
    """Fill a shorter performance with silence, as the paper does; otherwise it ends with the bar of
    the last hit."""
    strict: bool = False
    """Refuse unknown pitches and files that cannot be used, instead of leaving them out with a
    warning."""
    eval_session: bool = False
    """Use also the evaluation sessions of the Groove MIDI Dataset."""
    fills: bool = False
    """Use also those files of the Groove MIDI Dataset that are fills alone."""


@dataclass(frozen=True)
class Sampling(Options):
    """How completions are drawn. The default is the paper's, but for `constrained`."""

    samples: Annotated[int, Ge(1)] = 1
    """Continuations of each groove."""
    temperature: Annotated[float, Ge(0)] = 0.9
    """What logits are divided by: the higher, the more unlikely things are written; 0: the
    likeliest alone. The paper's is 0.9."""
    top_p: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """Draw from the likeliest tokens alone, the fewest whose probabilities sum to this."""
    constrained: bool = True
    """Let the model write whole bars of whole lines alone. --no-constrained is the paper's way, and
    that of every server: what comes is then read as silence where it is malformed."""
    max_tokens: Annotated[int, Ge(1)] | None = None
    """Most tokens of a continuation; None: as many as it can need, of a server the paper's 1000."""
    seed: int = 0
    """Seed of what is drawn. A server is sent one other than 0."""
