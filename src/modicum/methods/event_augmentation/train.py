"""The recipe: one configuration, one loop."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from modicum import classification, events
from modicum.classification import Logits
from modicum.engine.random import SampleRandom
from modicum.engine.run import Run
from modicum.engine.schedules import halving, warmup_cosine
from modicum.errors import ConfigError, check_options
from modicum.events.pipeline import FramePipeline
from modicum.methods.event_augmentation.augment import ESTF, EventDrift, EventID, EventReverse
from modicum.methods.event_augmentation.checkpoints import load_est
from modicum.methods.event_augmentation.est import EstClassifier
from modicum.methods.event_augmentation.event_drop import EstShiftFlip, EventDrop
from modicum.methods.event_augmentation.nda import NDA, TetFlipRoll, cutmix
from modicum.methods.event_augmentation.resnet import ResNet34
from modicum.methods.event_augmentation.voxels import VoxelPipeline
from modicum.spiking.losses import LOSSES
from modicum.spiking.networks import BUILDERS as SPIKING
from modicum.spiking.networks import SpikingNetwork, read_out
from modicum.weights.foreign import fill, read_state

_log = logging.getLogger("modicum")

Network = Literal[
    "resnet34-est",
    "resnet34-voxels",
    "resnet34-count",
    "resnet34-frame",
    "vggsnn",
    "vggsnn_stride",
    "nda_vgg11",
    "light",
    "small",
]
Augment = Literal[
    "none",
    "eventid",
    "estf",
    "reverse",
    "drift",
    "eventdrop",
    "est-shift-flip",
    "nda",
    "tet-flip-roll",
]


@dataclass(frozen=True)
class Config(events.RecordingOptions):
    """Training a classifier of recordings. The defaults suit a few thousand small recordings."""

    network: Network = "small"
    """resnet34-…: a ResNet-34 on the learned event spike tensor (est), on EventDrop's voxel grid
    (voxels), on counts of both polarities (count) or of all events (frame). Else a spiking network
    on frames: vggsnn, vggsnn_stride, nda_vgg11, light or small."""
    augment: Augment = "eventid"
    """What training recordings go through: eventid (EventReverse and EventDrift on the whole
    stream), estf (the same on fragments), reverse or drift alone; the baselines eventdrop,
    est-shift-flip, nda and tet-flip-roll (the last two on frames), of which the last three mirror
    left and right, whatever the modes; or none."""
    modes: tuple[Literal["time", "polarity", "x", "y"], ...] = ("time", "polarity")
    """What EventReverse reverses, one of these at a time. x suits objects; it changes the class of
    digits, letters and gestures that have a direction."""
    drift_modes: tuple[Literal["space", "velocity", "time"], ...] = ("space", "time")
    """Where EventDrift drifts, one of these at a time; velocity is a drift in space that grows."""
    max_shift: float = 0.1
    """Largest drift in space, as a share of the sensor's side."""
    max_dt: float = 0.1
    """Largest drift in time, as a share of the recording's duration."""
    cutmix: float = 0.0
    """Probability that a box of another recording of the batch is pasted into the frames of one,
    its label mixed in by area: NDA's option, for spiking networks."""
    size: int | None = None
    """Side in pixels that frames are resized to; none: 224 for resnet34-…, the sensor's own for
    small, else 48."""
    bins: int = 9
    """Bins of time of the event spike tensor and of the voxel grid."""
    init: Path | None = None
    """Weights to start a resnet34-… from: a checkpoint of EST's authors, or torchvision's resnet34.
    Layers of another shape start anew."""
    epochs: int = 60
    """Passes over the training recordings."""
    batch_size: int = 32
    """Recordings an optimizer step, over all processes and micro-batches together."""
    learning_rate: float = 1e-3
    """Largest learning rate of Adam."""
    schedule: Literal["cosine", "halving"] = "cosine"
    """Learning rate over the run: half a cosine to 0, or halved every 10 epochs (EST)."""
    halve_after: int = 0
    """Epochs at the full learning rate before halving begins (EventDrop: 100)."""
    weight_decay: float = 0.0
    """L2 penalty."""
    loss: Literal["mean", "tet"] = "mean"
    """For spiking networks: cross entropy of the mean over time, or TET's at every step."""
    score_every: int = 1
    """Epochs from one score on held-out recordings to the next."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(
            self,
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("bins", self.bins >= 2, "at least 2"),
            ("learning_rate", self.learning_rate > 0, "more than 0"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("max_shift", 0 <= self.max_shift < 1, "at least 0 and below 1"),
            ("cutmix", 0 <= self.cutmix <= 1, "a probability, 0 to 1"),
            ("max_dt", 0 <= self.max_dt < 1, "at least 0 and below 1"),
            ("size", self.size is None or self.size >= 8, "at least 8 pixels"),
            ("score_every", self.score_every >= 1, "at least 1 epoch"),
            ("halve_after", self.halve_after >= 0, "at least 0 epochs"),
        )
        if (self.on_frames or self.cutmix) and self.network.startswith("resnet34"):
            option = f"augment {self.augment}" if self.on_frames else f"cutmix {self.cutmix}"
            raise ConfigError(
                f"--{option} changes frames, which only spiking networks take. Use "
                f"eventid, estf, eventdrop or est-shift-flip with {self.network}."
            )
        if self.init is not None and not self.network.startswith("resnet34"):
            raise ConfigError(f"--init: there are weights for resnet34-…, none for {self.network}.")

    @property
    def on_frames(self) -> bool:
        """Whether the augmentation works on frames rather than on events."""
        return self.augment in ("nda", "tet-flip-roll")


Pipeline: TypeAlias = FramePipeline | VoxelPipeline


def pipeline_for(config: Config, event_set: events.EventSet) -> Pipeline:
    """How recordings of a data set become what the network takes."""
    if config.network.startswith("resnet34"):
        kind: Any = config.network.removeprefix("resnet34-")
        return VoxelPipeline(
            event_set.height,
            event_set.width,
            config.convention,
            kind,
            config.bins,
            config.size or 224,
        )
    size = config.size or (None if config.network == "small" else 48)
    return config.frame_pipeline(event_set, size)


def build_network(config: Config, pipeline: Pipeline, classes: int) -> nn.Module:
    """The untrained network a configuration asks for.

    Raises:
        CheckpointError: `init` cannot be used.
    """
    if isinstance(pipeline, FramePipeline):
        return SPIKING[config.network](size=pipeline.input_size, num_classes=classes)
    if pipeline.kind == "est":
        network: nn.Module = EstClassifier(classes, pipeline.bins, size=pipeline.size)
    else:
        network = ResNet34(pipeline.channels, classes)
    if config.init is not None:
        _start_from(config.init, network)
    return network


def _start_from(file: Path, network: nn.Module) -> None:
    """Fill a network with published weights, of EST's or of torchvision's ResNet-34.

    The first and the last layer keep their own where they are of another shape: for other channels,
    other classes. So does the kernel of the event spike tensor, unless the weights are of EST's.
    """
    where, state = read_state(file)
    if "classifier.conv1.weight" in state:
        start = load_est(file)
        state = (start if isinstance(network, EstClassifier) else start.classifier).state_dict()
    elif isinstance(network, EstClassifier):
        state = {f"classifier.{name}": tensor for name, tensor in state.items()}
    ends = ("quantization_layer.", "conv1.", "fc.", "classifier.conv1.", "classifier.fc.")
    fill(network, state, where, fresh=ends)


def augmentation(config: Config) -> Any:
    """The augmentation a configuration names; None for none."""
    reverse = EventReverse(modes=config.modes)
    drift = EventDrift(modes=config.drift_modes, max_shift=config.max_shift, max_dt=config.max_dt)
    choices: dict[str, Any] = {
        "none": None,
        "eventid": EventID(reverse, drift),
        "estf": ESTF(reverse, drift),
        "reverse": reverse,
        "drift": drift,
        "eventdrop": EventDrop(),
        "est-shift-flip": EstShiftFlip(),
        "nda": NDA(),
        "tet-flip-roll": TetFlipRoll(),
    }
    return choices[config.augment]


def arguments_of(network: nn.Module) -> dict[str, Any]:
    """What `network(**arguments)` of the room's `method` builds the same network from."""
    kinds: dict[type, str] = {EstClassifier: "est", ResNet34: "resnet34", SpikingNetwork: "spiking"}
    arguments: Any = network.arguments
    return {"kind": kinds[type(network)], **arguments}


