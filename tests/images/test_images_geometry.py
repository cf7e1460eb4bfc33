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
    RandomCrop,
    RandomResizedCrop,
    RandomShift,
    Resize,
    ResizeCentreCrop,
    SampleRandom,
    ScaleJitter,
    View,
    resize,
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
    RandomCrop((40, 24), flip=0.5),
    ScaleJitter((25, 30), flip=0.5),
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


@pytest.mark.parametrize("step", STEPS[:1] + STEPS[2:7], ids=lambda step: type(step).__name__)
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
        view = crop.view(np.tile([[height, width]], (3, 1)), random_of(3, seed))
        plans = zip(view.box, view.resized, view.corner, strict=True)
        for number, (box, resized, corner) in enumerate(plans):
            array = images[number].permute(1, 2, 0).numpy()
            picture = Image.fromarray(array if channels == 3 else array[:, :, 0])
            shape = (int(resized[1]), int(resized[0]))
            picture = picture.crop(tuple(box.tolist())).resize(shape, Image.Resampling.BILINEAR)
            row, column = corner.tolist()
            expected = np.array(picture).reshape(*resized.tolist(), channels)
            expected = expected[row : row + size, column : column + size]
            difference = np.abs(found[number] - expected)
            # Both round after each of two passes, so both are within one level of the true value.
            assert difference.max() <= 2


def test_most_pixels_of_crops_are_pillows():
    images = noise(16, 100, 130)
    view = RandomResizedCrop(48).view(np.tile([[100, 130]], (16, 1)), random_of(16))
    found = RandomResizedCrop(48)(images, random_of(16)).permute(0, 2, 3, 1).numpy()
    expected = [
        np.array(
            Image.fromarray(image.permute(1, 2, 0).numpy())
            .crop(tuple(box.tolist()))
            .resize((48, 48), Image.Resampling.BILINEAR)
        )
        for image, box in zip(images, view.box, strict=True)
    ]
    assert (found == np.stack(expected)).mean() > 0.85


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 400), width=st.integers(1, 400), seed=st.integers(0, 100))
def test_random_resized_crop_tries_ten_times(height, width, seed):
    random = random_of(8, seed)
    boxes = RandomResizedCrop(16).view(np.tile([[height, width]], (8, 1)), random).box
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
    boxes = RandomResizedCrop(16).view(np.tile([[300, 300]], (4000, 1)), random_of(4000)).box
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
    cuts = ResizeCentreCrop(256, 224).view(np.array([[375, 500], [500, 375]]), random_of(2))
    assert cuts.box.tolist() == [[0, 0, 500, 375], [0, 0, 375, 500]]
    assert cuts.resized.tolist() == [[256, 341], [341, 256]]
    assert cuts.corner.tolist() == [[16, 58], [58, 16]]


def test_resize_centre_crop_of_a_very_long_image():
    # Resized whole, it would have 256 x 10,240,000 pixels.
    cuts = ResizeCentreCrop(256, 224).view(np.array([[1, 40_000]]), random_of(1))
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


METHODS = {
    "pillow-bilinear": Image.Resampling.BILINEAR,
    "pillow-bicubic": Image.Resampling.BICUBIC,
}


@pytest.mark.parametrize("resample", METHODS)
@pytest.mark.parametrize("size", [(28, 28), (13, 50), (90, 41)])
def test_resize_is_pillows(resample, size):
    images = noise(3, 47, 33)
    expected = [
        np.asarray(
            Image.fromarray(image.permute(1, 2, 0).numpy()).resize(size[::-1], METHODS[resample])
        )
        for image in images
    ]
    found = resize(images, size, resample)
    assert (found.permute(0, 2, 3, 1).numpy() == np.stack(expected)).all()
    dull = images // 2 + 64  # nothing beyond 0 or 255 has to be cut
    near, exact = (
        resize(dull, size, r).int() for r in (resample.removeprefix("pillow-"), resample)
    )
    assert (near - exact).abs().max() <= 2


def test_opencvs_resize_by_hand():
    # Twice as wide: places -0.25, 0.25, 0.75, 1.25; what is beyond the edge is the edge.
    row = torch.tensor([[[[0, 100]]]], dtype=torch.uint8)
    assert resize(row, (1, 4), "opencv-bilinear").tolist() == [[[[0, 25, 75, 100]]]]
    # Half as large: the mean of four, rounded; two of three columns are not looked at in thirds.
    four = torch.tensor([[[[1, 2], [3, 5]]]], dtype=torch.uint8)
    assert resize(four, (1, 1), "opencv-bilinear").item() == 3
    nine = torch.arange(9, dtype=torch.uint8).view(1, 1, 1, 9) * 10
    assert resize(nine, (1, 3), "opencv-bilinear").tolist() == [[[[10, 40, 70]]]]


