"""What can be said of many grooves at once: validity, duplication, and how they are played.

Definitions are inferred, but for validity and duplication, which are the official repository's.
Malformed texts are scored as far as they can be read: a measure that cannot be taken of a groove is
NaN there, and `score` says of how many.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from modicum.errors import ConfigError
from modicum.methods.drum_transfer.metrics.structure import (
    BARS,
    Clusterer,
    structure,
    structure_means,
)
from modicum.methods.drum_transfer.text.drumroll import bars, line_numbers, without_separators
from modicum.methods.drum_transfer.text.grids import Grids, Integers, Mask, read_grids, read_lines
from modicum.methods.drum_transfer.text.notation import DRUMROLL, INSTRUMENTS, Notation

Floats = npt.NDArray[np.float64]
Notations: TypeAlias = Notation | Sequence[Notation]
"""Of texts: that of all, or one for each; these differ in the beats of a bar alone."""
_MOST_LINES = 1 << 22
"""Of arrays for texts of different lengths, the shorter ones filled up."""
_SNARE = INSTRUMENTS.index("snare")
_BY_HAND = [INSTRUMENTS.index(name) for name in INSTRUMENTS if name != "kick"]


# Validity


@dataclass(frozen=True)
class Validity:
    """How far texts are what they should be, a number a text."""

    lines: Integers
    """Lines, separators not counted."""
    bad_lines: Integers
    """Lines that are not as the notation wants them; an unfinished last line is one."""
    broken_separators: Integers
    """Bad lines that hold a separator among other characters. It ends no bar, though a script that
    drops the lines `SEP` leaves it in the groove."""
    bars: Integers
    """Stretches between separators."""
    whole_bars: Integers
    """Stretches between separators with as many lines as a bar has."""
    right_length: Mask
    """Whether there are as many lines as a groove has, good or bad."""
    ended: Mask
    """Whether the end mark was written."""


def validity(
    texts: Sequence[str], notation: Notation = DRUMROLL, *, groove_bars: int = BARS
) -> Validity:
    """Count what is wrong with whole records as a model wrote them, prompt included.

    Of texts without separators, `bars`, `whole_bars` and `ended` say nothing.
    """
    lines = read_lines(texts, notation)
    bar = notation.lines_per_bar
    # Each separator ends a stretch, and so does the end of a text, unless a separator is last.
    opened = np.cumsum(lines.separator) - lines.separator + lines.owner
    _, start, stretch = np.unique(opened, return_index=True, return_inverse=True)
    sizes = np.bincount(stretch, weights=~lines.separator)
    owner = lines.owner[start]

    def count(owners: Integers) -> Integers:
        return np.bincount(owners, minlength=len(texts))

    return Validity(
        lines=lines.count,
        bad_lines=count(lines.owner[lines.bad]),
        broken_separators=count(lines.owner[lines.broken_separator]),
        bars=count(owner),
        whole_bars=count(owner[sizes == bar]),
        right_length=lines.count == groove_bars * bar,
        ended=lines.ended,
    )


# Duplication


@dataclass(frozen=True)
class Reference:
    """What a set of grooves, such as the training set, is made of."""

    bars: Mapping[str, int]
    """How often each bar that is not silent occurs, by its text without the last newline."""
    lines: Floats
    """See `line_counts`."""

    @classmethod
    def read(cls, texts: Sequence[str], notation: Notations = DRUMROLL) -> Reference:
        """From the texts of the set, with or without separators, in one notation or one each."""
        occurring = Counter(chain(*_sounding_bars(texts, notation)))
        return cls(occurring, line_counts(_grids_of(texts, _groups(texts, notation, texts))))


@dataclass(frozen=True)
class Duplication:
    """How many bars are nothing new. Silent bars count nowhere."""

    bars: int
    known: int
    """Bars that also occur in the reference."""
    occurrences: Mapping[int, int]
    """How many bars occur in the reference 0 times, once, and so on."""
    distinct: float
    """Different bars over bars, all texts together; NaN without bars."""
    distinct_per_groove: Floats
    """`(texts,)`, different bars over bars of each text; NaN where it has none."""

    @property
    def share(self) -> float:
        """Share of bars that also occur in the reference; NaN without bars."""
        return self.known / self.bars if self.bars else math.nan


def duplication(
    texts: Sequence[str],
    reference: Reference,
    notation: Notations = DRUMROLL,
    *,
    given_bars: int = 0,
    most_bars: int | None = None,
) -> Duplication:
    """Compare bars, character by character, with those of a reference.

    The official script says it compares with the training set and takes the test set; which it is
    to be is up to the caller. The first `given_bars` of each text are left out, as are those after
    `most_bars`, the given ones included.
    """
    grooves = _sounding_bars(texts, notation, slice(given_bars, most_bars))
    pooled = list(chain(*grooves))
    histogram = Counter(reference.bars.get(bar, 0) for bar in pooled)
    different, all_bars = np.array([(len(set(g)), len(g)) for g in grooves]).reshape(-1, 2).T
    return Duplication(
        bars=len(pooled),
        known=len(pooled) - histogram[0],
        occurrences=dict(sorted(histogram.items())),
        distinct=len(set(pooled)) / len(pooled) if pooled else math.nan,
        distinct_per_groove=_ratio(different, all_bars),
    )


def _sounding_bars(
    texts: Sequence[str], notation: Notations, part: slice = slice(None)
) -> list[list[str]]:
    """Of each text the bars, in some part of it, that are not silent."""
    grooves: list[list[str]] = []
    for text, its_own in zip(texts, _one_each(texts, notation), strict=True):
        silent = {"".join(allowed[0] for allowed in line) for line in its_own.lines}
        # The last bar of a text may lack its newline, which makes it no other bar.
        found = [bar.removesuffix("\n") for bar in bars(without_separators(text), its_own)[part]]
        grooves.append([bar for bar in found if not silent.issuperset(bar.split("\n"))])
    return grooves


# How grooves are played: all take G grooves and leave out steps that cannot be read


def hits_per_bar(grids: Grids) -> Floats:
    """`(G, 6)`, hits of each instrument in a bar, silent bars counted; NaN if nothing is read."""
    bars_read = grids.readable.sum(1) / grids.notation.steps_per_bar
    return _ratio(grids.struck.sum(1), bars_read[:, None])


def onset_density(grids: Grids) -> Floats:
    """`(G,)`, share of steps at which something is hit; NaN if nothing is read."""
    return _ratio(grids.struck.any(2).sum(1), grids.readable.sum(1))


def silent_share(grids: Grids) -> Floats:
    """`(G,)`, share of bars without a hit, a short tail being a bar; NaN without bars."""
    sounding = _by_bar(grids, grids.struck.any(2)).any(2).sum(1)
    count = -(-grids.steps // grids.notation.steps_per_bar)
    return _ratio(count - sounding, count)


def note_count_error(grids: Grids, expected: Grids) -> Floats:
    """`(G,)`, how far the number of hits is from the expected number, as a share of that.

    Expected is what was played in their place, such as how a person went on from the same bars.

    Raises:
        ConfigError: They are not equally many.
    """
    found, true = grids.struck.sum((1, 2)), expected.struck.sum((1, 2))
    _check_as_many(len(found), len(true))
    return _ratio(abs(found - true), true)


def off_beat_ratio(grids: Grids) -> Floats:
    """`(G,)`, share of hits that are not on a quarter note; NaN without hits."""
    struck = grids.struck.sum(2)
    on_beat = struck[:, :: grids.notation.steps_per_beat].sum(1)
    return _ratio(struck.sum(1) - on_beat, struck.sum(1))


def back_beat_consistency(grids: Grids) -> Floats:
    """`(G,)`, share of bars with the snare on every second quarter note.

    Of bars of four quarter notes in 16ths those are slots 4 and 12. Silent bars, and bars in which
    one of these slots cannot be read, are left out; NaN if none remains.
    """
    back_beats = slice(grids.notation.steps_per_beat, None, 2 * grids.notation.steps_per_beat)
    counts = _by_bar(grids, grids.struck.any(2)).any(2)
    counts &= _by_bar(grids, grids.readable)[..., back_beats].all(2)
    kept = _by_bar(grids, grids.struck[..., _SNARE])[..., back_beats].all(2) & counts
    return _ratio(kept.sum(1), counts.sum(1))


def beyond_two_hands(grids: Grids) -> Floats:
    """`(G,)`, share of steps with hits that take more than two hands; NaN without hits.

    Hands play all but the kick. Two toms at a time are one hit in this notation.
    """
    hands = grids.struck[..., _BY_HAND].sum(2)
    return _ratio((hands > 2).sum(1), grids.struck.any(2).sum(1))


def change_over_a_bar(grids: Grids) -> Floats:
    """`(G,)`, share of cells that differ from a bar earlier; NaN for less than two bars."""
    return hamming_distance(grids, grids.notation.steps_per_bar)


def hamming_distance(grids: Grids, lag: int) -> Floats:
    """`(G,)`, share of cells that differ from `lag` steps earlier; NaN where there are no more."""
    both = grids.readable[:, lag:] & grids.readable[:, :-lag]
    differ = (grids.hits[:, lag:] != grids.hits[:, :-lag]).sum(2) * both
    return _ratio(differ.sum(1), len(INSTRUMENTS) * both.sum(1))


def bar_similarity(grids: Grids) -> Floats:
    """`(G,)`, mean `self_similarity` over the pairs of sounding bars; NaN for fewer than two."""
    sounding: Mask = np.any(_by_bar(grids, grids.struck), axis=(2, 3))
    pairs = np.triu(sounding[:, :, None] & sounding[:, None], 1)
    return _ratio(np.where(pairs, self_similarity(grids), 0).sum((1, 2)), pairs.sum((1, 2)))


PLAYING: Mapping[str, Callable[[Grids], Floats]] = {
    "silent_bars": silent_share,
    "onset_density": onset_density,
    "off_beat_ratio": off_beat_ratio,
    "back_beat_consistency": back_beat_consistency,
    "beyond_two_hands": beyond_two_hands,
    "change_over_a_bar": change_over_a_bar,
}
"""Measures of how a groove is played, by name."""


def self_similarity(grids: Grids) -> Floats:
    """How much the bars of a groove resemble each other, `(G, bars, bars)`.

    Of two bars that is the cells hit in both over the cells hit in either, however loud; 1 for two
    silent bars, NaN after a groove's end.
    """
    hit = _by_bar(grids, grids.struck)
    hit = hit.reshape(*hit.shape[:2], math.prod(hit.shape[2:])).astype(np.float32)
    both = hit @ hit.swapaxes(1, 2)
    count = hit.sum(2)
    either = count[:, :, None] + count[:, None] - both
    similar = np.where(either > 0, both / np.maximum(either, 1), 1).astype(np.float64)
    inside = np.arange(hit.shape[1]) * grids.notation.steps_per_bar < grids.steps[:, None]
    similar[~(inside[:, :, None] & inside[:, None])] = math.nan
    return similar


def line_counts(grids: Sequence[Grids]) -> Floats:
    """How often each possible combination of hits occurs at a step, all grooves together.

    `(product of the characters of all instruments,)`: 64 numbers in the notation of the paper.
    """
    notation = grids[0].notation
    found = line_numbers(np.concatenate([part.hits[part.readable] for part in grids]), notation)
    return np.bincount(found, minlength=math.prod(notation.sizes)).astype(np.float64)


def line_divergence(grids: Sequence[Grids], reference: Reference) -> float:
    """Kullback-Leibler divergence of the lines of grooves from those of a reference, in nats.

    NaN if nothing is read. The reference has 1 added to its count of every possible line, so that
    one it lacks does not make the divergence infinite. The grooves' own counts are not smoothed.
    """
    from scipy.stats import entropy

    counts = line_counts(grids)
    return float(entropy(counts, reference.lines + 1)) if counts.any() else math.nan


def _check_as_many(found: int, expected: int) -> None:
    if found != expected:
        raise ConfigError(
            f"measures: {found} grooves and {expected} expected ones; give one of these for each "
            f"of those, in the same order."
        )


def _by_bar(grids: Grids, values: Any) -> npt.NDArray[Any]:
    """Of `(G, S, …)` bars `(G, bars, steps of a bar, …)`."""
    step = grids.notation.steps_per_bar
    return values.reshape(len(values), values.shape[1] // step, step, *values.shape[2:])


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Floats:
    """`part / whole`, NaN where the whole is 0."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(part.shape, math.nan), where=whole > 0)


