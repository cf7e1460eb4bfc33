"""Work on files shared by threads, which helps where the work lets go of Python's lock."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias, TypeVar

from modicum.system.environment import usable_cores

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (files done, files in all)."""

_MOST_AT_ONCE = 256
"""Items that a thread takes at a time, so that small work is not lost in handing it out."""
_Item = TypeVar("_Item")
_Value = TypeVar("_Value")


def in_threads(
    function: Callable[[_Item], _Value],
    items: Sequence[_Item],
    progress: Progress | None = None,
    threads: int | None = None,
) -> list[_Value]:
    """`function` of every item, in order, by one thread for each core unless said otherwise."""
    values: list[_Value] = []
    threads = threads or usable_cores()
    # A few for each thread: all have work until the end, and progress is seen.
    size = max(1, min(_MOST_AT_ONCE, math.ceil(len(items) / (4 * threads))))
    chunks = [items[start : start + size] for start in range(0, len(items), size)]
    executor = ThreadPoolExecutor(threads)
    try:
        for made in executor.map(lambda chunk: list(map(function, chunk)), chunks):
            values += made
            if progress is not None:
                progress(len(values), len(items))
    finally:
        executor.shutdown(cancel_futures=True)
    return values


def state_of_files(paths: Sequence[Path]) -> str:
    """A hash of all names, sizes and times of change, which are had without reading a file."""

    def state(path: Path) -> bytes:
        try:
            status = path.stat()
            line = f"{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}\n"
        except OSError:
            line = f"{path}\0missing\n"
        return line.encode(errors="surrogateescape")

    digest = hashlib.blake2b(digest_size=16)
    for line in in_threads(state, paths):
        digest.update(line)
    return digest.hexdigest()
