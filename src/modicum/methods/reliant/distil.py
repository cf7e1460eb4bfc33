"""One epoch of RELIANT inside either distillation framework, CPF or GraphAKD.

An epoch alternates (specification, section 2.4):

    1. student step, every node with the mean proxy q:
           theta <- Adam on  D(p(q)) + alpha * L_fair(p(q); I_S)
    2. proxy step, the same theta, every node with its own proxy:
           P <- Adam on  -alpha * L_fair(p(P); I_P)

The second is a gradient ascent on the gap: proxies learn to carry what tells the groups apart.
Since the student's step sees only their mean, a constant input, the gap falls by the term
`alpha * L_fair` almost alone; `proxy_in_student="node"` is the other reading (inferred).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from modicum.errors import ConfigError
from modicum.methods.reliant.discriminators import (
    Adversary,
    GlobalTarget,
    discriminator_losses,
    student_losses,
)
from modicum.methods.reliant.graph import Graph
from modicum.methods.reliant.losses import Surrogate, distillation_loss, group_gap_loss
from modicum.methods.reliant.messages import at_least_float32
from modicum.methods.reliant.model import Proxies
from modicum.methods.reliant.students import PLP

Framework = Literal["cpf", "akd"]
Objective = Literal["sp", "eo", "none"]
EOLabels = Literal["teacher", "validation", "train", "official"]
ProxyInStudent = Literal["mean", "node"]

Step = Callable[[Mapping[str, Tensor], Optimizer], None]
"""Backward and update; the names of the terms are for error messages. `Run.step` is one."""

NO_GRADIENT = (
    "--eo-labels train --framework cpf: the fairness term of CPF looks at nodes that are not "
    "trained on, and would know no labels of theirs. Use teacher or validation."
)

_log = logging.getLogger("modicum")


@dataclass(frozen=True)
class Targets:
    """What the teacher says of every node."""

    probabilities: Tensor
    """`(N, C)`."""
    log_probabilities: Tensor
    """`(N, C)`; GraphAKD calls them the teacher's logits."""
    embedding: Tensor | None = None
    """`(N, H)`, output of its first layer; GraphAKD needs it."""


