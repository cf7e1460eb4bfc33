"""How a recording becomes what a ResNet takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor

from modicum.events.container import EventBatch
from modicum.events.formats.aedat2 import Convention
from modicum.events.operations import first_and_last
from modicum.events.representations import event_count, event_frame, voxel_grid
from modicum.methods.event_augmentation.est import crop_and_resize

Kind = Literal["est", "voxels", "count", "frame"]


@dataclass(frozen=True)
class VoxelPipeline:
    """Make an image of many channels, cut out the central square, resize it. Stored with weights.

    The event spike tensor is learned, so the network makes it itself, of the events.
    """

    height: int
    """Rows of the sensor."""
    width: int
    """Columns of the sensor."""
    convention: Convention
    """Which way up AEDAT 2.0 is read."""
    kind: Kind
    """The representation: EST, EventDrop's voxel grid, EventCount, EventFrame."""
    bins: int
    """Bins of time of the event spike tensor (for each polarity) and of the voxel grid."""
    size: int
    """Side of the image in pixels."""

    @property
    def channels(self) -> int:
        """Channels of the image."""
        return {"est": 2 * self.bins, "voxels": self.bins, "count": 2, "frame": 1}[self.kind]

    def __call__(self, events: EventBatch) -> Tensor | EventBatch:
        """Recordings of the sensor to what the network takes.

        Returns:
            Images `(B, channels, size, size)`, float32; for `"est"` the recordings themselves.
            Times count from the first event of each, as these representations divide by the
            largest.

        Raises:
            DataError: A recording needs a larger sensor than the network was trained for.
        """
        first, _ = first_and_last(events)
        events = events.on_sensor(self.height, self.width)
        events = events.replace(t=events.t - first[events.sample])
        if self.kind == "est":
            return events
        make = {
            "voxels": partial(voxel_grid, bins=self.bins, kind="eventdrop"),
            "count": event_count,
            "frame": event_frame,
        }[self.kind]
        return crop_and_resize(make(events), self.size)

    def to_notes(self) -> dict[str, Any]:
        """What is stored beside the weights, JSON-able."""
        return asdict(self)

    @classmethod
    def from_notes(cls, notes: Mapping[str, Any]) -> VoxelPipeline:
        """The pipeline that `to_notes` described."""
        return cls(**notes)
