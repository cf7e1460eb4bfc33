"""Using what a run left: measure its networks, score people, export the student."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal, cast

import torch
from torch import Tensor, nn

from modicum.engine.random import generator
from modicum.errors import ConfigError
from modicum.method import load_saved
from modicum.methods.reliant.data import people as whose
from modicum.methods.reliant.data.people import positive_class
from modicum.methods.reliant.data.tables import TableGraph, join_table
from modicum.methods.reliant.graphs.graph import Graph
from modicum.methods.reliant.metrics import agreement, evaluate_predictions, paired_gap_difference
from modicum.methods.reliant.networks.distilled import Distilled, build
from modicum.methods.reliant.networks.students import PLP
from modicum.methods.reliant.networks.teachers import GAT, GraphSAGE
from modicum.methods.reliant.recipes import distil, teacher
from modicum.methods.reliant.recipes.teacher import targets_of
from modicum.options import Ge, check_arguments, from_json, replace
from modicum.system.environment import processor_name
from modicum.system.files import atomic_write, to_json, write_text
from modicum.system.terminal import Share
from modicum.weights.saved import SavedModel

Split = Literal["train", "val", "test"]
ROLES = {"teacher": "teacher", "plain": "plain student", "reliant": "RELIANT student"}


@dataclass(frozen=True)
class Trained:
    """The networks of a run, and what they were trained with."""

    networks: Distilled
    config: distil.Config | teacher.Config
    notes: dict[str, Any]
    folder: Path

    @classmethod
    def load(cls, run: str | os.PathLike[str] | SavedModel) -> Trained:
        """From a run folder or a `.safetensors` file of one.

        Raises:
            CheckpointError: It is not one, or the run has not ended.
        """
        saved = load_saved(run, method="reliant")
        assert isinstance(saved.module, Distilled)
        kind = teacher.Config if saved.notes["recipe"] == "teacher" else distil.Config
        config = from_json(kind, saved.notes["config"])
        return cls(saved.module, config, saved.notes, saved.path.parent)

    def open_graph(self, data: str | None = None) -> Graph:
        """The graph the networks were trained on, read again.

        Args:
            data: Where it is, if that has changed: of a table its path, else a data set.

        Raises:
            DataError: It is not there any more, or has changed.
            ConfigError: It was given from Python.
        """
        if self.notes["from_python"]:
            raise ConfigError(
                f"{self.folder}: the run was started from Python with a graph of yours, which is "
                f"not stored with it. Use it there: modicum.load({str(self.folder)!r})(graph)."
            )
        people = self.config.people
        if data is not None:
            place = {"data": data} if people.nodes is None else {"nodes": Path(data)}
            people = replace(people, **place)
        graph = whose.open_graph(people)
        whose.check_same_graph(whose.describe_graph(graph), self.notes)
        return graph

    def probabilities(self, graph: Graph) -> dict[str, Tensor]:
        """Class probabilities `(N, C)` of every network by role, and of a teacher from a file."""
        roles = [role for role in ROLES if role in self.networks.networks]
        p = {role: self.networks.probabilities(graph, role) for role in roles}
        file = getattr(self.config, "soft_targets", None)
        return p if file is None else {"teacher": targets_of(graph, file).probabilities} | p


@check_arguments
@torch.no_grad()
def evaluate(
    run: Path,
    data: str | None = None,
    split: Split = "test",
    bootstrap: Annotated[int, Ge(0)] = 1000,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure teacher, plain student and RELIANT student on the same people.

    Gaps are signed: the share of positive decisions in group 0 less that in group 1 (sp), and the
    same among those who are truly positive (eo). Intervals are of 95 %, from resampled people.

    Args:
        run: Run folder, or a .safetensors file of one.
        data: Where the graph is that the run was trained on, if it is elsewhere now: what --data
            or --nodes took.
        split: Nodes to measure on.
        bootstrap: Resamples behind each interval.
        out: Folder for the pictures and for evaluation.json, which has every number: intervals of
            all measures, calibration and confusion matrices of each group; none: the run folder.
    """
    from modicum.methods.reliant import pictures

    trained = Trained.load(run)
    graph = trained.open_graph(data)
    index = getattr(graph, split)
    positive = positive_class(trained.config.people, graph)
    truth = (graph.labels, graph.sensitive, index)
    how = {"positive_class": positive, "bootstrap": bootstrap}
    networks: list[dict[str, Any]] = []
    gaps: list[dict[str, Any]] = []
    groups: list[dict[str, Any]] = []
    probabilities = trained.probabilities(graph)
    details = {role: evaluate_predictions(p, *truth, **how) for role, p in probabilities.items()}
    for role, measured in details.items():
        name = {"network": ROLES[role]}
        row = name | {"accuracy": measured["accuracy"], "auc": measured["roc_auc"]}
        row |= {key: measured[key] for key in ("f1", "calibration_error")}
        known = role in trained.networks.networks
        networks.append(row | (_cost(trained.networks, graph, role) if known else {}))
        if graph.sensitive is not None:
            gaps += [name | _interval_of(measured, gap) for gap in GAPS]
            groups += [
                name | row | {"group": graph.groups[row["group"]]} for row in measured["groups"]
            ]
    networks, gaps, groups = (Share.marked(rows, SHARES) for rows in (networks, gaps, groups))
    folder = out or trained.folder
    write_text(folder / "evaluation.json", to_json(details) + "\n")
    result: dict[str, Any] = {
        "graph": graph.name,
        "split": split,
        "nodes": len(index),
        "nodes_of_graph": graph.nodes,
        "sensitive": graph.sensitive_name,
        "group_names": list(graph.groups),
        "threads": torch.get_num_threads(),
        "processor": processor_name(),
        "networks": networks,
        "gaps": gaps,
        "groups": groups,
    }
    if "teacher" in probabilities:
        result["agreement_with_teacher"] = {
            ROLES[role]: Share(agreement(p[index], probabilities["teacher"][index]))
            for role, p in probabilities.items()
            if role != "teacher"
        }
    if {"plain", "reliant"} <= set(probabilities) and graph.sensitive is not None:
        difference = paired_gap_difference(
            probabilities["reliant"], probabilities["plain"], *truth, **how
        )
        result["absolute_gap_of_reliant_less_plain"] = Share.marked(difference, difference)
    if graph.sensitive is not None:
        named = {ROLES[role]: p[index].numpy() for role, p in probabilities.items()}
        known = (graph.labels[index].numpy(), graph.sensitive[index].numpy())
        drawn = pictures.of_networks(named, *known, graph.groups, graph.classes, positive)
        result["pictures"] = [str(folder / name) for name in ("scores.png", "confusion.png")]
        for path, content in zip(result["pictures"], drawn, strict=True):
            with atomic_write(Path(path)) as file:
                file.write(content)
    return result | {"details": str(folder / "evaluation.json")}


