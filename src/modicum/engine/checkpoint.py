"""Checkpoints: whole, checked, and safe to load.

A checkpoint is one file `step-<steps>-<digest>.pt`. It is written beside its place, forced to disk
and renamed, and the first 16 hexadecimal digits of its SHA-256 are part of its name, so a file that
was damaged later is recognised before it is read. It holds tensors and plain containers only and is
loaded with `weights_only=True`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import re
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import torch

from modicum.errors import CheckpointError
from modicum.system.files import atomic_write, file_digest, flush_folder

KEPT = 2
"""How many of the newest checkpoints stay: if one is damaged, the one before it is used."""

FORCED_BYTES = 1 << 25
"""Bytes after which the disk is set to work while the next ones are made and hashed."""

_NAME = re.compile(r"step-(\d+)-([0-9a-f]{16})\.pt")
_log = logging.getLogger("modicum")


class _HashingFile:
    """A file that is hashed, and forced to disk by another thread, while it is written.

    `torch.save` writes from front to end.
    """

    def __init__(self, file: BinaryIO, disk: ThreadPoolExecutor) -> None:
        self.digest = hashlib.sha256()
        self.forced: Future[None] | None = None
        self._file, self._disk = file, disk
        self._waiting = 0

    def write(self, data: bytes) -> int:
        self._waiting += self._file.write(data)
        if self._waiting >= FORCED_BYTES and (self.forced is None or self.forced.done()):
            self.flush()
            self._waiting = 0
            self.forced = self._disk.submit(os.fsync, self._file.fileno())
        self.digest.update(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()
        if self.forced is not None and self.forced.done():
            self.forced.result()  # the system tells of a full disk only once


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, newest first."""
    found = [
        (int(match[1]), path)
        for path in folder.glob("*.pt")
        if (match := _NAME.fullmatch(path.name)) and path.is_file()
    ]
    return [path for _, path in sorted(found, reverse=True)]


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints, the damaged ones included, and nothing else."""
    for path in [*checkpoints(folder), *_damaged(folder)]:
        path.unlink()


def _damaged(folder: Path) -> list[Path]:
    """Checkpoints that were found damaged and put out of the way."""
    found = (path for path in folder.glob("*.damaged") if path.is_file())
    return [path for path in found if _NAME.fullmatch(f"{path.stem}.pt")]


def save_checkpoint(folder: Path, steps: int, content: dict[str, Any]) -> Path:
    """Write the checkpoint after so many optimizer steps; drop all but the newest.

    `content` is tensors, numbers, strings, and plain containers of them. The folder is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".step-{steps:08d}.saving"
    with ThreadPoolExecutor(1) as disk, atomic_write(temporary) as file:
        hashing = _HashingFile(file, disk)
        try:
            torch.save(content, hashing)  # pyright: ignore[reportArgumentType]  # it needs no more
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # such as of a full disk, which torch hides
                raise error.__context__ from None
            raise
        if hashing.forced is not None:
            hashing.forced.result()
    path = folder / f"step-{steps:08d}-{hashing.digest.hexdigest()[:16]}.pt"
    temporary.replace(path)
    flush_folder(folder)
    keep_newest(folder)
    return path


def keep_newest(folder: Path) -> None:
    """Drop all but the newest checkpoints."""
    for old in checkpoints(folder)[KEPT:]:
        old.unlink(missing_ok=True)


def set_aside(damaged: Sequence[Path]) -> None:
    """Rename checkpoints that were found damaged: they are not among those that are kept."""
    for path in damaged:
        path.rename(path.with_suffix(".damaged"))


def load_newest(folder: Path, passed_over: list[Path] | None = None) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, or `None` when there never was any.

    Args:
        folder: Where they are.
        passed_over: Gets the damaged ones after it, of which there is a warning, for the main
            process to set aside when all have looked; none: that is done here.

    Raises:
        CheckpointError: There are checkpoints, and every one is damaged.
    """
    damaged: list[Path] = []
    for path in checkpoints(folder):
        if file_digest(path)[:16] == path.stem[-16:]:
            try:
                content = torch.load(path, map_location="cpu", weights_only=True)
            except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
                raise CheckpointError(
                    f"{path}: whole, but not a checkpoint of modicum ({type(error).__name__}). "
                    f"Remove it to go on from the checkpoint before it."
                ) from error
            if passed_over is None:
                set_aside(damaged)
            else:
                passed_over += damaged
            return content
        _log.warning("%s is damaged (its content does not match the checksum in its name).", path)
        damaged.append(path)
    if damaged := [*damaged, *_damaged(folder)]:
        raise CheckpointError(
            f"{folder}: all {len(damaged)} checkpoints are damaged (their contents do not match "
            f"the checksums in their names). Restore one from a backup, or begin anew: "
            f"modicum train --restart {folder.parent}"
        )
    return None
