"""A graph whose nodes are people: features, labels, groups, and who passes messages to whom."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modicum.errors import DataError
from modicum.methods.reliant.messages import MessageGraph

_log = logging.getLogger("modicum")


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
    """Who passes messages to whom: symmetric, with self loops."""
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
        known = torch.zeros(self.nodes, dtype=torch.bool, device=self.device)
        known[self.train] = True
        return known

    def rows(self, index: Tensor) -> Tensor:
        """`(N,)`, bool: whether a node is in `index`."""
        found = torch.zeros(self.nodes, dtype=torch.bool, device=self.device)
        found[index] = True
        return found

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
        symmetrise: bool = True,
        self_loops: bool = True,
        many_groups: bool = False,
    ) -> Graph:
        """Check arrays or tensors and make a graph of them.

        Args:
            features: `(N, F)`, numbers.
            edges: `(2, E)` or `(E, 2)`, node numbers from 0; loops and repetitions are removed.
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
            symmetrise: Let every edge pass messages both ways. Without it a graph whose edges are
                not already symmetric is taken as directed.
            self_loops: Give every node an edge to itself.
            many_groups: Allow more than two groups; gaps are then largest minus smallest.

        Raises:
            DataError: Something does not fit; the message says what and where.
        """
        x = torch.as_tensor(np.asarray(features), dtype=torch.float32)
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
            s = _integers(sensitive, nodes, f"sensitive attribute {sensitive_name!r}", name)
            found = s.unique().tolist()
            if (found != [0, 1] and not many_groups) or min(found) < 0 or len(found) < 2:
                raise DataError(
                    f"{name}: the sensitive attribute {sensitive_name!r} must be 0 or 1 and have "
                    f"both; found {_few(found)}. Say which value is 1 (--sensitive-positive), or "
                    f"allow more groups (--many-groups), whose gap is the largest minus the "
                    f"smallest."
                )
            groups = tuple(groups or map(str, range(max(found) + 1)))
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
        if symmetrise:
            pairs = torch.cat([pairs, pairs.flip(0)], 1)
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
    def from_csr(cls, adjacency: Any, **arrays: Any) -> Graph:
        """A graph from SciPy's sparse adjacency and arrays.

        Args:
            adjacency: `(N, N)`, any SciPy sparse matrix or array; entry `(u, v)` is an edge from
                `u` to `v`, whatever its value.
            arrays: Of `build`, but the edges.

        Raises:
            DataError: As of `build`.
        """
        coo = adjacency.tocoo()
        if coo.shape != (len(arrays["features"]),) * 2:
            raise DataError(
                f"the adjacency has the shape {coo.shape}, but there are "
                f"{len(arrays['features'])} nodes; expected one row and column a node."
            )
        return cls.build(edges=np.stack([coo.row, coo.col]), **arrays)

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


def _integers(values: Any, nodes: int, what: str, name: str) -> Tensor:
    """Whole numbers, one a node."""
    array = torch.as_tensor(np.asarray(values))
    if array.shape != (nodes,):
        raise DataError(
            f"{name}: {what}: expected one a node, shape ({nodes},), found {tuple(array.shape)}."
        )
    if array.is_floating_point() and not bool((array == array.round()).all()):
        bad = int((array != array.round()).nonzero()[0])  # NaN is not equal to itself
        raise DataError(
            f"{name}: {what}: expected whole numbers, found {float(array[bad])} at node {bad}."
        )
    return array.to(torch.int64)


def _indices(values: Any, nodes: int, split: str, name: str) -> Tensor:
    """Node numbers of a split, from numbers or from a mask."""
    index = torch.as_tensor(np.asarray(values))
    if index.dtype == torch.bool:
        if index.shape != (nodes,):
            raise DataError(
                f"{name}: the mask of the {split} split has the shape {tuple(index.shape)}; "
                f"expected ({nodes},)."
            )
        index = index.nonzero().flatten()
    elif index.dim() != 1:
        raise DataError(f"{name}: the {split} split has the shape {tuple(index.shape)}, not (M,).")
    else:
        index = _integers(index, len(index), f"{split} split", name)
    if not len(index):
        raise DataError(f"{name}: the {split} split is empty.")
    if int(index.min()) < 0 or int(index.max()) >= nodes:
        bad = int(index[(index < 0) | (index >= nodes)][0])
        raise DataError(f"{name}: the {split} split names node {bad}; there are 0..{nodes - 1}.")
    return index


def _edges(values: Any, nodes: int, name: str) -> Tensor:
    """Edges as `(2, E)`, int64."""
    edges = torch.as_tensor(np.asarray(values))
    if edges.dim() != 2 or 2 not in edges.shape:
        raise DataError(
            f"{name}: expected edges of the shape (2, E) or (E, 2), found {tuple(edges.shape)}."
        )
    edges = edges if len(edges) == 2 else edges.T
    if edges.is_floating_point():
        bad = (edges != edges.round()).nonzero()
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
