"""Fine-tuning a vision transformer to classify, with learning rates that grow with depth.

The recipe of MAE and BEiT for ImageNet-1k, as the authors of TinyMIM use it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from modicum import classification, images
from modicum.data.sample_set import describe
from modicum.engine.optimizers import layer_decay, parameter_groups, vectors
from modicum.engine.random import SampleRandom, permutation
from modicum.engine.run import Run
from modicum.errors import ConfigError
from modicum.methods.tinymim.checkpoints import read_encoder, start_from
from modicum.methods.tinymim.networks.vit import Pooling, VisionTransformer
from modicum.methods.tinymim.recipes.common import (
    Augmentation,
    Fitting,
    Photographs,
    Pipeline,
    Shape,
    notes_of,
)
from modicum.options import FLAT, Ge, Gt, Interval, Options


@dataclass(frozen=True)
class Config(Options):
    """Fine-tuning a vision transformer to classify images."""

    init: Path | None = None
    """Where the network starts: a run folder of mae or distil, a file of MAE or TinyMIM (.pth), or
    a folder of a ViTMAE of Transformers; none: from scratch."""
    photographs: Annotated[Photographs, FLAT] = Photographs()
    shape: Annotated[Shape, FLAT] = Shape()
    fitting: Annotated[Fitting, FLAT] = Fitting(learning_rate=5e-4, minimum_learning_rate=1e-6)
    labels: Annotated[int, Ge(1)] | None = None
    """Labelled images to learn from, drawn by the seed, as many of each class as can be; none:
    all."""
    pooling: Pooling = "mean"
    """What the classifier sees: the mean of the patches' tokens, normalised anew, or the class
    token."""
    layer_decay: Annotated[float, Interval(gt=0, le=1)] = 0.65
    """Learning rate of a block by that of the next."""
    drop_path: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    """Probability that a branch of the last block is dropped, from 0 in the first on in equal
    steps."""
    label_smoothing: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    """Share of the target spread over all classes."""
    augmentation: Augmentation = "crop"
    """crop: random resized crop and flip. shift: up to a sixteenth of the side. none: the crop of
    evaluation."""
    distortions: Annotated[images.Distortions, FLAT] = images.Distortions()
    smallest_crop: Annotated[float, Gt(0)] = 0.08
    """Share of an image that a random crop has at least."""


def build_classifier(config: Config, classes: int, size: int, channels: int) -> VisionTransformer:
    """A classifier that starts from `config.init`, whose shape it then has.

    Raises:
        ConfigError: The numbers do not go together.
        CheckpointError: The file cannot be used.
    """
    parts: dict[str, Any] = {
        "num_classes": classes, "pooling": config.pooling, "train_positions": True,
        "drop_path": config.drop_path,
    }  # fmt: skip
    if config.init is None:
        return config.shape.build(size, channels, **parts)
    source = read_encoder(config.init)
    given: dict[str, Any] = source.arguments
    if given["channels"] != channels:
        raise ConfigError(
            f"{config.init}: a network of images with {given['channels']} channels, not {channels}."
        )
    shape = {n: given[n] for n in ("width", "depth", "mlp_ratio", "patch")}
    shape["heads"] = config.shape.heads or given["heads"]
    same = {n: given[n] for n in ("distillation_token", "feature_width", "eps")}
    network = VisionTransformer(**shape, **same, image_size=size, channels=channels, **parts)
    start_from(network, source, str(config.init))
    return network


def groups_of(
    network: VisionTransformer, weight_decay: float, decay: float
) -> list[dict[str, Any]]:
    """Parameters with rates that shrink towards the first block, `decay` a block.

    Layer 0 is the tokens, positions and patches, then come the blocks; what follows them has the
    whole rate. Positions, tokens and vectors have no weight decay.
    """
    first = [n for n in ("cls_token", "dist_token", "pos_embed", "patch_embed")
             if n in dict(network.named_parameters()) or n == "patch_embed"]  # fmt: skip
    layers = [first, *([f"blocks.{number}"] for number in range(len(network.blocks)))]
    exempt = vectors(network) | {n for n in first if n != "patch_embed"}
    return parameter_groups(
        network, weight_decay, no_decay=exempt, scale=layer_decay(layers, decay)
    )


def few_labels(image_set: images.ImageSet, count: int, seed: int) -> images.ImageSet:
    """As many images of each class as can be, `count` together, drawn by a seed.

    Raises:
        ConfigError: There are fewer images, or fewer labels than classes.
    """
    classes, labels = len(image_set.classes), image_set.labels
    if not classes <= count <= len(image_set):
        raise ConfigError(
            f"--labels {count}: expected at least one of each of {classes} classes and at most the "
            f"{len(image_set)} training images."
        )
    order = torch.from_numpy(permutation(len(image_set), seed, "labels"))
    turn = torch.zeros(len(order), dtype=torch.int64)  # of each image within its class
    for number in range(classes):
        of_class = labels[order] == number
        turn[of_class] = torch.arange(int(of_class.sum()))
    first = order[turn.argsort(stable=True)][:count]
    return image_set.subset(first.sort().values.numpy())


def train(config: Config, run: Run) -> nn.Module:
    """Train a classifier, leave its weights in the run's folder, and return it.

    Raises:
        DataError: The images cannot be used.
        ConfigError: The options do not fit each other or the data.
        CheckpointError: What it starts from cannot be used.
    """
    train_set, val_set = config.photographs.both(run, labelled=True)
    if config.labels is not None:
        train_set = few_labels(train_set, config.labels, run.seed)
    run.register_data(describe(train=train_set, val=val_set))
    pipeline, fitting = Pipeline.of(config.photographs.size, train_set), config.fitting
    loader = images.Loader(
        train_set,
        run.micro_batch_size(fitting.batch_size, len(train_set), usual=64),
        transform=(
            *pipeline.views(config.augmentation, config.smallest_crop),
            *config.distortions.steps(),
        ),
        shuffle=True,
        drop_last=True,
        **run.share,
    )
    classes = len(train_set.classes)
    network = build_classifier(config, classes, pipeline.size, pipeline.channels)
    groups = groups_of(network, fitting.weight_decay, config.layer_decay)
    optimizer = torch.optim.AdamW(groups, lr=fitting.learning_rate)
    network, optimizer = run.prepare(network, optimizer)
    run.register(network=network, optimizer=optimizer)
    run.result(network, notes=notes_of(config.photographs, train_set, pipeline))

    normalise, plain = pipeline.normalise(), run.unwrap(network)
    steps_an_epoch = len(loader) // run.options.accumulate
    epochs = run.epochs_for(loader, fitting.epochs, usual=100)
    batch_size = loader.batch_size * run.options.accumulate
    val_loader = images.Loader(val_set, 256 * run.world, transform=(pipeline.crop(),), **run.share)

    def logits(pixels: Tensor) -> Tensor:
        return plain(normalise(pixels))

    for batch in run.batches(loader, epochs=epochs):
        network.train()
        random = SampleRandom(run.seed, run.epoch, batch.index.cpu().numpy())
        image, target = config.distortions(normalise(batch.image), batch.label, classes, random)
        loss = nn.functional.cross_entropy(
            network(image), target, label_smoothing=config.label_smoothing
        )
        rate = fitting.rate(run.steps, epochs, steps_an_epoch, batch_size)
        run.step(loss, optimizer, learning_rate=rate)
        run.log(loss=loss, learning_rate=rate)
        if run.scores_now(fitting.score_every, epochs):
            network.eval()
            classification.validate(
                logits, val_loader, run, val_set, epochs=epochs, ks=(1, 5),
                smoothing=config.label_smoothing,
            )  # fmt: skip
    return run.finish()
