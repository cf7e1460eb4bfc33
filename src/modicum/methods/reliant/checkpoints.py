"""What the authors' scripts write: outputs of teachers, and state dicts of their networks.

The authors published no weights; these are for files of your own runs
of their code. Nothing in a file is executed.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from modicum.errors import CheckpointError, DataError
from modicum.methods.reliant.networks.discriminators import (
    EdgeDiscriminator,
    GlobalDiscriminator,
    LogitDiscriminator,
)
from modicum.methods.reliant.networks.students import PLP, SGCStudent
from modicum.methods.reliant.networks.teachers import GCN, GraphSAGE
from modicum.weights.saved import State, read_state

Kind = Literal["gcn", "sage", "plp", "sgc", "discriminator"]
"""Whose state dict: GCN and GraphSAGE, the teachers; PLP and SGC, the students of CPF and GraphAKD;
or one of GraphAKD's three discriminators."""

CPF_OUTPUT = "output.txt"
_HALF_OF_LAST_DECIMAL = 0.5e-4
_TOLERANCE = 1e-3

_KINDS: Mapping[type[nn.Module], Kind] = {
    GCN: "gcn",
    GraphSAGE: "sage",
    PLP: "plp",
    SGCStudent: "sgc",
    LogitDiscriminator: "discriminator",
    EdgeDiscriminator: "discriminator",
    GlobalDiscriminator: "discriminator",
}
_LAYER = r"layers\.(\d+)\."
_NAMES: Mapping[Kind, Mapping[str, str | None]] = {
    "gcn": {_LAYER + "(weight|bias)": r"layers.\1.\2"},
    "sage": {
        _LAYER + r"fc_neigh\.weight": r"layers.\1.weight",
        _LAYER + "bias": r"layers.\1.bias",
    },
    "plp": {
        "alpha": None,
        r"plp_layer\.lr_alpha": "balance",
        r"plp_layer\.(attn_l|fc_emb)": "score",
        r"plp_layer\.mlp\.linear\.(weight|bias)": r"mlp.0.\1",
        r"plp_layer\.mlp\.linears\.(\d+)\.(weight|bias)": r"mlp.\1.\2",
    },
    "sgc": {_LAYER + r"fc\.(weight|bias)": r"layers.\1.\2"},
    "discriminator": {
        r"lin\.(weight|bias)": r"hidden.\1",
        r"lin2\.weight": "out.weight",
        "d": "diagonal",
        "scale": "scale",
    },
}
"""Patterns of their names and what ours are; None: not used by their network either."""


def soft_targets(
    path: Path | str, nodes: int, classes: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A teacher's output in the files of either framework, CPF or GraphAKD.

    Args:
        path: CPF's folder of a teacher, or its `output.txt`, or GraphAKD's torch file.
        nodes: N of the graph.
        classes: C.

    Returns:
        Probabilities `(N, C)`, their logarithms `(N, C)`, both float32, and GraphAKD's embedding
        `(N, H)` of the teacher's first layer, float32, or None with CPF's files. These have
        probabilities rounded to 0, whose logarithm is taken of half of their last decimal.

    Raises:
        DataError: There is no such file, it is damaged, or it does not fit the graph.
    """
    path = Path(path)
    if path.is_dir():
        path = path / CPF_OUTPUT
    if not path.is_file():
        raise DataError(
            f"{path}: no such file. Expected a teacher's folder of CPF, in which its script writes "
            f"{CPF_OUTPUT}, or the torch file of a teacher of GraphAKD."
        )
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK" or start.startswith(b"\x80"):  # a zip archive, or a bare pickle as of old
        log_probabilities, embedding = read_akd_teacher(path, nodes, classes)
        return log_probabilities.exp(), log_probabilities, embedding
    probabilities = read_cpf_teacher(path, nodes, classes)
    return probabilities, probabilities.clamp_min(_HALF_OF_LAST_DECIMAL).log(), None


def read_cpf_teacher(path: Path | str, nodes: int, classes: int) -> Tensor:
    """The probabilities of a teacher that CPF's script trained.

    The files beside it (`preds.txt`, `labels.txt`, `test_acc.txt`) follow from it and the data, and
    are not read.

    Args:
        path: `output.txt`, or the folder it is in: a line a node, probabilities between tabs.
        nodes: N of the graph.
        classes: C.

    Returns:
        `(N, C)`, float32, as they are: of 4 decimals, not made to sum to exactly 1.

    Raises:
        DataError: It is no table of numbers, or they are not the probabilities of this graph.
    """
    path = Path(path)
    file = path / CPF_OUTPUT if path.is_dir() else path
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an empty file; the check below tells
            table = np.loadtxt(file, dtype=np.float64, ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file}: cannot be read as a table of numbers ({error}). Expected a line a node, with "
            f"{classes} probabilities between tabs, as CPF's script writes {CPF_OUTPUT}."
        ) from error
    return check_probabilities(table, nodes, classes, str(file))


def read_akd_teacher(path: Path | str, nodes: int, classes: int) -> tuple[Tensor, Tensor]:
    """The log-probabilities and the embedding of a teacher that GraphAKD's script trained.

    Args:
        path: The file: a dict with `logits`, which are log-probabilities, `embedding`, and the gaps
            `parity` and `equality`, which are not needed.
        nodes: N of the graph.
        classes: C.

    Returns:
        Log-probabilities `(N, C)` and the embedding `(N, H)`, float32, on the CPU.

    Raises:
        DataError: The file is damaged, holds something else, or does not fit the graph.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes unpickling fail with whatever it meets
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{path}: cannot be read as a torch file of tensors and numbers ({reason}). It is "
            f"damaged, or holds other objects, which are never loaded. Save a dict of the tensors "
            f"'logits' and 'embedding' with torch.save."
        ) from error
    found: list[Tensor] = []
    for name, shape in (("logits", (nodes, classes)), ("embedding", (nodes, None))):
        tensor = content.get(name) if isinstance(content, Mapping) else None
        if not isinstance(tensor, Tensor):
            keys = f"the keys {', '.join(map(str, content))}" if isinstance(content, Mapping) else (
                f"a {type(content).__name__}"
            )  # fmt: skip
            raise DataError(
                f"{path}: holds {keys}; expected a dict with the tensors 'logits' (logarithms of "
                f"probabilities) and 'embedding', as GraphAKD's script saves a teacher."
            )
        tensor = tensor.detach().float()
        if tensor.dim() != 2 or len(tensor) != nodes or shape[1] not in (None, tensor.shape[1]):
            width = "H" if shape[1] is None else shape[1]
            raise DataError(
                f"{path}: {name!r} has the shape {tuple(tensor.shape)}, expected ({nodes}, "
                f"{width}): a row a node of this graph."
            )
        if not bool(tensor.isfinite().all()):
            row = int((~tensor.isfinite()).any(1).nonzero()[0])
            raise DataError(f"{path}: {name!r} of node {row} is not finite.")
        found.append(tensor)
    log_probabilities, embedding = found
    check_probabilities(log_probabilities.exp(), nodes, classes, f"{path}: exp of 'logits'")
    return log_probabilities, embedding


