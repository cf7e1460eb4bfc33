"""Weights of other programs: read without running anything in them, and filled in whole.

`read_state` takes files of PyTorch, safetensors, NumPy and Detectron2, and folders of Transformers;
`fill` puts what they hold into a network, under other names where they differ, or tells in one
message all that does not fit.
"""

from __future__ import annotations

import argparse
import logging
import re
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from modicum.errors import CheckpointError, DataError
from modicum.system.arrays import read_arrays, refuse_unpacked
from modicum.system.files import read_json
from modicum.weights.pickles import read_pickle

State: TypeAlias = Mapping[str, Tensor]
"""A state dict: names with tensors."""

Rename: TypeAlias = Mapping[str, str | None] | Callable[[str], str | None]
"""How their names become ours: patterns with replacements, or a function; None drops a tensor.

The first pattern that matches a whole name decides. A name that none matches is unknown.
"""

_WRAPPERS = ("state_dict", "model", "model_state", "model_state_dict")
_SHOWN = 4
_log = logging.getLogger("modicum")


def read_state(source: Path | str | State) -> tuple[str, dict[str, Tensor]]:
    """The state dict in another program's weights, and what to call them in messages.

    It is what the file holds or, where that is a dict with one of these, what it holds as
    `state_dict`, then `model`, `model_state` or `model_state_dict`. A `module.` before all names,
    which `DataParallel` puts there, is taken away.

    Args:
        source: A file, see `read_weights`; a folder of Transformers, see `weight_files`; or what
            such a file holds.

    Raises:
        CheckpointError: There is no such file, it is damaged, or it holds something else.
    """
    if isinstance(source, Mapping):
        return "the state dict", _state(source, "the state dict")
    path, state = Path(source), dict[str, Tensor]()
    for file in weight_files(path) if path.is_dir() else [path]:
        part, size = _state(read_weights(file), str(file)), file.stat().st_size
        for name, tensor in part.items():
            # By strides of 0; those of .npz may be packed, and were counted.
            if tensor.nbytes > size and file.suffix != ".npz":
                raise CheckpointError(
                    f"{file}: {name} claims the shape {tuple(tensor.shape)}, which is more than "
                    f"the {size} bytes of the file. It is damaged."
                )
        state |= part
    return str(source), state


