"""Learning-rate schedules against PyTorch's and against the recipe's formula."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from modicum.engine.schedules import (
    cyclic,
    multi_step,
    one_cycle,
    polynomial,
    warmup_cosine,
)


@pytest.mark.parametrize("total", [1, 2, 7, 228])
def test_one_cycle_equals_pytorch(total: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=total)
    for step in range(total):
        expected = optimizer.param_groups[0]["lr"]
        assert one_cycle(step, total, peak=0.1) == pytest.approx(expected, rel=1e-12)
        optimizer.step()
        if step < total - 1:
            scheduler.step()


def test_warmup_cosine_follows_the_recipe() -> None:
    peak, minimum, warmup, total = 0.2, 1e-6, 5, 100
    rates = [
        warmup_cosine(t, total, peak=peak, warmup=warmup, minimum=minimum) for t in range(total)
    ]
    assert rates[0] == pytest.approx(0.04)
    assert rates[4] == peak
    expected = minimum + (peak - minimum) * (1 + math.cos(math.pi * (50 + 1 - 5) / 95)) / 2
    assert rates[50] == pytest.approx(expected)
    assert rates[-1] == pytest.approx(minimum)
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))


@pytest.mark.parametrize(
    ("peak", "minimum", "warmup", "epochs", "expected"),
    [
        (
            0.0024,
            0.0,
            15,
            300,
            {0: 0.0, 0.5: 8e-5, 14: 0.00224, 15: 0.0024, 50: 2.31179288e-3},
        ),
        (0.002, 1e-6, 5, 100, {5: 0.002, 16: 1.93459718e-3, 99.9: 1.00546519e-6}),
    ],
)
def test_warmup_cosine_a_step_before_is_that_of_masked_autoencoders(
    peak: float, minimum: float, warmup: int, epochs: int, expected: dict[float, float]
) -> None:
    """Learning rates at epochs of TinyMIM's pre-training and fine-tuning, by the authors' code."""
    for epoch, rate in expected.items():
        found = warmup_cosine(
            round(10 * epoch) - 1, 10 * epochs, peak=peak, warmup=10 * warmup, minimum=minimum
        )
        assert found == pytest.approx(rate, rel=1e-8)
    assert warmup_cosine(-1, 100, peak=0.5) == 0.5


def rates_of_pytorch(steps: int, base: float, *schedulers: Any) -> list[float]:
    """Learning rates of schedulers that are applied together, each given as a builder."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
    built = [scheduler(optimizer) for scheduler in schedulers]
    rates: list[float] = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in built:
            scheduler.step()
    return rates


@pytest.mark.parametrize("power", [1.0, 0.9, 2.0])
@pytest.mark.parametrize("warmup", [0, 1, 8])
def test_polynomial_equals_pytorch(power: float, warmup: int) -> None:
    schedulers: list[Any] = [partial(lr_scheduler.PolynomialLR, total_iters=30, power=power)]
    if warmup:
        linear = partial(lr_scheduler.LinearLR, start_factor=0.01, total_iters=warmup)
        schedulers.append(linear)
    expected = rates_of_pytorch(30, 0.3, *schedulers)
    found = [
        polynomial(step, 30, peak=0.3, power=power, warmup=warmup, start=0.01) for step in range(30)
    ]
    assert found == pytest.approx(expected, rel=1e-9)
    assert polynomial(31, 30, peak=0.3, power=power) == 0


def test_multi_step_equals_pytorch() -> None:
    milestones = [3, 4, 11]
    scheduler = partial(lr_scheduler.MultiStepLR, milestones=milestones, gamma=0.2)
    expected = rates_of_pytorch(15, 0.3, scheduler)
    found = [multi_step(t, peak=0.3, milestones=milestones, factor=0.2) for t in range(15)]
    assert found == pytest.approx(expected, rel=1e-9)

    expected = rates_of_pytorch(15, 0.3, partial(lr_scheduler.StepLR, step_size=4, gamma=0.1))
    found = [multi_step(t, peak=0.3, milestones=range(4, 15, 4)) for t in range(15)]
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("base", "ratio", "expected"),
    [
        (
            1e-4,
            8,
            {
                0: (1e-4, 0.9),
                100: (2.0251262658470845e-4, 0.8861261106877838),
                400: (8e-4, 0.8052631578947369),
                800: (2.0000750e-4, 0.8763157894736843),
                999: (1.5483032490539e-8, 0.8999993506854045),
            },
        ),
        (1e-4, 6, {100: (1.732233047033632e-4, 0.8861261106877838)}),
    ],
)
def test_cyclic_is_that_of_cmt(
    base: float, ratio: float, expected: dict[int, tuple[float, float]]
) -> None:
    """Learning rate and first beta at iterations of 1000, by the authors' code."""
    momentum = {"base": 0.9, "peak": 0.9 * 0.85 / 0.95, "final": 0.9}
    for step, (rate, beta) in expected.items():
        found = cyclic(step, 1000, base=base, peak=ratio * base, final=1e-4 * base)
        assert found == pytest.approx(rate, rel=1e-9)
        assert cyclic(step, 1000, **momentum) == pytest.approx(beta, rel=1e-9)


def test_cyclic_of_few_steps() -> None:
    assert cyclic(0, 1, base=1, peak=8, final=2) == 8
    assert cyclic(0, 2, base=1, peak=8, final=2, rise_share=1.0) == 1
    assert cyclic(2, 2, base=1, peak=8, final=2, rise_share=1.0) == 8
