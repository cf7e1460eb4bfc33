"""Files that appear whole or not at all, also when the power fails."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import stat
import sys
import tempfile
import weakref
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast

from modicum.errors import ConfigError, DataError

if sys.platform != "win32":
    import fcntl


DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where there is no room: on the disk, in a quota, under `ulimit -f`."""

TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.part")
"""Names of the files of `atomic_write` that a killed process leaves behind."""


def to_json(value: Any) -> str:
    """JSON for every reader: NaN and infinity, which JSON does not have, become null."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, Mapping):
            return {k: plain(v) for k, v in cast("Mapping[str, Any]", value).items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in cast("Sequence[Any]", value)]
        return value

    return json.dumps(plain(value), indent=2)


def what_is_wrong(error: OSError) -> str:
    """What the system says about a file or folder: what, where, and how to mend it."""
    path = Path(os.fsdecode(error.filename2 or error.filename))
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        above = next((part for part in (path, *path.parents) if part.is_file()), path)
        return f"{above}: is a file, where a folder is needed. Give another path, or move the file."
    if error.errno == errno.EISDIR:
        return f"{path}: is a folder, where a file is needed. Give another path, or move it."
    mend = {
        errno.ENOENT: "Give the path of something that exists",
        **dict.fromkeys(DISK_FULL, "Make room on the disk, or give a path on another"),
    }.get(error.errno or 0, "Give another path, or get access to this one")
    return f"{path}: {error.strerror or error}. {mend}."


MEMORY = 1 << 30
"""Bytes that reading a foreign file may take besides its own size, see `large_allowed`."""


def large_allowed() -> bool:
    """Whether files are trusted that take more than `MEMORY`: `MODICUM_ALLOW_LARGE=1` says so."""
    return os.environ.get("MODICUM_ALLOW_LARGE", "0") not in ("", "0")


def links_allowed() -> bool:
    """Whether links out of data folders are followed: `MODICUM_FOLLOW_LINKS=1` says so."""
    return os.environ.get("MODICUM_FOLLOW_LINKS", "0") not in ("", "0")


def refuse_large(path: Path, size: int, what: str) -> None:
    """Raise a `DataError` where reading a file takes `size` bytes, unless that is allowed.

    `what`, such as "its arrays take", is followed by the size.
    """
    if size <= MEMORY or large_allowed():
        return
    own = path.stat().st_size
    if size > own + MEMORY:
        raise DataError(
            f"{path}: {what} {size / 2**30:,.1f} GiB of memory, of a file of {own / 2**20:,.1f} "
            f"MiB. If you trust it, set MODICUM_ALLOW_LARGE=1."
        )


@contextmanager
def open_ordinary(path: Path) -> Generator[BinaryIO, None, None]:
    """Open a foreign file to read, if it is one: pipes and devices, which may never end, are none.

    Raises:
        DataError: It is none.
        OSError: It is not there, or cannot be read.
    """
    # Without O_NONBLOCK a pipe is opened when somebody writes to it, perhaps never.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DataError(f"{path}: is no ordinary file. Give the path of one.")
        yield file


def read_bytes(path: Path, most: int) -> bytes:
    """A foreign file, if it is one and is not too large to be held in memory.

    Args:
        path: The file, see `open_ordinary`.
        most: Bytes at most.

    Raises:
        DataError: It is not there, is no file, is too large, or cannot be read.
    """
    try:
        with open_ordinary(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise DataError(
                    f"{path}: {size:,} bytes; expected at most {most:,} of a file of this kind."
                )
            return file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error


def read_text(path: Path, most: int = 1 << 26) -> str:
    """The text of a foreign file of UTF-8, with or without a byte order mark; see `read_bytes`.

    Raises:
        DataError: Also where it is no UTF-8.
    """
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: found the byte 0x{error.object[error.start]:02x} at {error.start}, which is "
            f"no UTF-8 text. Save it as UTF-8."
        ) from error


def read_json(path: Path, most: int = 1 << 24) -> Any:
    """What a foreign JSON file holds, see `read_bytes`.

    Raises:
        DataError: Also where it is no JSON.
    """
    content = read_bytes(path, most)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:  # a ValueError also if it is no UTF-8
        raise DataError(f"{path}: no usable JSON ({error}). Restore it from a backup.") from error


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def ready_folder(path: Path) -> None:
    """Make a folder unless it is there, and try to write in it: before anything is computed for it.

    Raises:
        ConfigError: It cannot be made, or nothing can be written in it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        error.filename = str(path)  # not the temporary file
        raise ConfigError(what_is_wrong(error)) from error


def flush_folder(folder: Path) -> None:
    """Force the names in `folder` to disk. File systems that cannot are left alone."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def naming(path: Path) -> Generator[None, None, None]:
    """Errors of the system that name no file, such as that the disk is full, name `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def atomic_write(path: Path) -> Generator[BinaryIO, None, None]:
    """Write to a temporary file beside `path` that takes its place once it is whole and on disk.

    If the body raises, `path` is as it was before and the temporary file is gone.

    Raises:
        OSError: `path`, which the error names, cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=".part"
        )
    except OSError as error:
        error.filename = str(path)  # what is meant, not the temporary file
        raise
    temporary = Path(name)
    try:
        with naming(path), os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files readable by their owner alone; use what open() would have given.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, see `atomic_write`."""
    with atomic_write(path) as file:
        file.write(text.encode())


class FolderLock:
    """Keeps other processes out of a folder as long as it is held; the system frees it on death.

    Processes that are forked meanwhile do not hold it. Without effect on Windows.

    Args:
        folder: Made if absent. The file `.lock` in it is what is locked.
        wait: Wait for another holder rather than raise.

    Raises:
        BlockingIOError: Another process holds it, and `wait` is false.
        OSError: `.lock` is a link.
    """

    _held: ClassVar[weakref.WeakSet[FolderLock]] = weakref.WeakSet()

    def __init__(self, folder: Path, *, wait: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / ".lock"
        no_link = getattr(os, "O_NOFOLLOW", 0)
        self._file = open(  # noqa: SIM115 - held
            os.open(self.path, os.O_RDWR | os.O_CREAT | no_link, 0o666), "rb+"
        )
        if sys.platform != "win32":
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except OSError:
                self._file.close()
                raise
        self._held.add(self)

    def release(self) -> None:
        """Let others in. Safe to call twice."""
        self._held.discard(self)
        self._file.close()

    @classmethod
    def _let_go(cls) -> None:
        """Close, in a forked process, what its parent alone shall hold."""
        for lock in list(cls._held):
            lock.release()

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=FolderLock._let_go)  # pyright: ignore[reportPrivateUsage]
