"""What segmentation is trained on: crops, colours, padding, and the same numbers for all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modicum.engine.random import SampleRandom
from modicum.images import IMAGENET_MEAN, IMAGENET_STD, Normalise
from modicum.methods.tinymim.segmentation.augment import (
    PhotometricDistortion,
    TrainingCrops,
    WholeImages,
    _recoloured,  # pyright: ignore[reportPrivateUsage]
    pair_loader,
)
from modicum.methods.tinymim.segmentation.pair_sets import IGNORED, Pair
from modicum.methods.tinymim.segmentation.shapes import shapes


def random_of(count: int, epoch: int = 0) -> SampleRandom:
    return SampleRandom(3, epoch, np.arange(count))


def pair_of(labels: np.ndarray) -> Pair:
    """Grey levels that tell the label: ten times it."""
    label_map = torch.from_numpy(labels.astype(np.uint8))
    return Pair((label_map * 10).expand(3, -1, -1), label_map)


def test_labels_move_with_their_pixels():
    random = np.random.default_rng(0)
    pairs = [pair_of(random.integers(0, 20, size)) for size in ((40, 60), (70, 40), (40, 40))]
    crops = TrainingCrops(32, 40, 400, scale=(1.0, 1.0), distortion=None)
    batch = crops(pairs, random_of(3))
    assert torch.equal(batch.image, (batch.label_map * 10)[:, None].expand(-1, 3, -1, -1))
    assert batch.label.dtype == torch.int64
    assert batch.index.tolist() == [0, 1, 2]


def test_small_images_are_padded_at_the_right_and_bottom_also_when_mirrored():
    pairs, mirrored = [pair_of(np.tile(np.arange(10), (20, 1)))] * 40, 0
    batch = TrainingCrops(32, 10, 40, scale=(1.0, 1.0))(pairs, random_of(40))
    normalised = Normalise(IMAGENET_MEAN, IMAGENET_STD)(batch.image)
    for image, label_map in zip(normalised, batch.label_map, strict=True):
        covered = label_map != IGNORED
        assert covered[:20, :10].all()
        assert covered.sum() == 200
        assert image[:, ~covered].abs().max() < 0.01
        mirrored += int(label_map[0, 0] == 9)
    assert 8 < mirrored < 32


def test_sizes_are_those_of_the_recipe():
    """A factor of 0.5 to 2 of a short side of 20, unless the long side would be above 160."""
    labels = np.zeros((40, 80))
    labels[:, 40:] = 1
    labels[20:] += 2
    crops = TrainingCrops(200, 20, 80, flip=0, distortion=None)
    batch = crops([pair_of(labels)] * 300, random_of(300))
    covered = batch.label_map != IGNORED
    heights, widths = covered[:, :, 0].sum(1), covered[:, 0].sum(1)
    assert (widths - 2 * heights).abs().max() <= 1
    assert (heights.min(), heights.max()) == (10, 40)
    assert abs(heights.double().mean() - 25) < 1.5


def test_no_class_has_more_than_three_quarters_of_a_crop():
    labels = np.zeros((40, 80))
    labels[:, 66:] = 1
    labels[:4] = IGNORED  # which is no part of it
    pairs = [pair_of(labels)] * 200

    def good(share: float) -> float:
        crops = TrainingCrops(32, 40, 80, (1.0, 1.0), max_class_share=share, distortion=None)
        maps = crops(pairs, random_of(200)).label_map.flatten(1)
        counts = torch.stack([torch.bincount(one, minlength=256)[:IGNORED] for one in maps])
        return float((counts.amax(1) < 0.75 * counts.sum(1)).double().mean())

    # Of the 49 places in a row, 6 show the 9 columns or more of class 1 that it takes.
    assert good(1.0) == pytest.approx(6 / 49, abs=0.1)
    assert good(0.75) == pytest.approx(1 - (43 / 49) ** 11, abs=0.12)


def test_a_crop_is_found_where_no_crop_has_two_classes():
    batch = TrainingCrops(16, 20, 80)([pair_of(np.full((30, 40), 5))] * 4, random_of(4))
    assert set(batch.label_map.unique().tolist()) <= {5, IGNORED}


@pytest.mark.parametrize(
    ("saturation", "turn", "expected"),
    [
        (1.5, 17, "255 145 0  90 90 90  0 0 0  134 0 223  233 8 0  210 0 84"),
        (0.5, -18, "255 128 204  90 90 90  0 0 0  148 190 223  218 117 233  160 122 210"),
        (1.25, -3, "255 0 25  90 90 90  0 0 0  34 47 223  233 0 148  196 0 210"),
    ],
)
def test_saturation_and_hue_are_those_of_opencv(saturation: float, turn: int, expected: str):
    """Of OpenCV 4.8: to 8-bit HSV, changed there, and back. A level is rounded otherwise here."""
    before = "255 0 0  90 90 90  0 0 0  76 72 223  233 1 127  210 33 204"
    pixels = torch.tensor([int(level) for level in before.split()], dtype=torch.uint8)
    images = pixels.view(1, 6, 1, 3).permute(0, 3, 1, 2)
    found = _recoloured(images, torch.tensor([saturation]), torch.tensor([turn]))
    known = torch.tensor([int(level) for level in expected.split()])
    assert (found.permute(0, 2, 3, 1).flatten().int() - known).abs().max() <= 1


def test_brightness_and_contrast_have_their_ranges():
    grey = torch.full((2000, 3, 1, 1), 100, dtype=torch.uint8)
    brightness = PhotometricDistortion(contrast=0, saturation=0, hue=0)
    levels = brightness(grey, random_of(2000))[:, 0].flatten().double()
    assert torch.equal(brightness(grey, random_of(2000))[:, 0].flatten().double(), levels)
    assert (levels.min(), levels.max()) == (68, 131)
    assert 0.47 < (levels == 100).double().mean() < 0.55
    contrast = PhotometricDistortion(brightness=0, saturation=0, hue=0)
    levels = contrast(grey, random_of(2000))[:, 0].flatten().double()
    assert (levels.min(), levels.max()) == (50, 149)
    # Brightness comes first: what it adds, up to 32 levels, is multiplied.
    both = PhotometricDistortion(saturation=0, hue=0)
    two = torch.tensor([50, 100], dtype=torch.uint8).view(1, 1, 1, 2).expand(2000, 3, 1, 2)
    low, high = both(two, random_of(2000))[:, 0, 0].double().unbind(1)
    assert 40 < (2 * low - high).max() <= 50


def test_the_hue_turns_by_at_most_36_degrees_and_grey_stays():
    hue = PhotometricDistortion(brightness=0, contrast=0, saturation=0)
    red = torch.tensor([200, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1).expand(1000, 3, 1, 1)
    _, green, blue = hue(red, random_of(1000)).squeeze().int().unbind(1)
    assert (green.max(), blue.max()) == (int(200 * 17 / 30), 200 * 18 / 30)
    grey = torch.full((100, 3, 1, 1), 77, dtype=torch.uint8)
    assert torch.equal(hue(grey, random_of(100)), grey)


def test_batches_are_the_same_for_any_workers_and_processes():
    pairs = shapes(count=24)
    steps = TrainingCrops(48, 64, 256)

    def batches(**order: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        loader = pair_loader(pairs, 8, steps, shuffle=True, seed=5, drop_last=True, **order)  # pyright: ignore
        made = [(batch.image, batch.label_map, batch.index) for batch in loader.epoch(2)]
        loader.end_workers()
        return made

    alone, helped = batches(), batches(workers=1)
    halves = [batches(rank=rank, world=2) for rank in range(2)]
    assert len(alone) == 3
    for whole, same, *parts in zip(alone, helped, *halves, strict=True):
        for number in range(3):
            assert torch.equal(whole[number], same[number])
            assert torch.equal(whole[number], torch.cat([part[number] for part in parts]))
    again = next(iter(pair_loader(pairs, 8, steps, seed=5, workers=0).epoch(3)))
    before = next(iter(pair_loader(pairs, 8, steps, seed=5, workers=0).epoch(2)))
    assert not torch.equal(again.image, before.image)


def test_whole_images_keep_their_aspect_and_their_labels():
    pairs = [pair_of(np.zeros(size)) for size in ((30, 41), (50, 30), (10, 100))]
    batch = WholeImages(short_side=20, max_size=80)(pairs, random_of(3))
    assert [tuple(image.shape) for image in batch.image] == [(3, 20, 27), (3, 33, 20), (3, 8, 80)]
    assert [tuple(one.shape) for one in batch.label_map] == [(30, 41), (50, 30), (10, 100)]


def test_the_last_share_of_a_set_may_be_empty():
    loader = pair_loader(shapes(count=3), 2, TrainingCrops(32, 64, 256), rank=1, world=2)
    assert [len(batch.index) for batch in loader.epoch(0)] == [1, 0]