@pytest.mark.parametrize("size", [(28, 28), (13, 50), (90, 41), (23, 16)])
def test_resize_is_opencvs(size):
    cv2 = pytest.importorskip("cv2")
    images = noise(3, 46, 32)
    expected = [
        cv2.resize(image.permute(1, 2, 0).numpy(), size[::-1], interpolation=cv2.INTER_LINEAR)
        for image in images
    ]
    found = resize(images, size, "opencv-bilinear").permute(0, 2, 3, 1).numpy()
    assert (found == np.stack(expected)).all()


def random_view(views: int, sizes: np.ndarray, canvas: tuple[int, int] = (37, 29)) -> View:
    """Any box, any size, any place, mirrored or not; of images of the given sizes."""
    rng = np.random.default_rng(views)
    low = np.floor(rng.uniform(0, 0.4, (views, 2)) * sizes).astype(np.int64)
    high = np.ceil(rng.uniform(0.6, 1, (views, 2)) * sizes).astype(np.int64)
    box = np.concatenate([low[:, ::-1], high[:, ::-1]], axis=1)
    parts = box, rng.integers(10, 60, (views, 2)), rng.integers(-20, 20, (views, 2))
    return View(canvas, *map(torch.from_numpy, parts), torch.from_numpy(rng.random(views) < 0.5))


