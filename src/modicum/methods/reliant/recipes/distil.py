"""The recipe `distil`: a plain student to compare with, and the RELIANT student, from a teacher."""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from modicum.engine.random import fold_keys, permutation
from modicum.engine.run import Run, RunOptions
from modicum.errors import ConfigError, DataError
from modicum.methods.reliant.data.people import People, positive_class
from modicum.methods.reliant.graphs.graph import Graph
from modicum.methods.reliant.graphs.partition import collect, keep_own_rows
from modicum.methods.reliant.losses import GlobalTarget
from modicum.methods.reliant.networks.discriminators import Adversary
from modicum.methods.reliant.networks.distilled import (
    OWN,
    Distilled,
    Proxies,
    StudentName,
    build_student,
)
from modicum.methods.reliant.networks.students import Attention, DecoupledStudent
from modicum.methods.reliant.recipes.batches import (
    PropagatedFeatures,
    batches_epoch,
    predict_rows,
)
from modicum.methods.reliant.recipes.epochs import (
    ProxyInStudent,
    Student,
    akd_epoch,
    cpf_epoch,
)
from modicum.methods.reliant.recipes.fairness import (
    NO_GRADIENT,
    Fairness,
    FairnessTerm,
    Framework,
    fairness_term,
)
from modicum.methods.reliant.recipes.teacher import (
    Targets,
    Teacher,
    TrainedTeacher,
    fit_teacher,
    given_targets,
    network_targets,
    read_teacher,
    teacher_phase,
)
from modicum.methods.reliant.recipes.training import (
    Execution,
    Phase,
    begin,
    collect_networks,
    validation_scores,
)
from modicum.options import FLAT, Ge, Gt, Interval, Options, replace


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
        for wrong, message in _combinations(self):
            if wrong:
                raise ConfigError(message)

    def filled(self) -> Config:
        """The same with what the framework chooses where options leave it open (official code)."""
        cpf = self.framework == "cpf"
        student = self.network.student or ("plp" if cpf else "sgc")
        rate = self.training.learning_rate or (0.01 if cpf else 1e-3)
        groups = {
            "network": {"student": student, "dropout": 0.8 if student == "plp" else 0.5},
            "fairness": {"alpha": 1000.0 if cpf else 10.0},
            "proxies": {"proxy_learning_rate": rate if cpf else 1e-3},
            "training": {
                "epochs": 1000 if cpf else 600,
                "learning_rate": rate,
                "weight_decay": 0.01 if cpf else 5e-4,
            },
        }
        usual = {
            name: value
            for group, values in groups.items()
            for name, value in values.items()
            if getattr(getattr(self, group), name) is None
        }
        return replace(self, **usual)


