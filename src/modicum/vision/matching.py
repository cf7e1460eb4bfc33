"""Bipartite matching of predictions with targets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def match(cost: Tensor, counts: Tensor | Sequence[int]) -> tuple[Tensor, ...]:
    """Give every target a prediction of its own so that the costs' sum is least.

    Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, section 3.1. All
    problems travel to the CPU together; SciPy solves each.

    A cost that is NaN or infinite is worse than any finite one: such a pair is matched only where
    nothing else is left, so that a few bad numbers early in training do not end it.

    Args:
        cost: Costs of all pairs, `(…, predictions, targets)`, any float dtype; the leading
            dimensions, such as (layer, image) or (image,), number the problems. Targets beyond a
            problem's count are padding, whatever their cost.
        counts: Number of targets of each problem, broadcast to the leading dimensions.

    Returns:
        Indices of the matched pairs, a tensor `(pairs,)` of int64 for each dimension of `cost`, on
        its device, as from `torch.nonzero(…, as_tuple=True)`: with
        `image, query, target = match(cost, counts)`, the pairs are `predictions[image, query]` and
        `targets[image, target]`. Ordered by all but the last; the fewer of both are all matched.

    Raises:
        ValueError: A count is more than `cost` has targets.
    """
    *problems, _, width = cost.shape
    counts = torch.as_tensor(counts).expand(problems)
    if counts.numel() and not 0 <= int(counts.min()) <= int(counts.max()) <= width:
        raise ValueError(f"counts {counts.tolist()}: the costs {tuple(cost.shape)} have {width}.")
    costs = cost.detach().cpu().double().numpy()
    pairs = [np.empty((cost.dim(), 0), np.int64)]
    for problem, count in zip(np.ndindex(*problems), counts.flatten().tolist(), strict=True):
        rows, columns = linear_sum_assignment(_finite(costs[problem][:, :count]))
        leading = np.broadcast_to(np.array(problem, np.int64)[:, None], (len(problems), len(rows)))
        pairs.append(np.vstack([leading, rows, columns]))
    return tuple(torch.from_numpy(np.concatenate(pairs, 1)).to(cost.device))


def _finite(costs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Replace what is not finite by so much that a matching avoids one above all."""
    finite = np.isfinite(costs)
    if finite.all():
        return costs
    # Not the largest float: beside it the differences between the other costs would be rounded off.
    low, high = (costs[finite].min(), costs[finite].max()) if finite.any() else (0.0, 0.0)
    return np.where(finite, costs, high + (high - low) * min(costs.shape) + 1)
