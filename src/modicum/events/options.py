"""Options of learning from recordings, in groups that recipes and verbs compose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from typing_extensions import TypedDict

from modicum.data.folders import Split
from modicum.data.sample_set import SampleSet
from modicum.events.container import LARGEST_SIDE
from modicum.events.datasets import has_splits, open_recordings
from modicum.events.division import Division
from modicum.events.event_set import EventSet
from modicum.events.formats.aedat2 import Convention
from modicum.events.formats.recording import Size
from modicum.events.pipeline import Bins, FramePipeline, Normalise, Resize
from modicum.events.representations import SplitBy
from modicum.options import FLAT, Ge, Gt, Interval, Options, whole_path
from modicum.system.progress import report_progress


@dataclass(frozen=True)
class Reading(Options):
    """How files of recordings are read."""

    convention: Convention = "jaer"
    """Which way up AEDAT 2.0 is read: jaer, dat2mat or raw."""
    sensor: Size | None = None
    """Height and width of the sensor in pixels, of recordings that are not of a published data set;
    none: what the files say, else as large as their events need."""


@dataclass(frozen=True)
class Recordings(Options):
    """Which recordings to learn from, and how they are divided."""

    data: str = "digits"
    """NAME=FOLDER of a published data set (n-mnist, n-caltech101, n-cars, cifar10-dvs,
    mnist-dvs-scale4, dvs-gesture), a folder of your own with a folder a class, or digits, which is
    simulated and built in."""
    reading: Annotated[Reading, FLAT] = Reading()
    division: Division | None = None
    """How a data set without splits is divided: tet, tebn, random or hash; none: its usual one.
    Accuracies of different divisions are not comparable."""
    holdout: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    """Share of a data set without splits that is held out to score the network on."""
    train_share: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """Share of the training recordings to train on, to see what few of them give."""
    skip_bad: bool = False
    """Leave out unreadable files, with a warning, instead of refusing to start."""

    def open(self, split: Split, *, quiet: bool = True) -> EventSet:
        """The recordings of a split; of the training split, the share that is asked for.

        See `modicum.events.open_recordings`.
        """
        with report_progress(f"check {split} recordings", quiet=quiet) as progress:
            event_set = open_recordings(
                self.data,
                split,
                holdout=self.holdout,
                division=self.division,
                sensor=self.reading.sensor,
                convention=self.reading.convention,
                skip_bad=self.skip_bad,
                progress=progress,
            )
        if split == "train" and self.train_share < 1:
            return event_set.hold_out(self.train_share)[1]
        return event_set

    def notes(self, train_set: SampleSet, pipeline: Any) -> dict[str, Any]:
        """What is stored beside the weights of a classifier, JSON-able; see `Notes`."""
        return {
            "classes": list(train_set.classes),
            "pipeline": pipeline.to_notes(),
            "data": self.data,
            "layout": train_set.layout,
            "holdout": self.holdout,
            "division": self.division,
            "sensor": self.reading.sensor,
        }


class Notes(TypedDict):
    """What stands beside the weights of a classifier of recordings; see `Recordings`."""

    classes: list[str]
    pipeline: dict[str, Any]
    """What makes of a recording the network's input, which its method reads."""
    data: str
    layout: str
    """What the data was, for people."""
    holdout: Annotated[float, Interval(ge=0, lt=1)]
    division: Division | None
    sensor: Annotated[Size, Interval(ge=1, le=LARGEST_SIDE)] | None


@dataclass(frozen=True)
class Framing(Options):
    """What frames are made of a recording, for spiking networks."""

    time_steps: Bins = 10
    """Frames of a recording, which spiking networks take one after the other."""
    split_by: SplitBy = "number"
    """What frames have in common: number of events, time (the last takes the rest), or equal."""
    normalise: Normalise = "max"
    """max divides each frame by its largest count, clip1 makes counts 0 or 1, none leaves them."""
    resize: Resize = "bilinear"
    """How frames are resized."""

    def pipeline(self, of: EventSet, convention: Convention, size: int | None) -> FramePipeline:
        """How recordings of a set become frames of `size` pixels; none: of the sensor's size."""
        sensor = (of.height, of.width, convention)
        frames = (self.time_steps, self.split_by, self.normalise)
        return FramePipeline(*sensor, *frames, size, self.resize)


@dataclass(frozen=True)
class Fitting(Options):
    """How long and how fast a classifier is trained, by Adam."""

    epochs: Annotated[int, Ge(1)] | None = None
    """Passes over the training samples; none: 60, of few samples as many as make 300 optimizer
    steps."""
    batch_size: Annotated[int, Ge(1)] | None = None
    """Samples an optimizer step, over all processes and micro-batches together; none: 32, of fewer
    than 256 samples about an eighth, at least 8."""
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    """Largest learning rate of Adam."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """L2 penalty."""
    score_every: Annotated[int, Ge(1)] = 1
    """Epochs from one score on held-out samples to the next."""


def open_unseen(
    notes: Mapping[str, Any], data: str, split: Split, *, skip_bad: bool = False
) -> EventSet:
    """The recordings to measure a trained classifier on, read as those it was trained on.

    Args:
        notes: Those of `Recordings.notes` beside its weights, with the pipeline of a sensor.
        data: As of `Recordings`. If the classifier was trained on it, it is divided as then.
            Another folder without parts is taken whole.
        split: Part of the data.
        skip_bad: Leave out unreadable files instead of stopping.
    """
    pipeline = notes["pipeline"]
    sensor, holdout, division = None, 0.1, None
    if whole_path(data) == whole_path(notes["data"]):
        holdout, division = notes["holdout"], notes["division"]
        sensor = notes["sensor"] and (notes["sensor"][0], notes["sensor"][1])
    elif Path(data).is_dir():
        sensor = (pipeline["height"], pipeline["width"])
        if not has_splits(data):
            holdout, split = 0.0, "train"
    reading = Reading(pipeline["convention"], sensor)
    recordings = Recordings(data, reading, division, holdout, skip_bad=skip_bad)
    return recordings.open(split, quiet=False)


SMOKE: Mapping[str, Any] = {
    "train_share": 0.1,
    "time_steps": 4,
    "epochs": 5,
    "batch_size": 24,
    # Small, so that steps do not amplify rounding: a spike that flips changes every later one.
    "learning_rate": 2e-4,
}
"""What makes a few steps of an experiment on the built-in digits, for presets `smoke`."""
