from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from scipy import stats

from modicum.images import ColourJitter, RandomErasing, SampleRandom
from modicum.images import pixels as ours


def noise(count: int, height: int, width: int, channels: int = 3) -> torch.Tensor:
    rng = np.random.default_rng(count)
    return torch.from_numpy(rng.integers(0, 256, (count, channels, height, width), dtype=np.uint8))


def random_of(count: int) -> SampleRandom:
    return SampleRandom(0, 0, np.arange(count))


def test_jitter_is_pillows_enhancements_in_random_order():
    images = noise(60, 9, 11)
    found = ColourJitter(0.4, 0.3, 0.2)(images, random_of(60))
    draws = random_of(60).uniform(6, "colour jitter")
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for number, image in enumerate(images):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        factors = [1 - s + 2 * s * d for s, d in zip((0.4, 0.3, 0.2), draws[number], strict=False)]
        for which in draws[number, 3:].argsort():
            picture = enhancers[which](picture).enhance(factors[which])
        assert (found[number].permute(1, 2, 0).numpy() == np.asarray(picture)).all()


def test_jitter_has_torchvisions_law():
    grey = torch.full((4000, 3, 1, 1), 100, dtype=torch.uint8)
    level = ColourJitter(brightness=0.4)(grey, random_of(4000)).flatten(1)[:, 0]
    assert level.min() == 60
    assert level.max() in (139, 140)
    assert stats.kstest(level.numpy() / 100.0, stats.uniform(0.595, 0.8).cdf).pvalue > 1e-4
    wide = ColourJitter(brightness=1.5)(grey, random_of(4000)).flatten(1)[:, 0]  # from 0 to 2.5
    assert wide.min() == 0
    assert wide.max() > 245
    orders = random_of(6000).uniform(6, "colour jitter")[:, 3:].argsort(axis=1)
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert counts.min() > 900


def test_nothing_to_jitter():
    images = noise(5, 4, 4)
    assert torch.equal(ColourJitter()(images, random_of(5)), images)


def test_erasing_has_timms_law():
    height, width, count = 32, 48, 4000
    images = torch.full((count, 3, height, width), 9.0)
    found = RandomErasing(0.25)(images, random_of(count))
    erased = (found != 9.0).any(1)
    touched = erased.flatten(1).any(1)
    assert abs(touched.double().mean() - 0.25) < 0.03
    heights, widths = erased.any(2).sum(1)[touched], erased.any(1).sum(1)[touched]
    area = heights * widths
    assert torch.equal(area, erased.flatten(1).sum(1)[touched])  # rectangles
    share = (area / (height * width)).double()
    assert 0.015 < share.min() < 0.04
    assert 0.3 < share.max() < 0.36
    # Aspects are log-uniform where they fit, which tall ones of large areas do not.
    small = (share < 0.1) & (share > 0.05)
    logs = (heights[small] / widths[small]).double().log()
    assert abs(logs.mean()) < 0.2
    assert math.log(0.27) < logs.min() < math.log(0.4)
    assert math.log(2.5) < logs.max() < math.log(3.6)
    values = found[touched].permute(1, 0, 2, 3)[:, erased[touched]]
    assert stats.kstest(values.flatten()[::50].numpy(), "norm").pvalue > 1e-4
    assert not torch.equal(values[0], values[1])  # a number for every value
    rows = erased.any(2)[touched].int()
    assert (rows[:, 0] == 1).any()
    assert (rows[:, -1] == 1).any()


@pytest.mark.parametrize("step", [RandomErasing(0.7), ColourJitter(0.4, 0.4, 0.4)])
def test_a_sample_does_not_depend_on_its_batch(step):
    images = noise(40, 12, 10)
    if isinstance(step, RandomErasing):
        images = images.float()
    index = np.random.default_rng(0).permutation(1000)[:40]
    before = images.clone()
    whole = step(images, SampleRandom(1, 2, index))
    assert torch.equal(images, before)
    assert not torch.equal(whole, images)
    part = step(images[7:20], SampleRandom(1, 2, index[7:20]))
    assert torch.equal(part, whole[7:20])
    assert not torch.equal(step(images, SampleRandom(1, 3, index)), whole)


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (3, 5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_bicubic_affine_is_pillows(size, channels):
    images = noise(5, *size, channels)
    rng = np.random.default_rng(1)
    fill = (124, 116, 104)[:channels]
    matrices = np.array([1, 0, 0, 0, 1, 0]) + rng.uniform(-0.5, 0.5, (5, 6)) * [1, 1, 9, 1, 1, 9]
    found = ours.affine(images, torch.from_numpy(matrices), fill, "bicubic")
    for one, image, matrix in zip(found, images, matrices, strict=True):
        array = image.permute(1, 2, 0).numpy()
        picture = Image.fromarray(array if channels == 3 else array[:, :, 0])
        expected = np.asarray(
            picture.transform(
                picture.size,
                Image.Transform.AFFINE,
                tuple(matrix),
                Image.Resampling.BICUBIC,
                fillcolor=fill if channels == 3 else fill[0],
            )
        ).reshape(array.shape)
        difference = np.abs(one.permute(1, 2, 0).numpy() - expected.astype(int))
        # A processor that rounds once where another does twice cuts a whole number differently.
        assert difference.max() <= 1
        assert (difference == 0).mean() > 0.99


def test_solarise_add_is_timms():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, 1, 1, 1)
    found = ours.solarise_add(images, torch.tensor([0, 110]))
    assert torch.equal(found[0], images[0])
    expected = [min(255, level + 110) if level < 128 else level for level in range(256)]
    assert found[1].flatten().tolist() == expected
