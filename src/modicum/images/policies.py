"""Policies that draw operations of `modicum.images.pixels`, batched by operation.

AutoAugment's for CIFAR-10: Cubuk, Zoph, Mané, Vasudevan, Le, "AutoAugment: Learning Augmentation
Strategies from Data", CVPR 2019: Table 6 of the appendix gives the operations and their ranges,
Table 7 the 25 sub-policies. The paper leaves some things open; they are read as torchvision reads
them, since most published recipes that say "AutoAugment" ran that: the ten magnitudes run evenly
from no effect to the end of the range, effects with a direction take either with equal probability,
translations are in units of 1/331 of the width (at 32 pixels, magnitude 9 is 14 pixels), shear
fixes the corner, rotation the centre, pixels are taken from the nearest neighbour, and what comes
in from outside is black.

RandAugment: Cubuk, Zoph, Shlens, Le, "RandAugment: Practical Automated Data Augmentation with a
Reduced Search Space", NeurIPS 2020, in the variant that timm calls `rand-m9-mstd0.5-inc1` and most
recipes of vision transformers ran.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modicum.engine.random import SampleRandom
from modicum.images import pixels
from modicum.images.pixels import Fill, Kernel, affine

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
        """Augment images uint8 (B,C,H,W), C 1 or 3; a new tensor on their device.

        Raises:
            ValueError: The images are not uint8, or C is neither 1 nor 3.
        """
        draws = random.uniform(5, "auto augment")
        policy = (draws[:, 0] * len(POLICY_CIFAR10)).astype(np.int64)
        result = _bytes(images).clone()
        for turn in range(2):
            taken = draws[:, 1 + turn] < _PROBABILITIES[policy, turn]
            sign = np.where(draws[:, 3 + turn] < 0.5, -1.0, 1.0)
            operation = np.where(taken, _CODES[policy, turn], -1)
            level = _LEVELS[policy, turn] / 9.0
            _operate(result, operation, level, sign, _TABLE_6, self.fill)
        return result


@dataclass(frozen=True)
class RandAugment:
    """Each image meets some operations, drawn one by one with equal probability, and repeatedly.

    The operations are AutoContrast, Equalize, Invert, Rotate, Posterize, Solarize, SolarizeAdd,
    Color, Contrast, Brightness, Sharpness, shear and translation in x and y; each is stronger the
    larger its magnitude, from 0 to 10. An operation is left out with probability 0.5.
    """

    magnitude: float = 9.0
    """Mean magnitude, from 0 to 10."""
    spread: float = 0.5
    """Standard deviation of the magnitude, which is drawn for every operation and cut to 0 to
    10."""
    operations: int = 2
    """Operations drawn for an image."""
    fill: Fill = (124, 116, 104)
    """Grey level of each channel of what comes in from outside; the default is ImageNet's mean."""
    kernel: Kernel = "bicubic"
    """How pixels are made that come from between others when an image is moved."""

    def __call__(self, images: Tensor, random: SampleRandom) -> Tensor:
        """Augment images uint8 (B,C,H,W), C 1 or 3; a new tensor on their device.

        Raises:
            ValueError: The images are not uint8, or C is neither 1 nor 3.
        """
        draws = random.uniform(3 * self.operations, "rand augment").reshape(len(images), -1, 3)
        noise = random.normal(self.operations, "rand augment magnitude")
        result = _bytes(images).clone()
        for turn in range(self.operations):
            which, taken, sign = draws[:, turn].T
            operation = np.where(taken < 0.5, np.floor(which * len(_INCREASING)), -1)
            magnitude = self.magnitude + self.spread * noise[:, turn]
            level = magnitude.clip(0.0, 10.0) / 10.0
            direction = np.where(sign < 0.5, -1.0, 1.0)
            _operate(result, operation, level, direction, _INCREASING, self.fill, self.kernel)
        return result


Arguments = Callable[[Tensor, Tensor, int, int], "Tensor | None"]
"""An operation's argument (n,) for strengths (n,) from 0 to 1, signs (n,), height and width."""

_TABLE_6: Mapping[str, Arguments] = {
    "AutoContrast": lambda level, sign, height, width: None,
    "Brightness": lambda level, sign, height, width: 1.0 + 0.9 * (sign * level),
    "Color": lambda level, sign, height, width: 1.0 + 0.9 * (sign * level),
    "Contrast": lambda level, sign, height, width: 1.0 + 0.9 * (sign * level),
    "Equalize": lambda level, sign, height, width: None,
    "Invert": lambda level, sign, height, width: None,
    "Posterize": lambda level, sign, height, width: 8 - (4.0 * level).round().long(),
    "Rotate": lambda level, sign, height, width: 30.0 * (sign * level),
    "Sharpness": lambda level, sign, height, width: 1.0 + 0.9 * (sign * level),
    "ShearX": lambda level, sign, height, width: 0.3 * (sign * level),
    "ShearY": lambda level, sign, height, width: 0.3 * (sign * level),
    "Solarize": lambda level, sign, height, width: 255.0 * (1.0 - level),
    "TranslateX": lambda level, sign, height, width: (150 / 331 * width * (sign * level)).trunc(),
    "TranslateY": lambda level, sign, height, width: (150 / 331 * height * (sign * level)).trunc(),
}


