"""What spiking networks are built of: synapses, batch normalisation, neurons.

Sequences are `(T, B, ...)`. Synapses and normalisation see time and batch merged, so the
statistics of the normalisation pool over time, as in TET's and NDA's code.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from modicum.spiking.neurons import LIF


class AdaptiveSynapses:
    """What synapses other than `nn.Conv2d` and `nn.Linear` may offer to a `SpikingLayer`.

    Attributes:
        sequence_begins: Whether the next forward pass starts a sequence. Synapses that gather
            statistics do so at the first step only when a sequence is presented step by step.
        operations_per_synapse: Accumulations that a spike costs at each synapse it reaches.
        operations_per_output: Multiply-accumulates that an output costs besides.
    """

    sequence_begins: bool = True
    operations_per_synapse: int = 1
    operations_per_output: int = 0

    def scaled(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """`scale * self(x) + shift`, with `scale` and `shift` of shape `(outputs,)`."""
        raise NotImplementedError


class SpikingLayer(nn.Module):
    """Synapses, batch normalisation and neurons.

    In eval mode the normalisation is folded into the synapses, whose own forward hooks are not
    called then.

    Args:
        synapses: `nn.Conv2d`, `nn.Linear` or a subclass.
        norm: `nn.BatchNorm2d` or `nn.BatchNorm1d` of its outputs.
        neuron: The neurons.
    """

    def __init__(
        self, synapses: nn.Conv2d | nn.Linear, norm: nn.BatchNorm2d | nn.BatchNorm1d, neuron: LIF
    ) -> None:
        super().__init__()
        self.synapses = synapses
        self.norm = norm
        self.neuron = neuron

    def forward(self, x: Tensor, time_steps: int | None = None) -> Tensor:
        """Spikes `(T, B, ...)` of a sequence.

        Args:
            x: `(T, B, ...)`; or one frame `(B, ...)` that stays for `time_steps`, whose currents
                are computed once. The statistics of the normalisation are the same, except that
                `running_var` is corrected for the smaller number of samples.
            time_steps: T of a frame that stays.
        """
        if time_steps is not None:
            return self.neuron(self.currents(x).expand(time_steps, *([-1] * x.dim())))
        return self.neuron(self.currents(x.flatten(0, 1)).unflatten(0, (len(x), -1)))

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One time step: spikes and state of the neurons from `(B, ...)` and the last state.

        In training mode the normalisation pools over this step only, unlike `forward`, and
        `AdaptiveSynapses` gather statistics at the first step only.
        """
        with one_step(self.synapses, begins=state is None):
            currents = self.currents(x)
        return self.neuron.step(currents, state)

    def currents(self, x: Tensor) -> Tensor:
        """Normalised currents `(N, outputs, ...)` of inputs `(N, inputs, ...)`."""
        synapses = self.synapses
        padded = isinstance(synapses, nn.Conv2d) and synapses.padding_mode != "zeros"
        if self.norm.training or padded:
            return self.norm(synapses(x))
        scale, shift = scale_and_shift(self.norm)
        if isinstance(synapses, AdaptiveSynapses):
            return synapses.scaled(x, scale, shift)
        return scaled(synapses, x, scale, shift)


@contextmanager
def one_step(synapses: nn.Module, *, begins: bool) -> Generator[None, None, None]:
    """Tell `AdaptiveSynapses` that the pass inside is one step, and whether a sequence begins."""
    if not isinstance(synapses, AdaptiveSynapses):
        yield
        return
    synapses.sequence_begins = begins
    try:
        yield
    finally:
        synapses.sequence_begins = True


class AveragePool(nn.Module):
    """Average pooling of every frame of a sequence `(T, B, C, H, W)`, in square windows.

    `size` is their width and stride in pixels; 0 for the whole frame.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """`(T, B, C, H, W)` to `(T, B, C, H // size, W // size)`, or to `(T, B, C, 1, 1)`."""
        frames = x.flatten(0, 1)
        pool = functional.avg_pool2d if self.size else functional.adaptive_avg_pool2d
        return pool(frames, self.size or 1).unflatten(0, (len(x), -1))

    def extra_repr(self) -> str:
        """The size."""
        return f"{self.size}" if self.size else "whole frame"


def scale_and_shift(norm: nn.BatchNorm2d | nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """What a batch normalisation in eval mode multiplies by and adds, each `(channels,)`."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return scale, norm.bias - scale * mean


def scaled(synapses: nn.Conv2d | nn.Linear, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`scale * synapses(x) + shift` in one pass, with `scale` and `shift` of shape `(outputs,)`."""
    weight = synapses.weight * scale.view(-1, *([1] * (synapses.weight.dim() - 1)))
    bias = shift if synapses.bias is None else torch.addcmul(shift, scale, synapses.bias)
    if isinstance(synapses, nn.Linear):
        return functional.linear(x, weight, bias)
    return functional.conv2d(
        x, weight, bias, synapses.stride, synapses.padding, synapses.dilation, synapses.groups
    )
