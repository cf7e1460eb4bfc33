"""What is done to pixels where they are: normalising, colour jitter, erasing, Pillow's operations.

Operations work on whole batches of bytes, with a strength for each image, and are Pillow's to the
bit. Steps draw the strengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modicum.engine.random import SampleRandom
from modicum.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)

Fill: TypeAlias = int | tuple[int, ...]
Kernel: TypeAlias = Literal["nearest", "bicubic"]


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


@dataclass(frozen=True)
class ColourJitter:
    """Brightness, contrast and saturation by random factors, in random order: torchvision's rules.

    A strength s means a factor uniform in [max(0, 1 - s), 1 + s].
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __call__(self, images: Tensor, random: SampleRandom) -> Tensor:
        """Images uint8 (B,C,H,W), C 1 or 3; a new tensor on their device."""
        strengths = np.array([self.brightness, self.contrast, self.saturation])
        draws = random.uniform(6, "colour jitter")
        low = np.maximum(0.0, 1.0 - strengths)
        factors = torch.from_numpy(low + draws[:, :3] * (1.0 + strengths - low))
        orders = draws[:, 3:].argsort(axis=1)
        result = images.clone()
        for turn in range(3):
            for number, operation in enumerate((brightness, contrast, colour)):
                (drew,) = np.nonzero(orders[:, turn] == number)
                if len(drew) and strengths[number]:
                    chosen = torch.from_numpy(drew).to(images.device)
                    factor = factors[drew, number].to(images.device)
                    result[chosen] = operation(result[chosen], factor)
        return result


@dataclass(frozen=True)
class RandomErasing:
    """Replace a random rectangle by normal noise, a number for every value.

    Zhong et al., "Random Erasing Data Augmentation", AAAI 2020, with the rules of timm's `pixel`
    mode: a rectangle of random area and aspect ratio (log-uniform) is tried ten times; if it never
    fits inside the image, nothing is erased. For normalised images.
    """

    probability: float = 0.25
    """Probability that an image is touched at all."""
    area: tuple[float, float] = (0.02, 1 / 3)
    """Smallest and largest share of the image's area."""
    ratio: tuple[float, float] = (0.3, 1 / 0.3)
    """Smallest and largest height : width."""

    def __call__(self, images: Tensor, random: SampleRandom) -> Tensor:
        """Images float32 (B,C,H,W); a new tensor on their device."""
        channels, height, width = images.shape[1:]
        draws = random.uniform(23, "random erasing")
        area = height * width * (self.area[0] + draws[:, 1:11] * (self.area[1] - self.area[0]))
        low, high = np.log(self.ratio)
        ratio = np.exp(low + draws[:, 11:21] * (high - low))
        heights, widths = np.round(np.sqrt(area * ratio)), np.round(np.sqrt(area / ratio))
        fits = (heights < height) & (widths < width)
        first = fits.argmax(axis=1)[:, None]
        sides = [np.take_along_axis(lengths, first, 1) for lengths in (heights, widths)]
        (drew,) = np.nonzero((draws[:, 0] < self.probability) & fits.any(axis=1))
        if not len(drew):
            return images.clone()
        inside = [
            (places >= start) & (places < start + side[drew])
            for axis, (side, length) in enumerate(zip(sides, (height, width), strict=True))
            for start in [np.floor(draws[drew, 21 + axis, None] * (length - side[drew] + 1))]
            for places in [np.arange(length)]
        ]
        box = torch.from_numpy(inside[0][:, :, None] & inside[1][:, None, :]).to(images.device)
        erased = SampleRandom(random.seed, random.epoch, random.index[drew])
        noise = torch.from_numpy(erased.normal(channels * height * width, "erasing noise"))
        noise = noise.to(images.device, images.dtype).view(-1, channels, height, width)
        result = images.clone()
        chosen = torch.from_numpy(drew).to(images.device)
        result[chosen] = torch.where(box[:, None], noise, images[chosen])
        return result


def affine(images: Tensor, matrix: Tensor, fill: Fill = 0, kernel: Kernel = "nearest") -> Tensor:
    """Move pixels of images uint8 (n,C,H,W) as Pillow's `transform(AFFINE)` does.

    Args:
        images: The images.
        matrix: float64 (n,6): output (x, y) shows input (a x + b y + c, d x + e y + f), measured
            from the corner of the image.
        fill: Grey level, or one for each channel, where the input is outside the image.
        kernel: How pixels are made that come from between others.
    """
    if kernel == "bicubic":
        return _bicubic(images, matrix, fill)
    count, channels, height, width = images.shape
    a, b, c, d, e, f = matrix[:, :, None, None].unbind(1)
    x = torch.arange(width, device=images.device)[None, None, :]
    y = torch.arange(height, device=images.device)[None, :, None]
    column = _fixed(c + 0.5 * a + 0.5 * b) + x * _fixed(a) + y * _fixed(b) >> 16
    row = _fixed(f + 0.5 * d + 0.5 * e) + x * _fixed(d) + y * _fixed(e) >> 16
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    source = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).view(count, 1, -1)
    moved = images.flatten(2).gather(2, source.expand(-1, channels, -1)).view_as(images)
    levels = torch.tensor(fill, dtype=images.dtype, device=images.device).view(-1, 1, 1)
    return torch.where(inside[:, None], moved, levels)