@dataclass
class Student:
    """A student, its proxies and their optimizers."""

    network: nn.Module
    optimizer: Optimizer
    features: Tensor
    """`(N, F)`: the columns it sees, without proxies."""
    proxies: Proxies | None = None
    proxy_optimizer: Optimizer | None = None
    """None: the proxies are fixed."""
    proxy_in_student: ProxyInStudent = "mean"
    precision: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    """What the network is computed in, such as `Run.autocast`. Losses are float32 or better."""

    def logits(self, graph: Graph, features: Tensor) -> Tensor:
        """Logits `(N, C)`, float32 or better."""
        with self.precision():
            logits: Tensor = self.network(graph, features)
        return at_least_float32(logits)

    def embed(self, graph: Graph, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(N, C)` and embedding `(N, H)`, float32 or better."""
        embed: Any = self.network.embed
        with self.precision():
            logits, embedding = embed(graph, features)
        return at_least_float32(logits), at_least_float32(embedding)

    def step_features(self, graph: Graph) -> Tensor:
        """What it sees in its own step."""
        if self.proxies is None or self.proxy_in_student == "mean":
            return self.mean_features(graph)
        return torch.cat([self.features, self.proxies.rows.detach()], 1)

    def mean_features(self, graph: Graph) -> Tensor:
        """What it sees when it predicts."""
        if self.proxies is None:
            return self.features
        return self.proxies.append_mean(graph, self.features)

    def proxy_rows(self, graph: Graph, index: Tensor, *, predicting: bool = False) -> Tensor:
        """`(B, d)`: the proxies of a batch of nodes, as its step, or its predictions, see them."""
        if self.proxies is None:
            return self.features.new_zeros(len(index), 0)
        if predicting or self.proxy_in_student == "mean":
            return self.proxies.mean(graph).expand(len(index), -1)
        return self.proxies.rows.detach()[index]

    @torch.no_grad()
    def predict(self, graph: Graph, *, dropout: bool = False) -> Tensor:
        """Class probabilities `(N, C)`.

        Args:
            graph: The graph.
            dropout: Leave dropout on, as the official GraphAKD branch does when it evaluates.
        """
        self.network.train(dropout)
        return self.logits(graph, self.mean_features(graph)).softmax(1)


@dataclass(frozen=True)
class Fairness:
    """The term `alpha * L_fair` and the nodes it looks at; `fairness_of` makes one."""

    alpha: float
    groups: Tensor
    """`(N,)`, int64."""
    student_nodes: Tensor
    """I_S, node numbers."""
    proxy_nodes: Tensor
    """I_P."""
    positive: Tensor | None = None
    """`(N,)`, bool: for equal opportunity, the nodes that count as positive."""
    surrogate: Surrogate = "official"
    order: int = 9
    temperature: float = 0.1
    names: tuple[str, ...] = ("0", "1")
    """Of the groups."""

    def __call__(self, graph: Graph, probabilities: Tensor, nodes: Tensor) -> Tensor:
        """The weighted gap over `nodes`, a scalar."""
        gap = group_gap_loss(
            probabilities,
            self.groups,
            nodes,
            surrogate=self.surrogate,
            order=self.order,
            temperature=self.temperature,
            positive=self.positive,
            names=self.names,
            total=graph.messages.total,
        )
        return self.alpha * gap


def fairness_of(
    graph: Graph,
    targets: Targets,
    *,
    framework: Framework,
    objective: Objective,
    alpha: float,
    eo_labels: EOLabels = "teacher",
    positive_class: int = 1,
    surrogate: Surrogate = "official",
    order: int = 9,
    temperature: float = 0.1,
) -> Fairness | None:
    """The fairness term with the index sets of a framework (specification, section 2.4).

    CPF looks at all nodes but the training ones, in both steps; GraphAKD at the training nodes in
    the student's step, and at all nodes in the proxies'.

    Args:
        graph: The graph; `graph.sensitive` must be there.
        targets: The teacher's, for `eo_labels="teacher"`.
        framework: cpf or akd.
        objective: sp, statistical parity; eo, equal opportunity; none gives None, and so does a
            graph without groups.
        alpha: Weight of the term.
        eo_labels: Where equal opportunity takes labels from. teacher: true ones of training nodes,
            the teacher's decision elsewhere. validation: true ones of training and validation
            nodes, and no other nodes. train: of training nodes alone. official: true ones of all
            nodes, test nodes included, which leaks them.
        positive_class: The class of a positive decision.
        surrogate: Of the step; see `losses.step_surrogate`.
        order: Order of the Legendre surrogate.
        temperature: Of the sigmoid surrogate.

    Raises:
        ConfigError: The labels make no sense in the framework.
    """
    if objective == "none" or graph.sensitive is None:
        return None
    everyone = torch.arange(graph.nodes, device=graph.device)
    others = (~graph.training).nonzero().flatten()
    student_nodes, proxy_nodes = (others, others) if framework == "cpf" else (graph.train, everyone)
    positive: Tensor | None = None
    if objective == "eo":
        if eo_labels == "train" and framework == "cpf":
            raise ConfigError(NO_GRADIENT)
        positive = graph.labels == positive_class
        if eo_labels == "teacher":
            decided = targets.probabilities.argmax(1) == positive_class
            positive = torch.where(graph.training, positive, decided)
        elif eo_labels == "official":
            _log.warning(
                "--eo-labels official: the fairness term reads the labels of test nodes, as the "
                "authors' code does. Results on these nodes are not what new people would see."
            )
        else:
            allowed = graph.train if eo_labels == "train" else torch.cat([graph.train, graph.val])
            known = graph.rows(allowed)
            student_nodes = student_nodes[known[student_nodes]]
            proxy_nodes = proxy_nodes[known[proxy_nodes]]
    return Fairness(
        alpha,
        graph.sensitive,
        student_nodes,
        proxy_nodes,
        positive,
        surrogate,
        order,
        temperature,
        graph.groups,
    )


def cpf_epoch(
    graph: Graph, student: Student, targets: Targets, fairness: Fairness | None, step: Step
) -> dict[str, Tensor]:
    """One epoch of CPF: the distance to the teacher over all nodes but the training ones.

    PLP knows the labels of training nodes; other students, which CPF does not have, learn them by
    their cross entropy (inferred).

    Returns:
        The terms of the losses by name, detached scalars.
    """
    others = (~graph.training).nonzero().flatten()
    student.network.train()
    logits = student.logits(graph, student.step_features(graph))
    p = logits.softmax(1)
    terms = {
        "distance": distillation_loss(p, targets.probabilities, others, total=graph.messages.total)
    }
    if not isinstance(student.network, PLP):
        terms["labels"] = label_loss(graph, logits)
    if fairness is not None:
        terms["fairness"] = fairness(graph, p, fairness.student_nodes)
    step(terms, student.optimizer)
    return _detached(terms) | proxy_step(graph, student, fairness, step)


def akd_epoch(
    graph: Graph,
    student: Student,
    adversary: Adversary,
    adversary_optimizer: Optimizer,
    targets: Targets,
    fairness: Fairness | None,
    step: Step,
    *,
    train_adversary: bool = True,
    global_target: GlobalTarget = "reliant",
) -> dict[str, Tensor]:
    """One epoch of GraphAKD: discriminators, student, proxies.

    Args:
        graph: The graph.
        student: Its network has `embed`.
        adversary: The three discriminators.
        adversary_optimizer: Theirs.
        targets: With the embedding.
        fairness: The fairness term, or none.
        step: Backward and update.
        train_adversary: Whether this epoch trains the discriminators (GraphAKD's `d_critic`).
        global_target: Of `discriminators.student_losses`.

    Returns:
        The terms of the losses by name, detached scalars.
    """
    student.network.train()
    logits, embedding = student.embed(graph, student.step_features(graph))
    told: dict[str, Tensor] = {}
    if train_adversary:
        terms = discriminator_losses(graph, adversary, targets, logits.detach(), embedding.detach())
        step(terms, adversary_optimizer)
        told = _detached({f"discriminator_{name}": term for name, term in terms.items()})
    with frozen(adversary):
        terms = student_losses(
            graph, adversary, targets, logits, embedding, global_target=global_target
        )
        if fairness is not None:
            terms["fairness"] = fairness(graph, logits.softmax(1), fairness.student_nodes)
        step(terms, student.optimizer)
    return told | _detached(terms) | proxy_step(graph, student, fairness, step)


def label_loss(graph: Graph, logits: Tensor) -> Tensor:
    """Mean cross entropy over the training nodes of all processes."""
    loss = nn.functional.cross_entropy(
        logits[graph.train], graph.labels[graph.train], reduction="sum"
    )
    count = graph.messages.total(loss.new_tensor(float(len(graph.train))))
    return graph.messages.total(loss) / count


def proxy_step(
    graph: Graph, student: Student, fairness: Fairness | None, step: Step
) -> dict[str, Tensor]:
    """Gradient ascent of the proxies on the gap; the student stays as it is."""
    if fairness is None or student.proxies is None or student.proxy_optimizer is None:
        return {}
    with frozen(student.network):
        logits = student.logits(graph, student.proxies.append(student.features))
        gap = fairness(graph, logits.softmax(1), fairness.proxy_nodes)
        step({"proxy": -gap}, student.proxy_optimizer)
    return {"proxy": -gap.detach()}


@contextlib.contextmanager
def frozen(module: nn.Module) -> Generator[None, None, None]:
    """Compute no gradients of a module's parameters inside a `with`."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _detached(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: term.detach() for name, term in terms.items()}