def _combinations(config: Config) -> list[tuple[bool, str]]:
    """Whether options contradict each other, with what is then said."""
    akd, student = config.framework == "akd", config.network.student
    in_batches = config.network.batch_size is not None
    return [
        (
            akd and student in ("plp", "decoupled"),
            f"--student {student} --framework akd: it has no embedding; use sgc or gcn.",
        ),
        (
            akd and config.training.select_gap_weight > 0,
            "--select-gap-weight: akd keeps the epoch of the smallest cross entropy; leave the "
            "option out.",
        ),
        (
            akd and config.fairness.alpha_scale != "official",
            "--alpha-scale: the losses of akd are means, which do not grow with the number of "
            "nodes. Leave the option out.",
        ),
        (
            not akd and config.adversarial.dropout_in_evaluation,
            "--dropout-in-evaluation: it is the authors' way for akd alone.",
        ),
        (
            not akd and (config.fairness.objective, config.fairness.eo_labels) == ("eo", "train"),
            NO_GRADIENT,
        ),
        (
            in_batches and (akd or student != "decoupled"),
            "--batch-size needs --student decoupled and --framework cpf.",
        ),
        (
            in_batches and config.execution.parts > 1,
            "--batch-size and --parts: batches are drawn from a whole graph.",
        ),
        (
            config.fairness.objective == "none" and not config.compare,
            "--objective none --no-compare: no student would be trained.",
        ),
        (
            config.teacher_run is not None and config.soft_targets is not None,
            "--teacher-run and --soft-targets: give one of them.",
        ),
    ]


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
        teacher: A trained teacher of yours (see `networks.distilled.NodeClassifier`), which is
            left as it is, or what it says of every node.
        student: Builds a student of yours from numbers of features and classes.

    Returns:
        The networks of the best epochs, and the proxies.

    Raises:
        DataError: The graph cannot be used.
        ConfigError: The options do not fit each other or the graph.
    """
    graph, notes = begin(run, config, config.people, graph, config.execution.parts)
    config = config.filled()
    _check(config, graph)
    visible = _visible(config, graph)
    given: TrainedTeacher | None = None
    told: Targets | Path | None = config.soft_targets
    taught: Phase | None = None
    if isinstance(teacher, nn.Module):
        given = TrainedTeacher(copy.deepcopy(teacher).to(run.device), {"name": OWN}, epochs=0)
    elif teacher is not None:
        told = teacher
    elif config.teacher_run is not None:
        given = read_teacher(config.teacher_run, notes)
        given.network.to(run.device)
    elif told is None:
        taught = teacher_phase(config.teacher, run, graph)
        given = TrainedTeacher(taught.network, taught.arguments, taught.epochs)

    # All phases before the first is trained: a checkpoint holds them all.
    roles = ["plain"] if config.compare or config.fairness.objective == "none" else []
    roles += ["reliant"] if config.fairness.objective != "none" else []
    students = {
        role: student_phase(
            config, run, graph, role, visible if role == "reliant" else None, student
        )
        for role in roles
    }
    for phase in [*([taught] if taught else []), *students.values()]:
        phase.register(run, graph)
    done = 0 if given is None else given.epochs
    total = done + sum(phase.epochs for phase in students.values())

    if taught is not None:
        # What does not fit is told before the teacher is trained.
        targets = _targets(config, graph, taught.network)
        if config.fairness.objective == "sp" or config.fairness.eo_labels in (
            "validation",
            "train",
        ):
            _fairness(config, graph, targets)
        fit_teacher(config.people, config.execution, run, graph, taught, total=total)
    else:  # the steps of one trained before count, so that random numbers are those of one run
        for _ in run.iterations(done, of=total):
            run.end_iterations()
    targets = _targets(config, graph, told if given is None else given.network)
    fairness = _fairness(config, graph, targets)
    for phase in students.values():
        fit_student(config, run, graph, phase, targets, fairness, visible, first=done, total=total)
        done += phase.epochs

    networks = {role: phase.network for role, phase in students.items()}
    arguments = {role: phase.arguments for role, phase in students.items()}
    if given is not None:
        networks["teacher"], arguments["teacher"] = given.network, given.arguments
    distilled = collect_networks(
        graph,
        networks,
        arguments,
        students["reliant"].proxies if "reliant" in students else None,
        None if len(visible) == graph.features.shape[1] else visible,
    )
    run.result(distilled, notes=notes)
    run.finish()
    return distilled


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


def _targets(config: Config, graph: Graph, source: nn.Module | Targets | Path | None) -> Targets:
    """What the teacher says of every node.

    Raises:
        DataError: It does not fit the graph.
        ConfigError: GraphAKD needs an embedding as wide as the student's, and there is none.
    """
    akd = config.framework == "akd"
    if isinstance(source, nn.Module):
        targets = network_targets(graph, source, embed=akd, rounded=config.round_soft_targets)
    else:
        assert source is not None
        targets = given_targets(graph, source)
    width = None if targets.embedding is None else targets.embedding.shape[1]
    if akd and width != config.network.hidden:
        found = "none" if width is None else f"one of {width} numbers"
        raise ConfigError(
            f"--framework akd compares the teacher's embedding with the student's of "
            f"{config.network.hidden} numbers (--hidden); the teacher has {found}. Make both as "
            f"wide (--hidden, --teacher.hidden)."
        )
    return targets


def _fairness(config: Config, graph: Graph, targets: Targets) -> FairnessTerm | None:
    """The fairness term of the RELIANT student.

    Raises:
        DataError: A group has none of the nodes it looks at.
        ConfigError: The labels make no sense in the framework.
    """
    positive, p = positive_class(config.people, graph), targets.probabilities
    term = fairness_term(graph, p, config.fairness, config.framework, positive)
    if term is not None:  # the gap refuses empty groups
        term(p, term.student_nodes)
        term(p, term.proxy_nodes)
    return term


def student_phase(
    config: Config,
    run: Run,
    graph: Graph,
    role: str,
    visible: tuple[int, ...] | None,
    own: Callable[[int, int], nn.Module] | None,
) -> Phase:
    """An untrained student, its optimizers, and what it is trained with.

    Args:
        config: The recipe, filled.
        run: The run.
        graph: Whole, or a part.
        role: plain, or reliant, which has proxies.
        visible: Numbers of the features that the RELIANT student sees; None for the plain one.
        own: Builds a student of the user's.
    """
    torch.manual_seed(fold_keys(run.seed, "student") >> 1)
    columns, proxies = graph.features.shape[1], None
    if visible is not None:
        columns = len(visible)
        if config.proxies.proxy == "learned":
            proxies = Proxies(graph.messages.total_nodes, config.proxies.proxy_size)
        elif config.proxies.proxy == "sensitive":
            assert graph.sensitive is not None
            proxies = Proxies.of_groups(collect(graph, graph.sensitive), len(graph.groups))
    size = 0 if proxies is None else proxies.rows.shape[1]
    arguments: dict[str, Any] = {"name": OWN}
    if own is None:
        arguments = student_arguments(config.network, columns + size, len(graph.classes), size)
        network = build_student(**arguments, nodes=graph.messages.total_nodes)
    else:
        network = own(columns + size, len(graph.classes))
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
        modules["adversary"] = Adversary(len(graph.classes), config.network.hidden)
    modules.to(run.device)
    keep_own_rows(graph, modules)  # from the same numbers however many processes there are
    training, other_rate = config.training, config.proxies.proxy_learning_rate
    assert training.learning_rate is not None
    assert training.weight_decay is not None
    assert training.epochs is not None
    assert other_rate is not None
    rates = {"network": training.learning_rate, "proxies": other_rate, "adversary": other_rate}
    optimizers = {
        part: run.prepare(
            torch.optim.Adam(
                module.parameters(), lr=rates[part], weight_decay=training.weight_decay
            )
        )
        for part, module in modules.items()
        if any(p.requires_grad for p in module.parameters())
    }
    # GraphAKD trains to the end and keeps the best epoch; CPF stops early.
    patience = training.patience if config.framework == "cpf" else training.epochs
    return Phase(role, training.epochs, patience, arguments, modules, optimizers)


def student_arguments(
    network: Network, in_features: int, classes: int, proxy_size: int
) -> dict[str, Any]:
    """What `build_student` makes a student of, but for the number of nodes."""
    arguments: dict[str, Any] = {
        "name": network.student,
        "in_features": in_features,
        "classes": classes,
        "hidden": network.hidden,
        "dropout": network.dropout,
    }
    own: dict[str | None, dict[str, Any]] = {
        "plp": {
            "rounds": network.rounds,
            "mlp_layers": network.mlp_layers,
            "attention_dropout": network.attention_dropout,
            "attention": network.attention,
            "tied_dropout": network.tied_dropout,
        },
        "decoupled": {"hops": network.hops, "proxy_size": proxy_size},
    }
    return arguments | own.get(network.student, {})


def fit_student(
    config: Config,
    run: Run,
    graph: Graph,
    phase: Phase,
    targets: Targets,
    fairness: FairnessTerm | None,
    visible: tuple[int, ...],
    *,
    first: int,
    total: int,
) -> None:
    """Distil the teacher into one student.

    Args:
        config: The recipe, filled.
        run: The run.
        graph: Whole, or a part.
        phase: The student.
        targets: What the teacher says.
        fairness: The fairness term, of the RELIANT student alone.
        visible: Numbers of the features that one sees.
        first: Epochs of the run before.
        total: Epochs of the run.
    """
    fair, adversarial = phase.name == "reliant", config.adversarial
    fairness = fairness if fair else None
    student = Student(
        phase.network,
        phase.optimizers["network"],
        graph.features[:, list(visible)] if fair else graph.features,
        phase.proxies,
        phase.optimizers.get("proxies"),
        config.proxies.proxy_in_student,
        run.autocast,
    )
    step, positive = phase.step_of(run, graph), positive_class(config.people, graph)
    size, rows = config.network.batch_size, None
    if size is not None:
        assert isinstance(student.network, DecoupledStudent)
        file = run.folder / f"{phase.name}.propagated"
        rows = PropagatedFeatures(file, graph, student.features, student.network.hops)

    for epoch in phase.run_epochs(run, graph, first, total):
        if rows is not None and size is not None:
            order = torch.from_numpy(permutation(graph.nodes, run.seed, epoch, phase.name))
            batches = order.to(graph.device).split(size)
            terms = batches_epoch(graph, rows, student, targets, fairness, step, batches)
        elif config.framework == "cpf":
            terms = cpf_epoch(graph, student, targets, fairness, step)
        else:
            terms = akd_epoch(
                graph,
                student,
                phase.adversary,
                phase.optimizers["adversary"],
                targets,
                fairness,
                step,
                train_adversary=epoch % adversarial.train_discriminators_every == 0,
                global_target=adversarial.global_target,
            )
        run.log(**{f"{phase.name}_{name}": term for name, term in terms.items()})
        if phase.is_scored(epoch, config.execution.score_every):
            if rows is not None and size is not None:
                p = predict_rows(graph, rows, student, size)
            else:
                p = student.predict(graph, dropout=adversarial.dropout_in_evaluation)
            scores = validation_scores(graph, p, positive)
            value = scores["val_accuracy"] if config.framework == "cpf" else -scores["val_loss"]
            if fair and config.training.select_gap_weight:
                gap = scores[f"val_gap_{config.fairness.objective}"]
                value -= config.training.select_gap_weight * gap
            phase.score(run, epoch, value, scores)
    phase.best.restore(but=("proxies",) if config.proxies.last_proxies else ())
    if rows is not None:
        rows.remove()


def distill(
    graph: Any,
    *,
    teacher: Teacher | str | nn.Module | Tensor | Targets = "gcn",
    student: StudentName | Callable[[int, int], nn.Module] | None = None,
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
    whole = graph if isinstance(graph, Graph) else Graph.from_pyg(graph)
    if isinstance(teacher, str):
        teacher = replace(Teacher(), network=teacher)
    if isinstance(teacher, Teacher):
        options["teacher"] = teacher
    if isinstance(student, str):
        options["student"] = student
    config = replace(Config(), **options)
    if isinstance(teacher, Tensor):
        teacher = Targets.of_probabilities(teacher)
    with tempfile.TemporaryDirectory() as nowhere:
        folder = Path(nowhere) / "run" if out is None else out
        how = dataclasses.replace(run_options or RunOptions(), seed=seed)
        with Run(
            folder, method="reliant", recipe="distil", config=config, options=how, resume=resume
        ) as run:
            networks = train(
                config,
                run,
                graph=whole,
                teacher=None if isinstance(teacher, Teacher) else teacher,
                student=student if callable(student) else None,
            )
    return networks.cpu()
