"""Are the files of a set images? Found out once, before hours of training, and remembered."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from modicum.errors import DataError
from modicum.images.decode import decode_image, opened
from modicum.images.image_set import BadImage, FileImages, ImageSet, MemoryImages
from modicum.system.cache import cache_folder
from modicum.system.files import write_text
from modicum.system.threads import Progress, in_threads, state_of_files

THOROUGH_UP_TO = 100_000
"""Files; larger sets are decoded whole only on request."""

log = logging.getLogger(__name__)


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
    memory = cache_folder() / "images" / f"{state_of_files(paths)}.json"
    if known := _recall(memory, len(paths), thorough):
        return known
    reasons = in_threads(what_is_wrong if thorough else what_seems_wrong, paths, progress)
    bad = with_reasons(image_set.names, reasons)
    try:
        write_text(memory, json.dumps({"thorough": thorough, "bad": bad}))
    except OSError as error:
        log.info("the result of the check is not kept, %s cannot be written: %s", memory, error)
    return CheckReport(len(paths), bad, thorough=thorough, remembered=False)


def with_reasons(names: Iterable[str], reasons: Iterable[str | None]) -> tuple[BadImage, ...]:
    """The files that have a reason."""
    pairs = zip(names, reasons, strict=True)
    return tuple(BadImage(str(name), reason) for name, reason in pairs if reason is not None)


def what_is_wrong(path: Path) -> str | None:
    """Why a file cannot be decoded; None if it can."""
    try:
        decode_image(path)
    except DataError as error:
        return str(error).removeprefix(f"{path}: ")
    return None


def what_seems_wrong(path: Path) -> str | None:
    """As `what_is_wrong`, but a file with a sound header and a proper end passes undecoded."""
    try:
        with opened(path) as image:
            kind = image.format or ""
        if _ends_properly(path, kind):
            return None
    except DataError as error:
        return str(error).removeprefix(f"{path}: ")
    return what_is_wrong(path)


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


def _recall(memory: Path, count: int, thorough: bool) -> CheckReport | None:
    try:
        found = json.loads(memory.read_text(encoding="utf-8"))
        if found["thorough"] or not thorough:
            bad = tuple(BadImage(str(name), str(reason)) for name, reason in found["bad"])
            return CheckReport(count, bad, thorough=bool(found["thorough"]), remembered=True)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or of another version: check again
    return None
