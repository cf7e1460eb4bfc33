from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from modicum.images import AutoAugmentCifar10, RandAugment, SampleRandom, policies
from modicum.images import pixels as ours

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
        pair = policies.POLICY_CIFAR10[int(draws[number, 0] * 25)]
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
                argument = policies._TABLE_6[name](strength, strength.sign() * sign, 32, 32)
                found = policies.operate(name, images, argument)
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


def timm_operation(
    name: str, level: float, sign: float
) -> Callable[[Image.Image, int], Image.Image]:
    """One image at a time, with Pillow: the increasing operations of timm, `level` from 0 to 10."""
    move, cubic, fill = Image.Transform.AFFINE, Image.Resampling.BICUBIC, (124, 116, 104)
    factor = max(0.1, 1.0 + sign * level / 10 * 0.9)

    def affine(p: Image.Image, *matrix: float) -> Image.Image:
        return p.transform(p.size, move, matrix, resample=cubic, fillcolor=fill)

    def operate(p: Image.Image, _: int) -> Image.Image:
        w, h = p.size
        dropped = 2 ** (4 + int(level / 10 * 4)) - 1  # nothing is left at level 10
        table = [min(255, i + int(level / 10 * 110)) if i < 128 else i for i in range(256)]
        return {
            "AutoContrast": lambda: ImageOps.autocontrast(p),
            "Equalize": lambda: ImageOps.equalize(p),
            "Invert": lambda: ImageOps.invert(p),
            "Rotate": lambda: p.rotate(sign * level / 10 * 30, resample=cubic, fillcolor=fill),
            "Posterize": lambda: p.point(lambda value: value & ~dropped),
            "Solarize": lambda: ImageOps.solarize(p, 256 - int(level / 10 * 256)),
            "SolarizeAdd": lambda: p.point(table * 3),
            "Color": lambda: ImageEnhance.Color(p).enhance(factor),
            "Contrast": lambda: ImageEnhance.Contrast(p).enhance(factor),
            "Brightness": lambda: ImageEnhance.Brightness(p).enhance(factor),
            "Sharpness": lambda: ImageEnhance.Sharpness(p).enhance(factor),
            "ShearX": lambda: affine(p, 1, sign * level / 10 * 0.3, 0, 0, 1, 0),
            "ShearY": lambda: affine(p, 1, 0, 0, sign * level / 10 * 0.3, 1, 0),
            "TranslateX": lambda: affine(p, 1, 0, sign * level / 10 * 0.45 * w, 0, 1, 0),
            "TranslateY": lambda: affine(p, 1, 0, 0, 0, 1, sign * level / 10 * 0.45 * h),
        }[name]()

    return operate


@pytest.mark.parametrize("name", policies._INCREASING)
def test_rand_augments_operations_are_timms(name):
    images = pictures(32, 40)
    for level in (0.0, 3.3, 8.7, 9.0, 10.0):
        for sign in (-1.0, 1.0):
            strength = torch.full((5,), level / 10.0, dtype=torch.float64)
            argument = policies._INCREASING[name](strength, strength * 0 + sign, 32, 40)
            found = policies.operate(name, images, argument, (124, 116, 104), "bicubic")
            expected = as_pillow(images, timm_operation(name, level, sign))
            difference = (found.int() - expected.int()).abs()
            # A processor that rounds once where another does twice cuts differently.
            assert difference.max() <= 1
            assert (difference == 0).double().mean() > 0.98


def test_rand_augment_is_the_same_operations_image_by_image():
    images = noisy(300)
    random = SampleRandom(3, 5, np.arange(300))
    found = RandAugment()(images, random)
    draws = random.uniform(6, "rand augment").reshape(300, 2, 3)
    magnitudes = (9 + 0.5 * random.normal(2, "rand augment magnitude")).clip(0, 10)
    names = list(policies._INCREASING)
    for number in range(300):
        expected = images[number : number + 1]
        for (which, taken, sign), level in zip(draws[number], magnitudes[number], strict=True):
            if taken < 0.5:
                operation = timm_operation(names[int(which * 15)], level, -1 if sign < 0.5 else 1)
                expected = as_pillow(expected, operation)
        # A grey level of a moved image may differ, which equalising makes larger.
        assert (found[number] == expected[0]).double().mean() > 0.97


def noisy(count: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8))


def test_rand_augment_draws_its_law(monkeypatch):
    seen: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    monkeypatch.setattr(policies, "_operate", lambda i, o, level, s, *_: seen.append((o, level, s)))
    images = torch.zeros(20_000, 1, 1, 1, dtype=torch.uint8)
    RandAugment(magnitude=5)(images, SampleRandom(0, 0, np.arange(20_000)))
    for operation, level, sign in seen:
        assert abs((operation < 0).mean() - 0.5) < 0.02
        counts = np.bincount(operation[operation >= 0].astype(int), minlength=15)
        assert stats.chisquare(counts).pvalue > 1e-4
        assert stats.kstest(level * 10, stats.norm(5, 0.5).cdf).pvalue > 1e-4
        assert abs(sign.mean()) < 0.03
    assert abs(np.corrcoef(seen[0][0], seen[1][0])[0, 1]) < 0.03


def test_a_sample_does_not_depend_on_its_batch():
    images = noisy(30)
    whole = RandAugment()(images, SampleRandom(0, 1, np.arange(30)))
    part = RandAugment()(images[4:11], SampleRandom(0, 1, np.arange(4, 11)))
    assert torch.equal(part, whole[4:11])
