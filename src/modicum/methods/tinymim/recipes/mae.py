"""A teacher of one's own: pre-training as a masked autoencoder.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022: of each image most patches
are hidden, the encoder sees the others, and a small decoder restores the pixels. No labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from modicum import images
from modicum.data.sample_set import describe
from modicum.engine.random import SampleRandom
from modicum.engine.run import Run
from modicum.errors import ConfigError
from modicum.methods.tinymim.networks.mae import MaskedAutoencoder, kept_patches
from modicum.methods.tinymim.recipes.common import (
    Augmentation,
    Fitting,
    Photographs,
    Pipeline,
    Shape,
    adamw,
    notes_of,
)
from modicum.options import FLAT, Ge, Interval, Options


@dataclass(frozen=True)
class Decoder(Options):
    """What restores pixels; it is not used afterwards."""

    decoder_width: Annotated[int, Ge(4)] = 512
    """Width of the decoder's tokens."""
    decoder_depth: Annotated[int, Ge(1)] = 8
    """Blocks of the decoder."""
    decoder_heads: Annotated[int, Ge(1)] = 16
    """Heads of each."""
    normalise_patches: bool = True
    """Restore every patch with its own mean and variance taken away."""


@dataclass(frozen=True)
class Config(Options):
    """Pre-training a vision transformer to restore hidden patches."""

    photographs: Annotated[Photographs, FLAT] = Photographs()
    shape: Annotated[Shape, FLAT] = Shape(model="small")
    decoder: Annotated[Decoder, FLAT] = Decoder()
    fitting: Annotated[Fitting, FLAT] = Fitting()
    mask_ratio: Annotated[float, Interval(gt=0, lt=1)] = 0.75
    """Share of the patches that is hidden."""
    augmentation: Augmentation = "crop"
    """crop: random resized crop and flip. shift: up to a sixteenth of the side. none: the crop of
    evaluation."""
    smallest_crop: Annotated[float, Interval(gt=0, le=1)] = 0.2
    """Share of an image that a random crop has at least."""


def build_autoencoder(config: Config, size: int, channels: int) -> MaskedAutoencoder:
    """The untrained network of a configuration.

    Raises:
        ConfigError: The numbers do not go together.
    """
    encoder, decoder = config.shape.build(size, channels), config.decoder
    try:
        return MaskedAutoencoder(
            encoder.arguments, decoder_width=decoder.decoder_width,
            decoder_depth=decoder.decoder_depth, decoder_heads=decoder.decoder_heads,
            normalise=decoder.normalise_patches,
        )  # fmt: skip
    except ValueError as error:
        raise ConfigError(f"the decoder: {error} Choose other numbers.") from error


def train(config: Config, run: Run) -> nn.Module:
    """Pre-train, and leave encoder and decoder in the run's folder.

    Raises:
        DataError: The images cannot be used.
        ConfigError: The options do not fit each other or the data.
    """
    train_set, val_set = config.photographs.both(run, labelled=False)
    run.register_data(describe(train=train_set, val=val_set))
    pipeline, fitting = Pipeline.of(config.photographs.size, train_set), config.fitting
    loader = images.Loader(
        train_set,
        run.micro_batch_size(fitting.batch_size, len(train_set), usual=64),
        transform=pipeline.views(config.augmentation, config.smallest_crop),
        shuffle=True,
        drop_last=True,
        **run.share,
    )
    network = build_autoencoder(config, pipeline.size, pipeline.channels)
    optimizer = adamw(network, fitting)
    network, optimizer = run.prepare(network, optimizer)
    run.register(network=network, optimizer=optimizer)
    run.result(network, notes=notes_of(config.photographs, train_set, pipeline))

    normalise = pipeline.normalise()
    plain: MaskedAutoencoder = run.unwrap(network)
    patches = plain.encoder.grid[0] * plain.encoder.grid[1]
    steps_an_epoch = len(loader) // run.options.accumulate
    epochs = run.epochs_for(loader, fitting.epochs, usual=200)
    batch_size = loader.batch_size * run.options.accumulate
    val_loader = images.Loader(val_set, 256 * run.world, transform=(pipeline.crop(),), **run.share)

    def keep(random: SampleRandom) -> Tensor:
        return kept_patches(random, patches, config.mask_ratio).to(run.device)

    def validation_loss() -> float:
        """Of the same hidden patches at every call."""
        total = torch.zeros(2)
        with torch.no_grad(), run.autocast():
            for batch in val_loader.epoch(0):
                if len(batch.index):
                    seen = keep(SampleRandom(run.seed, 0, batch.index.numpy()))
                    loss = plain.loss(normalise(batch.image.to(run.device)), seen)
                    total += torch.tensor([float(loss) * len(seen), len(seen)])
        error, count = run.sum(total).tolist()
        return error / count

    for batch in run.batches(loader, epochs=epochs):
        network.train()
        random = SampleRandom(run.seed, run.epoch, batch.index.cpu().numpy().astype(np.int64))
        with run.autocast():
            loss = plain.loss(normalise(batch.image), keep(random))
        rate = fitting.rate(run.steps, epochs, steps_an_epoch, batch_size)
        run.step(loss, optimizer, learning_rate=rate)
        run.log(loss=loss, learning_rate=rate)
        if run.scores_now(fitting.score_every, epochs):
            network.eval()
            run.score({"val_loss": validation_loss()}, best="val_loss", higher_is_better=False)
    return run.finish()
