"""Learning-rate schedules: pure functions of the step, so that resuming needs no state."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence


def warmup_cosine(
    step: int, total: int, *, peak: float, warmup: int = 0, minimum: float = 0.0
) -> float:
    """Linear warm-up to `peak`, then half a cosine down to `minimum`.

    The rule of masked autoencoders (He et al., CVPR 2022), which starts from 0 and would reach the
    minimum one step after the last, is this at `step - 1`.

    Args:
        step: Optimizer step, from 0.
        total: Number of optimizer steps of the run.
        peak: Largest learning rate, reached at step `warmup - 1`.
        warmup: Number of warm-up steps; `peak * (step + 1) / warmup` is used in them.
        minimum: Learning rate at the last step.
    """
    if warmup and step < warmup:
        return peak * (step + 1) / warmup
    done = (step + 1 - warmup) / max(1, total - warmup)
    return _cosine(peak, minimum, min(1.0, done))


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
    return _cosine(low, high, done)


def cyclic(
    step: int, total: int, *, base: float, peak: float, final: float, rise_share: float = 0.4
) -> float:
    """Half a cosine from `base` to `peak`, then half a cosine to `final`.

    It serves a learning rate and, with a peak below the base, the momentum that is cycled against
    it.

    Args:
        step: Optimizer step, from 0.
        total: Number of optimizer steps of the run; `final` would be reached one step after the
            last.
        base: Value at step 0.
        peak: Value after `rise_share` of the steps.
        final: Value at step `total`.
        rise_share: Share of the steps from base to peak.
    """
    top = int(rise_share * total)
    if step < top:
        return _cosine(base, peak, step / top)
    return _cosine(peak, final, (step - top) / max(1, total - top))


def polynomial(
    step: int, total: int, *, peak: float, power: float = 1.0, warmup: int = 0, start: float = 1e-6
) -> float:
    """Decay by a power of the share of steps left, times a linear warm-up.

    Args:
        step: Optimizer step, from 0.
        total: Number of optimizer steps of the run; 0 is reached one step after the last.
        peak: Learning rate at step 0, but for the warm-up.
        power: Power of the share; 1 decays linearly.
        warmup: Number of steps in which a factor grows from `start` to 1.
        start: Factor of step 0, where there is a warm-up.

    Returns:
        The numbers of `torch.optim.lr_scheduler.PolynomialLR`, times those of `LinearLR` with
        `start_factor=start` and `total_iters=warmup`.
    """
    rate = peak * max(0.0, 1 - step / total) ** power
    return rate if step >= warmup else rate * (start + (1 - start) * step / warmup)


def multi_step(step: int, *, peak: float, milestones: Sequence[int], factor: float = 0.1) -> float:
    """The learning rate is multiplied by a factor at every milestone.

    Args:
        step: Optimizer step, or epoch, from 0.
        peak: Learning rate before the first milestone.
        milestones: Ascending steps, or epochs, from which on it is a factor smaller;
            `range(10, total, 10)` for every tenth.
        factor: Multiplied with at each.

    Returns:
        The numbers of `torch.optim.lr_scheduler.MultiStepLR`.
    """
    return peak * factor ** bisect.bisect_right(milestones, step)


def halving(step: int, *, peak: float, every: int) -> float:
    """The learning rate is halved every so many steps.

    Args:
        step: Optimizer step, from 0.
        peak: Learning rate of the first steps.
        every: Optimizer steps until it is halved.
    """
    return peak * 0.5 ** (step // every)


def _cosine(first: float, last: float, done: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2
