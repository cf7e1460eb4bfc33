"""Accuracy, of recordings as they are or under other light."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modicum import events
from modicum.classification import topk_correct
from modicum.methods.event_augmentation.brightness import Change
from modicum.methods.event_augmentation.train import (
    Pipeline,
    evaluation_loader,
    on_device,
    read_out,
)


@torch.no_grad()
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
    device = next(network.parameters()).device
    augment = [change] if change else []
    correct = 0.0
    for batch in evaluation_loader(event_set, pipeline, 64, workers, augment=augment).epoch(0):
        logits = read_out(network(on_device(batch.input, device))).float().cpu()
        label = batch.label if mapping is None else mapping[batch.label]
        correct += float(topk_correct(logits, label, (1,)).sum())
    return 100 * correct / len(event_set)
