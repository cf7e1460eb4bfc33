"""The recipe `teacher`: a graph network that students are distilled from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor, nn

from modicum.engine.random import fold_keys
from modicum.errors import ConfigError
from modicum.method import load_saved
from modicum.methods.reliant.checkpoints import check_probabilities, soft_targets
from modicum.methods.reliant.data.people import People, check_same_graph, positive_class
from modicum.methods.reliant.graphs.graph import Graph
from modicum.methods.reliant.graphs.partition import own_rows
from modicum.methods.reliant.losses import label_loss
from modicum.methods.reliant.networks.distilled import Distilled, TeacherName, build_teacher
from modicum.methods.reliant.recipes import training
from modicum.methods.reliant.recipes.training import Execution, Phase
from modicum.options import FLAT, Ge, Gt, Options, from_json

if TYPE_CHECKING:
    from modicum.engine.run import Run

_log = logging.getLogger("modicum")

ADAM: Mapping[TeacherName, tuple[float, float]] = {
    "gcn": (0.01, 0.001),
    "sage": (0.01, 5e-4),
    "gat": (0.01, 0.01),
    "appnp": (0.01, 0.01),
    "sgc": (0.1, 0.001),
    "gcnii": (0.01, 0.01),
}
"""Learning rate and weight decay of each teacher (official code; of gcnii inferred)."""


@dataclass(frozen=True)
class Teacher(Options):
    """A teacher and its training."""

    network: TeacherName = "gcn"
    """gcn, sage (GraphSAGE), gat, appnp, sgc or gcnii."""
    epochs: Annotated[int, Ge(1)] = 1000
    """Epochs of the teacher at most."""
    patience: Annotated[int, Ge(1)] = 500
    """Epochs without better validation accuracy after which the teacher is done."""
    hidden: Annotated[int, Ge(1)] | None = None
    """Width of the teacher's layers; none: its usual one."""
    learning_rate: Annotated[float, Gt(0)] | None = None
    """Learning rate of the teacher's Adam; none: its usual one."""
    weight_decay: Annotated[float, Ge(0)] | None = None
    """L2 penalty of the teacher; none: its usual one."""


@dataclass(frozen=True)
class Config(Options):
    """Training a graph network that students can be distilled from."""

    people: Annotated[People, FLAT] = People()
    """Whose graph it is."""
    teacher: Annotated[Teacher, FLAT] = Teacher()
    """The network."""
    execution: Annotated[Execution, FLAT] = Execution()
    """How it is trained."""


def train(config: Config, run: Run, *, graph: Graph | None = None) -> Distilled:
    """Train a teacher, and leave it in the run's folder.

    `graph` is one of yours, in place of `config`'s. `run.finish()` is called.

    Raises:
        DataError: The graph cannot be used.
        ConfigError: The options do not fit the graph.
    """
    graph, notes = training.begin(run, config, config.people, graph, config.execution.parts)
    phase = teacher_phase(config.teacher, run, graph)
    phase.register(run, graph)
    fit_teacher(config.people, config.execution, run, graph, phase, total=phase.epochs)
    networks, arguments = {"teacher": phase.network}, {"teacher": phase.arguments}
    networks = training.collect_networks(graph, networks, arguments)
    run.result(networks, notes=notes)
    run.finish()
    return networks


def teacher_phase(options: Teacher, run: Run, graph: Graph) -> Phase:
    """An untrained teacher and its optimizer."""
    width = {} if options.hidden is None else {"hidden": options.hidden}
    sizes = {"in_features": graph.features.shape[1], "classes": len(graph.classes)}
    arguments: dict[str, Any] = {"name": options.network, **sizes, **width}
    torch.manual_seed(fold_keys(run.seed, "teacher") >> 1)
    network = build_teacher(**arguments).to(run.device)
    usual_rate, usual_decay = ADAM[options.network]
    adam = torch.optim.Adam(
        network.parameters(),
        lr=options.learning_rate or usual_rate,
        weight_decay=usual_decay if options.weight_decay is None else options.weight_decay,
    )
    modules, optimizers = nn.ModuleDict({"network": network}), {"network": run.prepare(adam)}
    return Phase("teacher", options.epochs, options.patience, arguments, modules, optimizers)


