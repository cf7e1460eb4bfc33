"""A set of images: in memory, or in files that are decoded when they are asked for."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import Self

from modicum.data.sample_set import BadFile, SampleSet
from modicum.engine.random import SampleRandom
from modicum.errors import DataError
from modicum.images.decode import decode_crop, decode_image
from modicum.images.transforms import Crop

BadImage = BadFile


@dataclass(frozen=True, eq=False)
class ImageSet(SampleSet):
    """Images of one split. `MemoryImages` and `FileImages` are the two kinds."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of every image: 3, or 1 for sets that are grey by nature."""

    @abstractmethod
    def read(self, index: npt.NDArray[np.int64], crop: Crop | None, random: SampleRandom) -> Tensor:
        """Images by their index in the set, cropped if asked to: uint8 (B,C,H,W).

        Raises:
            DataError: A file cannot be decoded, or, without a crop, sizes differ.
        """


@dataclass(frozen=True, eq=False)
class MemoryImages(ImageSet):
    """Images of one size held as one tensor."""

    images: Tensor
    """uint8 (N,C,H,W)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise ValueError(
                f"expected uint8 images (N,C,H,W), found {self.images.dtype} of shape "
                f"{tuple(self.images.shape)}"
            )
        if len(self.images) != len(self.names):
            raise ValueError(f"expected {len(self.names)} images, found {len(self.images)}")

    @property
    def channels(self) -> int:
        """Channels of every image."""
        return self.images.shape[1]

    def read(self, index: npt.NDArray[np.int64], crop: Crop | None, random: SampleRandom) -> Tensor:
        """See `ImageSet.read`."""
        images = self.images[torch.from_numpy(index)]
        return images if crop is None else crop(images, random)

    def subset(self, index: npt.NDArray[np.int64]) -> Self:
        """See `SampleSet.subset`."""
        keep = torch.from_numpy(index)
        return dataclasses.replace(
            self, labels=self.labels[keep], names=self.names[index], images=self.images[keep]
        )


@dataclass(frozen=True, eq=False)
class FileImages(ImageSet):
    """Image files, decoded to RGB on demand."""

    root: Path
    """The folder that `names` are below."""

    @property
    def channels(self) -> int:
        """Always 3: files are decoded to RGB."""
        return 3

    def path(self, index: int) -> Path:
        """The file of one image."""
        return self.root / str(self.names[index])

    def read(self, index: npt.NDArray[np.int64], crop: Crop | None, random: SampleRandom) -> Tensor:
        """See `ImageSet.read`."""
        if crop is not None:
            cropped = torch.empty((len(index), 3, crop.size, crop.size), dtype=torch.uint8)
            for row, sample in enumerate(index.tolist()):
                one = SampleRandom(random.seed, random.epoch, random.index[row : row + 1])
                pixels = decode_crop(self.path(sample), crop, one)
                cropped[row] = torch.from_numpy(pixels).permute(2, 0, 1)
            return cropped
        whole: list[npt.NDArray[np.uint8]] = []
        for sample in index.tolist():
            whole.append(decode_image(self.path(sample)))
            if whole[-1].shape != whole[0].shape:
                raise DataError(
                    f"{self.path(sample)}: its size (height, width) is {whole[-1].shape[:2]}, "
                    f"that of {self.path(int(index[0]))} is {whole[0].shape[:2]}. Images of "
                    f"different sizes make no batch: let the transform begin with a crop, such as "
                    f"RandomResizedCrop(224) or ResizeCentreCrop(256, 224)."
                )
        if not whole:
            return torch.empty((0, 3, 0, 0), dtype=torch.uint8)
        return torch.from_numpy(np.stack(whole)).permute(0, 3, 1, 2).contiguous()
