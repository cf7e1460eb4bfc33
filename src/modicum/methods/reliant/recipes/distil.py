"""The recipe `distil`: a plain student to compare with, and the RELIANT student, from a teacher."""

from __future__ import annotations

import copy
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from modicum.engine.random import fold_keys, permutation
from modicum.errors import ConfigError, DataError
from modicum.methods.reliant.data.people import People, positive_class
from modicum.methods.reliant.graphs.graph import Graph
from modicum.methods.reliant.graphs.partition import collect, keep_own_rows
from modicum.methods.reliant.losses import GlobalTarget
from modicum.methods.reliant.networks import distilled
from modicum.methods.reliant.networks.discriminators import Adversary
from modicum.methods.reliant.networks.distilled import OWN, Distilled, Proxies, StudentName
from modicum.methods.reliant.networks.students import Attention
from modicum.methods.reliant.recipes import training
from modicum.methods.reliant.recipes.batches import PropagatedFeatures, batches_epoch
from modicum.methods.reliant.recipes.epochs import ProxyInStudent, Student, akd_epoch, cpf_epoch
from modicum.methods.reliant.recipes.fairness import (
    Fairness,
    FairnessTerm,
    Framework,
    fairness_term,
)
from modicum.methods.reliant.recipes.teacher import (
    Targets,
    Teacher,
    fit_teacher,
    read_teacher,
    targets_of,
    teacher_phase,
)
from modicum.methods.reliant.recipes.training import Execution, Phase
from modicum.options import FLAT, Ge, Gt, Interval, Options, replace

if TYPE_CHECKING:
    from modicum.engine.run import Run, RunOptions

Builder = Callable[[int, int], nn.Module]
"""Builds a student of the user's from numbers of features and classes."""


@dataclass(frozen=True)
class Network(Options):
    """A student's network."""

    student: StudentName | None = None
    """plp, sgc, gcn, or decoupled, which can train on batches; none: plp for cpf, sgc for akd."""
    batch_size: Annotated[int, Ge(1)] | None = None
    """Nodes at a time, for graphs a full batch has no room for: cpf with the decoupled student."""
    hops: Annotated[int, Ge(0)] = 2
    """How often the decoupled student passes messages, all of them before training."""
    hidden: Annotated[int, Ge(1)] = 64
    """Width of the student's layers."""
    dropout: Annotated[float, Interval(ge=0, lt=1)] | None = None
    """Dropout of a student's features; none: 0.8 for plp, 0.5 for sgc and gcn."""
    rounds: Annotated[int, Ge(1)] = 9
    """Rounds of label propagation of plp."""
    mlp_layers: Annotated[int, Ge(0)] = 2
    """Layers of the feature network of plp; 0: propagation alone."""
    attention: Attention = "features"
    """What plp's attention is a function of: features, or a free number a node, which cannot be
    used on new nodes."""
    attention_dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.2
    """Dropout of plp's edges."""
    tied_dropout: bool = False
    """Draw plp's feature dropout once an epoch instead of in every round, which is faster."""


@dataclass(frozen=True)
class Adversarial(Options):
    """What GraphAKD alone has."""

    train_discriminators_every: Annotated[int, Ge(1)] = 1
    """Epochs from one step of the discriminators to the next (GraphAKD's d_critic)."""
    global_target: GlobalTarget = "reliant"
    """Targets of the student in the global discriminator: reliant has those of the discriminator,
    graphakd the opposite, adversarial ones."""
    dropout_in_evaluation: bool = False
    """Score akd's students with dropout on, as the authors' code does."""


@dataclass(frozen=True)
class ProxyOptions(Options):
    """The proxies of bias."""

    proxy: Literal["learned", "sensitive", "none"] = "learned"
    """Proxies of bias: learned rows, the sensitive attribute itself, or none."""
    proxy_size: Annotated[int, Ge(1)] = 2
    """Numbers in a learned proxy."""
    proxy_in_student: ProxyInStudent = "mean"
    """What the student's step sees: the mean proxy, or each node's own (inferred variant)."""
    last_proxies: bool = False
    """Predict with the mean proxy of the last epoch instead of the best one's, as the authors' code
    does."""
    proxy_learning_rate: Annotated[float, Gt(0)] | None = None
    """Learning rate of the proxies' and the discriminators' Adam; none: the student's for cpf,
    0.001 for akd."""


