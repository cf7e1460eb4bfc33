"""How a recording becomes what a ResNet takes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor

from modicum.events.container import EventBatch
from modicum.events.operations import first_and_last
from modicum.events.pipeline import Bins, SensorPipeline, Side
from modicum.events.representations import event_count, event_frame, voxel_grid
from modicum.methods.event_augmentation.est import crop_and_resize

Kind = Literal["est", "voxels", "count", "frame"]


@dataclass(frozen=True)
class VoxelPipeline(SensorPipeline):
    """Make an image of many channels, cut out the central square, resize it.

    The event spike tensor is learned, so the network makes it itself, of the events.
    """

    kind: Kind
    """The representation: EST, EventDrop's voxel grid, EventCount, EventFrame."""
    bins: Bins
    """Bins of time of the event spike tensor (for each polarity) and of the voxel grid."""
    size: Side
    """Side of the image in pixels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.hold_to_size(self.channels)

    def described(self) -> dict[str, Any]:
        """See `SensorPipeline.described`."""
        return super().described() | {"layout": "columns" if self.kind == "est" else "NCHW"}

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.size, self.size

    @property
    def channels(self) -> int:
        """Channels of the image."""
        return {"est": 2 * self.bins, "voxels": self.bins, "count": 2, "frame": 1}[self.kind]

    def __call__(self, events: EventBatch) -> Tensor | EventBatch:
        """Images `(B, channels, size, size)`, float32; for `"est"` the recordings themselves.

        Times count from the first event of each, as these representations divide by the largest.
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
