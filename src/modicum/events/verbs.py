"""The verbs of event recordings: `modicum data events PATH` and `modicum convert events IN OUT`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from modicum.errors import ConfigError
from modicum.events import pictures
from modicum.events.formats.recording import File
from modicum.events.options import Reading
from modicum.events.reading import Format, detect, open_file, whole
from modicum.events.survey import find_sample, survey
from modicum.events.writing import WITHOUT_SIZE, write
from modicum.options import FLAT
from modicum.system.files import atomic_write
from modicum.system.progress import report_progress

_log = logging.getLogger("modicum")


def data(
    path: tyro.conf.Positional[str],
    sample: str = "0",
    picture: Path | None = None,
    gif: Path | None = None,
    reading: Annotated[Reading, FLAT] = Reading(),
) -> dict[str, Any]:
    """Say what event recordings hold: formats, sensors, lengths, rates, damaged files.

    Args:
        path: A recording, or a folder of them, searched with all its subfolders; NAME=FOLDER for a
            published data set, whose sensor is then known; or `digits`.
        sample: The recording to draw: its name below the folder, or its number from 0.
        picture: PNG file to write: the sample as points in space and time, and as frames.
        gif: GIF file to write: the sample as an animation.
        reading: How files are read.
    """
    sensor, convention = reading.sensor, reading.convention
    with report_progress("look at recordings") as progress:
        found = survey(path, sensor=sensor, convention=convention, progress=progress)
    if picture is None and gif is None:
        return found
    name, events = find_sample(path, sample, sensor, convention)
    title = f"{name}: {len(events):,} events, {events.height} x {events.width} pixels"
    found["sample"] = name
    if picture is not None:
        with atomic_write(picture) as file:
            file.write(pictures.overview(events, title=title))
        found["picture"] = str(picture)
    if gif is not None:
        with atomic_write(gif) as file:
            file.write(pictures.animation(events))
        found["gif"] = str(gif)
    return found


def convert(
    source: tyro.conf.Positional[Path],
    target: tyro.conf.Positional[Path],
    format: Format | None = None,
    reading: Annotated[Reading, FLAT] = Reading(),
    keep_invalid: bool = False,
    strict: bool = True,
    sort: bool = False,
) -> dict[str, Any]:
    """Write a recording in another format, without loss.

    Args:
        source: Recording to read.
        target: File to write; its suffix says how: .npz, .h5, .npy, .dat, .bin or .bs2.
        format: What the source is, where its content and suffix do not say.
        reading: How the source is read.
        keep_invalid: Keep events that AEDAT 3.1 marks as invalid.
        strict: Refuse a source that is cut off; otherwise what is whole is converted.
        sort: Put the events in the order of time.
    """
    if target.exists() and source.exists() and target.samefile(source):
        raise ConfigError(f"{target}: source and target are the same file. Name another target.")
    file = File.open(source, strict=strict)
    recording = open_file(file, format, reading.convention, keep_invalid)
    events = whole(file, recording, reading.sensor, sort)
    write(target, events)
    known = reading.sensor or recording.sensor
    holds_size = target.suffix.lower() not in WITHOUT_SIZE
    if not known and holds_size:
        _log.warning(
            "%s does not store the size of its sensor; the %d x %d pixels (height x width) written "
            "to %s are only as many as the events need. Give the size: --sensor HEIGHT WIDTH.",
            *(source, events.height, events.width, target),
        )
    elif known and not holds_size:
        _log.warning(
            "%s does not keep the size of the sensor, %d x %d pixels (height x width). Give it "
            "whenever the file is read, or write .npz.",
            *(target, events.height, events.width),
        )
    return {
        "source": str(source),
        "format": format or detect(source),
        "target": str(target),
        "events": len(events),
        "duration_seconds": int(np.ptp(events.t)) / 1e6 if len(events) else 0.0,
        "height": events.height,
        "width": events.width,
        "bytes_before": source.stat().st_size,
        "bytes_after": target.stat().st_size,
    }
