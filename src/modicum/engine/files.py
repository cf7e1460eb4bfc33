"""Files that appear whole or not at all, also when the power fails."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

if sys.platform != "win32":
    import fcntl


def whole_path(data: str) -> str:
    """What `--data` names, so that it means the same whatever folder one is in.

    Args:
        data: PATH, or NAME=PATH where the name says how the path is to be read.

    Returns:
        The same with the whole path; what is not there is left as it is.
    """
    name, named, path = data.partition("=")
    if not named or Path(data).exists():
        name, named, path = "", "", data
    return f"{name}{named}{Path(path).resolve()}" if Path(path).exists() else data


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


def flush_folder(folder: Path) -> None:
    """Force the names in `folder` to disk. File systems that cannot are left alone."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def atomic_write(path: Path) -> Generator[BinaryIO, None, None]:
    """Write to a temporary file beside `path` that takes its place once it is whole and on disk.

    If the body raises, `path` is as it was before and the temporary file is gone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
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

    Without effect on Windows.

    Args:
        folder: Made if absent. The file `.lock` in it is what is locked.
        wait: Wait for another holder rather than raise.

    Raises:
        BlockingIOError: Another process holds it, and `wait` is false.
    """

    def __init__(self, folder: Path, *, wait: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / ".lock"
        self._file = self.path.open("w")
        if sys.platform != "win32":
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except OSError:
                self._file.close()
                raise

    def release(self) -> None:
        """Let others in. Safe to call twice."""
        self._file.close()

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()