# All together

MEASURES = {
    "stability": "characters to the nearer neighbouring bar, mean over bars",
    "separation": "characters between pattern and fills",
    "tightness": "characters from the mean of pattern or fills",
    "bad_lines": "share of lines that are malformed",
    "broken_separators": "malformed lines with a separator in them",
    "whole_bars": "share of bars between separators that have all lines",
    "right_length": "share of texts with as many lines as they should have",
    "ended": "share of texts with the end mark",
    "duplicated_bars": "share of sounding bars that the reference has too",
    "distinct_bars": "different sounding bars over sounding bars, all texts together",
    "distinct_bars_per_groove": "the same of each text, mean",
    "silent_bars": "share of bars without a hit",
    "hits_per_bar": "hits a bar",
    **{f"hits_per_bar_{name}": f"hits of {name} a bar" for name in INSTRUMENTS},
    "onset_density": "share of steps with a hit",
    "note_count_error": "difference from the expected number of hits, as a share of that",
    "off_beat_ratio": "share of hits not on a quarter note",
    "back_beat_consistency": "share of sounding bars with the snare on beats 2 and 4",
    "beyond_two_hands": "share of steps with hits that take more than two hands",
    "change_over_a_bar": "share of cells that differ from a bar earlier",
    "bar_similarity": "cells hit in both of two sounding bars over cells hit in either, mean",
    "line_divergence": "nats from the lines of the reference",
}
"""What `score` measures, and what the numbers are."""


