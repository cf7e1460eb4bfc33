"""Matchings are the cheapest ones, for ragged targets, bad costs and any number of problems."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from modicum.vision.matching import match


def cheapest(cost: Tensor) -> float:
    """The least sum of costs of `(predictions, targets)`, by trying all matchings."""
    predictions, targets = cost.shape
    if targets > predictions:
        return cheapest(cost.T)
    return min(
        sum(cost[query, target].item() for target, query in enumerate(queries))
        for queries in itertools.permutations(range(predictions), targets)
    )


def test_every_problem_is_solved_with_its_own_number_of_targets() -> None:
    cost = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    counts = [4, 0, 2]
    for image, count in enumerate(counts):
        cost[:, image, :, count:] = torch.nan  # padding
    layer, image, query, target = match(cost, counts)
    assert layer.dtype == image.dtype == query.dtype == target.dtype == torch.int64
    assert torch.equal(layer, torch.arange(2).repeat_interleave(6))
    for at in itertools.product(range(2), range(3)):
        here = (layer == at[0]) & (image == at[1])
        assert sorted(target[here].tolist()) == list(range(counts[at[1]]))
        assert query[here].tolist() == sorted(set(query[here].tolist()))
        total = cost[at][query[here], target[here]].sum().item()
        if counts[at[1]]:
            assert total == pytest.approx(cheapest(cost[at][:, : counts[at[1]]]), rel=1e-6)


def test_one_problem_and_more_targets_than_predictions() -> None:
    cost = torch.tensor([[3.0, 1.0, 2.0], [1.0, 0.5, 9.0]])
    query, target = match(cost, torch.tensor(3))
    assert query.tolist() == [0, 1]
    assert target.tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_bad_costs_are_avoided_where_they_can_be(dtype: torch.dtype) -> None:
    nan, inf = torch.nan, torch.inf
    cost = torch.tensor(
        [
            # A NaN in the way of the cheapest matching; the rest is still the cheapest.
            [[nan, 2.0], [1.0, 3.0], [5.0, 2.5]],
            # Minus infinity is as bad as infinity: the sum of a matching with it means nothing.
            [[-inf, 8.0], [9.0, inf], [inf, inf]],
            # A target without a finite cost takes what leaves the others their cheapest.
            [[nan, 2.0], [nan, 1.0], [nan, 3.0]],
            [[nan, nan], [nan, nan], [nan, nan]],
        ],
        dtype=dtype,
    )
    image, query, target = match(cost, [2, 2, 2, 2])
    pairs = [
        set(zip(query[image == at].tolist(), target[image == at].tolist(), strict=True))
        for at in range(4)
    ]
    assert pairs[0] == {(1, 0), (0, 1)}
    assert pairs[1] == {(1, 0), (0, 1)}
    assert (1, 1) in pairs[2]
    assert len(pairs[3]) == 2


def test_small_differences_count_beside_a_bad_cost() -> None:
    cost = torch.tensor([[1.0, 1.0], [1.0 - 2**-20, 1.0], [torch.nan, torch.nan]])
    query, target = match(cost, torch.tensor(2))
    assert set(zip(query.tolist(), target.tolist(), strict=True)) == {(1, 0), (0, 1)}


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (2, 5, 0), (3, 0, 2, 1)])
def test_nothing_to_match(shape: tuple[int, ...]) -> None:
    indices = match(torch.zeros(shape, requires_grad=True), [shape[-1]] * shape[-3])
    assert len(indices) == len(shape)
    assert all(index.shape == (0,) and index.dtype == torch.int64 for index in indices)


@pytest.mark.parametrize("counts", [[1, 4], [-1, 3]])
def test_counts_that_do_not_fit_are_refused(counts: list[int]) -> None:
    with pytest.raises(ValueError, match=r"counts .*\(2, 5, 3\) have 3"):
        match(torch.zeros(2, 5, 3), counts)


def test_the_sum_over_pairs_has_a_gradient() -> None:
    cost = torch.rand(2, 4, 2, requires_grad=True)
    cost[match(cost, [2, 1])].sum().backward()
    assert cost.grad is not None
    assert cost.grad.sum() == 3