@dataclass(frozen=True)
class Training(Options):
    """How long a student is trained, and how fast."""

    epochs: Annotated[int, Ge(1)] | None = None
    """Epochs of a student; none: 1000 for cpf, 600 for akd."""
    patience: Annotated[int, Ge(1)] = 500
    """Epochs without a better validation score after which a student of cpf is done."""
    learning_rate: Annotated[float, Gt(0)] | None = None
    """Learning rate of the student's Adam; none: 0.01 for cpf, 0.001 for akd."""
    weight_decay: Annotated[float, Ge(0)] | None = None
    """L2 penalty of students, proxies and discriminators; none: 0.01 for cpf, 0.0005 for akd."""
    select_gap_weight: Annotated[float, Ge(0)] = 0.0
    """The RELIANT student kept is that of the largest validation accuracy less this times the
    validation gap; 0 is the authors' choice."""


@dataclass(frozen=True)
class Config(Options):
    """Distilling a graph network without the teacher's bias."""

    people: Annotated[People, FLAT] = People()
    """Whose graph it is."""
    teacher: Teacher = Teacher()
    """The teacher, which is trained first unless there is one."""
    teacher_run: Path | None = None
    """Run folder of a teacher (`modicum train reliant teacher`) on the same graph, in place of
    training one; with its seed the students are those of a run that trains it."""
    soft_targets: Path | None = None
    """A teacher's output in place of training one: a folder of CPF with output.txt, or a file of
    GraphAKD."""
    round_soft_targets: bool = False
    """Round the teacher's probabilities to 4 decimals, as CPF's files do."""
    framework: Framework = "cpf"
    """cpf (parameterised label propagation) or akd (GraphAKD, adversarial)."""
    compare: bool = True
    """Also distil the plain student, without the fairness term, to compare with."""
    drop_from_student: tuple[str, ...] = ()
    """Features that the RELIANT student alone does not see. The authors' code drops the last two,
    which compares students of different inputs."""
    network: Annotated[Network, FLAT] = Network()
    """The student."""
    adversarial: Annotated[Adversarial, FLAT] = Adversarial()
    """GraphAKD."""
    fairness: Annotated[Fairness, FLAT] = Fairness()
    """The fairness term."""
    proxies: Annotated[ProxyOptions, FLAT] = ProxyOptions()
    """The proxies."""
    training: Annotated[Training, FLAT] = Training()
    """The optimizer."""
    execution: Annotated[Execution, FLAT] = Execution()
    """How the graph is held."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.fairness.refuse_without_gradient(self.framework)
        for message in _contradictions(self):
            raise ConfigError(message)

    def filled(self, nodes: int) -> Config:
        """The same with what the framework chooses where options leave it open (official code).

        Between small groups there is a gap by chance, and CPF's distance is smaller where there are
        fewer nodes; so alpha is smaller too for fewer `nodes` than any of the published graphs has.
        """
        cpf = self.framework == "cpf"
        student = self.network.student or ("plp" if cpf else "sgc")
        rate = self.training.learning_rate or (0.01 if cpf else 1e-3)
        usual: dict[str, Any] = {
            "student": student,
            "dropout": 0.8 if student == "plp" else 0.5,
            "alpha": min(1000.0, nodes) if cpf else 10.0,
            "proxy_learning_rate": rate if cpf else 1e-3,
            "epochs": 1000 if cpf else 600,
            "learning_rate": rate,
            "weight_decay": 0.01 if cpf else 5e-4,
        }
        groups = (self.network, self.fairness, self.proxies, self.training)
        given = {name: value for group in groups for name, value in vars(group).items()}
        return replace(self, **{n: value for n, value in usual.items() if given[n] is None})


def _contradictions(config: Config) -> Iterator[str]:
    """What is said of options that contradict each other."""
    akd, student = config.framework == "akd", config.network.student
    in_batches = config.network.batch_size is not None
    if akd and student in ("plp", "decoupled"):
        yield f"--student {student} --framework akd: it has no embedding; use sgc or gcn."
    if akd and config.training.select_gap_weight > 0:
        yield (
            "--select-gap-weight: akd keeps the epoch of the smallest cross entropy; leave the "
            "option out."
        )
    if akd and config.fairness.alpha_scale != "official":
        yield (
            "--alpha-scale: the losses of akd are means, which do not grow with the number of "
            "nodes. Leave the option out."
        )
    if not akd and config.adversarial.dropout_in_evaluation:
        yield "--dropout-in-evaluation: it is the authors' way for akd alone."
    if in_batches and (akd or student != "decoupled"):
        yield "--batch-size needs --student decoupled and --framework cpf."
    if in_batches and config.execution.parts > 1:
        yield "--batch-size and --parts: batches are drawn from a whole graph."
    if config.fairness.objective == "none" and not config.compare:
        yield "--objective none --no-compare: no student would be trained."
    if config.teacher_run is not None and config.soft_targets is not None:
        yield "--teacher-run and --soft-targets: give one of them."


def train(
    config: Config,
    run: Run,
    *,
    graph: Graph | None = None,
    teacher: nn.Module | Targets | None = None,
    student: Builder | None = None,
) -> Distilled:
    """Train teacher, plain student and RELIANT student, and leave them in the run's folder.

    Args:
        config: The recipe.
        run: The run; `run.finish()` is called.
        graph: A graph of yours, in place of `config`'s.
        teacher: A trained teacher of yours (see `networks.distilled.NodeClassifier`), which is
            left as it is, or what it says of every node.
        student: Builds a student of yours from numbers of features and classes.

    Returns:
        The networks of the best epochs, and the proxies.

    Raises:
        DataError: The graph cannot be used.
        ConfigError: The options do not fit each other or the graph.
    """
    graph, notes = training.begin(run, config, config.people, graph, config.execution.parts)
    config = config.filled(graph.messages.total_nodes)
    _check(config, graph)
    visible = _visible(config, graph)  # which may find that there are none
    taught: Phase | None = None  # the teacher, if this run trains it
    of_teacher: Mapping[str, Any] = {"name": OWN}
    done = 0  # epochs of the run before those of the students
    source = config.soft_targets if teacher is None else teacher
    if isinstance(source, nn.Module):
        source = copy.deepcopy(source).to(run.device)
    elif source is None and config.teacher_run is not None:
        source, of_teacher, done = read_teacher(config.teacher_run, notes)
        source.to(run.device)
    elif source is None:
        taught = teacher_phase(config.teacher, run, graph)
        source, of_teacher, done = taught.network, taught.arguments, taught.epochs

    # All phases before the first is trained: a checkpoint holds them all.
    fair = config.fairness.objective != "none"
    roles = [*(["plain"] if config.compare or not fair else []), *(["reliant"] if fair else [])]
    students = {role: _student_phase(config, run, graph, role, student) for role in roles}
    for phase in [*([taught] if taught else []), *students.values()]:
        phase.register(run, graph)
    total = done + sum(phase.epochs for phase in students.values())

    if taught is not None:
        # What does not fit is told before the teacher is trained.
        targets, term = _targets(config, graph, source), config.fairness
        if term.objective == "sp" or term.eo_labels in ("validation", "train"):
            _fairness_term(config, graph, targets)
        fit_teacher(config.people, config.execution, run, graph, taught, total=total)
    else:  # the steps of one trained before count, so that random numbers are those of one run
        for _ in run.iterations(done, of=total):
            run.end_iterations()
    targets = _targets(config, graph, source)
    fairness = _fairness_term(config, graph, targets)
    for phase in students.values():
        _fit(config, run, graph, phase, targets, fairness, first=done, total=total)
        done += phase.epochs

    networks = {role: phase.network for role, phase in students.items()}
    arguments = {role: phase.arguments for role, phase in students.items()}
    if isinstance(source, nn.Module):
        networks["teacher"], arguments["teacher"] = source, of_teacher
    proxies = students["reliant"].proxies if fair else None
    seen = None if len(visible) == graph.features.shape[1] else visible
    result = training.collect_networks(graph, networks, arguments, proxies, seen)
    run.result(result, notes=notes)
    run.finish()
    return result


def _check(config: Config, graph: Graph) -> None:
    """Refuse a graph that the options do not fit."""
    if config.fairness.objective != "none" and graph.sensitive is None:
        raise DataError(
            f"{graph.name}: it has no sensitive attribute, which training for fairness needs. Name "
            f"the column (--sensitive), or train the plain student (--objective none)."
        )
    divided = graph.nodes != graph.messages.total_nodes or config.execution.parts > 1
    if divided and config.network.student == "decoupled":
        raise ConfigError("--student decoupled: it trains on a whole graph, in one process.")


def _visible(config: Config, graph: Graph) -> tuple[int, ...]:
    """Numbers of the features that the RELIANT student sees."""
    dropped = config.drop_from_student
    unknown = sorted(set(dropped) - set(graph.feature_names))
    if unknown:
        raise ConfigError(
            f"--drop-from-student {' '.join(unknown)}: no feature of {graph.name} is called so. "
            f"Its features: {', '.join(graph.feature_names)}."
        )
    visible = tuple(n for n, name in enumerate(graph.feature_names) if name not in dropped)
    if not visible:
        raise ConfigError("--drop-from-student: it names every feature, and the student sees none.")
    return visible


def _targets(config: Config, graph: Graph, source: nn.Module | Targets | Path) -> Targets:
    """What the teacher says of every node; GraphAKD needs an embedding as wide as the student's."""
    akd, width = config.framework == "akd", config.network.hidden
    targets = targets_of(graph, source, embed=akd, rounded=config.round_soft_targets)
    found = None if targets.embedding is None else targets.embedding.shape[1]
    if akd and found != width:
        raise ConfigError(
            f"--framework akd compares the teacher's embedding with the student's of {width} "
            f"numbers (--hidden); the teacher has "
            f"{'none' if found is None else f'one of {found} numbers'}. Make both as wide "
            f"(--hidden, --teacher.hidden)."
        )
    return targets


