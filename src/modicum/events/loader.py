"""Batches of an event set: augmented as events, turned into what a network takes, augmented again.

Order, shares, workers and resuming are those of `modicum.data.loader`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from modicum.data import loader
from modicum.engine.random import SampleRandom
from modicum.errors import ConfigError
from modicum.events.container import EventBatch
from modicum.events.event_set import EventSet, FileRecordings

Augmentation: TypeAlias = Callable[[EventBatch, SampleRandom], EventBatch]
"""Changes recordings; the random numbers belong to them."""
Representation: TypeAlias = Callable[[EventBatch], Tensor | EventBatch]
"""Makes of a batch of recordings a tensor `(B, ...)`, or recordings for networks that take them."""
FrameAugmentation: TypeAlias = Callable[[Tensor, SampleRandom], Tensor]
"""Changes what the representation made."""


class Batch(NamedTuple):
    """Recordings with their labels."""

    input: Any
    """What the representation made; without one, the `EventBatch` itself."""
    label: Tensor
    """int64 (B,)."""
    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    """Index of each recording in its set, int64 (B,)."""


class Loader(loader.Loader[Batch]):
    """Batches of an event set, epoch by epoch."""

    def __init__(
        self,
        event_set: EventSet,
        batch_size: int,
        *,
        representation: Representation | None = None,
        augment: Sequence[Augmentation] = (),
        frame_augment: Sequence[FrameAugmentation] = (),
        workers: int | None = None,
        **order: Any,
    ) -> None:
        """Describe the batches; nothing is read yet.

        Everything called must be picklable where workers are not forked: functions of modules,
        `functools.partial` of them, or objects of classes.

        Args:
            event_set: Where the recordings come from.
            batch_size: Recordings a batch, over all processes together.
            representation: What is made of recordings, such as
                `partial(modicum.events.frames, steps=10)`. None: batches hold the recordings, on
                the CPU, for networks that learn their representation.
            augment: Changes recordings before that, in order.
            frame_augment: Changes what the representation made, in order.
            workers: Processes that read and transform; 0 does both in this process. None: 0 for
                recordings in memory, else one fewer than there are cores, at least 1 and at most 8.
            **order: Of `modicum.data.loader.Loader`: `seed`, `shuffle`, `drop_last`, `rank` and
                `world`.

        Raises:
            ConfigError: As `modicum.data.loader.Loader`; or there is something to do with frames
                and no representation that makes them.
        """
        if frame_augment and representation is None:
            raise ConfigError(
                "frame_augment: there are no frames without a representation; give one, or use "
                "augment."
            )
        self.event_set = event_set
        if workers is None and not isinstance(event_set, FileRecordings):
            workers = 0
        make = _Maker(event_set, tuple(augment), representation, tuple(frame_augment))
        super().__init__(len(event_set), batch_size, make, workers=workers, **order)


class _Maker(NamedTuple):
    """Makes a batch: reads recordings, augments them, represents them, and augments that."""

    event_set: EventSet
    augment: tuple[Augmentation, ...]
    representation: Representation | None
    frame_augment: tuple[FrameAugmentation, ...]

    def __call__(self, random: SampleRandom) -> Batch:
        events = self.event_set.read(random.index)
        for change in self.augment:
            events = change(events, random)
        index = torch.from_numpy(random.index)
        label = self.event_set.labels[index]
        if self.representation is None:
            return Batch(events, label, index)
        made: Any = self.representation(events)
        for step in self.frame_augment:
            made = step(made, random)
        return Batch(made, label, index)
