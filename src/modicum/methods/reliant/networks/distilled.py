"""What a run leaves: teacher, plain student, RELIANT student and its proxies, in one module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from modicum.engine.random import generator
from modicum.errors import ConfigError
from modicum.methods.reliant.graphs.graph import Graph
from modicum.methods.reliant.networks.students import PLP, DecoupledStudent, GCNStudent, SGCStudent
from modicum.methods.reliant.networks.teachers import APPNP, GAT, GCN, GCNII, SGC, Count, GraphSAGE
from modicum.options import check_arguments

TeacherName = Literal["gcn", "sage", "gat", "appnp", "sgc", "gcnii"]
StudentName = Literal["plp", "sgc", "gcn", "decoupled"]

TEACHERS: Mapping[TeacherName, Callable[..., nn.Module]] = {
    "gcn": GCN, "sage": GraphSAGE, "gat": GAT, "appnp": APPNP, "sgc": SGC, "gcnii": GCNII
}  # fmt: skip
STUDENTS: Mapping[StudentName, Callable[..., nn.Module]] = {
    "plp": PLP, "sgc": SGCStudent, "gcn": GCNStudent, "decoupled": DecoupledStudent
}  # fmt: skip

OWN = "own"
"""Stands for the name of a network that is not ours."""


class NodeClassifier(Protocol):
    """What a teacher or student of your own must be: an `nn.Module` called like this.

    For the adversarial framework (GraphAKD) it also needs `embed(graph, features)`, which returns
    logits and the node embedding `(N, H)` the discriminators compare.
    """

    def __call__(self, graph: Graph, features: Tensor) -> Tensor:
        """Logits `(N, C)` of every node; `graph.messages` passes messages.

        `features`, `(N, F)`, are used in place of `graph.features`: students see proxies appended.
        """
        ...


class Proxies(nn.Module):
    """The proxies of bias: a learnable row of `size` numbers a node, U[0, 1) (official code)."""

    by_node = ("rows",)

    @check_arguments
    def __init__(self, nodes: int, size: Count = 2) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.rand(nodes, size))

    @classmethod
    def from_rows(cls, rows: Tensor, *, learnable: bool = True) -> Proxies:
        """Given rows `(N, d)`."""
        proxies = cls(*rows.shape)
        proxies.rows = nn.Parameter(rows.float().clone(), requires_grad=learnable)
        return proxies

    @classmethod
    def of_groups(cls, sensitive: Tensor, groups: int) -> Proxies:
        """Fixed rows that say which group a node is in: `[s, 1 - s]` where there are two."""
        return cls.from_rows(nn.functional.one_hot(sensitive, groups).flip(1), learnable=False)

    def append(self, features: Tensor) -> Tensor:
        """Node mode: `(N, F + d)`, each node with its own proxy."""
        return torch.cat([features, self.rows], 1)

    def append_mean(self, graph: Graph, features: Tensor) -> Tensor:
        """Mean mode: `(N, F + d)`, every node with the same row, which cannot tell groups apart."""
        return append_row(features, self.mean(graph))

    def mean(self, graph: Graph) -> Tensor:
        """`(d,)`: the mean row over the nodes of all processes, without gradient: the student's
        step leaves the proxies as they are.
        """
        rows = self.rows.detach()
        total = graph.messages.total(torch.cat([rows.sum(0), rows.new_tensor([float(len(rows))])]))
        return total[:-1] / total[-1]


def append_row(features: Tensor, row: Tensor) -> Tensor:
    """The same row of numbers appended to the features of every node."""
    # features.shape[0] rather than its len, which an export to ONNX would take for a constant.
    return torch.cat([features, row.to(features.dtype).expand(features.shape[0], -1)], 1)


class Distilled(nn.Module):
    """The networks of one run, so that they can be compared on the same nodes.

    Args:
        nodes: N of the graph they were trained on.
        in_features: F, its columns.
        networks: By role: `teacher`, if one was trained; `plain`, the student distilled without
            the fairness term; `reliant`, the student with it.
        proxy_size: Columns of proxies the RELIANT student sees, 0 for none.
        visible: Numbers of the features it sees; None for all.

    Attributes:
        proxies: `(N, d)`, the proxies of training. Only their mean is used to predict.
        mean_proxy: `(d,)`, the row every node gets.
    """

    proxies: Tensor
    mean_proxy: Tensor
    arguments: Mapping[str, Any]
    """What `build` makes these networks of, JSON-able."""

    def __init__(
        self, nodes: int, in_features: int, networks: Mapping[str, nn.Module],
        proxy_size: int = 0, visible: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.nodes, self.in_features = nodes, in_features
        self.networks = nn.ModuleDict(networks)
        self.visible = None if visible is None else list(visible)
        self.register_buffer("proxies", torch.zeros(nodes, proxy_size))
        self.register_buffer("mean_proxy", torch.zeros(proxy_size))

    def forward(self, graph: Graph) -> Tensor:
        """Class probabilities `(N, C)` of the network that decides, see `role`."""
        return self.probabilities(graph, self.role)

    @property
    def role(self) -> str:
        """Which network decides: the RELIANT student, without it the plain one, or the teacher."""
        return next(role for role in ("reliant", "plain", "teacher") if role in self.networks)

    def probabilities(self, graph: Graph, role: str) -> Tensor:
        """Class probabilities `(N, C)` of the network in a role.

        `graph` may have more nodes than the one they were trained on, after its own
        (`tables.join`). PLP learnt a number for each of its own; new ones get the mean (inferred).
        """
        network = self.networks[role]
        features = self.student_features(graph) if role == "reliant" else graph.features
        if isinstance(network, PLP) and graph.nodes != self.nodes:
            own = network.balance if graph.nodes > self.nodes else network.balance[:0]
            balance = torch.cat([own, network.mean_balance(graph.nodes - len(own))])
            return network(graph, features, balance=balance).softmax(1)
        return network(graph, features).softmax(1)

    def student_features(self, graph: Graph) -> Tensor:
        """What the RELIANT student sees: its columns of the features, and the mean proxy."""
        features = graph.features if self.visible is None else graph.features[:, self.visible]
        return append_row(features, self.mean_proxy)


def build_teacher(name: TeacherName, in_features: int, classes: int, **options: Any) -> nn.Module:
    """A teacher by name, with options of its own."""
    return TEACHERS[name](in_features, classes, **options)


def build_student(
    name: StudentName, in_features: int, classes: int, nodes: int, **options: Any
) -> nn.Module:
    """A student by name; `nodes` are those of the graph, of which PLP keeps a number each."""
    of_nodes = {"nodes": nodes} if name == "plp" else {}
    return STUDENTS[name](in_features, classes, **of_nodes, **options)


def build(
    nodes: int, in_features: int, networks: Mapping[str, Mapping[str, Any]],
    proxy_size: int = 0, visible: Sequence[int] | None = None,
) -> Distilled:  # fmt: skip
    """The untrained networks of a run from what its file of weights says; see `Distilled`.

    For each role, `networks` has the name of the network and the arguments that make it.

    Raises:
        ConfigError: A network was the user's own, which only the user can build.
    """
    built: dict[str, nn.Module] = {}
    for role, arguments in networks.items():
        options = dict(arguments)
        name = options.pop("name")
        if name == OWN:
            raise ConfigError(
                f"the {role} network of this file was built by a program of yours. Build it there, "
                f"and load the tensors named networks.{role}.* into it."
            )
        of_role = build_teacher if role == "teacher" else partial(build_student, nodes=nodes)
        built[role] = of_role(name, **options)
    distilled = Distilled(nodes, in_features, built, proxy_size, visible)
    distilled.arguments = {
        "nodes": nodes, "in_features": in_features,
        "networks": {role: dict(arguments) for role, arguments in networks.items()},
        "proxy_size": proxy_size, "visible": distilled.visible,
    }  # fmt: skip
    return distilled


def example(network: nn.Module) -> tuple[Graph]:
    """A small random graph of the size the networks were trained on."""
    assert isinstance(network, Distilled)
    random, nodes = generator("example"), network.nodes
    graph = Graph.build(
        features=torch.randn(nodes, network.in_features, generator=random),
        edges=torch.randint(0, nodes, (2, 4 * nodes), generator=random),
        labels=torch.arange(nodes) % 2,
        train=range(nodes // 2), val=range(nodes // 2, nodes - 2), test=range(nodes - 2, nodes),
    )  # fmt: skip
    return (graph,)
