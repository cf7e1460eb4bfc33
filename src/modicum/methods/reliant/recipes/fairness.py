"""The fairness term: its options, the nodes it looks at, and where it takes labels from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from modicum.errors import ConfigError
from modicum.methods.reliant.graphs.graph import Graph
from modicum.methods.reliant.losses import Surrogate, Total, group_gap_loss, only_process
from modicum.options import Ge, Gt, Interval, Options, refuse

Framework = Literal["cpf", "akd"]

_log = logging.getLogger("modicum")


@dataclass(frozen=True)
class Fairness(Options):
    """The fairness term of the RELIANT student."""

    objective: Literal["sp", "eo", "none"] = "sp"
    """sp, statistical parity; eo, equal opportunity; none: only the plain student."""
    alpha: Annotated[float, Interval(ge=0, lt=float("inf"))] | None = None
    """Weight of the fairness term; none: 1000 for cpf, of fewer nodes as many as there are; 10 for
    akd."""
    alpha_scale: Literal["official", "per_sqrt_node"] = "official"
    """What alpha of cpf is relative to. Its distance grows with the square root of the number of
    nodes; per_sqrt_node multiplies alpha by it, so that one alpha serves graphs of all sizes."""
    surrogate: Surrogate = "official"
    """Smooth stand-in for a decision: official, legendre (the correctly normalised series),
    identity (mean probabilities), or sigmoid."""
    surrogate_order: Annotated[int, Ge(1)] = 9
    """Odd order of the legendre surrogate."""
    surrogate_temperature: Annotated[float, Gt(0)] = 0.1
    """Temperature of the sigmoid surrogate."""
    eo_labels: Literal["teacher", "validation", "train", "official"] = "teacher"
    """Where eo takes labels from: teacher (true ones on training nodes, the teacher's decisions
    elsewhere), validation (true ones on training and validation nodes, no other nodes), train, or
    official (true ones on all nodes, which leaks the labels of test nodes)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.surrogate_order % 2 == 0:
            raise refuse("surrogate_order", self.surrogate_order, "odd and at least 1")
        if self.alpha_scale != "official" and self.alpha is None:
            raise ConfigError(
                f"--alpha-scale {self.alpha_scale}: the usual alpha is meant for the official "
                f"scale; give --alpha as well. Divide by the square root of the number of nodes."
            )

    def refuse_without_gradient(self, framework: Framework) -> None:
        """Raise a `ConfigError` if no node that the term looks at would have a label."""
        if framework == "cpf" and (self.objective, self.eo_labels) == ("eo", "train"):
            raise ConfigError(
                "--eo-labels train --framework cpf: the fairness term of CPF looks at nodes that "
                "are not trained on, and would know no labels of theirs. Use teacher or validation."
            )


@dataclass(frozen=True)
class FairnessTerm:
    """`alpha * L_fair` and the nodes it looks at; `fairness_term` makes one."""

    alpha: float
    groups: Tensor
    """`(N,)`, int64."""
    student_nodes: Tensor
    """I_S, node numbers."""
    proxy_nodes: Tensor
    """I_P."""
    positive: Tensor | None = None
    """`(N,)`, bool: for equal opportunity, the nodes that count as positive."""
    surrogate: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Arguments of `losses.step_surrogate`."""
    names: tuple[str, ...] = ("0", "1")
    """Of the groups."""
    total: Total = only_process

    def __call__(self, probabilities: Tensor, nodes: Tensor) -> Tensor:
        """The weighted gap over `nodes`, a scalar."""
        how = {"positive": self.positive, "names": self.names, "total": self.total}
        return self.alpha * group_gap_loss(
            probabilities, self.groups, nodes, **how, **self.surrogate
        )


def fairness_term(
    graph: Graph, teacher: Tensor, fairness: Fairness, framework: Framework, positive_class: int = 1
) -> FairnessTerm | None:
    """The fairness term with the index sets of a framework.

    CPF looks at all nodes but the training ones, in both steps; GraphAKD at the training nodes in
    the student's step, and at all nodes in the proxies' (official code).

    Args:
        graph: The graph; `graph.sensitive` must be there.
        teacher: `(N, C)`, its probabilities.
        fairness: What the term is; `alpha` must be there. The objective none gives None, and so
            does a graph without groups.
        framework: cpf or akd.
        positive_class: The class of a positive decision.

    Raises:
        ConfigError: The labels make no sense in the framework.
    """
    if fairness.objective == "none" or graph.sensitive is None:
        return None
    everyone = torch.arange(graph.nodes, device=graph.device)
    others = (~graph.training).nonzero().flatten()
    student_nodes, proxy_nodes = (others, others) if framework == "cpf" else (graph.train, everyone)
    positive: Tensor | None = None
    if fairness.objective == "eo":
        fairness.refuse_without_gradient(framework)
        labels = fairness.eo_labels
        positive = graph.labels == positive_class
        if labels == "teacher":
            decided = teacher.argmax(1) == positive_class
            positive = torch.where(graph.training, positive, decided)
        elif labels == "official":
            _log.warning(
                "--eo-labels official: the fairness term reads the labels of test nodes, as the "
                "authors' code does. Results on these nodes are not what new people would see."
            )
        else:
            allowed = graph.train if labels == "train" else torch.cat([graph.train, graph.val])
            known = graph.rows(allowed)
            student_nodes = student_nodes[known[student_nodes]]
            proxy_nodes = proxy_nodes[known[proxy_nodes]]
    assert fairness.alpha is not None
    messages, by_nodes = graph.messages, fairness.alpha_scale == "per_sqrt_node"
    return FairnessTerm(
        fairness.alpha * (messages.total_nodes**0.5 if by_nodes else 1.0),
        graph.sensitive,
        student_nodes,
        proxy_nodes,
        positive,
        {
            "surrogate": fairness.surrogate,
            "order": fairness.surrogate_order,
            "temperature": fairness.surrogate_temperature,
        },
        graph.groups,
        messages.total,
    )
