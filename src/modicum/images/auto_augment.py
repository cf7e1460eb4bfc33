"""AutoAugment's policy for CIFAR-10, batched by operation.

Cubuk, Zoph, Mané, Vasudevan, Le, "AutoAugment: Learning Augmentation Strategies from Data", CVPR
2019: Table 6 of the appendix gives the operations and their ranges, Table 7 the 25 sub-policies.
The operations are Pillow's, to the bit.

The paper leaves some things open; they are read as torchvision reads them, since most published
recipes that say "AutoAugment" ran that: the ten magnitudes run evenly from no effect to the end of
the range, effects with a direction take either with equal probability, translations are in
units of 1/331 of the width (at 32 pixels, magnitude 9 is 14 pixels), shear fixes the corner,
rotation the centre, pixels are taken from the nearest neighbour, and what comes in from outside is
black.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modicum.engine.random import SampleRandom

# (operation, probability, magnitude 0 to 9), twice: Table 7.
POLICY_CIFAR10: tuple[tuple[tuple[str, float, int], tuple[str, float, int]], ...] = (
    (("Invert", 0.1, 7), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 8), ("Equalize", 0.9, 2)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 5), ("Equalize", 0.5, 1)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 7), ("AutoContrast", 0.4, 8)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 3)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 8), ("Equalize", 0.6, 4)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 6)),
    (("AutoContrast", 0.8, 4), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 3)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 2), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 8), ("Invert", 0.1, 3)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 1)),
)


@dataclass(frozen=True)
class AutoAugmentCifar10:
    """Each image meets one of the 25 sub-policies of two operations, with their probabilities."""

    fill: int = 0
    """Grey level of what comes in from outside when an image is moved."""

    def __call__(self, images: Tensor, random: SampleRandom) -> Tensor:
        """Images uint8 (B,C,H,W) with C 1 or 3; a new tensor.

        Raises:
            ValueError: The images are not uint8, or C is neither 1 nor 3.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"expected uint8 images (B,C,H,W) with 1 or 3 channels, found {images.dtype} "
                f"{tuple(images.shape)}"
            )
        draws = random.uniform(5, "auto augment")
        policy = (draws[:, 0] * len(POLICY_CIFAR10)).astype(np.int64)
        result = images.clone()
        for turn in range(2):
            operation = _CODES[policy, turn]
            taken = draws[:, 1 + turn] < _PROBABILITIES[policy, turn]
            level = _LEVELS[policy, turn] / 9.0
            sign = np.where(draws[:, 3 + turn] < 0.5, -1.0, 1.0)
            for code, name in enumerate(_NAMES):
                (drew,) = np.nonzero(taken & (operation == code))
                if len(drew):
                    chosen = torch.from_numpy(drew).to(images.device)
                    strength = torch.from_numpy(level[drew]).to(images.device)
                    signed = torch.from_numpy((sign * level)[drew]).to(images.device)
                    result[chosen] = _operate(name, result[chosen], strength, signed, self.fill)
        return result


def _operate(name: str, images: Tensor, strength: Tensor, signed: Tensor, fill: int) -> Tensor:
    """One operation of Table 6, with `strength` (n,) from 0 to 1, `signed` the same with a sign."""
    height, width = images.shape[-2:]
    match name:
        case "ShearX":
            return affine(images, _matrix(signed, x_of_y=0.3 * signed), fill)
        case "ShearY":
            return affine(images, _matrix(signed, y_of_x=0.3 * signed), fill)
        case "TranslateX":
            pixels = (150.0 / 331.0 * width * signed).trunc()
            return affine(images, _matrix(signed, x=pixels), fill)
        case "TranslateY":
            pixels = (150.0 / 331.0 * height * signed).trunc()
            return affine(images, _matrix(signed, y=pixels), fill)
        case "Rotate":
            return affine(images, rotation(30.0 * signed, height, width), fill)
        case "Brightness":
            return brightness(images, 1.0 + 0.9 * signed)
        case "Color":
            return colour(images, 1.0 + 0.9 * signed)
        case "Contrast":
            return contrast(images, 1.0 + 0.9 * signed)
        case "Sharpness":
            return sharpness(images, 1.0 + 0.9 * signed)
        case "Posterize":
            return posterise(images, 8 - (4.0 * strength).round().long())
        case "Solarize":
            return solarise(images, 255.0 * (1.0 - strength))
        case "AutoContrast":
            return auto_contrast(images)
        case "Equalize":
            return equalise(images)
        case _:
            return 255 - images


