"""The networks of the room by their kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from modicum.engine.random import generator
from modicum.errors import ConfigError
from modicum.methods.event_augmentation.est import EstClassifier
from modicum.methods.event_augmentation.resnet import ResNet34
from modicum.options import check_arguments
from modicum.spiking.networks import SpikingNetwork

KINDS: Mapping[str, type[nn.Module]] = {
    "est": EstClassifier,
    "resnet34": ResNet34,
    "spiking": SpikingNetwork,
}
"""The networks of files of weights."""


def network(kind: str, **arguments: Any) -> nn.Module:
    """The network of a file of weights."""
    if kind not in KINDS:
        raise ConfigError(f"a network of the kind {kind[:40]!r}: expected {', '.join(KINDS)}.")
    return check_arguments(KINDS[kind])(**arguments)


def example(network: nn.Module) -> tuple[Any, ...]:
    """Two samples for a network: frames `(2, 4, 2, H, W)`, images, or a batch of recordings."""
    random = generator("example")
    if isinstance(network, SpikingNetwork):
        return (torch.rand(2, 4, 2, *network.arguments["size"], generator=random),)
    if isinstance(network, ResNet34):
        return (torch.rand(2, network.arguments["in_channels"], 64, 64, generator=random),)
    from modicum.events import open_digits

    return (open_digits("test", 2).read(torch.arange(2).numpy()),)
