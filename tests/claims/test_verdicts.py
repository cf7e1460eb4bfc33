"""How often verdicts are wrong, on studies whose answer is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from modicum.claims import ArmResult, Claim, Study, judge, judge_study
from modicum.classification import guessing

STUDIES = 200
SEEDS = range(3)
BETTER = Claim("better", "B beats A.", method="B", baseline="A", metric="top1")
KEPT = Claim("kept", "B loses at most 2.", method="B", baseline="A", metric="top1", threshold=-2)
COST = Claim("cost", "B costs less.", method="B", baseline="A", metric="cost",
             higher_is_better=False)  # fmt: skip


def study_of(results: Sequence[Mapping[str, Mapping[str, float]]], *claims: Claim) -> list[str]:
    """The words on claims, from what each seed measured of each arm."""
    study = Study("test", "", {}, claims, lambda *_: {}, lambda _: (), skill="top1",
                  shares=("top1",))  # fmt: skip
    measured = [
        ArmResult(arm, seed, metrics, {}, 0.0)
        for seed, arms in enumerate(results)
        for arm, metrics in arms.items()
    ]
    return [verdict.word for verdict in judge_study(study, measured, range(len(results)))]


def trained(
    random: np.random.Generator, *, features: int, signal: float, samples: int
) -> Mapping[str, float]:
    """Classifies by the nearest of two means, learnt from 40 samples of which so many features are
    seen, on a test set of its own.
    """

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % 2
        return random.normal(signal * (2 * labels - 1)[:, None], 1.0, (count, features)), labels

    x, y = draw(40)
    direction = x[y == 1].mean(0) - x[y == 0].mean(0)
    middle = direction @ x.mean(0)
    x, y = draw(samples)
    right = float((((x @ direction) > middle) == y).mean())
    return {"top1": 100 * right, "tested": samples, "by_chance": guessing(y), "cost": 1 + right}


@pytest.mark.parametrize("samples", [30, 100, 1000])
@pytest.mark.parametrize("signal", [0.0, 0.3])
def test_planted_nulls_rarely_hold(samples: int, signal: float) -> None:
    random = np.random.default_rng(samples)
    words: Counter[str] = Counter()
    for _ in range(STUDIES):
        results = [
            {arm: trained(random, features=8, signal=signal, samples=samples) for arm in "AB"}
            for _ in SEEDS
        ]
        words += Counter(study_of(results, BETTER))
    wrong = STUDIES - words["inconclusive"]
    # The interval misses one effect in twenty; 3 standard deviations of so many studies above that.
    assert wrong <= (0.05 * STUDIES + 3 * (STUDIES * 0.05 * 0.95) ** 0.5)
    if signal == 0:
        assert wrong <= 0.02 * STUDIES  # of networks that have learned nothing


def test_planted_effects_are_found() -> None:
    random = np.random.default_rng(1)
    found = Counter(
        word
        for _ in range(STUDIES)
        for word in study_of(
            [
                {
                    "A": trained(random, features=2, signal=0.3, samples=1000),
                    "B": trained(random, features=30, signal=0.3, samples=1000),
                }
                for _ in SEEDS
            ],
            BETTER,
        )
    )
    assert found["does not hold"] == 0
    assert found["holds"] >= 0.9 * STUDIES


def test_noise_decides_nothing() -> None:
    at_chance = {"top1": 50.0, "tested": 30.0, "by_chance": guessing([0, 1] * 15), "cost": 2.0}
    cheaper = at_chance | {"cost": 1.0}
    assert study_of([{"A": at_chance, "B": cheaper}] * 3, BETTER, KEPT, COST) == 3 * [
        "inconclusive"
    ]
    learned = at_chance | {"top1": 90.0}
    better = [{"A": at_chance, "B": learned | {"top1": 90.0 + seed}} for seed in SEEDS]
    assert study_of(better, BETTER, KEPT) == ["holds", "inconclusive"]
    worse = [{"A": learned | {"top1": 90.0 + seed}, "B": at_chance} for seed in SEEDS]
    assert study_of(worse, BETTER, KEPT) == 2 * ["does not hold"]


def test_equal_differences_are_no_proof() -> None:
    assert judge(BETTER, [99.0] * 3, [97.0] * 3).word == "inconclusive"
    assert judge(BETTER, [0.1 + 0.2, 0.3], [0.0, 0.0]).word == "inconclusive"  # but for rounding
    assert "differ by the same" in judge(BETTER, [99.0] * 3, [97.0] * 3).reason
    # Of 50 test samples two points are one; of 5,000 they are a hundred.
    assert judge(BETTER, [99.0] * 3, [97.0] * 3, resolution=2.0).word == "inconclusive"
    assert judge(BETTER, [99.0] * 3, [97.0] * 3, resolution=0.02).word == "holds"


def test_reasons_are_told() -> None:
    assert "not a number" in judge(BETTER, [1.0, float("nan")], [0.0, 0.0]).reason
    assert "one seed" in judge(BETTER, [1.0], [0.0]).reason
    assert "threshold is within" in judge(BETTER, [1.0, -1.0], [0.0, 0.5]).reason
    assert judge(BETTER, [2.0, 2.1], [0.0, 0.0]).reason == ""


@pytest.mark.parametrize(
    ("labels", "percent"),
    [([0] * 50 + [1] * 50, 58.2), ([0, 0, 0], 100.0), ([0] * 90 + [1] * 10, 94.9)],
)
def test_guessing(labels: list[int], percent: float) -> None:
    assert guessing(labels) == pytest.approx(percent, abs=0.1)
