"""Batches of an image set: what a batch of images is made of.

Order, shares, workers and resuming are those of `modicum.data.loader`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from typing_extensions import Unpack

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
        **order: Unpack[loader.Order],
    ) -> None:
        """Describe the batches; nothing is read yet.

        Args:
            image_set: Where the images come from.
            batch_size: Images a batch, over all processes together.
            transform: Steps in order; the first, if it is a `Geometry`, is taken as files are
                decoded. To feed a GPU, leave `Normalise` off and call it on the batch there: bytes
                travel faster than floats.
            **order: `seed`, `shuffle`, `drop_last`, `workers`, `rank` and `world` of
                `modicum.data.loader.Loader`. The seed is that of the transform, too, and images in
                memory need no workers, which is the default for them.

        Raises:
            ConfigError: See `modicum.data.loader.Loader`.
        """
        self.image_set = image_set
        self.transform = tuple(transform)
        # Bytes travel from a worker at a quarter of the cost of floats: the last step is done here.
        last = transform[-1] if transform else None
        self._normalise = last if isinstance(last, Normalise) else None
        steps = self.transform if self._normalise is None else self.transform[:-1]
        if not isinstance(image_set, FileImages) and order.get("workers") is None:
            order["workers"] = 0
        super().__init__(len(image_set), batch_size, _Maker(image_set, steps), **order)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """See `modicum.data.loader.Loader.epoch`."""
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
