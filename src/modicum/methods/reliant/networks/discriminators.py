"""GraphAKD's three discriminators, which tell the teacher's outputs from the student's.

One looks at logits, one at embeddings along every edge, one at embeddings against a summary of the
whole graph. They learn to tell the two apart, and the student learns to be taken for the teacher:
`losses.discriminator_losses` and `losses.student_losses`. Scores are logits: positive for the
teacher. Source: He et al., "Compressing Deep Graph Neural Networks via Adversarial Knowledge
Distillation", KDD 2022.
"""

from __future__ import annotations

import weakref
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from modicum.methods.reliant.graphs.messages import MessageGraph, multiply
from modicum.methods.reliant.networks.teachers import Count
from modicum.options import Ge, check_arguments


class LogitDiscriminator(nn.Module):
    """`out(relu(z + hidden(z)))` of logits `z`: the class, and whose logits they are."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(classes, classes)
        self.out = nn.Linear(classes, classes + 1, bias=False)

    def forward(self, logits: Tensor) -> Tensor:
        """`(N, C + 1)` of logits `(N, C)`: logits of the classes, and last that of real."""
        return self.out((logits + self.hidden(logits)).relu())


class _Diagonal(nn.Module):
    """`scale * sum_k diagonal_k a_k b_k`, a learnt product of two embeddings of `width`, H."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.diagonal = nn.Parameter(torch.ones(width))
        self.scale = nn.Parameter(torch.full((1,), 0.5))

    @property
    def weights(self) -> Tensor:
        """`(H,)`."""
        return self.scale * self.diagonal


class EdgeDiscriminator(_Diagonal):
    """Scores an edge by the embeddings at its ends: the learnt product of the two."""

    def forward(self, messages: MessageGraph, rows: Tensor) -> Tensor:
        """`(E,)`, the score of each entry of `messages`, of embeddings of length 1, `(N, H)`."""
        return _ProductsOfEdges.apply(rows * self.weights, messages.gather(rows), messages)


class GlobalDiscriminator(_Diagonal):
    """Scores a node by its embedding and a summary of all: the learnt product of the two."""

    def forward(self, rows: Tensor, summary: Tensor) -> Tensor:
        """`(N,)`, the score of each node, of embeddings of length 1, `(N, H)`, and `(H,)`."""
        return rows @ (self.weights * summary)


class Adversary(nn.Module):
    """The three discriminators, trained together; `width` is that of the embeddings, H.

    Raises:
        ConfigError: An argument is out of range.
    """

    @check_arguments
    def __init__(self, classes: Annotated[int, Ge(2)], width: Count) -> None:
        super().__init__()
        self.logit = LogitDiscriminator(classes)
        self.edge = EdgeDiscriminator(width)
        self.whole = GlobalDiscriminator(width)


class Pairs(NamedTuple):
    """Edges to score, and how often each counts."""

    messages: MessageGraph
    weights: Tensor | None
    """`(E,)`; None for 1."""


_pairs_of: weakref.WeakKeyDictionary[MessageGraph, Pairs] = weakref.WeakKeyDictionary()


def pairs_of(messages: MessageGraph) -> Pairs:
    """The edges of a graph, those of a symmetric one once for both ways: their score is the same.

    A part of a graph is not halved, since its rows and columns number nodes differently.
    """
    if not messages.symmetric or type(messages) is not MessageGraph:
        return Pairs(messages, None)
    if messages not in _pairs_of:
        source, target = messages.sources, messages.targets
        once, loops = source <= target, bool((source == target).any())
        half = MessageGraph(
            torch.stack([source, target])[:, once], messages.nodes, self_loops=loops
        )
        _pairs_of[messages] = Pairs(half, 1.0 + (half.sources != half.targets))
    return _pairs_of[messages]


def unit_rows(x: Tensor) -> Tensor:
    """Rows `(N, H)` scaled to length 1, those of zeros left."""
    return _UnitRows.apply(x)


class _UnitRows(torch.autograd.Function):
    """`functional.normalize`, at half the cost."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        length = length.masked_fill(length == 0, torch.inf)
        unit = x / length
        ctx.save_for_backward(unit, length)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # pyright: ignore
        unit, length = ctx.saved_tensors
        along = (unit * gradients[0]).sum(1, keepdim=True)
        return torch.addcmul(gradients[0], unit, along, value=-1).div_(length)


class _ProductsOfEdges(torch.autograd.Function):
    """`sum_k into_vk out_uk` for every edge u -> v, without an `(E, H)` tensor.

    That is a product of two dense matrices at the places of a sparse one, and its gradients are
    products of a sparse matrix and a dense one.
    """

    @staticmethod
    def forward(ctx: Any, into: Tensor, out: Tensor, messages: MessageGraph) -> Tensor:
        ctx.messages = messages
        ctx.save_for_backward(
            into if ctx.needs_input_grad[1] else None, out if ctx.needs_input_grad[0] else None
        )
        places = messages.matrix(into.new_zeros(messages.edges))
        return torch.sparse.sampled_addmm(places, into, out.T, beta=0.0).values()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        into, out = ctx.saved_tensors
        messages, weights = ctx.messages, gradients[0]
        of_into = of_out = None
        if ctx.needs_input_grad[0]:
            of_into = multiply(messages.matrix(weights), out)
        if ctx.needs_input_grad[1]:
            of_out = multiply(messages.transposed(weights), into)
        return of_into, of_out, None


def full_precision(x: Tensor) -> torch.autocast:
    """No 16 bits inside autocast either: it costs nothing here, and `torch.sparse` lacks them."""
    return torch.autocast(x.device.type, enabled=False)
