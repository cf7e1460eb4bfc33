from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from modicum.images import AutoAugmentCifar10, SampleRandom
from modicum.images import auto_augment as ours

SIZES = [(32, 32), (24, 40), (7, 5)]


def pictures(height: int, width: int, channels: int = 3) -> torch.Tensor:
    """Noise, a dull gradient, a flat picture, two grey levels, a dark one."""
    rng = np.random.default_rng(height)
    shape = (channels, height, width)
    ramp = np.broadcast_to(np.linspace(90, 140, width), shape)
    two = np.where(rng.random(shape) < 0.02, 200, 31)
    dark = rng.integers(0, 256, shape) ** 2 // 900
    return torch.from_numpy(
        np.stack([rng.integers(0, 256, shape), ramp, np.full(shape, 77), two, dark]).astype(
            np.uint8
        )
    )


def as_pillow(
    images: torch.Tensor, operation: Callable[[Image.Image, int], Image.Image]
) -> torch.Tensor:
    results = []
    for number, image in enumerate(images):
        array = image.permute(1, 2, 0).numpy()
        picture = Image.fromarray(array if array.shape[2] == 3 else array[:, :, 0])
        result = np.array(operation(picture, number)).reshape(array.shape)
        results.append(torch.from_numpy(result).permute(2, 0, 1))
    return torch.stack(results)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("operation", "enhancer"),
    [
        (ours.brightness, ImageEnhance.Brightness),
        (ours.colour, ImageEnhance.Color),
        (ours.contrast, ImageEnhance.Contrast),
        (ours.sharpness, ImageEnhance.Sharpness),
    ],
)
def test_enhancements_are_pillows(operation, enhancer, size, channels):
    images = pictures(*size, channels)
    for factors in ([0.1, 0.37, 0.9, 1.6, 1.9], [1.9, 1.3, 1.0, 0.4, 1.72]):
        found = operation(images, torch.tensor(factors, dtype=torch.float64))
        expected = as_pillow(images, lambda p, n, f=factors: enhancer(p).enhance(f[n]))
        assert torch.equal(found, expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_tone_operations_are_pillows(size, channels):
    images = pictures(*size, channels)
    assert torch.equal(
        ours.auto_contrast(images), as_pillow(images, lambda p, _: ImageOps.autocontrast(p))
    )
    assert torch.equal(ours.equalise(images), as_pillow(images, lambda p, _: ImageOps.equalize(p)))
    bits = [4, 5, 6, 7, 8]
    assert torch.equal(
        ours.posterise(images, torch.tensor(bits)),
        as_pillow(images, lambda p, n: ImageOps.posterize(p, bits[n])),
    )
    threshold = [255.0, 198.3, 113.3, 31.0, 0.0]
    assert torch.equal(
        ours.solarise(images, torch.tensor(threshold, dtype=torch.float64)),
        as_pillow(images, lambda p, n: ImageOps.solarize(p, threshold[n])),
    )


@pytest.mark.parametrize("size", SIZES)
def test_affine_is_pillows(size):
    images = pictures(*size)
    rng = np.random.default_rng(1)
    for _ in range(10):
        matrix = np.array([1, 0, 0, 0, 1, 0]) + rng.uniform(-0.5, 0.5, (5, 6)) * [1, 1, 9, 1, 1, 9]
        found = ours.affine(images, torch.from_numpy(matrix), fill=9)
        expected = as_pillow(
            images,
            lambda p, n, m=matrix: p.transform(
                p.size, Image.Transform.AFFINE, tuple(m[n]), fillcolor=(9, 9, 9)
            ),
        )
        assert torch.equal(found, expected)


@pytest.mark.parametrize("size", SIZES)
def test_rotation_is_pillows(size):
    images = pictures(*size)
    degrees = [-30.0, -6.67, 3.0, 6.67, 30.0]
    matrix = ours.rotation(torch.tensor(degrees, dtype=torch.float64), *size)
    expected = as_pillow(images, lambda p, n: p.rotate(degrees[n]))
    assert torch.equal(ours.affine(images, matrix, fill=0), expected)


MAGNITUDE = np.linspace(0.0, 1.0, 10)  # Table 6, ten values over each range


def reference(name: str, level: int, sign: float) -> Callable[[Image.Image, int], Image.Image]:
    """One image at a time, with Pillow, written from Table 6."""
    m = MAGNITUDE[level]
    move = Image.Transform.AFFINE

    def operate(p: Image.Image, _: int) -> Image.Image:
        w, h = p.size
        x, y = int(sign * m * w * 150 / 331), int(sign * m * h * 150 / 331)
        return {
            "ShearX": lambda: p.transform(p.size, move, (1, sign * 0.3 * m, 0, 0, 1, 0)),
            "ShearY": lambda: p.transform(p.size, move, (1, 0, 0, sign * 0.3 * m, 1, 0)),
            "TranslateX": lambda: p.transform(p.size, move, (1, 0, x, 0, 1, 0)),
            "TranslateY": lambda: p.transform(p.size, move, (1, 0, 0, 0, 1, y)),
            "Rotate": lambda: p.rotate(sign * 30 * m),
            "Brightness": lambda: ImageEnhance.Brightness(p).enhance(1 + sign * 0.9 * m),
            "Color": lambda: ImageEnhance.Color(p).enhance(1 + sign * 0.9 * m),
            "Contrast": lambda: ImageEnhance.Contrast(p).enhance(1 + sign * 0.9 * m),
            "Sharpness": lambda: ImageEnhance.Sharpness(p).enhance(1 + sign * 0.9 * m),
            "Posterize": lambda: ImageOps.posterize(p, 8 - round(4 * m)),
            "Solarize": lambda: ImageOps.solarize(p, 255 * (1 - m)),
            "AutoContrast": lambda: ImageOps.autocontrast(p),
            "Equalize": lambda: ImageOps.equalize(p),
            "Invert": lambda: ImageOps.invert(p),
        }[name]()

    return operate


def test_auto_contrast_of_every_range():
    pairs = [(low, high) for low in range(256) for high in range(low, 256)][::7]
    levels = torch.arange(256)
    images = torch.stack([levels.clamp(low, high) for low, high in pairs]).to(torch.uint8)
    images = images.view(-1, 1, 16, 16)
    expected = as_pillow(images, lambda p, _: ImageOps.autocontrast(p))
    assert torch.equal(ours.auto_contrast(images), expected)


def test_policy_is_the_same_operations_image_by_image():
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (400, 3, 32, 32), dtype=np.uint8))
    random = SampleRandom(3, 5, np.arange(400))
    found = AutoAugmentCifar10()(images, random)
    draws = random.uniform(5, "auto augment")
    for number in range(400):
        pair = ours.POLICY_CIFAR10[int(draws[number, 0] * 25)]
        expected = images[number : number + 1]
        for turn, (name, probability, level) in enumerate(pair):
            if draws[number, 1 + turn] < probability:
                sign = -1.0 if draws[number, 3 + turn] < 0.5 else 1.0
                expected = as_pillow(expected, reference(name, level, sign))
        assert torch.equal(found[number], expected[0]), pair


def test_all_magnitudes_of_all_operations():
    images = pictures(32, 32)
    for name in (
        *("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color"),
        *("Contrast", "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize", "Invert"),
    ):
        for level in range(1, 10):
            strength = torch.full((5,), level / 9.0, dtype=torch.float64)
            for sign in (-1.0, 1.0):
                found = ours._operate(name, images, strength, sign * strength, 0)
                assert torch.equal(found, as_pillow(images, reference(name, level, sign))), (
                    name,
                    level,
                )


def test_input_is_left_alone_and_checked():
    images = pictures(32, 32)
    before = images.clone()
    AutoAugmentCifar10()(images, SampleRandom(0, 0, np.arange(5)))
    assert torch.equal(images, before)
    with pytest.raises(ValueError, match="uint8"):
        AutoAugmentCifar10()(images.float(), SampleRandom(0, 0, np.arange(5)))
