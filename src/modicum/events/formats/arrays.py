"""Events as arrays of NumPy and HDF5: `.npy` packs, and our own `.npz` and `.h5`.

`.npy`: an array (N, 4) with the columns x, y, t, p, as EST and EventDrop pack N-Caltech101 and
N-CARS, or a structured array with the fields t, x, y, p. `.npz`: the
arrays t, x, y, p, height, width. `.h5`: a group `events` with the data sets t, x, y, p and the
attributes height and width; also without these and with a data set `t_offset` beside the group, as
DSEC has it. Nothing in the files is executed: object arrays are refused, headers are matched.
"""

from __future__ import annotations

import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from modicum.errors import require
from modicum.events.container import Events
from modicum.events.formats.recording import (
    BLOCK,
    Block,
    EventFormatError,
    File,
    Recording,
    Size,
    places,
)

Columns = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]
"""t, x, y, p of any types, as stored."""

_LARGE_BLOCK = 1 << 17
"""Events read at a time where every read has a cost of its own."""
_LONGEST_HEADER = 1 << 16
_SECONDS_BELOW = 1000
_TYPE = rb"'([<>|=]?[?bfiu]\d{0,2})'"
_FIELD = rb"\('(\w{1,32})', " + _TYPE + rb"\)"
_HEADER = re.compile(
    rb"\{'descr': (?P<type>" + _TYPE + rb"|\[" + _FIELD + rb"(?:, " + _FIELD + rb")*\]), "
    rb"'fortran_order': (?P<order>True|False), 'shape': \((?P<shape>[0-9, ]{0,60})\),? *\}\s*"
)
_LARGEST_RATIO = 1032
"""DEFLATE makes nothing smaller than this."""
_LARGEST_CHUNK = 1 << 26
"""Bytes. What HDF5 unpacks at once, and keeps of each data set."""
_SMALL = 1 << 16
"""Bytes that may be claimed without being stored, as values that were never written."""


class _Header(NamedTuple):
    dtype: np.dtype[Any]
    fortran_order: bool
    shape: tuple[int, ...]
    size: int
    """Bytes of the header itself."""


def _read_header(data: bytes) -> _Header | str:
    """The header an `.npy` file starts with, or what is wrong with it."""
    if data[:6] != b"\x93NUMPY" or len(data) < 12 or data[6] not in (1, 2):
        return "this is no .npy file of version 1 or 2."
    start = 10 if data[6] == 1 else 12
    size = start + int.from_bytes(data[8:start], "little")
    found = _HEADER.fullmatch(data[start:size])
    if size > len(data) or found is None:
        return "the .npy header is damaged, or the array is not of plain numbers."
    description = found["type"].decode()
    try:
        if description.startswith("'"):
            dtype = np.dtype(description.strip("'"))
        else:
            fields = re.findall(_FIELD, found["type"])
            dtype = np.dtype([(name.decode(), kind.decode()) for name, kind in fields])
    except (TypeError, ValueError):
        return f"the type of the array is {description}, which is none of NumPy's numbers."
    shape = tuple(int(side) for side in found["shape"].replace(b" ", b"").split(b",") if side)
    return _Header(dtype, found["order"] == b"True", shape, size)