def _fairness_term(config: Config, graph: Graph, targets: Targets) -> FairnessTerm | None:
    """The fairness term of the RELIANT student, which refuses groups without nodes."""
    positive, p = positive_class(config.people, graph), targets.probabilities
    term = fairness_term(graph, p, config.fairness, config.framework, positive)
    if term is not None:
        term(p, term.student_nodes)
        term(p, term.proxy_nodes)
    return term


def _student_phase(config: Config, run: Run, graph: Graph, role: str, own: Builder | None) -> Phase:
    """An untrained student, its optimizers, and what it is trained with."""
    torch.manual_seed(fold_keys(run.seed, "student") >> 1)
    nodes, classes = graph.messages.total_nodes, len(graph.classes)
    columns, proxies = graph.features.shape[1], None
    if role == "reliant":
        columns = len(_visible(config, graph))
        if config.proxies.proxy == "learned":
            proxies = Proxies(nodes, config.proxies.proxy_size)
        elif config.proxies.proxy == "sensitive":
            assert graph.sensitive is not None
            proxies = Proxies.of_groups(collect(graph, graph.sensitive), len(graph.groups))
    size = 0 if proxies is None else proxies.rows.shape[1]
    arguments: dict[str, Any] = {"name": OWN}
    if own is None:
        arguments = _arguments(config.network, columns + size, classes, size)
        network = distilled.build_student(**arguments, nodes=nodes)
    else:
        network = own(columns + size, classes)
        if config.framework == "akd" and not hasattr(network, "embed"):
            raise ConfigError(
                f"--framework akd compares embeddings, and {type(network).__name__} has no method "
                f"embed(graph, features) that returns logits and embeddings; see "
                f"modicum.methods.reliant.networks.distilled.NodeClassifier. Add it, or use cpf."
            )
    modules = nn.ModuleDict({"network": network})
    if proxies is not None:
        modules["proxies"] = proxies
    if config.framework == "akd":
        modules["adversary"] = Adversary(classes, config.network.hidden)
    modules.to(run.device)
    keep_own_rows(graph, modules)  # from the same numbers however many processes there are
    options: Any = config.training  # whose values are filled in
    other_rate: Any = config.proxies.proxy_learning_rate
    optimizers: dict[str, Optimizer] = {}
    for name, module in modules.items():
        if any(p.requires_grad for p in module.parameters()):
            rate = options.learning_rate if name == "network" else other_rate
            adam = Adam(module.parameters(), lr=rate, weight_decay=options.weight_decay)
            optimizers[name] = run.prepare(adam)
    # GraphAKD trains to the end and keeps the best epoch; CPF stops early.
    patience = options.patience if config.framework == "cpf" else options.epochs
    return Phase(role, options.epochs, patience, arguments, modules, optimizers)


