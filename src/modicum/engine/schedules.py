"""Learning-rate schedules: pure functions of the step, so that resuming needs no state."""

from __future__ import annotations

import math


def warmup_cosine(
    step: int, total: int, *, peak: float, warmup: int = 0, minimum: float = 0.0
) -> float:
    """Linear warm-up to `peak`, then half a cosine down to `minimum`.

    Args:
        step: Optimizer step, from 0.
        total: Number of optimizer steps of the run.
        peak: Largest learning rate, reached at step `warmup - 1`.
        warmup: Number of warm-up steps; `peak * (step + 1) / warmup` is used in them.
        minimum: Learning rate at the last step.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step + 1 - warmup) / max(1, total - warmup)
    return minimum + (peak - minimum) * (1 + math.cos(math.pi * min(1.0, done))) / 2


def warmup_linear(
    step: int, total: int, *, peak: float, warmup: int = 0, final: float = 0.0
) -> float:
    """Linear warm-up to `peak`, then linear decay.

    Args:
        step: Optimizer step, from 0.
        total: Number of optimizer steps of the run.
        peak: Largest learning rate, reached at step `warmup - 1`.
        warmup: Number of warm-up steps; `peak * (step + 1) / warmup` is used in them.
        final: Share of the peak that the decay would reach one step after the last.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return peak * (1 - (1 - final) * min(1.0, done))


def one_cycle(
    step: int, total: int, *, peak: float, warmup_share: float = 0.3, start: float = 25.0,
    end: float = 1e4,
) -> float:  # fmt: skip
    """Smith and Topin's one-cycle policy with cosine ramps (arXiv 1708.07120).

    Args:
        step: Optimizer step, from 0.
        total: Number of optimizer steps of the run.
        peak: Largest learning rate.
        warmup_share: Share of the steps spent rising.
        start: The run starts at `peak / start`.
        end: The run ends at `peak / start / end`.

    Returns:
        The same numbers as `torch.optim.lr_scheduler.OneCycleLR` with its defaults.
    """
    first = peak / start
    top = warmup_share * total - 1
    last = total - 1
    if step <= top:
        low, high, done = first, peak, step / top if top > 0 else 1.0
    else:
        low, high, done = peak, first / end, (step - top) / max(1e-12, last - top)
    return high + (low - high) * (1 + math.cos(math.pi * done)) / 2


def halving(step: int, *, peak: float, every: int) -> float:
    """The learning rate is halved every so many steps.

    Args:
        step: Optimizer step, from 0.
        peak: Learning rate of the first steps.
        every: Optimizer steps until it is halved.
    """
    return peak * 0.5 ** (step // every)
