"""Batches of crops with label maps to train on, and whole images to measure on.

The preprocessing of ADE20K as published: resize by a random factor, a crop in which no class has
more than three quarters, mirror, distort the colours, pad. Random numbers belong to samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Unpack

from modicum.data.loader import Loader, Order
from modicum.engine.random import SampleRandom
from modicum.images.geometry import Resample, Resize, ScaleJitter, View
from modicum.images.pixels import IMAGENET_MEAN
from modicum.methods.tinymim.segmentation.pair_sets import IGNORED, MemoryPairs, Pair, PairSet
from modicum.methods.tinymim.segmentation.pictures import rgb_of_hsv

_PADDING = torch.tensor(IMAGENET_MEAN).mul(255).round().to(torch.uint8).view(3, 1, 1)
"""What normalising makes zero, to less than a hundredth."""
_TRIES = 10


@dataclass(frozen=True)
class Batch:
    """Crops with their label maps."""

    image: Tensor
    """uint8 (B,3,H,W)."""
    label_map: Tensor
    """uint8 (B,H,W); `IGNORED` where there is no class."""
    index: Tensor
    """Of the images in their set, int64 (B,)."""

    @property
    def label(self) -> Tensor:
        """What cross entropy takes, int64 (B,H,W)."""
        return self.label_map.long()


@dataclass(frozen=True)
class WholeBatch:
    """Resized images, whole, with label maps as they are in their files."""

    image: list[Tensor]
    """uint8 (3,h,w), of any sizes."""
    label_map: list[Tensor]
    """uint8 (H,W), of the images before they were resized; `IGNORED` where there is no class."""
    index: Tensor
    """Of the images in their set, int64 (B,)."""


@dataclass(frozen=True)
class PhotometricDistortion:
    """Brightness, contrast, saturation and hue by random amounts, each with probability 1/2.

    Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, as segmentation uses it: contrast
    comes second or last, and saturation and hue are changed in OpenCV's 8-bit HSV, here in one go.
    """

    brightness: float = 32.0
    """Most grey levels added or subtracted."""
    contrast: float = 0.5
    """How far the factor is from 1 at most."""
    saturation: float = 0.5
    """How far the factor is from 1 at most."""
    hue: int = 18
    """Most steps of 2 degrees; whole ones, from -hue to hue - 1."""

    def __call__(self, images: Tensor, random: SampleRandom) -> Tensor:
        """Images uint8 (B,3,H,W); a new tensor."""
        draws = torch.from_numpy(random.uniform(9, "photometric distortion"))
        happens, amount, last = draws[:, :4] < 0.5, 2 * draws[:, 4:8] - 1, draws[:, 8] < 0.5
        contrast = 1 + self.contrast * amount[:, 1]
        saturation = 1 + self.saturation * amount[:, 2] * happens[:, 2]
        turn = (self.hue * amount[:, 3]).floor() * happens[:, 3]
        result = images.clone()
        for rows, change in (
            (happens[:, 0], lambda few: _linear(result[few], 1, self.brightness * amount[few, 0])),
            (happens[:, 1] & ~last, lambda few: _linear(result[few], contrast[few])),
            (
                happens[:, 2:].any(1),
                lambda few: _recoloured(result[few], saturation[few], turn[few]),
            ),
            (happens[:, 1] & last, lambda few: _linear(result[few], contrast[few])),
        ):
            if rows.any():
                few = rows.nonzero()[:, 0]
                result[few] = change(few)
        return result


def _linear(levels: Tensor, factor: Tensor | float, added: Tensor | float = 0) -> Tensor:
    """`factor` and `added` for each image, cut off and rounded down: uint8."""
    factor, added = (
        part.float().view(-1, *[1] * (levels.ndim - 1)) if isinstance(part, Tensor) else part
        for part in (factor, added)
    )
    return (levels.float() * factor + added).clamp(0, 255).to(torch.uint8)


def _recoloured(images: Tensor, saturation: Tensor, turn: Tensor) -> Tensor:
    """Saturation by a factor and hue by steps of 2 degrees for each image; rounded as OpenCV."""
    red, green, blue = images.int().unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    level = _PER_VALUE[value].mul_(chroma).add_(2048) >> 12
    sextants = torch.where(value == green, 2 * chroma + blue - red, 4 * chroma + red - green)
    sextants = torch.where(value == red, green - blue, sextants)
    hue = _PER_CHROMA[chroma].mul_(sextants).add_(2048) >> 12
    hue = (hue + turn.int().view(-1, 1, 1)) % 180
    return rgb_of_hsv(hue / 180, _linear(level, saturation).float() / 255, value.float()).to(
        torch.uint8
    )


_LEVELS = torch.arange(256).clamp(min=1)
_PER_VALUE = (4096 * 255 / _LEVELS).round().int()
_PER_CHROMA = (4096 * 30 / _LEVELS).round().int()
"""OpenCV's fixed point, 12 bits of fraction: 8-bit saturation and hue of 180 steps."""


