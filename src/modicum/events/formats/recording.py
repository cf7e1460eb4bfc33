"""What the decoders of all formats take and give: a file's bytes, and events block by block.

A decoder looks at the header at once and returns a `Recording`; an `EventFormatError` says what is
wrong with the file. Its blocks are decoded as they are asked for and are small enough to stay in
the processor's cache, so that reading a file whole and going through one that is larger than memory
are the same work.
"""

from __future__ import annotations

import io
import logging
import mmap
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from modicum.errors import DataError
from modicum.events.container import LARGEST_SIDE
from modicum.system.files import open_ordinary
from modicum.system.terminal import counted

BLOCK = 1 << 14
"""Events decoded at a time: the temporary arrays of a block fit a core's second-level cache."""

_MAPPED_FROM = 1 << 20
"""Bytes. Smaller files are read, larger ones mapped into memory."""

Size: TypeAlias = tuple[int, int]
"""Height and width of a sensor in pixels."""
Source: TypeAlias = str | os.PathLike[str] | bytes
"""A file, or the bytes of one."""

log = logging.getLogger(__name__)


class EventFormatError(DataError):
    """An event file breaks its format. The message names the file and the byte offset."""

    def __init__(self, path: Path | str, offset: int, what: str) -> None:
        super().__init__(f"{path}, byte {offset:,}: {what}")
        self.path, self.offset, self.what = Path(path), offset, what

    def __reduce__(self) -> tuple[type[EventFormatError], tuple[Path, int, str]]:
        # Exceptions are pickled by their message, from which this one cannot be made again.
        return type(self), (self.path, self.offset, self.what)


class Block(NamedTuple):
    """Some consecutive events, of any integer types. Valid until the next block is asked for."""

    t: npt.NDArray[np.integer]
    x: npt.NDArray[np.integer]
    y: npt.NDArray[np.integer]
    p: npt.NDArray[np.integer]
    place: Callable[[int], int]
    """The byte of the file at which an event of this block starts; 0 in .npz and .h5 files."""


def places(
    start: int, record: int, kept: npt.NDArray[np.integer] | None = None
) -> Callable[[int], int]:
    """A block's `place`: of records of `record` bytes from byte `start` on, `kept` are events."""
    return lambda event: start + record * (event if kept is None else int(kept[event]))


@dataclass(frozen=True)
class Recording:
    """A file whose header has been read."""

    sensor: Size | None
    """What the header or the format says; None where they say nothing."""
    most: int
    """There are no more events than this."""
    blocks: Callable[[], Iterator[Block]]
    """Starts to decode, from the first event each time it is called."""


@dataclass(frozen=True)
class File:
    """The bytes of a file, in memory or mapped."""

    name: str
    """For messages."""
    data: bytes | mmap.mmap
    strict: bool
    """Whether a file that ends too early is an error; otherwise what is whole is used."""

    @classmethod
    def open(cls, source: Source, *, strict: bool) -> File:
        """Read or map a file; a `DataError` if it cannot be read."""
        if isinstance(source, bytes):
            return cls("<bytes>", source, strict)
        source = Path(source)
        try:
            with open_ordinary(source) as file:
                size = file.seek(0, io.SEEK_END)
                file.seek(0)
                if size < _MAPPED_FROM:
                    return cls(str(source), file.read(), strict)
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                return cls(str(source), mapped, strict)
        except OSError as error:
            raise DataError(f"{source}: cannot be read: {error.strerror}.") from error

    def stream(self) -> BinaryIO:
        """The bytes as a file, for libraries that want one."""
        data = self.data
        return io.BytesIO(data) if isinstance(data, bytes) else Path(self.name).open("rb")

    def error(self, offset: int, what: str) -> EventFormatError:
        """The error to raise for what is at a byte of this file."""
        return EventFormatError(self.name, offset, what)

    def side(self, name: str, value: Any, offset: int = 0) -> int:
        """A side of the sensor, as it is stored."""
        if np.asarray(value).dtype.kind not in "iu" or not 0 < value <= LARGEST_SIDE:
            raise self.error(offset, f"{name} is {value}; expected 1 to {LARGEST_SIDE} pixels.")
        return int(value)

    def cut(self, offset: int, what: str) -> None:
        """What begins at `offset` is not whole: an error, or where not strict a warning."""
        if self.strict:
            raise self.error(
                offset,
                f"{what} What comes before is read with strict=False in Python, and by modicum "
                f"convert events with --no-strict.",
            )
        log.warning("%s, byte %d: %s What comes before is used.", self.name, offset, what)

    def count_records(self, start: int, size: int) -> int:
        """How many records of `size` bytes there are from `start` to the end; see `cut`."""
        count, left = divmod(len(self.data) - start, size)
        if left:
            self.cut(
                len(self.data) - left,
                f"{counted(left, 'byte')} left over after {counted(count, 'event')} of {size} "
                f"bytes; the file is cut off, or of another format.",
            )
        return count


def aedat_version(data: bytes | mmap.mmap) -> str | None:
    """The version of an AEDAT file, such as `"2.0"`; None if there is no such line."""
    found = re.match(rb"#!AER-DAT(\d+\.\d+)", data[:32])
    return found[1].decode() if found else None


def check_aedat(file: File, expected: str) -> None:
    """Refuse a file of another version of AEDAT."""
    version = aedat_version(file.data)
    if version != expected:
        absent = f"there is no line #!AER-DAT{expected}: this is AEDAT 1 or no AEDAT"
        said = f"the version is AEDAT {version}" if version else absent
        raise file.error(0, f"{said}; expected {expected}.")
