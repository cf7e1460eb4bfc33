"""The networks of files of weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from modicum.engine.random import generator
from modicum.methods.tinymim.networks.mae import MaskedAutoencoder
from modicum.methods.tinymim.networks.upernet import UPerNet
from modicum.methods.tinymim.networks.vit import VisionTransformer
from modicum.options import check_arguments


def network(**arguments: Any) -> nn.Module:
    """The network of a file: a segmenter or autoencoder, which have an encoder, or else a vision
    transformer.
    """
    if "encoder" not in arguments:
        return check_arguments(VisionTransformer)(**arguments)
    if "classes" in arguments:
        return check_arguments(UPerNet)(**arguments)
    return check_arguments(MaskedAutoencoder)(**arguments)


def example(network: nn.Module) -> tuple[Tensor, ...]:
    """Two images for a network, and of an autoencoder the patches that are seen."""
    arguments: Any = network.arguments
    given = arguments.get("encoder", arguments)
    sides, channels = given["image_size"], given.get("channels", 3)
    images = torch.randn(2, channels, *sides, generator=generator("example"))
    seen = torch.arange(2).expand(2, -1)
    return (images, seen) if isinstance(network, MaskedAutoencoder) else (images,)