SHARES = (
    "accuracy", "auc", "f1", "calibration_error", "base_rate", "positive_rate",
    "true_positive_rate", "signed", "low", "high", "absolute", "absolute_low", "absolute_high",
)  # fmt: skip
"""Columns of the tables that are printed in percent."""
GAPS = {"sp": "statistical parity", "eo": "equal opportunity"}


def _interval_of(measured: dict[str, Any], gap: str) -> dict[str, Any]:
    """A gap, signed and absolute, with the ends of their intervals."""
    row: dict[str, Any] = {"gap": GAPS[gap]}
    for name, prefix, of in (("signed", "", "gap"), ("absolute", "absolute_", "gap_absolute")):
        low, high = measured[f"{gap}_{of}_interval"]
        row |= {name: measured[f"{gap}_{of}"], f"{prefix}low": low, f"{prefix}high": high}
    return row


def _cost(networks: Distilled, graph: Graph, role: str, repeats: int = 5) -> dict[str, Any]:
    """Parameters, and the median wall-clock time of scoring all nodes once."""
    times: list[float] = []
    for _ in range(1 + repeats):
        began = time.perf_counter()
        networks.probabilities(graph, role)
        times.append(1000 * (time.perf_counter() - began))
    return {
        "parameters": sum(v.numel() for v in networks.networks[role].parameters()),
        "ms": statistics.median(times[1:]),
    }


