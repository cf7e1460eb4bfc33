"""What makes of an image the input of a network that was trained on such images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from modicum.images.decode import Picture, read_crop
from modicum.images.geometry import ResizeCentreCrop
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
