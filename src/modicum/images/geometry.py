"""Where the pixels of a batch come from: views, drawn for all images at once.

A `View` is data: which box of each image is resized to what size, what of that lies on a canvas of
one size for all, and whether it is mirrored. It moves images, label maps, points, boxes and camera
matrices alike. A `Geometry` draws one; it is also a step of a transform:

    (RandomResizedCrop(224), HorizontalFlip(), Normalise(IMAGENET_MEAN, IMAGENET_STD))

Coordinates are continuous, in pixels from the top left corner of the image: the first pixel reaches
from 0 to 1 and its centre is at 0.5.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from modicum.engine.random import SampleRandom
from modicum.errors import ConfigError

Resample: TypeAlias = Literal[
    "bilinear", "bicubic", "pillow-bilinear", "pillow-bicubic", "opencv-bilinear"
]
"""How images are resized:

- `"bilinear"`, `"bicubic"`: PyTorch's kernels with antialiasing (a filter as wide as the
  reduction), torchvision's too. Bytes differ from Pillow's by a grey level in one pixel of ten,
  very rarely by two, and by more where the bicubic filter overshoots 0 or 255;
- `"pillow-bilinear"`, `"pillow-bicubic"`: Pillow's, to the bit, and slower;
- `"opencv-bilinear"`: OpenCV's `INTER_LINEAR` of bytes, to the bit. It does not smooth what it
  reduces.
