"""Associative long-term potentiation of pairs of synapses.

Barrionuevo and Brown, "Associative long-term potentiation in hippocampal slices", PNAS 1983, is
what the method is modelled on: stimulating inputs I and II together strengthens the response to
II, stimulating each alone does not. The parameters are inferred; the paper's figure 1 shows the
phenomenon without them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from modicum.methods.apbs.association import AssociativeLinear
from modicum.spiking.neurons import LIF


class Response(NamedTuple):
    """How the neuron responds to one way of stimulating it, without and with association."""

    current: float
    """Into the neuron at each step, without association."""
    associative_current: float
    """With association."""
    spikes: int
    """Over all steps, without association."""
    associative_spikes: int
    """With association."""


class Probe(NamedTuple):
    """Responses to input I alone, II alone, and both."""

    first: Response
    second: Response
    together: Response

    @property
    def enhancement(self) -> float:
        """By how much association raises what II adds to I, relative to II alone; 0 without."""
        added = self.together.associative_current - self.first.associative_current
        return added / self.second.associative_current - 1


@torch.no_grad()
def probe_potentiation(
    *, association: float = 0.2, weights: tuple[float, float] = (0.48, 0.48), time_steps: int = 20
) -> Probe:
    """Stimulate a neuron of two synapses, I and II, at every time step.

    With the default weights the neuron of TET needs both inputs to fire, and fires at every second
    step; association makes it fire at every step. `association` is relative to the sum of the
    weights' magnitudes (cache `"none"`).

    Raises:
        ConfigError: `association` is not finite.
    """
    neuron = LIF.tet()
    plain, associative = (
        AssociativeLinear(2, 1, bias=False, association=strength, cache="none").eval()
        for strength in (0.0, association)
    )
    conditions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    found: list[Tensor] = []
    for synapses in (plain, associative):
        synapses.weight.copy_(torch.tensor([weights]))
        current = synapses(conditions)[:, 0]
        found += [current, neuron(current.expand(time_steps, -1)).sum(0)]
    responses = zip(*(numbers.tolist() for numbers in found), strict=True)
    return Probe(*(Response(a, b, int(c), int(d)) for a, c, b, d in responses))


class Enhancement(NamedTuple):
    """By what share the response of each neuron to a synapse exceeds its weight, `(outputs,)`."""

    first: Tensor
    """Response to I alone."""
    second: Tensor
    """Response to II alone."""
    together: Tensor
    """What II adds to the response to I."""


@torch.no_grad()
def probe_convolution(synapses: nn.Conv2d) -> Enhancement:
    """Stimulate the two strongest excitatory synapses of every neuron, I and II, of a layer.

    The layer is in eval mode, plain or associating, without groups.
    """
    weights = synapses.weight.flatten(1)
    strongest = weights.topk(2)
    first, second = functional.one_hot(strongest.indices, weights.shape[1]).to(weights).unbind(1)
    windows = torch.cat([first, second, first + second]).view(-1, *synapses.weight.shape[1:])
    # Of such an image, the output at (padding, padding) is the one whose window is `windows`.
    row, column = (int(pixels) for pixels in synapses.padding)
    down, right = (step - 1 for step in synapses.stride)
    x = functional.pad(windows, (column * right, 0, row * down, 0))
    currents = synapses(x)[..., row, column].view(3, len(weights), -1).diagonal(dim1=1, dim2=2)
    if synapses.bias is not None:
        currents = currents - synapses.bias
    of_first, of_second, together = currents
    i, ii = strongest.values.T
    return Enhancement(of_first / i - 1, of_second / ii - 1, (together - of_first) / ii - 1)