def npy(file: File) -> Recording:
    """Open a pack `.npy`.

    Times of an (N, 4) pack of floats are microseconds, unless they have fractions and stay below
    1,000: then they are taken as seconds (inferred; no sensor resolves less than a microsecond, and
    no recording lasts less than a millisecond).
    """
    header = _read_header(file.data[:_LONGEST_HEADER])
    if isinstance(header, str):
        raise file.error(0, header)
    dtype, shape = header.dtype, header.shape
    names = dtype.names
    if not (len(shape) == 1 and names) and not (len(shape) == 2 and shape[1] == 4 and not names):
        raise file.error(
            0,
            f"an array of shape {shape} and type {dtype}; expected (N, 4) with the columns "
            f"x, y, t, p, or (N,) with the fields t, x, y, p.",
        )
    if names and (missing := [name for name in "txyp" if name not in names]):
        raise file.error(0, f"the fields are {', '.join(names)}; missing: {', '.join(missing)}.")
    record = dtype.itemsize * (1 if names else 4)
    count = min(shape[0], (len(file.data) - header.size) // record)
    if len(file.data) != header.size + record * shape[0]:
        what = (
            f"the header says {shape[0]:,} events of {record} bytes, but there are "
            f"{len(file.data) - header.size:,} bytes."
        )
        if header.fortran_order and not names:  # the columns do not start where they should
            raise file.error(header.size, what)
        file.cut(header.size + record * count, what)
    order = "F" if header.fortran_order else "C"
    array = np.ndarray((count, *shape[1:]), dtype, file.data, header.size, order=order)
    t, x, y, p = (array[n] for n in "txyp") if names else (array[:, n] for n in (2, 0, 1, 3))
    seconds = not names and _in_seconds(t)

    def columns(start: int, stop: int) -> Columns:
        part = slice(start, stop)
        times = np.rint(t[part].astype(np.float64) * 1e6) if seconds else t[part]
        return times, x[part], y[part], p[part]

    def blocks() -> Iterator[Block]:
        return _checked(file, count, BLOCK, columns, header.size, record)

    return Recording(None, count, blocks)


def _in_seconds(t: npt.NDArray[Any]) -> bool:
    if t.dtype.kind != "f":
        return False
    fractions = False
    with np.errstate(all="ignore"):  # of numbers that are none, which are refused later
        for start in range(0, len(t), BLOCK):
            part = t[start : start + BLOCK]
            if not (np.abs(part) < _SECONDS_BELOW).all():
                return False
            fractions = fractions or bool((part != np.floor(part)).any())
    return fractions


def npz(file: File) -> Recording:
    """Open an `.npz` file with the arrays t, x, y, p, height and width."""
    with _archive(file) as open_array:
        counts = {name: open_array(name).count for name in "txyp"}
        if len(set(counts.values())) > 1:
            raise file.error(0, f"the arrays have different lengths: {counts}.")
        height, width = (file.side(n, open_array(n).take(1)[0]) for n in ("height", "width"))
    count = counts["t"]

    def blocks() -> Iterator[Block]:
        with _archive(file) as open_array:
            t, x, y, p = (open_array(name) for name in "txyp")

            def columns(start: int, stop: int) -> Columns:
                n = stop - start
                return t.take(n), x.take(n), y.take(n), p.take(n)

            yield from _checked(file, count, _LARGE_BLOCK, columns)

    return Recording((height, width), count, blocks)


@contextmanager
def _archive(file: File) -> Generator[Callable[[str], _Member], None, None]:
    """The arrays of an `.npz` file by name, each to be read from its start."""
    with ExitStack() as opened:
        try:
            archive = opened.enter_context(zipfile.ZipFile(opened.enter_context(file.stream())))
        except _ZIP_ERRORS as error:
            raise file.error(0, f"the archive is damaged: {error}") from error

        def open_array(name: str) -> _Member:
            try:
                info = archive.getinfo(f"{name}.npy")
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise file.error(0, f"the array {name} is compressed otherwise than by NumPy.")
                return _Member(file, info, archive.open(info))
            except KeyError as error:
                raise file.error(
                    0, f"there is no array {name}; expected t, x, y, p, height and width."
                ) from error
            except _ZIP_ERRORS as error:
                raise file.error(0, f"the array {name} is damaged: {error}") from error

        yield open_array


class _Member:
    """One array of an archive, read from its start in pieces."""

    def __init__(self, file: File, info: zipfile.ZipInfo, stream: BinaryIO | Any) -> None:
        self.file, self.name, self._stream = file, info.filename, stream
        start = self._read(12)
        start += self._read(max(0, int.from_bytes(start[8:10], "little") - 2))
        header = _read_header(start)
        if isinstance(header, str):
            raise self._error(header)
        self.dtype = header.dtype
        self.count = header.shape[0] if header.shape else 1
        needed = header.size + self.count * self.dtype.itemsize
        if (
            len(header.shape) > 1
            or self.dtype.names
            or info.file_size != needed
            or needed > _LARGEST_RATIO * max(64, min(info.compress_size, len(file.data)))
        ):
            raise self._error(
                f"an array of shape {header.shape} and type {self.dtype} in {info.file_size:,} "
                f"bytes; expected one number an event."
            )

    def take(self, count: int) -> npt.NDArray[Any]:
        """The next numbers."""
        return np.frombuffer(self._read(count * self.dtype.itemsize), self.dtype)

    def _read(self, size: int) -> bytes:
        try:
            data = self._stream.read(size)
        except _ZIP_ERRORS as error:
            raise self._error(str(error)) from error
        if len(data) != size:
            raise self._error("it ends too early.")
        return data

    def _error(self, what: str) -> Exception:
        return self.file.error(0, f"the array {self.name}: {what}")


_ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(EOFError, OSError, RuntimeError, ValueError, IndexError),
)
"""Of a damaged archive; a `RuntimeError` of one that is encrypted or compressed otherwise."""


