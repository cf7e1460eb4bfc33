"""What makes of an image the input of a network that was trained on such images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from modicum.images.decode import Picture, read_crop
from modicum.images.geometry import Resample, ResizeCentreCrop
from modicum.images.image_set import ImageSet, MemoryImages
from modicum.images.loader import Step
from modicum.images.pixels import Normalise


class CropPipeline(ABC):
    """Resize, cut out the centre, normalise:
    `network(pipeline.batch([pipeline.read("photo.jpg")]))`.
    """

    @abstractmethod
    def crop(self) -> ResizeCentreCrop:
        """The single crop of evaluation."""

    @abstractmethod
    def normalise(self) -> Normalise:
        """From bytes to what the network takes."""

    def evaluation(self) -> Sequence[Step]:
        """The steps of evaluation, for a `Loader`."""
        return (self.crop(), self.normalise())

    def read(self, image: Picture) -> Tensor:
        """The crop of an image, uint8 `(channels, size, size)`; see `read_crop`."""
        return read_crop(image, self.crop(), len(self.normalise().mean))

    def batch(self, crops: Sequence[Tensor]) -> Tensor:
        """What the network takes of several of what `read` gives: `(B, channels, size, size)`."""
        return self.normalise()(torch.stack(list(crops)))

    def described(self) -> dict[str, Any]:
        """All that it does, for programs that cannot call it: see "ONNX" in the documentation."""
        crop, normalise = self.crop(), self.normalise()
        return {
            "layout": "NCHW",
            "colour": "RGB" if len(normalise.mean) == 3 else "grey",
            "short_side": crop.short_side,
            "interpolation": crop.resample,
            "antialias": True,
            "crop": "centre",
            "size": crop.size,
            "divide_by": 255,
            "mean": list(normalise.mean),
            "std": list(normalise.std),
        }


@dataclass(frozen=True)
class StatedPipeline(CropPipeline):
    """A pipeline of stated sizes and statistics; stored with the weights, for prediction."""

    size: int
    """Side of the crop in pixels."""
    short_side: int
    """Short side of the resized image."""
    mean: tuple[float, ...]
    """Of each channel, of values from 0 to 1."""
    std: tuple[float, ...]
    """Alike."""

    resample: ClassVar[Resample] = "bilinear"

    @classmethod
    def from_notes(cls, notes: Mapping[str, Any]) -> Self:
        """The pipeline as `vars` of one was stored beside the weights."""
        return cls(notes["size"], notes["short_side"], tuple(notes["mean"]), tuple(notes["std"]))

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return len(self.mean)

    def crop(self) -> ResizeCentreCrop:
        """The single crop of evaluation."""
        return ResizeCentreCrop(self.short_side, self.size, self.resample)

    def normalise(self) -> Normalise:
        """From bytes to what the network takes."""
        return Normalise(self.mean, self.std)


def usual_size(image_set: ImageSet) -> int:
    """Side of a crop in pixels: 224, or the images' own where all are small and equal."""
    if isinstance(image_set, MemoryImages):
        side = max(image_set.images.shape[2:])
        return side if side < 128 else 224
    return 224
