"""Mixup and cutmix: a batch mixed with another order of itself, and what becomes of the targets.

Unlike all other transforms, what becomes of a sample depends on the batch it is in: its partner is
of that batch (with several processes, of this one's share).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modicum.engine.random import SampleRandom


class Mixed(NamedTuple):
    """Images made of two samples each."""

    images: Tensor
    """(B,...,H,W)."""
    partner: Tensor
    """Which sample of the batch was mixed into each, int64 (B,); itself where none was."""
    weight: Tensor
    """Share of the sample itself, float32 (B,): the loss is
    `weight loss(target) + (1 - weight) loss(target[partner])`, for a cross-entropy the same as
    that of `targets`."""

    def targets(self, targets: Tensor) -> Tensor:
        """Soft targets (B,K) mixed as the images are, such as of `soft_targets`."""
        weight = self.weight[:, None].to(targets.dtype)
        return weight * targets + (1 - weight) * targets[self.partner]


def soft_targets(labels: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """Class labels int64 (B,) as probabilities (B,classes), a share of them spread over all."""
    one_hot = torch.nn.functional.one_hot(labels, classes).float()
    return one_hot * (1.0 - smoothing) + smoothing / classes


@dataclass(frozen=True)
class Mix:
    """Mixup, cutmix, or one of both by chance.

    Mixup: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018: images are averaged
    with weights w and 1 - w. Cutmix: Yun et al., "CutMix: Regularization Strategy to Train Strong
    Classifiers with Localizable Features", ICCV 2019: a box of a share 1 - w of the area, of the
    image's aspect, centred anywhere and cut at the border, is pasted; the weight is then what is
    really left. w has a Beta(alpha, alpha) distribution.
    """

    mixup: float = 0.0
    """Alpha of mixup; 0: never."""
    cutmix: float = 0.0
    """Alpha of cutmix; 0: never."""
    switch: float = 0.5
    """Probability of cutmix where both may be."""
    probability: float = 1.0
    """Probability that anything is mixed."""
    each: Literal["batch", "sample"] = "batch"
    """Whether the numbers are drawn once for the batch (they are those of its first sample) or for
    each sample; partners differ in any case."""

    def __call__(self, images: Tensor, random: SampleRandom) -> Mixed:
        """Mix images.

        Args:
            images: (B,...,H,W), floating point for mixup; on any device.
            random: The random numbers of the samples.
        """
        count, sides = len(images), np.array(images.shape[-2:])
        draws = random.uniform(7, "cutmix")
        order = np.argsort(draws[:, 0], kind="stable")  # each gets the next in a random circle
        partner = np.empty(count, np.int64)
        partner[order] = np.roll(order, -1)
        if self.each == "batch":
            draws = np.repeat(draws[:1], count, axis=0)
        mixes = (draws[:, 1] < self.probability) & (self.mixup + self.cutmix > 0)
        cuts = mixes & (draws[:, 5] < (self.switch if self.mixup else 1.0)) & (self.cutmix > 0)
        partner = np.where(mixes, partner, np.arange(count))
        others = torch.from_numpy(partner).to(images.device)
        shape = (count, *[1] * (images.ndim - 3), -1)

        kept = _beta(self.cutmix, draws[:, 2, None])
        cut = np.where(cuts[:, None], np.floor(sides * np.sqrt(1 - kept)), 0)
        centre = np.floor(draws[:, 3:5] * sides)
        low, high = np.maximum(centre - cut // 2, 0), np.minimum(centre + cut // 2, sides)
        area = (high - low).prod(axis=1) / sides.prod()
        weight = np.where(cuts, 1 - area, np.where(mixes, _beta(self.mixup, draws[:, 6]), 1.0))
        result = images
        if (mixes & ~cuts).any():
            share = torch.from_numpy(np.where(cuts, 1.0, weight)).to(images.device, images.dtype)
            result = torch.lerp(images[others], images, share.view(*shape, 1))
        if cuts.any():
            inside = [
                torch.from_numpy(
                    (np.arange(n) >= low[:, axis, None]) & (np.arange(n) < high[:, axis, None])
                )
                for axis, n in enumerate(sides)
            ]
            rows, columns = (lines.to(images.device).view(shape) for lines in inside)
            result = torch.where(rows[..., None] & columns[..., None, :], images[others], result)
        return Mixed(result, others, torch.from_numpy(weight).float().to(images.device))


def _beta(alpha: float, uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Numbers of a Beta(alpha, alpha) distribution from uniform ones."""
    if alpha in (0.0, 1.0):
        return uniform
    from scipy.special import betaincinv

    return betaincinv(alpha, alpha, uniform)
