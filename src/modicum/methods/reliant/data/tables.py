"""Graphs of a user's own table, and new people joined to them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from modicum.data.folders import some
from modicum.errors import ConfigError, DataError
from modicum.methods.reliant.data.delimited import Rows, as_numbers, plain, read_edges, read_rows
from modicum.methods.reliant.data.encoding import Encoding, is_missing, refuse_missing
from modicum.methods.reliant.data.similarity import cached_similarity_graph, similarity_graph
from modicum.methods.reliant.data.splits import Splits, split_per_class
from modicum.methods.reliant.graphs.graph import Graph, as_features
from modicum.methods.reliant.graphs.messages import MessageGraph
from modicum.options import Interval, Options, check_arguments, refuse

CLASS_LIMIT = 50
"""Values of a label or group above which the column is taken for a measurement."""

AnyGraph = TypeVar("AnyGraph", bound=Graph)

_SPLITS = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "dev": 1, "test": 2}
_log = logging.getLogger("modicum")


@dataclass(frozen=True, eq=False, kw_only=True)
class TableGraph(Graph):
    """A graph of a table, which can take in new rows (`join_table`)."""

    encoding: Encoding
    """What turned the table into features."""
    ids: tuple[str, ...]
    """What each node is called: its id, or the number of its row in the file, from 0."""
    id_column: str | None
    similarity: float | None
    """Threshold of the rule that made the edges; None if they came from a file."""

    def without_columns(self, names: Iterable[str]) -> TableGraph:
        """The same graph without some features. See `Graph.without_columns`."""
        kept = super().without_columns(names)
        assert isinstance(kept, TableGraph)
        return dataclasses.replace(kept, encoding=self.encoding.keep(kept.feature_names))


@dataclass(frozen=True)
class Table(Options):
    """How a table of one's own is read: a row a person, named columns."""

    label: str | None = None
    """Column of the table to predict, of two or more values; empty where it is not known."""
    sensitive: str | None = None
    """Column with the group of each person. It is no feature unless --keep-sensitive."""
    edges: Path | None = None
    """Pairs of people who are connected, a line each: ids, or numbers of rows from 0."""
    similarity: Annotated[float, Interval(gt=0, lt=1)] = 0.8
    """Without --edges, connect a row to those more similar than this share of its best match."""
    id_column: str | None = None
    """Column with the id of each person that --edges names; none: the number of the row."""
    split_column: str | None = None
    """Column that says train, val or test; none: rows are divided at random within each class."""
    train_share: Annotated[float, Interval(gt=0, lt=1)] = 0.5
    """Share of the rows of each class to train on."""
    val_share: Annotated[float, Interval(gt=0, lt=1)] = 0.25
    """Share for validation; the rest is for testing."""
    standardise: bool = True
    """Scale columns of numbers by the mean and deviation of the training rows."""
    sensitive_positive: str | None = None
    """Value of the sensitive column that is group 1; none: the last of two."""
    positive_label: str | None = None
    """Value of the label that is a positive decision; none: the last of two."""
    keep_sensitive: bool = False
    """Let the networks see the sensitive column of a table of your own."""
    many_groups: bool = False
    """Allow more than two groups; the gap is then the largest minus the smallest."""
    skip_bad: bool = False
    """Leave out rows with missing values, with a warning, instead of refusing the table."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_share + self.val_share >= 1:
            raise refuse("val_share", self.val_share, "above 0 and leave a rest")


@check_arguments
def read_table(nodes: Path, table: Table, drop: Sequence[str] = ()) -> TableGraph:
    """A graph of a table of one's own.

    Columns of numbers are standardised by the training rows, columns of text become a feature of 0
    or 1 for each value. Label and sensitive column may hold any texts or numbers; their values are
    numbered in order, the names kept as `classes` and `groups`. Rows without a label are in the
    graph but in no split. Edges are made symmetric.

    Args:
        nodes: CSV or TSV file with a header: comma, semicolon or tab, UTF-8.
        table: What its columns are; without `sensitive` the graph has no groups.
        drop: Columns, or features such as `city=Paris`, to leave out.

    Raises:
        DataError: A file cannot be read, a value is missing, or columns do not fit the options.
        ConfigError: Options do not fit each other.
    """
    label, sensitive = table.label, table.sensitive
    if label is None:
        raise ConfigError(f"{nodes}: say which column is the label (--label).")
    rows = read_rows(nodes)
    special = (label, sensitive, table.id_column, table.split_column)
    named = [name for name in special if name is not None]
    for name in named:
        rows.column(name)
    if len(set(named)) != len(named):
        raise ConfigError(
            f"label, sensitive, id and split must be different columns; found {', '.join(named)}."
        )
    hidden = {*drop} | ({*named} - {sensitive} if table.keep_sensitive else {*named})
    feature_columns = [name for name in rows.columns if name not in hidden]
    complete = [*feature_columns, *([sensitive] if sensitive else [])]
    ids = _ids(rows, table.id_column)
    kept, notes = _usable(rows, complete, table.skip_bad)
    whole, rows = rows, rows.take(kept)

    labels, classes = _coded(rows, label, table.positive_label, "--positive-label")
    group, groups = None, ()
    if sensitive is not None:
        group, groups = _coded(rows, sensitive, table.sensitive_positive, "--sensitive-positive")
        if len(groups) > 2 and not table.many_groups:
            raise DataError(
                f"{nodes}: the sensitive column {sensitive!r} has the values {', '.join(groups)}; "
                f"expected two. Make it a column of two values, or allow more (--many-groups): the "
                f"gap is then the largest minus the smallest."
            )
    if table.split_column is None:
        splits = split_per_class(labels, table.train_share, table.val_share)
    else:
        splits = _named_splits(rows, table.split_column, labels)
    for part, index in splits._asdict().items():
        if not len(index):
            raise DataError(
                f"{nodes}: no row with a label is in the {part} split; there are {len(rows):,} "
                f"rows and {len(classes)} classes. Give more rows, other shares, or a column that "
                f"divides them (--split-column)."
            )
    encoding = Encoding.fit(rows, feature_columns, splits.train, table.standardise)
    dropped = [name for name in drop if name not in whole.columns]
    if unknown := [name for name in dropped if name not in encoding.names]:
        raise DataError(
            f"{nodes}: --drop {unknown[0]}: there is no column or feature of that name. Features: "
            f"{', '.join(encoding.names)}."
        )
    encoding = encoding.keep(name for name in encoding.names if name not in dropped)
    features = encoding.apply(rows)
    texts: list[Any] = [rows.columns[name].tolist() for name in feature_columns]
    content = {"features": texts}
    if table.edges is not None:
        numbers = {name: number for number, name in enumerate(ids)}
        pairs = read_edges(table.edges, len(whole) if table.id_column is None else numbers)
        place = np.full(len(whole), -1)
        place[kept] = np.arange(len(kept))
        pairs = place[pairs]
        pairs = pairs[:, (pairs >= 0).all(0)]
        content["edges"] = [pairs]
    else:
        pairs = cached_similarity_graph(features, table.similarity)
        notes.append(f"Edges by similarity of the features, threshold {table.similarity:g}.")
    if unlabelled := int((labels < 0).sum()):
        notes.append(f"{unlabelled:,} rows have no label and are in no split.")
    return TableGraph.build(
        symmetrise=True, features=features, edges=pairs, labels=labels, sensitive=group,
        **splits._asdict(), feature_names=encoding.names, classes=classes, groups=groups or None,
        label_name=label, sensitive_name=sensitive or "sensitive", name=nodes.name, notes=notes,
        many_groups=table.many_groups, encoding=encoding, id_column=table.id_column,
        ids=tuple(ids[number] for number in kept.tolist()),
        similarity=table.similarity if table.edges is None else None, content=content,
    )  # fmt: skip


def join_table(graph: TableGraph, nodes: Path, edges: Path | None = None) -> TableGraph:
    """New people joined to the graph of a table, after its own nodes.

    Args:
        graph: The graph of the training table.
        nodes: A table with its columns; label, group and split may be absent, and are not read.
        edges: Pairs of people who are connected. With an id column they may name people of both
            tables; without one they are numbers of the rows of the new table, from 0. None makes
            edges by the similarity rule of the training table, from new rows to all.

    Returns:
        The graph, its `ids` with those of the new people, who begin at `graph.nodes`.

    Raises:
        DataError: The table or the edges do not fit, or edges are missing.
    """
    rows = read_rows(nodes)
    features = graph.encoding.apply(rows)
    ids = _ids(rows, graph.id_column)
    first = graph.nodes
    if edges is not None and graph.id_column is not None:
        numbers = {name: number for number, name in enumerate(graph.ids)}
        for again in (row for row, name in enumerate(ids) if name in numbers):
            raise DataError(
                f"{rows.place(again)}: {ids[again]!r} is already in the training table. Give new "
                f"people only; those of training are scored without --nodes."
            )
        numbers |= {name: first + number for number, name in enumerate(ids)}
        pairs = read_edges(edges, numbers)
    elif edges is not None:
        pairs = read_edges(edges, len(rows)) + first
    elif graph.similarity is not None:
        known = graph.features.cpu().numpy()
        everyone = np.concatenate([known, features.astype(np.float32)])
        pairs = similarity_graph(everyone, graph.similarity, first=first)
    else:
        raise DataError(
            f"{nodes}: the edges of the training table came from a file, so that those of new "
            f"people must too: give --edges. An empty file connects nobody."
        )
    joined = join(graph, features, pairs)
    return dataclasses.replace(joined, ids=(*graph.ids, *ids))


def join(graph: AnyGraph, new_features: Any, new_edges: Any) -> AnyGraph:
    """M nodes appended to a graph of N: features `(M, F)`, edges `(2, E)` of numbers below N + M.

    The new nodes have no label (-1) and are in no split, and the graph has no groups any more:
    they are not needed to predict. The edges that were there stay as they are; new ones are made
    symmetric if the graph is.

    Raises:
        DataError: The shapes do not fit, a feature is not finite, or an edge names no node.
    """
    features = as_features(new_features, f"{graph.name}, new nodes", graph.feature_names)
    edges = torch.as_tensor(np.asarray(new_edges), dtype=torch.int64)
    messages = graph.messages
    if messages.symmetric:
        edges = torch.cat([edges, edges.flip(0)], 1)
    known = torch.stack([messages.sources, messages.targets])
    nodes = graph.nodes + len(features)
    return dataclasses.replace(
        graph,
        features=torch.cat([graph.features, features.to(graph.device)]),
        labels=torch.cat([graph.labels, graph.labels.new_full((len(features),), -1)]),
        sensitive=None,
        messages=MessageGraph(torch.cat([known, edges.to(graph.device)], 1), nodes),
    )


def _ids(rows: Rows, column: str | None) -> list[str]:
    """What each row is called."""
    if column is None:
        return [str(number) for number in range(len(rows))]
    ids: list[str] = rows.column(column).tolist()
    refuse_missing(rows, [column])
    first: dict[str, int] = {}
    for row, name in enumerate(ids):
        if first.setdefault(name, row) != row:
            raise DataError(
                f"{rows.place(row)}, column {column!r}: {name!r} is also in line "
                f"{rows.lines[first[name]]}; expected an id that is there once."
            )
    return ids


def _usable(
    rows: Rows, columns: Sequence[str], skip_bad: bool
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Numbers of the rows without missing values, and a remark if that is not all."""
    bad = np.zeros(len(rows), np.bool_)
    for name in columns:
        bad |= is_missing(rows.columns[name])
    if not bad.any():
        return np.arange(len(rows)), []
    if not skip_bad:
        refuse_missing(rows, columns)
    note = (
        f"left out {int(bad.sum()):,} of {len(rows):,} rows for a missing value, the first in line "
        f"{rows.lines[int(bad.argmax())]}."
    )
    _log.warning("%s: %s", rows.path, note)
    return np.flatnonzero(~bad), [note]


