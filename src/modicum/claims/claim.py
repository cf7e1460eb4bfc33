"""Claims, studies and verdicts: plain data, and how seeds decide."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modicum.claims.stages import Stage

if TYPE_CHECKING:
    from torch import nn

Word = Literal["holds", "does not hold", "inconclusive"]

SAME = 1e-9
"""Differences that are this close, of their size, differ by rounding only."""


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
    relative: bool = False
    """The effect of a seed is a share of the baseline's metric, and so is the threshold."""


@dataclass(frozen=True)
class Picture:
    """An image for the report."""

    title: str
    caption: str
    """What to see in it; also the text for people who cannot see it."""
    png: bytes


@dataclass(frozen=True)
class Study:
    """The arms and claims of one method on one data set."""

    method: str
    """Name of the method in the catalogue."""
    data: str
    """What the arms are trained and tested on, for people."""
    arms: Mapping[str, Stage]
    """The last stage of each arm, by the arm's name."""
    claims: Sequence[Claim]
    measure: Callable[[Any, nn.Module], Mapping[str, float]]
    """Measures a trained network on the test data, given the configuration of its arm's last stage.
    A function of a module, so that other processes find it by name."""
    pictures: Callable[[Mapping[str, Sequence[Path]]], Sequence[Picture]]
    """Draws the method's own pictures from the run folders of each arm, one a seed."""
    caveat: str = ""
    """What this data cannot show."""
    fingerprint: str = ""
    """Changes whenever the data does; part of the key results are cached under."""
    seeds: int = 3
    """Seeds every arm is trained with, unless more or fewer are asked for."""
    skill: str = ""
    """The metric, of which more is better, that shows whether an arm has learned at all. `measure`
    then returns `by_chance` too: what a guess exceeds once in twenty test sets, see
    `classification.guessing`."""
    shares: Sequence[str] = ()
    """Metrics that are shares of the test samples in percent, whose number `measure` returns as
    `tested`."""


@dataclass(frozen=True)
class ArmResult:
    """One arm trained with one seed and measured on the test data."""

    arm: str
    seed: int
    metrics: Mapping[str, float]
    curves: Mapping[str, Sequence[tuple[int, float]]]
    """For each logged quantity its values as (optimizer step, value)."""
    seconds: float
    """CPU time of training all its stages and of measuring, summed over threads; of a stage that
    was interrupted, only that of its last session."""


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
    reason: str = ""
    """Why the word is *inconclusive*."""


@dataclass(frozen=True)
class StudyResult:
    """Everything a study measured: what the report and `--json` are made from."""

    study: Study
    seeds: Sequence[int]
    results: Sequence[ArmResult]
    verdicts: Sequence[Verdict]
    pictures: Sequence[Picture]


def judge(
    claim: Claim,
    method: Sequence[float],
    baseline: Sequence[float],
    *,
    resolution: float | None = None,
    doubt: str = "",
) -> Verdict:
    """Compare two arms seed by seed.

    Args:
        claim: What is claimed.
        method: The claim's metric for the method's arm, one value a seed.
        baseline: The same for the baseline, in the same order of seeds.
        resolution: The smallest difference that the metric can show, such as that of one test
            sample. The standard deviation of the differences is taken for no smaller. None: it is
            not known, and equal differences, which say nothing of what varies, decide nothing.
        doubt: Why nothing can be said, whatever the numbers are.

    Returns:
        *holds* when the whole 95 % interval of the mean effect lies above the threshold, *does not
        hold* when it lies at or below it, *inconclusive* otherwise and with fewer than two seeds.
    """
    from scipy.special import stdtrit

    sign = 1.0 if claim.higher_is_better else -1.0
    reference = np.asarray(baseline, dtype=np.float64)
    differences = sign * (np.asarray(method, dtype=np.float64) - reference)
    floor = resolution or 0.0
    if claim.relative:
        with np.errstate(divide="ignore", invalid="ignore"):  # nothing to have a share of
            differences = differences / reference
            floor = floor / float(np.abs(reference).mean())
    seeds, mean = len(differences), float(differences.mean())
    spread = float(differences.std(ddof=1)) if seeds > 1 else math.inf
    margin = math.inf
    if seeds > 1:
        margin = float(stdtrit(seeds - 1, 0.975)) * max(spread, floor) / math.sqrt(seeds)
    low, high = mean - margin, mean + margin
    word: Word = "inconclusive"
    if not math.isfinite(mean):
        doubt = doubt or "a measurement is not a number"
    elif seeds < 2:
        doubt = doubt or "one seed shows nothing of what varies"
    elif not floor and spread <= SAME * max(abs(mean), 1.0):
        doubt = doubt or "all seeds differ by the same, which shows nothing of what varies"
    if not doubt:
        if low > claim.threshold:
            word = "holds"
        elif high <= claim.threshold:
            word = "does not hold"
        else:
            doubt = f"the threshold is within the interval, {margin:.2g} to either side of the mean"
    return Verdict(claim, differences.tolist(), mean, low, high, word, doubt)


