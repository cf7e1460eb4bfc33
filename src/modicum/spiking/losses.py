"""Losses of networks with an output at every time step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor
from torch.nn import functional

from modicum.errors import ConfigError


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of the logits' mean over time, the mean over the batch.

    Args:
        logits: `(B, T, K)`.
        labels: `(B,)`, int64 in [0, K); or probabilities `(B, K)`.
    """
    return functional.cross_entropy(logits.mean(1), labels)


def tet_loss(
    logits: Tensor, labels: Tensor, *, regularisation: float = 1e-3, target: float = 1.0
) -> Tensor:
    """Cross entropy at every time step, and a pull of all logits towards one value.

    `(1 - l) * mean_t CE(o_t, y) + l * MSE(o, target)`, Deng et al., "Temporal Efficient Training of
    Spiking Neural Network via Gradient Re-weighting", ICLR 2022.

    Args:
        logits: `(B, T, K)`.
        labels: `(B,)`, int64 in [0, K); or probabilities `(B, K)`.
        regularisation: l, in [0, 1].
        target: What the logits are pulled towards.

    Raises:
        ConfigError: `regularisation` or `target` is out of range.
    """
    if not 0 <= regularisation <= 1 or not math.isfinite(target):
        raise ConfigError(
            f"expected regularisation in [0, 1] and a finite target, found {regularisation} and "
            f"{target}"
        )
    steps = logits.shape[1]
    every = functional.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(steps, dim=0))
    return (1 - regularisation) * every + regularisation * (logits - target).square().mean()


LOSSES: Mapping[str, Callable[..., Tensor]] = {"mean": mean_cross_entropy, "tet": tet_loss}
"""The losses by name: of logits `(B, T, K)` and labels, as above."""
