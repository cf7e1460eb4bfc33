"""The networks of the room: VGNet, and the baseline of the claims."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from modicum.engine.random import generator
from modicum.methods.vgnet.baseline import MobileNetV2
from modicum.methods.vgnet.model import VGNet


def network(**arguments: Any) -> nn.Module:
    """The network of a file of weights: a VGNet, or the baseline, which alone has a width."""
    return MobileNetV2(**arguments) if "width" in arguments else VGNet(**arguments)


def example(network: nn.Module) -> tuple[Tensor, ...]:
    """A batch of two images for a network, `(2, in_channels, 64, 64)`."""
    arguments: Any = network.arguments
    return (torch.randn(2, arguments["in_channels"], 64, 64, generator=generator("example")),)