def judge_study(study: Study, results: Sequence[ArmResult], seeds: Sequence[int]) -> list[Verdict]:
    """The verdicts on all claims of a study.

    A claim is about networks that have learned: where an arm is not above guessing, its fewer
    spikes or smaller gaps mean nothing. Only of a claim on the skill itself an arm that guesses is
    a finding, if the other one does not; but to a baseline that guesses, nothing can be lost.
    """
    measured = {(result.arm, result.seed): result.metrics for result in results}

    def values(arm: str, metric: str) -> list[float]:
        return [measured[arm, seed][metric] for seed in seeds]

    def guesses(arm: str) -> bool:
        return bool(study.skill) and not (
            np.mean(values(arm, study.skill)) > np.mean(values(arm, "by_chance"))
        )

    verdicts: list[Verdict] = []
    for claim in study.claims:
        at_chance = [arm for arm in (claim.baseline, claim.method) if guesses(arm)]
        if claim.metric == study.skill:
            nothing = claim.baseline in at_chance and (len(at_chance) == 2 or claim.threshold < 0)
        else:
            nothing = bool(at_chance)
        doubt = f"nothing was learned: not above guessing is {' nor '.join(at_chance)}"
        resolution = None
        if claim.metric in study.shares:
            resolution = 100 / min(values(claim.method, "tested"))
        pair = (values(arm, claim.metric) for arm in (claim.method, claim.baseline))
        verdicts.append(judge(claim, *pair, resolution=resolution, doubt=doubt * nothing))
    return verdicts


def summarise(studies: Sequence[StudyResult]) -> dict[str, Any]:
    """The results of studies as JSON-able records: one a claim, and for each method one an arm."""

    def number(value: float) -> float | None:
        return round(value, 6) + 0.0 if math.isfinite(value) else None  # + 0.0: no minus zero

    def mean(values: Iterable[float]) -> float | None:
        return number(float(np.mean(list(values))))

    claims = [
        {
            "verdict": verdict.word,
            "method": result.study.method,
            "claim": verdict.claim.name,
            "statement": verdict.claim.statement,
            "effect": number(verdict.mean),
            "low": number(verdict.low),
            "high": number(verdict.high),
            "threshold": verdict.claim.threshold,
            "unit": verdict.claim.unit,
            "seeds": len(result.seeds),
            "reason": verdict.reason,
        }
        for result in studies
        for verdict in result.verdicts
    ]
    arms = {
        result.study.method: [
            {"arm": arm}
            | {name: mean(r.metrics[name] for r in of_arm) for name in of_arm[0].metrics}
            | {"cpu_seconds": mean(r.seconds for r in of_arm)}
            for arm in result.study.arms
            if (of_arm := [r for r in result.results if r.arm == arm])
        ]
        for result in studies
    }
    notes = {r.study.method: f"{r.study.data} {r.study.caveat}".strip() for r in studies}
    return {"notes": notes, "arms": arms, "claims": claims}
