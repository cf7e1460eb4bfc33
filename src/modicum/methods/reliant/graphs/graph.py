"""A graph whose nodes are people: features, labels, groups, and who passes messages to whom."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import Self

from modicum.data.folders import some
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
    content: Mapping[str, str] = field(default_factory=dict[str, str])
    """Digests of what features and edges follow from, as it was given or stands in files."""

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
        for tensor in (
            self.features, self.labels, self.train, self.val, self.test,
            self.messages.row_pointers, self.messages.columns, self.sensitive,
        ):  # fmt: skip
            digest.update(b"" if tensor is None else tensor.cpu().numpy().tobytes())
        return digest.hexdigest()

    def digests(self) -> dict[str, str]:
        """What changes with what the graph was read from, but not with rounding, as `fingerprint`
        may.
        """
        exact = {
            "labels": [self.labels], "groups": [] if self.sensitive is None else [self.sensitive],
            "splits": [self.train, self.val, self.test],
        }  # fmt: skip
        return {**self.content, **{name: _digest(*parts) for name, parts in exact.items()}}

    def to(self, device: torch.device | str) -> Graph:
        """The same graph with its tensors on a device."""
        moved = {
            field.name: value.to(device)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), (Tensor, MessageGraph))
        }
        return dataclasses.replace(self, **moved)

    def without_columns(self, names: Iterable[str]) -> Graph:
        """The same graph without some features; a `DataError` if there are none such, or none is
        left.
        """
        names, known = list(names), self.feature_names
        if unknown := sorted(set(names) - set(known)):
            raise DataError(
                f"{self.name}: no feature is called {', '.join(unknown)}. Its features: "
                f"{', '.join(known)}."
            )
        kept = [place for place, name in enumerate(known) if name not in names]
        if not kept:
            raise DataError(f"{self.name}: no feature is left when {', '.join(names)} are dropped.")
        return dataclasses.replace(
            self,
            features=self.features[:, kept].contiguous(),
            feature_names=tuple(known[place] for place in kept),
        )

    @classmethod
    def build(
        cls, *,
        features: Any, edges: Any, labels: Any, train: Any, val: Any, test: Any,
        sensitive: Any = None,
        feature_names: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
        label_name: str = "label", sensitive_name: str = "sensitive", name: str = "graph",
        notes: Sequence[str] = (),
        symmetrise: bool | None = None, self_loops: bool = True, many_groups: bool = False,
        sensitive_positive: Any = None,
        content: Mapping[str, Sequence[Any]] | None = None,
        **more: Any,
    ) -> Self:  # fmt: skip
        """Check arrays or tensors and make a graph of them.

        Features, `(N, F)`, may be sparse, of SciPy or PyTorch. Edges, `(2, E)` or `(E, 2)`, are
        node numbers from 0, of which loops and repetitions are removed; two edges, `(2, 2)`, are
        read as `(2, E)`. Labels, `(N,)`, are classes 0..C-1, or -1 where unknown, and `sensitive`,
        `(N,)`, groups 0 or 1. A split has node numbers, `(M,)`, or is a mask of booleans, `(N,)`.
        Names that are not given are `x0`, `x1`, … for features, the numbers for classes and groups.

        - `symmetrise`: Let every edge pass messages both ways. False: a graph whose edges are not
          already symmetric is directed. None: as True, and `notes` says if it adds edges.
        - `self_loops`: Give every node an edge to itself.
        - `many_groups`: Allow more than two groups; gaps are then largest minus smallest.
        - `sensitive_positive`: Which of two values of `sensitive` is group 1, where they are not 0
          and 1: numbers or texts.
        - `content`: Arrays and texts that features and edges follow from, which are compared when
          a run is resumed; none: features and edges.
        - `more`: Fields of a class that derives from this one.

        Raises:
            DataError: Something does not fit; the message says what and where.
        """
        x = as_features(features, name)
        nodes, columns = x.shape
        y = _integers(labels, nodes, "labels", name)
        largest = int(y.max())
        if largest < 1 or int(y.min()) < -1:
            raise DataError(
                f"{name}: expected labels 0..C-1 with C at least 2, or -1 where unknown; found "
                f"{some(map(str, y.unique().tolist()))}."
            )
        if classes is not None and largest >= len(classes):
            raise DataError(
                f"{name}: label {largest} is outside of the {len(classes)} classes "
                f"{', '.join(classes)}."
            )
        classes = tuple(classes or map(str, range(largest + 1)))
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
                    f"{name}: the {what} must be 0 or 1 and have both; found "
                    f"{some(map(str, found))}. Say which value is 1 (sensitive_positive), or allow "
                    f"more groups (many_groups), whose gap is the largest minus the smallest."
                )
            if found != list(range(max(2, len(found)))):
                raise DataError(
                    f"{name}: the {what} must number its groups 0, 1, …, two at least and none "
                    f"without a node; found {some(map(str, found))}."
                )
            groups = tuple(groups or map(str, found))
            if len(groups) != len(found):
                raise DataError(f"{name}: {len(groups)} names for {len(found)} groups.")
        given = {"train": train, "val": val, "test": test}
        splits = {split: _indices(index, nodes, split, name) for split, index in given.items()}
        taken = torch.cat(list(splits.values()))
        repeated = (torch.bincount(taken, minlength=nodes) > 1).nonzero().flatten().tolist()
        if repeated:
            where = [split for split, index in splits.items() if repeated[0] in index.tolist()]
            raise DataError(
                f"{name}: node {repeated[0]} is there twice, in the split(s) {', '.join(where)}. "
                f"Splits must not overlap."
            )
        unlabelled = taken[y[taken] < 0]
        if len(unlabelled):
            raise DataError(f"{name}: node {int(unlabelled[0])} is in a split but has no label.")
        if missing := sorted(set(range(len(classes))) - set(y[splits["train"]].tolist())):
            raise DataError(
                f"{name}: no node of the class {classes[missing[0]]!r} is in the training split."
            )
        feature_names = tuple(feature_names or (f"x{column}" for column in range(columns)))
        if len(feature_names) != columns:
            raise DataError(
                f"{name}: {len(feature_names)} names for {columns} features; expected as many."
            )
        pairs = one_way = _edges(edges, nodes, name)
        notes = list(notes)
        if symmetrise is not False:
            pairs = torch.cat([one_way, one_way.flip(0)], 1)
        if symmetrise is None:
            before, after = (len(torch.unique(e[0] * nodes + e[1])) for e in (one_way, pairs))
            if after > before:
                notes.append(
                    f"{after - before:,} of {before:,} edges had no edge back, and have one now "
                    f"(symmetrise)."
                )
        messages = MessageGraph(pairs, nodes, self_loops=self_loops)
        content = {"features": [x], "edges": [one_way]} if content is None else content
        more["content"] = {what: _digest(*parts) for what, parts in content.items()}
        return cls(
            x, y, s, messages, **splits, feature_names=feature_names, classes=classes,
            groups=tuple(groups or ()), label_name=label_name, sensitive_name=sensitive_name,
            name=name, notes=tuple(notes), **more,
        )  # fmt: skip

    @classmethod
    def from_csr(cls, adjacency: Any, *, labels: Any, **arrays: Any) -> Self:
        """A graph from SciPy's sparse adjacency `(N, N)` and the arrays of `build`.

        Entry `(u, v)`, whatever its value, is an edge from `u` to `v`. Raises as `build`.
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
    def from_pyg(cls, data: Any, *, sensitive: Any = None, **arrays: Any) -> Self:
        """A graph from PyTorch Geometric's `Data`, which is not imported for it.

        It has `x`, `edge_index`, `y`, `train_mask`, `val_mask` and `test_mask`, and perhaps `sens`
        (as PyGDebias has it) or `sensitive`; else the groups are given, or more arrays of `build`.
        Raises as `build`.
        """
        wanted = {"x": "features", "edge_index": "edges", "y": "labels"}
        wanted |= {f"{split}_mask": split for split in ("train", "val", "test")}
        if missing := [name for name in wanted if getattr(data, name, None) is None]:
            raise DataError(
                f"{type(data).__name__}: it has no {', '.join(missing)}; expected "
                f"{', '.join(wanted)}."
            )
        for name in ("sens", "sensitive"):
            sensitive = getattr(data, name, None) if sensitive is None else sensitive
        found = {argument: getattr(data, name) for name, argument in wanted.items()}
        return cls.build(**found, sensitive=sensitive, **arrays)


