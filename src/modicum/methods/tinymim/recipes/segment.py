"""Training UPerNet on a vision transformer to segment images.

The authors' recipe for ADE20K: 160 000 iterations of batch 16, AdamW with rates that grow with
depth, linear warm-up and then linear decay, an auxiliary head with weight 0.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from modicum import images
from modicum.data.sample_set import describe
from modicum.engine.optimizers import layer_decay, parameter_groups, vectors
from modicum.engine.run import Run
from modicum.engine.schedules import polynomial
from modicum.errors import ConfigError
from modicum.methods.tinymim.checkpoints import read_encoder, start_from
from modicum.methods.tinymim.networks.upernet import UPerNet
from modicum.methods.tinymim.recipes.common import Shape
from modicum.methods.tinymim.segmentation.augment import (
    PhotometricDistortion,
    TrainingCrops,
    WholeImages,
    pair_loader,
)
from modicum.methods.tinymim.segmentation.data import open_pairs
from modicum.methods.tinymim.segmentation.metrics import segmentation_scores
from modicum.methods.tinymim.segmentation.pair_sets import IGNORED, PairSet
from modicum.methods.tinymim.segmentation.sliding import predicted_confusion
from modicum.options import FLAT, Ge, Gt, Interval, Options, whole_path


@dataclass(frozen=True)
class Pairs(Options):
    """Images with label maps."""

    data: str = "shapes"
    """ade20k=PATH, the folder ADEChallengeData2016; a folder with images/ and masks/, with or
    without train/ and val/; or shapes, which is built in."""
    crop: Annotated[int, Ge(32)] = 512
    """Side of the crops in pixels, divisible by 32, and of the window that slides over images."""
    short_side: Annotated[int, Ge(16)] | None = None
    """Short side that images are resized to, in training times a random factor of 0.5 to 2; none:
    that of the crops."""
    holdout: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    """Share of a folder without val/ that is held out to score the network on."""
    skip_bad: bool = False
    """Leave out unusable pairs, with a warning, instead of refusing to start."""

    @property
    def resized_to(self) -> int:
        """Short side of images."""
        return self.short_side or self.crop

    def open(self, split: images.Split, *, quiet: bool) -> PairSet:
        """One part of the data."""
        return open_pairs(
            self.data, split, holdout=self.holdout, skip_bad=self.skip_bad, quiet=quiet
        )


@dataclass(frozen=True)
class Config(Options):
    """Training a network to segment images."""

    init: Path | None = None
    """Where the encoder starts: a run folder of mae, distil or finetune, a file of MAE or TinyMIM
    (.pth), or a folder of a ViTMAE of Transformers, with patches of 16; none: from scratch."""
    pairs: Annotated[Pairs, FLAT] = Pairs()
    shape: Annotated[Shape, FLAT] = Shape(patch=16)
    head_width: Annotated[int, Ge(1)] = 768
    """Channels of UPerNet's head; the paper's light one has 192."""
    auxiliary_width: Annotated[int, Ge(1)] = 256
    """Channels of the auxiliary head, which is used in training alone."""
    head_dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    """Share of channels that is dropped before the classifiers of both heads."""
    steps: Annotated[int, Ge(1)] | None = None
    """Optimizer steps; none: those of 127 epochs, as 160 000 are for ADE20K, and at least 300."""
    batch_size: Annotated[int, Ge(1)] | None = None
    """Images an optimizer step, over all processes and micro-batches together; none: 16, of few
    images about an eighth."""
    learning_rate: Annotated[float, Gt(0)] = 1e-4
    """Largest learning rate."""
    warmup_steps: Annotated[int, Ge(0)] | None = None
    """Steps of linear warm-up; none: 1500, and at most a tenth of all."""
    weight_decay: Annotated[float, Ge(0)] = 0.05
    """AdamW's weight decay, of parameters of two and more dimensions."""
    layer_decay: Annotated[float, Interval(gt=0, le=1)] = 0.75
    """Learning rate of a block by that of the next."""
    drop_path: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    """Probability that a branch of the last block is dropped, from 0 in the first on in equal
    steps."""
    score_every: Annotated[int, Ge(1)] | None = None
    """Optimizer steps from one score on the held-out images to the next; none: a tenth of all."""


def build_segmenter(config: Config, classes: int) -> UPerNet:
    """A network that starts from `config.init`, whose shape it then has.

    Raises:
        ConfigError: The numbers do not go together.
        CheckpointError: The file cannot be used.
    """
    shape, side = config.shape, config.pairs.crop
    source = None if config.init is None else read_encoder(config.init)
    with torch.device("meta"):
        given: Mapping[str, Any] = (source or shape.build(side, 3)).arguments
    if given["patch"] != 16 or given["channels"] != 3:
        raise ConfigError(
            f"segmentation takes networks of patches of 16 pixels and 3 channels, not of "
            f"{given['patch']} and {given['channels']}. Choose another --init or --patch 16."
        )
    names = ("width", "depth", "mlp_ratio", "distillation_token", "feature_width")
    encoder: dict[str, Any] = {name: given[name] for name in names}
    encoder |= {"heads": shape.heads or given["heads"], "image_size": [side, side]}
    try:
        network = UPerNet(
            encoder | {"drop_path": config.drop_path}, classes, channels=config.head_width,
            auxiliary_channels=config.auxiliary_width, dropout=config.head_dropout,
        )  # fmt: skip
    except ValueError as error:
        raise ConfigError(f"the segmenter: {error} Choose other numbers.") from error
    network.arguments["encoder"] = encoder
    if source is not None:
        start_from(network.backbone, source, str(config.init))
    return network