@dataclass(frozen=True)
class TrainingCrops:
    """Random crops of pairs, as ADE20K is trained on.

    Of up to ten crops the first is taken that shows two classes at least and none on
    `max_class_share` of its labelled pixels or more, else one more. What is small is padded at the
    right and bottom, with the mean colour of ImageNet and with `IGNORED`. Label maps are resized
    to the nearest pixel.
    """

    size: int | tuple[int, int] = 512
    """Side, or height and width, of a crop in pixels."""
    short_side: int = 512
    """Pixels the short side of the image has at factor 1, or fewer because of `max_size`."""
    max_size: int = 2048
    """Pixels the long side has at most at factor 1."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Smallest and largest factor."""
    max_class_share: float = 0.75
    """1: any crop."""
    flip: float = 0.5
    """Probability that left and right are exchanged."""
    distortion: PhotometricDistortion | None = PhotometricDistortion()
    resample: Resample = "opencv-bilinear"
    """How images are resized."""

    def __call__(self, pairs: Sequence[Pair], random: SampleRandom) -> Batch:
        """Crops of images with their label maps, `random` being that of these samples."""
        images, maps = [pair.image for pair in pairs], [pair.label_map for pair in pairs]
        if not pairs:
            height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
            image = torch.empty(0, 3, height, width, dtype=torch.uint8)
            return Batch(image, image[:, 0], torch.from_numpy(random.index))
        view = self._view(maps, random)
        image = view.images(images, self.resample)
        for row, (height, width) in enumerate(view.resized.tolist()):
            one = slice(row, row + 1)
            if self.distortion is not None:  # one at a time stays in the cache: 2.4 times as fast
                its = SampleRandom(random.seed, random.epoch, random.index[one])
                image[one] = self.distortion(image[one], its)
            image[row, :, height:], image[row, :, :, width:] = _PADDING, _PADDING
        label_map = view.label_maps(maps, fill=IGNORED)
        return Batch(image, label_map, torch.from_numpy(random.index))

    def _view(self, maps: Sequence[Tensor], random: SampleRandom) -> View:
        jitter = ScaleJitter(
            self.size, self.scale, self.short_side, self.max_size, self.flip, self.resample
        )
        view = jitter.view(np.array([one.shape for one in maps], np.int64), random)
        canvas = torch.tensor(view.size)
        if self.max_class_share < 1:
            draws = torch.from_numpy(random.uniform(2 * _TRIES, "crops of several classes"))
            room = (view.resized - canvas).clamp(min=0)[:, None]
            more = (draws.view(-1, _TRIES, 2) * (room + 1)).long()
            corners = torch.cat([view.corner[:, None], more], dim=1).tolist()
            chosen = [
                self._corner(one, view.take(slice(row, row + 1)), corners[row])
                for row, one in enumerate(maps)
            ]
            view = replace(view, corner=torch.tensor(chosen))
        # Mirroring the canvas brings its left to the right, where what is small is padded.
        outside = (view.resized - canvas).clamp(max=0) * torch.tensor([0, 1])
        return replace(view, corner=view.corner + outside * view.mirrored[:, None])

    def _corner(self, labels: Tensor, view: View, corners: list[list[int]]) -> list[int]:
        """The first corner whose crop is mixed enough, else the last one."""
        tried: list[list[int]] = []
        for corner in corners[:-1]:
            if corner in tried:
                continue
            tried.append(corner)
            seen = replace(view, corner=torch.tensor([corner])).label_maps([labels], IGNORED)
            counts = torch.bincount(seen.flatten(), minlength=256)[:IGNORED]
            if counts.count_nonzero() > 1 and counts.max() < self.max_class_share * counts.sum():
                return corner
        return corners[-1]


@dataclass(frozen=True)
class WholeImages:
    """Images resized to a short side, their aspect kept, to predict and measure on."""

    short_side: int = 512
    """In pixels."""
    max_size: int = 2048
    """Pixels the long side has at most; the short side is then shorter."""
    resample: Resample = "opencv-bilinear"
    """How images are resized."""

    def __call__(self, pairs: Sequence[Pair], random: SampleRandom) -> WholeBatch:
        """Resized images with the label maps as they are."""
        resized = [self.resized(pair.image) for pair in pairs]
        index = torch.from_numpy(random.index)
        return WholeBatch(resized, [pair.label_map for pair in pairs], index)

    def resized(self, image: Tensor) -> Tensor:
        """An image uint8 (3,H,W) as the network is to see it, (3,h,w)."""
        resize = Resize(self.short_side, self.max_size, resample=self.resample)
        return resize(image[None], SampleRandom(0, 0, np.zeros(1, np.int64)))[0]


Made = TypeVar("Made", Batch, WholeBatch)


@dataclass(frozen=True)
class _Maker(Generic[Made]):
    pairs: PairSet
    steps: Callable[[Sequence[Pair], SampleRandom], Made]

    def __call__(self, random: SampleRandom) -> Made:
        return self.steps([self.pairs.read(number) for number in random.index.tolist()], random)


def pair_loader(
    pairs: PairSet,
    batch_size: int,
    steps: Callable[[Sequence[Pair], SampleRandom], Made],
    **order: Unpack[Order],
) -> Loader[Made]:
    """Batches of pairs, as `TrainingCrops` or `WholeImages` make them.

    Args:
        pairs: Where they come from.
        batch_size: Of all processes together.
        steps: `TrainingCrops(...)`, or `WholeImages(...)` for images of any sizes.
        **order: As of `modicum.data.loader.Loader`. Pairs in memory need no workers, which is the
            default for them.
    """
    if isinstance(pairs, MemoryPairs) and order.get("workers") is None:
        order["workers"] = 0
    return Loader(len(pairs), batch_size, _Maker(pairs, steps), **order)
