from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from modicum.errors import ConfigError
from modicum.images import (
    AutoAugmentCifar10,
    HorizontalFlip,
    Normalise,
    RandomResizedCrop,
    RandomShift,
    ResizeCentreCrop,
    SampleRandom,
)


def noise(count: int, height: int, width: int, channels: int = 3) -> torch.Tensor:
    rng = np.random.default_rng(count)
    return torch.from_numpy(rng.integers(0, 256, (count, channels, height, width), dtype=np.uint8))


def random_of(count: int, seed: int = 0) -> SampleRandom:
    return SampleRandom(seed, 0, np.arange(count))


STEPS = [
    RandomResizedCrop(20),
    ResizeCentreCrop(24, 20),
    HorizontalFlip(),
    RandomShift(3),
    AutoAugmentCifar10(),
    Normalise((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_a_sample_does_not_depend_on_its_batch(step):
    images = noise(70, 32, 40)
    index = np.random.default_rng(0).permutation(1000)[:70]
    whole = step(images, SampleRandom(1, 2, index))
    for part in (slice(3, 4), slice(11, 60)):
        assert torch.equal(step(images[part], SampleRandom(1, 2, index[part])), whole[part])


@pytest.mark.parametrize("step", STEPS[:1] + STEPS[2:5], ids=lambda step: type(step).__name__)
def test_seed_and_epoch_matter(step):
    images = noise(16, 32, 40)
    results = [
        step(images, SampleRandom(seed, epoch, np.arange(16)))
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(2, 90),
    width=st.integers(2, 90),
    size=st.integers(2, 70),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 10),
)
def test_crops_are_pillows_but_for_rounding(height, width, size, channels, seed):
    images = noise(3, height, width, channels)
    for crop in (RandomResizedCrop(size), ResizeCentreCrop(size + seed, size)):
        found = crop(images, random_of(3, seed)).permute(0, 2, 3, 1).numpy().astype(int)
        cuts = crop.cuts(np.tile([[height, width]], (3, 1)), random_of(3, seed))
        for number, (box, resized, corner) in enumerate(zip(*cuts, strict=True)):
            array = images[number].permute(1, 2, 0).numpy()
            picture = Image.fromarray(array if channels == 3 else array[:, :, 0])
            shape = (int(resized[1]), int(resized[0]))
            picture = picture.crop(tuple(box.tolist())).resize(shape, Image.Resampling.BILINEAR)
            row, column = corner
            expected = np.array(picture).reshape(*resized, channels)
            expected = expected[row : row + size, column : column + size]
            difference = np.abs(found[number] - expected)
            # Both round after each of two passes, so both are within one level of the true value.
            assert difference.max() <= 2


def test_most_pixels_of_crops_are_pillows():
    images = noise(16, 100, 130)
    cuts = RandomResizedCrop(48).cuts(np.tile([[100, 130]], (16, 1)), random_of(16))
    found = RandomResizedCrop(48)(images, random_of(16)).permute(0, 2, 3, 1).numpy()
    expected = [
        np.array(
            Image.fromarray(image.permute(1, 2, 0).numpy())
            .crop(tuple(box.tolist()))
            .resize((48, 48), Image.Resampling.BILINEAR)
        )
        for image, box in zip(images, cuts.box, strict=True)
    ]
    assert (found == np.stack(expected)).mean() > 0.85


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 400), width=st.integers(1, 400), seed=st.integers(0, 100))
def test_random_resized_crop_tries_ten_times(height, width, seed):
    random = random_of(8, seed)
    boxes = RandomResizedCrop(16).cuts(np.tile([[height, width]], (8, 1)), random).box
    draws = random.uniform(22, "random resized crop")
    for box, draw in zip(boxes, draws, strict=True):
        for attempt in range(10):
            area = height * width * (0.08 + 0.92 * draw[attempt])
            low, high = math.log(3 / 4), math.log(4 / 3)
            ratio = math.exp(low + (high - low) * draw[10 + attempt])
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(draw[20] * (width - w + 1)), int(draw[21] * (height - h + 1))
                break
        else:
            w, h = width, height
            if width / height < 3 / 4:
                h = round(width / (3 / 4))
            elif width / height > 4 / 3:
                w = round(height * (4 / 3))
            left, top = (width - w) // 2, (height - h) // 2
        assert box.tolist() == [left, top, left + w, top + h]


