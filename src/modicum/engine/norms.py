"""Running statistics of batch normalisation, where a run has had too few steps for them to settle.

In training a batch is normalised by its own statistics, and their running average, which is what
evaluation uses, forgets only a tenth a step: after a few steps it is that of a network that was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

FEW_STEPS = 100
"""Optimizer steps after which running statistics are taken to be those of the network that is."""


def norms_of(module: nn.Module) -> list[_BatchNorm]:
    """The batch normalisations in a module that have running statistics."""
    found = (each for each in module.modules() if isinstance(each, _BatchNorm))
    return [norm for norm in found if norm.track_running_stats]


@contextlib.contextmanager
def recalibrated(
    module: nn.Module, batches: Iterable[Any], forward: Callable[[Any], Any], *, keep: bool
) -> Generator[None, None, None]:
    """While entered, running statistics are the mean of those of some batches, each counted alike.

    Nothing else that the module holds is changed by it.

    Args:
        module: It is left in the mode, training or not, it was in.
        batches: Such as those of an epoch, of one size.
        forward: Passes a batch through the module.
        keep: Whether the statistics stay afterwards.
    """
    norms, training = norms_of(module), module.training
    before = [{k: v.clone() for k, v in norm.named_buffers()} for norm in norms]
    others = {id(buffer) for norm in norms for buffer in norm.buffers()}
    held = [(b, b.clone()) for b in module.buffers() if id(b) not in others]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    module.train()
    with torch.no_grad():
        for batch in batches:
            forward(batch)
        for buffer, value in held:
            buffer.copy_(value)
    for norm, momentum, state in zip(norms, momenta, before, strict=True):
        norm.momentum = momentum
        norm.num_batches_tracked.copy_(state["num_batches_tracked"])  # pyright: ignore
    module.train(training)
    yield
    if not keep:
        for norm, state in zip(norms, before, strict=True):
            for name, buffer in norm.named_buffers():
                buffer.copy_(state[name])
