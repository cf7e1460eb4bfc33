"""Checkpoints: whole, checked, and safe to load.

A checkpoint is one file `step-<steps>-<digest>.pt`. It is written beside its place, forced to disk
and renamed, and the first 16 hexadecimal digits of its SHA-256 are part of its name, so a file that
was damaged later is recognised before it is read. It holds tensors and plain containers only and is
loaded with `weights_only=True`.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
from pathlib import Path
from typing import Any, BinaryIO

import torch

from modicum.errors import CheckpointError
from modicum.system.files import atomic_write, flush_folder

KEPT = 2
"""How many of the newest checkpoints stay: if one is damaged, the one before it is used."""

_NAME = re.compile(r"step-(\d+)-([0-9a-f]{16})\.pt")
_log = logging.getLogger("modicum")


class _HashingFile:
    """A file whose SHA-256 is known when it is written; `torch.save` writes from front to end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, newest first."""
    found = [(int(m[1]), path) for path in folder.glob("*.pt") if (m := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def save_checkpoint(folder: Path, steps: int, content: dict[str, Any]) -> Path:
    """Write `content` as the checkpoint after `steps` optimizer steps; drop the oldest ones.

    Args:
        folder: Where checkpoints lie; made if absent.
        steps: Optimizer steps done.
        content: Tensors, numbers, strings, and plain containers of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".step-{steps:08d}.saving"
    with atomic_write(temporary) as file:
        hashing = _HashingFile(file)
        torch.save(content, hashing)  # pyright: ignore[reportArgumentType]  # no file needs more
    path = folder / f"step-{steps:08d}-{hashing.digest.hexdigest()[:16]}.pt"
    temporary.replace(path)
    flush_folder(folder)
    for old in checkpoints(folder)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, or `None` when there is none at all.

    A damaged checkpoint is passed over with a warning.

    Raises:
        CheckpointError: There are checkpoints, and every one is damaged.
    """
    found = checkpoints(folder)
    for path in found:
        match = _NAME.fullmatch(path.name)
        if match and _digest(path) == match[2]:
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
                raise CheckpointError(
                    f"{path}: whole, but not a checkpoint of modicum ({type(error).__name__}). "
                    f"Remove it to go on from the checkpoint before it."
                ) from error
        _log.warning(
            "%s is damaged (its content does not match the checksum in its name); "
            "going back to the checkpoint before it.",
            path,
        )
        # Out of the way: it must not count as one of those that are kept.
        path.rename(path.with_suffix(".damaged"))
    if found:
        raise CheckpointError(
            f"{folder}: all {len(found)} checkpoints are damaged (their contents do not match the "
            f"checksums in their names). Restore one from a backup, or start anew elsewhere."
        )
    return None
