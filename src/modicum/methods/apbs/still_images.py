"""Still images for a spiking network: each is presented for several time steps (direct coding)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from modicum import images
from modicum.events.datasets import SOURCES
from modicum.methods.apbs.stcf import STCF
from modicum.options import Interval, Options

IMAGES = ("cifar10", "images")
"""Names before the `=` of a data set of still images; what `images.open_images` takes follows."""


@dataclass(frozen=True)
class ImagePipeline(Options, images.CropPipeline):
    """Crop, resize and normalise. Stored with the weights, for prediction."""

    size: Annotated[int, Interval(ge=1, le=2048)]
    """Side in pixels."""
    channels: Annotated[int, Interval(ge=1, le=3)]
    """3, or 1 for grey images."""

    def crop(self) -> images.ResizeCentreCrop:
        """The crop of evaluation."""
        return images.ResizeCentreCrop(self.size, self.size)

    def normalise(self) -> images.Normalise:
        """From bytes to what the network takes."""
        if self.channels == 1:
            return images.Normalise((0.5,), (0.5,))
        return images.Normalise(images.CIFAR10_MEAN, images.CIFAR10_STD)

    def training(self, augment: STCF) -> Sequence[images.Step]:
        """The steps of training: what is left of STCF where there is no time.

        Its cropping in space is the padding by 4 pixels and random crop, of every image as is usual
        for CIFAR; its flip is the usual one.
        """
        shift = [images.RandomShift(4)] if augment.crop_space else []
        flip = [images.HorizontalFlip()] if augment.flip else []
        return (self.crop(), *shift, *flip, self.normalise())

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of what the network takes."""
        return self.size, self.size

    def to_notes(self) -> dict[str, Any]:
        """What is stored beside the weights, JSON-able."""
        return asdict(self)

    @classmethod
    def from_notes(cls, notes: Mapping[str, Any]) -> ImagePipeline:
        """The pipeline that `to_notes` described."""
        return cls(**notes)


DATASETS = SOURCES | {
    "cifar10": "CIFAR-10, cs.toronto.edu/~kriz/cifar.html: the unpacked version",
    "images": "your own images: a folder a class",
}
"""Recordings, and images that are presented several times."""