_OF_STUDENT: Mapping[str | None, Sequence[str]] = {
    "plp": ("rounds", "mlp_layers", "attention_dropout", "attention", "tied_dropout"),
    "decoupled": ("hops",),
}
"""Options that one student alone has."""


def _arguments(network: Network, in_features: int, classes: int, proxy_size: int) -> dict[str, Any]:
    """What `build_student` makes a student of, but for the number of nodes."""
    names = ("hidden", "dropout", *_OF_STUDENT.get(network.student, ()))
    arguments = {"name": network.student, "in_features": in_features, "classes": classes}
    arguments |= {name: getattr(network, name) for name in names}
    return arguments | ({"proxy_size": proxy_size} if network.student == "decoupled" else {})


def _fit(
    config: Config,
    run: Run,
    graph: Graph,
    phase: Phase,
    targets: Targets,
    fairness: FairnessTerm | None,
    *,
    first: int,
    total: int,
) -> None:
    """Distil the teacher into one student, after `first` of the `total` epochs of the run.

    The fairness term and the choice of features are those of the RELIANT student alone.
    """
    fair, adversarial, cpf = phase.name == "reliant", config.adversarial, config.framework == "cpf"
    fairness = fairness if fair else None
    student = Student(
        phase.network,
        phase.optimizers["network"],
        graph.features[:, list(_visible(config, graph))] if fair else graph.features,
        phase.proxies,
        phase.optimizers.get("proxies"),
        config.proxies.proxy_in_student,
        run.autocast,
    )
    step, positive = phase.step_of(run, graph), positive_class(config.people, graph)
    rows = None
    if config.network.batch_size is not None:
        file = run.folder / f"{phase.name}.propagated"
        rows = PropagatedFeatures(file, graph, student, config.network.batch_size)

    for epoch in phase.run_epochs(run, graph, first, total):
        if rows is not None:
            order = torch.from_numpy(permutation(graph.nodes, run.seed, epoch, phase.name))
            terms = batches_epoch(graph, rows, student, targets, fairness, step, order)
        elif cpf:
            terms = cpf_epoch(graph, student, targets, fairness, step)
        else:
            adversary, adam = phase.modules["adversary"], phase.optimizers["adversary"]
            assert isinstance(adversary, Adversary)
            terms = akd_epoch(
                graph, student, adversary, adam, targets, fairness, step,
                train_adversary=epoch % adversarial.train_discriminators_every == 0,
                global_target=adversarial.global_target,
            )  # fmt: skip
        run.log(**{f"{phase.name}_{name}": term for name, term in terms.items()})
        if phase.is_scored(epoch, config.execution.score_every):
            if rows is not None:
                p = rows.predict(student)
            else:
                p = student.predict(graph, dropout=adversarial.dropout_in_evaluation)
            scores = training.validation_scores(graph, p, positive)
            value = scores.shares["accuracy"] if cpf else -scores.loss
            if fair and config.training.select_gap_weight:
                gap = scores.shares[f"gap_{config.fairness.objective}"]
                value -= config.training.select_gap_weight * gap
            phase.score(run, epoch, value, scores)
    phase.restore_best(run, but=("proxies",) if config.proxies.last_proxies else ())
    if rows is not None:
        rows.remove()