def affine(images: Tensor, matrix: Tensor, fill: int) -> Tensor:
    """Move pixels as Pillow's `transform(AFFINE, NEAREST)` does, in its 16.16 fixed point.

    Args:
        images: uint8 (n,C,H,W).
        matrix: float64 (n,6): output (x, y) shows input (a x + b y + c, d x + e y + f), measured
            from the corner of the image.
        fill: Grey level where the input is outside the image.

    Returns:
        uint8 (n,C,H,W).
    """
    count, channels, height, width = images.shape
    a, b, c, d, e, f = matrix.unbind(1)
    x = torch.arange(width, device=images.device)[None, None, :]
    y = torch.arange(height, device=images.device)[None, :, None]
    column = _fixed(c + 0.5 * a + 0.5 * b) + x * _fixed(a) + y * _fixed(b)
    row = _fixed(f + 0.5 * d + 0.5 * e) + x * _fixed(d) + y * _fixed(e)
    column, row = column >> 16, row >> 16
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    source = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).view(count, 1, -1)
    moved = images.flatten(2).gather(2, source.expand(-1, channels, -1)).view_as(images)
    return torch.where(inside[:, None], moved, torch.full_like(moved, fill))


def _fixed(numbers: Tensor) -> Tensor:
    return torch.floor(numbers * 65536.0 + 0.5).long()[:, None, None]


def _matrix(
    like: Tensor,
    *,
    x: Tensor | float = 0.0,
    y: Tensor | float = 0.0,
    x_of_y: Tensor | float = 0.0,
    y_of_x: Tensor | float = 0.0,
) -> Tensor:
    """Translations and shears for `affine`, (n,6); `like` (n,) gives number and device."""
    rows = torch.zeros(len(like), 6, dtype=torch.float64, device=like.device)
    rows[:, 0] = rows[:, 4] = 1.0
    rows[:, 1], rows[:, 2], rows[:, 3], rows[:, 5] = x_of_y, x, y_of_x, y
    return rows


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
    return _blend(torch.zeros_like(images), images, factor)


def colour(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey image; factor (n,), 1 changes nothing."""
    return _blend(_grey(images).expand_as(images), images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean grey level, rounded; factor (n,), 1 changes nothing."""
    mean = _grey(images).double().mean(dim=(1, 2, 3), keepdim=True)
    return _blend((mean + 0.5).floor().to(torch.uint8).expand_as(images), images, factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image smoothed inside its border; factor (n,), 1 changes nothing."""
    count, channels, height, width = images.shape
    smooth = images.clone()
    if height > 2 and width > 2:
        kernel = torch.tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]], device=images.device)
        planes = images.reshape(count * channels, 1, height, width).float()
        total = torch.nn.functional.conv2d(planes, kernel[None, None])  # sums below 2^24 are exact
        rounded = torch.floor((total + 6.5) / 13.0).to(torch.uint8)
        smooth[:, :, 1:-1, 1:-1] = rounded.view(count, channels, height - 2, width - 2)
    return _blend(smooth, images, factor)


def posterise(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the upper `bits` (n,), int64 from 1 to 8, of every pixel."""
    mask = 256 - (1 << (8 - bits))
    return images & mask.to(torch.uint8)[:, None, None, None]


def solarise(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the pixels from `threshold` (n,) on."""
    return torch.where(images < threshold[:, None, None, None], images, 255 - images)


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
    planes = images.flatten(2).long()
    histogram = planes.new_zeros((*planes.shape[:2], 256))
    histogram.scatter_add_(2, planes, torch.ones_like(planes))
    brightest = histogram.gather(2, planes.amax(dim=2, keepdim=True))
    step = (planes.shape[2] - brightest) // 255
    below = histogram.cumsum(dim=2) - histogram
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    return _look_up(torch.where(step > 0, table, torch.arange(256, device=table.device)), images)


def _look_up(table: Tensor, images: Tensor) -> Tensor:
    """Grey levels through a table a channel, (n,C,256)."""
    planes = images.flatten(2).long()
    return table.to(torch.uint8).gather(2, planes).view_as(images)


def _grey(images: Tensor) -> Tensor:
    """ITU-R 601-2 luma in Pillow's integers, uint8 (n,1,H,W)."""
    if images.shape[1] == 1:
        return images
    weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32, device=images.device)
    total = (images.int() * weights[:, None, None]).sum(dim=1, keepdim=True, dtype=torch.int32)
    return ((total + 0x8000) >> 16).to(torch.uint8)


def _blend(degenerate: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """`degenerate + factor * (images - degenerate)`, in single precision and cut off, as Pillow."""
    base = degenerate.float()
    mixed = base + factor.float()[:, None, None, None] * (images.float() - base)
    return mixed.clamp_(0, 255).to(torch.uint8)


_NAMES = sorted({name for pair in POLICY_CIFAR10 for name, _, _ in pair})
_CODES = np.array([[_NAMES.index(name) for name, _, _ in pair] for pair in POLICY_CIFAR10])
_PROBABILITIES = np.array([[probability for _, probability, _ in pair] for pair in POLICY_CIFAR10])
_LEVELS = np.array([[magnitude for _, _, magnitude in pair] for pair in POLICY_CIFAR10])