def spots(sizes: np.ndarray) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Label maps with one label at a place each, and the place (x, y) of its centre."""
    maps, places = [], []
    for height, width in sizes.tolist():
        row, column = height // 2, width // 2
        maps.append(torch.zeros(height, width, dtype=torch.int32))
        maps[-1][row - 1 : row + 2, column - 1 : column + 2] = 1000
        places.append((column + 0.5, row + 0.5))
    return maps, torch.tensor(places)


def test_a_view_moves_everything_alike():
    sizes = np.random.default_rng(0).integers(20, 60, (40, 2))
    view = random_view(40, sizes)
    maps, places = spots(sizes)
    moved = view.points(places[:, None])[:, 0]
    labels = view.label_maps(maps, fill=255)
    pictures = view.images([(one == 1000).byte()[None] * 200 for one in maps], fill=7)
    boxes = view.boxes(torch.cat([places - 1.5, places + 1.5], dim=1), clip=False)
    intrinsics = torch.tensor([[30.0, 0, 11], [0, 40, 5], [0, 0, 1]]).repeat(40, 6, 1, 1)
    cameras = view.cameras(intrinsics)
    seen = 0
    for number, (x, y) in enumerate(moved.tolist()):
        label, (left, top, right, bottom) = labels[number], boxes[number].tolist()
        assert left < x < right
        assert top < y < bottom
        outside = label == 255
        assert torch.equal(outside, pictures[number, 0] == 7)
        if min(left, top) >= 0 and right <= 29 and bottom <= 37:
            seen += 1
            assert label[int(y), int(x)] == 1000
            assert pictures[number, 0, int(y), int(x)] > 100
            rows, columns = (label == 1000).nonzero().unbind(1)
            assert abs(columns.double().mean() + 0.5 - x) <= 1
            assert abs(rows.double().mean() + 0.5 - y) <= 1
        # The ray through the place in the image is the ray through the place on the canvas.
        homogeneous = torch.tensor([places[number, 0], places[number, 1], 1.0])
        ray = torch.linalg.solve(intrinsics[number, 0], homogeneous)
        again = cameras[number, 3] @ ray
        assert (again[:2] / again[2]).tolist() == pytest.approx([x, y], abs=1e-3)
    assert seen > 5


def test_projections_move_as_cameras_do():
    view = random_view(5, np.full((5, 2), 50))
    world = torch.randn(5, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    world[:, 3] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    place = torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64)
    u, v, d = (world @ place)[:, :3].unbind(1)
    expected = view.points(torch.stack([u / d, v / d], dim=1)[:, None])[:, 0]
    for rows in (4, 3):
        found = (view.cameras(world[:, :rows]) @ place)[:, :3]
        assert torch.allclose(found[:, :2] / found[:, 2:], expected, atol=1e-6)


def test_boxes_are_cut_at_the_canvas_and_taken_by_row():
    view = RandomCrop((10, 20)).view(np.array([[10, 20], [30, 40]]), random_of(2))
    flipped = HorizontalFlip(1.0).view(np.array([[10, 20]]), random_of(1))
    assert flipped.boxes(torch.tensor([[1.0, 2, 5, 8]])).tolist() == [[15, 2, 19, 8]]
    rows = torch.tensor([0, 1, 1])
    boxes = torch.tensor([[-5.0, 3, 50, 60], [0, 0, 40, 30], [-9, -9, -1, -1]])
    found = view.take(rows).boxes(boxes)
    assert found[:2].tolist() == [[0, 3, 20, 10], [0, 0, 20, 10]]
    assert (found[2, 2:] - found[2, :2]).tolist() == [0, 0]


def test_label_maps_take_the_nearest_as_pillow():
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 99, (4, 31, 45)))
    for size in ((31, 90), (10, 15), (64, 20)):
        view = Resize(size).view(np.tile([[31, 45]], (4, 1)), random_of(4))
        expected = [
            np.asarray(
                Image.fromarray(one.numpy().astype(np.int32)).resize(
                    size[::-1], Image.Resampling.NEAREST
                )
            )
            for one in labels
        ]
        assert (view.label_maps(labels).numpy() == np.stack(expected)).all()


def test_large_scale_jitter_has_the_usual_sizes():
    # Sizes of the resized image that detectron2's ResizeScale gives for the factors.
    known = [
        ((583, 397), 1.9101, (1956, 1332)),
        ((119, 478), 1.2467, (318, 1277)),
        ((537, 100), 0.4456, (456, 85)),
    ]
    for (height, width), scale, resized in known:
        jitter = ScaleJitter(1024, scale=(scale, scale))
        view = jitter.view(np.array([[height, width]]), random_of(1))
        assert view.resized.tolist() == [list(resized)]


def test_large_scale_jitter_covers_its_ranges():
    sizes = np.tile([[60, 80]], (3000, 1))
    view = ScaleJitter(40, flip=0.3).view(sizes, random_of(3000))
    scale = view.resized[:, 1] / 40
    assert 0.1 <= scale.min() < 0.13
    assert 1.97 < scale.max() <= 2.0
    assert abs(scale.double().mean() - 1.05) < 0.05
    room = (view.resized - 40).clamp(min=0)
    assert (view.corner >= 0).all()
    assert (view.corner <= room).all()
    large = room[:, 1] > 20
    share = view.corner[large, 1] / room[large, 1]
    assert abs(share.double().mean() - 0.5) < 0.05
    assert 0.27 < view.mirrored.double().mean() < 0.33
    images = view.take(slice(6)).images(noise(6, 60, 80), fill=128)
    assert images.shape == (6, 3, 40, 40)
    small = int(view.resized[:6, 0].argmin())
    assert (images[small, :, int(view.resized[small, 0]) :] == 128).all()


def test_segmentation_scales_about_a_short_and_a_long_side():
    # 683x512 at factor 1: the short side is 512; at 2048x256 the long one keeps it at 256.
    jitter = ScaleJitter(512, scale=(1.0, 1.0), short_side=512, max_size=2048)
    view = jitter.view(np.array([[341, 256], [128, 1024]]), random_of(2))
    assert view.resized.tolist() == [[682, 512], [256, 2048]]


def test_resize_keeps_the_aspect_on_one_canvas():
    sizes = np.array([[480, 640], [640, 480], [200, 900], [3, 4]])
    view = Resize(800, max_size=1333, multiple=32).view(sizes, random_of(4))
    assert view.resized.tolist() == [[800, 1067], [1067, 800], [296, 1333], [800, 1067]]
    assert view.size == (1088, 1344)
    small = Resize(20, multiple=8, fill=5)(noise(2, 30, 45), random_of(2))
    assert small.shape == (2, 3, 24, 32)
    assert (small[:, :, 20:] == 5).all()
    exact = Resize((51, 38), resample="pillow-bicubic")(noise(2, 30, 45), random_of(2))
    assert exact.shape == (2, 3, 51, 38)


def test_several_crops_of_an_image():
    images = noise(40, 30, 50)
    crop = RandomCrop((20, 24), crops=3, flip=0.5)
    view = crop.view(np.tile([[30, 50]], (40, 1)), random_of(40))
    found = crop(images, random_of(40))
    assert found.shape == (120, 3, 20, 24)
    for row, (top, left) in enumerate(view.corner.tolist()):
        part = images[row // 3, :, top : top + 20, left : left + 24]
        assert torch.equal(found[row], part.flip(-1) if view.mirrored[row] else part)
    assert set(view.corner[:, 0].tolist()) == set(range(11))
    assert torch.equal(found, view.images(list(images)))
    with pytest.raises(ValueError, match="40 images for 50 views"):
        view.take(slice(50)).images(images)


def test_small_images_are_padded_by_a_crop():
    found = RandomCrop(8, fill=3)(noise(2, 5, 12), random_of(2))
    assert found.shape == (2, 3, 8, 8)
    assert (found[:, :, 5:] == 3).all()


def test_crops_need_not_be_square():
    images = noise(5, 60, 80) // 2 + 64
    crop = RandomResizedCrop((16, 48), resample="bicubic")
    found = crop(images, random_of(5))
    assert found.shape == (5, 3, 16, 48)
    box = crop.view(np.array([[60, 80]]), random_of(1)).box[0].tolist()
    picture = Image.fromarray(images[0].permute(1, 2, 0).numpy()).crop(tuple(box))
    expected = np.asarray(picture.resize((48, 16), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(found[0].permute(1, 2, 0).numpy() - expected).max() <= 2
