"""Are the files of a set images? Found out once, before hours of training, and remembered."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modicum.errors import DataError
from modicum.images.decode import is_deep, opened, upright_rgb
from modicum.images.image_set import BadImage, FileImages, ImageSet, MemoryImages
from modicum.system.cache import cache_folder
from modicum.system.files import write_text
from modicum.system.threads import Progress, in_threads, state_of_files

THOROUGH_UP_TO = 100_000
"""Files; larger sets are decoded whole only on request."""

log = logging.getLogger(__name__)


class Look(NamedTuple):
    """What is seen of a file that is decoded whole."""

    width: int = 0
    height: int = 0
    format: str = ""
    mode: str = ""
    transparent: bool = False
    brightest: int | None = None
    """Of grey of more than 8 bits, the highest level."""
    digest: str = ""
    """Of the pixels: the same in copies, whatever their names, formats and metadata."""
    reason: str | None = None
    """Why it cannot be decoded."""


@dataclass(frozen=True)
class CheckReport:
    """What `check_images` found."""

    count: int
    """Files in the set."""
    bad: tuple[BadImage, ...]
    thorough: bool
    """Whether every file was decoded whole; otherwise headers and ends were looked at."""
    remembered: bool
    """Whether the result of an earlier check of the same files was used."""


def check_images(
    image_set: ImageSet, *, thorough: bool | None = None, progress: Progress | None = None
) -> CheckReport:
    """Find the files of a set that cannot be decoded; images in memory are always good.

    The result is kept in `modicum.system.cache.cache_folder()` and used again as long as no file's
    name, size or time of change differs. Threads share the work: decoders let go of Python's lock.

    Args:
        image_set: A set.
        thorough: Decode every file whole, which finds everything. False: read headers, look
            whether files end as their format ends, and decode only those that do not. None:
            thorough for sets of up to `THOROUGH_UP_TO` files.
        progress: Called now and then with (files done, files in all).
    """
    if not isinstance(image_set, FileImages):
        return CheckReport(len(image_set), (), thorough=True, remembered=False)
    if thorough is None:
        thorough = len(image_set) <= THOROUGH_UP_TO
    paths = [image_set.path(number) for number in range(len(image_set))]
    state = state_of_files(paths)
    looks, remembered = _recall(f"{state}.looks", len(paths)), True
    if looks is not None:
        thorough = True
    elif thorough:
        looks, remembered = look_at(paths, progress), False
    elif (looks := _recall(f"{state}.ends", len(paths))) is None:
        reasons = in_threads(what_seems_wrong, paths, progress)
        looks, remembered = [Look(reason=reason) for reason in reasons], False
        _remember(f"{state}.ends", looks)
    bad = with_reasons(image_set.names, [look.reason for look in looks])
    return CheckReport(len(paths), bad, thorough=thorough, remembered=remembered)


def look_at(paths: Sequence[Path], progress: Progress | None = None) -> list[Look]:
    """Decode files whole, of up to `THOROUGH_UP_TO` each once as long as it does not change."""
    if len(paths) > THOROUGH_UP_TO:
        return in_threads(_look, paths, progress)
    state = f"{state_of_files(paths)}.looks"
    states = in_threads(_state, paths)
    looks = _recall(state, len(paths))
    if looks is None:
        fresh = [path for path, known in zip(paths, states, strict=True) if known not in _seen]
        looked = iter(in_threads(_look, fresh, progress))
        looks = [_seen.get(known) or next(looked) for known in states]
        _remember(state, looks)
    _seen.update(zip(states, looks, strict=True))
    return looks


_seen: dict[tuple[str, int, int] | None, Look] = {}
"""Files looked at by this process: the parts of a folder need not be decoded again."""


def _state(path: Path) -> tuple[str, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return str(path), status.st_size, status.st_mtime_ns


def _look(path: Path) -> Look:
    try:
        with opened(path) as image:
            transparent, mode = image.has_transparency_data, image.mode
            pixels = upright_rgb(image, path)
            brightest = int(np.asarray(image).max()) if is_deep(image) else None
            digest = hashlib.blake2b(pixels.data, digest_size=16)
            digest.update(repr(pixels.shape).encode())
            height, width = pixels.shape[:2]
            kind = image.format or ""
            return Look(width, height, kind, mode, transparent, brightest, digest.hexdigest())
    except DataError as error:
        return Look(reason=str(error).removeprefix(f"{path}: "))


def with_reasons(names: Iterable[str], reasons: Iterable[str | None]) -> tuple[BadImage, ...]:
    """The files that have a reason."""
    pairs = zip(names, reasons, strict=True)
    return tuple(BadImage(str(name), reason) for name, reason in pairs if reason is not None)


def what_seems_wrong(path: Path) -> str | None:
    """Why a file cannot be decoded; one with a sound header and a proper end is not tried."""
    try:
        with opened(path) as image:
            kind = image.format or ""
            if _ends_properly(path, kind):
                return None
    except DataError as error:
        return str(error).removeprefix(f"{path}: ")
    return _look(path).reason


def _ends_properly(path: Path, kind: str) -> bool:
    """Whether the end of a file is what its format ends with. Cheap, and no proof."""
    with path.open("rb") as file:
        start = file.read(12)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 32))
        end = file.read()
    match kind:
        case "JPEG" | "MPO":
            return end.rstrip(b"\0").endswith(b"\xff\xd9")
        case "PNG":
            return end.endswith(b"IEND\xaeB`\x82")
        case "GIF":
            return end.endswith(b";")
        case "WEBP":
            return int.from_bytes(start[4:8], "little") + 8 <= size
        case "BMP":
            return int.from_bytes(start[2:6], "little") <= size
        case _:
            return False


def fingerprint(image_set: ImageSet) -> str:
    """A hash that changes with the images and labels of a set, without reading files.

    Of files, their paths, sizes and times of change count.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr(image_set.classes).encode() + image_set.labels.numpy().tobytes())
    if isinstance(image_set, MemoryImages):
        digest.update(image_set.images.numpy().tobytes())
    elif isinstance(image_set, FileImages):
        paths = [image_set.path(number) for number in range(len(image_set))]
        digest.update(state_of_files(paths).encode())
    return digest.hexdigest()


def _memory(state: str) -> Path:
    return cache_folder() / "images" / f"{state}.json"


def _recall(state: str, count: int) -> list[Look] | None:
    try:
        kept: Any = json.loads(_memory(state).read_text(encoding="utf-8"))
        bad = {int(number): Look(*look) for number, look in kept["some"]}
        looks = [Look(*look) for look in kept["all"]] or [bad.get(n, Look()) for n in range(count)]
        return looks if len(looks) == count else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there, or of another version: check again


def _remember(state: str, looks: Sequence[Look]) -> None:
    some = [(number, look) for number, look in enumerate(looks) if look.reason]
    kept = {"some": some, "all": looks if state.endswith("looks") else []}
    try:
        write_text(_memory(state), json.dumps(kept))
    except OSError as error:
        log.info("the result of the check is not kept in %s: %s", cache_folder(), error)