def _factor(level: Tensor, sign: Tensor, height: int, width: int) -> Tensor:
    return (1.0 + 0.9 * level * sign).clamp(min=0.1)


_INCREASING: Mapping[str, Arguments] = {
    "AutoContrast": lambda level, sign, height, width: None,
    "Equalize": lambda level, sign, height, width: None,
    "Invert": lambda level, sign, height, width: None,
    "Rotate": lambda level, sign, height, width: 30.0 * level * sign,
    "Posterize": lambda level, sign, height, width: 4 - (4.0 * level).long(),
    "Solarize": lambda level, sign, height, width: 256 - (256.0 * level).long(),
    "SolarizeAdd": lambda level, sign, height, width: (110.0 * level).long(),
    "Color": _factor,
    "Contrast": _factor,
    "Brightness": _factor,
    "Sharpness": _factor,
    "ShearX": lambda level, sign, height, width: 0.3 * level * sign,
    "ShearY": lambda level, sign, height, width: 0.3 * level * sign,
    "TranslateX": lambda level, sign, height, width: 0.45 * width * level * sign,
    "TranslateY": lambda level, sign, height, width: 0.45 * height * level * sign,
}

_OPERATIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Brightness": pixels.brightness,
    "Color": pixels.colour,
    "Contrast": pixels.contrast,
    "Posterize": pixels.posterise,
    "Sharpness": pixels.sharpness,
    "Solarize": pixels.solarise,
    "SolarizeAdd": pixels.solarise_add,
}


def _operate(
    images: Tensor,
    operation: npt.NDArray[Any],
    level: npt.NDArray[np.float64],
    sign: npt.NDArray[np.float64],
    arguments: Mapping[str, Arguments],
    fill: Fill,
    kernel: Kernel = "nearest",
) -> None:
    """Give each image, in place, the operation with its number in `arguments`; -1: none."""
    # On a CPU, as many images at a time as stay in its cache.
    part = (
        max(1, 2**18 // max(1, images[:1].numel())) if images.device.type == "cpu" else len(images)
    )
    for number, (name, argument_of) in enumerate(arguments.items()):
        drew = torch.from_numpy(np.flatnonzero(operation == number))
        for chosen in drew.split(part) if len(drew) else ():
            strength, direction = (
                torch.from_numpy(of)[chosen].to(images.device) for of in (level, sign)
            )
            argument = argument_of(strength, direction, *images.shape[-2:])
            first = int(chosen[0])  # a slice is many times as fast as an index
            place = slice(first, first + 1) if part == 1 else chosen.to(images.device)
            images[place] = operate(name, images[place], argument, fill, kernel)


def operate(
    name: str, images: Tensor, argument: Tensor | None, fill: Fill = 0, kernel: Kernel = "nearest"
) -> Tensor:
    """One operation, called as by Pillow or the papers, on images uint8 (n,C,H,W).

    Its argument (n,) is a factor, degrees, pixels, bits or a grey level; none for AutoContrast,
    Equalize and Invert. For `fill` and `kernel` see `pixels.affine`.
    """
    if argument is None:
        plain = {"AutoContrast": pixels.auto_contrast, "Equalize": pixels.equalise}
        return plain[name](images) if name in plain else 255 - images
    if name in _OPERATIONS:
        return _OPERATIONS[name](images, argument)
    if name == "Rotate":
        matrix = pixels.rotation(argument, *images.shape[-2:])
    else:
        matrix = torch.eye(2, 3, dtype=torch.float64).repeat(len(images), 1, 1).to(argument.device)
        row, column = _PLACES[name]
        matrix[:, row, column] = argument
    return affine(images, matrix.flatten(1), fill, kernel)


_PLACES = {"ShearX": (0, 1), "ShearY": (1, 0), "TranslateX": (0, 2), "TranslateY": (1, 2)}
"""Which number of the matrix `pixels.affine` takes an operation changes."""


def _bytes(images: Tensor) -> Tensor:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"expected uint8 images (B,C,H,W) with 1 or 3 channels, found {images.dtype} "
            f"{tuple(images.shape)}"
        )
    return images


_NAMES = list(_TABLE_6)
_CODES = np.array([[_NAMES.index(name) for name, _, _ in pair] for pair in POLICY_CIFAR10])
_PROBABILITIES = np.array([[probability for _, probability, _ in pair] for pair in POLICY_CIFAR10])
_LEVELS = np.array([[magnitude for _, _, magnitude in pair] for pair in POLICY_CIFAR10])
