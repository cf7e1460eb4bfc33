"""Augmentation beyond crops and flips, as options that recipes compose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from modicum.engine.random import SampleRandom
from modicum.images.loader import Step
from modicum.images.mix import Mix, soft_targets
from modicum.images.pixels import RandomErasing
from modicum.images.policies import RandAugment
from modicum.options import Ge, Interval, Options


@dataclass(frozen=True)
class Distortions(Options):
    """RandAugment, random erasing, mixup and cutmix, all off unless asked for."""

    rand_augment: Annotated[float, Interval(ge=0, le=10)] = 0.0
    """Magnitude, up to 10, of RandAugment: two random operations an image; 0: none."""
    random_erasing: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Probability that a random rectangle of a training image becomes noise."""
    mixup: Annotated[float, Ge(0)] = 0.0
    """Alpha of mixup, which averages training images in pairs, and their targets; 0: none."""
    cutmix: Annotated[float, Ge(0)] = 0.0
    """Alpha of cutmix, which pastes a box of one training image into another; 0: none. With mixup,
    each batch meets one of the two, with equal probability."""

    def steps(self) -> Sequence[Step]:
        """What is done to bytes, after views of them were taken."""
        return (RandAugment(self.rand_augment),) if self.rand_augment else ()

    def __call__(
        self, images: Tensor, labels: Tensor, classes: int, random: SampleRandom
    ) -> tuple[Tensor, Tensor]:
        """What is done to a normalised batch: erase, then mix.

        Args:
            images: Float (B,C,H,W).
            labels: int64 (B,).
            classes: Number of classes.
            random: The random numbers of the batch's samples.

        Returns:
            Images of the same shape; and the labels, or mixed the probabilities (B,classes), both
            of which `torch.nn.functional.cross_entropy` takes.
        """
        if self.random_erasing:
            images = RandomErasing(self.random_erasing)(images, random)
        if not self.mixup and not self.cutmix:
            return images, labels
        mixed = Mix(self.mixup, self.cutmix)(images, random)
        return mixed.images, mixed.targets(soft_targets(labels, classes))
