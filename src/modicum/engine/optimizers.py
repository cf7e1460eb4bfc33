"""Parameters of an optimizer in groups with their own weight decay and learning rate."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage]

from modicum.errors import ConfigError

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def parameter_groups(
    network: nn.Module,
    weight_decay: float,
    *,
    no_decay: Collection[str] | None = None,
    scale: Mapping[str, float] | None = None,
    decay_scale: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Trainable parameters in groups of equal weight decay and learning rate.

    `Run.step(…, learning_rate=…)` sets the rate of a group to that learning rate times the group's
    `scale`. A name stands for a parameter, or for all of a module (`"backbone"`, `"blocks.3"`); of
    factors the longest name that fits a parameter counts, and where none fits the factor is 1.

    Args:
        network: The network, before `Run.prepare`.
        weight_decay: Weight decay of whatever has no other.
        no_decay: Names without decay. None: `vectors(network)`, which is biases, normalisation and
            what else has at most one dimension; `()`: all decay.
        scale: Factors of the learning rate, such as `{"backbone": 0.1}`; see `layer_decay`.
        decay_scale: Factors of the weight decay.

    Returns:
        Groups for any optimizer of PyTorch, in the order of their first parameters, each with
        `params`, `weight_decay` and `scale`.

    Raises:
        ConfigError: A name is none of the network's.
    """
    exempt = vectors(network) if no_decay is None else set(no_decay)
    scale, decay_scale = scale or {}, decay_scale or {}
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    unknown = exempt.union(scale, decay_scale).difference(*map(_prefixes, names))
    if unknown:
        raise ConfigError(
            f"{type(network).__name__} has no parameter and no module with parameters called "
            f"{', '.join(sorted(unknown))}. Its first parameters are "
            f"{', '.join(names[:3]) or 'none'}."
        )
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decays = exempt.isdisjoint(_prefixes(name))
            decay = weight_decay * _factor(decay_scale, name) if decays else 0.0
            rate = _factor(scale, name)
            group = {"params": [], "weight_decay": decay, "scale": rate}
            groups.setdefault((decay, rate), group)["params"].append(parameter)
    return list(groups.values())


def layer_decay(layers: Sequence[str | Sequence[str]], decay: float) -> dict[str, float]:
    """Factors of the learning rate that shrink from the last layer to the first.

    Args:
        layers: Names of the modules and parameters of each layer, from the input on.
        decay: The factor of a layer by that of the next. The last layer has `decay`, and what is in
            none, such as a classifier, has 1: see `scale` of `parameter_groups`.
    """
    factors: dict[str, float] = {}
    for distance, layer in zip(range(len(layers), 0, -1), layers, strict=True):
        names = (layer,) if isinstance(layer, str) else layer
        factors |= dict.fromkeys(names, decay**distance)
    return factors


def vectors(network: nn.Module) -> set[str]:
    """Names of the parameters of at most one dimension: biases, scales of normalisation, gates."""
    return {name for name, parameter in network.named_parameters() if parameter.dim() <= 1}


def norms_and_embeddings(network: nn.Module) -> set[str]:
    """Names of the parameters of normalisation layers and of embedding tables."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in network.named_modules()
        if isinstance(module, (*_NORMS, nn.Embedding))
        for name, _ in module.named_parameters(recurse=False)
    }


def _prefixes(name: str) -> list[str]:
    """`a.b.c`, `a.b` and `a` of the first."""
    return [name.rsplit(".", count)[0] for count in range(name.count(".") + 1)]


def _factor(factors: Mapping[str, float], name: str) -> float:
    return next((factors[prefix] for prefix in _prefixes(name) if prefix in factors), 1.0)
