"""Losses over time; the values of the reference are checked with the network's."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from modicum.errors import ConfigError
from modicum.spiking.losses import mean_cross_entropy, tet_loss


def test_tet_loss_is_its_equation() -> None:
    logits, labels = torch.randn(4, 5, 10), torch.randint(10, (4,))
    steps = sum(functional.cross_entropy(logits[:, t], labels) for t in range(5)) / 5
    pull = (logits - 0.5).square().mean()
    expected = 0.9 * steps + 0.1 * pull
    torch.testing.assert_close(tet_loss(logits, labels, regularisation=0.1, target=0.5), expected)


def test_mixed_labels_are_probabilities() -> None:
    logits, labels = torch.randn(4, 5, 10), torch.randint(10, (4,))
    probabilities = functional.one_hot(labels, 10).float()
    torch.testing.assert_close(tet_loss(logits, probabilities), tet_loss(logits, labels))
    torch.testing.assert_close(
        mean_cross_entropy(logits, probabilities), mean_cross_entropy(logits, labels)
    )


def test_bad_arguments() -> None:
    logits, labels = torch.randn(4, 5, 10), torch.randint(10, (4,))
    with pytest.raises(ConfigError, match="regularisation"):
        tet_loss(logits, labels, regularisation=1.5)
    with pytest.raises(ConfigError, match="target"):
        tet_loss(logits, labels, target=math.nan)
