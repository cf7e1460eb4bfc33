"""Batches of numbered samples, the same whatever the workers, processes and interruptions.

The order of an epoch is a permutation keyed by (seed, epoch), and the random numbers of a sample
are keyed by (seed, epoch, sample). So batch number `n` of an epoch can be made without making those
before it, and does not depend on who makes it. What a batch holds is the business of the function
that makes it; `modicum.images.Loader` and `modicum.events.Loader` each bring theirs.
"""

from __future__ import annotations

import atexit
import contextlib
import signal
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any, Generic, TypedDict, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data._utils import signal_handling  # pyright: ignore[reportPrivateImportUsage]

from modicum.engine.nested import map_tensors
from modicum.engine.random import SampleRandom, permutation
from modicum.errors import ConfigError, DataError, ModicumError
from modicum.system.environment import usable_cores

Made = TypeVar("Made")
"""A batch: tensors in any nesting of dataclasses, named tuples, lists and dicts."""


class WorkerError(ModicumError):
    """A process that makes batches ended, or could not hand one over."""


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
        self._in_workers: DataLoader[Made | ModicumError] | None = None
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
            WorkerError: While iterating: a worker ended, or has no room for a batch.
            RuntimeError: While iterating: another epoch of this loader was begun meanwhile.
        """
        self._epochs_begun += 1
        number = self._epochs_begun
        self._shares[:] = self._plan(epoch, start)
        for made in self._made():
            if isinstance(made, ModicumError):
                self.end_workers()
                raise made
            yield made
            if number != self._epochs_begun:
                raise RuntimeError("another epoch of this loader was begun; make a second Loader")

    def _plan(self, epoch: int, start: int) -> Iterator[SampleRandom]:
        """This process's share of every batch still to come."""
        order = np.arange(self.samples)
        if self.shuffle:
            order = permutation(self.samples, self.seed, epoch, "order")
        for batch in range(start, len(self)):
            samples = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            share = np.array_split(samples, self.world)[self.rank]
            yield SampleRandom(self.seed, epoch, share)

    def _made(self) -> Iterator[Made | ModicumError]:
        if self.workers == 0:
            yield from (self._maker[share] for share in self._shares)
            return
        try:
            yield from self._from_workers()
        except (RuntimeError, OSError) as error:
            if str(error).startswith("Caught "):  # in a worker: a mistake in the program
                raise
            yield WorkerError(
                f"{self._of_workers() or str(error).splitlines()[0]}. The processes that make "
                f"batches may have had too little memory, shared memory or open files: give "
                f"fewer, --workers 1, or none, --workers 0."
            )

    def _of_workers(self) -> str:
        """Which workers ended, and how."""
        iterator: Any = self._in_workers and self._in_workers._iterator  # pyright: ignore
        codes = {worker.pid: worker.exitcode for worker in iterator._workers} if iterator else {}
        return ", ".join(
            f"process {pid}, which makes batches, was ended by {signal.Signals(-code).name}"
            if code < 0
            else f"process {pid}, which makes batches, ended with exit code {code}"
            for pid, code in codes.items()
            if code is not None
        )

    def end_workers(self) -> None:
        """Kill the workers, as they ignore other signals. The next epoch begins new ones.

        What PyTorch does waits for them: five seconds, or, if one died with a lock, for ever.
        """
        iterator: Any = self._in_workers and self._in_workers._iterator  # pyright: ignore
        self._in_workers = None
        if not iterator or iterator._shutdown:
            return
        iterator._shutdown = True
        for worker in iterator._workers:
            worker.kill()
            worker.join()
        for queue in iterator._index_queues:
            queue.cancel_join_thread()
        if hasattr(iterator, "_pin_memory_thread_done_event"):
            iterator._pin_memory_thread_done_event.set()
        signal_handling._remove_worker_pids(id(iterator))  # pyright: ignore

    def _from_workers(self) -> Iterator[Made | ModicumError]:
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
            _with_workers.add(self)
        with _handler_of_dead_children_kept():
            batches = iter(self._in_workers)
        yield from batches


def default_workers() -> int:
    """Workers that suit samples in files: one fewer than there are cores, at least 1, at most 8."""
    return max(1, min(8, usable_cores() - 1))


class _Maker(Dataset["Made | ModicumError"], Generic[Made]):
    """Makes batches, here or in a worker. An error of the data is returned, not raised: PyTorch
    would wrap its message in a traceback. A batch is put into shared memory here: where PyTorch
    does it, in a thread, an error is printed, and the batch waited for for ever.
    """

    def __init__(self, make: Callable[[SampleRandom], Made]) -> None:
        self.make = make

    def __getitem__(self, share: SampleRandom) -> Made | ModicumError:
        try:
            made = self.make(share)
        except DataError as error:
            return DataError(str(error))
        if get_worker_info() is None:
            return made
        try:
            return map_tensors(made, _into_shared_memory)
        except (RuntimeError, OSError) as error:
            return WorkerError(
                f"a process that makes batches has no room for one: {str(error).splitlines()[0]}. "
                f"Shared memory (/dev/shm), or the size of files (`ulimit -f`), is too small for "
                f"the batches of all: give fewer, --workers 1, or none, --workers 0."
            )


def _into_shared_memory(tensor: Tensor) -> Tensor:
    return tensor.share_memory_() if tensor.numel() else tensor  # none of it is shared of none


_with_workers: weakref.WeakSet[Loader[Any]] = weakref.WeakSet()


@atexit.register
def _end_workers() -> None:
    """End what an error left: at its exit Python waits for processes, and these for work."""
    for loader in list(_with_workers):
        loader.end_workers()


@contextlib.contextmanager
def _handler_of_dead_children_kept() -> Generator[None, None, None]:
    """PyTorch's handler of SIGCHLD raises an error wherever this process is, such as in the middle
    of writing a file. Without it a dead worker is noticed where its batch is waited for.
    """
    handler = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # not in the main thread: signals are not ours
            if hasattr(signal, "SIGCHLD"):
                signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


def _ignore_signals(worker: int) -> None:
    """A signal to all processes stops the run; the run's end stops its workers, in that order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _unchanged(made: Any) -> Any:
    return made
