"""Options of learning from recordings, inherited by the configurations of methods that do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modicum.classification import Classifier
from modicum.data.folders import Split
from modicum.data.sample_set import SampleSet
from modicum.errors import check_options
from modicum.events.datasets import has_splits, open_recordings
from modicum.events.division import Division
from modicum.events.event_set import EventSet
from modicum.events.formats.aedat2 import Convention
from modicum.events.pipeline import FramePipeline, Normalise, Resize
from modicum.events.representations import SplitBy
from modicum.options import whole_path
from modicum.system.progress import report_progress


@dataclass(frozen=True)
class RecordingOptions:
    """Which recordings to learn from, how they are divided, and what frames are made of them."""

    data: str = "digits"
    """NAME=FOLDER of a published data set (n-mnist, n-caltech101, n-cars, cifar10-dvs,
    mnist-dvs-scale4, dvs-gesture), a folder of your own with a folder a class, or digits, which is
    simulated and built in."""
    division: Division | None = None
    """How a data set without splits is divided: tet, tebn, random or hash; none: its usual one.
    Accuracies of different divisions are not comparable."""
    convention: Convention = "jaer"
    """Which way up AEDAT 2.0 is read: jaer, dat2mat or raw."""
    sensor: tuple[int, int] | None = None
    """Height and width in pixels of the sensor of a folder of your own; none: what the files say,
    else as large as their events need."""
    holdout: float = 0.1
    """Share of a data set without splits that is held out to score the network on."""
    train_share: float = 1.0
    """Share of the training recordings to train on, to see what few of them give."""
    time_steps: int = 10
    """Frames of a recording, for spiking networks."""
    split_by: SplitBy = "number"
    """What frames have in common: number of events, time (the last takes the rest), or equal."""
    normalise: Normalise = "max"
    """max divides each frame by its largest count, clip1 makes counts 0 or 1, none leaves them."""
    resize: Resize = "bilinear"
    """How frames are resized."""
    skip_bad: bool = False
    """Leave out unreadable files, with a warning, instead of refusing to start."""

    def __post_init__(self) -> None:
        check_options(
            self,
            ("train_share", 0 < self.train_share <= 1, "above 0 and at most 1"),
            ("time_steps", self.time_steps >= 1, "at least 1"),
        )

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
                sensor=self.sensor,
                convention=self.convention,
                skip_bad=self.skip_bad,
                progress=progress,
            )
        if split == "train" and self.train_share < 1:
            return event_set.hold_out(self.train_share)[1]
        return event_set

    def frame_pipeline(self, event_set: EventSet, size: int | None) -> FramePipeline:
        """How recordings of a set become frames of `size` pixels; none: of the sensor's size."""
        return FramePipeline(
            event_set.height,
            event_set.width,
            self.convention,
            self.time_steps,
            self.split_by,
            self.normalise,
            size,
            self.resize,
        )

    def notes(self, train_set: SampleSet, pipeline: Any) -> dict[str, Any]:
        """What is stored beside the weights of a classifier, JSON-able."""
        return {
            "classes": list(train_set.classes),
            "pipeline": pipeline.to_notes(),
            "data": self.data,
            "layout": train_set.layout,
            "holdout": self.holdout,
            "division": self.division,
            "sensor": self.sensor,
        }


def open_unseen(
    classifier: Classifier[Any, Any], data: str, split: Split, *, skip_bad: bool = False
) -> EventSet:
    """The recordings to measure a trained classifier on, read as those it was trained on.

    Args:
        classifier: Its notes are those of `RecordingOptions.notes`, and its pipeline is of a
            sensor.
        data: As of `RecordingOptions`. If the classifier was trained on it, it is divided as then.
            Another folder without parts is taken whole.
        split: Part of the data.
        skip_bad: Leave out unreadable files instead of stopping.
    """
    notes, pipeline = classifier.notes, classifier.pipeline
    options = RecordingOptions(data, convention=pipeline.convention, skip_bad=skip_bad)
    if whole_path(data) == whole_path(notes["data"]):
        kept = {name: notes[name] for name in ("holdout", "division", "sensor")}
        options = dataclasses.replace(options, **kept)
    elif Path(data).is_dir():
        options = dataclasses.replace(options, sensor=(pipeline.height, pipeline.width))
        if not has_splits(data):
            options, split = dataclasses.replace(options, holdout=0.0), "train"
    return options.open(split, quiet=False)


SMOKE: Mapping[str, Any] = {
    "train_share": 0.1,
    "time_steps": 4,
    "epochs": 5,
    "batch_size": 24,
    # Small, so that steps do not amplify rounding: a spike that flips changes every later one.
    "learning_rate": 2e-4,
}
"""What makes a few steps of an experiment on the built-in digits, for presets `smoke`."""
