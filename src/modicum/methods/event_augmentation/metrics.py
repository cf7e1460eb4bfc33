"""Accuracy, of recordings as they are or under other light."""

from __future__ import annotations

from torch import Tensor, nn

from modicum import events
from modicum.classification import accuracies
from modicum.methods.event_augmentation.brightness import Change
from modicum.methods.event_augmentation.train import Pipeline, logits_of


def accuracy(
    network: nn.Module,
    event_set: events.EventSet,
    pipeline: Pipeline,
    *,
    change: Change | None = None,
    mapping: Tensor | None = None,
    workers: int | None = 0,
) -> float:
    """Top-1 accuracy in percent, of recordings that something may be done to.

    Args:
        network: In eval mode.
        event_set: The recordings.
        pipeline: What becomes of them.
        change: What is done to them first.
        mapping: The network's number of each class of the set; none: the same.
        workers: Processes that read files.
    """
    loader = events.Loader(
        event_set,
        64,
        representation=pipeline,
        augment=[change] if change else [],
        workers=workers,
    )
    device = next(network.parameters()).device
    found = accuracies(
        logits_of(network), loader, ks=(1,), device=device, mapping=mapping, quiet=True
    )
    return found["top1"]
