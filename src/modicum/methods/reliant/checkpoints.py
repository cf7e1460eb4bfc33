"""What the authors' scripts write: outputs of teachers, and state dicts of their networks.

The authors published no weights; these are for files of your own runs of their code.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from modicum.errors import CheckpointError, DataError
from modicum.methods.reliant.data.delimited import read_text
from modicum.methods.reliant.networks.discriminators import (
    EdgeDiscriminator,
    GlobalDiscriminator,
    LogitDiscriminator,
)
from modicum.methods.reliant.networks.students import PLP, SGCStudent
from modicum.methods.reliant.networks.teachers import GCN, GraphSAGE

if TYPE_CHECKING:
    from modicum.weights.foreign import Rename, State

CPF_OUTPUT = "output.txt"
_HALF_OF_LAST_DECIMAL = 0.5e-4
_TOLERANCE = 1e-3

_LAYER = r"layers\.(\d+)\."
_DISCRIMINATOR: Rename = {
    r"lin\.(weight|bias)": r"hidden.\1",
    r"lin2\.weight": "out.weight",
    "d": "diagonal",
    "scale": "scale",
}
_NAMES: Mapping[type[nn.Module], Rename] = {
    GCN: {_LAYER + "(weight|bias)": r"layers.\1.\2"},
    GraphSAGE: {
        _LAYER + r"fc_neigh\.weight": r"layers.\1.weight",
        _LAYER + "bias": r"layers.\1.bias",
    },
    PLP: {
        "alpha": None,  # not used by their network either
        r"plp_layer\.lr_alpha": "balance",
        r"plp_layer\.(attn_l|fc_emb)": "score",
        r"plp_layer\.mlp\.linear\.(weight|bias)": r"mlp.0.\1",
        r"plp_layer\.mlp\.linears\.(\d+)\.(weight|bias)": r"mlp.\1.\2",
    },
    SGCStudent: {_LAYER + r"fc\.(weight|bias)": r"layers.\1.\2"},
    LogitDiscriminator: _DISCRIMINATOR,
    EdgeDiscriminator: _DISCRIMINATOR,
    GlobalDiscriminator: _DISCRIMINATOR,
}
"""What their names are in our networks: GCN and GraphSAGE, the teachers; PLP and SGC, the students
of CPF and GraphAKD; and GraphAKD's three discriminators."""


def soft_targets(
    path: Path | str, nodes: int, classes: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A teacher's output in the files of either framework, CPF or GraphAKD.

    Args:
        path: CPF's folder of a teacher, or its `output.txt`, or GraphAKD's torch file.
        nodes: N of the graph.
        classes: Its C.

    Returns:
        Probabilities `(N, C)`, their logarithms `(N, C)`, both float32, and GraphAKD's embedding
        `(N, H)` of the teacher's first layer, float32, or None with CPF's files. These have
        probabilities rounded to 0, whose logarithm is taken of half of their last decimal.

    Raises:
        CheckpointError: GraphAKD's file is damaged, or holds other objects.
        DataError: There is no such file, or it does not fit the graph.
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
    """The probabilities `(N, C)`, float32, of a teacher that CPF's script trained.

    They stand in `output.txt`, or the folder of it, a line a node, and have 4 decimals: they do not
    sum to exactly 1. The files beside it (`preds.txt`, `labels.txt`, `test_acc.txt`) follow from it
    and the data, and are not read.

    Raises:
        DataError: It is no table of numbers, or they are not the probabilities of this graph.
    """
    path = Path(path)
    file = path / CPF_OUTPUT if path.is_dir() else path
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an empty file; the check below tells
            table = np.loadtxt(io.StringIO(read_text(file)), dtype=np.float64, ndmin=2)
    except ValueError as error:
        raise DataError(
            f"{file}: cannot be read as a table of numbers ({error}). Expected a line a node, with "
            f"{classes} probabilities between tabs, as CPF's script writes {CPF_OUTPUT}."
        ) from error
    return check_probabilities(table, nodes, classes, str(file))


def read_akd_teacher(path: Path | str, nodes: int, classes: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities `(N, C)` and embedding `(N, H)`, float32, of a teacher of GraphAKD.

    The file is a dict with `logits`, which are log-probabilities, `embedding`, and the gaps
    `parity` and `equality`, which are not needed.

    Raises:
        CheckpointError: The file is damaged, or holds objects other than tensors and numbers.
        DataError: It holds something else, or does not fit the graph.
    """
    from modicum.weights.foreign import read_weights

    content = read_weights(Path(path))
    holds, tensors = f"a {type(content).__name__}", {}
    if isinstance(content, Mapping):
        holds, tensors = f"the keys {', '.join(map(str, content))}", content
    found: list[Tensor] = []
    for name, width in (("logits", classes), ("embedding", "H")):
        tensor = tensors.get(name)
        if not isinstance(tensor, Tensor):
            raise DataError(
                f"{path}: holds {holds}; expected a dict with the tensors 'logits' (logarithms of "
                f"probabilities) and 'embedding', as GraphAKD's script saves a teacher."
            )
        tensor = tensor.detach().float()
        if tensor.dim() != 2 or len(tensor) != nodes or width not in ("H", tensor.shape[1]):
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
    """A teacher's probabilities, a tensor or array, checked to be that: `(N, C)`, float32.

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
    for wrong, mend in (
        (~given.isfinite(), "; expected finite numbers."),
        (given < 0, ". These look like logits or logarithms: give probabilities, their softmax."),
    ):
        for row, column in wrong.nonzero()[:1].tolist():
            number = f"{float(given[row, column]):.4g}"
            raise DataError(
                f"{where}: the probability of class {column} of node {row} is {number}{mend}"
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


def load_official(network: nn.Module, checkpoint: Path | str | State) -> None:
    """Fill a network of ours with the weights of the authors' class.

    Args:
        network: A `GCN`, `GraphSAGE`, `PLP`, `SGCStudent` or discriminator; filled in place.
        checkpoint: A file of a state dict, or a state dict.

    Raises:
        CheckpointError: The file is damaged, or the weights are of another network: names are
            unknown or missing, or shapes differ.
    """
    from modicum.weights.foreign import fill, read_state

    names = _NAMES.get(type(network))
    if names is None:
        raise CheckpointError(
            f"{type(network).__name__}: no state dict of the authors' fills it. Expected a GCN, "
            f"GraphSAGE, PLP, SGCStudent or one of the discriminators."
        )
    where, state = read_state(checkpoint)
    if isinstance(network, GCN):  # DGL's GraphConv, which theirs is made of, is transposed
        state = {name: t.T.contiguous() if t.dim() == 2 else t for name, t in state.items()}
    fill(network, state, where, rename=names, hint="Build it with the sizes it was trained with.")
