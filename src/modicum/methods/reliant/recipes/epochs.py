"""One epoch of RELIANT inside either distillation framework, CPF or GraphAKD.

An epoch alternates (see README, What it is):

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
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from modicum.methods.reliant import losses
from modicum.methods.reliant.graphs.graph import Graph
from modicum.methods.reliant.graphs.messages import at_least_float32
from modicum.methods.reliant.losses import GlobalTarget, Outputs
from modicum.methods.reliant.networks.discriminators import Adversary
from modicum.methods.reliant.networks.distilled import Proxies
from modicum.methods.reliant.networks.students import PLP, DecoupledStudent
from modicum.methods.reliant.recipes.fairness import FairnessTerm
from modicum.methods.reliant.recipes.teacher import Targets
from modicum.methods.reliant.recipes.training import Step

ProxyInStudent = Literal["mean", "node"]


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

    def embed(self, graph: Graph, features: Tensor) -> Outputs:
        """Logits `(N, C)` and embedding `(N, H)`, float32 or better."""
        embed: Any = self.network.embed
        with self.precision():
            logits, embedding = embed(graph, features)
        return Outputs(at_least_float32(logits), at_least_float32(embedding))

    def rows_logits(self, rows: Tensor, proxies: Tensor) -> Tensor:
        """Logits `(B, C)`, float32 or better, of rows `(B, F * (k + 1))` of `PropagatedFeatures`
        and proxies `(B, d)`; of a decoupled student.
        """
        assert isinstance(self.network, DecoupledStudent)
        with self.precision():
            logits = self.network.of_rows(rows, proxies)
        return at_least_float32(logits)

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
        """Class probabilities `(N, C)`; with `dropout` as GraphAKD's official branch evaluates."""
        self.network.train(dropout)
        return self.logits(graph, self.mean_features(graph)).softmax(1)


def cpf_epoch(
    graph: Graph, student: Student, targets: Targets, fairness: FairnessTerm | None, step: Step
) -> dict[str, Tensor]:
    """One epoch of CPF: the distance to the teacher over all nodes but the training ones.

    PLP knows the labels of training nodes; other students, which CPF does not have, learn them by
    their cross entropy (inferred). Returns the terms of the losses by name, detached scalars.
    """
    others, total = (~graph.training).nonzero().flatten(), graph.messages.total
    student.network.train()
    logits = student.logits(graph, student.step_features(graph))
    p = logits.softmax(1)
    terms = {"distance": losses.distillation_loss(p, targets.probabilities, others, total=total)}
    if not isinstance(student.network, PLP):
        terms["labels"] = losses.label_loss(logits, graph.labels, graph.train, total=total)
    if fairness is not None:
        terms["fairness"] = fairness(p, fairness.student_nodes)
    step(terms, student.optimizer)
    return _detached(terms) | proxy_step(graph, student, fairness, step)


def akd_epoch(
    graph: Graph,
    student: Student,
    adversary: Adversary,
    adversary_optimizer: Optimizer,
    targets: Targets,
    fairness: FairnessTerm | None,
    step: Step,
    *,
    train_adversary: bool = True,
    global_target: GlobalTarget = "reliant",
) -> dict[str, Tensor]:
    """One epoch of GraphAKD: discriminators (if `train_adversary`), student, proxies.

    The student's network has `embed`; the targets have an embedding. Returns as `cpf_epoch`.
    """
    assert targets.embedding is not None
    real = Outputs(targets.log_probabilities, targets.embedding)
    known = {"labels": graph.labels, "train": graph.train}
    student.network.train()
    fake = student.embed(graph, student.step_features(graph))
    told: dict[str, Tensor] = {}
    if train_adversary:
        terms = losses.discriminator_losses(adversary, graph.messages, real, fake, **known)
        step(terms, adversary_optimizer)
        told = _detached({f"discriminator_{name}": term for name, term in terms.items()})
    with frozen(adversary):
        terms = losses.student_losses(
            adversary, graph.messages, real, fake, **known, global_target=global_target
        )
        if fairness is not None:
            terms["fairness"] = fairness(fake.logits.softmax(1), fairness.student_nodes)
        step(terms, student.optimizer)
    return told | _detached(terms) | proxy_step(graph, student, fairness, step)


def proxy_step(
    graph: Graph, student: Student, fairness: FairnessTerm | None, step: Step
) -> dict[str, Tensor]:
    """Gradient ascent of the proxies on the gap; the student stays as it is."""
    if fairness is None or student.proxies is None or student.proxy_optimizer is None:
        return {}
    with frozen(student.network):
        logits = student.logits(graph, student.proxies.append(student.features))
        gap = fairness(logits.softmax(1), fairness.proxy_nodes)
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
