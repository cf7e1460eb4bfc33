"""Learning-rate schedules: pure functions of the step, so that resuming needs no state.

In all of them `step` is the optimizer step, from 0, `total` the optimizer steps of the run, and
`peak` the largest learning rate.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence


def warmup_cosine(
    step: int, total: int, *, peak: float, warmup: int = 0, minimum: float = 0.0
) -> float:
    """Linear warm-up to `peak`, then half a cosine down to `minimum` at the last step.

    In the `warmup` steps it is `peak * (step + 1) / warmup`. The rule of masked autoencoders (He et
    al., CVPR 2022), which starts from 0 and would reach the minimum one step after the last, is
    this at `step - 1`.
    """
    if warmup and step < warmup:
        return peak * (step + 1) / warmup
    done = (step + 1 - warmup) / max(1, total - warmup)
    return _cosine(peak, minimum, min(1.0, done))


def warmup_linear(
    step: int, total: int, *, peak: float, warmup: int = 0, final: float = 0.0
) -> float:
    """Linear warm-up, as in `warmup_cosine`, then linear decay.

    `final` is the share of the peak that the decay would reach one step after the last.
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

    It rises from `peak / start` for `warmup_share` of the steps, and ends at `peak / start / end`:
    the numbers of `torch.optim.lr_scheduler.OneCycleLR` with its defaults.
    """
    first = peak / start
    top = warmup_share * total - 1
    if step <= top:
        return _cosine(first, peak, step / top if top > 0 else 1.0)
    return _cosine(peak, first / end, (step - top) / max(1e-12, total - 1 - top))


def cyclic(
    step: int, total: int, *, base: float, peak: float, final: float, rise_share: float = 0.4
) -> float:
    """Half a cosine from `base` to `peak` in `rise_share` of the steps, then half a one to `final`.

    `final` would be reached one step after the last. It serves a learning rate and, with a peak
    below the base, the momentum that is cycled against it.
    """
    top = int(rise_share * total)
    if step < top:
        return _cosine(base, peak, step / top)
    return _cosine(peak, final, (step - top) / max(1, total - top))


def polynomial(
    step: int, total: int, *, peak: float, power: float = 1.0, warmup: int = 0, start: float = 1e-6
) -> float:
    """Decay by a power of the share of steps left, which is 0 one step after the last.

    In the `warmup` steps it is multiplied by a factor that grows linearly from `start` to 1. The
    numbers are those of `torch.optim.lr_scheduler.PolynomialLR`, times those of `LinearLR` with
    `start_factor=start` and `total_iters=warmup`.
    """
    rate = peak * max(0.0, 1 - step / total) ** power
    return rate if step >= warmup else rate * (start + (1 - start) * step / warmup)


def multi_step(step: int, *, peak: float, milestones: Sequence[int], factor: float = 0.1) -> float:
    """`peak` is multiplied by a factor at every milestone, as `MultiStepLR` of PyTorch does.

    Args:
        step: Optimizer step, or epoch, from 0.
        peak: Learning rate before the first milestone.
        milestones: Ascending steps, or epochs; `range(10, total, 10)` for every tenth.
        factor: Multiplied with at each.
    """
    return peak * factor ** bisect.bisect_right(milestones, step)


def _cosine(first: float, last: float, done: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2