@dataclass(frozen=True)
class Score:
    """One measure of a set of texts."""

    value: float
    """Mean over the texts it can be taken of, unless `MEASURES` says otherwise; NaN if of none."""
    texts: int
    """Texts that it can be taken of."""
    excluded: int
    """The others."""


def score(
    texts: Sequence[str],
    *,
    notation: Notations = DRUMROLL,
    reference: Reference | None = None,
    expected: Sequence[str] | None = None,
    records: bool = False,
    given_bars: int = 0,
    groove_bars: int = BARS,
    official: bool = False,
    clusterer: Clusterer = "exact",
) -> dict[str, Score]:
    """Every measure of `MEASURES` that can be taken of some texts, by name, in their order.

    Args:
        texts: Grooves of people or models, well-formed or not, prompts included.
        notation: How they should be written.
        reference: For duplicated bars and the divergence of lines; without it these are left out.
        expected: A groove for each text, for the error of the number of hits, and whose length is
            the right one; without it `groove_bars` is.
        records: Whether the texts should have separators and the end mark.
        given_bars: Bars of the prompt. Duplication and everything musical is measured after them,
            structure and validity, as in the paper, of whole texts.
        groove_bars: Bars that a groove should have. Structure is measured up to there.
        official: See `structure.stability`.
        clusterer: See `structure.two_means`.

    Raises:
        ConfigError: There are not as many expected grooves as texts.
    """
    if expected is not None:
        _check_as_many(len(texts), len(expected))
    found: dict[str, Score] = {}

    def put(name: str, value: float, read: int) -> None:
        found[name] = Score(value, read, len(texts) - read)

    def put_mean(name: str, values: npt.NDArray[Any]) -> None:
        known = values[np.isfinite(values)]
        put(name, float(known.mean()) if known.size else math.nan, known.size)

    def put_share(name: str, part: Integers, whole: Integers) -> None:
        total = whole.sum()
        put(name, float(part.sum() / total) if total else math.nan, int((whole > 0).sum()))

    structured = partial(structure, official=official, most_bars=groove_bars, clusterer=clusterer)
    pairs = zip(texts, _one_each(texts, notation), strict=True)
    means = structure_means([structured(without_separators(t), notation=n) for t, n in pairs])
    for name in ("stability", "separation", "tightness"):
        put(name, getattr(means, name), means.grooves)

    groups = _groups(texts, notation, texts if expected is None else expected)

    def validated(texts: Sequence[str]) -> Validity:
        """Of each text, in the order of the notations."""
        found = [(own, [texts[n] for n in of]) for own, of in groups]
        parts = [vars(validity(some, own, groove_bars=groove_bars)) for own, some in found]
        return Validity(**{name: np.concatenate([p[name] for p in parts]) for name in parts[0]})

    valid = validated(texts)
    put_share("bad_lines", valid.bad_lines, valid.lines)
    put("broken_separators", float(valid.broken_separators.sum()), len(texts))
    if records:
        put_share("whole_bars", valid.whole_bars, valid.bars)
        put_mean("ended", valid.ended)
    right = valid.right_length if expected is None else valid.lines == validated(expected).lines
    put_mean("right_length", right)

    known = reference or Reference({}, np.zeros(0))
    copied = duplication(texts, known, notation, given_bars=given_bars, most_bars=groove_bars)
    put_mean("distinct_bars_per_groove", copied.distinct_per_groove)
    with_bars = found["distinct_bars_per_groove"].texts
    put("distinct_bars", copied.distinct, with_bars)

    grids = _grids_of(texts, groups, given_bars)

    def measured(measure: Callable[..., Floats], *others: Sequence[Grids]) -> Floats:
        return np.concatenate([measure(*parts) for parts in zip(grids, *others, strict=True)])

    each = measured(hits_per_bar)
    put_mean("hits_per_bar", each.sum(1))
    for column, name in enumerate(INSTRUMENTS):
        put_mean(f"hits_per_bar_{name}", each[:, column])
    for name, measure in PLAYING.items():
        put_mean(name, measured(measure))
    put_mean("bar_similarity", measured(bar_similarity))
    if expected is not None:
        others = _grids_of(expected, groups, given_bars)
        put_mean("note_count_error", measured(note_count_error, others))
    if reference is not None:
        put("duplicated_bars", copied.share, with_bars)
        read = sum(int(part.readable.any(1).sum()) for part in grids)
        put("line_divergence", line_divergence(grids, reference), read)
    return {name: found[name] for name in MEASURES if name in found}


