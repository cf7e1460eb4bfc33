"""Learning-rate schedules against PyTorch's and against the recipe's formula."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from modicum.engine.schedules import halving, one_cycle, warmup_cosine


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


def test_halving_equals_pytorch() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.5)
    for step in range(21):
        expected = optimizer.param_groups[0]["lr"]
        assert halving(step, peak=0.3, every=4) == pytest.approx(expected, rel=1e-12)
        optimizer.step()
        scheduler.step()
    assert halving(7, peak=1.0, every=8) == 1.0
    assert halving(8, peak=1.0, every=8) == 0.5