def test_random_resized_crop_covers_its_ranges():
    boxes = RandomResizedCrop(16).cuts(np.tile([[300, 300]], (4000, 1)), random_of(4000)).box
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    share = width * height / 300**2
    assert 0.079 < share.min() < 0.085
    assert share.max() > 0.95
    assert 0.74 < (width / height).min() < 0.76
    assert 1.32 < (width / height).max() < 1.35
    assert boxes[:, 0].min() == 0
    assert boxes[:, 2].max() == 300


def test_resize_centre_crop_of_imagenet():
    # 500x375: the short side 375 becomes 256, the long one 341; the corner of 224 is (58, 16).
    cuts = ResizeCentreCrop(256, 224).cuts(np.array([[375, 500], [500, 375]]), random_of(2))
    assert cuts.box.tolist() == [[0, 0, 500, 375], [0, 0, 375, 500]]
    assert cuts.resized.tolist() == [[256, 341], [341, 256]]
    assert cuts.corner.tolist() == [[16, 58], [58, 16]]


def test_resize_centre_crop_of_a_very_long_image():
    # Resized whole, it would have 256 x 10,240,000 pixels.
    cuts = ResizeCentreCrop(256, 224).cuts(np.array([[1, 40_000]]), random_of(1))
    assert cuts.box.tolist() == [[19998, 0, 20002, 1]]
    assert cuts.resized.tolist() == [[256, 1024]]


@pytest.mark.parametrize("crop", [RandomResizedCrop(20), ResizeCentreCrop(24, 20)])
def test_crop_of_no_images(crop):
    assert crop(noise(4, 32, 40)[:0], random_of(0)).shape == (0, 3, 20, 20)


def test_crops_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="short_side"):
        ResizeCentreCrop(200, 224)
    with pytest.raises(ConfigError, match="area"):
        RandomResizedCrop(224, area=(0.5, 0.2))
    with pytest.raises(ConfigError, match="size"):
        RandomResizedCrop(1)


def test_flip():
    images = noise(2000, 3, 4)
    flipped = HorizontalFlip(0.3)(images, random_of(2000))
    changed = (flipped != images).flatten(1).any(1)
    assert torch.equal(flipped[changed], images[changed].flip(-1))
    assert 0.27 < changed.double().mean() < 0.33
    assert torch.equal(HorizontalFlip(0.0)(images, random_of(2000)), images)
    assert torch.equal(HorizontalFlip(1.0)(images, random_of(2000)), images.flip(-1))


def test_shift():
    images = noise(500, 6, 7, channels=1)
    shifted = RandomShift(2, fill=9)(images, random_of(500))
    padded = torch.nn.functional.pad(images, [2] * 4, value=9)
    seen = set()
    for before, after in zip(padded, shifted, strict=True):
        places = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if torch.equal(before[:, top : top + 6, left : left + 7], after)
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == 25


def test_normalise():
    images = torch.tensor([[[[0]], [[51]], [[255]]]], dtype=torch.uint8)
    found = Normalise((0.5, 0.2, 0.0), (0.5, 0.1, 2.0))(images)
    assert found.dtype == torch.float32
    assert found.flatten().tolist() == pytest.approx([-1.0, 0.0, 0.5])
    with pytest.raises(ConfigError, match="1 channels"):
        Normalise((0.5, 0.2, 0.0), (0.5, 0.1, 2.0))(images[:, :1])
