"""Using what a run left: measure its networks, score people, export the student."""

from __future__ import annotations

import logging
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from modicum.engine.random import generator
from modicum.errors import ConfigError, DataError
from modicum.inference import write_table
from modicum.method import load_saved
from modicum.methods.reliant import pictures
from modicum.methods.reliant.graph import Graph
from modicum.methods.reliant.metrics import (
    agreement,
    evaluate_predictions,
    paired_gap_difference,
)
from modicum.methods.reliant.model import Distilled, build
from modicum.methods.reliant.students import PLP
from modicum.methods.reliant.tables import TableGraph, join_table
from modicum.methods.reliant.train import Config, open_graph, positive_class, targets_of
from modicum.options import from_json
from modicum.system.environment import processor_name
from modicum.system.files import atomic_write, to_json, write_text
from modicum.weights.onnx import write_onnx, write_state_dict
from modicum.weights.saved import save_model

_log = logging.getLogger("modicum")

Split = Literal["train", "val", "test"]
ROLES = {"teacher": "teacher", "plain": "plain student", "reliant": "RELIANT student"}


@dataclass(frozen=True)
class Trained:
    """The networks of a run, and what they were trained with."""

    networks: Distilled
    config: Config
    notes: dict[str, Any]
    folder: Path

    @classmethod
    def load(cls, run: Path) -> Trained:
        """From a run folder or a `.safetensors` file of one.

        Raises:
            CheckpointError: It is not one, or the run has not ended.
        """
        saved = load_saved(run, method="reliant")
        assert isinstance(saved.module, Distilled)
        config = from_json(Config, saved.notes["config"])
        return cls(saved.module, config, saved.notes, saved.path.parent)

    def open_graph(self) -> Graph:
        """The graph the networks were trained on, read again.

        Raises:
            DataError: It is not there any more, or has changed.
            ConfigError: It was given from Python.
        """
        if self.notes["from_python"]:
            raise ConfigError(
                f"{self.folder}: the run was started from Python with a graph of yours, which is "
                f"not stored with it. Use it there: modicum.load({str(self.folder)!r})(graph)."
            )
        graph = open_graph(self.config)
        if graph.nodes != self.networks.nodes or list(graph.feature_names) != self.notes["columns"]:
            raise DataError(
                f"{graph.name}: the networks were trained on {self.networks.nodes:,} nodes with "
                f"the features {', '.join(self.notes['columns'])}; found {graph.nodes:,} nodes "
                f"with {', '.join(graph.feature_names)}. Put the data back, or train anew."
            )
        if graph.fingerprint() != self.notes["fingerprint"]:
            _log.warning(
                "%s: the data is not what the networks were trained on, to the last digit. If it "
                "is the same data, read on another machine, nothing is wrong.",
                graph.name,
            )
        return graph


@torch.no_grad()
def evaluate(
    run: Path, split: Split = "test", bootstrap: int = 1000, out: Path | None = None
) -> dict[str, Any]:
    """Measure teacher, plain student and RELIANT student on the same people.

    Gaps are signed: the share of positive decisions in group 0 less that in group 1 (sp), and the
    same among those who are truly positive (eo). Intervals are of 95 %, from resampled people.

    Args:
        run: Run folder, or a .safetensors file of one.
        split: Nodes to measure on.
        bootstrap: Resamples behind each interval.
        out: Folder for the pictures and for evaluation.json, which has every number: intervals of
            all measures, calibration and confusion matrices of each group; none: the run folder.
    """
    trained = Trained.load(run)
    graph = trained.open_graph()
    index = getattr(graph, split)
    positive = positive_class(trained.config, graph)
    networks: list[dict[str, Any]] = []
    gaps: list[dict[str, Any]] = []
    groups: list[dict[str, Any]] = []
    details: dict[str, Any] = {}
    probabilities: dict[str, Tensor] = {}
    for role, name in ROLES.items():
        network = dict(trained.networks.networks.items()).get(role)
        if network is not None:
            p = trained.networks.probabilities(graph, role)
        elif role == "teacher" and trained.config.soft_targets is not None:
            p = targets_of(trained.config, graph, None).probabilities
        else:
            continue
        probabilities[role] = p
        details[role] = measured = evaluate_predictions(
            p,
            graph.labels,
            graph.sensitive,
            index,
            positive_class=positive,
            bootstrap=bootstrap,
        )
        networks.append(
            {
                "network": name,
                "accuracy": measured["accuracy"],
                "auc": measured["roc_auc"],
                "f1": measured["f1"],
                "calibration_error": measured["calibration_error"],
            }
            | ({} if network is None else _cost(trained.networks, graph, role))
        )
        if graph.sensitive is not None:
            gaps += [{"network": name, "gap": gap} | _interval_of(measured, gap) for gap in GAPS]
            groups += [
                {"network": name} | row | {"group": graph.groups[row["group"]]}
                for row in measured["groups"]
            ]
    folder = out or trained.folder
    write_text(folder / "evaluation.json", to_json(details) + "\n")
    result: dict[str, Any] = {
        "graph": graph.name,
        "measured_on": f"{len(index):,} {split} nodes of {graph.nodes:,}",
        "groups_are": f"{graph.sensitive_name}: {', '.join(graph.groups)}",
        "ms_of": f"all {graph.nodes:,} nodes, {torch.get_num_threads()} threads, "
        f"{processor_name()}",
        "networks": networks,
        "gaps": gaps,
        "groups": groups,
    }
    if "teacher" in probabilities:
        result["agreement_with_teacher"] = {
            ROLES[role]: agreement(p[index], probabilities["teacher"][index])
            for role, p in probabilities.items()
            if role != "teacher"
        }
    if "plain" in probabilities and "reliant" in probabilities and graph.sensitive is not None:
        result["absolute_gap_of_reliant_less_plain"] = paired_gap_difference(
            probabilities["reliant"],
            probabilities["plain"],
            graph.labels,
            graph.sensitive,
            index,
            positive_class=positive,
            bootstrap=bootstrap,
        )
    drawn = _draw(graph, probabilities, index, trained, folder)
    return result | {"details": str(folder / "evaluation.json"), "pictures": drawn}


