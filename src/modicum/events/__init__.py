"""Event-camera recordings: container, file formats, representations, simulator.

Representations take one recording or a batch; those of a batch have its axis, B, in front.
"""

from modicum.data.folders import Split
from modicum.events.camera import IDEAL, Conditions
from modicum.events.check import fingerprint
from modicum.events.container import EventBatch, Events
from modicum.events.datasets import open_digits, open_recordings
from modicum.events.event_set import EventSet, FileRecordings, MemoryRecordings
from modicum.events.formats.recording import EventFormatError
from modicum.events.loader import Batch, Loader
from modicum.events.options import Fitting, Framing, Reading, Recordings, open_unseen
from modicum.events.reading import detect, read, windows
from modicum.events.representations import (
    est,
    event_count,
    event_frame,
    frames,
    normalise_frames,
    resize_frames,
    time_surface,
    voxel_grid,
)
from modicum.events.simulator import (
    VARIATIONS,
    Variation,
    digit_recordings,
    simulate,
    simulate_file,
)
from modicum.events.writing import write

__all__ = [
    "IDEAL",
    "VARIATIONS",
    "Batch",
    "Conditions",
    "EventBatch",
    "EventFormatError",
    "EventSet",
    "Events",
    "FileRecordings",
    "Fitting",
    "Framing",
    "Loader",
    "MemoryRecordings",
    "Reading",
    "Recordings",
    "Split",
    "Variation",
    "detect",
    "digit_recordings",
    "est",
    "event_count",
    "event_frame",
    "fingerprint",
    "frames",
    "normalise_frames",
    "open_digits",
    "open_recordings",
    "open_unseen",
    "read",
    "resize_frames",
    "simulate",
    "simulate_file",
    "time_surface",
    "voxel_grid",
    "windows",
    "write",
]