def groups_of(network: UPerNet, weight_decay: float, decay: float) -> list[dict[str, Any]]:
    """Parameters with rates that shrink towards the first block, `decay` a block; the heads and the
    necks of the maps have the whole rate. Vectors, positions and tokens have no weight decay.
    """
    encoder = network.backbone
    first = ["cls_token", "pos_embed", "patch_embed"]
    first += ["dist_token"] if encoder.dist_token is not None else []
    layers = [first, *([f"blocks.{number}"] for number in range(len(encoder.blocks)))]
    scale = layer_decay([[f"backbone.{name}" for name in layer] for layer in layers], decay)
    exempt = vectors(network) | {f"backbone.{n}" for n in first if n != "patch_embed"}
    return parameter_groups(network, weight_decay, no_decay=exempt, scale=scale)


def train(config: Config, run: Run) -> nn.Module:
    """Train a segmenter, leave its weights in the run's folder, and return it.

    Raises:
        DataError: The images or masks cannot be used.
        ConfigError: The options do not fit each other or the data.
        CheckpointError: What it starts from cannot be used.
    """
    pairs = config.pairs
    with run.main_process_first():
        train_set, val_set = (pairs.open(split, quiet=run.quiet) for split in ("train", "val"))
    run.register_data(describe(train=train_set, val=val_set))
    crops = TrainingCrops(
        pairs.crop, pairs.resized_to, 4 * pairs.resized_to, distortion=PhotometricDistortion()
    )
    loader = pair_loader(
        train_set,
        run.micro_batch_size(config.batch_size, len(train_set), usual=16),
        crops,
        shuffle=True,
        drop_last=True,
        **run.share,
    )
    network = build_segmenter(config, len(train_set.classes))
    groups = groups_of(network, config.weight_decay, config.layer_decay)
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
    network, optimizer = run.prepare(network, optimizer)
    run.register(network=network, optimizer=optimizer)
    pipeline = {"size": pairs.crop, "short_side": pairs.resized_to,
                "mean": images.IMAGENET_MEAN, "std": images.IMAGENET_STD}  # fmt: skip
    notes = {"classes": list(train_set.classes), "pipeline": pipeline}
    run.result(network, notes=notes | {"data": whole_path(pairs.data), "holdout": pairs.holdout})

    normalise = images.Normalise(images.IMAGENET_MEAN, images.IMAGENET_STD)
    total = config.steps or run.epochs_for(loader, None, usual=127) * len(loader)
    warmup = min(1500, total // 10) if config.warmup_steps is None else config.warmup_steps
    every = config.score_every or max(1, total // 10)
    val_loader = pair_loader(
        val_set, run.world, WholeImages(pairs.resized_to, 4 * pairs.resized_to), **run.share
    )
    plain: UPerNet = run.unwrap(network)
    for batch in run.batches(loader, steps=total):
        network.train()
        with run.autocast():
            both = plain.both(normalise(batch.image))
        losses = {
            "loss": _cross_entropy(both.logits, batch.label),
            "auxiliary_loss": 0.4 * _cross_entropy(both.auxiliary, batch.label),
        }
        rate = polynomial(run.steps, total, peak=config.learning_rate, warmup=warmup)
        run.step(losses, optimizer, learning_rate=rate)
        run.log(**{name: loss.detach() for name, loss in losses.items()}, learning_rate=rate)
        done = run.steps + 1
        if done % every == 0 or run.is_last_step:
            network.eval()
            with torch.no_grad():
                counts = predicted_confusion(
                    plain, val_loader.epoch(0), len(train_set.classes), (pairs.crop, pairs.crop),
                    normalise=normalise, device=run.device,
                )  # fmt: skip
            counts = run.sum(counts.double().to(run.device)).long().cpu()
            scores = segmentation_scores(counts)
            run.score(
                {"mean_iou": scores.mean_iou, "mean_accuracy": scores.mean_accuracy,
                 "pixel_accuracy": scores.pixel_accuracy},
                best="mean_iou",
            )  # fmt: skip
    return run.finish()


def _cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean over all pixels, those without a class counting as right, as in mmsegmentation."""
    loss = functional.cross_entropy(logits.float(), label, ignore_index=IGNORED, reduction="sum")
    return loss / label.numel()
