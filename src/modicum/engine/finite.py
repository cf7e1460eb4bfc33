"""Numbers that are not finite, noticed before they reach a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modicum.errors import ModicumError


class TrainingError(ModicumError):
    """Training cannot go on: a number is no longer finite."""

    def __init__(self, message: str, samples: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.samples = samples
        """Numbers of the samples that the loss is of, where they are known."""


class UncheckedLoss(NamedTuple):
    """A loss that has not been looked at yet, since looking waits for the GPU."""

    step: int
    epoch: int
    batch: int
    samples: list[int]
    names: tuple[str, ...]
    values: Tensor
    """The terms, shape `(names,)`."""


def check_losses(losses: Sequence[UncheckedLoss]) -> None:
    """Raise a `TrainingError` that names step, batch and term where a loss is not finite."""
    if not losses:
        return
    finite = torch.stack([loss.values.sum() for loss in losses]).isfinite().tolist()
    for loss in (loss for loss, fine in zip(losses, finite, strict=True) if not fine):
        values = dict(zip(loss.names, loss.values.tolist(), strict=True))
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        shown = ", ".join(map(str, loss.samples[:8])) + (", …" if loss.samples[8:] else "")
        raise TrainingError(
            f"the loss is not finite at step {loss.step} (epoch {loss.epoch}, batch "
            f"{loss.batch}): {', '.join(f'{name} = {values[name]}' for name in bad or values)}"
            + (f"; samples of that batch, by their index: {shown}" if shown else "")
            + ". Lower the learning rate, clip the gradient (--clip 1), or look at those "
            "samples. The newest checkpoint is from before.",
            loss.samples,
        )


def check_states(states: Mapping[str, Any], step: int) -> None:
    """Raise a `TrainingError` where a tensor, or one of a state dict, is not finite.

    A finite loss can have a gradient that is not, and a run cannot recover from that. Tensors that
    lie deeper, as an optimizer's do, are passed over: they follow from those of its module.
    """
    for name, state in states.items():
        for key, tensor in ({name: state} if isinstance(state, Tensor) else state).items():
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                continue
            if not bool(tensor.isfinite().all()):
                raise TrainingError(
                    f"after step {step}, {key} of {name!r} holds numbers that are not finite, "
                    f"though the loss was: its gradient was not. Lower the learning rate, or clip "
                    f"the gradient (--clip 1). The newest checkpoint is from before."
                )
