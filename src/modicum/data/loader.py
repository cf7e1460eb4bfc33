"""Batches of numbered samples, the same whatever the workers, processes and interruptions.

The order of an epoch is a permutation keyed by (seed, epoch), and the random numbers of a sample
are keyed by (seed, epoch, sample). So batch number `n` of an epoch can be made without making those
before it, and does not depend on who makes it. What a batch holds is the business of the function
that makes it; `modicum.images.Loader` and `modicum.events.Loader` each bring theirs.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypedDict, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from modicum.engine.random import SampleRandom, permutation
from modicum.errors import ConfigError, DataError
from modicum.system.environment import usable_cores

Made = TypeVar("Made")
"""A batch: tensors in any nesting of dataclasses, named tuples, lists and dicts."""


class Order(TypedDict, total=False):
    """How a `Loader` goes through the samples; see there."""

    seed: int
    shuffle: bool
    drop_last: bool
    workers: int | None
    rank: int
    world: int


class Loader(Generic[Made]):
    """Batches of samples, epoch by epoch."""

    def __init__(
        self,
        samples: int,
        batch_size: int,
        make: Callable[[SampleRandom], Made],
        *,
        seed: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        workers: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Describe the batches; nothing is made yet.

        Args:
            samples: Number of samples; they are known by their numbers from 0.
            batch_size: Samples a batch, over all processes together.
            make: Makes a batch (see `Made`) of the samples `random.index` of the
                random numbers it is given. It may raise `DataError`, and must be picklable for
                workers where processes are not forked.
            seed: Key of the order and of the samples' random numbers.
            shuffle: Whether the order changes with the epoch; otherwise it is that of the numbers.
            drop_last: Leave out the last samples of an epoch that do not fill a batch. Without it
                the last batch is smaller, and a process's share of it may be empty.
            workers: Processes that make batches; 0: this one does. None: `default_workers()`.
            rank: Number of this process among `world`. It takes the `rank`-th contiguous share of
                every batch, so the shares of all processes together are the batch of one process.
            world: Number of processes that train together.

        Raises:
            ConfigError: `batch_size` is not a positive multiple of `world`, `rank` is not in
                `range(world)`, `drop_last` leaves nothing, or `workers` is negative.
        """
        if batch_size < 1 or world < 1 or batch_size % world:
            raise ConfigError(
                f"batch_size: {batch_size} samples cannot be shared equally by {world} processes; "
                f"give a positive multiple of {world}."
            )
        if not 0 <= rank < world:
            raise ConfigError(f"rank: found {rank}, expected 0 to {world - 1}.")
        if workers is not None and workers < 0:
            raise ConfigError(f"workers: found {workers}, expected 0 or more.")
        if drop_last and samples < batch_size:
            raise ConfigError(
                f"batch_size: the {samples} samples do not fill one batch of {batch_size}, so an "
                f"epoch would be empty. Give a batch_size of at most {samples}."
            )
        self.samples, self.batch_size, self.rank, self.world = samples, batch_size, rank, world
        self.seed, self.shuffle, self.drop_last = seed, shuffle, drop_last
        self.workers = default_workers() if workers is None else workers
        self._maker = _Maker(make)
        self._shares: list[SampleRandom] = []
        self._in_workers: DataLoader[Made | DataError] | None = None
        self._epochs_begun = 0

    def __len__(self) -> int:
        """Batches an epoch, the same in every process."""
        if self.drop_last:
            return self.samples // self.batch_size
        return -(-self.samples // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Made]:
        """Batches of one epoch, from number `start` on; those before it are not made.

        Raises:
            DataError: While iterating: a sample cannot be read.
            RuntimeError: While iterating: another epoch of this loader was begun meanwhile.
        """
        self._epochs_begun += 1
        number = self._epochs_begun
        self._shares[:] = self._plan(epoch, start)
        for made in self._made():
            if isinstance(made, DataError):
                break
            yield made
            if number != self._epochs_begun:
                raise RuntimeError("another epoch of this loader was begun; make a second Loader")
        else:
            return
        # End the workers before raising: if it is the garbage collector that finds them, in a cycle
        # through the traceback, PyTorch waits five seconds for each.
        self._in_workers = None
        raise DataError(str(made))

    def _plan(self, epoch: int, start: int) -> Iterator[SampleRandom]:
        """This process's share of every batch still to come."""
        order = np.arange(self.samples)
        if self.shuffle:
            order = permutation(self.samples, self.seed, epoch, "order")
        for batch in range(start, len(self)):
            samples = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            share = np.array_split(samples, self.world)[self.rank]
            yield SampleRandom(self.seed, epoch, share)

    def _made(self) -> Iterator[Made | DataError]:
        if self.workers == 0:
            return (self._maker[share] for share in self._shares)
        if self._in_workers is None:  # the workers live on from epoch to epoch
            self._in_workers = DataLoader(
                self._maker,
                sampler=self._shares,  # pyright: ignore[reportArgumentType]  # any iterable will do
                batch_size=None,
                num_workers=self.workers,
                collate_fn=_unchanged,
                pin_memory=torch.cuda.is_available(),
                persistent_workers=True,
                worker_init_fn=_ignore_signals,
            )
        return iter(self._in_workers)


def default_workers() -> int:
    """Workers that suit samples in files: one fewer than there are cores, at least 1, at most 8."""
    return max(1, min(8, usable_cores() - 1))


class _Maker(Dataset["Made | DataError"], Generic[Made]):
    """Makes batches, here or in a worker. An error of the data is returned, not raised: PyTorch
    would wrap its message in a traceback.
    """

    def __init__(self, make: Callable[[SampleRandom], Made]) -> None:
        self.make = make

    def __getitem__(self, share: SampleRandom) -> Made | DataError:
        try:
            return self.make(share)
        except DataError as error:
            return DataError(str(error))


def _ignore_signals(worker: int) -> None:
    """A signal to all processes stops the run; the run's end stops its workers, in that order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _unchanged(made: Any) -> Any:
    return made