def _digest(*parts: Any) -> str:
    """SHA-256 of tensors, arrays and lists of texts."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(part.cpu().numpy().tobytes())
        elif isinstance(part, np.ndarray):
            digest.update(part.tobytes())
        else:
            digest.update("\0".join(part).encode(errors="surrogateescape"))
    return digest.hexdigest()


def as_features(values: Any, name: str, names: Sequence[str] = ()) -> Tensor:
    """Features `(N, F)` as float32, of these names where there are any; `name` is for messages.

    Raises:
        DataError: They have another shape, or are not finite numbers.
    """
    x = _numbers(values, "features", name).to(torch.float32)
    if x.dim() != 2 or (x.shape[1] != len(names) if names else not x.numel()):
        raise DataError(
            f"{name}: expected features of the shape (nodes, {len(names) or 'features'}), found "
            f"{tuple(x.shape)}."
        )
    if not bool(x.isfinite().all()):
        row, column = (~x.isfinite()).nonzero()[0].tolist()
        raise DataError(
            f"{name}: feature {repr(names[column]) if names else column} of node {row} is "
            f"{float(x[row, column])}; expected finite numbers. Remove the row, or fill the value "
            f"in."
        )
    return x


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
            f"(sensitive_positive); found {some(map(str, found))}."
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
    if not len(index):
        raise DataError(f"{name}: the {split} split is empty.")
    return _node_numbers(index, nodes, f"the {split} split", name)


def _edges(values: Any, nodes: int, name: str) -> Tensor:
    """Edges as `(2, E)`, int64."""
    edges = _numbers(values, "edges", name)
    if edges.dim() != 2 or 2 not in edges.shape:
        raise DataError(
            f"{name}: expected edges of the shape (2, E) or (E, 2), found {tuple(edges.shape)}."
        )
    edges = edges if len(edges) == 2 else edges.T
    return _node_numbers(edges, nodes, "edge {}", name).contiguous()


def _node_numbers(x: Tensor, nodes: int, who: str, name: str) -> Tensor:
    """Numbers of nodes as int64; `who` says who names a wrong one, `{}` in it for its place."""
    wrong, expected = _fractional(x), "expected whole numbers"
    if not bool(wrong.any()):
        x = x.to(torch.int64)
        wrong, expected = (x < 0) | (x >= nodes), f"there are 0..{nodes - 1}"
    if bool(wrong.any()):
        bad = tuple(wrong.nonzero()[0])
        raise DataError(
            f"{name}: {who.format(int(bad[-1]))} names node {x[bad].item()}; {expected}."
        )
    return x
