"""Batches and epochs that fit the size of a data set, where none are asked for."""

from __future__ import annotations

LEAST_STEPS = 300
"""Optimizer steps that a network is given to learn a small set in."""

LEAST_BATCH = 8
"""Samples a batch, where there are as many: the statistics of fewer are noise."""


def fitting_batch(samples: int, usual: int, unit: int = 1) -> int:
    """Samples an optimizer step: the usual number, of small sets about an eighth.

    Of small sets it is down to half of that where fewer are then left over.

    Args:
        samples: How many there are to train on.
        usual: What suits large sets.
        unit: What the number is a multiple of, as processes and micro-batches share it.
    """
    most = min(usual, samples, max(LEAST_BATCH, samples // 8))
    if most == usual and usual % unit == 0:
        return usual
    sizes = [size for size in range(most, 0, -1) if size % unit == 0 and 2 * size >= most]
    return min(sizes, key=lambda size: samples % size, default=unit)
