"""The graph networks that teach: GCN and GraphSAGE of the results, and four more.

Every network is called as `network(graph, features)` and returns logits `(N, C)`; those with an
embedding also have `network.embed(graph, features)`, which returns it beside the logits. Layers,
sizes and dropout are those of the official code; what was not found there is called inferred.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from modicum.errors import ConfigError
from modicum.methods.reliant.graphs.messages import MessageGraph

if TYPE_CHECKING:
    from modicum.methods.reliant.graphs.graph import Graph


def check_dropout(**shares: float) -> None:
    """Refuse probabilities of dropout outside of `[0, 1)`.

    Raises:
        ConfigError: One is.
    """
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ConfigError(f"{name}: expected at least 0 and below 1, found {share}")


def check_at_least(least: int, **counts: int) -> None:
    """Refuse counts below `least`.

    Raises:
        ConfigError: One is.
    """
    for name, count in counts.items():
        if count < least:
            raise ConfigError(f"{name}: expected at least {least}, found {count}")


class GraphConvolution(nn.Module):
    """`A^k x W^T + b`, A normalised: `D_in^(-1/2) A D_out^(-1/2)`.

    Starts Xavier uniform, with a bias of 0.

    Args:
        in_features: Columns of `x`.
        out_features: Columns out.
        hops: k.
        bias: Whether to add `b`.

    Attributes:
        weight: `(out_features, in_features)`.
        bias: `(out_features,)`, or None.
    """

    def __init__(
        self, in_features: int, out_features: int, *, hops: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.hops = hops
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        nn.init.xavier_uniform_(self.weight)

    def forward(self, messages: MessageGraph, x: Tensor) -> Tensor:
        """Takes `(N, in_features)` and returns `(N, out_features)`."""
        outputs, inputs = self.weight.shape
        if outputs < inputs:  # pass messages where there are fewer columns
            x = x @ self.weight.T
        for _ in range(self.hops):
            x = messages.propagate_normalised(x)
        if outputs < inputs:
            return x if self.bias is None else x + self.bias
        return functional.linear(x, self.weight, self.bias)


class WithEmbedding(nn.Module):
    """A network with an embedding, which GraphAKD compares."""

    def forward(self, graph: Graph, features: Tensor) -> Tensor:
        """Logits `(N, C)` of `features`, `(N, F)`."""
        return self.embed(graph, features)[0]

    def embed(self, graph: Graph, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(N, C)` and embedding `(N, H)`."""
        raise NotImplementedError


class GCN(WithEmbedding):
    """Graph convolutions with ReLU between them; dropout before all but the first.

    Its embedding is what the first layer puts out, after ReLU.

    Args:
        in_features: F.
        classes: C.
        hidden: Columns between the layers.
        layers: Graph convolutions.
        dropout: Probability.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self,
        in_features: int,
        classes: int,
        *,
        hidden: int = 64,
        layers: int = 3,
        dropout: float = 0.8,
    ) -> None:
        super().__init__()
        check_dropout(dropout=dropout)
        check_at_least(2, layers=layers)
        self.dropout = dropout
        widths = [in_features, *[hidden] * (layers - 1), classes]
        self.layers = nn.ModuleList(GraphConvolution(*pair) for pair in pairwise(widths))

    def embed(self, graph: Graph, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(N, C)` and embedding `(N, hidden)`."""
        messages = graph.messages
        first, *others, last = self.layers
        x = embedding = first(messages, features).relu()
        for layer in others:
            x = layer(messages, messages.dropout(x, self.dropout, self.training)).relu()
        return last(messages, messages.dropout(x, self.dropout, self.training)), embedding


