"""The graph networks that teach: GCN and GraphSAGE of the results, and four more.

Every network is called as `network(graph, features)` and returns logits `(N, C)`; those with an
embedding also have `network.embed(graph, features)`, which returns it beside the logits. All are
made of `in_features`, F, and `classes`, C, and raise a `ConfigError` for an option out of its
range. Layers, sizes and dropout are those of the official code; what was not found there is called
inferred.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from modicum.methods.reliant.graphs.messages import MessageGraph
from modicum.options import Ge, Gt, Interval, check_arguments

if TYPE_CHECKING:
    from modicum.methods.reliant.graphs.graph import Graph

Count: TypeAlias = Annotated[int, Ge(1)]
Dropout: TypeAlias = Annotated[float, Interval(ge=0, lt=1)]
Share: TypeAlias = Annotated[float, Interval(ge=0, le=1)]


class _Aggregation(nn.Module):
    """`S(x) W^T + b`, S a sum over neighbours, taken of `x` or `x W^T`: whichever is narrower.

    Starts Xavier uniform, with a bias of 0. W is `weight`, `(out_features, in_features)`.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool, gain: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        nn.init.xavier_uniform_(self.weight, gain=gain)

    def aggregate(self, messages: MessageGraph, x: Tensor) -> Tensor:
        """`S(x)`."""
        raise NotImplementedError

    def forward(self, messages: MessageGraph, x: Tensor) -> Tensor:
        """Takes `(N, in_features)` and returns `(N, out_features)`."""
        outputs, inputs = self.weight.shape
        if outputs >= inputs:
            return functional.linear(self.aggregate(messages, x), self.weight, self.bias)
        x = self.aggregate(messages, x @ self.weight.T)
        return x if self.bias is None else x + self.bias


class GraphConvolution(_Aggregation):
    """`A^hops x W^T + b`, A normalised: `D_in^(-1/2) A D_out^(-1/2)`."""

    def __init__(
        self, in_features: int, out_features: int, *, hops: int = 1, bias: bool = True
    ) -> None:
        super().__init__(in_features, out_features, bias, gain=1.0)
        self.hops = hops

    def aggregate(self, messages: MessageGraph, x: Tensor) -> Tensor:
        """`A^hops x`."""
        for _ in range(self.hops):
            x = messages.propagate_normalised(x)
        return x


class NeighbourMean(_Aggregation):
    """GraphSAGE's "gcn" aggregator: `W (x_v + sum of x_u) / (degree(v) + 1) + b`.

    The neighbours u of v contain v by its self loop, so that it counts twice, as in the official
    code. The gain of the start is that of ReLU (inferred: the layer's default in the library they
    use).
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=True, gain=math.sqrt(2))

    def aggregate(self, messages: MessageGraph, x: Tensor) -> Tensor:
        """`(x_v + sum of x_u) / (degree(v) + 1)`."""
        return (x + messages.propagate(x)) / (messages.in_degree + 1)[:, None]


class WithEmbedding(nn.Module):
    """A network with an embedding, which GraphAKD compares."""

    dropout: float

    def forward(self, graph: Graph, features: Tensor) -> Tensor:
        """Logits `(N, C)` of `features`, `(N, F)`."""
        return self.embed(graph, features)[0]

    def embed(self, graph: Graph, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(N, C)` and embedding `(N, H)`."""
        raise NotImplementedError

    def drop(self, messages: MessageGraph, x: Tensor) -> Tensor:
        """`x`, `(N, ...)`, with dropout in training."""
        return messages.dropout(x, self.dropout, self.training)


class Layered(WithEmbedding):
    """A network of `layers` that pass messages, with `hidden` columns between them.

    Each is made by `layer`, of the numbers of its columns in and out.
    """

    @check_arguments
    def __init__(
        self, layer: Callable[[int, int], nn.Module], in_features: int, classes: int,
        hidden: Count, layers: Annotated[int, Ge(2)], dropout: Dropout,
    ) -> None:  # fmt: skip
        super().__init__()
        self.dropout = dropout
        widths = [in_features, *[hidden] * (layers - 1), classes]
        self.layers = nn.ModuleList(layer(*pair) for pair in pairwise(widths))


