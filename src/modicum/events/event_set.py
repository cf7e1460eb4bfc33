"""A set of labelled recordings: in memory, or in files that are decoded when they are asked for."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from typing_extensions import Self

from modicum.data.sample_set import SampleSet
from modicum.events.container import EventBatch, Events
from modicum.events.formats.aedat2 import Convention
from modicum.events.reading import read


@dataclass(frozen=True, eq=False)
class EventSet(SampleSet):
    """Labelled recordings of one split. `MemoryRecordings` and `FileRecordings` are the two kinds.

    Every recording is sorted by time.
    """

    height: int
    """Rows of the sensor."""
    width: int
    """Columns of the sensor."""

    @abstractmethod
    def read(self, index: npt.NDArray[np.int64]) -> EventBatch:
        """Recordings by their index in the set, in that order; none gives a batch of none.

        Raises:
            DataError: A file cannot be decoded, or has events outside the sensor.
        """

    def picture(self, index: int) -> npt.NDArray[np.uint8]:
        """See `SampleSet.picture`: all events of a recording in one frame."""
        from modicum.events.pictures import coloured

        return coloured(self.read(np.array([index]))[0], 1)[0]

    def _batch(self, recordings: list[Events]) -> EventBatch:
        if recordings:
            return EventBatch.of(recordings)
        one = Events.of([], [], [], [], height=self.height, width=self.width)
        return EventBatch.of([one]).replace(starts=np.zeros(1, np.int64))


@dataclass(frozen=True, eq=False)
class MemoryRecordings(EventSet):
    """Recordings held in memory."""

    recordings: tuple[Events, ...]
    """One for each name, all of the set's sensor size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.recordings) != len(self.names):
            raise ValueError(f"expected {len(self.names)} recordings, found {len(self.recordings)}")
        sizes = {(recording.height, recording.width) for recording in self.recordings}
        if sizes - {(self.height, self.width)}:
            raise ValueError(
                f"expected recordings of {self.height} x {self.width} pixels, found {sizes}"
            )

    def read(self, index: npt.NDArray[np.int64]) -> EventBatch:
        """See `EventSet.read`."""
        return self._batch([self.recordings[sample] for sample in index.tolist()])

    def values(self, number: int) -> bytes:
        """See `SampleSet.values`."""
        return b"".join(getattr(self.recordings[number], name).tobytes() for name in "txyp")

    def subset(self, index: npt.NDArray[np.int64]) -> Self:
        """See `SampleSet.subset`."""
        return dataclasses.replace(
            self,
            labels=self.labels[torch.from_numpy(index)],
            names=self.names[index],
            recordings=tuple(self.recordings[sample] for sample in index.tolist()),
        )


@dataclass(frozen=True, eq=False)
class FileRecordings(EventSet):
    """Recordings in files, or in parts of files, decoded on demand."""

    root: Path
    """The folder that `files` are below."""
    files: npt.NDArray[np.str_]
    """The file of each recording, (N,), with slashes."""
    spans: npt.NDArray[np.int64] | None = None
    """Where files hold several recordings: the first microsecond of each, and the one after its
    last, (N,2). Their times are then counted from the first. None: files are recordings."""
    convention: Convention = "jaer"
    """Which way up AEDAT 2.0 is read."""

    def path(self, index: int) -> Path:
        """The file of one recording."""
        return self.root / str(self.files[index])

    def read(self, index: npt.NDArray[np.int64]) -> EventBatch:
        """See `EventSet.read`."""
        if self.spans is None:
            return self._batch([self.decode(self.path(sample)) for sample in index.tolist()])
        found: dict[int, Events] = {}
        files, which = np.unique(self.files[index], return_inverse=True)
        for number, file in enumerate(files.tolist()):  # each is decoded once
            whole = self.decode(self.root / file)
            for place in np.flatnonzero(which == number).tolist():
                start, stop = self.spans[index[place]]
                first, after = np.searchsorted(whole.t, (start, stop))
                part = whole[np.arange(first, after)]  # a copy: a view would hold on to the whole
                found[place] = part.replace(t=part.t - start)
        return self._batch([found[place] for place in range(len(index))])

    def subset(self, index: npt.NDArray[np.int64]) -> Self:
        """See `SampleSet.subset`."""
        return dataclasses.replace(
            super().subset(index),
            files=self.files[index],
            spans=None if self.spans is None else self.spans[index],
        )

    def decode(self, path: Path) -> Events:
        """A whole file, sorted by time, as this set reads it."""
        size = (self.height, self.width)
        return read(path, sensor=size, convention=self.convention, sort=True)
