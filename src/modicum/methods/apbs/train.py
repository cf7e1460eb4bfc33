"""The recipe: one configuration, one loop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from modicum import classification, events, images
from modicum.data.loader import Loader
from modicum.data.sample_set import SampleSet
from modicum.engine.run import Run
from modicum.engine.schedules import warmup_cosine
from modicum.errors import ConfigError, check_options
from modicum.events.pipeline import FramePipeline
from modicum.methods.apbs.networks import build
from modicum.methods.apbs.stcf import STCF
from modicum.methods.apbs.still_images import IMAGES, ImagePipeline
from modicum.spiking.losses import LOSSES
from modicum.spiking.networks import read_out
from modicum.system.progress import report_progress

Neuron = Literal["tet", "nda", "spikingjelly", "snntorch"]


@dataclass(frozen=True)
class Config(events.RecordingOptions):
    """Training a spiking network whose synapses associate."""

    data: str = "digits"
    """NAME=FOLDER of a published data set (n-mnist, n-caltech101, n-cars, cifar10-dvs,
    mnist-dvs-scale4, dvs-gesture), a folder of your own with a folder a class, digits, which is
    simulated and built in, or cifar10=FOLDER or images=FOLDER for still images."""
    network: Literal["vggsnn", "vggsnn_stride", "nda_vgg11", "light", "small"] = "light"
    """vggsnn (9.3 M parameters), vggsnn_stride (the same without pooling), nda_vgg11 (9.2 M),
    light (0.4 M) or small (two convolutions, for minutes on a CPU)."""
    neuron: Neuron | None = None
    """Whose neurons: tet, nda, spikingjelly or snntorch; none: the network's usual ones."""
    association: float = 0.2
    """Strength lambda of the association; 0: a plain network."""
    measure: Literal["magnitude", "product"] = "magnitude"
    """What a partner synapse counts: its weight's magnitude, or the product of both weights."""
    cache: Literal["rms", "mean", "none"] = "rms"
    """What the association is relative to: a running root mean square or mean of the shared factor
    of each channel, or the sum of its weights' magnitudes."""
    associate_classifier: bool = False
    """Let the synapses of the classifier associate as well."""
    stcf: bool = True
    """Crop training recordings in time and space at random (spatio-temporal cropping)."""
    flip: bool = False
    """Mirror training recordings at random; not for digits or directions."""
    flip_time: bool = False
    """Play training recordings backwards at random."""
    train_share: float = 1.0
    """Share of the training samples to train on, to see what few of them give."""
    time_steps: int = 10
    """Frames of a recording, or how often an image is presented."""
    size: int | None = None
    """Side in pixels that frames or images are resized to; none: 48 for frames, the sensor's own
    for small, 32 for images."""
    epochs: int = 60
    """Passes over the training samples."""
    batch_size: int = 32
    """Samples an optimizer step, over all processes and micro-batches together."""
    learning_rate: float = 1e-3
    """Largest learning rate of Adam; it falls to 0 along half a cosine."""
    weight_decay: float = 0.0
    """L2 penalty."""
    loss: Literal["tet", "mean"] = "tet"
    """TET's cross entropy at every time step, or the cross entropy of the mean over time."""
    score_every: int = 1
    """Epochs from one score on held-out samples to the next."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(
            self,
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("learning_rate", self.learning_rate > 0, "more than 0"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("size", self.size is None or self.size >= 8, "at least 8 pixels"),
            ("score_every", self.score_every >= 1, "at least 1 epoch"),
        )
        if not math.isfinite(self.association):
            raise ConfigError(f"--association {self.association}: must be a finite number.")
        if self.image_folder is not None:
            for name in ("flip_time", "division", "sensor", "convention", "split_by", "normalise"):
                if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                    option = name.replace("_", "-")
                    raise ConfigError(f"--{option}: still images have none; leave the option out.")

    @property
    def image_folder(self) -> str | None:
        """Where still images lie, if the data is that."""
        name, named, folder = self.data.partition("=")
        return folder if named and name in IMAGES else None


Pipeline: TypeAlias = FramePipeline | ImagePipeline


def open_split(config: Config, split: events.Split, *, quiet: bool = True) -> SampleSet:
    """The recordings or images of a split; of the training split, the share that is asked for.

    See `events.RecordingOptions.open` and `images.open_images`.
    """
    if config.image_folder is None:
        return config.open(split, quiet=quiet)
    with report_progress(f"check {split} images", quiet=quiet) as progress:
        image_set = images.open_images(
            config.image_folder,
            split,
            holdout=config.holdout,
            skip_bad=config.skip_bad,
            progress=progress,
        )
    if split == "train" and config.train_share < 1:
        return image_set.hold_out(config.train_share)[1]
    return image_set


def pipeline_for(config: Config, samples: SampleSet) -> Pipeline:
    """How the samples of a data set become what the network takes."""
    if isinstance(samples, images.ImageSet):
        return ImagePipeline(config.size or 32, samples.channels)
    assert isinstance(samples, events.EventSet)
    size = config.size or (None if config.network == "small" else 48)
    return config.frame_pipeline(samples, size)


def build_network(config: Config, pipeline: Pipeline, classes: int) -> nn.Module:
    """The untrained network a configuration asks for."""
    still = isinstance(pipeline, ImagePipeline)
    return build(
        config.network,
        neuron=config.neuron,
        association=config.association,
        measure=config.measure,
        cache=config.cache,
        associate_classifier=config.associate_classifier,
        size=pipeline.input_size,
        in_channels=pipeline.channels if still else 2,
        num_classes=classes,
        time_steps=config.time_steps if still else None,
    )


def loader_for(
    samples: SampleSet,
    pipeline: Pipeline,
    batch_size: int,
    *,
    augment: STCF | None = None,
    **order: Any,
) -> Loader[Any]:
    """Batches of frames `(B, T, 2, H, W)` or images `(B, C, H, W)`.

    Args:
        samples: Recordings or images.
        pipeline: What becomes of them.
        batch_size: Samples a batch, over all processes.
        augment: What training samples go through.
        order: Of `data.loader.Loader`: `seed`, `shuffle`, `workers` and so on.
    """
    if isinstance(pipeline, ImagePipeline):
        assert isinstance(samples, images.ImageSet)
        steps = pipeline.training(augment) if augment else pipeline.evaluation()
        return images.Loader(samples, batch_size, transform=steps, **order)
    assert isinstance(samples, events.EventSet)
    return events.Loader(
        samples,
        batch_size,
        representation=pipeline,
        augment=[augment] if augment else [],
        **order,
    )


def train(config: Config, run: Run) -> nn.Module:
    """Train a classifier and leave its weights in the run's folder.

    Args:
        config: The recipe.
        run: The run; `run.finish()` is called.

    Returns:
        The network after the last step.

    Raises:
        DataError: The recordings or images cannot be used.
        ConfigError: The options do not fit each other or the data.
    """
    with run.main_process_first():  # it checks the files; the others find the result remembered
        train_set = open_split(config, "train", quiet=run.quiet)
        val_set = open_split(config, "val", quiet=run.quiet)
    pipeline = pipeline_for(config, train_set)
    loader = loader_for(
        train_set,
        pipeline,
        run.micro_batch_size(config.batch_size, len(train_set)),
        augment=augmentation(config),
        shuffle=True,
        drop_last=True,
        **run.share,
    )

    network = build_network(config, pipeline, len(train_set.classes))
    optimizer = torch.optim.Adam(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    network, optimizer = run.prepare(network, optimizer)
    run.register(network=network, optimizer=optimizer)
    run.result(
        network,
        notes=config.notes(train_set, pipeline),
    )

    total = config.epochs * (len(loader) // run.options.accumulate)
    criterion = LOSSES[config.loss]
    for batch in run.batches(loader, epochs=config.epochs):
        network.train()
        loss = criterion(network(batch[0]), batch.label)
        rate = warmup_cosine(run.steps, total, peak=config.learning_rate)
        run.step(loss, optimizer, learning_rate=rate)
        run.log(loss=loss, learning_rate=rate)
        if run.scores_now(config.score_every, config.epochs):
            run.score(score(run.unwrap(network), val_set, pipeline, run), best="top1")
    return run.finish()


def augmentation(config: Config) -> STCF | None:
    """What training samples go through; None for nothing."""
    if not (config.stcf or config.flip or config.flip_time):
        return None
    crop = 0.5 if config.stcf else 0.0
    return STCF(
        crop_time=crop,
        crop_space=crop,
        flip=0.5 if config.flip else 0.0,
        flip_time=0.5 if config.flip_time else 0.0,
    )


def score(network: nn.Module, samples: SampleSet, pipeline: Pipeline, run: Run) -> dict[str, float]:
    """Top-1 accuracy in percent and mean cross entropy of the mean over time."""
    network.eval()
    loader = loader_for(samples, pipeline, 64 * run.world, **run.share)
    return classification.score(lambda inputs: read_out(network(inputs)), loader, run)