class NeighbourMean(nn.Module):
    """GraphSAGE's "gcn" aggregator: `W (x_v + sum of x_u) / (degree(v) + 1) + b`.

    The neighbours u of v contain v by its self loop, so that it counts twice, as in the official
    code. Starts Xavier uniform with the gain of ReLU (inferred: the
    layer's default in the library they use), with a bias of 0.

    Args:
        in_features: Columns of `x`.
        out_features: Columns out.

    Attributes:
        weight: `(out_features, in_features)`.
        bias: `(out_features,)`.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        nn.init.xavier_uniform_(self.weight, gain=math.sqrt(2))

    def forward(self, messages: MessageGraph, x: Tensor) -> Tensor:
        """Takes `(N, in_features)` and returns `(N, out_features)`."""
        outputs, inputs = self.weight.shape
        if outputs < inputs:
            x = x @ self.weight.T
        x = (x + messages.propagate(x)) / (messages.in_degree + 1)[:, None]
        return x + self.bias if outputs < inputs else functional.linear(x, self.weight, self.bias)


class GraphSAGE(WithEmbedding):
    """Means over neighbourhoods with ReLU between them; dropout on the input and between.

    Its embedding is what the first layer puts out, before ReLU.

    Args:
        in_features: F.
        classes: C.
        hidden: Columns between the layers.
        layers: Means.
        dropout: Probability.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self,
        in_features: int,
        classes: int,
        *,
        hidden: int = 128,
        layers: int = 4,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_dropout(dropout=dropout)
        check_at_least(2, layers=layers)
        self.dropout = dropout
        widths = [in_features, *[hidden] * (layers - 1), classes]
        self.layers = nn.ModuleList(NeighbourMean(*pair) for pair in pairwise(widths))

    def embed(self, graph: Graph, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(N, C)` and embedding `(N, hidden)`."""
        messages = graph.messages
        first, *others = self.layers
        x = embedding = first(messages, messages.dropout(features, self.dropout, self.training))
        for layer in others:
            x = layer(messages, messages.dropout(x.relu(), self.dropout, self.training))
        return x, embedding


class GraphAttention(nn.Module):
    """Attention over in-neighbours, `heads` times: GAT without bias and residual.

    The weight of u -> v is the softmax over the neighbours u of `leaky(l . W x_u + r . W x_v)`,
    with a slope of 0.2. Starts Xavier normal with the gain of ReLU (inferred).

    Args:
        in_features: Columns of `x`.
        out_features: Columns out, a head.
        heads: Attentions beside each other.
        attention_dropout: Probability that an edge is left out of a head, after the softmax.

    Attributes:
        weight: `(heads * out_features, in_features)`.
        source: `(heads, out_features)`, l of each head.
        target: `(heads, out_features)`, r of each head.
    """

    def __init__(
        self, in_features: int, out_features: int, heads: int, attention_dropout: float
    ) -> None:
        super().__init__()
        self.attention_dropout = attention_dropout
        self.weight = nn.Parameter(torch.empty(heads * out_features, in_features))
        self.source = nn.Parameter(torch.empty(heads, out_features))
        self.target = nn.Parameter(torch.empty(heads, out_features))
        for parameter in self.parameters():
            nn.init.xavier_normal_(parameter, gain=math.sqrt(2))

    def forward(self, messages: MessageGraph, x: Tensor) -> Tensor:
        """Takes `(N, in_features)` and returns `(N, heads, out_features)`."""
        messages.require_neighbours()
        heads, outputs = self.source.shape
        x = (x @ self.weight.T).view(-1, heads, outputs)
        from_source = (x * self.source).sum(2)
        to_target = (x * self.target).sum(2)
        # Any number a target will do as the shift of its softmax. This one makes exponents at most
        # 0; what is too small for float32 counts as e^-60.
        highest = torch.stack([messages.maximum(column) for column in from_source.T])
        shift = functional.leaky_relu(highest + to_target, 0.2)
        gathered = messages.gather(from_source)
        sources, targets = messages.sources, messages.targets
        found: list[Tensor] = []
        for head in range(heads):
            score = gathered[sources, head] + to_target[targets, head]
            score = functional.leaky_relu(score, 0.2) - shift[targets, head]
            weights = score.clamp(min=-60).exp()
            total = messages.propagate(x.new_ones(messages.nodes, 1), weights)
            if self.training:
                weights = weights * messages.edge_dropout(self.attention_dropout)
            found.append(messages.propagate(x[:, head], weights) / total)
        return torch.stack(found, 1)


class GAT(WithEmbedding):
    """Two layers of attention: heads concatenated after the first, averaged after the second.

    Its embedding is what the first layer puts out, after ReLU (inferred).

    Args:
        in_features: F.
        classes: C.
        hidden: Columns of a head of the first layer.
        heads: Heads of the first layer; the second has one.
        dropout: Probability, on the input of each layer.
        attention_dropout: Probability that an edge is left out.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self,
        in_features: int,
        classes: int,
        *,
        hidden: int = 8,
        heads: int = 8,
        dropout: float = 0.6,
        attention_dropout: float = 0.6,
    ) -> None:
        super().__init__()
        check_dropout(dropout=dropout, attention_dropout=attention_dropout)
        check_at_least(1, heads=heads, hidden=hidden)
        self.dropout = dropout
        self.layers = nn.ModuleList(
            [
                GraphAttention(in_features, hidden, heads, attention_dropout),
                GraphAttention(heads * hidden, classes, 1, attention_dropout),
            ]
        )

    def embed(self, graph: Graph, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(N, C)` and embedding `(N, heads * hidden)`.

        Raises:
            DataError: No edge leads to some node.
        """
        messages = graph.messages
        first, last = self.layers
        x = first(messages, messages.dropout(features, self.dropout, self.training))
        embedding = x.flatten(1).relu()
        x = last(messages, messages.dropout(embedding, self.dropout, self.training))
        return x.mean(1), embedding


class APPNP(WithEmbedding):
    """Two linear layers, then personalised PageRank: `h <- (1 - t) A h + t h_0`, A normalised.

    Its embedding is what the first layer puts out, after ReLU (inferred).

    Args:
        in_features: F.
        classes: C.
        hidden: Columns between the linear layers.
        steps: Of propagation.
        teleport: t.
        dropout: Probability, before both linear layers.
        edge_dropout: Probability that an edge is left out of a step.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self,
        in_features: int,
        classes: int,
        *,
        hidden: int = 64,
        steps: int = 10,
        teleport: float = 0.1,
        dropout: float = 0.5,
        edge_dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_dropout(dropout=dropout, edge_dropout=edge_dropout)
        check_at_least(1, steps=steps)
        if not 0 <= teleport <= 1:
            raise ConfigError(f"teleport: expected 0 to 1, found {teleport}")
        self.steps = steps
        self.teleport = teleport
        self.dropout = dropout
        self.edge_dropout = edge_dropout
        self.layers = nn.ModuleList([nn.Linear(in_features, hidden), nn.Linear(hidden, classes)])

    def embed(self, graph: Graph, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(N, C)` and embedding `(N, hidden)`."""
        messages = graph.messages
        first, last = self.layers
        embedding = first(messages.dropout(features, self.dropout, self.training)).relu()
        start = h = last(messages.dropout(embedding, self.dropout, self.training))
        for _ in range(self.steps):
            if self.training:
                kept = messages.edge_dropout(self.edge_dropout)
                h = messages.propagate_normalised(h, kept)
            else:
                h = messages.propagate_normalised(h)
            h = torch.lerp(h, start, self.teleport)
        return h, embedding


class SGC(nn.Module):
    """One linear map without bias of the features after `hops` normalised propagations.

    Args:
        in_features: F.
        classes: C.
        hops: Propagations.

    Raises:
        ConfigError: `hops` is below 1.
    """

    def __init__(self, in_features: int, classes: int, *, hops: int = 2) -> None:
        super().__init__()
        check_at_least(1, hops=hops)
        self.layer = GraphConvolution(in_features, classes, hops=hops, bias=False)

    def forward(self, graph: Graph, features: Tensor) -> Tensor:
        """Logits `(N, C)` of `features`, `(N, F)`."""
        return self.layer(graph.messages, features)


class GCNII(WithEmbedding):
    """Deep graph convolutions that keep a share of their input and of themselves.

    Chen et al., "Simple and Deep Graph Convolutional Networks", ICML 2020: with
    `b_l = log(decay / l + 1)`, layer l makes `m = (1 - t) A h + t h_0` into
    `relu((1 - b_l) m + b_l m W_l)`. Sizes are inferred. Its embedding is `h_0` (inferred).

    Args:
        in_features: F.
        classes: C.
        hidden: Columns between the layers.
        layers: Graph convolutions.
        teleport: t.
        decay: How much the first layers transform; later ones do less.
        dropout: Probability, before every layer.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self,
        in_features: int,
        classes: int,
        *,
        hidden: int = 64,
        layers: int = 8,
        teleport: float = 0.1,
        decay: float = 0.5,
        dropout: float = 0.6,
    ) -> None:
        super().__init__()
        check_dropout(dropout=dropout)
        check_at_least(1, layers=layers)
        if not 0 <= teleport <= 1:
            raise ConfigError(f"teleport: expected 0 to 1, found {teleport}")
        if decay <= 0:
            raise ConfigError(f"decay: expected above 0, found {decay}")
        self.teleport = teleport
        self.decay = decay
        self.dropout = dropout
        self.first = nn.Linear(in_features, hidden)
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden, bias=False) for _ in range(layers))
        self.last = nn.Linear(hidden, classes)

    def embed(self, graph: Graph, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(N, C)` and embedding `(N, hidden)`."""
        messages = graph.messages
        h = start = self.first(messages.dropout(features, self.dropout, self.training)).relu()
        for depth, layer in enumerate(self.layers, start=1):
            h = messages.propagate_normalised(messages.dropout(h, self.dropout, self.training))
            mixed = torch.lerp(h, start, self.teleport)
            h = torch.lerp(mixed, layer(mixed), math.log(self.decay / depth + 1)).relu()
        return self.last(messages.dropout(h, self.dropout, self.training)), start