def h5(file: File) -> Recording:
    """Open an `.h5` file; a `MissingExtraError` without h5py.

    The numbers must lie in the file itself: links, external storage and virtual data sets would
    bring in what other files of the machine hold.
    """
    with _hdf5(file) as (opened, sets):
        count = sets[0].shape[0]
        attributes = opened["events"].attrs
        sensor: Size | None = None
        if "height" in attributes and "width" in attributes:
            height, width = (file.side(n, _one(attributes.get_id(n))) for n in ("height", "width"))
            sensor = (height, width)
        offset = 0
        if "t_offset" in opened:
            found = _data_set(file, opened, "t_offset", "a number of microseconds")
            offset = _offset(file, _one(found))

    def blocks() -> Iterator[Block]:
        with _hdf5(file) as (_, sets):

            def columns(start: int, stop: int) -> Columns:
                t, x, y, p = (data_set[start:stop] for data_set in sets)
                return _shifted(file, t, offset), x, y, p

            yield from _checked(file, count, _LARGE_BLOCK, columns)

    return Recording(sensor, count, blocks)


@contextmanager
def _hdf5(file: File) -> Generator[tuple[Any, list[Any]]]:
    """An `.h5` file, and its data sets t, x, y, p."""
    library = require("h5py", "events", "reading .h5 files")
    try:
        with (
            file.stream() as stream,
            library.File(stream, "r", rdcc_nbytes=_LARGEST_CHUNK) as opened,
        ):
            group = _linked(file, opened, "events")
            if not isinstance(group, library.Group) or any(name not in group for name in "txyp"):
                raise file.error(
                    0, "there are no data sets events/t, events/x, events/y and events/p."
                )
            sets = [_data_set(file, group, name) for name in "txyp"]
            shapes = [data_set.shape for data_set in sets]
            if len(set(shapes)) > 1 or len(shapes[0]) != 1:
                sizes = ", ".join(" x ".join(f"{side:,}" for side in shape) for shape in shapes)
                raise file.error(
                    0, f"the data sets t, x, y, p are of {sizes} numbers; expected as many of each."
                )
            yield opened, sets
    except EventFormatError:
        raise
    except OverflowError as error:
        raise file.error(0, "HDF5 cannot read it: a size in it is beyond 64 bits.") from error
    except Exception as error:  # a damaged file makes HDF5 fail with whatever it meets
        raise file.error(0, f"HDF5 cannot read it: {str(error)[:300]}.") from error


def _linked(file: File, group: Any, name: str) -> Any:
    """What a group of an `.h5` file holds by a name, which must be no link elsewhere; or None."""
    link = group.get(name, getlink=True)
    if link is not None and type(link).__name__ != "HardLink":
        raise file.error(
            0, f"{name} is a link, perhaps to another file, and is not followed. Copy the data in."
        )
    return None if link is None else group[name]


