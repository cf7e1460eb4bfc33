"""The spiking networks with associative synapses: the same parameters, and two buffers a layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from modicum.engine.random import generator
from modicum.errors import ConfigError
from modicum.methods.apbs.association import AssociativeConv2d, AssociativeLinear, Cache, Measure
from modicum.spiking import networks as plain
from modicum.spiking.networks import Architecture, SpikingNetwork
from modicum.spiking.neurons import LIF


def associative(
    builder: Callable[..., SpikingNetwork],
    *,
    association: float | None = 0.2,
    measure: Measure = "magnitude",
    cache: Cache = "rms",
    exclude_self: bool = True,
    momentum: float = 0.1,
    associate_classifier: bool = False,
    **options: Unpack[Architecture],
) -> SpikingNetwork:
    """A network, built by `SpikingNetwork` or a function of its arguments, that associates.

    Args:
        builder: Takes `options`.
        association: lambda of `AssociativeConv2d`; 0 for associative layers without effect, None
            for plain layers.
        measure: As of `AssociativeConv2d`, and so are the next three.
        cache: What the association is relative to.
        exclude_self: Whether a synapse is no partner of its own.
        momentum: Of the running cache.
        associate_classifier: Use associative synapses in the classifier as well.
        **options: Arguments of `builder`.

    Returns:
        The network. Its `arguments` hold those given here too, as `network` takes them.

    Raises:
        ConfigError: An argument is out of range.
    """
    chosen: dict[str, Any] = {
        "association": association,
        "measure": measure,
        "cache": cache,
        "exclude_self": exclude_self,
        "momentum": momentum,
    }
    layers: dict[str, Any] = {}
    if association is not None:
        layers["convolution"] = partial(AssociativeConv2d, **chosen)
        if associate_classifier:
            layers["linear"] = partial(AssociativeLinear, **chosen)
    net = builder(**{**options, **layers})
    net.arguments |= chosen | {"associate_classifier": associate_classifier}
    return net


network = partial(associative, SpikingNetwork)
"""`SpikingNetwork` from the arguments of it and of `associative`, as in `net.arguments`."""

BUILDERS: dict[str, Callable[..., SpikingNetwork]] = {
    name: partial(associative, builder) for name, builder in plain.BUILDERS.items()
}
"""Those of `modicum.spiking.networks` by name, taking the arguments of `associative` besides."""
vggsnn, vggsnn_stride, nda_vgg11, light, small = BUILDERS.values()

NEURONS: dict[str, Callable[[], LIF]] = {
    "tet": LIF.tet,
    "nda": LIF.nda,
    "spikingjelly": LIF.spikingjelly,
    "snntorch": LIF.snntorch,
}
"""The neurons by whose they are."""


def build(name: str, *, neuron: str | None = None, **options: Any) -> SpikingNetwork:
    """A network by its name in `BUILDERS`, with its usual neurons or those named in `NEURONS`.

    Raises:
        ConfigError: There is no such network or neuron, or an option is out of range.
    """
    for what, value, known in (("network", name, BUILDERS), ("neuron", neuron, NEURONS)):
        if value is not None and value not in known:
            raise ConfigError(f"{what}: expected one of {', '.join(known)}, found {value!r}")
    if neuron is not None:
        options["neuron"] = NEURONS[neuron]().arguments
    return BUILDERS[name](**options)


def example(network: nn.Module) -> tuple[Tensor, ...]:
    """Two samples for a network: frames `(2, 4, C, H, W)`, or images `(2, C, H, W)`."""
    arguments: Any = network.arguments
    steps = [] if arguments["time_steps"] else [4]
    shape = (2, *steps, arguments["in_channels"], *arguments["size"])
    return (torch.rand(shape, generator=generator("example")),)
