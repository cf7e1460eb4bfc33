"""The measure of the toy method."""

from __future__ import annotations

import torch
from torch import nn

from modicum.methods.toy.data import Clouds
from modicum.methods.toy.losses import nearest_loss


@torch.no_grad()
def measure(network: nn.Module, clouds: Clouds) -> dict[str, float]:
    """`distance`: `nearest_loss` over all clouds."""
    return {"distance": float(nearest_loss(network(clouds.moments), clouds.points))}
