"""The report of one training run: its curves, its settings, what it was computed with."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from markupsafe import Markup

from modicum.errors import DataError
from modicum.report import text
from modicum.report.check import flatten
from modicum.report.page import data_uri, write_page
from modicum.report.plots import STRETCHES, Curve, line_plot

_PNG = b"\x89PNG\r\n\x1a\n"
_CLOCK = ("step", "epoch", "seconds")


def write_run_report(folder: Path) -> Path:
    """Write `report.html` into the folder of a training run, finished or not.

    Args:
        folder: Holds `config.json` and, as far as the run has got, `metrics.jsonl`,
            `environment.json` and `pictures/*.png`. The text file `pictures/<name>.txt` beside
            `pictures/<name>.png` is the picture's caption. A torn last line of `metrics.jsonl`, as
            a killed run leaves it, is passed over; other lines that cannot be read are counted in
            the report. Of a step logged twice, as after a resume, the later line counts.

    Returns:
        The path of the report.

    Raises:
        DataError: `config.json` is absent, or it or `environment.json` is not a JSON object.
    """
    config = _read_object(folder / "config.json")
    environment = folder / "environment.json"
    clock, curves, unreadable = _read_log(folder / "metrics.jsonl")
    method = str(config.get("method", "unknown method"))
    name = folder.resolve().name
    return write_page(
        folder / "report.html",
        "run.html",
        title=f"{method}: {name}",
        method=method,
        name=name,
        stretches=STRETCHES,
        log={"clock": clock, "unreadable": unreadable},
        quantities=[_quantity(name, curve) for name, curve in curves.items()],
        settings={
            heading: flatten(config[key])
            for key, heading in (("config", "Method"), ("run", "Run"))
            if config.get(key)
        },
        pictures=_pictures(folder / "pictures"),
        environment=_read_object(environment) if environment.exists() else {},
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
        wrong = f"holds a JSON {type(found).__name__} where an object was expected"
    except FileNotFoundError as error:
        raise DataError(
            f"{path} does not exist, so {path.parent} is not the folder of a run. "
            f"Name the folder that a training run wrote."
        ) from error
    except (OSError, ValueError) as error:
        wrong = f"cannot be read as JSON: {error}"
    raise DataError(f"{path} {wrong}. Restore the file; the run's checkpoints are not affected.")


def _read_log(path: Path) -> tuple[dict[str, float], dict[str, Curve], int]:
    """The largest step, epoch and seconds logged; the curves; and how many lines, save for a torn
    last one, are not a JSON object with a step.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    clock: dict[str, float] = {}
    curves: dict[str, dict[int, float]] = {}
    unreadable = 0
    for place, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            step = int(entry["step"])
        except (ValueError, TypeError, KeyError, OverflowError):
            torn = place == len(lines) - 1 and not line.endswith(b"\n")
            unreadable += not torn
            continue
        for name, value in entry.items():
            if value is None:  # JSON has no other way to write a number that is not finite
                value = math.nan
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if name in _CLOCK:
                clock[name] = max(clock.get(name, -math.inf), value)
            else:
                curves.setdefault(name, {})[step] = float(value)
    return clock, {name: sorted(curve.items()) for name, curve in curves.items()}, unreadable


def _quantity(name: str, curve: Curve) -> dict[str, Any]:
    """A logged quantity as it is printed; `not_finite` counts values that are not a number."""
    finite = [point for point in curve if math.isfinite(point[1])]
    low_step, low = min(finite, key=lambda point: point[1], default=(None, math.nan))
    high_step, high = max(finite, key=lambda point: point[1], default=(None, math.nan))
    return {
        "name": name,
        "last": text.short(curve[-1][1]),
        "lowest": text.short(low),
        "lowest_step": low_step,
        "highest": text.short(high),
        "highest_step": high_step,
        "not_finite": len(curve) - len(finite),
        "plot": line_plot({name: [curve]}, label=name),
    }


def _pictures(folder: Path) -> list[tuple[str, str, Markup]]:
    """Title, caption and address of each picture in the folder, by name."""
    pictures: list[tuple[str, str, Markup]] = []
    for path in sorted(folder.glob("*.png")):
        content = path.read_bytes()
        if not content.startswith(_PNG):
            raise DataError(
                f"{path} is not a PNG file. Remove it, or save the picture as PNG, "
                f"and write the report again."
            )
        note = path.with_suffix(".txt")
        caption = note.read_text(encoding="utf-8", errors="replace") if note.exists() else ""
        pictures.append((path.stem.replace("_", " "), caption.strip(), data_uri(content)))
    return pictures
