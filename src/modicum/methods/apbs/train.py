"""The recipe: one configuration, one loop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import torch
from torch import nn

from modicum import classification, events, images
from modicum.data.loader import Loader
from modicum.data.sample_set import SampleSet, describe
from modicum.engine.run import Run
from modicum.engine.schedules import warmup_cosine
from modicum.errors import ConfigError
from modicum.events.pipeline import FramePipeline
from modicum.methods.apbs.association import Cache, Measure
from modicum.methods.apbs.networks import build
from modicum.methods.apbs.stcf import STCF
from modicum.methods.apbs.still_images import IMAGES, ImagePipeline
from modicum.options import FLAT, Ge, Options, refuse
from modicum.spiking.losses import LOSSES
from modicum.spiking.networks import read_out

Neuron = Literal["tet", "nda", "spikingjelly", "snntorch"]


@dataclass(frozen=True)
class Samples(events.Recordings):
    """Which recordings or still images to learn from, and how they are divided."""

    data: str = "digits"
    """NAME=FOLDER of a published data set (n-mnist, n-caltech101, n-cars, cifar10-dvs,
    mnist-dvs-scale4, dvs-gesture), a folder of your own with a folder a class, digits, which is
    simulated and built in, or cifar10=FOLDER or images=FOLDER for still images, each of which is
    presented --time-steps times."""

    @property
    def image_folder(self) -> str | None:
        """Where still images lie, if the data is that."""
        name, named, folder = self.data.partition("=")
        return folder if named and name in IMAGES else None

    def samples(self, split: events.Split, *, quiet: bool = True) -> SampleSet:
        """The recordings or images of a split; of the training split, the share asked for.

        See `events.Recordings.open` and `images.open_images`.
        """
        if self.image_folder is None:
            return self.open(split, quiet=quiet)
        image_set = images.open_images(
            self.image_folder, split, holdout=self.holdout, skip_bad=self.skip_bad, quiet=quiet
        )
        if split == "train" and self.train_share < 1:
            return image_set.hold_out(self.train_share)[1]
        return image_set


@dataclass(frozen=True)
class Config(Options):
    """Training a spiking network whose synapses associate."""

    source: Annotated[Samples, FLAT] = Samples()
    framing: Annotated[events.Framing, FLAT] = events.Framing()
    network: Literal["vggsnn", "vggsnn_stride", "nda_vgg11", "light", "small"] = "light"
    """vggsnn (9.3 M parameters), vggsnn_stride (the same without pooling), nda_vgg11 (9.2 M),
    light (0.4 M) or small (two convolutions, for minutes on a CPU)."""
    neuron: Neuron | None = None
    """Whose neurons: tet, nda, spikingjelly or snntorch; none: the network's usual ones."""
    association: float = 0.2
    """Strength lambda of the association; 0: a plain network."""
    measure: Measure = "magnitude"
    """What a partner synapse counts: its weight's magnitude, or the product of both weights."""
    cache: Cache = "rms"
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
    size: Annotated[int, Ge(8)] | None = None
    """Side in pixels that frames or images are resized to; none: 48 for frames, the sensor's own
    for small, 32 for images."""
    loss: Literal["tet", "mean"] = "tet"
    """TET's cross entropy at every time step, or the cross entropy of the mean over time."""
    fitting: Annotated[events.Fitting, FLAT] = events.Fitting()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.association):
            raise refuse("association", self.association, "a finite number")
        if self.source.image_folder is not None:
            of_recordings = {
                "flip_time": self.flip_time,
                "division": self.source.division,
                "sensor": self.source.reading.sensor,
                "convention": self.source.reading.convention != "jaer",
                "split_by": self.framing.split_by != "number",
                "normalise": self.framing.normalise != "max",
            }
            for name in (name for name, given in of_recordings.items() if given):
                option = name.replace("_", "-")
                raise ConfigError(f"--{option}: still images have none; leave the option out.")


Pipeline: TypeAlias = FramePipeline | ImagePipeline


def pipeline_for(config: Config, samples: SampleSet) -> Pipeline:
    """How the samples of a data set become what the network takes."""
    if isinstance(samples, images.ImageSet):
        return ImagePipeline(config.size or 32, samples.channels)
    assert isinstance(samples, events.EventSet)
    size = config.size or (None if config.network == "small" else 48)
    return config.framing.pipeline(samples, config.source.reading.convention, size)


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
        time_steps=config.framing.time_steps if still else None,
    )


def loader_for(
    samples: SampleSet,
    pipeline: Pipeline,
    batch_size: int,
    *,
    augment: STCF | None = None,
    **order: Any,
) -> Loader[Any]:
    """Batches of frames `(B, T, 2, H, W)` or images `(B, C, H, W)`; `order` as of any `Loader`."""
    if isinstance(pipeline, ImagePipeline):
        assert isinstance(samples, images.ImageSet)
        steps = pipeline.training(augment) if augment else pipeline.evaluation()
        return images.Loader(samples, batch_size, transform=steps, **order)
    assert isinstance(samples, events.EventSet)
    changes = [augment] if augment else []
    return events.Loader(samples, batch_size, representation=pipeline, augment=changes, **order)


def train(config: Config, run: Run) -> nn.Module:
    """Train a classifier, leave its weights in the run's folder, and return it.

    Raises:
        DataError: The recordings or images cannot be used.
        ConfigError: The options do not fit each other or the data.
    """
    with run.main_process_first():  # it checks the files; the others find the result remembered
        train_set = config.source.samples("train", quiet=run.quiet)
        val_set = config.source.samples("val", quiet=run.quiet)
    pipeline, fitting = pipeline_for(config, train_set), config.fitting
    run.register_data(describe(train=train_set, val=val_set))
    size = run.micro_batch_size(fitting.batch_size, len(train_set), usual=32)
    order = {"shuffle": True, "drop_last": True, **run.share}
    loader = loader_for(train_set, pipeline, size, augment=augmentation(config), **order)

    network = build_network(config, pipeline, len(train_set.classes))
    optimizer = torch.optim.Adam(
        network.parameters(), lr=fitting.learning_rate, weight_decay=fitting.weight_decay
    )
    network, optimizer = run.prepare(network, optimizer)
    run.register(network=network, optimizer=optimizer)
    run.result(network, notes=config.source.notes(train_set, pipeline))

    epochs = run.epochs_for(loader, fitting.epochs, usual=60)
    total = epochs * (len(loader) // run.options.accumulate)
    val_loader = loader_for(val_set, pipeline, 64 * run.world, **run.share)
    criterion, plain = LOSSES[config.loss], run.unwrap(network)
    for batch in run.batches(loader, epochs=epochs):
        network.train()
        loss = criterion(network(batch[0]), batch.label)
        rate = warmup_cosine(run.steps, total, peak=fitting.learning_rate)
        run.step(loss, optimizer, learning_rate=rate)
        run.log(loss=loss, learning_rate=rate)
        if run.scores_now(fitting.score_every, epochs):
            with run.calibrated(network, loader, lambda batch: network(batch[0])):
                network.eval()
                classification.validate(
                    lambda x: read_out(plain(x)), val_loader, run, val_set, epochs=epochs
                )
    return run.finish()


def augmentation(config: Config) -> STCF | None:
    """What training samples go through; None for nothing."""
    if not (config.stcf or config.flip or config.flip_time):
        return None
    crop, flip, flip_time = (0.5 * on for on in (config.stcf, config.flip, config.flip_time))
    return STCF(crop_time=crop, crop_space=crop, flip=flip, flip_time=flip_time)
