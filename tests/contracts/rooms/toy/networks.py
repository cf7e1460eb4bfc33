"""The network, of teacher and student alike."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modicum.engine.random import generator


class PointNetwork(nn.Module):
    """Four points that stand for a cloud, from its moments: (B, 5) to (B, 4, 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.arguments = {"width": width}
        self.body = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 8))
        self.unused = nn.Linear(width, 1)  # takes no part in the loss, as heads of others may not

    def forward(self, moments: Tensor) -> Tensor:
        """(B, 5) to (B, 4, 2)."""
        return self.body(moments).unflatten(1, (4, 2))


def example(network: nn.Module) -> tuple[Tensor]:
    """Moments of three clouds, (3, 5)."""
    return (torch.rand(3, 5, generator=generator("example")),)
