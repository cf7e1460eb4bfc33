"""Work on files shared by threads, which helps where the work lets go of Python's lock."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias, TypeVar

from modicum.engine.environment import usable_cores

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (files done, files in all)."""

_CHUNK = 256
_Item = TypeVar("_Item")
_Value = TypeVar("_Value")


def in_threads(
    function: Callable[[_Item], _Value],
    items: Sequence[_Item],
    progress: Progress | None = None,
    threads: int | None = None,
) -> list[_Value]:
    """`function` of every item, in order, by one thread for each core unless said otherwise."""

    def some(chunk: Sequence[_Item]) -> list[_Value]:
        return [function(item) for item in chunk]

    values: list[_Value] = []
    chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
    executor = ThreadPoolExecutor(threads or usable_cores())
    try:
        for made in executor.map(some, chunks):
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
        except OSError:
            return f"{path}\0missing\n".encode(errors="surrogateescape")
        line = f"{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}\n"
        return line.encode(errors="surrogateescape")

    digest = hashlib.blake2b(digest_size=16)
    for line in in_threads(state, paths):
        digest.update(line)
    return digest.hexdigest()
