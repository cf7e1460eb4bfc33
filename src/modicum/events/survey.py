"""What event recordings hold."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modicum.data.folders import files_below, refuse_link
from modicum.errors import ConfigError, DataError, ModicumError
from modicum.events.check import EMPTY
from modicum.events.container import Events
from modicum.events.datasets import known_and_root, open_digits
from modicum.events.formats.aedat2 import Convention
from modicum.events.formats.recording import EventFormatError, Size
from modicum.events.layouts import DATA_SETS, RECORDINGS, in_numeric_order
from modicum.events.reading import SUFFIXES, detect, windows
from modicum.events.simulator import DIGIT_COUNTS
from modicum.system.terminal import ByName, counted
from modicum.system.threads import Progress, in_threads

_MOST_LISTED = 100
_MOST_DRAWN = 5_000_000

log = logging.getLogger(__name__)


def survey(
    path: str | Path,
    *,
    sensor: Size | None = None,
    convention: Convention = "jaer",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Describe a recording or a folder of them; nothing is raised for what is wrong with files.

    Every file is decoded, in windows, so that the largest needs little memory.

    Args:
        path: A file, or a folder that is searched with all its subfolders; or `NAME=FOLDER` and
            "digits" as for `modicum.events.open_recordings`, which says what is raised.
        sensor: See `modicum.events.read`. None: that of NAME, if there is one.
        convention: See `modicum.events.read`.
        progress: Called with (files done, files in all).

    Returns:
        A dict of plain values, ready for JSON:

        - `source`, `usable` (bool: there are recordings, and all can be read), `problems` (what
          keeps it from that) and `warnings`, both lists of sentences;
        - `recordings`, `formats` and `sensors` (each name to count; "34 x 34" is height x width),
          `events` (`total`, `min`, `median`, `max`), `duration_seconds` and `events_per_second`
          (each `min`, `median`, `max`), `on_share` (of all events);
        - `per_class` (name to count): by labels.tsv, else by folder; empty where neither tells;
        - `damage`: how many recordings are `unreadable`, have times that `decrease`, are `empty`,
          or have the same bytes as another (`duplicates`); `unreadable`: up to 100 `file` and
          `reason`; `ignored`: suffix to count of files that are no recordings.

        Of "digits", which are simulated when they are used, there is no more than `source`,
        `usable`, `problems`, `warnings`, `layout`, `recordings`, `splits` and `sensors`.
    """
    report: dict[str, Any] = {"source": str(path), "usable": False, "problems": [], "warnings": []}
    if str(path) == "digits":
        return report | _digits()
    known, root = known_and_root(str(path))
    sensor = sensor or known.sensor
    names, ignored = _find(root)
    files = [root / name if root.is_dir() else root for name in names]
    looks = in_threads(lambda file: _look(file, root, sensor, convention), files, progress)
    good = [look for look in looks if not look.reason]
    named = zip(names, looks, strict=True)
    bad = [{"file": str(name), "reason": look.reason} for name, look in named if look.reason]
    lasting = [look for look in good if look.duration > 0]
    events = sum(look.events for look in good)
    report |= {
        "recordings": len(looks),
        "formats": dict(Counter(look.format for look in good)),
        "sensors": dict(Counter(f"{look.size[0]} x {look.size[1]}" for look in good)),
        "events": {"total": events, **_spread([look.events for look in good])},
        "duration_seconds": _spread([look.duration / 1e6 for look in good]),
        "events_per_second": _spread([1e6 * look.events / look.duration for look in lasting]),
        "on_share": sum(look.on for look in good) / max(1, events),
        "per_class": _classes(root, names, report),
        "damage": {
            "unreadable": len(bad),
            "decrease": sum(look.decreases for look in good),
            "empty": sum(look.events == 0 for look in good),
            "duplicates": _count_duplicates(files),
        },
        "unreadable": bad[:_MOST_LISTED],
        "ignored": ByName(ignored),
    }
    _judge(report, bad)
    return report


def _digits() -> dict[str, Any]:
    """What the built-in set is; one of its recordings is simulated to see its sensor."""
    one, count = open_digits("train", 1), sum(DIGIT_COUNTS.values())
    return {
        "usable": True,
        "layout": one.layout,
        "recordings": count,
        "splits": dict(DIGIT_COUNTS),
        "sensors": {f"{one.height} x {one.width}": count},
    }


class _Look(NamedTuple):
    """One recording, looked at."""

    format: str = ""
    size: Size = (1, 1)
    events: int = 0
    on: int = 0
    duration: int = 0
    decreases: bool = False
    reason: str = ""


