"""Can the files of a set be used? Found out before hours of training; and sets told apart."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modicum.data.sample_set import BadFile
from modicum.errors import DataError
from modicum.events.container import DECODED, Events
from modicum.events.event_set import EventSet, FileRecordings, MemoryRecordings
from modicum.events.reading import windows
from modicum.system.threads import Progress, in_threads, state_of_files

_STORED = {".bin": 5, ".bs2": 5, ".dat": 8, ".aedat": 8, ".npy": 16}
"""Bytes of an event in a file, at least."""
_COMPRESSED = 2
"""Bytes of an event in a compressed file, roughly."""
_BARE = (".bin", ".bs2")
"""Suffixes of files that hold 40-bit events and nothing else."""

log = logging.getLogger(__name__)


EMPTY = "the file is empty. Fetch or record it again, or remove it."
"""Why a file of no bytes cannot be used."""


def usable(
    files: FileRecordings,
    *,
    memory_limit: int,
    not_followed: Sequence[BadFile] = (),
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> EventSet:
    """The recordings that can be used, decoded into memory if their files fit there.

    Each file is decoded once. Of files that do not fit into `memory_limit` bytes of decoded events,
    the size, the header and the first event are looked at. `not_followed` are symbolic links that
    were left out already.

    Raises:
        DataError: Files cannot be used and `skip_bad` is not set, or none is left of a class.
    """
    held: dict[str, list[int]] = {}  # the recordings of each file, which may hold several
    for number, name in enumerate(files.files.tolist()):
        held.setdefault(name, []).append(number)
    in_memory = decoded_size([files.root / name for name in held]) <= memory_limit
    look = _decoded if in_memory else _what_seems_wrong
    made = in_threads(lambda numbers: look(files, numbers), list(held.values()), progress)
    bad = [BadFile(n, found) for n, found in zip(held, made, strict=True) if isinstance(found, str)]
    skipped = (*not_followed, *bad)
    if skipped and not skip_bad:
        summary = _summary(skipped, len(held), "cannot be used")
        raise DataError(f"{files.root}: {summary} --skip-bad leaves such files out.")
    good = np.flatnonzero(~np.isin(files.files, [name for name, _ in bad]))
    kept = dataclasses.replace(files.subset(good), skipped=skipped)
    if skipped:
        gone = set(files.labels.tolist()) - set(kept.labels.tolist())
        if gone:
            classes = ", ".join(files.classes[label] for label in sorted(gone))
            raise DataError(
                f"{files.root}: no usable recording is left of {classes}. "
                f"{_summary(skipped, len(held), 'cannot be used')}"
            )
        log.warning("%s: %s", files.root, _summary(skipped, len(held), "left out"))
    if not in_memory:
        return kept
    recordings: dict[int, Events] = {}
    for numbers, found in zip(held.values(), made, strict=True):
        if isinstance(found, list):
            recordings.update(zip(numbers, found, strict=True))
    return MemoryRecordings(
        *(kept.classes, kept.labels, kept.names, kept.layout, kept.height, kept.width),
        tuple(recordings[number] for number in good.tolist()),
        skipped=skipped,
        read_from=kept.root if np.array_equal(kept.names, kept.files) else None,
    )


def fingerprint(event_set: EventSet) -> str:
    """A hash that changes with the recordings and labels of a set, without reading files.

    Of files, their paths, sizes and times of change count, and which way up they are read.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((event_set.classes, event_set.height, event_set.width)).encode())
    digest.update(event_set.labels.numpy().tobytes())
    if isinstance(event_set, MemoryRecordings):
        for recording in event_set.recordings:
            digest.update(len(recording).to_bytes(8, "little"))
            for name in "txyp":
                digest.update(getattr(recording, name).tobytes())
    elif isinstance(event_set, FileRecordings):
        paths = [event_set.path(number) for number in range(len(event_set))]
        digest.update(state_of_files(paths).encode() + event_set.convention.encode())
        if event_set.spans is not None:
            digest.update(event_set.spans.tobytes())
    return digest.hexdigest()


def decoded_size(paths: Sequence[Path]) -> float:
    """Bytes the events of files take in memory, at most."""
    size = 0.0
    for path in paths:
        try:
            stored = path.stat().st_size
        except OSError:
            continue  # found and named later
        size += stored * DECODED / _STORED.get(path.suffix.casefold(), _COMPRESSED)
    return size


def _decoded(files: FileRecordings, numbers: Sequence[int]) -> list[Events] | str:
    """Those recordings of a set that are in one file, or why it cannot be used."""
    path = files.path(numbers[0])
    try:
        return _wrong_size(path) or list(files.read(np.array(numbers)))
    except DataError as error:
        return str(error).removeprefix(str(path)).lstrip(":, ")


def _what_seems_wrong(files: FileRecordings, numbers: Sequence[int]) -> str | None:
    """Why the file of these recordings cannot be used, as its size and start show; else None."""
    path, sensor = files.path(numbers[0]), (files.height, files.width)
    wrong = _wrong_size(path)
    if wrong or path.suffix.casefold() in _BARE:
        return wrong
    try:
        next(windows(path, 1, sensor=sensor, convention=files.convention), None)
    except DataError as error:
        return str(error).removeprefix(str(path)).lstrip(":, ")
    return None


def _wrong_size(path: Path) -> str | None:
    try:
        size = path.stat().st_size
    except OSError as error:
        return f"the file cannot be read ({error.strerror})."
    if not size:
        return EMPTY
    if path.suffix.casefold() in _BARE and size % 5:
        return f"expected events of 5 bytes, found {size:,} bytes. Unpack the archive again."
    return None


def _summary(bad: Sequence[BadFile], count: int, verdict: str) -> str:
    shown = "; ".join(f"{name}: {reason}" for name, reason in bad[:5])
    more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
    return f"{len(bad)} of {count} files {verdict}. {shown}{more}"
