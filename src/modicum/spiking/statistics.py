"""How much a spiking network fires, and what that costs."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from modicum.errors import ConfigError, DataError
from modicum.spiking.layers import AdaptiveSynapses, AveragePool, SpikingLayer
from modicum.spiking.networks import SpikingNetwork
from modicum.spiking.neurons import LIF

# 32-bit floating point in 45 nm: an addition takes 0.9 pJ, a multiplication 3.7 pJ. Horowitz,
# "Computing's Energy Problem (and what we can do about it)", ISSCC 2014.
PICOJOULES_PER_ACCUMULATE = 0.9
PICOJOULES_PER_MULTIPLY_ACCUMULATE = 4.6

Synapses: TypeAlias = nn.Conv2d | nn.Linear


@contextmanager
def count_spikes(network: nn.Module) -> Generator[SpikeStatistics, None, None]:
    """Count in every forward pass of a `SpikingNetwork` while the context is open.

        with count_spikes(network) as counted, torch.no_grad():
            for frames, _ in loader:
                network(frames)
        print(counted.spikes_per_sample)

    Whole sequences and images are counted, over any number of batches; `SpikingNetwork.step` is
    not. The statistics may be read inside the context or after it.
    """
    if not isinstance(network, SpikingNetwork):
        raise ConfigError(f"expected a SpikingNetwork, found a {type(network).__name__}")
    counted = SpikeStatistics()
    handles = counted.attach(network)
    try:
        yield counted
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class LayerStatistics:
    """What the neurons of one layer did."""

    name: str
    rate: float
    """Spikes a neuron and time step."""
    spikes_per_sample: float
    """Spikes of all neurons over all time steps."""


class SpikeStatistics:
    """What `count_spikes` counted, per sample on average over all that were presented."""

    def __init__(self) -> None:
        self.samples = 0
        """Sequences or images presented."""
        self._fired: dict[str, Tensor] = {}
        self._could_fire: dict[str, int] = {}
        self._of_each: list[Tensor | float] = []
        self._operations: Tensor | float = 0.0
        self._accumulates: Tensor | float = 0.0
        self._multiply_accumulates = 0
        self._fan_outs: dict[tuple[str, torch.Size], Tensor] = {}
        # How many spikes a unit of the present maps stands for: 1 or the pixels of a pool. None
        # where the maps do not come from spikes.
        self._spikes_per_unit: int | None = None

    @property
    def layers(self) -> list[LayerStatistics]:
        """Statistics of each layer of neurons, the first layer first."""
        samples = self._counted()
        return [
            LayerStatistics(name, float(fired) / self._could_fire[name], float(fired) / samples)
            for name, fired in self._fired.items()
        ]

    @property
    def spikes_per_sample(self) -> float:
        """Spikes of all layers."""
        return sum(layer.spikes_per_sample for layer in self.layers)

    @property
    def spikes_of_each(self) -> Tensor:
        """Spikes of all layers, of every sample in the order presented: float64 `(samples,)`."""
        self._counted()
        return torch.cat([of_batch for of_batch in self._of_each if isinstance(of_batch, Tensor)])

    @property
    def operations_per_sample(self) -> float:
        """Synaptic operations: spikes, times the synapses that each reaches.

        Spikes at the border reach fewer; one that is average-pooled reaches the synapses of its
        pool.
        """
        return float(self._operations) / self._counted()

    @property
    def accumulates_per_sample(self) -> float:
        """Synaptic operations, times the weights that each adds: up to 3 in associative layers."""
        return float(self._accumulates) / self._counted()

    @property
    def multiply_accumulates_per_sample(self) -> float:
        """Products in what reads no spikes, the first layer, zeros and padding included.

        Associative layers add the product of two sums at every output and time step.
        """
        return self._multiply_accumulates / self._counted()

    @property
    def energy_per_sample(self) -> float:
        """Joules, estimated from both: 0.9 pJ an accumulate and 4.6 pJ a multiply-accumulate.

        For 32-bit numbers in 45 nm (Horowitz, ISSCC 2014). Without leak, threshold and reset of the
        neurons, and without memory, which in practice takes most.
        """
        return 1e-12 * (
            PICOJOULES_PER_ACCUMULATE * self.accumulates_per_sample
            + PICOJOULES_PER_MULTIPLY_ACCUMULATE * self.multiply_accumulates_per_sample
        )

    def _counted(self) -> int:
        if not self.samples:
            raise DataError("nothing was counted: call the network inside `with count_spikes(…):`")
        return self.samples

    def attach(self, network: SpikingNetwork) -> list[RemovableHandle]:
        """Hook into a network; `count_spikes` does, and removes the hooks."""
        handles = [network.register_forward_pre_hook(self._begin)]
        for name, module in network.named_modules():
            if isinstance(module, LIF):
                fire = partial(self._fire, name.removesuffix(".neuron"))
                handles.append(module.register_forward_hook(fire))
            elif isinstance(module, AveragePool):
                handles.append(module.register_forward_pre_hook(self._pool))
            elif isinstance(module, SpikingLayer):
                read = partial(self._read, name, module.synapses)
                handles.append(module.register_forward_pre_hook(read))
        read = partial(self._read, "classifier", network.classifier)
        return [*handles, network.classifier.register_forward_pre_hook(read)]

    def _begin(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.samples += len(inputs[0])
        self._of_each.append(0.0)
        self._spikes_per_unit = None

    def _fire(self, name: str, _: nn.Module, inputs: Any, spikes: Tensor) -> None:
        of_each = spikes.detach().flatten(2).sum((0, 2), dtype=torch.float64)
        self._of_each[-1] = self._of_each[-1] + of_each
        self._fired[name] = self._fired.get(name, 0.0) + of_each.sum()
        self._could_fire[name] = self._could_fire.get(name, 0) + spikes.numel()
        self._spikes_per_unit = 1

    def _pool(self, pool: AveragePool, inputs: tuple[Tensor, ...]) -> None:
        if self._spikes_per_unit is not None:
            height, width = inputs[0].shape[-2:] if pool.size == 0 else (pool.size, pool.size)
            self._spikes_per_unit *= height * width

    def _read(self, name: str, synapses: Synapses, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        # An image that stays for time steps, the second argument, is read once.
        seen: Tensor = inputs[0].detach()
        frames = seen if len(inputs) == 2 else seen.flatten(0, 1)
        adaptive = isinstance(synapses, AdaptiveSynapses)
        per_synapse = synapses.operations_per_synapse if adaptive else 1
        per_output = synapses.operations_per_output if adaptive else 0
        outputs = len(frames) * _output_of_one(synapses, frames).numel()
        self._multiply_accumulates += outputs * per_output
        if self._spikes_per_unit is None:
            self._multiply_accumulates += outputs * synapses.weight[0].numel() * per_synapse
            return
        key = name, frames.shape[1:]
        if key not in self._fan_outs:
            self._fan_outs[key] = fan_out(synapses, frames)
        activity = frames.sum(0).double() * self._spikes_per_unit
        operations = (activity * self._fan_outs[key]).sum()
        self._operations = self._operations + operations
        self._accumulates = self._accumulates + operations * per_synapse


def fan_out(synapses: Synapses, frames: Tensor) -> Tensor:
    """How many synapses, zero-padded, a spike reaches from each place: float64, `(H, W)`.

    Of `frames`, their inputs `(N, channels, H, W)` or `(N, features)`, only the shape matters. For
    a linear layer the result is `()`.
    """
    if isinstance(synapses, nn.Linear):
        return torch.tensor(float(synapses.out_features), dtype=torch.float64, device=frames.device)
    outputs = _output_of_one(synapses, frames).shape[1:]
    # The transposed convolution of ones with ones counts the windows that cover each pixel.
    ones = torch.ones(1, 1, *outputs, dtype=torch.float64, device=frames.device)
    pixels = ones.new_zeros(1, 1, *frames.shape[2:])
    kernel = ones.new_ones(1, 1, *synapses.kernel_size)
    stride, padding, dilation = synapses.stride, synapses.padding, synapses.dilation
    windows, _, _ = torch.ops.aten.convolution_backward(
        *(ones, pixels, kernel, None, stride, padding, dilation, False, [0, 0], 1),
        [True, False, False],
    )
    return windows[0, 0] * (synapses.out_channels // synapses.groups)


def _output_of_one(synapses: Synapses, frames: Tensor) -> Tensor:
    """A tensor of the shape of one frame's output, and without numbers in it."""
    frame, weight = frames[0].to("meta"), synapses.weight.to("meta")
    if isinstance(synapses, nn.Linear):
        return functional.linear(frame, weight)
    return functional.conv2d(
        frame, weight, None, synapses.stride, synapses.padding, synapses.dilation, synapses.groups
    )