def _state(content: Any, where: str) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    odd = "" if isinstance(content, Mapping) else f"a {type(content).__name__}"
    state: dict[str, Tensor] = {}
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
            value = torch.from_numpy(np.array(value, value.dtype.newbyteorder("=")))
        if not isinstance(value, Tensor):
            odd = f"a dict with a {type(value).__name__} as {str(name)!r}"
            break
        state[str(name)] = value
    if odd:
        raise CheckpointError(
            f"{where}: holds {odd}, expected a state dict: names with tensors, or a dict with one "
            f"as 'state_dict'."
        )
    if all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def read_weights(path: Path) -> Any:
    """What a file of weights holds: tensors, arrays, numbers and text, in lists, tuples and dicts.

    By the end of its name it is read as `.safetensors`; as `.npz`, without objects; as `.pkl`, a
    pickle of arrays such as Detectron2's, by `modicum.weights.pickles`; and otherwise (`.pth`,
    `.pt`, `.bin`, `.tar`) as what `torch.save` wrote, with `weights_only=True`. An
    `argparse.Namespace`, which MAE's files hold their options in, is admitted.

    Raises:
        CheckpointError: There is no such file, or it is damaged or holds other objects; the first
            of them is named.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file. Expected a checkpoint, .pth or .safetensors.")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if path.suffix == ".npz":
            return read_arrays(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                refuse_unpacked(path, archive)
        elif path.suffix == ".pkl":
            return read_pickle(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (CheckpointError, DataError) as error:
        raise CheckpointError(str(error)) from error
    except Exception as error:  # a damaged file makes a reader fail with whatever it meets
        asked = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it asks for {asked[1]}" if asked else str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path}: cannot be read as tensors ({reason or type(error).__name__}). It is damaged, "
            f"or holds objects other than tensors, which are never loaded. Download it again, or "
            f"save the network's state_dict()."
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights of a folder of Transformers: one, or all its shards.

    The first of `model.safetensors`, its shards, `pytorch_model.bin` and its shards is taken.

    Raises:
        CheckpointError: There is none, or the index of the shards is damaged or names a file that
            is not in the folder itself.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            try:
                shards = sorted(set(read_json(index)["weight_map"].values()))
                if all(Path(shard).name == shard for shard in shards):
                    return [folder / shard for shard in shards]
                reason = "it names files outside its folder"
            except (DataError, LookupError, AttributeError, TypeError) as error:
                reason = str(error).removeprefix(f"{index}: ")
            raise CheckpointError(
                f"{index}: cannot be read ({reason}). Expected a 'weight_map' of names of weights "
                f"and files beside it. Download the folder again."
            )
    raise CheckpointError(
        f"{folder}: no weights. Expected model.safetensors or pytorch_model.bin, or an index of "
        f"their shards, as Transformers writes them."
    )


def fill(
    network: nn.Module,
    state: State,
    where: str = "the state dict",
    *,
    rename: Rename | None = None,
    fresh: Collection[str] = (),
    hint: str = "",
) -> None:
    """Load a state dict that must fit, or leave the network as it is.

    Args:
        network: Filled in place.
        state: Tensors by their names.
        where: Where they came from, for messages.
        rename: Their names into those of `network`; None: they are the same.
        fresh: Beginnings of our names that may keep the values they have, such as `"fc."`: each
            does, and the log says so, where a tensor of that beginning is missing or of another
            shape. What else the file has of that beginning is left out.
        hint: How to mend it, the last sentence of the message.

    Raises:
        CheckpointError: Tensors are missing, unknown or of another shape; all three are told.
    """
    renamed = {name: _renamed(name, rename) for name in state}
    theirs = {ours: name for name, ours in renamed.items() if ours is not None}
    own = network.state_dict()
    missing = [name for name in own if name not in theirs]
    misshapen = {
        ours: f"{name} {tuple(state[name].shape)}, expected {tuple(own[ours].shape)}"
        for ours, name in theirs.items()
        if ours in own and state[name].shape != own[ours].shape
    }
    used = {theirs[ours] for ours in theirs if ours in own}
    unknown = [name for name, ours in renamed.items() if ours is not None and name not in used]
    unfit = (*missing, *misshapen)
    anew = tuple(start for start in fresh if any(name.startswith(start) for name in unfit))
    odd_shapes = [shapes for name, shapes in misshapen.items() if not name.startswith(anew)]
    kinds = {
        "missing": [name for name in missing if not name.startswith(anew)],
        "unknown": [name for name in unknown if not (renamed[name] or "").startswith(tuple(fresh))],
        "of another shape": odd_shapes,
    }
    told = [f"{len(names)} {kind} ({_few(names)})" for kind, names in kinds.items() if names]
    if told:
        raise CheckpointError(
            f"{where}: the weights are of another network than this {type(network).__name__}: "
            f"{'; '.join(told)}.{' ' if hint else ''}{hint}"
        )
    taken = {name: state[theirs[name]] for name in own if not name.startswith(anew)}
    network.load_state_dict(own | taken)
    if fresh:
        names = ", ".join(start.strip(".") for start in anew)
        _log.info("%s: loaded; start anew: %s.", where, names or "none")


def _renamed(name: str, rename: Rename | None) -> str | None:
    if rename is None:
        return name
    if callable(rename):
        return rename(name)
    for pattern, ours in rename.items():
        if found := re.fullmatch(pattern, name):
            return ours and found.expand(ours)
    return ""  # no tensor is called so


def _few(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
