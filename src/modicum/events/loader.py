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
        seed: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        workers: int | None = None,
        rank: int = 0,
        world: int = 1,
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
            seed: Key of the order and of the augmentations' random numbers.
            shuffle: Whether the order changes with the epoch; otherwise it is the set's.
            drop_last: Leave out the last recordings of an epoch that do not fill a batch. Without
                it the last batch is smaller, and a process's share of it may be empty.
            workers: Processes that read and transform; 0 does both in this process. None: 0 for
                recordings in memory, else one fewer than there are cores, at least 1 and at most 8.
            rank: Number of this process among `world`. It takes the `rank`-th contiguous share of
                every batch, so the shares of all processes together are the batch of one process.
            world: Number of processes that train together.

        Raises:
            ConfigError: `batch_size` is not a positive multiple of `world`, `rank` is not in
                `range(world)`, `drop_last` leaves nothing, `workers` is negative, or there is
                something to do with frames and no representation that makes them.
        """
        if frame_augment and representation is None:
            raise ConfigError(
                "frame_augment: there are no frames without a representation; give one, or use "
                "augment."
            )
        self.event_set = event_set
        if workers is None and not isinstance(event_set, FileRecordings):
            workers = 0
        super().__init__(
            len(event_set),
            batch_size,
            _Maker(event_set, tuple(augment), representation, tuple(frame_augment)),
            seed=seed,
            shuffle=shuffle,
            drop_last=drop_last,
            workers=workers,
            rank=rank,
            world=world,
        )


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
