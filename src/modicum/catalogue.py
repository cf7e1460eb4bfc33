"""The catalogue: what is known of each method without importing anything.

A method lives in its own room, `modicum/methods/<name>/`; what the room offers is named in its
module `method`, see `modicum.method`. The tests of `tests/contracts/` hold every method of the
catalogue to the same promises.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from modicum.errors import ConfigError


@dataclass(frozen=True)
class Card:
    """What the catalogue knows of a method."""

    scarce: str
    """What there is too little of."""
    title: str
    paper: str
    extra: str | None = None
    """The extra of modicum that installs what the method needs beyond the core."""
    verb_extras: Mapping[str, str] = field(default_factory=dict[str, str])
    """For a verb that needs more than the method, the extra that brings it."""
    recipes: Mapping[str, str] = field(default_factory=dict[str, str])
    """For a method of several recipes, their names with a line of help each."""
    verbs: Mapping[str, str] = field(default_factory=dict[str, str])
    """Verbs beyond those that every method has, with a line of help each."""


CATALOGUE: dict[str, Card] = {
    "vgnet": Card(
        scarce="parameters, latency",
        title="VGNet: small image classifiers designed from visualised kernels",
        paper="Zhang et al., ICME 2022, arXiv:2207.10318",
        verb_extras={"export": "deploy"},
    ),
    "event-augmentation": Card(
        scarce="brightness you trained for",
        title="EventReverse and EventDrift: augmentation of event recordings for other light",
        paper="Shen et al., ICASSP 2023, arXiv:2207.11659",
        verb_extras={"export": "deploy"},
    ),
    "apbs": Card(
        scarce="energy",
        title="APBS: spiking networks with associating synapses, and STCF",
        paper="Shen et al., ICASSP 2023, arXiv:2207.11670",
        verb_extras={"export": "deploy"},
    ),
    "tinymim": Card(
        scarce="capacity",
        title="TinyMIM: small vision transformers from masked-image-modelling teachers",
        paper="Ren et al., CVPR 2023, arXiv:2301.01296",
        verb_extras={"export": "deploy"},
        recipes={
            "mae": "a teacher of one's own: pre-training without labels, by restoring patches",
            "distil": "a small network from a big one, without labels, by relations of tokens",
            "finetune": "a classifier, from a pre-trained network or from scratch",
            "segment": "a class for every pixel, by UPerNet on such a network",
        },
    ),
    "reliant": Card(
        scarce="fairness on a small device",
        title="RELIANT: fair knowledge distillation for graph neural networks",
        paper="Dong et al., SDM 2023, arXiv:2301.01150",
        recipes={
            "teacher": "a graph network that students can be distilled from",
            "distil": "a teacher, unless there is one, then a plain and a fair student",
        },
        verbs={"pareto": "accuracy against gap over weights of the fairness term"},
    ),
    "drum-transfer": Card(
        scarce="training music",
        title="Language-to-music transfer: a language model becomes a drummer",
        paper="Zhang and Callison-Burch, AAAI 2023 workshop, arXiv:2301.01162",
        extra="music",
        verbs={
            "analyse": "pattern and fills of grooves, bar by bar",
            "listen": "a page for judging grooves blind",
        },
    ),
}

METHOD_VERBS = {
    "train": "train a network, or go on with an interrupted run",
    "evaluate": "measure a trained network on labelled data",
    "predict": "use a trained network on files",
    "export": "write a trained network for deployment",
    "data": "say what a data set holds and whether it can be used",
}
"""Verbs that every method has."""

SHARED_VERBS: dict[str, dict[str, str]] = {
    "events": {
        "data": "say what event recordings hold; picture one",
        "convert": "write an event recording in another format",
    },
}
"""Verbs of rooms that methods share, with a line of help each: functions of `modicum.<room>.verbs`.
"""


def room(name: str) -> str:
    """The folder of a method's room: `"pmt-iqa"` lives in `modicum.methods.pmt_iqa`."""
    return name.replace("-", "_")


def find_card(name: str) -> Card:
    """The card of a method.

    Raises:
        ConfigError: There is no such method.
    """
    if name not in CATALOGUE:
        near = difflib.get_close_matches(name, CATALOGUE, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"no method is called {name!r}.{hint} Known: {', '.join(CATALOGUE)}.")
    return CATALOGUE[name]
