"""Batched transforms of images, their random numbers keyed by sample.

A transform is a plain sequence of steps, read from left to right as a recipe is:

    (RandomResizedCrop(224), HorizontalFlip(), Normalise(IMAGENET_MEAN, IMAGENET_STD))

A step takes images `(B,C,H,W)`, uint8 until `Normalise` makes them float32, and the random numbers
of the samples, and works on the whole batch at once. A `Crop` may only be the first step: it
chooses a part of each image, which for images in files is cut out as the file is decoded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modicum.engine.random import SampleRandom
from modicum.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)

Step: TypeAlias = Callable[[Tensor, SampleRandom], Tensor]


class Cuts(NamedTuple):
    """How each image is cropped: cut a box out, resize it, cut `size` x `size` out of that."""

    box: npt.NDArray[np.int64]
    """(left, top, right, bottom) in pixels of the image, (B,4)."""
    resized: npt.NDArray[np.int64]
    """(height, width) the box is resized to, (B,2)."""
    corner: npt.NDArray[np.int64]
    """(top, left) of the final square in the resized box, (B,2)."""


class Crop(ABC):
    """A step that makes a square of `size` x `size` pixels of each image.

    Resizing is bilinear with antialiasing (a triangle as wide as the reduction), as in Pillow: nine
    pixels in ten are the same, the others differ by a grey level, very rarely by two.
    """

    size: int
    allow_draft: ClassVar[bool]
    """Whether a JPEG that is far larger than needed may be decoded at 1/2, 1/4 or 1/8 scale."""

    @abstractmethod
    def cuts(self, sizes: npt.NDArray[np.int64], random: SampleRandom) -> Cuts:
        """How to crop images of the given (height, width), shape (B,2)."""

    def __call__(self, images: Tensor, random: SampleRandom) -> Tensor:
        """Crop equally large images on the CPU, uint8 (B,C,H,W), to (B,C,size,size)."""
        count, channels, height, width = images.shape
        cuts = self.cuts(np.tile(np.array([[height, width]]), (count, 1)), random)
        plans = np.concatenate(cuts, axis=1)
        if count and (plans == plans[0]).all():
            return cut(images, Cuts(*(part[0] for part in cuts)), self.size)
        result = images.new_empty((count, channels, self.size, self.size))
        # One image at a time: boxes of different sizes would have to be resized by matrix products,
        # which take 5 (32 pixels) to 60 times (224 pixels) as long as PyTorch's kernel for bytes.
        for number, plan in enumerate(zip(*cuts, strict=True)):
            result[number] = cut(images[number : number + 1], Cuts(*plan), self.size)[0]
        return result


def cut(images: Tensor, plan: Cuts, size: int) -> Tensor:
    """Crop all images, uint8 (B,C,H,W) on the CPU, by one row of `Cuts`: (B,C,size,size)."""
    left, top, right, bottom = plan.box.tolist()
    row, column = plan.corner.tolist()
    part = images[:, :, top:bottom, left:right]
    shape: list[int] = plan.resized.tolist()
    if list(part.shape[2:]) != shape:
        part = torch.nn.functional.interpolate(part, shape, mode="bilinear", antialias=True)
    return part[:, :, row : row + size, column : column + size]


@dataclass(frozen=True)
class RandomResizedCrop(Crop):
    """A random part of the image, resized: the augmentation of Szegedy et al. (2014), as usual now.

    A box of random area and aspect ratio (log-uniform) is tried ten times; if it never fits, the
    largest central box of an allowed ratio is taken.
    """

    size: int
    area: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest share of the image's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width : height."""

    allow_draft: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.size < 2:
            raise ConfigError(
                f"RandomResizedCrop: found a size of {self.size}, expected 2 or more."
            )
        if not (0 < self.area[0] <= self.area[1] <= 1 and 0 < self.ratio[0] <= self.ratio[1]):
            raise ConfigError(
                f"RandomResizedCrop: expected an area between 0 and 1 and a positive ratio, the "
                f"smaller number first, found area={self.area} and ratio={self.ratio}."
            )

    def cuts(self, sizes: npt.NDArray[np.int64], random: SampleRandom) -> Cuts:
        """See `Crop.cuts`."""
        height, width = sizes[:, 0].astype(np.float64), sizes[:, 1].astype(np.float64)
        draws = random.uniform(22, "random resized crop")
        area = (height * width)[:, None] * _between(draws[:, :10], *self.area)
        ratio = np.exp(_between(draws[:, 10:20], np.log(self.ratio[0]), np.log(self.ratio[1])))
        widths = np.round(np.sqrt(area * ratio))
        heights = np.round(np.sqrt(area / ratio))
        fits = (widths > 0) & (widths <= width[:, None])
        fits &= (heights > 0) & (heights <= height[:, None])
        first = fits.argmax(axis=1)[:, None]
        found = fits.any(axis=1)
        box_width = np.take_along_axis(widths, first, axis=1)[:, 0]
        box_height = np.take_along_axis(heights, first, axis=1)[:, 0]
        left = np.floor(draws[:, 20] * (width - box_width + 1))
        top = np.floor(draws[:, 21] * (height - box_height + 1))

        central_width = np.minimum(width, np.round(height * self.ratio[1]))
        central_height = np.minimum(height, np.round(width / self.ratio[0]))
        box_width = np.where(found, box_width, central_width)
        box_height = np.where(found, box_height, central_height)
        left = np.where(found, left, (width - box_width) // 2)
        top = np.where(found, top, (height - box_height) // 2)
        box = np.stack([left, top, left + box_width, top + box_height], axis=1).astype(np.int64)
        return Cuts(box, np.full_like(sizes, self.size), np.zeros_like(sizes))


@dataclass(frozen=True)
class ResizeCentreCrop(Crop):
    """The single crop of evaluation: short side to `short_side`, the central square of `size`."""

    short_side: int
    size: int

    allow_draft: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 2 <= self.size <= self.short_side:
            raise ConfigError(
                f"ResizeCentreCrop: a crop of {self.size} pixels does not fit a short side of "
                f"{self.short_side}; give a short_side of at least the crop's size."
            )

    def cuts(self, sizes: npt.NDArray[np.int64], random: SampleRandom) -> Cuts:
        """See `Crop.cuts`. The long side is rounded down, the corner to the nearest number.

        Of an image more than four times as long as it is short, only the middle is resized.
        """
        short = sizes.min(axis=1, keepdims=True)
        kept = np.minimum(sizes, 4 * short)
        start = (sizes - kept) // 2
        box = np.concatenate([start[:, ::-1], (start + kept)[:, ::-1]], axis=1)
        resized = kept * self.short_side // short
        return Cuts(box, resized, np.round((resized - self.size) / 2).astype(np.int64))


@dataclass(frozen=True)
class HorizontalFlip:
    """Mirror left and right with the given probability."""

    probability: float = 0.5

    def __call__(self, images: Tensor, random: SampleRandom) -> Tensor:
        """Images (B,C,H,W) of any dtype; a new tensor."""
        flipped = random.uniform(1, "horizontal flip")[:, 0] < self.probability
        choice = torch.from_numpy(np.arange(len(images)) + len(images) * flipped)
        both = torch.cat([images, images.flip(-1)])
        return both.index_select(0, choice.to(images.device))  # many times as fast as torch.where


@dataclass(frozen=True)
class RandomShift:
    """Shift by up to `pixels` in each direction; what comes in from outside is `fill`.

    The same as padding by `pixels` and cutting the old size out at a random place.
    """

    pixels: int
    fill: int = 0

    def __call__(self, images: Tensor, random: SampleRandom) -> Tensor:
        """Images (B,C,H,W) of any dtype; a new tensor."""
        _, _, height, width = images.shape
        reach = 2 * self.pixels + 1
        corner = torch.from_numpy(np.floor(random.uniform(2, "random shift") * reach)).long()
        corner = corner.to(images.device)
        padded = torch.nn.functional.pad(images, [self.pixels] * 4, value=self.fill)
        rows = corner[:, 0, None] + torch.arange(height, device=images.device)
        columns = corner[:, 1, None] + torch.arange(width, device=images.device)
        sample = torch.arange(len(images), device=images.device)
        channel = torch.arange(images.shape[1], device=images.device)
        # An index for every axis: one left whole would end up last in memory, and on a CPU PyTorch
        # normalises batches with their channels last less exactly.
        return padded[
            sample[:, None, None, None],
            channel[:, None, None],
            rows[:, None, :, None],
            columns[:, None, None, :],
        ]


@dataclass(frozen=True)
class Normalise:
    """uint8 to float32: divide by 255, subtract the mean, divide by the standard deviation."""

    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, images: Tensor, random: SampleRandom | None = None) -> Tensor:
        """Images uint8 (B,C,H,W) to float32, on the images' device.

        Raises:
            ConfigError: The images have another number of channels than `mean` or `std`.
        """
        if not images.shape[1] == len(self.mean) == len(self.std):
            raise ConfigError(
                f"Normalise: images with {images.shape[1]} channels need as many means and "
                f"standard deviations; found {len(self.mean)} and {len(self.std)}."
            )
        mean = torch.tensor(self.mean, device=images.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(1, -1, 1, 1)
        return images.float().div_(255.0).sub_(mean).div_(std)


def _between(numbers: npt.NDArray[np.float64], low: float, high: float) -> npt.NDArray[np.float64]:
    return low + (high - low) * numbers
