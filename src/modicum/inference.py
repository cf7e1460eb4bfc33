"""Using what was trained: files in, records out, tables, latency."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from modicum.data.folders import FileKind, files_below
from modicum.errors import ConfigError, DataError
from modicum.system.environment import processor_name, usable_cores
from modicum.system.progress import Progress
from modicum.system.tables import write_csv
from modicum.system.terminal import counted

_log = logging.getLogger("modicum")
_Input = TypeVar("_Input")
_Sample = TypeVar("_Sample")


def input_files(
    inputs: Sequence[_Input], suffixes: AbstractSet[str], kind: str, *, in_memory: bool = False
) -> list[_Input | Path]:
    """The files named, and all files with such a suffix below the folders named, sorted in each.

    Of symbolic links in a folder, those that training does not follow are left out with a warning;
    see `modicum.data.folders`. Links that are named are followed wherever they lead.

    Suffixes are in lower case with the dot; `kind`, such as "image", is for messages. With
    `in_memory` what is no path is a sample, and stays.

    Raises:
        DataError: An input does not exist, or there is no such file at all.
    """
    files: list[_Input | Path] = []
    left_out: list[str] = []
    for path in inputs:
        if not isinstance(path, Path):
            if not in_memory:
                raise DataError(
                    f"found an object of the class {type(path).__name__}, expected paths of "
                    f"{kind}s, or of folders of them."
                )
            files.append(path)
        elif path.is_dir():
            listing = files_below(path, FileKind(kind, frozenset(suffixes)))
            files += [path / name for name in listing.names]
            left_out += [f"{path / name}: {reason}" for name, reason in listing.bad]
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(
                f"{path}: no such file or folder. Expected {kind}s, or folders of them."
            )
    for message in left_out:
        _log.warning("%s", message)
    if not files:
        where = ", ".join(map(str, inputs)) or "the command"
        raise DataError(
            f"{where}: no {kind} found. Expected files ending in {', '.join(sorted(suffixes))}."
        )
    return files


def predict_files(
    files: Sequence[Any],
    read: Callable[[Any], _Sample],
    classify: Callable[[list[_Sample]], Iterable[Mapping[str, Any]]],
    batch_size: int,
) -> list[dict[str, Any]]:
    """One record a file: `file`, and what `classify` says of it, or `error`.

    Of a sample in memory the file is "sample" with its number, from 1. A file that cannot be read
    is reported in its record and does not stop the others. Files are read in threads; `classify` is
    called with the samples of a batch and gives a record for each.

    Raises:
        DataError: No file can be read.
        ConfigError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ConfigError(f"--batch-size {batch_size}: must be at least 1.")

    def attempt(file: Any) -> _Sample | DataError:
        try:
            return read(file)
        except DataError as error:
            return error

    rows: list[dict[str, Any]] = []
    with Progress("predict", len(files)) as progress, ThreadPoolExecutor(usable_cores()) as pool:
        for start in range(0, len(files), batch_size):
            part = files[start : start + batch_size]
            found = list(pool.map(attempt, part))
            samples = [item for item in found if not isinstance(item, DataError)]
            records = iter(classify(samples) if samples else ())
            for number, (file, item) in enumerate(zip(part, found, strict=True), start + 1):
                row = {"file": str(file) if isinstance(file, Path) else f"sample {number}"}
                if isinstance(item, DataError):
                    rows.append(row | {"error": str(item)})
                else:
                    rows.append(row | dict(next(records)))
            progress.advance(start + len(part))
    errors = [row["error"] for row in rows if "error" in row]
    if len(errors) == len(rows):
        raise none_of(errors)
    for error in errors:
        _log.warning("%s", error)
    return rows


def none_of(errors: Sequence[object], done: str = "read") -> DataError:
    """The error of files none of which can be `done`, such as "read"; once if there is one file."""
    if len(errors) == 1:
        return DataError(str(errors[0]))
    return DataError(f"none of the {len(errors):,} files can be {done}. The first: {errors[0]}")


def predictions(rows: Sequence[Mapping[str, Any]], out: Path | None) -> dict[str, Any]:
    """What `modicum predict` prints of records: all, or once they are in a table the first 10."""
    failed = sum("error" in row for row in rows)
    result: dict[str, Any] = {"files": len(rows), "unreadable": failed}
    if out is not None:
        write_table(out, rows)
        result["table"] = str(out)
    return result | {"predictions": list(rows if out is None else rows[:10])}


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write records as CSV, see `system.tables`: the columns of all rows, `error` last."""
    columns = list(dict.fromkeys(column for row in rows for column in row if column != "error"))
    write_csv(path, rows, [*columns, "error"])


@torch.inference_mode()
def latency(network: nn.Module, inputs: Any, repeats: int = 20) -> dict[str, float]:
    """Wall-clock milliseconds of a forward pass, `minimum` and `median`, after 3 to warm up.

    The network is in eval mode; the inputs are on its device.
    """
    device = next((p.device for p in network.parameters()), torch.device("cpu"))

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return 1000 * time.perf_counter()

    moments = [now()]
    for _ in range(3 + repeats):
        network(inputs)
        moments.append(now())
    times = [after - before for before, after in pairwise(moments[3:])]
    return {"minimum": min(times), "median": statistics.median(times)}


def conditions(device: torch.device) -> str:
    """What a latency on a device holds for: its numbers, threads and processor."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    return f"float32, {counted(torch.get_num_threads(), 'thread')}, {name}"
