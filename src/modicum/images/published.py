"""CIFAR-10 and CIFAR-100 as their authors distribute them: Python or binary batches.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from modicum.errors import DataError
from modicum.system.files import read_bytes
from modicum.weights.pickles import read_pickle

_PIXELS = 3 * 32 * 32
_LARGEST = 1 << 29


class CifarKind(NamedTuple):
    """One of the four distributions."""

    layout: str
    folder: str
    """The folder its archive unpacks to."""
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    """The file with the classes' names."""
    classes: int
    binary: bool


_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_BINARY = tuple(f"{name}.bin" for name in _TRAIN)
KINDS = tuple(
    CifarKind(
        f"CIFAR-{classes} {form} batches", folder, train, (test,), names, classes, form == "binary"
    )
    for classes, form, folder, train, test, names in (
        (10, "Python", "cifar-10-batches-py", _TRAIN, "test_batch", "batches.meta"),
        (10, "binary", "cifar-10-batches-bin", _BINARY, "test_batch.bin", "batches.meta.txt"),
        (100, "Python", "cifar-100-python", ("train",), "test", "meta"),
        (100, "binary", "cifar-100-binary", ("train.bin",), "test.bin", "fine_label_names.txt"),
    )
)


class CifarImages(NamedTuple):
    """One split."""

    images: npt.NDArray[np.uint8]
    """(N,3,32,32), RGB."""
    labels: npt.NDArray[np.int64]
    """(N,); the fine labels of CIFAR-100."""
    names: list[str]
    classes: tuple[str, ...]


def find_cifar(root: Path) -> tuple[CifarKind, Path] | None:
    """Which distribution lies in `root`, or in the folder its archive unpacks to within `root`."""
    for kind in KINDS:
        for folder in (root, root / kind.folder):
            if (folder / kind.names).is_file() and (folder / kind.train[0]).is_file():
                return kind, folder
    return None


def read_cifar(kind: CifarKind, folder: Path, split: str) -> CifarImages:
    """Read the images of "train" or "test".

    Raises:
        DataError: A file is missing, damaged, or holds something else.
    """
    parts = [
        (_read_binary if kind.binary else _read_python)(kind, folder / name)
        for name in (kind.train if split == "train" else kind.test)
    ]
    images = np.concatenate([pixels for pixels, _, _ in parts]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([labels for _, labels, _ in parts])
    names = [name for _, _, names in parts for name in names]
    return CifarImages(images, labels, names, _class_names(kind, folder / kind.names))


_Part = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], list[str]]


def _read_binary(kind: CifarKind, path: Path) -> _Part:
    label_bytes = 1 if kind.classes == 10 else 2  # CIFAR-100: coarse, then fine
    record = label_bytes + _PIXELS
    content = np.frombuffer(read_bytes(path, _LARGEST), dtype=np.uint8)
    if not len(content) or len(content) % record:
        raise _damaged(path, f"records of {record} bytes", f"{len(content)} bytes in all")
    records = content.reshape(-1, record)
    labels = records[:, label_bytes - 1].astype(np.int64)
    names = [f"{path.name}/{number}" for number in range(len(records))]
    _check(labels, kind, path)
    return records[:, label_bytes:], labels, names


def _read_python(kind: CifarKind, path: Path) -> _Part:
    content = _entries(path)
    data = content.get("data")
    labels = content.get("labels" if kind.classes == 10 else "fine_labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (_PIXELS,):
        expected = f"the entry 'data' to be a uint8 array (N, {_PIXELS})"
        raise _damaged(path, expected, _describe(data))
    numbers = cast("list[Any]", labels) if isinstance(labels, list) else []
    if len(numbers) != len(data) or not all(isinstance(number, int) for number in numbers):
        expected = f"one whole number for each of {len(data)} images as labels"
        raise _damaged(path, expected, _describe(labels))
    _check(numbers, kind, path)  # before they are made numbers of 64 bits
    files = content.get("filenames")
    names = [f"{path.name}/{number}" for number in range(len(data))]
    if isinstance(files, list) and len(files) == len(data):
        names = [f"{path.name}/{_text(file)}" for file in files]
    return cast("npt.NDArray[np.uint8]", data), np.asarray(numbers, dtype=np.int64), names


def _class_names(kind: CifarKind, path: Path) -> tuple[str, ...]:
    if kind.binary:
        names = read_bytes(path, _LARGEST).decode(errors="replace").split()
    else:
        entry = _entries(path).get("label_names" if kind.classes == 10 else "fine_label_names")
        names = [_text(name) for name in entry] if isinstance(entry, list) else []
    if len(names) != kind.classes or len(set(names)) != kind.classes:
        raise _damaged(path, f"{kind.classes} different class names", len(set(names)))
    return tuple(names)


def _check(labels: Sequence[int] | npt.NDArray[np.int64], kind: CifarKind, path: Path) -> None:
    if not len(labels):
        raise _damaged(path, "images", "none")
    if not 0 <= min(labels) <= max(labels) < kind.classes:
        found = f"{min(labels)} to {max(labels)}"
        raise _damaged(path, f"labels from 0 to {kind.classes - 1}", found[:60])


def _entries(path: Path) -> dict[str, Any]:
    """What a Python batch holds; its names are bytes if Python 3 wrote them so."""
    content = read_pickle(path)
    if not isinstance(content, dict):
        raise _damaged(path, "a pickled dict", type(content).__name__)
    return {_text(key): value for key, value in cast("dict[Any, Any]", content).items()}


def _damaged(path: Path, expected: str, found: object) -> DataError:
    return DataError(f"{path}: expected {expected}, found {found}. Unpack the archive again.")


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array {value.shape}"
    return f"{type(value).__name__}" + (f" of {len(value)}" if isinstance(value, list) else "")
