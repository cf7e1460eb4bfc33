"""A trained network as one safetensors file with everything needed to build and use it inside.

The header's metadata holds the method's name, the arguments the network is built with, and notes
for its use (class names, input size, normalisation).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.overrides import TorchFunctionMode

from modicum.errors import CheckpointError, DataError, MissingExtraError
from modicum.options import check
from modicum.system.environment import version
from modicum.system.files import atomic_write
from modicum.weights.foreign import fill

MODEL_FILE = "model.safetensors"
BEST_FILE = "best.safetensors"
_LONGEST_JSON = 1 << 24


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
    notes_of: Callable[[str], Any] = lambda method: dict[str, Any],
) -> SavedModel:
    """Read a network that `save_model` wrote; see `modicum.method.load_saved`.

    `build` makes the network of the name of its method and its arguments. It is called twice: first
    on the device "meta", where no tensor takes memory, until the network needs more than the file
    holds. `notes_of` gives the type of a method's notes.
    """
    file = find_model(path, weights)
    with _opened(file, method) as (opened, metadata):
        state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    with believing_nothing(file, metadata.get("modicum.version")):
        found = metadata["modicum.method"]
        arguments, notes = (_json(metadata, name) for name in ("arguments", "notes"))
        check("notes", notes, notes_of(found))
        with torch.device("meta"), _Unfilled(), _at_most(state):
            build(found, arguments)
        module = build(found, arguments)
        fill(module, state, str(file))
    return SavedModel(found, module.eval(), notes, file)


def read_notes(
    path: str | os.PathLike[str], weights: str = "last", *, method: str | None = None
) -> dict[str, Any]:
    """The notes of a file that `save_model` wrote, without its network; see `read_model`."""
    file = find_model(Path(path), weights)
    with _opened(file, method) as (_, metadata), believing_nothing(file):
        return _json(metadata, "notes")


@contextmanager
def believing_nothing(file: Path, by: str | None = None) -> Generator[None]:
    """What a file of weights says is used inside; what cannot be used is a `CheckpointError`."""
    try:
        yield
    except (CheckpointError, DataError, MissingExtraError):
        raise
    except Exception as error:  # numbers and names of a file make a constructor fail with anything
        written = f" (written by modicum {by[:20]}, this is {version()})" if by else ""
        said = str(error).partition("\n")[0].removeprefix("--")[:300]
        if isinstance(error, KeyError):
            said = f"it lacks {said}"
        raise CheckpointError(
            f"{file}: describes a network that cannot be built or used{written}: {said}. The file "
            f"is damaged, changed by hand or of another version; take an unchanged copy of it."
        ) from error


def _json(metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    text = metadata[f"modicum.{name}"]
    if len(text) > _LONGEST_JSON:
        raise ValueError(f"{name} of {len(text):,} characters, expected {_LONGEST_JSON:,} at most")
    values = json.loads(text)
    check(name, values, dict[str, Any])
    return values


class _Unfilled(TorchFunctionMode):
    """Draws no random numbers on the device meta, for which PyTorch would load much for seconds."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def _at_most(state: Mapping[str, Tensor]) -> Generator[None]:
    """Refuse to build what is far larger than the tensors it will be filled with.

    Tensors and modules are counted as constructors register them, some several times, and buffers
    that are stored nowhere: hence the room.
    """
    tensors, elements = len(state), sum(tensor.numel() for tensor in state.values())
    left = {"elements": 4 * elements + 2**26, "layers": 16 * tensors + 2**12}

    def registered(module: nn.Module, name: str, value: Any) -> None:
        if not _counted.get():
            return
        left["elements"] -= value.numel() if isinstance(value, Tensor) else 0
        left["layers"] -= 1
        if min(left.values()) < 0:
            raise ValueError(
                f"it is larger than the {tensors:,} tensors of {elements:,} numbers in the file"
            )

    with ExitStack() as hooks:
        for kind in ("parameter", "buffer", "module"):
            register = getattr(modules, f"register_module_{kind}_registration_hook")
            hooks.callback(register(registered).remove)
        hooks.callback(_counted.reset, _counted.set(True))
        yield


@contextmanager
def from_elsewhere() -> Generator[None]:
    """What a `network` function builds inside comes from another file: it is not counted."""
    token = _counted.set(False)
    try:
        with torch.device("cpu"):
            yield
    finally:
        _counted.reset(token)


_counted: ContextVar[bool] = ContextVar("counted", default=False)
"""Whether what this thread builds is held to the size of a file."""


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
