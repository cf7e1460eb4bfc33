"""A trained network as one safetensors file with everything needed to build and use it inside.

The header's metadata holds the method's name, the arguments the network is built with, and notes
for its use (class names, input size, normalisation).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import safetensors
import safetensors.torch
from torch import nn

from modicum.errors import CheckpointError
from modicum.system.environment import version
from modicum.system.files import atomic_write

MODEL_FILE = "model.safetensors"
BEST_FILE = "best.safetensors"


@dataclass(frozen=True)
class SavedModel:
    """A network read back from its file."""

    method: str
    module: nn.Module
    """In eval mode, on the CPU."""
    notes: dict[str, Any]
    """What using it needs, as the method's `train` wrote it."""
    path: Path


class HasState(Protocol):
    """A module, or something else whose state is named tensors."""

    def state_dict(self) -> Mapping[str, Any]:
        """Names with tensors."""
        ...


def save_model(
    path: Path,
    module: HasState,
    *,
    method: str,
    arguments: Mapping[str, Any],
    notes: Mapping[str, Any],
) -> None:
    """Write `module` to `path`, atomically; the same network and notes give the same bytes.

    Args:
        path: File to write, by convention `*.safetensors`.
        module: Its whole state dict is stored, parameters and buffers, in the dtypes they have.
        method: Name of the method in the catalogue, whose `network(**arguments)` rebuilds it.
        arguments: JSON-able.
        notes: JSON-able.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()  # clone: safetensors refuses shared memory
        for name, tensor in module.state_dict().items()
    }
    metadata = {
        "modicum.version": version(),
        "modicum.method": method,
        "modicum.arguments": json.dumps(dict(arguments)),
        "modicum.notes": json.dumps(dict(notes)),
    }
    content = safetensors.torch.save(tensors, metadata)
    # It writes metadata in another order in every process.
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]) | {"__metadata__": metadata}).encode()
    header += b" " * (-len(header) % 8)
    with atomic_write(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(memoryview(content)[end:])


def find_model(path: Path, weights: str = "last") -> Path:
    """The file of weights meant by `path`: itself, or the last or best of a run folder.

    Raises:
        CheckpointError: There is no such file, or the run has not got that far.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(
            f"{path}: no such run folder or file. Expected the folder given to "
            f"`modicum train … --out`, or a .safetensors file."
        )
    file = path / (BEST_FILE if weights == "best" else MODEL_FILE)
    if file.is_file():
        return file
    go_on = f"go on with `modicum train … --resume {path}`"
    if weights == "best":
        hint = f"The run was never scored on held-out data; use {MODEL_FILE} (--weights last)."
    elif (path / BEST_FILE).is_file():
        hint = f"The run has not ended: {go_on}, or use the best network so far (--weights best)."
    else:
        hint = f"If the run was interrupted, {go_on}."
    raise CheckpointError(f"{path}: holds no {file.name}. {hint}")


def read_model(
    path: Path,
    build: Callable[[str, dict[str, Any]], nn.Module],
    weights: str = "last",
    *,
    method: str | None = None,
) -> SavedModel:
    """Read a network that `save_model` wrote; see `modicum.method.load_saved`.

    `build` makes the network of the name of its method and its arguments.
    """
    file = find_model(path, weights)
    with _opened(file, method) as (opened, metadata):
        state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    found = metadata["modicum.method"]
    try:
        module = build(found, json.loads(metadata["modicum.arguments"]))
        module.load_state_dict(state)
        notes = json.loads(metadata["modicum.notes"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{file}: written by modicum {metadata.get('modicum.version')}, this is {version()}; "
            f"the network it describes cannot be built or filled: {error}"
        ) from error
    return SavedModel(found, module.eval(), notes, file)


def read_notes(
    path: Path | str, weights: str = "last", *, method: str | None = None
) -> dict[str, Any]:
    """The notes of a file that `save_model` wrote, without its network; see `read_model`."""
    with _opened(find_model(Path(path), weights), method) as (_, metadata):
        return json.loads(metadata["modicum.notes"])


@contextmanager
def _opened(file: Path, method: str | None) -> Generator[tuple[Any, dict[str, str]]]:
    """An open file of `save_model` and its header, which is of `method` if that is given."""
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            metadata: dict[str, str] = opened.metadata() or {}
            if "modicum.method" not in metadata:
                raise CheckpointError(
                    f"{file}: a safetensors file, but not written by modicum (its header names no "
                    f"method). Weights of other programs are read by a method's own loader."
                )
            found = metadata["modicum.method"]
            if method is not None and found != method:
                raise CheckpointError(
                    f"{file}: holds a network of the method {found!r}, expected {method!r}. "
                    f"Use `modicum … {found}` with it."
                )
            yield opened, metadata
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file}: cannot be read as safetensors ({error}). It is damaged or of another format; "
            f"train again, or restore it from a backup."
        ) from error
