"""The contract a method fulfils, and the catalogue of methods.

A method lives in its own room, `modicum/methods/<name>/`. What can be known without importing it is
its card in `CATALOGUE`; what it can do is the `METHOD` of its module `method`. The tests in
`tests/test_contract.py` hold every method of the catalogue to the same promises.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modicum.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from modicum.claims import Study
    from modicum.engine.run import Run, RunOptions


@dataclass(frozen=True)
class Card:
    """What the catalogue knows of a method without importing it."""

    scarce: str
    """What there is too little of."""
    title: str
    paper: str
    extra: str | None = None
    """The extra of modicum that installs what the method needs beyond the core."""


CATALOGUE: dict[str, Card] = {
    "vgnet": Card(
        scarce="parameters, latency",
        title="VGNet: small image classifiers designed from visualised kernels",
        paper="Zhang et al., ICME 2022, arXiv:2207.10318",
    ),
    "event-augmentation": Card(
        scarce="brightness you trained for",
        title="EventReverse and EventDrift: augmentation of event recordings for other light",
        paper="Shen et al., ICASSP 2023, arXiv:2207.11659",
    ),
    "apbs": Card(
        scarce="energy",
        title="APBS: spiking networks with associating synapses, and STCF",
        paper="Shen et al., ICASSP 2023, arXiv:2207.11670",
    ),
    "reliant": Card(
        scarce="fairness on a small device",
        title="RELIANT: fair knowledge distillation for graph neural networks",
        paper="Dong et al., SDM 2023, arXiv:2301.01150",
    ),
    "drum-transfer": Card(
        scarce="training music",
        title="Language-to-music transfer: a language model becomes a drummer",
        paper="Zhang and Callison-Burch, AAAI 2023 workshop, arXiv:2301.01162",
        extra="music",
    ),
}

Verb = Callable[..., Mapping[str, Any]]
"""A function whose signature is its command line and whose result, JSON-able, is what it prints."""


@dataclass(frozen=True)
class Preset:
    """A recipe with a name: a configuration, and how to execute it."""

    about: str
    """One sentence, with the source of the numbers."""
    config: Any
    options: RunOptions


@dataclass(frozen=True)
class Method:
    """What a method can do. Every field is one verb of the command line, or serves them all."""

    name: str
    """Its key in the catalogue."""
    config: type[Any]
    """A flat frozen dataclass; its fields' docstrings are the help of `modicum train`."""
    presets: Mapping[str, Preset]
    """Recipes by name. `default` is what `modicum train` starts from; `smoke` trains a few steps on
    built-in data in seconds."""
    train: Callable[[Any, Run], nn.Module]
    """The recipe: builds data, network and loss from a configuration, and trains in a run."""
    network: Callable[..., nn.Module]
    """Builds the network from the arguments stored in a file of weights."""
    data: Verb
    """Says what a data set holds, and under `usable` whether `train` could use it."""
    evaluate: Verb
    predict: Verb
    export: Verb
    study: Callable[[str | None], Study]
    """The paper's claims on built-in data, or on the data set named."""
    example: Callable[[nn.Module], tuple[Any, ...]]
    """Small arguments a network of the method can be called with, the same every time."""
    extras: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    """For a verb that needs an optional library: its import name, and the extra that brings it."""
    datasets: Mapping[str, str] = field(default_factory=dict[str, str])
    """The data sets of the field, by name, with where to get each and how it must lie on disk."""

    @property
    def card(self) -> Card:
        """The method's card in the catalogue."""
        return CATALOGUE[self.name]


def room(name: str) -> str:
    """The module name of a method's room: `"pmt-iqa"` lives in `modicum.methods.pmt_iqa`."""
    return name.replace("-", "_")


def load_method(name: str) -> Method:
    """Import a method of the catalogue.

    Raises:
        ConfigError: There is no such method.
        MissingExtraError: The method needs a library that is not installed.
    """
    if name not in CATALOGUE:
        near = difflib.get_close_matches(name, CATALOGUE, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"no method is called {name!r}.{hint} Known: {', '.join(CATALOGUE)}.")
    return importlib.import_module(f"modicum.methods.{room(name)}.method").METHOD