"""

Sizes: TypeAlias = npt.NDArray[np.int64]
"""(height, width) of each image, (B,2)."""


def resize(images: Tensor, size: tuple[int, int], resample: Resample = "bilinear") -> Tensor:
    """Resize equally large images (B,C,H,W) on the CPU to a height and width.

    They are uint8, or float32 except for `"opencv-bilinear"`, and stay so.
    """
    if images.shape[2:] == size:
        return images
    match resample:
        case "bilinear" | "bicubic":
            return torch.nn.functional.interpolate(images, size, mode=resample, antialias=True)
        case "opencv-bilinear":
            return _opencv_bilinear(images, size)
        case "pillow-bilinear" | "pillow-bicubic":
            kind = Image.Resampling[resample.removeprefix("pillow-").upper()]
            # Pillow's own loops; the same in whole numbers of PyTorch would take several times
            # as long, since boxes of different sizes make it a product of matrices.
            planes = [
                np.asarray(Image.fromarray(plane).resize((size[1], size[0]), kind))
                for plane in images.flatten(0, 1).numpy()
            ]
            return torch.from_numpy(np.stack(planes)).view(*images.shape[:2], *size)


def _opencv_bilinear(images: Tensor, size: tuple[int, int]) -> Tensor:
    """In 11-bit fixed point: columns, then rows, where four bits are dropped before each product.

    Columns beyond the edge have no weight, rows beyond it are the last one with its weight.
    """
    source, weight = _two_taps(images.shape[3], size[1])
    last = images.shape[3] - 1
    alone = torch.tensor([[2048], [0]], dtype=torch.int32)
    weight = torch.where((source < 0) | (source >= last), alone, weight).view(2, -1, 1, 1)
    left = source.clamp(0, last)
    lines = images.permute(0, 3, 1, 2).contiguous()  # lines are copied whole, in half the time
    across = lines[:, left] * weight[0] + lines[:, (left + 1).clamp(max=last)] * weight[1]
    source, weight = _two_taps(images.shape[2], size[0])
    last = images.shape[2] - 1
    lines = (across >> 4).permute(0, 3, 2, 1).contiguous()
    above, below = (
        lines[:, (source + tap).clamp(0, last)] * weight[tap].view(-1, 1, 1) >> 16 for tap in (0, 1)
    )
    return (above + below + 2 >> 2).to(torch.uint8).permute(0, 2, 1, 3).contiguous()


def _two_taps(before: int, after: int) -> tuple[Tensor, Tensor]:
    """The first of the two pixels that make each new one, (n,), and the weights of both, (2,n)."""
    scale = 1.0 / (after / before)
    place = ((torch.arange(after, dtype=torch.float64) + 0.5) * scale - 0.5).float()
    source = place.floor()
    part = place - source
    return source.long(), torch.stack([1 - part, part]).mul(2048).round().int()


@dataclass(frozen=True, eq=False)
class View:
    """Of each image a box, resized, on a canvas, mirrored or not. All tensors are on the CPU.

    With several views of an image those of one image lie together.
    """

    size: tuple[int, int]
    """Height and width of the canvas, in pixels."""
    box: Tensor
    """(left, top, right, bottom) of what is taken, in whole pixels of the image; int64 (V,4)."""
    resized: Tensor
    """(height, width) the box is resized to, int64 (V,2)."""
    corner: Tensor
    """(row, column) of the resized box that comes to the canvas's top left corner, int64 (V,2).
    What of the canvas is not covered by the box is filled."""
    mirrored: Tensor
    """Whether left and right of the canvas are exchanged, bool (V,)."""

    def __len__(self) -> int:
        return len(self.box)

    def take(self, rows: Tensor | slice) -> View:
        """The views of `rows`, an index of any number of them, repeated or not."""
        parts = ("box", "resized", "corner", "mirrored")
        return replace(self, **{part: getattr(self, part)[rows] for part in parts})

    def images(
        self, images: Tensor | Sequence[Tensor], resample: Resample = "bilinear", fill: float = 0
    ) -> Tensor:
        """What is seen of images.

        Args:
            images: (B,C,H,W), or a sequence of B tensors (C,H,W) of any sizes; uint8, or float32.
                On the CPU where something is resized, else on any device.
            resample: How a box is resized.
            fill: Value where the canvas is not covered.

        Returns:
            (V,C,*size); V is B, or a multiple of it with several views of an image.
        """
        several = self._several(images)
        if isinstance(images, Tensor) and not self._resizes:
            return self._nearest(images, fill)
        plans = torch.cat([self.box, self.resized, self.corner], dim=1).tolist()
        if isinstance(images, Tensor) and several == 1 and plans.count(plans[0]) == len(plans):
            return self._mirror(_seen(images, plans[0], self.size, resample, fill))
        result = images[0].new_empty((len(self), images[0].shape[0], *self.size))
        # One at a time: boxes of different sizes would have to be resized by products of matrices,
        # which take 5 (32 pixels) to 60 times (224 pixels) as long as PyTorch's kernel for bytes.
        for row, plan in enumerate(plans):
            image = images[row // several]
            result[row] = _seen(image[None], plan, self.size, resample, fill)[0]
        return self._mirror(result)

    def label_maps(self, maps: Tensor | Sequence[Tensor], fill: int = 0) -> Tensor:
        """What is seen of label maps or masks; a pixel is that nearest to its place.

        Args:
            maps: (B,H,W), or a sequence of B tensors (H,W) of any sizes; of any dtype.
            fill: Label where the canvas is not covered.

        Returns:
            (V,*size) of the maps' dtype; V is B, or a multiple of it.
        """
        several = self._several(maps)
        if isinstance(maps, Tensor):
            return self._nearest(maps[:, None], fill)[:, 0]
        views = (self.take(slice(first, first + several)) for first in range(0, len(self), several))
        parts = [
            view._nearest(one[None, None], fill) for view, one in zip(views, maps, strict=True)
        ]
        return torch.cat(parts)[:, 0]

    def matrices(self) -> Tensor:
        """From places (x, y, 1) in the image to places on the canvas, float64 (V,3,3)."""
        sides = (self.box[:, 2:] - self.box[:, :2]).double()
        scale = self.resized.flip(1) / sides  # (x, y), as all below
        shift = -self.box[:, :2] * scale - self.corner.flip(1)
        sign = torch.where(self.mirrored, -1.0, 1.0).double()
        matrix = torch.zeros(len(self), 3, 3, dtype=torch.float64)
        matrix[:, 0, 0], matrix[:, 1, 1] = scale[:, 0] * sign, scale[:, 1]
        matrix[:, 0, 2] = shift[:, 0] * sign + self.mirrored * self.size[1]
        matrix[:, 1, 2] = shift[:, 1]
        matrix[:, 2, 2] = 1.0
        return matrix

    def points(self, points: Tensor) -> Tensor:
        """Where points (x, y) of the images come to on the canvas, or beside it.

        Args:
            points: Floating point (V,...,2). Of images with different numbers of points, take the
                view of each point: `view.take(image_of_point).points(points)` with (P,2).

        Returns:
            The same shape, dtype and device.
        """
        matrix = self.matrices().to(points.device)
        matrix = matrix.view(len(self), *[1] * (points.ndim - 2), 3, 3)
        places = (matrix[..., :2, :2] @ points.double()[..., None])[..., 0] + matrix[..., :2, 2]
        return places.to(points.dtype)

    def boxes(self, boxes: Tensor, *, clip: bool = True) -> Tensor:
        """Where boxes (left, top, right, bottom) of the images come to on the canvas.

        Args:
            boxes: Floating point (V,...,4). See `points` for different numbers of boxes.
            clip: Cut at the canvas's border; a box beside the canvas has then no area.

        Returns:
            The same shape, dtype and device.
        """
        corners = self.points(boxes.unflatten(-1, (2, 2)))
        corners = torch.stack([corners.amin(-2), corners.amax(-2)], dim=-2)
        limit = corners.new_tensor(self.size[::-1])
        return (corners.clamp(min=0).minimum(limit) if clip else corners).flatten(-2)

    def cameras(self, matrices: Tensor) -> Tensor:
        """Camera matrices of the canvas, of those of the images.

        Args:
            matrices: Intrinsic matrices, or projections from the world to (u d, v d, d[, 1]) with u
                and v in pixels and d the depth; floating point (V,...,3,3), (V,...,3,4) or
                (V,...,4,4).

        Returns:
            The same shape, dtype and device.
        """
        moved = self.matrices().to(matrices.device)
        moved = moved.view(len(self), *[1] * (matrices.ndim - 3), 3, 3)
        upper = (moved @ matrices[..., :3, :].double()).to(matrices.dtype)
        return torch.cat([upper, matrices[..., 3:, :]], dim=-2)

    @property
    def _resizes(self) -> bool:
        return bool((self.box[:, 2:] - self.box[:, :2] != self.resized.flip(1)).any())

    def _several(self, images: Tensor | Sequence[Tensor]) -> int:
        several = len(self) // max(len(images), 1)
        if not several or several * len(images) != len(self):
            raise ValueError(f"found {len(images)} images for {len(self)} views")
        return several

    def _mirror(self, images: Tensor) -> Tensor:
        if not self.mirrored.any():
            return images
        choice = torch.arange(len(images)) + len(images) * self.mirrored
        both = torch.cat([images, images.flip(-1)])
        return both.index_select(0, choice.to(images.device))  # many times as fast as torch.where

    def _nearest(self, images: Tensor, fill: float) -> Tensor:
        """(B,C,H,W) to (V,C,*size), every pixel the nearest one."""
        several, device = self._several(images), images.device
        height, width = images.shape[-2:]
        whole = torch.tensor([0, 0, width, height, height, width, 0, 0])
        plans = torch.cat([self.box, self.resized, self.corner], dim=1)
        if several == 1 and self.size == (height, width) and (plans == whole).all():
            return self._mirror(images)
        rows, columns = self._sources(0, height), self._sources(1, width)
        columns = torch.where(self.mirrored[:, None], columns.flip(1), columns).to(device)
        if (rows == height).any() or (columns == width).any():
            images = torch.nn.functional.pad(images, (0, 1, 0, 1), value=fill)
        image = torch.arange(len(self), device=device) // several
        channel = torch.arange(images.shape[1], device=device)
        # An index for every axis: one left whole would end up last in memory, and on a CPU PyTorch
        # normalises batches with their channels last less exactly.
        return images[
            image[:, None, None, None],
            channel[:, None, None],
            rows.to(device)[:, None, :, None],
            columns[:, None, None, :],
        ]

    def _sources(self, axis: int, outside: int) -> Tensor:
        """The pixel of the image nearest to each row (column) of the canvas, (V,size)."""
        low, high = self.box[:, 1 - axis, None], self.box[:, 3 - axis, None]
        resized = self.resized[:, axis, None]
        place = torch.arange(self.size[axis]) + self.corner[:, axis, None]
        source = low + (2 * place + 1) * (high - low) // (2 * resized)
        return torch.where((place >= 0) & (place < resized), source, outside)


def _seen(
    images: Tensor, plan: Sequence[int], size: tuple[int, int], resample: Resample, fill: float
) -> Tensor:
    """All images (B,C,H,W) in one view, given as its box, resized and corner: (B,C,*size)."""
    left, top, right, bottom, height, width, row, column = plan
    part = resize(images[:, :, top:bottom, left:right], (height, width), resample)
    if min(row, column) >= 0 and row + size[0] <= height and column + size[1] <= width:
        return part[:, :, row : row + size[0], column : column + size[1]]
    canvas = images.new_full((*images.shape[:2], *size), fill)
    part = part[:, :, max(row, 0) : row + size[0], max(column, 0) : column + size[1]]
    row, column = max(-row, 0), max(-column, 0)
    canvas[:, :, row : row + part.shape[2], column : column + part.shape[3]] = part
    return canvas


_NOBODY = SampleRandom(0, 0, np.zeros(1, np.int64))


class Geometry(ABC):
    """A step that draws a `View` of each image. The first step's is taken as a file is decoded."""

    resample: Resample = "bilinear"
    fill: int = 0
    allow_draft: ClassVar[bool] = False
    """Whether a JPEG that is far larger than needed may be decoded at 1/2, 1/4 or 1/8 scale."""

    @abstractmethod
    def view(self, sizes: Sizes, random: SampleRandom) -> View:
        """The views of images of the given sizes."""

    def __call__(self, images: Tensor, random: SampleRandom) -> Tensor:
        """What is seen of equally large images (B,C,H,W). See `View.images`."""
        if not len(images):
            return self(images.new_zeros(1, *images.shape[1:]), _NOBODY)[:0]
        sizes = np.tile(np.array([images.shape[-2:]], np.int64), (len(images), 1))
        return self.view(sizes, random).images(images, self.resample, self.fill)


