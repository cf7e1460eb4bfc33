"""Stochastic depth and the layers of transformer blocks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modicum.vision.layers import DropPath, Mlp


def test_branches_are_dropped_sample_by_sample() -> None:
    torch.manual_seed(0)
    layer = DropPath(0.25)
    branch = torch.rand(4000, 3, 2) + 1
    ratio = layer(branch) / branch
    kept = ratio[:, 0, 0] != 0
    assert torch.equal(ratio != 0, kept[:, None, None].expand_as(ratio))
    torch.testing.assert_close(ratio[kept], torch.full_like(ratio[kept], 1 / 0.75))
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)  # over four deviations


def test_nothing_is_dropped_in_evaluation_or_at_probability_zero() -> None:
    branch = torch.randn(3, 5)
    assert DropPath(0.5).eval()(branch) is branch
    assert DropPath(0.0)(branch) is branch


def test_a_dropped_branch_has_no_gradient() -> None:
    torch.manual_seed(0)
    branch = torch.ones(64, 2, requires_grad=True)
    out = DropPath(0.5)(branch)
    out.sum().backward()
    assert branch.grad is not None
    assert torch.equal(branch.grad, out.detach())
    assert {0.0, 2.0} == set(out.flatten().tolist())


@pytest.mark.parametrize("probability", [-0.1, 1.0])
def test_probabilities_out_of_range_are_refused(probability: float) -> None:
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        DropPath(probability)


def test_mlp_is_two_layers_with_gelu_between() -> None:
    torch.manual_seed(0)
    layer = Mlp(6, 24)
    assert list(layer.state_dict()) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(layer(x), nn.Sequential(layer.fc1, nn.GELU(), layer.fc2)(x))
