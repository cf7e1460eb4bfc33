"""A paper's claim, checked: arms, seeds, paired differences, an interval and a verdict.

A study trains every *arm* (a configuration of one method) with every seed, evaluates each network
on data that no choice was made on, and compares the arms a claim names, seed by seed. Arms are
trained by the method's own `train`; there is no second training loop for demonstrations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

Word = Literal["holds", "does not hold", "inconclusive"]


@dataclass(frozen=True)
class Claim:
    """One sentence of a paper that an experiment can contradict.

    The effect is the paired difference `method - baseline` of `metric`, its sign turned so that
    larger is better. The claim says that the effect is greater than `threshold`: 0 for "is better
    than", a negative number for "loses no more than".
    """

    name: str
    statement: str
    """The claim in one sentence, with the place in the paper it comes from."""
    method: str
    """The arm the claim speaks for."""
    baseline: str
    """The arm it is compared with."""
    metric: str
    """A key of the measurements `Study.measure` returns."""
    threshold: float = 0.0
    """In the unit of the metric."""
    unit: str = "points"
    higher_is_better: bool = True


@dataclass(frozen=True)
class Study:
    """The arms and claims of one method on one data set."""

    method: str
    """Name of the method in the catalogue."""
    data: str
    """What the arms are trained and tested on, for people."""
    arms: Mapping[str, Any]
    """Configuration of each arm, by the arm's name."""
    claims: Sequence[Claim]
    caveat: str = ""
    """What this data cannot show."""


@dataclass(frozen=True)
class ArmResult:
    """One arm trained with one seed and measured on the test data."""

    arm: str
    seed: int
    metrics: Mapping[str, float]
    curves: Mapping[str, Sequence[tuple[int, float]]]
    """For each logged quantity its values as (optimizer step, value)."""
    seconds: float
    """CPU time of training and measuring, summed over threads."""


@dataclass(frozen=True)
class Verdict:
    """What the seeds say about a claim."""

    claim: Claim
    differences: Sequence[float]
    """Effect of each seed, larger is better."""
    mean: float
    low: float
    """Lower end of the two-sided 95 % Student-t interval of the mean effect."""
    high: float
    word: Word


@dataclass(frozen=True)
class Picture:
    """An image for the report."""

    title: str
    caption: str
    """What to see in it; also the text for people who cannot see it."""
    png: bytes


@dataclass(frozen=True)
class StudyResult:
    """Everything a study measured: what the report and `--json` are made from."""

    study: Study
    seeds: Sequence[int]
    results: Sequence[ArmResult]
    verdicts: Sequence[Verdict]
    pictures: Sequence[Picture]


def judge(claim: Claim, method: Sequence[float], baseline: Sequence[float]) -> Verdict:
    """Compare two arms seed by seed.

    Args:
        claim: What is claimed.
        method: The claim's metric for the method's arm, one value a seed.
        baseline: The same for the baseline, in the same order of seeds.

    Returns:
        *holds* when the whole 95 % interval of the mean effect lies above the threshold, *does not
        hold* when it lies at or below it, *inconclusive* otherwise and with fewer than two seeds.
        With identical differences for every seed the interval is a point.
    """
    sign = 1.0 if claim.higher_is_better else -1.0
    differences = sign * (np.asarray(method, dtype=np.float64) - np.asarray(baseline))
    mean = float(differences.mean())
    if len(differences) < 2:
        return Verdict(claim, differences.tolist(), mean, -np.inf, np.inf, "inconclusive")
    error = float(differences.std(ddof=1)) / np.sqrt(len(differences))
    margin = float(stats.t.ppf(0.975, len(differences) - 1)) * error
    low, high = mean - margin, mean + margin
    word: Word = "inconclusive"
    if low > claim.threshold:
        word = "holds"
    elif high <= claim.threshold:
        word = "does not hold"
    return Verdict(claim, differences.tolist(), mean, low, high, word)
