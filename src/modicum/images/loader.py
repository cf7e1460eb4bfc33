"""Batches of an image set, the same whatever the workers, processes and interruptions.

The order of an epoch is a permutation keyed by (seed, epoch), and the transform's random numbers
are keyed by (seed, epoch, sample). So batch number `n` of an epoch can be made without making those
before it, and does not depend on who makes it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from modicum.engine.environment import usable_cores
from modicum.engine.random import SampleRandom, permutation
from modicum.errors import ConfigError, DataError
from modicum.images.image_set import FileImages, ImageSet
from modicum.images.transforms import Crop, Normalise, Step


class Batch(NamedTuple):
    """Images with their labels."""

    image: Tensor
    """(B,C,H,W), float32 if the transform ends with `Normalise`, else uint8."""
    label: Tensor
    """(B,), of the set's type of label: int64 for classes."""
    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    """Index of each image in its set, int64 (B,)."""


class Loader:
    """Batches of an image set, epoch by epoch."""

    def __init__(
        self,
        image_set: ImageSet,
        batch_size: int,
        *,
        transform: Sequence[Step] = (),
        seed: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        workers: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Describe the batches; nothing is read yet.

        Args:
            image_set: Where the images come from.
            batch_size: Images a batch, over all processes together.
            transform: Steps in order. Only the first may be a `Crop`. To feed a GPU, leave
                `Normalise` off and call it on the batch there: bytes travel faster than floats.
            seed: Key of the order and of the transform's random numbers.
            shuffle: Whether the order changes with the epoch; otherwise it is the set's.
            drop_last: Leave out the last images of an epoch that do not fill a batch. Without it
                the last batch is smaller, and a process's share of it may be empty.
            workers: Processes that read and transform; 0 does both in this process. None: 0 for
                images in memory, else one fewer than there are cores, at least 1 and at most 8.
            rank: Number of this process among `world`. It takes the `rank`-th contiguous share of
                every batch, so the shares of all processes together are the batch of one process.
            world: Number of processes that train together.

        Raises:
            ConfigError: `batch_size` is not a positive multiple of `world`, `rank` is not in
                `range(world)`, `drop_last` leaves nothing, a `Crop` is not the first step, or
                `workers` is negative.
        """
        if batch_size < 1 or world < 1 or batch_size % world:
            raise ConfigError(
                f"batch_size: {batch_size} images cannot be shared equally by {world} processes; "
                f"give a positive multiple of {world}."
            )
        if not 0 <= rank < world:
            raise ConfigError(f"rank: found {rank}, expected 0 to {world - 1}.")
        if workers is not None and workers < 0:
            raise ConfigError(f"workers: found {workers}, expected 0 or more.")
        if any(isinstance(step, Crop) for step in transform[1:]):
            raise ConfigError("transform: a crop may only be the first step.")
        if drop_last and len(image_set) < batch_size:
            raise ConfigError(
                f"batch_size: the {len(image_set)} images do not fill one batch of {batch_size}, "
                f"so an epoch would be empty. Give a batch_size of at most {len(image_set)}."
            )
        self.image_set = image_set
        self.batch_size = batch_size
        self.transform = tuple(transform)
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.workers = _default_workers(image_set) if workers is None else workers
        self.rank = rank
        self.world = world
        # Bytes travel from a worker at a quarter of the cost of floats: the last step is done here.
        last = transform[-1] if transform else None
        self._normalise = last if isinstance(last, Normalise) else None
        steps = self.transform if self._normalise is None else self.transform[:-1]
        self._maker = _Maker(image_set, steps, seed)
        self._shares: list[_Share] = []
        self._decoder: DataLoader[Batch | DataError] | None = None
        self._epochs_begun = 0

    def __len__(self) -> int:
        """Batches an epoch, the same in every process."""
        if self.drop_last:
            return len(self.image_set) // self.batch_size
        return -(-len(self.image_set) // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch, from number `start` on; those before it are not read.

        Only one epoch of a loader can be drawn at a time.

        Raises:
            DataError: While iterating: a file cannot be decoded; it is named.
            RuntimeError: While iterating: another epoch of this loader was begun meanwhile.
        """
        self._epochs_begun += 1
        number = self._epochs_begun
        self._shares[:] = self._plan(epoch, start)
        for made in self._made():
            if isinstance(made, DataError):
                break
            image = made.image if self._normalise is None else self._normalise(made.image)
            yield made._replace(image=image)
            if number != self._epochs_begun:
                raise RuntimeError("another epoch of this loader was begun; make a second Loader")
        else:
            return
        # End the workers before raising: if it is the garbage collector that finds them, in a cycle
        # through the traceback, PyTorch waits five seconds for each.
        self._decoder = None
        raise DataError(str(made))

    def _plan(self, epoch: int, start: int) -> Iterator[_Share]:
        """This process's share of every batch still to come."""
        order = np.arange(len(self.image_set))
        if self.shuffle:
            order = permutation(len(self.image_set), self.seed, epoch, "order")
        for batch in range(start, len(self)):
            samples = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield _Share(epoch, np.array_split(samples, self.world)[self.rank])

    def _made(self) -> Iterator[Batch | DataError]:
        if self.workers == 0:
            return (self._maker[share] for share in self._shares)
        if self._decoder is None:  # the workers live on from epoch to epoch
            self._decoder = DataLoader(
                self._maker,
                sampler=self._shares,  # pyright: ignore[reportArgumentType]  # any iterable will do
                batch_size=None,
                num_workers=self.workers,
                collate_fn=_unchanged,
                pin_memory=torch.cuda.is_available(),
                persistent_workers=True,
                worker_init_fn=_ignore_signals,
            )
        return iter(self._decoder)


class _Share(NamedTuple):
    """What a worker is asked for: some images of an epoch."""

    epoch: int
    samples: npt.NDArray[np.int64]


class _Maker(Dataset["Batch | DataError"]):
    """Makes batches, here or in a worker. An unusable file is returned, not raised: PyTorch would
    wrap the error's message in a traceback.
    """

    def __init__(self, image_set: ImageSet, transform: Sequence[Step], seed: int) -> None:
        self.image_set = image_set
        first = transform[0] if transform else None
        self.crop = first if isinstance(first, Crop) else None
        self.steps = transform if self.crop is None else transform[1:]
        self.seed = seed

    def __getitem__(self, share: _Share) -> Batch | DataError:
        random = SampleRandom(self.seed, share.epoch, share.samples)
        try:
            image = self.image_set.read(share.samples, self.crop, random)
        except DataError as error:
            return DataError(str(error))
        for step in self.steps:
            image = step(image, random)
        index = torch.from_numpy(share.samples)
        return Batch(image, self.image_set.labels[index], index)


def _ignore_signals(worker: int) -> None:
    """A signal to all processes stops the run; the run's end stops its workers, in that order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _unchanged(made: Any) -> Any:
    return made


def _default_workers(image_set: ImageSet) -> int:
    if not isinstance(image_set, FileImages):
        return 0
    return max(1, min(8, usable_cores() - 1))
