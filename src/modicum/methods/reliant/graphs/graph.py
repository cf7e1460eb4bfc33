"""A graph whose nodes are people: features, labels, groups, and who passes messages to whom."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modicum.errors import DataError
from modicum.methods.reliant.graphs.messages import MessageGraph


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes with features, labels and groups, and the edges between them.

    Made by `build`, `from_pyg` or `from_csr`, which check what they are given. Either the whole of
    a graph, or the part of it that one process holds (`partition.part_of`).
    """

    features: Tensor
    """`(N, F)`, float32."""
    labels: Tensor
    """`(N,)`, int64: the class of each node, -1 where it is unknown."""
    sensitive: Tensor | None
    """`(N,)`, int64: the group of each node. Not needed to predict."""
    messages: MessageGraph
    """Who passes messages to whom: symmetric and with self loops unless asked otherwise."""
    train: Tensor
    """Numbers of the nodes to train on, int64."""
    val: Tensor
    """Numbers of the nodes that early stopping looks at."""
    test: Tensor
    """Numbers of the nodes that results are told of."""
    feature_names: tuple[str, ...]
    classes: tuple[str, ...]
    """Names of the classes; the last of two is the positive one."""
    groups: tuple[str, ...]
    label_name: str = "label"
    sensitive_name: str = "sensitive"
    name: str = "graph"
    notes: tuple[str, ...] = ()
    """Remarks for people on how the graph came about."""

    @property
    def nodes(self) -> int:
        """N, those of this process."""
        return len(self.features)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.features.device

    @property
    def training(self) -> Tensor:
        """`(N,)`, bool: whether a node is trained on."""
        return self.rows(self.train)

    def rows(self, index: Tensor) -> Tensor:
        """`(N,)`, bool: whether a node is in `index`."""
        found = torch.zeros(self.nodes, dtype=torch.bool, device=self.device)
        found[index] = True
        return found

    def fingerprint(self) -> str:
        """Changes whenever the graph does."""
        digest = hashlib.sha256()
        tensors = [self.features, self.labels, self.train, self.val, self.test]
        tensors += [self.messages.row_pointers, self.messages.columns]
        tensors += [] if self.sensitive is None else [self.sensitive]
        for tensor in tensors:
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> Graph:
        """The same graph with its tensors on a device."""
        moved = {
            field.name: value.to(device)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), (Tensor, MessageGraph))
        }
        return dataclasses.replace(self, **moved)

    def without_columns(self, names: Iterable[str]) -> Graph:
        """The same graph without some features.

        Raises:
            DataError: A name is none of a feature, or no feature is left.
        """
        names = list(names)
        unknown = sorted(set(names) - set(self.feature_names))
        if unknown:
            raise DataError(
                f"{self.name}: no feature is called {', '.join(unknown)}. Its features: "
                f"{', '.join(self.feature_names)}."
            )
        kept = [place for place, name in enumerate(self.feature_names) if name not in names]
        if not kept:
            raise DataError(f"{self.name}: no feature is left when {', '.join(names)} are dropped.")
        return dataclasses.replace(
            self,
            features=self.features[:, kept].contiguous(),
            feature_names=tuple(self.feature_names[place] for place in kept),
        )

    @classmethod
    def build(
        cls,
        *,
        features: Any,
        edges: Any,
        labels: Any,
        train: Any,
        val: Any,
        test: Any,
        sensitive: Any = None,
        feature_names: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
        label_name: str = "label",
        sensitive_name: str = "sensitive",
        name: str = "graph",
        notes: Sequence[str] = (),
        symmetrise: bool | None = None,
        self_loops: bool = True,
        many_groups: bool = False,
        sensitive_positive: Any = None,
    ) -> Graph:
        """Check arrays or tensors and make a graph of them.

        Args:
            features: `(N, F)`, numbers; may be sparse, of SciPy or PyTorch.
            edges: `(2, E)` or `(E, 2)`, node numbers from 0; loops and repetitions are removed.
                Two edges, `(2, 2)`, are read as `(2, E)`.
            labels: `(N,)`, classes 0..C-1, or -1 where unknown.
            train: Node numbers `(M,)`, or a mask `(N,)` of booleans; so are `val` and `test`.
            val: Nodes for early stopping.
            test: Nodes for results.
            sensitive: `(N,)`, group of each node: 0 or 1.
            feature_names: F names; `x0`, `x1`, … if not given.
            classes: C names; the numbers if not given.
            groups: Names of the groups; the numbers if not given.
            label_name: What the label is called.
            sensitive_name: What the sensitive attribute is called.
            name: What the graph is called in messages.
            notes: Remarks for people.
            symmetrise: Let every edge pass messages both ways. False: a graph whose edges are not
                already symmetric is directed. None: as True, and `notes` says if it adds edges.
            self_loops: Give every node an edge to itself.
            many_groups: Allow more than two groups; gaps are then largest minus smallest.
            sensitive_positive: Which of two values of `sensitive` is group 1, where they are not
                0 and 1: numbers or texts.

        Raises:
            DataError: Something does not fit; the message says what and where.
        """
        x = _numbers(features, "features", name).to(torch.float32)
        if x.dim() != 2 or not x.numel():
            raise DataError(
                f"{name}: expected features of the shape (nodes, features), found {tuple(x.shape)}."
            )
        nodes = len(x)
        if not bool(x.isfinite().all()):
            row, column = (int(v[0]) for v in (~x.isfinite()).nonzero(as_tuple=True))
            raise DataError(
                f"{name}: feature {column} of node {row} is {float(x[row, column])}; expected "
                f"finite numbers. Remove the row, or fill the value in."
            )
        y = _integers(labels, nodes, "labels", name)
        if int(y.max()) < 1 or int(y.min()) < -1:
            raise DataError(
                f"{name}: expected labels 0..C-1 with C at least 2, or -1 where unknown; found "
                f"{_few(y.unique().tolist())}."
            )
        if classes is not None and int(y.max()) >= len(classes):
            raise DataError(
                f"{name}: label {int(y.max())} is outside of the {len(classes)} classes "
                f"{', '.join(classes)}."
            )
        classes = tuple(classes or map(str, range(int(y.max()) + 1)))
        s = None
        if sensitive is not None:
            what = f"sensitive attribute {sensitive_name!r}"
            if sensitive_positive is not None:
                sensitive, values = _one_of_two(sensitive, sensitive_positive, what, name)
                groups = groups or values
            s = _integers(sensitive, nodes, what, name)
            found = s.unique().tolist()
            if found != [0, 1] and not many_groups:
                raise DataError(
                    f"{name}: the {what} must be 0 or 1 and have both; found {_few(found)}. Say "
                    f"which value is 1 (sensitive_positive), or allow more groups (many_groups), "
                    f"whose gap is the largest minus the smallest."
                )
            if found != list(range(max(2, len(found)))):
                raise DataError(
                    f"{name}: the {what} must number its groups 0, 1, …, two at least and none "
                    f"without a node; found {_few(found)}."
                )
            groups = tuple(groups or map(str, found))
            if len(groups) != len(found):
                raise DataError(f"{name}: {len(groups)} names for {len(found)} groups.")
        splits = {
            "train": _indices(train, nodes, "train", name),
            "val": _indices(val, nodes, "val", name),
            "test": _indices(test, nodes, "test", name),
        }
        taken = torch.cat(list(splits.values()))
        if len(taken.unique()) != len(taken):
            repeated = int((torch.bincount(taken, minlength=nodes) > 1).nonzero()[0])
            where = [split for split, index in splits.items() if bool((index == repeated).any())]
            raise DataError(
                f"{name}: node {repeated} is there twice, in the split(s) {', '.join(where)}. "
                f"Splits must not overlap."
            )
        unlabelled = (y[taken] < 0).nonzero()
        if len(unlabelled):
            raise DataError(
                f"{name}: node {int(taken[unlabelled[0, 0]])} is in a split but has no label."
            )
        missing = sorted(set(range(len(classes))) - set(y[splits["train"]].tolist()))
        if missing:
            raise DataError(
                f"{name}: no node of the class {classes[missing[0]]!r} is in the training split."
            )
        feature_names = tuple(feature_names or (f"x{column}" for column in range(x.shape[1])))
        if len(feature_names) != x.shape[1]:
            raise DataError(
                f"{name}: {len(feature_names)} names for {x.shape[1]} features; expected as many."
            )
        pairs = _edges(edges, nodes, name)
        notes = list(notes)
        given = pairs
        if symmetrise is not False:
            pairs = torch.cat([pairs, pairs.flip(0)], 1)
        if symmetrise is None:
            before, after = (len(torch.unique(e[0] * nodes + e[1])) for e in (given, pairs))
            if after > before:
                notes.append(
                    f"{after - before:,} of {before:,} edges had no edge back, and have one now "
                    f"(symmetrise)."
                )
        return cls(
            features=x,
            labels=y,
            sensitive=s,
            messages=MessageGraph(pairs, nodes, self_loops=self_loops),
            **splits,
            feature_names=feature_names,
            classes=classes,
            groups=tuple(groups or ()),
            label_name=label_name,
            sensitive_name=sensitive_name,
            name=name,
            notes=tuple(notes),
        )

    @classmethod
    def from_csr(cls, adjacency: Any, *, labels: Any, **arrays: Any) -> Graph:
        """A graph from SciPy's sparse adjacency and arrays.

        Args:
            adjacency: `(N, N)`, any SciPy sparse matrix or array; entry `(u, v)` is an edge from
                `u` to `v`, whatever its value.
            labels: `(N,)`, as of `build`.
            arrays: More of `build`'s.

        Raises:
            DataError: The adjacency is not sparse, or of another size, or as of `build`.
        """
        from scipy import sparse

        if not sparse.issparse(adjacency):
            raise DataError(
                f"expected a sparse matrix of SciPy's, found {type(adjacency).__name__}. Of a "
                f"dense one, give scipy.sparse.csr_array(adjacency)."
            )
        coo: Any = sparse.coo_array(adjacency)
        if coo.shape != (len(labels),) * 2:
            raise DataError(
                f"the adjacency has the shape {coo.shape}, but there are {len(labels)} nodes; "
                f"expected one row and column a node."
            )
        return cls.build(edges=np.stack([coo.row, coo.col]), labels=labels, **arrays)

    @classmethod
    def from_pyg(cls, data: Any, *, sensitive: Any = None, **arrays: Any) -> Graph:
        """A graph from PyTorch Geometric's `Data`, which is not imported for it.

        Args:
            data: With `x`, `edge_index`, `y`, `train_mask`, `val_mask` and `test_mask`, and perhaps
                `sens` (as PyGDebias has it) or `sensitive`.
            sensitive: `(N,)`, the group of each node, if `data` does not have it.
            arrays: More of `build`'s.

        Raises:
            DataError: An attribute is missing, or as of `build`.
        """
        wanted = ("x", "edge_index", "y", "train_mask", "val_mask", "test_mask")
        missing = [name for name in wanted if getattr(data, name, None) is None]
        if missing:
            raise DataError(
                f"{type(data).__name__}: it has no {', '.join(missing)}; expected "
                f"{', '.join(wanted)}."
            )
        for name in ("sens", "sensitive"):
            sensitive = getattr(data, name, None) if sensitive is None else sensitive
        return cls.build(
            features=data.x,
            edges=data.edge_index,
            labels=data.y,
            sensitive=sensitive,
            train=data.train_mask,
            val=data.val_mask,
            test=data.test_mask,
            **arrays,
        )