def score_table(scores: Mapping[str, Mapping[str, Score]]) -> list[dict[str, Any]]:
    """A row a measure, a column a set of texts, of what `score` gave by the name of the set.

    Rows have `measure`, the value for each set, `excluded` (of how many texts of which sets it
    could not be taken; empty if of none) and `what`.
    """
    rows: list[dict[str, Any]] = []
    for name, what in MEASURES.items():
        of_sets = {key: found[name] for key, found in scores.items() if name in found}
        if of_sets:
            values = {key: one.value for key, one in of_sets.items()}
            excluded = {key: one.excluded for key, one in of_sets.items() if one.excluded}
            rows.append({"measure": name} | values | {"excluded": excluded, "what": what})
    return rows


def _one_each(texts: Sequence[str], notation: Notations) -> Sequence[Notation]:
    """The notation of each text."""
    return [notation] * len(texts) if isinstance(notation, Notation) else notation


def _groups(
    texts: Sequence[str], notation: Notations, expected: Sequence[str]
) -> list[tuple[Notation, list[int]]]:
    """Which texts are in each notation; without any texts, none of them in one.

    As the arrays of a group are as long as its longest text, or the one expected in its place,
    texts of very different lengths are in groups of their own where there would be too much room.
    """
    lines = [max(t.count("\n"), e.count("\n")) for t, e in zip(texts, expected, strict=True)]
    apart = len(lines) * max(lines, default=0) > _MOST_LINES
    groups: dict[tuple[Notation, int], list[int]] = {}
    for number, its_own in enumerate(_one_each(texts, notation)):
        groups.setdefault((its_own, lines[number].bit_length() * apart), []).append(number)
    return [(its_own, of) for (its_own, _), of in groups.items()] or [(DRUMROLL, [])]


def _grids_of(
    texts: Sequence[str], groups: Sequence[tuple[Notation, list[int]]], given_bars: int = 0
) -> list[Grids]:
    """`read_grids` of the texts in each group."""
    return [read_grids([texts[n] for n in of], own, given_bars=given_bars) for own, of in groups]