@check_arguments
@torch.no_grad()
def predict(
    nodes: Path | None = None,
    *,
    run: Path,
    edges: Path | None = None,
    out: Path | None = None,
    network: Literal["reliant", "plain", "teacher"] | None = None,
) -> dict[str, Any]:
    """Score people: those the run was trained on, or new ones.

    Their group is not needed, unless the run was trained with --keep-sensitive.

    New people are joined to the graph of the training data: by `edges`, whose ids may name people
    of both tables if the training table had an --id-column, or else by the similarity rule. What
    plp learned of each person (its balance of propagation and features) is replaced for new people
    by the mean (inferred).

    Args:
        nodes: Table of new people, with the columns of the training table but label and group.
        run: Run folder, or a .safetensors file of one.
        edges: Pairs of people who are connected.
        out: CSV file to write: id, decision, probability of each class.
        network: Which network decides; none: the RELIANT student if there is one, else the plain
            one, else the teacher.
    """
    from modicum.inference import write_table

    trained = Trained.load(run)
    graph = trained.open_graph()
    role = network or trained.networks.role
    if role not in trained.networks.networks:
        raise ConfigError(
            f"--network {role}: the run has none. It has {', '.join(trained.networks.networks)}."
        )
    first = 0
    if nodes is None:
        if edges is not None:
            raise ConfigError("--edges belongs to new people: give --nodes as well.")
    elif isinstance(graph, TableGraph):
        first, graph = graph.nodes, join_table(graph, nodes, edges)
    else:
        raise ConfigError(
            f"--nodes: the run was trained on {graph.name}, not on a table of yours, so that "
            f"what its columns mean is not known. Train with --nodes."
        )
    ids = graph.ids[first:] if isinstance(graph, TableGraph) else map(str, range(graph.nodes))
    p = trained.networks.probabilities(graph, role)[first:]
    rows = [
        {"id": name, "decision": graph.classes[int(best)]}
        | {f"p_{c}": round(v, 6) for c, v in zip(graph.classes, row, strict=True)}
        for name, best, row in zip(ids, p.argmax(1), p.tolist(), strict=True)
    ]
    result: dict[str, Any] = {"network": ROLES[role], "people": len(rows)}
    if out is not None:
        write_table(out, rows)
        result["table"] = str(out)
    return result | {"predictions": rows if out is None else rows[:10]}


class EdgeList:
    """What a student asks of `graph.messages`, in operations that ONNX has."""

    def __init__(self, edges: Tensor, nodes: int) -> None:
        loops = torch.arange(nodes, device=edges.device)
        self._source = torch.cat([edges[0], loops])
        self._target = torch.cat([edges[1], loops])

    def propagate_normalised(self, x: Tensor) -> Tensor:
        """As of `MessageGraph`."""
        ones = torch.ones_like(self._source, dtype=x.dtype)
        zeros = torch.zeros_like(x[:, 0])
        out = zeros.scatter_add(0, self._source, ones).rsqrt()
        into = zeros.scatter_add(0, self._target, ones).rsqrt()
        sent = (x * out[:, None])[self._source]
        place = self._target[:, None].expand(-1, x.shape[1])
        return torch.zeros_like(x).scatter_add(0, place, sent) * into[:, None]

    def dropout(self, x: Tensor, p: float, training: bool) -> Tensor:
        """None: the student is in eval mode."""
        return x