def _few(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values[:8])) + (", …" if len(values) > 8 else "")


def _numbers(values: Any, what: str, name: str) -> Tensor:
    """Numbers as a dense tensor on the CPU."""
    from scipy import sparse

    if isinstance(values, Tensor):
        return values.detach().to_dense().cpu()
    try:
        # Writable, for PyTorch: what pandas hands out is not.
        dense: Any = values.toarray() if sparse.issparse(values) else values
        array = np.require(dense, requirements=["W"])
    except ValueError as error:
        raise DataError(f"{name}: {what}: expected an array of numbers ({error}).") from error
    if array.dtype.kind not in "biuf":
        some = f" such as {array.ravel()[:1].tolist()[0]!r}" if array.size else ""
        raise DataError(
            f"{name}: {what}: expected numbers, found {array.dtype} values{some}. Number them, for "
            f"example by numpy.unique(values, return_inverse=True); a missing value has no number."
        )
    return torch.from_numpy(array)


def _fractional(x: Tensor) -> Tensor:
    """Which numbers are not whole: NaN and infinity among them."""
    return (x != x.round()) | x.isinf() if x.is_floating_point() else torch.zeros_like(x).bool()


def _one_of_two(
    values: Any, positive: Any, what: str, name: str
) -> tuple[npt.NDArray[np.int64], tuple[str, str]]:
    """1 where `values` are `positive`, 0 where they are the other of two; and their names."""
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    found = list(dict.fromkeys(array.flatten().tolist()))
    if len(found) != 2 or positive not in found:
        raise DataError(
            f"{name}: the {what} must have two values, one of them {positive!r} "
            f"(sensitive_positive); found {_few(found)}."
        )
    found.remove(positive)
    return (array == positive).astype(np.int64), (str(found[0]), str(positive))