def train(config: Config, run: Run) -> nn.Module:
    """Train a classifier and leave its weights in the run's folder.

    Args:
        config: The recipe.
        run: The run; `run.finish()` is called.

    Returns:
        The network after the last step.

    Raises:
        DataError: The recordings cannot be used.
        ConfigError: The options do not fit each other or the data.
    """
    with run.main_process_first():  # it checks the files; the others find the result remembered
        train_set = config.open("train", quiet=run.quiet)
        val_set = config.open("val", quiet=run.quiet)
    pipeline = pipeline_for(config, train_set)
    chosen = [change for change in (augmentation(config),) if change is not None]
    loader = events.Loader(
        train_set,
        run.micro_batch_size(config.batch_size, len(train_set)),
        representation=pipeline,
        augment=[] if config.on_frames else chosen,
        frame_augment=chosen if config.on_frames else [],
        shuffle=True,
        drop_last=True,
        **run.share,
    )

    network = build_network(config, pipeline, len(train_set.classes))
    optimizer = torch.optim.Adam(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    arguments = arguments_of(network)
    network, optimizer = run.prepare(network, optimizer)
    run.register(network=network, optimizer=optimizer)
    run.result(
        network,
        arguments=arguments,
        notes=config.notes(train_set, pipeline),
    )

    spiking = isinstance(pipeline, FramePipeline)
    criterion = LOSSES[config.loss] if spiking else nn.functional.cross_entropy
    steps_an_epoch = len(loader) // run.options.accumulate
    for batch in run.batches(loader, epochs=config.epochs):
        network.train()
        inputs, target = batch.input, batch.label
        if config.cutmix:
            inputs, target = mixed(batch, config, run, len(train_set.classes))
        loss = criterion(network(inputs), target)
        rate = learning_rate(config, run.steps, steps_an_epoch)
        run.step(loss, optimizer, learning_rate=rate)
        run.log(loss=loss, learning_rate=rate)
        if run.scores_now(config.score_every, config.epochs):
            run.score(score(run.unwrap(network), val_set, pipeline, run), best="top1")
    return run.finish()


def mixed(batch: events.Batch, config: Config, run: Run, classes: int) -> tuple[Tensor, Tensor]:
    """Frames with boxes of others, and the probabilities `(B, classes)` of their labels."""
    random = SampleRandom(run.seed, run.epoch, batch.index.cpu().numpy())
    made = cutmix(batch.input, random, p=config.cutmix)
    label = nn.functional.one_hot(batch.label, classes).float()
    weight = made.weight.to(label.device)[:, None]
    return made.frames, weight * label + (1 - weight) * label[made.partner]


def learning_rate(config: Config, step: int, steps_an_epoch: int) -> float:
    """Learning rate of a step, from 0."""
    if config.schedule == "halving":
        begun = step - config.halve_after * steps_an_epoch
        return halving(max(0, begun), peak=config.learning_rate, every=10 * steps_an_epoch)
    return warmup_cosine(step, config.epochs * steps_an_epoch, peak=config.learning_rate)


def logits_of(network: nn.Module) -> Logits:
    """A network's class scores `(B, K)`: of a spiking network, the mean over time."""
    if isinstance(network, SpikingNetwork):
        return lambda inputs: read_out(network(inputs))
    return network


def score(
    network: nn.Module, event_set: events.EventSet, pipeline: Pipeline, run: Run
) -> dict[str, float]:
    """Top-1 accuracy in percent and mean cross entropy, shared among the processes."""
    network.eval()
    loader = events.Loader(event_set, 64 * run.world, representation=pipeline, **run.share)
    return classification.score(logits_of(network), loader, run)
