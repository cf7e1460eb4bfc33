"""Files of NumPy from others: no header is believed, nothing in them is executed."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from modicum.errors import DataError
from modicum.system.files import open_ordinary, refuse_large


def read_arrays(path: Path) -> Mapping[str, npt.NDArray[Any]]:
    """The arrays of a `.npz` by name, or the one of a `.npy` under `""`, whatever the file's name.

    Raises:
        DataError: It is missing, damaged, holds objects, or takes too much memory.
    """
    try:
        with open_ordinary(path) as file:
            if not zipfile.is_zipfile(file):
                file.seek(0)
                return {"": _read(file, os.fstat(file.fileno()).st_size)}
            with zipfile.ZipFile(file) as archive:
                refuse_unpacked(path, archive)
                found: dict[str, npt.NDArray[Any]] = {}
                for member in archive.infolist():
                    with archive.open(member) as packed:
                        array: Any = packed
                        found[member.filename.removesuffix(".npy")] = _read(array, member.file_size)
                        packed.read()  # which compares the checksum
                return found
    except DataError as error:
        raise DataError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    except Exception as error:  # a damaged archive makes its readers fail with whatever they meet
        reason = str(error) or type(error).__name__
        raise DataError(
            f"{path}: no array of NumPy: it cannot be read ({reason}). It is damaged, or holds "
            f"objects, which are never loaded. Get it again."
        ) from error


def refuse_unpacked(path: Path, archive: zipfile.ZipFile) -> None:
    """Raise a `DataError` where an archive unpacks to more memory than is allowed."""
    refuse_large(path, sum(member.file_size for member in archive.infolist()), "it unpacks to")


def _read(file: BinaryIO, size: int) -> npt.NDArray[Any]:
    """An array of a file of so many bytes at most."""
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0
    }.get(version)  # fmt: skip
    if read_header is None:
        raise DataError(f"an array of NumPy's format {version}, expected (1, 0) or (2, 0).")
    shape, _, dtype = read_header(file)
    if min(shape, default=0) < 0 or prod(shape) * max(1, dtype.itemsize) > size:
        raise DataError(
            f"an array claims the shape {shape}, for which {size:,} bytes are not enough. The file "
            f"is damaged."
        )
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)
