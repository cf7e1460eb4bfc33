"""Networks for neuromorphic chips and other simulators, in the Neuromorphic Intermediate
Representation (Pedersen et al., Nature Communications 2024, library `nir`, extra `events`).

NIR describes neurons in continuous time, ours step in discrete time. The convention, which
snnTorch and Norse share, is forward Euler with steps of `dt` seconds:

    tau dv/dt = (v_leak - v) + r I        v <- v + dt / tau * (v_leak - v + r I)
    decay = 1 - dt / tau                  tau = dt / (1 - decay)
    gain = r * dt / tau                   r = gain / (1 - decay)

with `v_leak = v_reset = 0`. `dt` is stored in the metadata of the graph; a frame is the input of
one step. NIR fires above the threshold; for neurons that fire at it, the threshold is lowered by
one unit in the last place of float32. What NIR cannot express is refused: soft and late reset, for
its neurons reset to a value, and synapses that associate, for their current is not linear.

Normalisation is folded into the convolutions. All arrays are float32, maps are `(C, H, W)`.
"""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from modicum.errors import CheckpointError, ConfigError, DataError, require
from modicum.spiking.layers import AdaptiveSynapses, AveragePool, SpikingLayer, scale_and_shift
from modicum.spiking.networks import SpikingNetwork
from modicum.spiking.neurons import LIF
from modicum.system.files import atomic_write

DEFAULT_DT = 1e-4
"""Seconds a step, where nothing else is known; the value snnTorch uses."""

TOLERANCE = 1e-3
"""Largest share of the spikes that may differ between a network and the file written of it, in the
median sample. In a deep network one spike that flips by rounding changes some per cent of those of
its sample, and none of other samples."""

Array = npt.NDArray[np.float32]


@torch.no_grad()
def to_nir(network: SpikingNetwork, *, dt: float = DEFAULT_DT) -> Any:
    """The graph of a network in eval mode: Input, then Conv2d, LIF, AvgPool2d, Flatten, Affine.

    A frame is the input of `dt` seconds. The result is a `nir.NIRGraph`, which `nir.write` writes;
    what is raised is told by `export_nir`.
    """
    nir = require("nir", "events", "NIR export")
    if not 0 < dt < float("inf"):
        raise ConfigError(f"dt: expected a finite number of seconds above 0, found {dt}")
    height, width = network.arguments["size"]
    channels = network.arguments["in_channels"]
    nodes: dict[str, Any] = {"input": nir.Input({"input": np.array([channels, height, width])})}
    for index, layer in enumerate(network.features):
        if isinstance(layer, AveragePool):
            size = (height, width) if layer.size == 0 else (layer.size, layer.size)
            nodes[f"{index}.pool"] = nir.AvgPool2d(
                kernel_size=np.array(size), stride=np.array(size), padding=np.array([0, 0])
            )
            height, width = height // size[0], width // size[1]
        elif isinstance(layer, SpikingLayer):
            convolution = _convolution(nir, layer, (height, width))
            channels, height, width = (int(n) for n in convolution.output_type["output"])
            nodes[f"{index}.synapses"] = convolution
            nodes[f"{index}.neuron"] = _neuron(nir, layer.neuron, (channels, height, width), dt)
    nodes["flatten"] = nir.Flatten({"input": np.array([channels, height, width])}, 0, -1)
    _refuse_association(network.classifier)
    # Ours reads pixel by pixel, NIR flattens channel by channel.
    weight = network.classifier.weight.unflatten(1, (-1, channels)).mT.flatten(1)
    bias = network.classifier.bias
    if bias is None:  # pyright: ignore[reportUnnecessaryComparison]
        bias = weight.new_zeros(len(weight))
    nodes["classifier"] = nir.Affine(_array(weight), _array(bias))
    nodes["output"] = nir.Output({"output": np.array([len(weight)])})
    names = list(nodes)
    return nir.NIRGraph(nodes, list(pairwise(names)), metadata={"dt": dt})


