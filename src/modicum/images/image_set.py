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
from modicum.images.decode import decode_image, decode_view, image_size
from modicum.images.geometry import Geometry

BadImage = BadFile


@dataclass(frozen=True, eq=False)
class ImageSet(SampleSet):
    """Images of one split. `MemoryImages` and `FileImages` are the two kinds."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of every image: 3, or 1 for sets that are grey by nature."""

    @abstractmethod
    def read(
        self, index: npt.NDArray[np.int64], geometry: Geometry | None, random: SampleRandom
    ) -> Tensor:
        """Images by their index in the set, or what a geometry shows of them: uint8 (B,C,H,W).

        With several views of each image, those of one image lie together.

        Raises:
            DataError: A file cannot be decoded, or, without a geometry, sizes differ.
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

    def read(
        self, index: npt.NDArray[np.int64], geometry: Geometry | None, random: SampleRandom
    ) -> Tensor:
        """See `ImageSet.read`."""
        images = self.images[torch.from_numpy(index)]
        return images if geometry is None else geometry(images, random)

    def picture(self, index: int) -> npt.NDArray[np.uint8]:
        """See `SampleSet.picture`."""
        image = self.images[index].permute(1, 2, 0).numpy()
        return image[:, :, 0] if image.shape[2] == 1 else image

    def values(self, number: int) -> bytes:
        """See `SampleSet.values`."""
        return self.images[number].numpy().tobytes()

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

    def picture(self, index: int) -> npt.NDArray[np.uint8]:
        """See `SampleSet.picture`."""
        return decode_image(self.path(index))

    def read(
        self, index: npt.NDArray[np.int64], geometry: Geometry | None, random: SampleRandom
    ) -> Tensor:
        """See `ImageSet.read`."""
        paths = [self.path(sample) for sample in index.tolist()]
        if geometry is not None:
            sizes = np.array([image_size(path) for path in paths], np.int64).reshape(-1, 2)
            view = geometry.view(sizes, random)
            result = torch.empty((len(view), 3, *view.size), dtype=torch.uint8)
            for number, path in enumerate(paths):
                rows = slice(*(len(view) * n // len(paths) for n in (number, number + 1)))
                result[rows] = decode_view(path, view.take(rows), geometry)
            return result
        whole = [decode_image(path) for path in paths]
        for path, image in zip(paths, whole, strict=True):
            if image.shape != whole[0].shape:
                raise DataError(
                    f"{path}: its size (height, width) is {image.shape[:2]}, that of {paths[0]} is "
                    f"{whole[0].shape[:2]}. Images of different sizes make no batch: let the "
                    f"transform begin with a crop, such as RandomResizedCrop(224) or "
                    f"ResizeCentreCrop(256, 224)."
                )
        if not whole:
            return torch.empty((0, 3, 0, 0), dtype=torch.uint8)
        return torch.from_numpy(np.stack(whole)).permute(0, 3, 1, 2).contiguous()
