"""The recipe: one configuration, one loop."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from modicum import classification, images
from modicum.data.sample_set import describe
from modicum.engine.optimizers import parameter_groups
from modicum.engine.run import Run
from modicum.engine.schedules import one_cycle, warmup_cosine
from modicum.errors import ConfigError
from modicum.methods.vgnet.baseline import MobileNetV2, stages_like
from modicum.methods.vgnet.checkpoints import load_into, load_official
from modicum.methods.vgnet.model import BUILDERS, VGNet
from modicum.options import FLAT, Ge, Gt, Interval, Options

_log = logging.getLogger("modicum")


@dataclass(frozen=True)
class Config(Options):
    """Training an image classifier. The defaults suit a folder of a few thousand photographs."""

    data: str = "digits"
    """Image folder (a folder a class, or train/ and val/ with those), CIFAR-10/100 or tiny-imagenet
    as distributed, or digits, which is built in."""
    model: str = "vgnetg_1_0mp"
    """Network: a name of the VGNet table, such as vgnetg_1_0mp, vgnetc_1_5mp, vgnetf_1_5mp or
    vgnetg_2_0mp_se; or mobilenetv2, the baseline of the claims."""
    revision: Literal["paper", "release2"] | None = None
    """Code revision the network follows; none: paper, or the only one that has the model."""
    channels: tuple[int, ...] | None = None
    """Five widths (stem, stages 1 to 4) in place of the model's."""
    layers: tuple[int, ...] | None = None
    """Blocks in each of the four stages in place of the model's."""
    width: Annotated[float, Gt(0)] = 1.0
    """Width multiplier of mobilenetv2; with --channels and --layers, of these."""
    init: Path | None = None
    """Weights to start from: the authors' .pth, or a .safetensors of an earlier run."""
    size: Annotated[int, Ge(8)] | None = None
    """Side of the crop in pixels; none: 224, or the images' own side where all are small and equal.
    Below 128 the stem and the first stage keep full resolution (thumbnail mode)."""
    short_side: Annotated[int, Ge(8)] | None = None
    """Short side in pixels that images are resized to before the centre crop of evaluation; none:
    8/7 of the crop (256 for 224), or the crop itself in thumbnail mode."""
    epochs: Annotated[int, Ge(1)] | None = None
    """Passes over the training images; none: 30, of few images as many as make 300 optimizer
    steps."""
    batch_size: Annotated[int, Ge(1)] | None = None
    """Images an optimizer step, over all processes and micro-batches together; none: 64, of fewer
    than 512 images about an eighth, at least 8."""
    learning_rate: Annotated[float, Gt(0)] = 0.025
    """Largest learning rate. The ImageNet recipe's 0.2 at batch 512, scaled to batch 64."""
    schedule: Literal["warmup_cosine", "one_cycle"] = "warmup_cosine"
    """Learning rate over the run."""
    warmup_epochs: Annotated[float, Ge(0)] = 1.0
    """Epochs of linear warm-up of warmup_cosine."""
    minimum_learning_rate: float = 1e-6
    """Learning rate at the end of warmup_cosine."""
    momentum: float = 0.9
    """Momentum of SGD, without Nesterov's correction."""
    weight_decay: Annotated[float, Ge(0)] = 1e-4
    """L2 penalty on the weights of convolutions and linear layers, on nothing else."""
    label_smoothing: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    """Share of the target spread over all classes."""
    augmentation: Literal["crop", "shift_flip", "autoaugment", "shift", "none"] = "crop"
    """crop: random resized crop and flip. shift_flip: shift by up to 4 pixels and flip.
    autoaugment: these and the CIFAR-10 policy. shift: up to 2 pixels. none: the crop of
    evaluation."""
    distortions: Annotated[images.Distortions, FLAT] = images.Distortions()
    holdout: float = 0.1
    """Share of a folder without val/ that is held out to score the network on."""
    skip_bad: bool = False
    """Leave out unreadable images, with a warning, instead of refusing to start."""


def build_network(config: Config, *, classes: int, channels: int, size: int) -> VGNet | MobileNetV2:
    """The untrained network a configuration asks for, in thumbnail mode below `size` 128.

    Raises:
        ConfigError: There is no such model, or an option does not go with it.
        CheckpointError: `init` cannot be used.
    """
    thumbnail = size < 128
    if config.model == "mobilenetv2":
        if config.revision or config.init or bool(config.channels) != bool(config.layers):
            raise ConfigError(
                "mobilenetv2 takes --width, and --channels with --layers; not --revision or --init."
            )
        like = stages_like(config.channels or (), config.layers or ()) if config.layers else {}
        return MobileNetV2(
            config.width, num_classes=classes, in_channels=channels, thumbnail=thumbnail, **like
        )
    if config.model not in BUILDERS:
        raise ConfigError(
            f"no model is called {config.model!r}. Known: {', '.join(BUILDERS)}, mobilenetv2."
        )
    start = load_official(config.init) if config.init is not None else None
    chosen = {
        "revision": config.revision or (start and start.arguments["revision"]),
        "channels": config.channels,
        "layers": config.layers,
    }
    network = BUILDERS[config.model](
        num_classes=classes, in_channels=channels, thumbnail=thumbnail,
        **{option: value for option, value in chosen.items() if value is not None},
    )  # fmt: skip
    if start is not None:
        state = start.state_dict()
        known = start.arguments["num_classes"]
        if known != classes:
            told = "%s has %d classes, the data %d: the classifier starts anew."
            _log.info(told, config.init, known, classes)
            mine = network.state_dict()
            state |= {name: mine[name] for name in mine if name.startswith("classifier")}
        load_into(network, state, str(config.init))
    return network