def _coded(
    rows: Rows, column: str, positive: str | None, option: str
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """A column's values as numbers from 0, -1 where one is missing, and their names.

    These are in the order of numbers, or else of letters, the positive one moved to the second
    place.
    """
    texts = rows.columns[column]
    missing = is_missing(texts)
    written = {text: plain(text) for text in set(texts[~missing].tolist())}
    names = sorted(set(written.values()))
    if not np.isnan(as_numbers(np.array(names, dtype=object))).any():
        names.sort(key=float)
    if not 2 <= len(names) <= CLASS_LIMIT:
        raise DataError(
            f"{rows.path}: the column {column!r} has {len(names):,} different values "
            f"({some(names)}); expected from two to {CLASS_LIMIT}."
        )
    if positive is not None:
        positive = plain(positive)
        if positive not in names:
            raise DataError(
                f"{rows.path}: {option} {positive}: the column {column!r} has the values "
                f"{', '.join(names)}."
            )
        names.remove(positive)
        names.insert(1, positive)
    codes = {name: code for code, name in enumerate(names)}
    coded = [-1 if gone else codes[written[t]] for t, gone in zip(texts, missing, strict=True)]
    return np.array(coded, np.int64), tuple(names)


def _named_splits(rows: Rows, column: str, labels: npt.NDArray[np.int64]) -> Splits:
    texts = rows.columns[column]
    missing = is_missing(texts)
    split = np.array([_SPLITS.get(text.lower(), -1) for text in texts])
    for bad in np.flatnonzero((split < 0) & ~missing):
        raise DataError(
            f"{rows.place(bad)}, column {column!r}: expected train, val, test or nothing, found "
            f"{texts[bad]!r}."
        )
    return Splits(*(np.flatnonzero((split == part) & (labels >= 0)) for part in range(3)))
