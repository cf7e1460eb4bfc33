"""The verb `data`: what a graph of people holds, and what its groups let one expect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import tyro

from modicum.data.folders import some
from modicum.errors import ConfigError, DataError
from modicum.methods.reliant.data.leaks import leaks
from modicum.methods.reliant.data.people import People, open_graph
from modicum.methods.reliant.data.tables import Table
from modicum.methods.reliant.graphs.graph import Graph
from modicum.methods.reliant.pictures import graph_overview
from modicum.options import FLAT
from modicum.system.files import atomic_write
from modicum.system.terminal import Share, counted

Numbers = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_MOST_LISTED = 20
_SMALL = 30
"""Positive labels of a group in the test split below which its gap is mostly chance."""


SHARES = (
    "within", "expected", "base_rate_gap", "accuracy_at_most_with_equal_shares", "share",
    "base_rate",
)  # fmt: skip
"""What is printed in percent."""


def data(
    path: tyro.conf.Positional[str],
    table: Annotated[Table, FLAT] = Table(),
    positive_class: int | None = None,
    drop: tuple[str, ...] = (),
    picture: Path | None = None,
) -> dict[str, Any]:
    """Say what a graph holds: nodes, edges, groups, base rates, splits, features that leak.

    Args:
        path: What `modicum train reliant distil --data` takes; or, with --label and --sensitive, a
            table of your own, CSV or TSV.
        table: How it is read.
        positive_class: Number of the class that is a positive decision, where there are more than
            two.
        drop: Columns, or features such as `city=Paris`, to leave out.
        picture: PNG file to write: groups, their base rates, and how many edges nodes have.
    """
    named = table.label is None
    if named and Path(path).is_file():
        raise ConfigError(f"{path} is a file: say what is in it by --label and --sensitive.")
    place: dict[str, Any] = {"data": path} if named else {"nodes": Path(path)}
    try:
        graph = open_graph(People(**place, table=table, positive_class=positive_class, drop=drop))
    except DataError as error:
        return {"source": path, "usable": False, "problems": [str(error)], "warnings": []}
    positive = 1 if positive_class is None else positive_class
    described = describe(graph, positive_class=positive)
    found: dict[str, Any] = {"source": path} | Share.marked(described, SHARES)
    if picture is None:
        return found
    if graph.sensitive is None:
        raise ConfigError(f"{graph.name}: it has no sensitive attribute, so no groups to draw.")
    names = [f"{graph.sensitive_name}: {name}" for name in graph.groups]
    sizes, rates = (np.array([g[key] for g in found["groups"]]) for key in ("nodes", "base_rate"))
    drawn = graph_overview(names, sizes, rates, degrees(graph), positive=graph.classes[positive])
    with atomic_write(picture) as file:
        file.write(drawn)
    return found | {"picture": str(picture)}


def describe(graph: Graph, *, positive_class: int = 1) -> dict[str, Any]:
    """What a whole graph holds, `positive_class` being a positive decision.

    Base rates are the shares of positive labels in each group. Where they differ, equal shares of
    positive decisions cost accuracy, whatever decides; see `accuracy_ceiling`.

    Returns:
        A dict of plain values, ready for JSON:

        - `graph` (its name), `usable` (bool: `train` can use it), `problems` (what keeps it from
          that), `warnings` and `notes`, all lists of sentences;
        - `nodes`, `features`, `constant_columns` (names), `unlabelled` (nodes);
        - `edges`: `undirected`, `directed`, `self_loops`; `degree`: `min`, `median`, `mean`, `max`
          of the edges into a node, and `isolated` nodes, self loops not counted in either;
        - `base_rate_gap`: of the groups' base rates, largest less smallest;
          `accuracy_at_most_with_equal_shares`; fractions;
        - `homophily`: `label` and `group`, each the share of edges `within` and the share
          `expected` if the same ends of edges were joined at random;
        - `classes`: each `class` and its `nodes`;
        - `groups`: each `group`, its `nodes`, `share` of all nodes and `base_rate`;
        - `splits`: for each `split` and `group` the `nodes`, those of each class, `base_rate`;
        - `leaks`: `column`, `measure` and `value` of features to look at; see `leaks.leaks`.

        Without a sensitive attribute there is nothing about groups.

    Raises:
        ConfigError: There is no class `positive_class`.
    """
    if not 0 <= positive_class < len(graph.classes):
        raise ConfigError(
            f"--positive-class {positive_class}: must be 0..{len(graph.classes) - 1}; the classes "
            f"are {', '.join(graph.classes)}."
        )
    labels = graph.labels.cpu().numpy()
    grouped = graph.sensitive is not None
    sensitive = graph.sensitive.cpu().numpy() if graph.sensitive is not None else labels * 0
    names = graph.groups if grouped else ("all",)
    constant = (graph.features.amax(0) == graph.features.amin(0)).cpu().numpy()
    to, of = _edges(graph)
    pairs = np.minimum(to, of) * graph.nodes + np.maximum(to, of)
    degree, leaking = degrees(graph), leaks(graph)
    report: dict[str, Any] = {
        "graph": graph.name,
        "usable": False,
        "nodes": graph.nodes,
        "features": graph.features.shape[1],
        "constant_columns": [graph.feature_names[place] for place in np.flatnonzero(constant)],
        "unlabelled": int((labels < 0).sum()),
        "edges": {
            "undirected": len(np.unique(pairs)), "directed": len(pairs),
            "self_loops": graph.messages.edges - len(pairs),
        },
        "degree": {
            "min": int(degree.min()), "median": float(np.median(degree)),
            "mean": float(degree.mean()), "max": int(degree.max()),
            "isolated": int((degree == 0).sum()),
        },
        "homophily": {"label": _homophily(graph, labels)},
        "classes": [
            {"class": name, "nodes": int((labels == number).sum())}
            for number, name in enumerate(graph.classes)
        ],
    }  # fmt: skip
    if grouped:
        report["homophily"]["group"] = _homophily(graph, sensitive)
        report |= _groups(graph, labels, sensitive, positive_class)
    report["splits"] = _splits(graph, labels, sensitive, names, positive_class)
    report["leaks"] = [leak._asdict() for leak in leaking]
    report["problems"] = _problems(report["splits"], grouped)
    report["warnings"] = _warnings(report, graph, positive_class) + list(map(str, leaking))
    report["notes"] = list(graph.notes)
    report["usable"] = not report["problems"]
    return report


def base_rates(
    labels: Integers, sensitive: Integers, groups: int, positive_class: int = 1
) -> Numbers:
    """`(groups,)`: the share of positive labels in each group, NaN where no label is known.

    Of the labels `(N,)`, -1 where unknown, and the group of each node, `(N,)`.
    """
    known = np.bincount(sensitive[labels >= 0], minlength=groups)
    positive = np.bincount(sensitive[labels == positive_class], minlength=groups)
    return np.divide(positive, known, out=np.full(groups, np.nan), where=known > 0)


def accuracy_ceiling(shares: npt.ArrayLike, base_rates: npt.ArrayLike) -> float:
    """The accuracy that no decisions with equal shares of positive ones exceed.

    Let group `a` be a share `w_a` of the nodes, `b_a` of it positive (the base rate) and `r` of
    every group decided positive. Wrong positive less wrong negative decisions are `r - b_a` of the
    group, so that of all nodes at least `sum_a w_a |r - b_a|` are wrong. This is convex and
    piecewise linear in `r`, so that the least of it is at one of the `b_a`. Decisions that know the
    labels attain it. It is about the nodes that shares and base rates are of; the derivation is
    ours. `shares`, `(G,)`, may be numbers of nodes; the result is a fraction.
    """
    weights, rates = np.asarray(shares, np.float64), np.asarray(base_rates, np.float64)
    wrong = np.abs(rates[:, None] - rates) @ weights
    return float(1 - wrong.min() / weights.sum())


def degrees(graph: Graph) -> Integers:
    """`(N,)`: how many other nodes send messages to each node."""
    return np.bincount(_edges(graph)[0], minlength=graph.nodes)


def _edges(graph: Graph) -> tuple[Integers, Integers]:
    """To which node each edge leads, and from which; without self loops."""
    to, of = graph.messages.targets.cpu().numpy(), graph.messages.sources.cpu().numpy()
    return to[to != of], of[to != of]


def _homophily(graph: Graph, values: Integers) -> dict[str, float]:
    """Share of edges whose ends have the same value, and what chance would make of them."""
    to, of = (values[ends] for ends in _edges(graph))
    known = (to >= 0) & (of >= 0)
    to, of = to[known], of[known]
    if not len(to):
        return {"within": float("nan"), "expected": float("nan")}
    kinds = int(values.max()) + 1
    ends = (np.bincount(end, minlength=kinds) / len(to) for end in (to, of))
    return {"within": float((to == of).mean()), "expected": float(np.multiply(*ends).sum())}


def _groups(
    graph: Graph, labels: Integers, sensitive: Integers, positive_class: int
) -> dict[str, Any]:
    """The groups, and what their base rates let one expect."""
    count = len(graph.groups)
    nodes = np.bincount(sensitive, minlength=count)
    labelled = np.bincount(sensitive[labels >= 0], minlength=count)
    rates = base_rates(labels, sensitive, count, positive_class)
    found: dict[str, Any] = {
        "groups": [
            {"group": name, "nodes": size, "share": size / graph.nodes, "base_rate": rate}
            for name, size, rate in zip(graph.groups, nodes.tolist(), rates.tolist(), strict=True)
        ]
    }
    if np.isnan(rates).any():
        return found
    gap, ceiling = float(np.ptp(rates)), accuracy_ceiling(labelled, rates)
    return found | {"base_rate_gap": gap, "accuracy_at_most_with_equal_shares": ceiling}


def _splits(
    graph: Graph, labels: Integers, sensitive: Integers, names: Sequence[str], positive_class: int
) -> list[dict[str, Any]]:
    """A row for each split and group."""
    rows: list[dict[str, Any]] = []
    for split in ("train", "val", "test"):
        index = getattr(graph, split).cpu().numpy()
        y, s = labels[index], sensitive[index]
        rates = base_rates(y, s, len(names), positive_class)
        for group, name in enumerate(names):
            counts = np.bincount(y[s == group], minlength=len(graph.classes)).tolist()
            rows.append(
                {"split": split, "group": name, "nodes": sum(counts)}
                | dict(zip(_class_columns(graph), counts, strict=True))
                | {"base_rate": float(rates[group])}
            )
    return rows


def _class_columns(graph: Graph) -> list[str]:
    return [f"{graph.label_name}={name}" for name in graph.classes]


def _problems(splits: Sequence[dict[str, Any]], grouped: bool) -> list[str]:
    if not grouped:
        return ["there is no sensitive attribute, so no gap to lower: name its column (sensitive)."]
    return [
        f"the {row['split']} split has no node of the group {row['group']!r}: its gap is not "
        f"defined. Divide the nodes anew."
        for row in splits
        if not row["nodes"]
    ]


def _warnings(report: dict[str, Any], graph: Graph, positive_class: int) -> list[str]:
    positive, column = graph.classes[positive_class], _class_columns(graph)[positive_class]
    warnings: list[str] = []
    for row in report["splits"]:
        if row["nodes"] and not row[column]:
            warnings.append(
                f"the {row['split']} split has no {positive!r} in the group {row['group']!r}, so "
                f"that equal opportunity (--objective eo) is not defined there."
            )
        elif row["split"] == "test" and row["nodes"] and row[column] < _SMALL:
            warnings.append(
                f"only {counted(row[column], 'node')} of the group {row['group']!r} in the test "
                f"split with {positive!r}: intervals of its gap will be wide."
            )
    isolated, constant = report["degree"]["isolated"], report["constant_columns"]
    if isolated:
        warnings.append(
            f"nodes without a neighbour, which hear only of themselves: {isolated:,} of "
            f"{graph.nodes:,}."
        )
    if constant:
        shown = some(constant, _MOST_LISTED)
        features = counted(len(constant), "feature has", "features have")
        warnings.append(f"{features} the same value for all nodes: {shown}.")
    if len(graph.classes) > 2:
        warnings.append(
            f"of {len(graph.classes)} classes, {positive!r} counts as the positive decision "
            f"(--positive-class)."
        )
    return warnings
