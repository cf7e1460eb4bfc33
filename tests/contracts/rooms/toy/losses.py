"""The loss of the toy method, which is its measure as well."""

from __future__ import annotations

import torch
from torch import Tensor


def nearest_loss(predicted: Tensor, targets: list[Tensor]) -> Tensor:
    """Mean over clouds of their points' mean squared distance to the nearest predicted point.

    Args:
        predicted: (B, K, 2).
        targets: B tensors (n, 2), n > 0.
    """
    counts = torch.tensor([len(points) for points in targets], device=predicted.device)
    owner = torch.arange(len(targets), device=predicted.device).repeat_interleave(counts)
    squares = (torch.cat(targets)[:, None] - predicted[owner]).square().sum(-1).amin(1)
    return (squares / counts[owner]).sum() / len(targets)