class NIRCheck(NamedTuple):
    """How a graph compares with the network, on the same frames."""

    spikes: int
    """Spikes of the network."""
    differing: int
    """Neurons and time steps at which one fires and the other does not."""
    share: float
    """`differing` in relation to `spikes`, the median over the samples."""
    logits: float
    """Largest difference of a logit."""


def export_nir(
    network: SpikingNetwork, path: Path, frames: Tensor, *, dt: float = DEFAULT_DT
) -> NIRCheck:
    """Write a network as a `.nir` file that, read back and run, fires the same spikes.

    `frames` is what to compare on. Potentials are rounded otherwise, so that a neuron may cross its
    threshold in the one and not in the other, and change what follows.

    Raises:
        CheckpointError: More spikes differ than `TOLERANCE`; nothing is written.
        ConfigError: NIR cannot express the network; the message says what and how to mend it.
        DataError: The network does not take `frames`.
        MissingExtraError: The library is not installed.
    """
    nir = require("nir", "events", "NIR export")
    graph = to_nir(network, dt=dt)
    whole = io.BytesIO()
    nir.write(whole, graph)
    check = compare(network, nir.read(whole), frames)
    if not check.share <= TOLERANCE:
        raise CheckpointError(
            f"the NIR graph differs from the network in {check.share:.2g} of the spikes of a "
            f"sample, expected at most {TOLERANCE}; nothing was written. Please report this, with "
            f"the run's config.json."
        )
    with atomic_write(path) as file:
        file.write(whole.getvalue())
    return check


@torch.no_grad()
def compare(network: SpikingNetwork, graph: Any, frames: Tensor) -> NIRCheck:
    """Run a network in eval mode and a graph as of `to_nir` on the same frames.

    These are `(B, T, in_channels, H, W)`; or images `(B, in_channels, H, W)` if the network was
    built with `time_steps`, which the graph is given at each of these steps.
    """
    ours: list[Tensor] = []
    handles = [
        module.register_forward_hook(lambda _m, _i, spikes: ours.append(spikes.transpose(0, 1)))
        for module in network.modules()
        if isinstance(module, LIF)
    ]
    training = network.training
    try:
        logits = network.eval()(frames)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    if frames.dim() == 4:
        frames = frames[:, None].expand(-1, network.arguments["time_steps"], -1, -1, -1)
    outputs = run_graph(graph, frames)
    theirs = [outputs[name] for name in outputs if name.endswith(".neuron")]
    pairs = zip(ours, theirs, strict=True)
    differing = torch.stack([(a != b).flatten(1).sum(1) for a, b in pairs]).sum(0)  # (B,)
    spikes = torch.stack([fired.flatten(1).sum(1) for fired in ours]).sum(0)
    return NIRCheck(
        spikes=int(spikes.sum()),
        differing=int(differing.sum()),
        share=float((differing / spikes.clamp(min=1)).quantile(0.5)),
        logits=float((logits - outputs["output"]).abs().max()),
    )


@torch.no_grad()
def run_graph(graph: Any, frames: Tensor) -> dict[str, Tensor]:
    """What every node of a chain of NIR nodes puts out: an interpreter that shares nothing with
    the networks here, to check files with.

    The graph is as `nir.read` returns it, without branches (else a `DataError`), of the nodes that
    `to_nir` writes. Frames `(B, T, ...)` and outputs, by the names of the nodes in order, are
    floating point.
    """
    nexts: dict[str, str] = dict(graph.edges)
    names = [name for name in graph.nodes if name not in nexts.values()]
    if len(nexts) != len(graph.edges) or len(names) != 1:
        raise DataError("expected a NIR graph that is one chain of nodes, found branches")
    while names[-1] in nexts:
        names.append(nexts[names[-1]])
    dt = float(graph.metadata.get("dt", DEFAULT_DT))
    outputs: dict[str, Tensor] = {}
    x = frames
    for name in names:
        node = graph.nodes[name]
        kind = type(node).__name__
        if kind == "LIF":
            x = _run_neuron(node, x, dt)
        elif kind not in ("Input", "Output"):
            x = _run_stateless(node, kind, name, x.flatten(0, 1)).unflatten(0, x.shape[:2])
        outputs[name] = x
    return outputs