def fit_teacher(
    people: People, execution: Execution, run: Run, graph: Graph, phase: Phase, *, total: int
) -> None:
    """Negative log likelihood on the training nodes; the epoch of the best accuracy is kept.

    It is the first phase of a run of `total` epochs.
    """
    network, step = phase.network, phase.step_of(run, graph)
    positive = positive_class(people, graph)

    def logits() -> Tensor:
        with run.autocast():
            return network(graph, graph.features).float()

    for epoch in phase.run_epochs(run, graph, 0, total):
        network.train()
        loss = label_loss(logits(), graph.labels, graph.train, total=graph.messages.total)
        step({"loss": loss}, phase.optimizers["network"])
        run.log(teacher_loss=loss)
        if phase.is_scored(epoch, execution.score_every):
            network.eval()
            with torch.no_grad():
                scores = training.validation_scores(graph, logits().softmax(1), positive)
            phase.score(run, epoch, scores.shares["accuracy"], scores)
    phase.restore_best(run)


# What a teacher says


@dataclass(frozen=True)
class Targets:
    """What a teacher says of every node."""

    probabilities: Tensor
    """`(N, C)`."""
    log_probabilities: Tensor
    """`(N, C)`; GraphAKD calls them the teacher's logits."""
    embedding: Tensor | None = None
    """`(N, H)`, output of its first layer; GraphAKD needs it."""

    @classmethod
    def of_probabilities(cls, probabilities: Tensor) -> Targets:
        """Of probabilities `(N, C)` alone."""
        tiny = torch.finfo(probabilities.dtype).tiny
        return cls(probabilities, probabilities.clamp_min(tiny).log())


def read_teacher(
    folder: Path, described: Mapping[str, Any]
) -> tuple[nn.Module, Mapping[str, Any], int]:
    """The teacher of a run, what `networks.distilled.build` makes it of, and its epochs at most.

    Raises:
        CheckpointError: The run cannot be read, or has not ended.
        ConfigError: It is of another recipe.
        DataError: It was trained on another graph than the one `described` by `describe_graph`.
    """
    saved = load_saved(folder, method="reliant")
    if saved.notes["recipe"] != "teacher":
        raise ConfigError(
            f"--teacher-run {folder}: it is a run of the recipe {saved.notes['recipe']}; expected "
            f"one of `modicum train reliant teacher`."
        )
    check_same_graph(described, saved.notes)
    networks = saved.module
    assert isinstance(networks, Distilled)
    config = from_json(Config, saved.notes["config"])
    arguments = dict(networks.arguments["networks"]["teacher"])
    return networks.networks["teacher"], arguments, config.teacher.epochs


@torch.no_grad()
def targets_of(
    graph: Graph, teacher: nn.Module | Targets | Path, *, embed: bool = False, rounded: bool = False
) -> Targets:
    """What a teacher says of every node of a graph, whole or a part.

    It is a network that returns logits, and with `embed` an embedding if it can, whose
    probabilities may be `rounded` to 4 decimals; or what one says of all nodes; or a file of that,
    see `checkpoints.soft_targets`. A `DataError` says that it does not fit the graph.
    """
    if not isinstance(teacher, nn.Module):
        return _given_targets(graph, teacher)
    teacher.eval()
    embedding = None
    if embed and hasattr(teacher, "embed"):
        logits, embedding = teacher.embed(graph, graph.features)  # pyright: ignore
    else:
        logits = teacher(graph, graph.features)
    if bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-3).all()):
        _log.warning(
            "the teacher returned rows of positive numbers that sum to 1. They are taken for "
            "logits; if they are probabilities, let it return their logarithms."
        )
    log_p = logits.float().log_softmax(1)
    p = check_probabilities(log_p.exp(), graph.nodes, len(graph.classes), "the teacher")
    return Targets((p * 1e4).round() / 1e4 if rounded else p, log_p, embedding)


def _given_targets(graph: Graph, targets: Targets | Path) -> Targets:
    nodes, classes = graph.messages.total_nodes, len(graph.classes)
    if isinstance(targets, Path):
        targets = Targets(*soft_targets(targets, nodes, classes))
    else:
        check_probabilities(targets.probabilities, nodes, classes, "the teacher")
    whole = vars(targets).values()
    rows: list[Any] = [None if x is None else own_rows(graph, x.to(graph.device)) for x in whole]
    return Targets(*rows)
