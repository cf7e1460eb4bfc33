"""Checkpoints of the code bases the field trains with, TET and NDA, into our networks.

The authors of the method published none. Keys and shapes of a state dict tell which code base it
is of, the widths, classes, and whether pools or strides halve the maps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from modicum.errors import CheckpointError
from modicum.methods.apbs import networks
from modicum.spiking.layers import SpikingLayer
from modicum.spiking.networks import NDA_VGG11_LAYOUT, VGGSNN_LAYOUT, Layout, SpikingNetwork
from modicum.weights.foreign import State, fill, read_state

_OURS_ONLY = (".cache", ".num_updates")
"""What associative layers hold besides; it stays empty."""


class _CodeBase(NamedTuple):
    """How a code base names what is in a network of ours."""

    title: str
    builder: Callable[..., SpikingNetwork]
    layout: Layout
    layers: list[tuple[str, str]]
    """Names of the convolution and the normalisation of each layer."""
    classifier: str


def _tet(*numbers: int) -> list[tuple[str, str]]:
    return [(f"features.{n}.fwd.module.0", f"features.{n}.fwd.module.1") for n in numbers]


def _nda(*numbers: int) -> list[tuple[str, str]]:
    return [(f"features.{n}.ann_module", f"features.{n + 1}") for n in numbers]


# Pools count in all of them; normalisations and neurons count in NDA.
_POOLED, _STRIDED = _tet(0, 1, 3, 4, 6, 7, 9, 10), _tet(*range(8))
_VGG11 = _nda(0, 4, 8, 11, 15, 18, 21, 24)
_CODE_BASES = (
    _CodeBase("VGGSNN of TET", networks.vggsnn, VGGSNN_LAYOUT, _POOLED, "classifier.module"),
    _CodeBase("VGGSNN of TET without pooling", networks.vggsnn_stride, VGGSNN_LAYOUT, _STRIDED,
              "classifier.module"),
    _CodeBase("VGG-11 of NDA", networks.nda_vgg11, NDA_VGG11_LAYOUT, _VGG11,
              "classifier.0.module"),
)  # fmt: skip


def load_official(
    checkpoint: Path | str | State,
    *,
    size: int | tuple[int, int] | None = None,
    association: float | None = None,
    **options: Any,
) -> SpikingNetwork:
    """The network of a checkpoint, built after its keys and shapes, with its weights.

    Args:
        checkpoint: A `.pth` or `.safetensors` file, or a state dict, of TET's VGGSNN, with or
            without pooling, or of NDA's VGG-11, of any widths.
        size: Height and width of the frames it is for. None: for TET the least square that goes
            with its classifier, 48 as published; for NDA, which takes any, 48.
        association: lambda of associative convolutions, whose cache is empty; None for plain ones.
            With 0 the logits are those of the plain network.
        **options: Further arguments of `modicum.methods.apbs.networks.associative`.

    Raises:
        CheckpointError: The file is damaged, of neither code base, or of another network.
        ConfigError: An option is out of range.
    """
    where, state = read_state(checkpoint)
    base = _recognise(state, where)
    arguments = _describe(base, state)
    if size is not None:
        arguments["size"] = size
    network = base.builder(association=association, **(arguments | options))
    _load(base, network, state, where)
    return network


def _recognise(state: State, where: str) -> _CodeBase:
    for base in _CODE_BASES:
        if all(
            f"{name}.weight" in state and state[f"{name}.weight"].dim() == rank
            for names, rank in (([base.classifier], 2), ([conv for conv, _ in base.layers], 4))
            for name in names
        ):
            return base
    first = ", ".join(list(state)[:4]) or "nothing"
    raise CheckpointError(
        f"{where}: neither of TET's VGGSNN nor of NDA's VGG-11. Its first keys are {first}; "
        f"expected features.0.fwd.module.0.weight (TET) or features.0.ann_module.weight (NDA) and "
        f"so on, as their code saves them."
    )


def _describe(base: _CodeBase, state: State) -> dict[str, Any]:
    """The arguments of the builder that shapes tell."""
    weights = [state[f"{convolution}.weight"] for convolution, _ in base.layers]
    num_classes, features = state[f"{base.classifier}.weight"].shape
    widths = iter(len(weight) for weight in weights)
    arguments: dict[str, Any] = {
        "layout": [item if item == "pool" else next(widths) for item in base.layout],
        "in_channels": weights[0].shape[1],
        "num_classes": num_classes,
    }
    if base.builder is not networks.nda_vgg11:
        # The classifier reads a map of `side` x `side`, after as many halvings as there are pools.
        side = max(1, math.isqrt(features // len(weights[-1])))
        arguments["size"] = side * 2 ** list(base.layout).count("pool")
    return arguments


def _load(base: _CodeBase, network: SpikingNetwork, state: State, where: str) -> None:
    """Fill a network with weights that must fit it wholly."""
    ours = {base.classifier: "classifier"}
    layers = [name for name, layer in network.named_modules() if isinstance(layer, SpikingLayer)]
    for name, (synapses, norm) in zip(layers, base.layers, strict=True):
        ours |= {synapses: f"{name}.synapses", norm: f"{name}.norm"}

    def rename(name: str) -> str:
        module, _, part = name.rpartition(".")
        return f"{ours[module]}.{part}" if module in ours else name

    caches = {k: v for k, v in network.state_dict().items() if k.endswith(_OURS_ONLY)}
    hint = "If it was trained on frames of another size, give size=(height, width)."
    where = f"{where}: a {base.title} by its keys"
    fill(network, {**state, **caches}, where, rename=rename, hint=hint)
    # Theirs reads the last maps channel by channel, ours pixel by pixel.
    with torch.no_grad():
        weight = network.classifier.weight
        channels = len(state[f"{base.layers[-1][0]}.weight"])
        weight.copy_(weight.unflatten(1, (channels, -1)).mT.flatten(1))