def _run_neuron(node: Any, x: Tensor, dt: float) -> Tensor:
    tau, r, leak, threshold, reset = (
        torch.as_tensor(getattr(node, name), dtype=x.dtype, device=x.device)
        for name in ("tau", "r", "v_leak", "v_threshold", "v_reset")
    )
    v = torch.zeros_like(x[:, 0])
    spikes: list[Tensor] = []
    for current in x.unbind(1):
        v = v + dt / tau * (leak - v + r * current)
        fires = v > threshold
        spikes.append(fires.to(x.dtype))
        v = torch.where(fires, reset, v)
    return torch.stack(spikes, 1)


def _run_stateless(node: Any, kind: str, name: str, x: Tensor) -> Tensor:
    if kind == "Flatten":
        return x.flatten(1)
    if kind == "AvgPool2d":
        size, stride, padding = _pair(node.kernel_size), _pair(node.stride), _pair(node.padding)
        return functional.avg_pool2d(x, size, stride, padding)
    if kind not in ("Affine", "Conv2d"):
        raise DataError(f"the NIR node {name!r} is of the kind {kind}, which is not interpreted")
    weight, bias = (
        torch.as_tensor(array, dtype=x.dtype, device=x.device) for array in (node.weight, node.bias)
    )
    if kind == "Affine":
        return functional.linear(x, weight, bias)
    stride, padding, dilation = _pair(node.stride), _pair(node.padding), _pair(node.dilation)
    return functional.conv2d(x, weight, bias, stride, padding, dilation, int(node.groups))


def _pair(numbers: Any) -> tuple[int, int]:
    first, second = numbers
    return int(first), int(second)


def _convolution(nir: Any, layer: SpikingLayer, size: tuple[int, int]) -> Any:
    synapses = layer.synapses
    _refuse_association(synapses)
    assert isinstance(synapses, torch.nn.Conv2d)
    scale, shift = (tensor.double() for tensor in scale_and_shift(layer.norm))
    bias = shift if synapses.bias is None else shift + scale * synapses.bias.double()
    return nir.Conv2d(
        input_shape=size,
        weight=_array(synapses.weight.double() * scale.view(-1, 1, 1, 1)),
        stride=synapses.stride,
        padding=synapses.padding,
        dilation=synapses.dilation,
        groups=synapses.groups,
        bias=_array(bias),
    )


def _neuron(nir: Any, neuron: LIF, shape: tuple[int, int, int], dt: float) -> Any:
    constants = neuron.dynamics
    if constants.reset != "hard":
        raise ConfigError(
            f"reset={constants.reset!r} cannot be expressed in NIR, whose neurons reset to a "
            f"value. Train the network with neurons of hard reset, such as LIF.tet()."
        )
    threshold = np.float32(constants.threshold)
    if constants.fires_at_threshold:
        threshold = np.nextafter(threshold, np.float32(0))

    def everywhere(value: float) -> Array:
        return np.full(shape, value, dtype=np.float32)

    return nir.LIF(
        tau=everywhere(dt / (1 - constants.decay)),
        r=everywhere(constants.gain / (1 - constants.decay)),
        v_leak=everywhere(0),
        v_threshold=everywhere(float(threshold)),
        v_reset=everywhere(0),
    )


def _refuse_association(synapses: object) -> None:
    # A layer with an association of 0 costs what a plain one does, and is one.
    if isinstance(synapses, AdaptiveSynapses) and synapses.operations_per_output > 0:
        raise ConfigError(
            f"{type(synapses).__name__} cannot be expressed in NIR: its current is not linear in "
            f"its inputs, so the association cannot be folded into weights. Train the same network "
            f"for some epochs more with association=0, which leaves plain synapses, and export "
            f"that."
        )


def _array(tensor: Tensor) -> Array:
    return tensor.detach().float().cpu().contiguous().numpy()
