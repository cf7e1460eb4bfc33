"""Associative long-term potentiation in a neuron of two synapses (specification, section 7).

Barrionuevo and Brown, "Associative long-term potentiation in hippocampal slices", PNAS 1983, is
what the method is modelled on: stimulating inputs I and II together strengthens the response to
II, stimulating each alone does not. The parameters are inferred; the paper's figure 1 shows the
phenomenon without them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

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
    *,
    association: float = 0.2,
    weights: tuple[float, float] = (0.48, 0.48),
    time_steps: int = 20,
) -> Probe:
    """Stimulate a neuron of two synapses at every time step.

    With the default weights the neuron of TET needs both inputs to fire, and fires at every second
    step; association makes it fire at every step.

    Args:
        association: lambda, relative to the sum of the weights' magnitudes (cache `"none"`).
        weights: Of synapses I and II.
        time_steps: How long it is stimulated.

    Raises:
        ConfigError: `association` is not finite.
    """
    neuron = LIF.tet()
    plain, associative = (
        AssociativeLinear(2, 1, bias=False, association=strength, cache="none").eval()
        for strength in (0.0, association)
    )
    conditions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    currents: list[torch.Tensor] = []
    spikes: list[torch.Tensor] = []
    for synapses in (plain, associative):
        synapses.weight.copy_(torch.tensor([weights]))
        current = synapses(conditions)[:, 0]
        currents.append(current)
        spikes.append(neuron(current.expand(time_steps, -1)).sum(0))
    responses = [
        Response(float(a), float(b), int(c), int(d))
        for a, b, c, d in zip(*currents, *spikes, strict=True)
    ]
    return Probe(*responses)