def check_probabilities(values: Any, nodes: int, classes: int, where: str) -> Tensor:
    """A teacher's probabilities, checked to be that.

    Args:
        values: A tensor or array.
        nodes: N of the graph.
        classes: C.
        where: What to call them in messages.

    Returns:
        `(N, C)`, float32.

    Raises:
        DataError: They are not of the shape `(N, C)`, not finite, negative (logits or logarithms),
            or a row's sum is further than 0.001 from 1.
    """
    given = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    if given.shape != (nodes, classes):
        raise DataError(
            f"{where}: found the shape {tuple(given.shape)}, expected ({nodes}, {classes}): a row "
            f"a node of this graph, a column a class."
        )
    if not bool(given.isfinite().all()):
        row, column = (~given.isfinite()).nonzero()[0].tolist()
        raise DataError(
            f"{where}: the probability of class {column} of node {row} is "
            f"{float(given[row, column])}; expected finite numbers."
        )
    if bool((given < 0).any()):
        row, column = (given < 0).nonzero()[0].tolist()
        raise DataError(
            f"{where}: the probability of class {column} of node {row} is "
            f"{float(given[row, column]):.4g}. These look like logits or logarithms: give "
            f"probabilities, their softmax."
        )
    sums = given.double().sum(1)
    wrong = (sums - 1).abs() > _TOLERANCE
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise DataError(
            f"{where}: the probabilities of node {row} sum to {float(sums[row]):.4f}, expected 1 "
            f"to within {_TOLERANCE}. If these are logits, give their softmax."
        )
    return given.float()


def convert(checkpoint: Path | str | State, kind: Kind) -> dict[str, Tensor]:
    """A state dict of an official class under our names, in our layout.

    Args:
        checkpoint: A file of a state dict, or a state dict.
        kind: Of which network.

    Returns:
        Tensors by the names of our network of that kind. PLP's unused `alpha` is left out.

    Raises:
        CheckpointError: The file is damaged, or a name is none of that network.
    """
    return _renamed(*read_state(checkpoint), kind)


def load_official(network: nn.Module, checkpoint: Path | str | State) -> None:
    """Fill a network of ours with the weights of the authors' class.

    Args:
        network: A `GCN`, `GraphSAGE`, `PLP`, `SGCStudent` or discriminator; filled in place.
        checkpoint: A file of a state dict, or a state dict.

    Raises:
        CheckpointError: The file is damaged, or the weights are of another network: names are
            unknown or missing, or shapes differ.
    """
    kind = _KINDS.get(type(network))
    if kind is None:
        raise CheckpointError(
            f"{type(network).__name__}: no state dict of the authors' fills it. Expected a GCN, "
            f"GraphSAGE, PLP, SGCStudent or one of the discriminators."
        )
    where, state = read_state(checkpoint)
    converted, wanted = _renamed(where, state, kind), network.state_dict()
    wrong = {
        "are missing, by our names": [name for name in wanted if name not in converted],
        "have no place in it": [name for name in converted if name not in wanted],
        "are of another shape": [
            f"{name} {tuple(tensor.shape)}, expected {tuple(wanted[name].shape)}"
            for name, tensor in converted.items()
            if name in wanted and tensor.shape != wanted[name].shape
        ],
    }
    told = [f"{len(names)} {how} ({_few(names)})" for how, names in wrong.items() if names]
    if told:
        raise CheckpointError(
            f"{where}: the weights are of another network than this {type(network).__name__}: "
            f"{'; '.join(told)}. Build it with the sizes it was trained with."
        )
    network.load_state_dict(converted)


def _renamed(where: str, state: State, kind: Kind) -> dict[str, Tensor]:
    converted: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in state.items():
        for pattern, ours in _NAMES[kind].items():
            if found := re.fullmatch(pattern, name):
                if ours is not None:
                    # DGL's GraphConv, which the authors' GCN is made of, has columns for outputs.
                    turned = kind == "gcn" and tensor.dim() == 2
                    converted[found.expand(ours)] = tensor.T.contiguous() if turned else tensor
                break
        else:
            unknown.append(name)
    if unknown:
        raise CheckpointError(
            f"{where}: {len(unknown)} of its {len(state)} names are none of the authors' "
            f"{kind} network: {_few(unknown)}. Give the state dict as their code saves it, of that "
            f"kind of network."
        )
    return converted


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
