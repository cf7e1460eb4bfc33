"""What every classifier shares, whatever it looks at: accuracy, classes, files, a table."""

from __future__ import annotations

import csv
import io
import logging
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from modicum.engine.devices import Device, choose_device
from modicum.errors import DataError
from modicum.method import load_saved
from modicum.system.environment import usable_cores
from modicum.system.files import atomic_write
from modicum.system.progress import Progress

_log = logging.getLogger("modicum")
_Sample = TypeVar("_Sample")
_Network = TypeVar("_Network", bound=nn.Module)
_Pipeline = TypeVar("_Pipeline")


@dataclass(frozen=True)
class Classifier(Generic[_Network, _Pipeline]):
    """A trained network with what its use needs."""

    network: _Network
    classes: tuple[str, ...]
    pipeline: _Pipeline
    """What makes of a sample the network's input."""
    notes: dict[str, Any]
    """What `train` stored: where its data lay and how it was divided."""
    device: torch.device

    @classmethod
    def load(
        cls,
        run: Path,
        method: str,
        pipeline_of: Callable[[Mapping[str, Any]], _Pipeline],
        weights: str = "last",
        device: Device = "cpu",
    ) -> Self:
        """A classifier from a run folder or a `.safetensors` file.

        Args:
            run: See `weights.saved.load_saved`, and so are method and weights.
            method: The method the file must be of.
            pipeline_of: Makes the pipeline of its notes.
            weights: The last network or the best.
            device: Where to compute.
        """
        saved = load_saved(run, weights, method=method)
        chosen = choose_device(device)
        network: Any = saved.module.to(chosen)
        pipeline = pipeline_of(saved.notes["pipeline"])
        return cls(network, tuple(saved.notes["classes"]), pipeline, saved.notes, chosen)


def topk_correct(logits: Tensor, label: Tensor, ks: Sequence[int]) -> Tensor:
    """Whether the label is among the k likeliest classes.

    Args:
        logits: `(B, classes)`.
        label: `(B,)`, int64.
        ks: Several k; one larger than the number of classes counts as all of them.

    Returns:
        Bool, `(len(ks), B)`.
    """
    order = logits.topk(min(max(ks), logits.shape[1]), dim=1).indices
    hits = order == label[:, None]
    return torch.stack([hits[:, :k].any(1) for k in ks])


def class_mapping(found: Sequence[str], known: Sequence[str], data: object) -> Tensor:
    """The network's number of each class of a data set, int64 `(len(found),)`.

    Args:
        found: Classes of the data set.
        known: Classes of the network.
        data: Where the data set lies, for the message.

    Raises:
        DataError: The data set has a class the network was not trained on.
    """
    unknown = [name for name in found if name not in known]
    if unknown:
        raise DataError(
            f"{data}: the network was not trained on the class{'es' * (len(unknown) > 1)} "
            f"{', '.join(unknown[:8])}. It knows: {', '.join(known[:20])}. Rename the folders, or "
            f"remove those that do not belong."
        )
    return torch.tensor([known.index(name) for name in found])


def input_files(inputs: Sequence[Path], suffixes: AbstractSet[str], kind: str) -> list[Path]:
    """The files named, and all files with such a suffix below the folders named, sorted in each.

    Args:
        inputs: Files, of any suffix, and folders.
        suffixes: What to look for in folders, in lower case with the dot.
        kind: What the files are, for messages: `"image"`.

    Raises:
        DataError: An input does not exist, or there is no such file at all.
    """
    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found = (p for p in path.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
            files += sorted(p for p in found if not p.name.startswith("."))
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(
                f"{path}: no such file or folder. Expected {kind}s, or folders of them."
            )
    if not files:
        where = ", ".join(map(str, inputs)) or "the command"
        raise DataError(
            f"{where}: no {kind} found. Expected files ending in {', '.join(sorted(suffixes))}."
        )
    return files


def likeliest(logits: Tensor, classes: Sequence[str], top: int) -> Iterator[dict[str, Any]]:
    """One record a row of logits `(B, classes)`: class_1, probability_1, class_2 and so on."""
    best = logits.float().softmax(1).topk(min(top, len(classes)))
    for probabilities, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        record: dict[str, Any] = {}
        for rank, (p, i) in enumerate(zip(probabilities, indices, strict=True), start=1):
            record |= {f"class_{rank}": classes[i], f"probability_{rank}": round(p, 6)}
        yield record


def predict_files(
    files: Sequence[Path],
    read: Callable[[Path], _Sample],
    classify: Callable[[list[_Sample]], Iterable[Mapping[str, Any]]],
    batch_size: int,
) -> list[dict[str, Any]]:
    """One record a file: `file`, and what `classify` says of it, or `error`.

    A file that cannot be read is reported in its record and does not stop the others.

    Args:
        files: What to read.
        read: Reads one file, in a thread.
        classify: Called with the samples of a batch; gives one record for each.
        batch_size: Files at a time.

    Raises:
        DataError: No file can be read.
    """

    def attempt(file: Path) -> _Sample | DataError:
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
            for file, item in zip(part, found, strict=True):
                if isinstance(item, DataError):
                    _log.warning("%s", item)
                    rows.append({"file": str(file), "error": str(item)})
                else:
                    rows.append({"file": str(file)} | dict(next(records)))
            progress.advance(start + len(part))
    if all("error" in row for row in rows):
        raise DataError(f"none of the {len(rows)} files can be read. The first: {rows[0]['error']}")
    return rows


def predictions(rows: Sequence[Mapping[str, Any]], out: Path | None) -> dict[str, Any]:
    """What `modicum predict` prints of such records: all, or once they are in a table the first 10.

    Args:
        rows: What `predict_files` gave.
        out: CSV file to write.
    """
    failed = sum("error" in row for row in rows)
    result: dict[str, Any] = {"files": len(rows), "unreadable": failed}
    if out is not None:
        write_table(out, rows)
        result["table"] = str(out)
    return result | {"predictions": list(rows if out is None else rows[:10])}


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write records as CSV, atomically. The columns are those of all rows, `error` the last."""
    columns = list(dict.fromkeys(column for row in rows for column in row if column != "error"))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*columns, "error"], restval="")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(path) as file:  # file names need not be UTF-8
        file.write(text.getvalue().encode(errors="surrogateescape"))


@torch.inference_mode()
def latency(network: nn.Module, inputs: Any, repeats: int = 20) -> tuple[float, float]:
    """Minimum and median wall-clock milliseconds of a forward pass, after 3 passes to warm up.

    Args:
        network: In eval mode.
        inputs: What it is called with, on its device.
        repeats: Timed passes.
    """
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    times: list[float] = []
    for _ in range(3 + repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        network(inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(1000 * (time.perf_counter() - began))
    return min(times[3:]), statistics.median(times[3:])
