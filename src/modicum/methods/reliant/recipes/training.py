"""What the recipes share: the phase of a run that trains one network on a whole graph."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from modicum.classification import guessing
from modicum.engine.random import fold_keys
from modicum.errors import DataError
from modicum.methods.reliant.data.leaks import leaks
from modicum.methods.reliant.data.people import People, describe_graph, open_graph, positive_class
from modicum.methods.reliant.graphs import partition
from modicum.methods.reliant.graphs.graph import Graph
from modicum.methods.reliant.graphs.partition import ModuleState, OptimizerState
from modicum.methods.reliant.networks.distilled import Distilled, Proxies
from modicum.mistakes import write_confusion
from modicum.options import Ge, Options, to_json

if TYPE_CHECKING:
    from modicum.engine.run import Run

Step = Callable[[Mapping[str, Tensor], Optimizer], None]
"""Backward and update; the names of the terms are for error messages."""

_log = logging.getLogger("modicum")


@dataclass(frozen=True)
class Execution(Options):
    """How a graph is held and how often a network is scored."""

    parts: Annotated[int, Ge(1)] = 1
    """Parts the graph is divided in; processes share them. Random numbers are drawn by part."""
    score_every: Annotated[int, Ge(1)] = 1
    """Epochs from one score on validation nodes to the next."""


@dataclass
class Phase:
    """One network's share of a run, and its state after the best epoch so far."""

    name: str
    epochs: int
    patience: int
    arguments: Mapping[str, Any]
    """What `networks.distilled.build` makes the network of."""
    modules: nn.ModuleDict
    """Everything with parameters: `network`, and perhaps `proxies` and `adversary`."""
    optimizers: dict[str, Optimizer]
    """By the names of the modules; what is fixed has none."""

    def __post_init__(self) -> None:
        self.best, self.best_value, self.best_epoch = copy.deepcopy(self.modules), -math.inf, -1
        self.best_scores: dict[str, float] = {}
        self.by_chance = math.nan

    @property
    def network(self) -> nn.Module:
        """The network itself."""
        return self.modules["network"]

    @property
    def proxies(self) -> Proxies | None:
        """Its proxies, if it has any."""
        return cast("Proxies | None", dict(self.modules.items()).get("proxies"))

    def register(self, run: Run, graph: Graph) -> None:
        """Name everything of the phase for checkpoints."""
        run.register(
            **{
                self.name: ModuleState(graph, self.modules),
                f"{self.name}_best": ModuleState(graph, self.best),
                f"{self.name}_best_epoch": self,
            },
            **{
                f"{self.name}_adam_{name}": OptimizerState(graph, self.modules, adam)
                for name, adam in self.optimizers.items()
            },
        )

    def run_epochs(self, run: Run, graph: Graph, first: int, total: int) -> Iterator[int]:
        """Numbers of the epochs that are still to do, the random numbers of messages seeded.

        The steps of the run are epochs: `total`, of which `first` come before this phase.
        """
        for step in run.iterations(first + self.epochs, of=total):
            graph.messages.seed(fold_keys(run.seed, step))
            yield step - first

    def step_of(self, run: Run, graph: Graph) -> Step:
        """`Run.step` where processes may hold parts of what is updated."""

        def step(terms: Mapping[str, Tensor], optimizer: Optimizer) -> None:
            complete = partial(partition.complete_gradients, graph, self.modules, optimizer)
            run.step(terms, optimizer, gradients=complete)

        return step

    def is_scored(self, epoch: int, every: int) -> bool:
        """Whether an epoch is scored: one of `every`, and the last."""
        return (epoch + 1) % every == 0 or epoch + 1 == self.epochs

    def score(self, run: Run, epoch: int, value: float, scores: Scores) -> None:
        """Log scores of an epoch, keep it if no `value` was larger, stop if that is long ago.

        Of epochs with the same value the last is kept. Shares are logged in percent.
        """
        logged = {f"{self.name}_val_{name}": 100 * share for name, share in scores.shares.items()}
        logged[f"{self.name}_val_loss"] = scores.loss
        run.score(logged)
        if value >= self.best_value:
            if run.is_main_process:
                write_confusion(run.folder, scores.classes, scores.confusion.tolist())
            self.best.load_state_dict(self.modules.state_dict())
            self.best_value, self.best_epoch, self.best_scores = value, epoch, logged
            self.by_chance = scores.by_chance
        if epoch - self.best_epoch >= self.patience:
            run.end_iterations()

    def restore_best(self, run: Run, but: tuple[str, ...] = ()) -> None:
        """Put the best state back into the modules, except into those named by `but`; its scores
        are those that the run ends with. A network that is no better than a guess is warned of.

        Raises:
            DataError: No epoch had a score.
        """
        if self.best_epoch < 0:
            raise DataError(
                "no epoch could be scored on the validation nodes: is a group, or its positive "
                "labels, missing among them? Leave --select-gap-weight out, or choose other splits."
            )
        run.last_scores = dict(self.best_scores)
        accuracy = self.best_scores[f"{self.name}_val_accuracy"]
        if accuracy <= self.by_chance and not run.quiet:
            _log.warning(
                "the %s network decides no better than a guess: %.1f %% of the validation nodes "
                "are right, naming the largest class gets up to %.1f %%. Do the features and edges "
                "tell the label? More labelled nodes may help.",
                *(self.name, accuracy, self.by_chance),
            )
        for name, module in self.best.items():
            if name not in but:
                self.modules[name].load_state_dict(module.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Value, number and scores of the best epoch; weights are registered on their own."""
        best = {"value": self.best_value, "epoch": self.best_epoch}
        return best | {"scores": self.best_scores}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` returned."""
        self.best_value, self.best_epoch = state["value"], state["epoch"]
        self.best_scores = state["scores"]


def begin(
    run: Run, config: Any, people: People, graph: Graph | None, parts: int
) -> tuple[Graph, dict[str, Any]]:
    """What a recipe begins with: the graph, or this process's part of it, on the run's device; and
    the notes of what it will publish.

    The graph is that of `people`, unless one was given from Python, divided into `parts`, at least
    one a process.

    Raises:
        DataError: The graph cannot be used.
        ConfigError: The options do not fit it.
    """
    from_python = graph is not None
    if graph is None:
        with run.main_process_first():  # it fills caches
            graph = open_graph(people)
    positive_class(people, graph)
    if run.is_main_process:
        for leak in leaks(graph):
            _log.warning("%s: %s", graph.name, leak)
    notes = {"recipe": run.recipe, "config": to_json(config), "from_python": from_python}
    notes |= describe_graph(graph)
    run.register_data(
        {name: notes[name] for name in ("classes", "groups", "columns", "nodes")}
        | {"digest": graph.digests()}
    )
    parts = max(parts, run.world)
    if parts > 1:  # this process's part; the whole is not needed any more
        graph = partition.part_of(graph, partition.divide(graph, parts), run.rank, run.world)
    return graph.to(run.device), notes


class Scores(NamedTuple):
    """How good hard decisions on the validation nodes are, those of all processes."""

    shares: dict[str, float]
    """`accuracy` and, with groups, the absolute gaps `gap_sp` and `gap_eo`; a gap is NaN where a
    group is empty."""
    loss: float
    """Mean cross entropy."""
    classes: tuple[str, ...]
    """Their names."""
    confusion: Tensor
    """Nodes of each class (rows) by decision, `(C, C)`."""

    @property
    def by_chance(self) -> float:
        """What guesses exceed once in twenty times, see `classification.guessing`."""
        nodes = self.confusion.sum(1)
        return guessing(torch.arange(len(nodes)).repeat_interleave(nodes))


def validation_scores(graph: Graph, probabilities: Tensor, positive_class: int) -> Scores:
    """Scores of probabilities `(N, C)`."""
    p, y = probabilities[graph.val], graph.labels[graph.val]
    decided = p.argmax(1)
    loss = -p.gather(1, y[:, None]).clamp_min(1e-12).log().sum()
    classes, groups = len(graph.classes), len(graph.groups)
    table = torch.bincount(y * classes + decided, minlength=classes**2)
    counts = [loss, *table]
    if graph.sensitive is not None:
        s = torch.nn.functional.one_hot(graph.sensitive[graph.val], groups).float()
        chosen = (decided == positive_class).float()
        true = (y == positive_class).float()
        counts += [*s.sum(0), *(s.T @ chosen), *(s.T @ true), *(s.T @ (chosen * true))]
    total = graph.messages.total(torch.stack([count.double() for count in counts]))
    table = total[1 : 1 + classes**2].view(classes, classes)
    nodes = float(table.sum())
    shares = {"accuracy": float(table.trace()) / nodes}
    if graph.sensitive is not None:
        size, chosen, true, both = total[1 + classes**2 :].view(4, groups)
        for name, rates in (("gap_sp", chosen / size), ("gap_eo", both / true)):
            shares[name] = float(rates.max() - rates.min())
    return Scores(shares, float(total[0]) / nodes, graph.classes, table.long().cpu())


def collect_networks(
    graph: Graph,
    networks: Mapping[str, nn.Module],
    arguments: Mapping[str, Mapping[str, Any]],
    proxies: Proxies | None = None,
    visible: tuple[int, ...] | None = None,
) -> Distilled:
    """The networks of a run by role in one module, with the rows of all nodes.

    `arguments` is what `networks.distilled.build` makes each of; the others as of `Distilled`.
    """
    described: dict[str, Any] = {
        "nodes": graph.messages.total_nodes,
        "in_features": graph.features.shape[1],
        "proxy_size": 0 if proxies is None else proxies.rows.shape[1],
        "visible": None if visible is None else list(visible),
    }
    whole = {role: partition.collected(graph, network) for role, network in networks.items()}
    distilled = Distilled(networks=whole, **described).to(graph.device)
    distilled.arguments = described | {"networks": dict(arguments)}
    if proxies is not None:
        distilled.proxies.copy_(partition.collect(graph, proxies.rows))
        distilled.mean_proxy.copy_(proxies.mean(graph))
    return distilled.eval()
