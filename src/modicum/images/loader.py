"""Batches of an image set: what a batch of images is made of.

Order, shares, workers and resuming are those of `modicum.data.loader`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from modicum.data import loader
from modicum.engine.random import SampleRandom
from modicum.images.geometry import Geometry
from modicum.images.image_set import FileImages, ImageSet
from modicum.images.pixels import Normalise

Step: TypeAlias = Callable[[Tensor, SampleRandom], Tensor]
"""What is done to images (B,C,H,W), uint8 until `Normalise`, with the samples' random numbers. A
transform is a sequence of steps; a `Geometry` that begins it is taken as files are decoded."""


class Batch(NamedTuple):
    """Images with their labels, if any."""

    image: Tensor
    """(B,C,H,W), float32 if the transform ends with `Normalise`, else uint8."""
    label: Tensor
    """(B,), of the set's type of label: int64 for classes; (B,0) of a set without labels."""
    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    """Index of each image in its set, int64 (B,)."""


class Loader(loader.Loader[Batch]):
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
            transform: Steps in order; the first, if it is a `Geometry`, is taken as files are
                decoded. To feed a GPU, leave `Normalise` off and call it on the batch there: bytes
                travel faster than floats.
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
                `range(world)`, `drop_last` leaves nothing, or
                `workers` is negative.
        """
        self.image_set = image_set
        self.transform = tuple(transform)
        # Bytes travel from a worker at a quarter of the cost of floats: the last step is done here.
        last = transform[-1] if transform else None
        self._normalise = last if isinstance(last, Normalise) else None
        steps = self.transform if self._normalise is None else self.transform[:-1]
        if workers is None and not isinstance(image_set, FileImages):
            workers = 0
        super().__init__(
            len(image_set),
            batch_size,
            _Maker(image_set, steps),
            seed=seed,
            shuffle=shuffle,
            drop_last=drop_last,
            workers=workers,
            rank=rank,
            world=world,
        )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch, from number `start` on; those before it are not read.

        Only one epoch of a loader can be drawn at a time.

        Raises:
            DataError: While iterating: a file cannot be decoded; it is named.
            RuntimeError: While iterating: another epoch of this loader was begun meanwhile.
        """
        for batch in super().epoch(epoch, start):
            image = batch.image if self._normalise is None else self._normalise(batch.image)
            yield batch._replace(image=image)


class _Maker:
    """Makes a batch: reads images, the first geometry as they are decoded, and transforms them."""

    def __init__(self, image_set: ImageSet, transform: Sequence[Step]) -> None:
        self.image_set = image_set
        first = transform[0] if transform else None
        self.geometry = first if isinstance(first, Geometry) else None
        self.steps = transform if self.geometry is None else transform[1:]

    def __call__(self, random: SampleRandom) -> Batch:
        image = self.image_set.read(random.index, self.geometry, random)
        for step in self.steps:
            image = step(image, random)
        index = torch.from_numpy(random.index)
        return Batch(image, self.image_set.labels[index], index)
