"""Accuracy under other light, which a classifier trained on clean recordings is tried on.

Of the built-in digits every variation is simulated anew. Of recordings only what an operation on
events gives can be had, and of that the exact part: a negated scene flips polarities and nothing
else, a mirrored motion in time is approximate (README, What it is).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor, nn

from modicum import events
from modicum.classification import accuracies
from modicum.engine.random import SampleRandom
from modicum.events.operations import drift_space, reverse_polarity, reverse_time
from modicum.events.simulator import VARIATIONS
from modicum.methods.event_augmentation.train import Pipeline, logits_of

Change = Callable[[events.EventBatch, SampleRandom], events.EventBatch]


class Variation(NamedTuple):
    """A test set that differs from the clean one in brightness or motion."""

    recordings: events.EventSet
    change: Change | None = None
    """Applied to the recordings; none: they were made so."""


def _negated(batch: events.EventBatch, random: SampleRandom) -> events.EventBatch:
    return reverse_polarity(batch)


def _backward(batch: events.EventBatch, random: SampleRandom) -> events.EventBatch:
    return reverse_time(batch)


def _shifted(batch: events.EventBatch, random: SampleRandom) -> events.EventBatch:
    """Moved by a tenth of the sensor's side, diagonally, one of four ways for each recording."""
    side = np.array([batch.width, batch.height]) // 10
    dx, dy = (np.where(random.uniform(2, "shifted test set") < 0.5, -1, 1) * side).T
    return drift_space(batch, dx, dy)


OPERATIONS: Mapping[str, Change] = {
    "log_negated": _negated,
    "reversed_motion": _backward,
    "shifted": _shifted,
}
"""What is done to recordings: exact; the approximation of a motion that runs backwards (of ideal
recordings the overlap is 0.65); and exact up to the border."""

SHIFTED_DIGITS = ("log_negated", "reversed_motion", "larger_motion")
"""The variations of the built-in digits that the claim is about."""


@cache
def _digits(part: Literal["train", "test"], name: str) -> events.EventSet:
    """A simulated set; arms of a claim that share a process share it."""
    return events.open_digits(part, variation=name)


def variations(
    data: str, test_set: events.EventSet, split: events.Split = "test"
) -> dict[str, Variation]:
    """The test sets by name, the clean one left out; `data` is that of `Recordings`."""
    if data == "digits":
        part: Literal["train", "test"] = "train" if split == "train" else "test"
        return {name: Variation(_digits(part, name)) for name in VARIATIONS if name != "clean"}
    return {name: Variation(test_set, change) for name, change in OPERATIONS.items()}


def claimed(data: str) -> tuple[str, ...]:
    """The names of the variations that the claim's mean is taken over."""
    return SHIFTED_DIGITS if data == "digits" else tuple(OPERATIONS)


def accuracy(
    network: nn.Module,
    variation: Variation,
    pipeline: Pipeline,
    *,
    mapping: Tensor | None = None,
    workers: int | None = 0,
) -> float:
    """Top-1 accuracy in percent of a network in eval mode.

    `mapping` is the network's number of each class of the set; none: the same.
    """
    recordings, change = variation
    augment = [change] if change else []
    loader = events.Loader(
        recordings, 64, representation=pipeline, augment=augment, workers=workers
    )
    device = next(network.parameters()).device
    logits = logits_of(network)
    return accuracies(logits, loader, device=device, mapping=mapping, quiet=True)["top1"]