def distill(
    graph: Any,
    *,
    teacher: Teacher | str | nn.Module | Tensor | Targets = "gcn",
    student: StudentName | Builder | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    run_options: RunOptions | None = None,
    resume: bool = False,
    **options: Any,
) -> Distilled:
    """Distil a fair student on a graph of yours, from Python.

    Args:
        graph: A `Graph` (`Graph.build`, `Graph.from_csr`, `read_table`), or PyTorch Geometric's
            `Data` with the attribute `sens` or `sensitive`.
        teacher: A teacher to train, by name or by its options; a trained one of yours
            (`networks.distilled.NodeClassifier`); or its probabilities `(N, C)`, with its embedding
            as well in `Targets`.
        student: A student by name, or what builds one of yours from numbers of features and
            classes; none: the framework's.
        seed: Of initialisation, dropout and proxies.
        out: Run folder to make; none: nothing is kept.
        run_options: Device, precision and the like; its seed is `seed`.
        resume: Go on with the run in `out` if there is one.
        options: Fields of `Config` and its groups, such as `framework="akd"`, `objective="eo"`,
            `alpha=100.0`.

    Returns:
        The networks, on the CPU; called with the graph they give probabilities.

    Raises:
        DataError: The graph cannot be used.
        ConfigError: The options do not fit each other or the graph.
    """
    from modicum.engine.run import Run, RunOptions

    whole = graph if isinstance(graph, Graph) else Graph.from_pyg(graph)
    if isinstance(teacher, str):
        teacher = replace(Teacher(), network=teacher)
    given = Targets.of_probabilities(teacher) if isinstance(teacher, Tensor) else teacher
    if isinstance(given, Teacher):
        options["teacher"] = given
    if isinstance(student, str):
        options["student"], student = student, None
    config = replace(Config(), **options)
    trained = None if isinstance(given, Teacher) else given
    how = dataclasses.replace(run_options or RunOptions(), seed=seed)
    with tempfile.TemporaryDirectory() as nowhere:
        folder = Path(nowhere) / "run" if out is None else Path(out)
        with Run(
            folder, method="reliant", recipe="distil", config=config, options=how, resume=resume
        ) as run:
            return train(config, run, graph=whole, teacher=trained, student=student).cpu()