@dataclass(frozen=True)
class RandomResizedCrop(Geometry):
    """A random part of the image, resized: the augmentation of Szegedy et al. (2014), as usual now.

    A box of random area and aspect ratio (log-uniform) is tried ten times; if it never fits, the
    largest central box of an allowed ratio is taken. These are torchvision's rules.
    """

    size: int | tuple[int, int]
    """Side, or height and width, in pixels."""
    area: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest share of the image's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width : height."""
    resample: Resample = "bilinear"

    allow_draft: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if min(_sides(self.size)) < 2:
            raise ConfigError(
                f"RandomResizedCrop: found a size of {self.size}, expected 2 or more."
            )
        if not (0 < self.area[0] <= self.area[1] <= 1 and 0 < self.ratio[0] <= self.ratio[1]):
            raise ConfigError(
                f"RandomResizedCrop: expected an area between 0 and 1 and a positive ratio, the "
                f"smaller number first, found area={self.area} and ratio={self.ratio}."
            )

    def view(self, sizes: Sizes, random: SampleRandom) -> View:
        """See `Geometry.view`."""
        sides = sizes[:, ::-1].astype(np.float64)  # (width, height), as all below
        draws = random.uniform(22, "random resized crop")
        area = sides.prod(axis=1)[:, None] * _between(draws[:, :10], *self.area)
        ratio = np.exp(_between(draws[:, 10:20], np.log(self.ratio[0]), np.log(self.ratio[1])))
        tried = np.round(np.sqrt(np.stack([area * ratio, area / ratio], axis=2)))
        fits = np.all((tried > 0) & (tried <= sides[:, None]), axis=2)
        found = np.any(fits, axis=1)[:, None]
        first = tried[np.arange(len(tried)), fits.argmax(axis=1)]
        across = np.stack([sides[:, 1] * self.ratio[1], sides[:, 0] / self.ratio[0]], axis=1)
        part = np.where(found, first, np.minimum(sides, np.round(across)))
        rest = sides - part
        corner = np.where(found, np.floor(draws[:, 20:] * (rest + 1)), rest // 2)
        box = np.concatenate([corner, corner + part], axis=1)
        size = _sides(self.size)
        return _view(size, box, np.tile(size, (len(sizes), 1)), np.zeros_like(sizes))


@dataclass(frozen=True)
class ResizeCentreCrop(Geometry):
    """The single crop of evaluation: short side to `short_side`, the central square of `size`."""

    short_side: int
    size: int
    resample: Resample = "bilinear"

    def __post_init__(self) -> None:
        if not 2 <= self.size <= self.short_side:
            raise ConfigError(
                f"ResizeCentreCrop: a crop of {self.size} pixels does not fit a short side of "
                f"{self.short_side}; give a short_side of at least the crop's size."
            )

    def view(self, sizes: Sizes, random: SampleRandom) -> View:
        """See `Geometry.view`. The long side is rounded down, the corner to the nearest number.

        Of an image more than four times as long as it is short, only the middle is resized.
        """
        short = sizes.min(axis=1, keepdims=True)
        kept = np.minimum(sizes, 4 * short)
        start = (sizes - kept) // 2
        box = np.concatenate([start[:, ::-1], (start + kept)[:, ::-1]], axis=1)
        resized = kept * self.short_side // short
        return _view((self.size, self.size), box, resized, np.round((resized - self.size) / 2))


@dataclass(frozen=True)
class Resize(Geometry):
    """Whole images: resized to a short side, or to a height and width.

    With a short side the aspect is kept, sides are rounded to the nearest number, and the canvas is
    as large as the largest image of the batch; images lie in its top left corner.
    """

    size: int | tuple[int, int]
    """Short side, or height and width, in pixels."""
    max_size: int | None = None
    """What the long side may have at most, in pixels; the short side is then shorter."""
    multiple: int = 1
    """What the canvas's height and width are multiples of, in pixels."""
    resample: Resample = "bilinear"
    fill: int = 0

    def view(self, sizes: Sizes, random: SampleRandom) -> View:
        """See `Geometry.view`."""
        if isinstance(self.size, int):
            resized = _scaled(sizes, self.size, self.max_size or np.inf, np.ones(len(sizes)))
        else:
            resized = np.tile(np.array(self.size, np.int64), (len(sizes), 1))
        largest = resized.max(axis=0, initial=1)
        height, width = (-(-largest // self.multiple) * self.multiple).tolist()
        return _view((height, width), _whole(sizes), resized, np.zeros_like(sizes))


@dataclass(frozen=True)
class ScaleJitter(Geometry):
    """Large-scale jitter: resize by a random factor, cut a canvas out anywhere, pad what is small.

    Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance
    Segmentation", CVPR 2021, whose factor is relative to an image that fits into the canvas.
    The aspect is kept. A smaller image lies in the top left corner.
    """

    size: int | tuple[int, int]
    """Side, or height and width, of the canvas in pixels."""
    scale: tuple[float, float] = (0.1, 2.0)
    """Smallest and largest factor."""
    short_side: int | None = None
    """Pixels the short side has at most at factor 1; none: the canvas's shorter side."""
    max_size: int | None = None
    """Pixels the long side has at most at factor 1; none: the canvas's shorter side."""
    flip: float = 0.0
    """Probability that left and right are exchanged."""
    resample: Resample = "bilinear"
    fill: int = 0

    def view(self, sizes: Sizes, random: SampleRandom) -> View:
        """See `Geometry.view`."""
        size = _sides(self.size)
        draws = random.uniform(3, "scale jitter")
        short, longest = (side or min(size) for side in (self.short_side, self.max_size))
        resized = _scaled(sizes, short, longest, _between(draws[:, 0], *self.scale))
        corner = np.floor(draws[:, 1:] * (np.maximum(resized - size, 0) + 1))
        return _view(size, _whole(sizes), resized, corner, _flipped(random, self.flip))


@dataclass(frozen=True)
class RandomCrop(Geometry):
    """Parts of one size from anywhere in the image. A smaller image is padded at right and bottom.

    With several crops, those of an image lie together: (B,C,H,W) becomes (B crops,C,*size).
    """

    size: int | tuple[int, int]
    """Side, or height and width, in pixels."""
    crops: int = 1
    """Crops of each image."""
    flip: float = 0.0
    """Probability that left and right of a crop are exchanged."""
    fill: int = 0

    def view(self, sizes: Sizes, random: SampleRandom) -> View:
        """See `Geometry.view`."""
        size = _sides(self.size)
        draws = random.uniform(2 * self.crops, "random crop").reshape(-1, 2)
        sizes = sizes.repeat(self.crops, axis=0)
        corner = np.floor(draws * (np.maximum(sizes - size, 0) + 1))
        return _view(size, _whole(sizes), sizes, corner, _flipped(random, self.flip, self.crops))


@dataclass(frozen=True)
class RandomShift(Geometry):
    """Shift by up to `pixels` in each direction; what comes in from outside is `fill`.

    The same as padding by `pixels` and cutting the old size out at a random place. For equally
    large images, of any dtype and on any device.
    """

    pixels: int
    fill: int = 0

    def view(self, sizes: Sizes, random: SampleRandom) -> View:
        """See `Geometry.view`."""
        corner = np.floor(random.uniform(2, "random shift") * (2 * self.pixels + 1)) - self.pixels
        return _view(_common(sizes), _whole(sizes), sizes, corner)


@dataclass(frozen=True)
class HorizontalFlip(Geometry):
    """Mirror left and right with the given probability.

    For equally large images, of any dtype and on any device.
    """

    probability: float = 0.5

    def view(self, sizes: Sizes, random: SampleRandom) -> View:
        """See `Geometry.view`."""
        flipped = _flipped(random, self.probability)
        return _view(_common(sizes), _whole(sizes), sizes, np.zeros_like(sizes), flipped)


def _view(
    size: tuple[int, int],
    box: npt.NDArray[Any],
    resized: npt.NDArray[Any],
    corner: npt.NDArray[Any],
    mirrored: npt.NDArray[np.bool_] | None = None,
) -> View:
    if mirrored is None:
        mirrored = np.zeros(len(box), np.bool_)
    whole = [torch.from_numpy(part.astype(np.int64)) for part in (box, resized, corner)]
    return View(size, whole[0], whole[1], whole[2], torch.from_numpy(mirrored))


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _common(sizes: Sizes) -> tuple[int, int]:
    """The largest height and width; equally large images have it."""
    height, width = sizes.max(axis=0).tolist()
    return height, width


def _whole(sizes: Sizes) -> Sizes:
    return np.concatenate([np.zeros_like(sizes), sizes[:, ::-1]], axis=1)


def _scaled(sizes: Sizes, short: float, longest: float, factor: npt.NDArray[np.float64]) -> Sizes:
    """Sizes with `factor` times a short side, or less if the long side would be above `longest`."""
    shortest, longer = sizes.min(axis=1), sizes.max(axis=1)
    scale = np.minimum(factor * short / shortest, factor * longest / longer)
    return np.maximum(np.round(sizes * scale[:, None]), 1).astype(np.int64)


def _flipped(random: SampleRandom, probability: float, several: int = 1) -> npt.NDArray[np.bool_]:
    return (random.uniform(several, "horizontal flip") < probability).reshape(-1)


def _between(numbers: npt.NDArray[np.float64], low: float, high: float) -> npt.NDArray[np.float64]:
    return low + (high - low) * numbers
