"""The recipe: one configuration, one loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

import torch
from torch import nn

from modicum import classification, events, images
from modicum.classification import Logits
from modicum.data.sample_set import describe
from modicum.engine.random import SampleRandom
from modicum.engine.run import Run
from modicum.engine.schedules import warmup_cosine
from modicum.errors import ConfigError
from modicum.events.pipeline import FramePipeline
from modicum.methods.event_augmentation.augment import ESTF, EventDrift, EventID, EventReverse
from modicum.methods.event_augmentation.checkpoints import load_est
from modicum.methods.event_augmentation.est import EstClassifier
from modicum.methods.event_augmentation.event_drop import EstShiftFlip, EventDrop
from modicum.methods.event_augmentation.nda import NDA, TetFlipRoll
from modicum.methods.event_augmentation.networks import KINDS
from modicum.methods.event_augmentation.resnet import ResNet34
from modicum.methods.event_augmentation.voxels import VoxelPipeline
from modicum.options import FLAT, Ge, Interval, Options, replace
from modicum.spiking.losses import LOSSES
from modicum.spiking.networks import BUILDERS as SPIKING
from modicum.spiking.networks import SpikingNetwork, read_out
from modicum.weights.foreign import fill, read_state

ResNets = Literal["resnet34-est", "resnet34-voxels", "resnet34-count", "resnet34-frame"]
Spiking = Literal["vggsnn", "vggsnn_stride", "nda_vgg11", "light", "small"]
Network = Literal[ResNets, Spiking]
OfEvents = Literal["none", "eventid", "estf", "reverse", "drift", "eventdrop", "est-shift-flip"]
OfFrames = Literal["nda", "tet-flip-roll"]
Augment = Literal[OfEvents, OfFrames]


@dataclass(frozen=True)
class Config(Options):
    """Training a classifier of recordings. The defaults suit a few thousand small recordings."""

    recordings: Annotated[events.Recordings, FLAT] = events.Recordings()
    framing: Annotated[events.Framing, FLAT] = events.Framing()
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
    max_shift: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    """Largest drift in space, as a share of the sensor's side."""
    max_dt: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    """Largest drift in time, as a share of the recording's duration."""
    cutmix: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Probability that a box of another recording of the batch is pasted into the frames of one,
    its label mixed in by area: NDA's option, for spiking networks."""
    size: Annotated[int, Ge(8)] | None = None
    """Side in pixels that frames are resized to; none: 224 for resnet34-…, the sensor's own for
    small, else 48."""
    bins: Annotated[int, Ge(2)] = 9
    """Bins of time of the event spike tensor and of the voxel grid."""
    init: Path | None = None
    """Weights to start a resnet34-… from: a checkpoint of EST's authors, or torchvision's resnet34.
    Layers of another shape start anew."""
    loss: Literal["mean", "tet"] = "mean"
    """For spiking networks: cross entropy of the mean over time, or TET's at every step."""
    fitting: Annotated[events.Fitting, FLAT] = events.Fitting()
    schedule: Literal["cosine", "halving"] = "cosine"
    """Learning rate over the run: half a cosine to 0, or halved every 10 epochs (EST)."""
    halve_after: Annotated[int, Ge(0)] = 0
    """Epochs at the full learning rate before halving begins (EventDrop: 100)."""

    def __post_init__(self) -> None:
        super().__post_init__()
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
        return self.augment in get_args(OfFrames)


Pipeline: TypeAlias = FramePipeline | VoxelPipeline


def pipeline_for(config: Config, event_set: events.EventSet) -> Pipeline:
    """How recordings of a data set become what the network takes."""
    convention = config.recordings.reading.convention
    if config.network.startswith("resnet34"):
        kind: Any = config.network.removeprefix("resnet34-")
        sensor = (event_set.height, event_set.width, convention)
        return VoxelPipeline(*sensor, kind, config.bins, config.size or 224)
    size = config.size or (None if config.network == "small" else 48)
    return config.framing.pipeline(event_set, convention, size)