class Pipeline(images.StatedPipeline):
    """How images become the network's input."""

    def training(self, augmentation: str) -> Sequence[images.Step]:
        """The steps of an augmentation of `Config`, before `normalise`."""
        square, flip = self.crop(), images.HorizontalFlip()
        shift_flip = (square, images.RandomShift(4), flip)  # as usual for CIFAR
        return {
            "crop": (images.RandomResizedCrop(self.size), flip),
            "shift_flip": shift_flip,
            # The order of Cubuk et al. (2019): shift and flip first, then the policy.
            "autoaugment": (*shift_flip, images.AutoAugmentCifar10()),
            "shift": (square, images.RandomShift(2)),
            "none": (square,),
        }[augmentation]


def pipeline_for(config: Config, image_set: images.ImageSet) -> Pipeline:
    """The sizes and statistics a configuration means for a data set."""
    size = config.size or images.usual_size(image_set)
    short_side = config.short_side or (size if size < 128 else round(size * 8 / 7))
    statistics = images.IMAGENET_MEAN, images.IMAGENET_STD
    if size < 128:
        statistics = images.CIFAR10_MEAN, images.CIFAR10_STD
    return Pipeline(
        size, short_side, *(((0.5,), (0.5,)) if image_set.channels == 1 else statistics)
    )


def resolved(data: str) -> str:
    """What tells one data set from another: the whole path, or the name of a built-in set."""
    return data if data == "digits" else str(Path(data).resolve())


def train(config: Config, run: Run) -> nn.Module:
    """Train a classifier, leave its weights in the run's folder, and return it.

    Raises:
        DataError: The images cannot be used.
        ConfigError: The options do not fit each other or the data.
    """
    with run.main_process_first():  # it checks the images; the others find the result remembered
        if run.is_main_process and not run.quiet and config.data != "digits":
            found = images.survey(config.data, holdout=config.holdout, whole=False)
            for warning in found["warnings"]:
                _log.warning("%s", warning)
        train_set, val_set = (
            images.open_images(
                config.data, split, holdout=config.holdout, skip_bad=config.skip_bad,
                quiet=run.quiet,
            )
            for split in ("train", "val")
        )  # fmt: skip
    run.register_data(describe(train=train_set, val=val_set))
    pipeline = pipeline_for(config, train_set)
    loader = images.Loader(
        train_set,
        run.micro_batch_size(config.batch_size, len(train_set), usual=64),
        transform=(*pipeline.training(config.augmentation), *config.distortions.steps()),
        shuffle=True,
        drop_last=True,
        **run.share,
    )

    classes, channels = len(train_set.classes), train_set.channels
    network = build_network(config, classes=classes, channels=channels, size=pipeline.size)
    groups = parameter_groups(network, config.weight_decay)
    optimizer = torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    network, optimizer = run.prepare(network, optimizer)
    run.register(network=network, optimizer=optimizer)
    notes = {"classes": list(train_set.classes), "pipeline": vars(pipeline)}
    notes |= {"data": resolved(config.data), "holdout": config.holdout}
    run.result(network, notes=notes)

    normalise = pipeline.normalise()
    steps_an_epoch = len(loader) // run.options.accumulate
    epochs = run.epochs_for(loader, config.epochs, usual=30)
    total = epochs * steps_an_epoch
    crop = (pipeline.crop(),)
    val_loader = images.Loader(val_set, 256 * run.world, transform=crop, **run.share)
    plain = run.unwrap(network)

    def logits(pixels: Tensor) -> Tensor:
        return plain(normalise(pixels))

    for batch in run.batches(loader, epochs=epochs):
        network.train()
        # Bytes travel to the device; floats would be four times as many.
        image, target = normalise(batch.image), batch.label
        if config.distortions != images.Distortions():
            random = images.SampleRandom(run.seed, run.epoch, batch.index.cpu().numpy())
            image, target = config.distortions(image, target, classes, random)
        loss = nn.functional.cross_entropy(
            network(image), target, label_smoothing=config.label_smoothing
        )
        rate = learning_rate(config, run.steps, total, steps_an_epoch)
        run.step(loss, optimizer, learning_rate=rate)
        run.log(loss=loss, learning_rate=rate)
        if run.epoch_ended:
            with run.calibrated(network, loader, lambda batch: network(normalise(batch.image))):
                network.eval()
                classification.validate(
                    logits, val_loader, run, val_set, epochs=epochs, ks=(1, 5),
                    smoothing=config.label_smoothing,
                )  # fmt: skip
    return run.finish()


def learning_rate(config: Config, step: int, total: int, steps_an_epoch: int) -> float:
    """Learning rate of a step, from 0, of `total` steps."""
    if config.schedule == "one_cycle":
        return one_cycle(step, total, peak=config.learning_rate)
    warmup = min(round(config.warmup_epochs * steps_an_epoch), total - 1)
    least = config.minimum_learning_rate
    return warmup_cosine(step, total, peak=config.learning_rate, warmup=warmup, minimum=least)