def _integers(values: Any, nodes: int, what: str, name: str) -> Tensor:
    """Whole numbers, one a node."""
    array = _numbers(values, what, name)
    if array.shape != (nodes,):
        raise DataError(
            f"{name}: {what}: expected one a node, shape ({nodes},), found {tuple(array.shape)}."
        )
    bad = _fractional(array).nonzero()
    if len(bad):
        raise DataError(
            f"{name}: {what}: expected whole numbers, found {float(array[bad[0]])} at node "
            f"{int(bad[0])}."
        )
    return array.to(torch.int64)


def _indices(values: Any, nodes: int, split: str, name: str) -> Tensor:
    """Node numbers of a split, from numbers or from a mask."""
    index = _numbers(values, f"{split} split", name)
    if index.dtype == torch.bool:
        if index.shape != (nodes,):
            raise DataError(
                f"{name}: the mask of the {split} split has the shape {tuple(index.shape)}; "
                f"expected ({nodes},)."
            )
        index = index.nonzero().flatten()
    elif index.dim() != 1:
        raise DataError(f"{name}: the {split} split has the shape {tuple(index.shape)}, not (M,).")
    elif bool(_fractional(index).any()):
        bad = float(index[_fractional(index)][0])
        raise DataError(f"{name}: the {split} split names node {bad}; expected whole numbers.")
    index = index.to(torch.int64)
    if not len(index):
        raise DataError(f"{name}: the {split} split is empty.")
    if int(index.min()) < 0 or int(index.max()) >= nodes:
        bad = int(index[(index < 0) | (index >= nodes)][0])
        raise DataError(f"{name}: the {split} split names node {bad}; there are 0..{nodes - 1}.")
    return index


def _edges(values: Any, nodes: int, name: str) -> Tensor:
    """Edges as `(2, E)`, int64."""
    edges = _numbers(values, "edges", name)
    if edges.dim() != 2 or 2 not in edges.shape:
        raise DataError(
            f"{name}: expected edges of the shape (2, E) or (E, 2), found {tuple(edges.shape)}."
        )
    edges = edges if len(edges) == 2 else edges.T
    bad = _fractional(edges).nonzero()
    if len(bad):
        raise DataError(
            f"{name}: edge {int(bad[0, 1])} names node {float(edges[tuple(bad[0])])}; expected "
            f"whole numbers."
        )
    edges = edges.to(torch.int64)
    if edges.numel() and (int(edges.min()) < 0 or int(edges.max()) >= nodes):
        bad = ((edges < 0) | (edges >= nodes)).nonzero()[0]
        raise DataError(
            f"{name}: edge {int(bad[1])} names node {int(edges[tuple(bad)])}; there are "
            f"0..{nodes - 1}."
        )
    return edges.contiguous()