class _OnArrays(nn.Module):
    """A student as a function of arrays, which is what ONNX can hold."""

    def __init__(self, networks: Distilled, role: str) -> None:
        super().__init__()
        self.networks, self.role = networks, role

    def forward(self, features: Tensor, edges: Tensor) -> Tensor:
        """Logits `(N, C)` of features `(N, F)` and edges `(2, E)`, each in both directions."""
        nodes = features.shape[0]
        seen = SimpleNamespace(features=features, messages=EdgeList(edges, nodes), nodes=nodes)
        graph = cast("Graph", seen)
        if self.role == "reliant":
            features = self.networks.student_features(graph)
        return self.networks.networks[self.role](graph, features)


_LAYOUT = {
    "features": "nodes x columns",
    "edges": "2 x edges: from, to; each edge in both directions, no loops",
}


@check_arguments
def export(
    run: Path,
    to: Literal["safetensors", "onnx", "state-dict"] = "safetensors",
    out: Path | None = None,
) -> dict[str, Any]:
    """Write the student for use without the teacher, or without modicum.

    Args:
        run: Run folder, or a .safetensors file of one.
        to: safetensors: the student and its mean proxy alone, for `modicum predict`. onnx: a file
            that turns features `(nodes, F)` and edges `(2, E)`, each in both directions, without
            loops, into logits; compared with PyTorch before it is kept. plp cannot be written so:
            it holds a number for each node and the labels it propagates. state-dict: its weights
            and `mean_proxy` for torch.load.
        out: File to write; none: student.safetensors, student.onnx or student.pth in the run
            folder.
    """
    from modicum.weights.onnx import write_onnx, write_state_dict
    from modicum.weights.saved import save_model

    trained = Trained.load(run)
    networks = trained.networks
    role = networks.role
    suffix = {"safetensors": "safetensors", "onnx": "onnx", "state-dict": "pth"}[to]
    out = out or trained.folder / f"student.{suffix}"
    student = networks.networks[role]
    if to == "state-dict":
        if role == "reliant":  # which cannot be used without the row every node gets
            student.register_buffer("mean_proxy", networks.mean_proxy)
        return write_state_dict(student, out)
    if to == "safetensors":
        described: Any = networks.arguments
        arguments = described | {"networks": {role: described["networks"][role]}}
        alone = build(**arguments)
        alone.load_state_dict({name: networks.state_dict()[name] for name in alone.state_dict()})
        save_model(out, alone, method="reliant", arguments=arguments, notes=trained.notes)
        return {"written": str(out), "bytes": out.stat().st_size}
    if isinstance(student, PLP):
        raise ConfigError(
            "--to onnx: the student plp holds a number for each node of its graph and the labels "
            "it propagates, which a function of features and edges cannot. Use --to safetensors, "
            "or train with --student decoupled, or --framework akd."
        )
    if isinstance(student, (GraphSAGE, GAT)):
        raise ConfigError(
            f"--to onnx: a {type(student).__name__} cannot be written so. Use --to safetensors."
        )
    random = generator("example")

    def inputs(nodes: int) -> dict[str, Tensor]:
        one_way = torch.randint(0, nodes, (2, 3 * nodes), generator=random)
        one_way = one_way[:, one_way[0] != one_way[1]].unique(dim=1)
        both = torch.cat([one_way, one_way.flip(0)], 1).unique(dim=1)
        features = torch.rand(nodes, networks.in_features, generator=random)
        return {"features": features, "edges": both}

    return write_onnx(
        _OnArrays(networks, role).eval(),
        inputs(50),
        out,
        outputs=["logits"],
        dynamic={"features": {0: "nodes"}, "edges": {1: "edges"}, "logits": {0: "nodes"}},
        described={name: trained.notes.get(name) for name in ("classes", "columns", "encoding")}
        | {"method": "reliant", "layout": _LAYOUT},
        trials=[inputs(7), inputs(200)],
    )
