"""What all recipes share: images, the shape of a network, AdamW and its schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import torch

from modicum import images
from modicum.engine.optimizers import parameter_groups
from modicum.engine.run import Run
from modicum.engine.schedules import warmup_cosine
from modicum.errors import ConfigError
from modicum.methods.tinymim.networks.builders import BUILDERS, Model
from modicum.methods.tinymim.networks.vit import VisionTransformer
from modicum.options import Ge, Gt, Interval, Options, whole_path


@dataclass(frozen=True)
class Photographs(Options):
    """Images to learn from, and the size at which they are seen."""

    data: str = "digits"
    """Image folder (labels are needed to fine-tune alone: a folder a class), CIFAR-10/100 or
    tiny-imagenet as distributed, or digits, which is built in."""
    size: Annotated[int, Ge(8)] | None = None
    """Side of the crop in pixels; none: 224, or the images' own side where all are small and
    equal."""
    holdout: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    """Share of a folder without val/ that is held out to score the network on."""
    skip_bad: bool = False
    """Leave out unreadable images, with a warning, instead of refusing to start."""

    def open(self, split: images.Split, *, labelled: bool, quiet: bool) -> images.ImageSet:
        """One part of the images."""
        return images.open_images(
            self.data, split, labelled=labelled, holdout=self.holdout, skip_bad=self.skip_bad,
            quiet=quiet,
        )  # fmt: skip

    def both(self, run: Run, *, labelled: bool) -> tuple[images.ImageSet, images.ImageSet]:
        """Training and held-out images, checked by the main process first."""
        with run.main_process_first():
            train, val = (
                self.open(split, labelled=labelled, quiet=run.quiet) for split in ("train", "val")
            )
        return train, val


@dataclass(frozen=True)
class Shape(Options):
    """The network's."""

    model: Model = "tiny"
    """Network: tiny, small, base, large, or tiny-star, the paper's with a wider last layer."""
    width: Annotated[int, Ge(4)] | None = None
    """Width of the tokens in place of the model's, divisible by 4 and by the heads."""
    depth: Annotated[int, Ge(1)] | None = None
    """Blocks in place of the model's."""
    heads: Annotated[int, Ge(1)] | None = None
    """Heads of every block in place of the model's. The authors distil ViT-T with 6 and fine-tune
    it with 3."""
    mlp_ratio: Annotated[float, Gt(0)] = 4.0
    """Hidden width of MLPs by that of the tokens."""
    patch: Annotated[int, Ge(1)] | None = None
    """Side of a patch in pixels; none: 16, or an eighth of a side below 128."""

    def build(self, size: int, channels: int, **parts: Any) -> VisionTransformer:
        """The untrained network for images of a size.

        Raises:
            ConfigError: The numbers do not go together.
        """
        given = {name: getattr(self, name) for name in ("width", "depth", "heads")}
        shape = {name: number for name, number in given.items() if number is not None}
        patch = self.patch or (16 if size >= 128 else max(1, size // 8))
        try:
            return BUILDERS[self.model](
                **shape, mlp_ratio=self.mlp_ratio, patch=patch, image_size=size,
                channels=channels, **parts,
            )  # fmt: skip
        except ValueError as error:
            raise ConfigError(f"{self.model}: {error} Choose other numbers.") from error


@dataclass(frozen=True)
class Fitting(Options):
    """AdamW, and how long."""

    epochs: Annotated[int, Ge(1)] | None = None
    """Passes over the training images; none: the recipe's usual number, of few images as many as
    make 300 optimizer steps."""
    batch_size: Annotated[int, Ge(1)] | None = None
    """Images an optimizer step, over all processes and micro-batches together; none: 64, of fewer
    than 512 images about an eighth, at least 8."""
    learning_rate: Annotated[float, Gt(0)] = 1.5e-4
    """Largest learning rate for a batch of 256 images; that of other batches is in proportion."""
    minimum_learning_rate: Annotated[float, Ge(0)] = 0.0
    """Learning rate at the end, of a batch of any size."""
    warmup_epochs: Annotated[float, Ge(0)] | None = None
    """Epochs of linear warm-up; none: a twentieth of all."""
    weight_decay: Annotated[float, Ge(0)] = 0.05
    """AdamW's weight decay, of parameters of two and more dimensions."""
    score_every: Annotated[int, Ge(1)] = 1
    """Epochs from one score on the held-out images to the next; the last is always scored."""

    def rate(self, step: int, epochs: int, steps_an_epoch: int, batch_size: int) -> float:
        """Learning rate of a step, from 0, by the rule of masked autoencoders."""
        warmup = epochs / 20 if self.warmup_epochs is None else self.warmup_epochs
        return warmup_cosine(
            step - 1, epochs * steps_an_epoch, peak=self.learning_rate * batch_size / 256,
            warmup=round(warmup * steps_an_epoch), minimum=self.minimum_learning_rate,
        )  # fmt: skip


def adamw(
    module: torch.nn.Module,
    fitting: Fitting,
    betas: tuple[float, float] = (0.9, 0.95),
    **groups: Any,
) -> torch.optim.AdamW:
    """AdamW, with decay of parameters of two and more dimensions alone."""
    parts = parameter_groups(module, fitting.weight_decay, **groups)
    return torch.optim.AdamW(parts, lr=fitting.learning_rate, betas=betas)


Augmentation: TypeAlias = Literal["crop", "shift", "none"]
"""A random crop, perhaps mirrored; a shift by up to a sixteenth of the side, for small images that
crops would blur and mirrors would change; or the crop of evaluation."""


class Pipeline(images.StatedPipeline):
    """How images become a network's input."""

    resample: ClassVar[images.Resample] = "bicubic"

    @classmethod
    def of(cls, size: int | None, image_set: images.ImageSet) -> Pipeline:
        """The sizes and statistics for a data set, as ImageNet has them."""
        size = size or images.usual_size(image_set)
        short_side = size if size < 128 else round(size * 8 / 7)
        statistics = (images.IMAGENET_MEAN, images.IMAGENET_STD)
        return cls(size, short_side, *(((0.5,), (0.5,)) if image_set.channels == 1 else statistics))

    def views(self, augmentation: Augmentation, smallest: float) -> Sequence[images.Step]:
        """What training images go through before `normalise`.

        Args:
            augmentation: See `Augmentation`.
            smallest: Share of an image that a random crop has at least.
        """
        if augmentation == "crop":
            crop = images.RandomResizedCrop(self.size, (smallest, 1.0), resample="bicubic")
            return (crop, images.HorizontalFlip())
        shift = (images.RandomShift(max(1, self.size // 16)),) if augmentation == "shift" else ()
        return (self.crop(), *shift)


def notes_of(
    photographs: Photographs, train_set: images.ImageSet, pipeline: Pipeline
) -> dict[str, Any]:
    """What a recipe stores beside the weights."""
    notes: dict[str, Any] = {"classes": list(train_set.classes), "pipeline": vars(pipeline)}
    return notes | {"data": whole_path(photographs.data), "holdout": photographs.holdout}
