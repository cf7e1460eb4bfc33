"""The measures of segmentation, windows that slide, and label maps as pictures."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from modicum.images import decode_label_map
from modicum.methods.tinymim.networks.upernet import UPerNet
from modicum.methods.tinymim.segmentation import sliding
from modicum.methods.tinymim.segmentation.augment import WholeBatch, WholeImages, pair_loader
from modicum.methods.tinymim.segmentation.metrics import confusion_matrix, segmentation_scores
from modicum.methods.tinymim.segmentation.pair_sets import IGNORED
from modicum.methods.tinymim.segmentation.pictures import label_png, overlay, palette, sheet
from modicum.methods.tinymim.segmentation.shapes import shapes
from modicum.methods.tinymim.segmentation.sliding import (
    label_map_of,
    predicted_confusion,
    sliding_scores,
    window_starts,
)


def noise(*size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(1))


def test_confusion_counts_pairs_of_labels():
    random = np.random.default_rng(0)
    predicted, labels = random.integers(0, 5, (2, 3, 20, 30))
    labels[labels == 4] = IGNORED
    expected = np.zeros((5, 5), np.int64)
    for guess, true in zip(predicted.flat, labels.flat, strict=True):
        if true != IGNORED:
            expected[true, guess] += 1
    guesses = torch.from_numpy(predicted).to(torch.uint8)
    truth = torch.from_numpy(labels).to(torch.uint8)
    found = confusion_matrix(guesses, truth, 5)
    assert (found.numpy() == expected).all()
    parts = [confusion_matrix(a, b, 5) for a, b in zip(guesses, truth, strict=True)]
    assert torch.equal(torch.stack(parts).sum(0), found)


def test_labels_that_are_no_class_are_refused():
    zeros = torch.zeros(2, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="labels: found 3 to 3, expected 0 to 2"):
        confusion_matrix(zeros, zeros + 3, 3)
    with pytest.raises(ValueError, match="predicted: found -1 to -1"):
        confusion_matrix(zeros - 1, zeros, 3)
    with pytest.raises(ValueError, match="shapes"):
        confusion_matrix(zeros, zeros[0], 3)


def test_scores_by_hand():
    # Class 2 is predicted but never labelled, class 3 neither.
    confusion = torch.tensor([[6, 2, 0, 0], [1, 3, 4, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    scores = segmentation_scores(confusion)
    assert scores.iou[:3] == pytest.approx([100 * 6 / 9, 100 * 3 / 10, 0])
    assert math.isnan(scores.iou[3])
    assert scores.accuracy[:2] == pytest.approx([75, 37.5])
    assert all(math.isnan(one) for one in scores.accuracy[2:])
    assert scores.mean_iou == pytest.approx(100 * (6 / 9 + 3 / 10 + 0) / 3)
    assert scores.mean_accuracy == pytest.approx(56.25)
    assert scores.pixel_accuracy == pytest.approx(100 * 9 / 16)
    assert math.isnan(segmentation_scores(torch.zeros(2, 2, dtype=torch.int64)).mean_iou)


def test_windows_begin_where_published():
    assert window_starts(512, 512, 341) == [0]
    assert window_starts(683, 512, 341) == [0, 171]
    assert window_starts(853, 512, 341) == [0, 341]
    assert window_starts(1365, 512, 341) == [0, 341, 682, 853]
    assert window_starts(300, 512, 341) == [0]


def network(windows: Tensor) -> Tensor:
    """Scores that depend on the place in the window, so that it matters which are averaged."""
    ramp = torch.arange(windows[0, 0].numel()).view(windows.shape[2:]) / 10
    return torch.stack(
        [
            windows[:, 0] + ramp,
            windows[:, 1] * windows.mean((1, 2, 3))[:, None, None],
            windows[:, 2],
        ],
        1,
    )


def expected_scores(image: Tensor, window: int, stride: int) -> Tensor:
    height, width = image.shape[1:]
    padded = functional.pad(image, (0, max(window - width, 0), 0, max(window - height, 0)))
    total, count = torch.zeros(3, *padded.shape[1:]), torch.zeros(padded.shape[1:])
    for row in window_starts(height, window, stride):
        for column in window_starts(width, window, stride):
            here = (..., slice(row, row + window), slice(column, column + window))
            total[here] += network(padded[here][None])[0]
            count[here] += 1
    return (total / count)[:, :height, :width]


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_scores_are_means_over_windows(batch_size: int):
    images = [noise(3, *size) for size in ((12, 12), (12, 31), (40, 23), (7, 30), (5, 6))]
    found = list(sliding_scores(network, iter(images), 12, batch_size=batch_size))
    assert len(found) == len(images)
    for image, scores in zip(images, found, strict=True):
        assert torch.allclose(scores, expected_scores(image, 12, 8), atol=1e-5)


def test_no_more_images_are_held_than_a_batch_needs():
    taken: list[int] = []

    def images() -> Iterator[Tensor]:
        for number in range(9):
            taken.append(number)
            yield noise(3, 8, 20)  # two windows with 12 of stride

    for done, _ in enumerate(sliding_scores(network, images(), (8, 16), stride=12, batch_size=4)):
        assert len(taken) <= done + 2
    assert len(taken) == 9


def test_label_maps_are_those_of_resized_scores(monkeypatch: pytest.MonkeyPatch):
    scores = noise(7, 9, 13)
    scores[5] = scores[2]  # of equal ones, the first
    resized = functional.interpolate(scores[None], (20, 17), mode="bilinear", align_corners=False)
    expected = resized[0].argmax(0)
    assert (label_map_of(scores, (20, 17)) == expected).all()
    monkeypatch.setattr(sliding, "_PIXELS_AT_ONCE", 3 * 20 * 17)
    assert (label_map_of(scores, (20, 17)) == expected).all()
    monkeypatch.setattr(sliding, "_PIXELS_AT_ONCE", 1)
    assert (label_map_of(scores, (20, 17)) == expected).all()


def test_a_network_that_knows_the_labels_is_right_everywhere():
    random = np.random.default_rng(0)
    maps = [torch.from_numpy(random.integers(0, 3, size)) for size in ((20, 31), (12, 12), (9, 40))]
    batches = [
        WholeBatch(
            [functional.one_hot(one, 3).permute(2, 0, 1).to(torch.uint8) for one in part],
            [one.to(torch.uint8) for one in part],
            torch.arange(len(part)),
        )
        for part in (maps[:2], maps[2:])
    ]
    found = predicted_confusion(
        lambda windows: windows, batches, 3, 12, normalise=lambda x: x.float()
    )
    counts = torch.bincount(torch.cat([one.flatten() for one in maps]))
    assert torch.equal(found, torch.diag(counts))


def test_upernet_is_measured_on_the_built_in_shapes():
    encoder = {"width": 12, "depth": 4, "heads": 2, "image_size": 64}
    net = UPerNet(encoder, 4, channels=8, auxiliary_channels=4).eval()
    loader = pair_loader(shapes("val", count=3), 2, WholeImages(80, 320))
    with torch.no_grad():
        found = predicted_confusion(net, loader.epoch(0), 4, 64, normalise=lambda x: x / 255 - 0.5)
    labelled = int((shapes("val", count=3).label_maps != IGNORED).sum())
    assert found.sum() == labelled
    assert 0 <= segmentation_scores(found).mean_iou <= 100


def test_label_maps_are_written_with_a_palette(tmp_path: Path):
    labels = torch.arange(256).view(8, 32).to(torch.uint8)
    (tmp_path / "a.png").write_bytes(label_png(labels))
    assert (decode_label_map(tmp_path / "a.png") == labels.numpy()).all()
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        assert (np.asarray(image.convert("RGB")) == palette()[labels.numpy()]).all()
    assert len({tuple(colour) for colour in palette().tolist()}) == 256
    assert palette()[IGNORED].tolist() == [0, 0, 0]


def test_overlays_leave_what_is_ignored():
    photo = np.full((2, 3, 3), 200, np.uint8)
    labels = np.array([[0, 1, 255], [1, 1, 0]], np.uint8)
    mixed = overlay(photo, labels, opacity=0.25)
    expected = np.round(0.75 * 200 + 0.25 * palette()[1].astype(float))
    assert np.abs(mixed[1, 1] - expected).max() <= 1
    assert (mixed[0, 2] == 200).all()
    assert mixed.dtype == np.uint8
    with pytest.raises(ValueError, match="label map"):
        overlay(photo, labels[:1])


def test_a_sheet_has_a_picture_for_each_map_and_a_legend():
    pairs = shapes(count=4)
    photos, maps = [pairs.picture(number) for number in range(4)], list(pairs.label_maps)
    png = sheet(photos, {"truth": maps, "predicted": maps}, pairs.classes, cell=64)
    without = sheet(photos, {"truth": maps, "predicted": maps}, (), cell=64)
    with Image.open(io.BytesIO(png)) as image, Image.open(io.BytesIO(without)) as smaller:
        assert image.width == smaller.width
        assert image.height > smaller.height
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20) or ()}
    assert {tuple(palette()[label].tolist()) for label in range(4)} <= colours
