"""Reading recordings: any supported file to `Events`, whole or in windows.

| format | files | data sets |
|---|---|---|
| `atis` | `.bin`, `.bs2` | N-MNIST, N-Caltech101 |
| `prophesee` | `.dat` | N-CARS, GEN1 |
| `aedat2` | `.aedat` | CIFAR10-DVS, MNIST-DVS |
| `aedat3` | `.aedat` | DVS128 Gesture |
| `npy` | `.npy` | the EST and EventDrop packs, structured arrays |
| `npz`, `h5` | `.npz`, `.h5`, `.hdf5` | our own; `.h5` also as DSEC |
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from modicum.errors import ConfigError
from modicum.events.container import DECODED, LARGEST_SIDE, Events
from modicum.events.formats import aedat2, aedat3, arrays, atis, prophesee
from modicum.events.formats.aedat2 import Convention
from modicum.events.formats.recording import Block, File, Recording, Size, Source, aedat_version

Format: TypeAlias = Literal["atis", "prophesee", "aedat2", "aedat3", "npy", "npz", "h5"]

SUFFIXES: dict[str, tuple[Format, ...]] = {
    ".bin": ("atis",),
    ".bs2": ("atis",),
    ".dat": ("prophesee",),
    ".aedat": ("aedat2", "aedat3"),
    ".npy": ("npy",),
    ".npz": ("npz",),
    ".h5": ("h5",),
    ".hdf5": ("h5",),
}
"""What files with a suffix may hold."""


_LARGEST_GROWTH = 8
"""How much larger than its file a compressed recording may be in memory: usually three times."""
_ALWAYS_READ = 1 << 28
"""Bytes of decoded events that a file of any size may give."""


def read(
    source: Source,
    *,
    format: Format | None = None,
    sensor: Size | None = None,
    convention: Convention = "jaer",
    keep_invalid: bool = False,
    strict: bool = True,
    sort: bool = False,
) -> Events:
    """Read a recording whole.

    Args:
        source: A file, or the bytes of one.
        format: What it is; none: see `detect`.
        sensor: Height and width in pixels. None: what the header or the format says, else just
            large enough for the events.
        convention: Which way up AEDAT 2.0 is read, see `modicum.events.formats.aedat2.Convention`.
        keep_invalid: Keep events that AEDAT 3.1 marks as invalid.
        strict: Refuse files that are cut off. Otherwise what is whole is read, with a warning.
        sort: Put events in the order of time; otherwise they have the order of the file.

    Raises:
        EventFormatError: The file breaks its format, or has events outside the sensor.
        DataError: The file cannot be read at all.
        MissingExtraError: An `.h5` file, and h5py is not installed.
    """
    file = File.open(source, strict=strict)
    recording = open_file(file, format, convention, keep_invalid)
    return whole(file, recording, sensor, sort)


def whole(file: File, recording: Recording, sensor: Size | None, sort: bool) -> Events:
    """All events of a file that is open; see `read`."""
    size = _checked_size(sensor) or recording.sensor
    decoded = DECODED * recording.most
    if decoded > _LARGEST_GROWTH * len(file.data) + _ALWAYS_READ:
        raise file.error(
            0,
            f"its {recording.most:,} events take {decoded / 2**30:.1f} GiB of memory, which no "
            f"recording of {len(file.data):,} bytes does. Go through it by "
            f"modicum.events.windows(file) in Python.",
        )
    # One more than there can be: the file is then decoded to its end, and the end checked, before
    # anything is handed out.
    found = list(_gather(file, recording, size, recording.most + 1))
    events = found[0] if found else _events(_columns(0), 0, size)
    return events.sort() if sort else events


def windows(
    source: Source,
    events: int = 1_000_000,
    *,
    format: Format | None = None,
    sensor: Size | None = None,
    convention: Convention = "jaer",
    keep_invalid: bool = False,
    strict: bool = True,
) -> Iterator[Events]:
    """Read a recording of any length in pieces; together they are what `read` gives.

    Memory for one window is used. Where neither the file nor `sensor` tells the size of the sensor,
    the file is decoded twice, first to find it. Windows are not empty and hold `events` events, the
    last one the rest. The other options and what is raised are those of `read`; windows before
    damage come before its error.
    """
    if events < 1:
        raise ConfigError(f"windows of {events} events: expected 1 at least.")
    file = File.open(source, strict=strict)
    recording = open_file(file, format, convention, keep_invalid)
    size = _checked_size(sensor) or recording.sensor or _just_enough(recording)
    yield from _gather(file, recording, size, events)


def detect(source: Source | File) -> Format:
    """The format of a recording: by what it starts with, where that says nothing by its name.

    Raises:
        EventFormatError: It is of no known format, or of a version that is not read.
    """
    file = source if isinstance(source, File) else File.open(source, strict=True)
    data = file.data
    version = aedat_version(data)
    if version is not None:
        if version not in ("2.0", "3.1"):
            raise file.error(0, f"AEDAT {version} is not read; expected AEDAT 2.0 or 3.1.")
        return "aedat2" if version == "2.0" else "aedat3"
    if data[:6] == b"\x93NUMPY":
        return "npy"
    if data[:8] == b"\x89HDF\r\n\x1a\n":
        return "h5"
    if named := SUFFIXES.get(Path(file.name).suffix.lower()):
        return named[0]
    # Short marks come last: the events of a format without a header may start with them.
    if data[:4] == b"PK\x03\x04":
        return "npz"
    if data[:2] == b"% ":
        return "prophesee"
    raise file.error(
        0,
        f"no known format of events. Name it with format=, one of {', '.join(get_args(Format))}, "
        f"or give the file one of the suffixes {', '.join(SUFFIXES)}.",
    )


def open_file(
    file: File, format: Format | None, convention: Convention, keep_invalid: bool
) -> Recording:
    """What the header of a file says, and how its events are decoded; see `read`."""
    for name, value, known in (
        ("convention", convention, get_args(Convention)),
        ("format", format or "atis", get_args(Format)),
    ):
        if value not in known:
            raise ConfigError(f"{name} {value!r}: expected one of {', '.join(known)}.")
    match format or detect(file):
        case "atis":
            return atis.recording(file)
        case "prophesee":
            return prophesee.recording(file)
        case "aedat2":
            return aedat2.recording(file, convention)
        case "aedat3":
            return aedat3.recording(file, keep_invalid)
        case "npy":
            return arrays.npy(file)
        case "npz":
            return arrays.npz(file)
        case "h5":
            return arrays.h5(file)


def _checked_size(sensor: Size | None) -> Size | None:
    if sensor is not None and not all(0 < side <= LARGEST_SIDE for side in sensor):
        raise ConfigError(
            f"a sensor of {sensor[0]} x {sensor[1]} pixels (height x width): expected 1 to "
            f"{LARGEST_SIDE} each."
        )
    return sensor


def _just_enough(recording: Recording) -> Size:
    """The smallest sensor all events are within."""
    height = width = 1
    for block in recording.blocks():
        height = max(height, int(block.y.max(initial=0)) + 1)
        width = max(width, int(block.x.max(initial=0)) + 1)
    return height, width


def _gather(file: File, recording: Recording, sensor: Size | None, limit: int) -> Iterator[Events]:
    """Put blocks together to `Events` of `limit` events, and check that pixels are on the sensor.

    Without a size of the sensor, each `Events` has the smallest that it needs.
    """
    limit = min(limit, recording.most + 1)
    columns, filled = _columns(limit), 0
    for block in recording.blocks():
        if sensor is not None:
            _check_pixels(file, block, sensor)
        start, count = 0, len(block.t)
        while start < count:
            taken = min(count - start, limit - filled)
            for column, values in zip(columns, block[:4], strict=True):
                column[filled : filled + taken] = values[start : start + taken]
            start, filled = start + taken, filled + taken
            if filled == limit:
                yield _events(columns, filled, sensor)
                columns, filled = _columns(limit), 0
    if filled:
        yield _events(columns, filled, sensor)


def _columns(count: int) -> tuple[npt.NDArray[Any], ...]:
    """Room for t, x, y and p."""
    return tuple(np.empty(count, kind) for kind in (np.int64, np.int16, np.int16, np.uint8))


def _events(columns: tuple[npt.NDArray[Any], ...], count: int, sensor: Size | None) -> Events:
    wasteful = 4 * count < 3 * len(columns[0])  # do not hold on to much more memory than is used
    t, x, y, p = (column[:count].copy() if wasteful else column[:count] for column in columns)
    height, width = sensor or (int(y.max(initial=0)) + 1, int(x.max(initial=0)) + 1)
    return Events(t, x, y, p, height, width)


def _check_pixels(file: File, block: Block, sensor: Size) -> None:
    """Raise for the first event that is outside the sensor."""
    (height, width), x, y = sensor, block.x, block.y
    if x.max(initial=0) < width and y.max(initial=0) < height:
        return
    bad = int(np.argmax((x >= width) | (y >= height)))
    raise file.error(
        block.place(bad),
        f"an event at x = {x[bad]}, y = {y[bad]} is outside the sensor of {height} rows and "
        f"{width} columns that was expected: the recording needs {int(y.max()) + 1} rows and "
        f"{int(x.max()) + 1} columns at least. The file is damaged or of another "
        f"sensor. Where its size can be given, that is sensor=(height, width) in Python and "
        f"--sensor HEIGHT WIDTH on the command line.",
    )