GAPS = {"sp": "statistical parity", "eo": "equal opportunity"}


def _interval_of(measured: dict[str, Any], gap: str) -> dict[str, Any]:
    """A gap, signed and absolute, with the ends of their intervals."""
    low, high = measured[f"{gap}_gap_interval"]
    absolute_low, absolute_high = measured[f"{gap}_gap_absolute_interval"]
    return {
        "gap": GAPS[gap],
        "signed": measured[f"{gap}_gap"],
        "low": low,
        "high": high,
        "absolute": measured[f"{gap}_gap_absolute"],
        "absolute_low": absolute_low,
        "absolute_high": absolute_high,
    }


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


def _draw(
    graph: Graph,
    probabilities: dict[str, Tensor],
    index: Tensor,
    trained: Trained,
    folder: Path,
) -> list[str]:
    """Scores and decisions of each group, as pictures in a folder."""
    if graph.sensitive is None:
        return []
    positive = positive_class(trained.config, graph)
    named = {ROLES[role]: p[index].numpy() for role, p in probabilities.items()}
    threshold = 0.5 if len(graph.classes) == 2 else None
    labels, groups = graph.labels[index].numpy(), graph.sensitive[index].numpy()
    drawn = {
        "scores.png": pictures.score_distributions(
            {name: p[:, positive] for name, p in named.items()},
            groups,
            graph.groups,
            threshold=threshold,
        ),
        "confusion.png": pictures.group_confusions(
            {name: p.argmax(1) for name, p in named.items()},
            labels,
            groups,
            graph.groups,
            graph.classes,
        ),
    }
    for name, content in drawn.items():
        with atomic_write(folder / name) as file:
            file.write(content)
    return [str(folder / name) for name in drawn]


@torch.no_grad()
def predict(
    run: Path,
    nodes: Path | None = None,
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
        run: Run folder, or a .safetensors file of one.
        nodes: Table of new people, with the columns of the training table but label and group.
        edges: Pairs of people who are connected.
        out: CSV file to write: id, decision, probability of each class.
        network: Which network decides; none: the RELIANT student if there is one.
    """
    trained = Trained.load(run)
    graph = trained.open_graph()
    role = network or ("reliant" if "reliant" in trained.networks.networks else "plain")
    if role not in trained.networks.networks:
        raise ConfigError(
            f"--network {role}: the run has none. It has {', '.join(trained.networks.networks)}."
        )
    if nodes is None:
        if edges is not None:
            raise ConfigError("--edges belongs to new people: give --nodes as well.")
        ids = graph.ids if isinstance(graph, TableGraph) else map(str, range(graph.nodes))
        first = 0
    else:
        if not isinstance(graph, TableGraph):
            raise ConfigError(
                f"--nodes: the run was trained on {graph.name}, not on a table of yours, so that "
                f"what its columns mean is not known. Train with --nodes."
            )
        first = graph.nodes
        graph = join_table(graph, nodes, edges)
        ids = graph.ids[first:]
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
    trained = Trained.load(run)
    networks = trained.networks
    role = "reliant" if "reliant" in networks.networks else "plain"
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
    random = generator("example")

    def inputs(nodes: int) -> dict[str, Tensor]:
        one_way = torch.randint(0, nodes, (2, 3 * nodes), generator=random)
        one_way = one_way[:, one_way[0] != one_way[1]].unique(dim=1)
        both = torch.cat([one_way, one_way.flip(0)], 1).unique(dim=1)
        return {
            "features": torch.rand(nodes, networks.in_features, generator=random),
            "edges": both,
        }

    return write_onnx(
        _OnArrays(networks, role).eval(),
        inputs(50),
        out,
        outputs=["logits"],
        dynamic={"features": {0: "nodes"}, "edges": {1: "edges"}, "logits": {0: "nodes"}},
        described={
            "classes": trained.notes["classes"],
            "columns": trained.notes["columns"],
            "encoding": trained.notes.get("encoding"),
        },
        trials=[inputs(7), inputs(200)],
    )