class GCN(Layered):
    """Graph convolutions with ReLU between them; dropout before all but the first.

    Its embedding, of `hidden` columns, is what the first layer puts out, after ReLU.
    """

    def __init__(
        self, in_features: int, classes: int, *,
        hidden: int = 64, layers: int = 3, dropout: float = 0.8,
    ) -> None:  # fmt: skip
        super().__init__(GraphConvolution, in_features, classes, hidden, layers, dropout)

    def embed(self, graph: Graph, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(N, C)` and embedding `(N, hidden)`."""
        messages = graph.messages
        first, *others, last = self.layers
        x = embedding = first(messages, features).relu()
        for layer in others:
            x = layer(messages, self.drop(messages, x)).relu()
        return last(messages, self.drop(messages, x)), embedding


class GraphSAGE(Layered):
    """Means over neighbourhoods with ReLU between them; dropout on the input and between.

    Its embedding, of `hidden` columns, is what the first layer puts out, before ReLU.
    """

    def __init__(
        self, in_features: int, classes: int, *,
        hidden: int = 128, layers: int = 4, dropout: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__(NeighbourMean, in_features, classes, hidden, layers, dropout)

    def embed(self, graph: Graph, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(N, C)` and embedding `(N, hidden)`."""
        messages = graph.messages
        first, *others = self.layers
        x = embedding = first(messages, self.drop(messages, features))
        for layer in others:
            x = layer(messages, self.drop(messages, x.relu()))
        return x, embedding


class GraphAttention(nn.Module):
    """Attention over in-neighbours, `heads` times: GAT without bias and residual.

    The weight of u -> v is the softmax over the neighbours u of `leaky(l . W x_u + r . W x_v)`,
    with a slope of 0.2. Starts Xavier normal with the gain of ReLU (inferred). After the softmax an
    edge is left out of a head with a probability of `attention_dropout`.

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
    """Two layers of attention: `heads` heads concatenated after the first, one after the second.

    Dropout is on the input of each layer, `attention_dropout` on the edges. The embedding, of
    `heads * hidden` columns, is what the first layer puts out, after ReLU (inferred).
    """

    @check_arguments
    def __init__(
        self, in_features: int, classes: int, *,
        hidden: Count = 8, heads: Count = 8, dropout: Dropout = 0.6,
        attention_dropout: Dropout = 0.6,
    ) -> None:  # fmt: skip
        super().__init__()
        self.dropout = dropout
        first = GraphAttention(in_features, hidden, heads, attention_dropout)
        last = GraphAttention(heads * hidden, classes, 1, attention_dropout)
        self.layers = nn.ModuleList([first, last])

    def embed(self, graph: Graph, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(N, C)` and embedding; a `DataError` if no edge leads to some node."""
        messages = graph.messages
        first, last = self.layers
        embedding = first(messages, self.drop(messages, features)).flatten(1).relu()
        return last(messages, self.drop(messages, embedding)).mean(1), embedding


class APPNP(WithEmbedding):
    """Two linear layers, then personalised PageRank: `h <- (1 - t) A h + t h_0`, A normalised.

    It takes `steps` steps with t the `teleport`. Dropout is before both linear layers; each step
    leaves an edge out with a probability of `edge_dropout`. The embedding, of `hidden` columns, is
    what the first layer puts out, after ReLU (inferred).
    """

    @check_arguments
    def __init__(
        self, in_features: int, classes: int, *,
        hidden: Count = 64, steps: Count = 10, teleport: Share = 0.1, dropout: Dropout = 0.5,
        edge_dropout: Dropout = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        self.steps, self.teleport = steps, teleport
        self.dropout, self.edge_dropout = dropout, edge_dropout
        self.layers = nn.ModuleList([nn.Linear(in_features, hidden), nn.Linear(hidden, classes)])

    def embed(self, graph: Graph, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(N, C)` and embedding `(N, hidden)`."""
        messages = graph.messages
        first, last = self.layers
        embedding = first(self.drop(messages, features)).relu()
        start = h = last(self.drop(messages, embedding))
        for _ in range(self.steps):
            kept = messages.edge_dropout(self.edge_dropout) if self.training else None
            h = torch.lerp(messages.propagate_normalised(h, kept), start, self.teleport)
        return h, embedding


class SGC(nn.Module):
    """One linear map without bias of the features after `hops` normalised propagations."""

    @check_arguments
    def __init__(self, in_features: int, classes: int, *, hops: Count = 2) -> None:
        super().__init__()
        self.layer = GraphConvolution(in_features, classes, hops=hops, bias=False)

    def forward(self, graph: Graph, features: Tensor) -> Tensor:
        """Logits `(N, C)` of `features`, `(N, F)`."""
        return self.layer(graph.messages, features)


class GCNII(WithEmbedding):
    """Deep graph convolutions that keep a share of their input and of themselves.

    Chen et al., "Simple and Deep Graph Convolutional Networks", ICML 2020: with
    `b_l = log(decay / l + 1)` and t the `teleport`, layer l makes `m = (1 - t) A h + t h_0` into
    `relu((1 - b_l) m + b_l m W_l)`, and dropout is before every layer. Sizes are inferred. The
    embedding, of `hidden` columns, is `h_0` (inferred).
    """

    @check_arguments
    def __init__(
        self, in_features: int, classes: int, *,
        hidden: Count = 64, layers: Count = 8, teleport: Share = 0.1,
        decay: Annotated[float, Gt(0)] = 0.5, dropout: Dropout = 0.6,
    ) -> None:  # fmt: skip
        super().__init__()
        self.teleport, self.decay, self.dropout = teleport, decay, dropout
        self.first = nn.Linear(in_features, hidden)
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden, bias=False) for _ in range(layers))
        self.last = nn.Linear(hidden, classes)

    def embed(self, graph: Graph, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(N, C)` and embedding `(N, hidden)`."""
        messages = graph.messages
        h = start = self.first(self.drop(messages, features)).relu()
        for depth, layer in enumerate(self.layers, start=1):
            h = messages.propagate_normalised(self.drop(messages, h))
            mixed = torch.lerp(h, start, self.teleport)
            h = torch.lerp(mixed, layer(mixed), math.log(self.decay / depth + 1)).relu()
        return self.last(self.drop(messages, h)), start