def _bicubic(images: Tensor, matrix: Tensor, fill: Fill) -> Tensor:
    """By Pillow, image by image: 16 pixels make one, which PyTorch takes four times as long for."""
    channels, height, width = images.shape[1:]
    levels = (fill,) * channels if isinstance(fill, int) else fill
    fillcolor = levels if channels == 3 else levels[0]
    move, kernel = Image.Transform.AFFINE, Image.Resampling.BICUBIC
    pictures = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    moved = np.empty_like(pictures)
    for before, after, numbers in zip(pictures, moved, matrix.tolist(), strict=True):
        picture = Image.fromarray(before if channels == 3 else before[:, :, 0])
        picture = picture.transform((width, height), move, numbers, kernel, fillcolor=fillcolor)
        after[:] = np.asarray(picture).reshape(after.shape)
    return torch.from_numpy(moved).permute(0, 3, 1, 2).to(images.device)


def _fixed(numbers: Tensor) -> Tensor:
    return torch.floor(numbers * 65536.0 + 0.5).long()


def rotation(degrees: Tensor, height: int, width: int) -> Tensor:
    """Rotations about the centre, anticlockwise, for `affine`: (n,) degrees to (n,6)."""
    angle = -torch.deg2rad(degrees)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    middle_x, middle_y = width / 2.0, height / 2.0
    x = cosine * -middle_x + sine * -middle_y + middle_x
    y = -sine * -middle_x + cosine * -middle_y + middle_y
    return torch.stack([cosine, sine, x, -sine, cosine, y], dim=1)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with black; factor (n,), 1 changes nothing."""
    return _point(lambda levels: _blend(levels.new_zeros(()), levels, factor), images)


def colour(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey image; factor (n,), 1 changes nothing."""
    return _blend(_grey(images), images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean grey level, rounded; factor (n,), 1 changes nothing."""
    mean = _grey(images).double().mean(dim=(1, 2, 3), keepdim=True)
    return _point(lambda levels: _blend((mean + 0.5).floor(), levels, factor), images)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image smoothed inside its border; factor (n,), 1 changes nothing."""
    result, inner = images.clone(), (..., slice(1, -1), slice(1, -1))
    if min(images.shape[-2:]) > 2:
        total = images.float()  # of the 3x3 around each pixel, itself five times; exact
        centre = total[inner] * 4
        total = total[..., :-2, :] + total[..., 1:-1, :] + total[..., 2:, :]
        total = total[..., :-2] + total[..., 1:-1] + total[..., 2:]
        smooth = total.add_(centre).add_(6.5).div_(13.0).floor_()
        result[inner] = _blend(smooth, images[inner], factor)
    return result


def posterise(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the upper `bits` (n,), int64 from 0 to 8, of every pixel."""
    mask = 256 - (1 << (8 - bits))
    return images & mask.to(torch.uint8)[:, None, None, None]


def solarise(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the pixels from `threshold` (n,) on."""
    bound = threshold[:, None, None, None]
    return _point(lambda levels: torch.where(levels < bound, levels, 255 - levels), images)


def solarise_add(images: Tensor, addition: Tensor) -> Tensor:
    """Add to the pixels below 128; addition (n,), int64 from 0 to 127."""
    added = addition.to(torch.uint8)[:, None, None, None]
    return _point(lambda levels: torch.where(levels < 128, levels + added, levels), images)


def auto_contrast(images: Tensor) -> Tensor:
    """Stretch every channel to the whole range from 0 to 255."""
    planes = images.flatten(2)
    low, high = planes.amin(dim=2).double()[..., None], planes.amax(dim=2).double()[..., None]
    reach = (high - low).clamp(min=1.0)
    scale = torch.full_like(reach, 255.0) / reach  # 255.0 / reach rounds twice in PyTorch
    level = torch.arange(256, dtype=torch.float64, device=images.device)
    table = (level * scale - low * scale).trunc().clamp(0, 255)
    return _look_up(torch.where(high > low, table, level), images)


def equalise(images: Tensor) -> Tensor:
    """Make the histogram of every channel as flat as a table of grey levels can."""
    planes = images.flatten(2)
    counts = [torch.bincount(plane, minlength=256) for plane in planes.flatten(0, 1)]
    histogram = torch.stack(counts).view(*planes.shape[:2], 256)
    brightest = histogram.gather(2, planes.amax(dim=2, keepdim=True).long())
    step = (planes.shape[2] - brightest) // 255
    below = histogram.cumsum(dim=2) - histogram
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    return _look_up(torch.where(step > 0, table, torch.arange(256, device=table.device)), images)


def _point(operation: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Do to pixels what depends on their grey level alone: to the 256 levels, then look up."""
    levels = torch.arange(256, device=images.device).to(torch.uint8).repeat(len(images), 1, 1, 1)
    return _look_up(operation(levels)[:, 0].expand(-1, images.shape[1], -1), images)


def _look_up(table: Tensor, images: Tensor) -> Tensor:
    """Grey levels through a table a channel, (n,C,256)."""
    planes = images.flatten(2).long()
    return table.to(torch.uint8).gather(2, planes).reshape(images.shape)


def _grey(images: Tensor) -> Tensor:
    """ITU-R 601-2 luma in Pillow's integers, uint8 (n,1,H,W)."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.int().split(1, dim=1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000 >> 16).to(torch.uint8)


def _blend(degenerate: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """`degenerate + factor * (images - degenerate)`, in single precision and cut off, as Pillow."""
    base = degenerate.float()
    mixed = images.float().sub_(base).mul_(factor.float()[:, None, None, None]).add_(base)
    return mixed.clamp_(0, 255).to(torch.uint8)