def build_network(config: Config, pipeline: Pipeline, classes: int) -> nn.Module:
    """The untrained network a configuration asks for; a `CheckpointError` if `init` is unusable."""
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
    arguments: Any = network.arguments
    return {"kind": next(k for k, made in KINDS.items() if type(network) is made), **arguments}


def train(config: Config, run: Run) -> nn.Module:
    """Train a classifier, and leave its weights in the run's folder.

    Raises:
        DataError: The recordings cannot be used.
        ConfigError: The options do not fit each other or the data.
    """
    with run.main_process_first():  # it checks the files; the others find the result remembered
        train_set = config.recordings.open("train", quiet=run.quiet)
        val_set = config.recordings.open("val", quiet=run.quiet)
    run.register_data(describe(train=train_set, val=val_set))
    pipeline, fitting = pipeline_for(config, train_set), config.fitting
    change = augmentation(config)
    loader = events.Loader(
        train_set,
        run.micro_batch_size(fitting.batch_size, len(train_set), usual=32),
        representation=pipeline,
        augment=[change] if change and not config.on_frames else [],
        frame_augment=[change] if config.on_frames else [],
        shuffle=True,
        drop_last=True,
        **run.share,
    )

    classes = len(train_set.classes)
    network = build_network(config, pipeline, classes)
    optimizer = torch.optim.Adam(
        network.parameters(), lr=fitting.learning_rate, weight_decay=fitting.weight_decay
    )
    arguments, notes = arguments_of(network), config.recordings.notes(train_set, pipeline)
    network, optimizer = run.prepare(network, optimizer)
    run.register(network=network, optimizer=optimizer)
    run.result(network, arguments=arguments, notes=notes)

    spiking = isinstance(pipeline, FramePipeline)
    criterion = LOSSES[config.loss] if spiking else nn.functional.cross_entropy
    mix = images.Mix(cutmix=1.0, probability=config.cutmix, each="sample")
    steps_an_epoch = len(loader) // run.options.accumulate
    epochs = run.epochs_for(loader, fitting.epochs, usual=60)
    config = replace(config, epochs=epochs)
    val_loader = events.Loader(val_set, 64 * run.world, representation=pipeline, **run.share)
    logits = logits_of(run.unwrap(network))
    for batch in run.batches(loader, epochs=epochs):
        network.train()
        inputs, target = batch.input, batch.label
        if mix.probability:
            made = mix(inputs, SampleRandom(run.seed, run.epoch, batch.index.cpu().numpy()))
            inputs, target = made.images, made.targets(images.soft_targets(target, classes))
        loss = criterion(network(inputs), target)
        rate = learning_rate(config, run.steps, steps_an_epoch)
        run.step(loss, optimizer, learning_rate=rate)
        run.log(loss=loss, learning_rate=rate)
        if run.scores_now(fitting.score_every, epochs):
            with run.calibrated(network, loader, lambda batch: network(batch.input)):
                network.eval()
                classification.validate(logits, val_loader, run, val_set, epochs=epochs)
    return run.finish()


def learning_rate(config: Config, step: int, steps_an_epoch: int) -> float:
    """Learning rate of a step, from 0; how many epochs there are is said."""
    peak, epochs = config.fitting.learning_rate, config.fitting.epochs
    if config.schedule == "halving":
        begun = step - config.halve_after * steps_an_epoch
        return peak * 0.5 ** (max(0, begun) // (10 * steps_an_epoch))
    assert epochs is not None
    return warmup_cosine(step, epochs * steps_an_epoch, peak=peak)


def logits_of(network: nn.Module) -> Logits:
    """A network's class scores `(B, K)`: of a spiking network, the mean over time."""
    if isinstance(network, SpikingNetwork):
        return lambda inputs: read_out(network(inputs))
    return network
