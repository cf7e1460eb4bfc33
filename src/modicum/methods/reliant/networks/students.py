"""The networks that are taught: CPF's label propagation, and GraphAKD's graph convolutions.

Called and made as teachers are: `network(graph, features)` returns logits `(N, C)`. Layers are
those of the official code.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import torch
from torch import Tensor, nn

from modicum.errors import DataError
from modicum.methods.reliant.graphs.messages import MessageGraph
from modicum.methods.reliant.networks.teachers import Count, Dropout, GraphConvolution, Layered
from modicum.options import Ge, check_arguments

if TYPE_CHECKING:
    from modicum.methods.reliant.graphs.graph import Graph

Attention = Literal["features", "nodes"]

LEAST_EXPONENT = -60.0
"""Of a softmax over neighbours, against the largest score of the graph. A score further below
counts as this: sums of its exponentials would vanish in float32."""


class _Attention(NamedTuple):
    """How a round averages neighbours: `propagate(weights * h, kept) / total`.

    That is the softmax of the scores over a node's neighbours, since the score of a message does
    not depend on who hears it: two sparse products, and no number an edge. The weights, `(N, 1)`,
    are exp of the scores, the total their sums over neighbours.
    """

    weights: Tensor
    total: Tensor
    kept: Tensor | None
    """`(E,)`, dropout of edges; None for none."""


class PLP(nn.Module):
    """Parameterised label propagation beside an MLP, CPF's student.

    Soft labels H begin as the labels of training nodes, and 1/C elsewhere. A round makes them

        H_v <- relu(sigmoid(balance_v) * sum_u A_uv H_u + (1 - sigmoid(balance_v)) * mlp(x_v))

    where A_uv is the softmax of the scores of v's neighbours u, and then restores the labels of
    training nodes. All rounds share their parameters; in training each draws its own dropout.

    Args:
        in_features: F.
        classes: C.
        nodes: N of the graph it is trained on.
        rounds: The authors' `num_layers` is one more.
        mlp_layers: Linear layers of the MLP; 0 propagates labels alone.
        hidden: Columns between them.
        dropout: Probability, on the features in scores and before every linear layer.
        attention_dropout: Probability that an edge is left out of a round, after the softmax.
        attention: `"features"`: the score of node u is linear in its features (CPF's inductive);
            `"nodes"`: a free number (transductive).
        tied_dropout: Draw dropout once for all rounds of a forward pass. Another regularisation
            than the authors', at a fraction of the cost.

    Attributes:
        balance: `(N, 1)`, a parameter: lambda of CPF.
        score: `(1, F)` or `(N, 1)`, a parameter: what makes the scores.
        mlp: The linear layers.
    """

    @check_arguments
    def __init__(
        self, in_features: int, classes: int, nodes: int, *,
        rounds: Count = 9, mlp_layers: Annotated[int, Ge(0)] = 2, hidden: Count = 64,
        dropout: Dropout = 0.8, attention_dropout: Dropout = 0.2, attention: Attention = "features",
        tied_dropout: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.classes, self.rounds = classes, rounds
        self.dropout, self.attention_dropout = dropout, attention_dropout
        self.attention: Attention = attention
        self.by_node = ("balance",) if attention == "features" else ("balance", "score")
        self.tied_dropout = tied_dropout
        self.balance = nn.Parameter(torch.zeros(nodes, 1))
        shape = (1, in_features) if attention == "features" else (nodes, 1)
        self.score = nn.Parameter(torch.empty(shape))
        nn.init.xavier_normal_(self.score, gain=math.sqrt(2))
        widths = [in_features, *[hidden] * (mlp_layers - 1), classes] if mlp_layers else []
        self.mlp = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))

    def forward(self, graph: Graph, features: Tensor, balance: Tensor | None = None) -> Tensor:
        """Soft labels `(N, C)` after the last round, not negative, which serve as logits.

        `balance`, `(N, 1)`, is used in place of the learnt one: `mean_balance` on other nodes.

        Raises:
            DataError: No edge leads to some node, or the graph has other nodes than `balance`.
        """
        messages = graph.messages
        messages.require_neighbours()
        balance = self.balance if balance is None else balance
        self._require_numbers_of(graph, balance)
        labels, unknown = self._first_labels(graph)
        # A row of a training node is its label in `known`, and 0 in `share` and `own`: the label
        # comes out of every round as it is.
        known = labels * (1 - unknown)
        share = balance.sigmoid() * unknown if len(self.mlp) else unknown
        own = unknown - share
        rest = known
        heard: _Attention | None = None
        for _ in range(self.rounds):
            if heard is None or (self.training and not self.tied_dropout):
                heard = self._attend(graph, features)
                rest = known + own * self._propose(messages, features) if len(self.mlp) else known
            mean = messages.propagate(heard.weights * labels, heard.kept) / heard.total
            labels = torch.addcmul(rest, share, mean).relu()
        return labels

    def scores(self, graph: Graph, features: Tensor) -> Tensor:
        """What makes a node heard by its neighbours: `(N, 1)`, before the softmax."""
        of_features = self.attention == "features"
        x = features if of_features else self.score
        x = graph.messages.dropout(x, self.dropout, self.training)
        return x @ self.score.T if of_features else x

    def mean_balance(self, nodes: int) -> Tensor:
        """The mean of the learnt balances, for each of `nodes` other nodes: `(nodes, 1)` (inferred:
        it is not published how the student predicts for nodes it was not trained on).
        """
        return self.balance.detach().mean().expand(nodes, 1)

    def _attend(self, graph: Graph, features: Tensor) -> _Attention:
        messages = graph.messages
        score = self.scores(graph, features)
        weights = (score - messages.maximum(score)).clamp(min=LEAST_EXPONENT).exp()
        dropped = self.training and self.attention_dropout > 0
        kept = messages.edge_dropout(self.attention_dropout) if dropped else None
        return _Attention(weights, messages.propagate(weights), kept)

    def _first_labels(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Soft labels `(N, C)`, and `(N, 1)`: 0 for training nodes, 1 for others."""
        unknown = self.balance.new_ones(graph.nodes, 1)
        unknown[graph.train] = 0
        labels = unknown.expand(-1, self.classes) / self.classes
        labels[graph.train, graph.labels[graph.train]] = 1
        return labels, unknown

    def _propose(self, messages: MessageGraph, x: Tensor) -> Tensor:
        """`mlp(x)`, `(N, C)`."""
        for place, layer in enumerate(self.mlp):
            x = x.relu() if place else x
            x = layer(messages.dropout(x, self.dropout, self.training))
        return x

    def _require_numbers_of(self, graph: Graph, balance: Tensor) -> None:
        if self.attention == "nodes" and len(self.score) != graph.nodes:
            raise DataError(
                f"{graph.name}: it has {graph.nodes} nodes, but this student learnt a score for "
                f"each of {len(self.score)}, and none for others. Train with attention='features' "
                f"to predict on other nodes."
            )
        if len(balance) != graph.nodes:
            raise DataError(
                f"{graph.name}: it has {graph.nodes} nodes, but there are balances of "
                f"{len(balance)}. Pass balance=student.mean_balance({graph.nodes}) to predict on "
                f"nodes that the student was not trained on."
            )


class SGCStudent(Layered):
    """Graph convolutions of `hops` propagations each, ReLU and dropout between: GraphAKD's student.

    Its embedding is what the last but one layer puts out, after ReLU and before dropout.
    """

    @check_arguments
    def __init__(
        self, in_features: int, classes: int, *,
        hidden: int = 64, layers: int = 3, dropout: float = 0.5, hops: Count = 1,
    ) -> None:  # fmt: skip
        layer = partial(GraphConvolution, hops=hops)
        super().__init__(layer, in_features, classes, hidden, layers, dropout)

    def embed(self, graph: Graph, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(N, C)` and embedding `(N, hidden)`."""
        messages = graph.messages
        first, *others = self.layers
        x = embedding = first(messages, features)
        for layer in others:
            embedding = x.relu()
            x = layer(messages, self.drop(messages, embedding))
        return x, embedding


class GCNStudent(SGCStudent):
    """Graph convolutions, ReLU and dropout between: the student of upstream GraphAKD.

    `SGCStudent` of one hop, its default; the name is what distinguishes them.
    """


class DecoupledStudent(nn.Module):
    """An MLP on features that were propagated 0 to k times (as SIGN and SGC do; inferred here).

    The last `proxy_size` columns, d, are not propagated: a constant has no neighbours. k is `hops`;
    dropout is before all linear layers but the first.
    """

    @check_arguments
    def __init__(
        self, in_features: int, classes: int, *,
        hops: Annotated[int, Ge(0)] = 2, proxy_size: int = 0, hidden: Count = 64, layers: Count = 3,
        dropout: Dropout = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        self.hops, self.proxy_size = hops, proxy_size
        first = (in_features - proxy_size) * (hops + 1) + proxy_size
        widths = [first, *[hidden] * (layers - 1), classes]
        steps: list[nn.Module] = []
        for place, (inputs, outputs) in enumerate(pairwise(widths)):
            steps += [nn.ReLU(), nn.Dropout(dropout)] if place else []
            steps.append(nn.Linear(inputs, outputs))
        self.mlp = nn.Sequential(*steps)

    def forward(self, graph: Graph, features: Tensor) -> Tensor:
        """Logits `(N, C)` of `features`, `(N, F + d)`."""
        x, proxies = features.split([features.shape[1] - self.proxy_size, self.proxy_size], 1)
        return self.of_rows(torch.cat(hops_of(graph, x, self.hops), 1), proxies)

    def of_rows(self, rows: Tensor, proxies: Tensor) -> Tensor:
        """Logits `(B, C)` of some nodes: rows of `PropagatedFeatures`, proxies `(B, d)`."""
        return self.mlp(torch.cat([rows, proxies], 1))


def hops_of(graph: Graph, x: Tensor, hops: int) -> list[Tensor]:
    """`x, A x, …, A^hops x`, each `(N, F)`, A normalised symmetrically."""
    found = [x]
    for _ in range(hops):
        found.append(graph.messages.propagate_normalised(found[-1]))
    return found
