"""The report of one training run: its result, its curves, its settings, the machine."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

from markupsafe import Markup

from modicum.errors import CheckpointError, DataError
from modicum.options import check_arguments
from modicum.report import text
from modicum.report.check import flatten
from modicum.report.page import data_uri, write_page
from modicum.report.plots import STRETCHES, Curve, line_plot
from modicum.system.files import read_bytes, read_json
from modicum.weights.saved import read_notes

_PNG, _RIFF = b"\x89PNG\r\n\x1a\n", b"RIFF"
_MOST_BYTES = 1 << 26
_CLOCK = ("step", "epoch", "seconds")
_OF_TRAINING = ("samples_per_second", "peak_memory_mib")
"""What a line has that tells of training; other lines tell of scores."""
_LOWER_IS_BETTER = ("loss", "nats", "error", "divergence")
_MOST_CLASSES = 30
"""Of a confusion matrix; a larger one says nothing to the eye."""


@check_arguments
def write_run_report(folder: Path) -> Path:
    """Write `report.html` into the folder of a training run, finished or not.

    It begins with the result: the scores, the best and the last, and what is known of mistakes.

    Args:
        folder: Holds `config.json` and, as far as the run has got, `metrics.jsonl`,
            `environment.json`, `confusion.json` and `pictures/*.png` or `.wav`. In `config.json`,
            `config` and `run` are what was asked for, and `used`, if there, what was chosen for it.
            `confusion.json` is what `modicum.mistakes.keep` writes: the names `classes`, `matrix`,
            how many samples of each class (rows) were taken for each, and `mistakes`. The text file
            `pictures/<name>.txt` is the caption of `<name>.png`, and `<name>.wav` its sound. A torn
            last line of `metrics.jsonl`, as a killed run leaves it, is passed over; other lines
            that cannot be read are counted in the report. Of a step logged twice, as after a
            resume, the later line counts.

    Returns:
        The path of the report.

    Raises:
        DataError: `config.json` is absent, or it or `environment.json` is not a JSON object; or
            `confusion.json` is no matrix of counts.
    """
    config = _read_object(folder / "config.json")
    environment, counted = folder / "environment.json", folder / "confusion.json"
    log = _read_log(folder / "metrics.jsonl")
    confusion = _confusion(counted) if counted.exists() else {}
    classes = len(confusion["classes"]) if confusion else _classes(folder)
    if classes:  # the five likeliest of four classes are always right
        log = log._replace(
            curves={n: c for n, c in log.curves.items() if classes >= text.classes_for(n)}
        )
    method = str(config.get("method", "unknown method"))
    name = folder.resolve().name
    parts = {"used": "Chosen for this data", "config": "Method", "run": "Run"}
    return write_page(
        folder / "report.html",
        "run.html",
        title=f"{method}: {name}",
        method=method,
        name=name,
        stretches=STRETCHES,
        log={"clock": log.clock, "unreadable": log.unreadable},
        scores=[_score(n, curve) for n, curve in log.curves.items() if n in log.scores],
        confusion=confusion,
        quantities=[_quantity(name, curve) for name, curve in log.curves.items()],
        settings={h: flatten(config[key]) for key, h in parts.items() if config.get(key)},
        pictures=_pictures(folder / "pictures"),
        environment=flatten(_read_object(environment)) if environment.exists() else {},
    )


def _read_object(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise DataError(
            f"{path} does not exist, so {path.parent} is not the folder of a run. "
            f"Name the folder that a training run wrote."
        )
    found = read_json(path)
    if isinstance(found, dict):
        return cast("dict[str, Any]", found)
    raise DataError(
        f"{path}: expected values by name, as a run writes them. Restore the file; the run's "
        f"checkpoints are not affected."
    )


class _Log(NamedTuple):
    clock: dict[str, float]
    """The largest step, epoch and seconds logged."""
    curves: Mapping[str, Curve]
    scores: set[str]
    """Which of them are scores on held-out data."""
    unreadable: int
    """Lines, save for a torn last one, that are not a JSON object with a step."""


def _read_log(path: Path) -> _Log:
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    clock: dict[str, float] = {}
    curves: dict[str, dict[int, float]] = {}
    scores, trained = set[str](), {"loss", "learning_rate"}
    unreadable = 0
    for place, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            step = int(entry["step"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            torn = place == len(lines) - 1 and not line.endswith(b"\n")
            unreadable += not torn
            continue
        of_training = any(name in entry for name in _OF_TRAINING)
        for name, value in entry.items():
            if value is None:  # JSON has no other way to write a number that is not finite
                value = math.nan
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if name in _CLOCK:
                clock[name] = max(clock.get(name, -math.inf), value)
            else:
                curves.setdefault(name, {})[step] = float(value)
                (trained if of_training else scores).add(name)
    found = {name: sorted(curve.items()) for name, curve in curves.items()}
    return _Log(clock, found, scores - trained, unreadable)


def _classes(folder: Path) -> int:
    """How many classes the network of a run knows; 0 where it is none of these, or not there."""
    for weights in ("last", "best"):
        with suppress(CheckpointError):
            classes = read_notes(folder, weights).get("classes")
            return len(cast("list[Any]", classes)) if isinstance(classes, list) else 0
    return 0


def _score(name: str, curve: Curve) -> dict[str, Any]:
    """A score as it is printed: the last and the best, and where that was."""
    lower = any(word in name for word in _LOWER_IS_BETTER)
    finite = [point for point in curve if math.isfinite(point[1])]
    best = (min if lower else max)(finite, key=lambda point: point[1], default=(None, math.nan))
    return {
        "name": text.label(name),
        "best": text.measured(name, best[1]),
        "best_step": best[0],
        "last": text.measured(name, curve[-1][1]),
        "better": "lower" if lower else "higher",
    }


def _confusion(path: Path) -> dict[str, Any]:
    """Classes, counts, the accuracy of each class, and single mistakes."""
    found = read_json(path)
    try:
        classes = [str(name) for name in found["classes"]]
        matrix = [[int(count) for count in row] for row in found["matrix"]]
        if {len(matrix), *map(len, matrix)} != {len(classes)} or min(map(min, matrix)) < 0:
            raise ValueError
        mistakes = [
            {**each, "probability": f"{100 * float(each['probability']):.0f} %"}
            for each in found.get("mistakes", [])
        ]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{path}: expected the names of classes and as many rows of as many counts. Remove it, "
            f"or evaluate the run again."
        ) from error
    return {
        "classes": classes,
        "mistakes": mistakes,
        "rows": _rows(classes, matrix),
        "shown": len(classes) <= _MOST_CLASSES,
    }


def _rows(classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> list[Mapping[str, Any]]:
    """A class a row, those with the most mistakes first where there are too many to show all."""
    rows: list[Mapping[str, Any]] = []
    for place, (name, counts) in enumerate(zip(classes, matrix, strict=True)):
        total = sum(counts)
        accuracy = text.measured("top1", 100 * counts[place] / total) if total else "no samples"
        rows.append(
            {"name": name, "counts": counts, "place": place, "total": total, "accuracy": accuracy,
             "wrong": total - counts[place]}
        )  # fmt: skip
    return rows if len(rows) <= _MOST_CLASSES else sorted(rows, key=lambda row: -row["wrong"])


def _quantity(name: str, curve: Curve) -> dict[str, Any]:
    """A logged quantity as it is printed; `not_finite` counts values that are not a number."""
    finite = [point for point in curve if math.isfinite(point[1])]
    low_step, low = min(finite, key=lambda point: point[1], default=(None, math.nan))
    high_step, high = max(finite, key=lambda point: point[1], default=(None, math.nan))
    return {
        "name": name,
        "last": text.measured(name, curve[-1][1]),
        "lowest": text.measured(name, low),
        "lowest_step": low_step,
        "highest": text.measured(name, high),
        "highest_step": high_step,
        "not_finite": len(curve) - len(finite),
        "plot": line_plot({name: [curve]}, label=text.label(name)),
    }


def _pictures(folder: Path) -> list[tuple[str, str, Markup | str, Markup | str]]:
    """Title, caption and addresses of each picture in the folder and of its sound, by name."""
    found: list[tuple[str, str, Markup | str, Markup | str]] = []
    for name in sorted({path.stem for kind in ("png", "wav") for path in folder.glob(f"*.{kind}")}):
        path = folder / f"{name}.png"
        note = folder / f"{name}.txt"
        said = read_bytes(note, _MOST_BYTES).decode(errors="replace") if note.exists() else ""
        picture = _media(path, _PNG, "a PNG file")
        sound = _media(folder / f"{name}.wav", _RIFF, "a WAV file")
        found.append((
            name.replace("_", " "), said.strip(),
            data_uri(picture) if picture else "",
            data_uri(sound, "audio/wav") if sound else "",
        ))  # fmt: skip
    return found


def _media(path: Path, begins: bytes, kind: str) -> bytes:
    """A file of the kind that its name says; empty where there is none."""
    content = read_bytes(path, _MOST_BYTES) if path.exists() else begins[:0]
    if content and not content.startswith(begins):
        raise DataError(f"{path} is not {kind}. Remove it, and write the report again.")
    return content