def _data_set(file: File, group: Any, name: str, expected: str = "a data set of numbers") -> Any:
    """A data set of numbers that an `.h5` file itself holds, as many as it says."""
    found = _linked(file, group, name)
    shape: tuple[int, ...] | None = getattr(found, "shape", None)
    if shape is None or found.dtype.kind not in "iufb":
        what = "is no data set" if shape is None else f"is of the type {found.dtype}"
        raise file.error(0, f"{name} {what}; expected {expected}.")
    if found.external or found.is_virtual:
        raise file.error(
            0, f"the numbers of {name} lie in other files, which are not read. Copy them in."
        )
    described, filters = found.id.get_create_plist(), require("h5py", "events", "HDF5").h5z
    stored, packed = found.id.get_storage_size(), described.get_nfilters() > 0
    for place in range(described.get_nfilters()):
        code, *_, called = described.get_filter(place)
        if not filters.filter_avail(code):
            raise file.error(
                0,
                f"{name} is compressed by {called.decode(errors='replace') or 'a plug-in'} (filter "
                f"{code}), which HDF5 lacks here. Set the variable HDF5_PLUGIN_PATH to the folder "
                f"of its plug-ins, hdf5plugin.PLUGIN_PATH of the package hdf5plugin, or save the "
                f"file without it.",
            )
    most = max(min(stored, len(file.data)) * (_LARGEST_RATIO if packed else 1), _SMALL)
    claimed = math.prod(shape) * found.dtype.itemsize
    if claimed > most:
        raise file.error(
            0,
            f"{name} claims {math.prod(shape):,} numbers of {found.dtype}, {claimed:,} bytes, of "
            f"which {stored:,} are stored: far too few, so it was never filled or is damaged.",
        )
    if packed and math.prod(found.chunks) * found.dtype.itemsize > _LARGEST_CHUNK:
        raise file.error(
            0,
            f"{name} is compressed in pieces of {math.prod(found.chunks):,} numbers, expected at "
            f"most {_LARGEST_CHUNK >> 20} MiB each. Rewrite it with h5repack -l CHUNK=65536.",
        )
    return found


def _one(found: Any) -> Any:
    """The number in an attribute or data set, or for messages what is there instead."""
    if found.dtype.kind not in "iufb" or found.shape not in ((), (1,)):
        return f"of the type {found.dtype} and shape {found.shape}"
    value = np.empty(found.shape, found.dtype)
    found.read(value) if hasattr(found, "read") else found.read_direct(value)
    return value.reshape(())[()]


def _offset(file: File, found: Any) -> int:
    """Microseconds to add to all times."""
    try:
        offset = int(found)
    except (TypeError, ValueError, OverflowError):
        offset = None
    if offset is None or abs(offset) >= 2**62:
        raise file.error(0, f"t_offset is {found!r}; expected a number of microseconds.")
    return offset


def _shifted(file: File, t: npt.NDArray[Any], offset: int) -> npt.NDArray[Any]:
    """Times plus an offset. Floats stay floats: NaN is found when values are checked."""
    if t.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # signalling NaN
            return t.astype(np.float64) + offset
    if not offset:
        return t
    _check_times(file, t, 0)
    return t.astype(np.int64) + offset


def _check_times(file: File, t: npt.NDArray[Any], place: int) -> None:
    """Refuse times whose differences are beyond int64."""
    low, high = int(t.min(initial=0)), int(t.max(initial=0))
    if max(-low, high) > 2**62:
        raise file.error(
            place, f"times go from {low} to {high}; expected 2^62 microseconds at most."
        )


def _checked(
    file: File,
    count: int,
    size: int,
    columns: Callable[[int, int], Columns],
    first: int = 0,
    record: int = 0,
) -> Iterator[Block]:
    """Blocks of arrays that may hold anything: numbers that are no events are refused."""
    signed = has_zero = False
    for start in range(0, count, size):
        stop = min(start + size, count)
        here = first + record * start
        t, x, y, p = columns(start, stop)
        try:
            events = Events.of(t, x, y, p)
        except ValueError as error:
            raise file.error(
                here, f"counting from event {start:,}: {str(error).removeprefix('events: ')}"
            ) from error
        _check_times(file, events.t, here)
        signed, has_zero = signed or bool((p < 0).any()), has_zero or bool((p == 0).any())
        if signed and has_zero:
            raise file.error(here, "polarity is coded 0 and 1 as well as -1 and 1.")
        yield Block(events.t, events.x, events.y, events.p, places(here, record))
