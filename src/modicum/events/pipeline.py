"""How a recording becomes the frames a network takes, in training and for a user's own files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, TypeAlias

from torch import Tensor
from typing_extensions import Self

from modicum.errors import ConfigError
from modicum.events.container import LARGEST_SIDE, EventBatch, Events
from modicum.events.formats.aedat2 import Convention
from modicum.events.formats.recording import Source
from modicum.events.reading import read
from modicum.events.representations import SplitBy, frames, normalise_frames, resize_frames
from modicum.options import Interval, Options

Normalise = Literal["max", "none", "clip1"]
Resize = Literal["bilinear", "nearest"]
Side: TypeAlias = Annotated[int, Interval(ge=1, le=LARGEST_SIDE)]
Bins: TypeAlias = Annotated[int, Interval(ge=1, le=4096)]

MOST_NUMBERS = 1 << 24
"""Numbers that a network may get of a recording or image."""
_MOST_BEFORE = 1 << 26
"""Numbers that a recording may become on its sensor."""


@dataclass(frozen=True)
class SensorPipeline(Options):
    """What makes of recordings of a sensor a network's input. Stored with the weights.

    Called with recordings that need a larger sensor, it raises a `DataError`.
    """

    height: Side
    """Rows of the sensor."""
    width: Side
    """Columns of the sensor."""
    convention: Convention
    """Which way up AEDAT 2.0 is read."""

    def hold_to_size(self, planes: int) -> None:
        """Raise a `ConfigError` where a recording would become so many planes that memory fills."""
        height, width = self.input_size
        before, after = planes * self.height * self.width, planes * height * width
        if before > _MOST_BEFORE or after > MOST_NUMBERS:
            raise ConfigError(
                f"{planes} planes of {self.height} x {self.width} pixels of each recording become "
                f"{height} x {width}: expected at most {_MOST_BEFORE:,} numbers before and "
                f"{MOST_NUMBERS:,} after. Make fewer frames or bins, or smaller ones (--size)."
            )

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of what the network takes."""
        raise NotImplementedError

    def __call__(self, events: EventBatch) -> Tensor | EventBatch:
        """What the network takes of recordings of the sensor."""
        raise NotImplementedError

    def read(self, recording: Source | Events) -> Events:
        """A recording of the sensor in the order of time, from a file or from memory.

        Raises:
            DataError: The file cannot be read, or the recording needs a larger sensor.
        """
        if isinstance(recording, Events):
            return recording.on_sensor(self.height, self.width).sort()
        sensor = (self.height, self.width)
        return read(recording, sensor=sensor, convention=self.convention, sort=True)

    def batch(self, recordings: Sequence[Events]) -> Tensor | EventBatch:
        """What the network takes of several of what `read` gives."""
        return self(EventBatch.of(recordings))

    def to_notes(self) -> dict[str, Any]:
        """What is stored beside the weights, JSON-able."""
        return asdict(self)

    def described(self) -> dict[str, Any]:
        """All that it does, for programs that cannot call it: see "ONNX" in the documentation."""
        return self.to_notes() | {"polarities": ["off", "on"]}

    @classmethod
    def from_notes(cls, notes: Mapping[str, Any]) -> Self:
        """The pipeline that `to_notes` described."""
        return cls(**notes)


@dataclass(frozen=True)
class FramePipeline(SensorPipeline):
    """Count events in frames, bring the counts to a range, resize."""

    steps: Bins
    """Frames, T."""
    split_by: SplitBy
    """What is equal for all frames; see `frames`."""
    normalise: Normalise
    """See `normalise_frames`."""
    size: Side | None
    """Side of the frames in pixels; none: the sensor's own size."""
    resize: Resize
    """How frames get that size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.hold_to_size(2 * self.steps)

    def __call__(self, events: EventBatch) -> Tensor:
        """Recordings of the sensor to frames `(B, T, 2, height, width)`, float32."""
        whole = events.on_sensor(self.height, self.width)
        counts = normalise_frames(frames(whole, self.steps, self.split_by), self.normalise)
        return counts if self.size is None else resize_frames(counts, self.size, self.resize)

    def described(self) -> dict[str, Any]:
        """See `SensorPipeline.described`."""
        return super().described() | {"layout": "NTCHW"}

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the frames."""
        return (self.size, self.size) if self.size is not None else (self.height, self.width)