def _look(path: Path, root: Path, sensor: Size | None, convention: Convention) -> _Look:
    try:
        if path != root and path.exists():
            refuse_link(path, root)
        if path.is_file() and not path.stat().st_size:
            return _Look(reason=EMPTY)
        look = _Look(detect(path), sensor or (1, 1))
        first, latest, last = 2**63, -(2**63), -(2**63)
        for window in windows(path, sensor=sensor, convention=convention):
            t = window.t
            first, latest = min(first, int(t.min())), max(latest, int(t.max()))
            look = look._replace(
                size=(window.height, window.width),
                events=look.events + len(window),
                on=look.on + int(np.count_nonzero(window.p)),
                duration=latest - first,
                decreases=look.decreases or int(t[0]) < last or not window.is_sorted,
            )
            last = int(t[-1])
    except EventFormatError as error:
        return _Look(reason=f"byte {error.offset:,}: {error.what}")
    except ModicumError as error:
        return _Look(reason=str(error).removeprefix(f"{path}: "))
    return look


def _find(root: Path) -> tuple[list[Path], Counter[str]]:
    """The recordings below a folder, in numeric order; of other files the number by suffix."""
    if not root.exists():
        raise DataError(f"{root}: there is no such file or folder. Check the path.")
    if not root.is_dir():
        return [Path(root.name)], Counter()
    listing = files_below(root, RECORDINGS)
    names = [Path(name) for name in (*listing.names, *(link.name for link in listing.bad))]
    ignored = Counter({suffix or "no suffix": n for suffix, n in listing.ignored.items()})
    return sorted(names, key=lambda name: in_numeric_order(name.as_posix())), ignored


def _classes(root: Path, names: Sequence[Path], report: dict[str, Any]) -> dict[str, int]:
    if (root / "labels.tsv").is_file():
        try:
            listed = DATA_SETS["n-mnist"].find(root, "train")
        except DataError as error:
            report["problems"].append(str(error))
            return {}
        return ByName(Counter(listed.classes[label] for label in sorted(listed.labels)))
    folders = Counter(name.parent.as_posix() for name in names)
    return {} if set(folders) <= {"."} else ByName(folders)


def _judge(report: dict[str, Any], bad: Sequence[dict[str, str]]) -> None:
    problems, warnings = report["problems"], report["warnings"]
    count, damage = report["recordings"], report["damage"]
    if not count:
        problems.append(f"there are no recordings: no file is named {', '.join(SUFFIXES)}.")
    if bad:
        first = f"the first is {bad[0]['file']}: {bad[0]['reason']}"
        problems.append(
            f"{len(bad):,} of {count:,} recordings cannot be read, {first}"
            if count > 1
            else f"it cannot be read: {bad[0]['reason']}"
        )
    if damage["decrease"]:
        warnings.append(
            f"times decrease in {counted(damage['decrease'], 'recording')}. It is read with "
            f"sort=True in Python, and made anew by modicum convert events with --sort."
        )
    if damage["empty"]:
        warnings.append(
            f"{counted(damage['empty'], 'recording has', 'recordings have')} no events."
        )
    if damage["duplicates"]:
        warnings.append(
            f"{counted(damage['duplicates'], 'recording has', 'recordings have')} the bytes of "
            f"another. In training and test such copies would make scores too good."
        )
    if len(report["sensors"]) > 1:
        warnings.append(
            "sensors differ, or the format does not store them and each is as large as its events "
            "need: give --sensor HEIGHT WIDTH."
        )
    report["usable"] = not problems


def _count_duplicates(files: Sequence[Path]) -> int:
    """How many files have the bytes of another; only files of the same size are read."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for file in files:
        if file.is_file():
            by_size[file.stat().st_size].append(file)
    same_size = [file for group in by_size.values() if len(group) > 1 for file in group]
    digests = Counter(in_threads(_digest, same_size))
    return sum(count - 1 for digest, count in digests.items() if digest)


def _digest(path: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError:
        return b""  # reported as unreadable
    return digest.digest()


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {"min": 0, "median": 0, "max": 0}
    return {"min": min(values), "median": float(np.median(values)), "max": max(values)}


def find_sample(
    source: str, sample: str, sensor: Size | None, convention: Convention
) -> tuple[str, Events]:
    """Name and events of the recording meant by a name or a number; of many events the first."""
    if source == "digits":
        digits = [Path("digits/train", str(number)) for number in range(DIGIT_COUNTS["train"])]
        number = _place(digits, sample)
        return str(digits[number]), open_digits("train", number + 1).recordings[number]
    known, root = known_and_root(source)
    sensor = sensor or known.sensor
    names, _ = _find(root)
    name = names[_place(names, sample)]
    path = root / name if root.is_dir() else root
    first = windows(path, _MOST_DRAWN, sensor=sensor, convention=convention, strict=False)
    return str(name), next(first, Events.of([], [], [], []))


def _place(names: Sequence[Path], sample: str) -> int:
    """Which of the recordings is meant by a name or a number."""
    if Path(sample) in names:
        return names.index(Path(sample))
    if sample.isdecimal() and len(sample) < 10 and int(sample) < len(names):
        return int(sample)
    raise ConfigError(
        f"--sample {sample}: expected a number below {len(names)}, or a name such as "
        f"{names[0] if names else 'none: there are no recordings'}."
    )
