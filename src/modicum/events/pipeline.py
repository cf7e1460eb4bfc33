"""How a recording becomes the frames a network takes, in training and for a user's own files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor
from typing_extensions import Self

from modicum.events.container import EventBatch
from modicum.events.formats.aedat2 import Convention
from modicum.events.representations import SplitBy, frames, normalise_frames, resize_frames

Normalise = Literal["max", "none", "clip1"]
Resize = Literal["bilinear", "nearest"]


@dataclass(frozen=True)
class SensorPipeline:
    """What makes of recordings of a sensor a network's input. Stored with the weights.

    Called with recordings that need a larger sensor, it raises a `DataError`.
    """

    height: int
    """Rows of the sensor."""
    width: int
    """Columns of the sensor."""
    convention: Convention
    """Which way up AEDAT 2.0 is read."""

    def to_notes(self) -> dict[str, Any]:
        """What is stored beside the weights, JSON-able."""
        return asdict(self)

    @classmethod
    def from_notes(cls, notes: Mapping[str, Any]) -> Self:
        """The pipeline that `to_notes` described."""
        return cls(**notes)


@dataclass(frozen=True)
class FramePipeline(SensorPipeline):
    """Count events in frames, bring the counts to a range, resize."""

    steps: int
    """Frames, T."""
    split_by: SplitBy
    """What is equal for all frames; see `frames`."""
    normalise: Normalise
    """See `normalise_frames`."""
    size: int | None
    """Side of the frames in pixels; none: the sensor's own size."""
    resize: Resize
    """How frames get that size."""

    def __call__(self, events: EventBatch) -> Tensor:
        """Recordings of the sensor to frames `(B, T, 2, height, width)`, float32."""
        whole = events.on_sensor(self.height, self.width)
        counts = normalise_frames(frames(whole, self.steps, self.split_by), self.normalise)
        return counts if self.size is None else resize_frames(counts, self.size, self.resize)

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the frames."""
        return (self.size, self.size) if self.size is not None else (self.height, self.width)
