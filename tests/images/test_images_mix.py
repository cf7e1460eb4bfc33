from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from modicum.images import Mix, SampleRandom, soft_targets

COUNT = 4000


def random_of(count: int, epoch: int = 0) -> SampleRandom:
    return SampleRandom(0, epoch, np.arange(count))


def numbered(count: int, height: int = 1, width: int = 1) -> torch.Tensor:
    """Images that say which they are."""
    return torch.arange(count).float().view(-1, 1, 1, 1).expand(count, 1, height, width).clone()


def test_mixup_averages_with_beta_weights():
    mixed = Mix(mixup=0.8, each="sample")(numbered(COUNT), random_of(COUNT))
    own = torch.arange(COUNT)
    expected = mixed.weight * own + (1 - mixed.weight) * mixed.partner
    assert torch.allclose(mixed.images.flatten(), expected, rtol=1e-4, atol=1e-2)
    assert stats.kstest(mixed.weight.numpy(), stats.beta(0.8, 0.8).cdf).pvalue > 1e-4
    assert sorted(mixed.partner.tolist()) == list(range(COUNT))
    assert not (mixed.partner == own).any()


def test_cutmix_pastes_boxes_of_the_images_aspect():
    height, width = 40, 60
    images = numbered(600, height, width)
    mixed = Mix(cutmix=1.0, each="sample")(images, random_of(600))
    pasted = mixed.images[:, 0] == mixed.partner.view(-1, 1, 1)
    assert torch.equal(mixed.images[:, 0][~pasted], images[:, 0][~pasted])
    rows, columns = pasted.any(2).sum(1), pasted.any(1).sum(1)
    area = pasted.flatten(1).sum(1)
    assert torch.equal(rows * columns, area)
    assert torch.allclose(mixed.weight, 1 - area / (height * width))
    whole = (pasted[:, 1:-1, 1:-1].flatten(1).sum(1) == area) & (area > 0)  # not cut at the border
    assert (rows[whole] / columns[whole] - 2 / 3).abs().max() < 0.4
    assert ((rows[whole] - 2 / 3 * columns[whole]).abs() <= 3).all()
    # Of the boxes before they are cut the area is uniform, of those that are not cut all are small.
    assert 0.05 < (1 - mixed.weight).median() < 0.5


def test_a_batch_draws_once():
    counts = {"mixup": 0, "cutmix": 0, "none": 0}
    for epoch in range(400):
        mixed = Mix(0.8, 1.0, probability=0.75)(numbered(4, 8, 8), random_of(4, epoch))
        assert len(mixed.weight.unique()) == 1
        own = mixed.images[:, 0] == torch.arange(4).view(4, 1, 1)
        other = mixed.images[:, 0] == mixed.partner.view(4, 1, 1)
        if torch.equal(mixed.partner, torch.arange(4)):
            counts["none"] += 1
        else:
            counts["cutmix" if (own | other).all() else "mixup"] += 1
    # 100, 150, 150 within four standard deviations; mixup with a weight of nearly 1 is rare.
    assert 65 < counts["none"] < 135
    assert 110 < counts["mixup"] < 190
    assert 110 < counts["cutmix"] < 190


def test_targets_are_mixed_as_images_are():
    labels = torch.tensor([0, 1, 2])
    soft = soft_targets(labels, 4, smoothing=0.1)
    assert soft[1].tolist() == pytest.approx([0.025, 0.925, 0.025, 0.025])
    mixed = Mix(mixup=1.0)(numbered(3), random_of(3))
    targets = mixed.targets(soft)
    for number in range(3):
        share = mixed.weight[number]
        expected = share * soft[number] + (1 - share) * soft[mixed.partner[number]]
        assert torch.allclose(targets[number], expected)
    assert torch.allclose(targets.sum(1), torch.ones(3))
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    loss = torch.nn.functional.cross_entropy
    parts = [
        loss(logits, t, reduction="none", label_smoothing=0.1)
        for t in (labels, labels[mixed.partner])
    ]
    expected = (mixed.weight * parts[0] + (1 - mixed.weight) * parts[1]).mean()
    assert torch.allclose(loss(logits, targets), expected)


def test_nothing_is_mixed():
    images = numbered(5)
    for mix in (Mix(), Mix(0.8, 1.0, probability=0.0)):
        mixed = mix(images, random_of(5))
        assert torch.equal(mixed.images, images)
        assert mixed.weight.tolist() == [1.0] * 5
        assert mixed.partner.tolist() == [0, 1, 2, 3, 4]


def test_frames_of_time_steps_are_mixed_alike():
    frames = torch.arange(6).view(6, 1, 1, 1, 1).expand(6, 3, 2, 9, 9)
    mixed = Mix(cutmix=1.0, each="sample")(frames, random_of(6))
    assert mixed.images.shape == frames.shape
    assert torch.equal(mixed.images[:, 0, 0], mixed.images[:, 2, 1])
    assert (mixed.images != frames).any()
