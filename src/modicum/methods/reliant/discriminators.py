"""GraphAKD's three discriminators, which tell the teacher's outputs from the student's.

One looks at logits, one at embeddings along every edge, one at embeddings against a summary of the
whole graph. They learn to tell the two apart, and the student learns to be taken for the teacher.
Source: specification, section 4; He et al., "Compressing Deep Graph Neural Networks via Adversarial
Knowledge Distillation", KDD 2022.

Scores are logits: positive for the teacher. Means are sums and counts that go through
`messages.total`, so that a part of a graph gives the losses of the whole.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from modicum.errors import ConfigError
from modicum.methods.reliant.messages import MessageGraph
from modicum.methods.reliant.teachers import check_at_least

if TYPE_CHECKING:
    from modicum.methods.reliant.distil import Targets
    from modicum.methods.reliant.graph import Graph

GlobalTarget = Literal["reliant", "graphakd"]


class LogitDiscriminator(nn.Module):
    """`out(relu(z + hidden(z)))` of logits `z`: the class, and whose logits they are.

    Args:
        classes: C.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(classes, classes)
        self.out = nn.Linear(classes, classes + 1, bias=False)

    def forward(self, logits: Tensor) -> Tensor:
        """`(N, C + 1)` of logits `(N, C)`: logits of the classes, and last that of real."""
        return self.out((logits + self.hidden(logits)).relu())


class _Diagonal(nn.Module):
    """`scale * sum_k diagonal_k a_k b_k`, a learnt product of two embeddings.

    Args:
        width: H.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.diagonal = nn.Parameter(torch.ones(width))
        self.scale = nn.Parameter(torch.full((1,), 0.5))

    @property
    def weights(self) -> Tensor:
        """`(H,)`."""
        return self.scale * self.diagonal


class EdgeDiscriminator(_Diagonal):
    """Scores an edge by the embeddings at its ends: the learnt product of the two.

    Args:
        width: H.
    """

    def forward(self, messages: MessageGraph, rows: Tensor) -> Tensor:
        """`(E,)`, the score of each entry of `messages`.

        Args:
            messages: The edges.
            rows: `(N, H)`, embeddings of length 1.
        """
        return _ProductsOfEdges.apply(rows * self.weights, messages.gather(rows), messages)


class GlobalDiscriminator(_Diagonal):
    """Scores a node by its embedding and a summary of all: the learnt product of the two.

    Args:
        width: H.
    """

    def forward(self, rows: Tensor, summary: Tensor) -> Tensor:
        """`(N,)`, the score of each node.

        Args:
            rows: `(N, H)`, embeddings of length 1.
            summary: `(H,)`.
        """
        return rows @ (self.weights * summary)


class Adversary(nn.Module):
    """The three discriminators, which are trained together.

    Args:
        classes: C.
        width: H, columns of the embeddings of teacher and student.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        check_at_least(2, classes=classes)
        check_at_least(1, width=width)
        self.logit = LogitDiscriminator(classes)
        self.edge = EdgeDiscriminator(width)
        self.whole = GlobalDiscriminator(width)


def discriminator_losses(
    graph: Graph, adversary: Adversary, targets: Targets, logits: Tensor, embedding: Tensor
) -> dict[str, Tensor]:
    """What the discriminators minimise: the sum of these terms, the student as it is.

    Args:
        graph: The graph.
        adversary: The discriminators.
        targets: The teacher's log probabilities, which are taken as logits, and its embedding.
        logits: `(N, C)`, float32, the student's.
        embedding: `(N, H)`, float32, the student's.

    Returns:
        Scalars by name: `logits`, halved; `classes`, the labels from the logits of both, halved;
        `edges`; `teacher_summary` and `student_summary`, nodes against either.

    Raises:
        ConfigError: The teacher has no embedding, or one of another width.
    """
    with _full_precision(logits):
        real, fake = _sides(graph, targets, logits.detach(), embedding.detach())
        of_real, of_fake = adversary.logit(real.logits), adversary.logit(fake.logits)
        edge, whole = adversary.edge, adversary.whole
        return _means(
            graph,
            nodes={
                "logits": 0.5
                * (_told(of_real[:, -1], real=True) + _told(of_fake[:, -1], real=False)),
                "teacher_summary": _told(whole(real.rows, real.summary), real=True)
                + _told(whole(fake.rows, real.summary), real=False),
                "student_summary": _told(whole(fake.rows, fake.summary), real=True)
                + _told(whole(real.rows, fake.summary), real=False),
            },
            labelled={"classes": 0.5 * (_labels(graph, of_real) + _labels(graph, of_fake))},
            edges={
                "edges": _edges_told(graph, edge, real.rows, real=True)
                + _edges_told(graph, edge, fake.rows, real=False)
            },
        )


def student_losses(
    graph: Graph,
    adversary: Adversary,
    targets: Targets,
    logits: Tensor,
    embedding: Tensor,
    *,
    global_target: GlobalTarget = "reliant",
) -> dict[str, Tensor]:
    """What the student minimises: the sum of these terms, the discriminators as they are.

    Freeze the parameters of the discriminators around it (`distil.frozen`): their gradients would
    be computed for nothing.

    Args:
        graph: The graph.
        adversary: The discriminators.
        targets: The teacher's log probabilities, which are taken as logits, and its embedding.
        logits: `(N, C)`, float32, the student's.
        embedding: `(N, H)`, float32, the student's.
        global_target: Whose nodes the student's own summary should call real. `"reliant"`: the
            student's, just as for the discriminators; `"graphakd"`: the teacher's, the adversarial
            reading, which is upstream's.

    Returns:
        Scalars by name: `labels`, cross entropy of the training nodes; `classes`, the same through
        the discriminator, halved; `logits`, halved; `distance`, L1 from the teacher's logits, a
        mean over nodes; `edges`; `teacher_summary`; `student_summary`.

    Raises:
        ConfigError: The teacher has no embedding, or one of another width; or `global_target` is
            unknown.
    """
    if global_target not in get_args(GlobalTarget):
        known = " or ".join(get_args(GlobalTarget))
        raise ConfigError(f"global_target: expected {known}, found {global_target!r}.")
    reliant = global_target == "reliant"
    with _full_precision(logits):
        real, fake = _sides(graph, targets, logits, embedding)
        of_fake = adversary.logit(fake.logits)
        edge, whole = adversary.edge, adversary.whole
        return _means(
            graph,
            labelled={
                "labels": _labels(graph, fake.logits),
                "classes": 0.5 * _labels(graph, of_fake),
            },
            nodes={
                "logits": 0.5 * _told(of_fake[:, -1], real=True),
                "distance": (fake.logits - real.logits).abs().sum(),
                "teacher_summary": _told(whole(fake.rows, real.summary), real=True),
                "student_summary": _told(whole(fake.rows, fake.summary), real=reliant)
                + _told(whole(real.rows, fake.summary), real=not reliant),
            },
            edges={"edges": _edges_told(graph, edge, fake.rows, real=True)},
        )


class _Side(NamedTuple):
    """What is known of the teacher (real) or of the student (fake)."""

    logits: Tensor
    """`(N, C)`."""
    rows: Tensor
    """`(N, H)`, embeddings of length 1."""
    summary: Tensor
    """`(H,)`, sigmoid of the mean embedding of the whole graph."""


def _sides(
    graph: Graph, targets: Targets, logits: Tensor, embedding: Tensor
) -> tuple[_Side, _Side]:
    of_teacher, width = targets.embedding, embedding.shape[1]
    if of_teacher is None or of_teacher.shape[1] != width:
        found = "none" if of_teacher is None else f"one of {of_teacher.shape[1]} columns"
        raise ConfigError(
            f"GraphAKD compares the student's embedding of {width} columns with the teacher's; the "
            f"teacher has {found}. Make both as wide (--hidden, --teacher-hidden)."
        )
    nodes = embedding.new_tensor([float(graph.nodes)])
    sums = graph.messages.total(torch.cat([of_teacher.sum(0), embedding.sum(0), nodes]))
    summaries = (sums[:-1] / sums[-1]).sigmoid()
    return (
        _Side(targets.log_probabilities, _UnitRows.apply(of_teacher), summaries[:width]),
        _Side(logits, _UnitRows.apply(embedding), summaries[width:]),
    )


def _told(scores: Tensor, *, real: bool, weights: Tensor | None = None) -> Tensor:
    """Binary cross entropy of scores that should say real, or fake: a sum."""
    target = torch.full_like(scores, float(real))
    return functional.binary_cross_entropy_with_logits(scores, target, weights, reduction="sum")


def _labels(graph: Graph, logits: Tensor) -> Tensor:
    """Cross entropy of the training nodes, a sum. A column beyond the classes is left out."""
    logits = logits[graph.train, : len(graph.classes)]
    return functional.cross_entropy(logits, graph.labels[graph.train], reduction="sum")


def _edges_told(graph: Graph, edge: EdgeDiscriminator, rows: Tensor, *, real: bool) -> Tensor:
    """`_told` of all edges."""
    pairs = _pairs(graph.messages)
    return _told(edge(pairs.messages, rows), real=real, weights=pairs.weights)


def _means(
    graph: Graph,
    *,
    nodes: Mapping[str, Tensor],
    labelled: Mapping[str, Tensor],
    edges: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Means of sums over nodes, training nodes and edges; processes exchange once."""
    sums = {**nodes, **labelled, **edges}
    counts = [float(graph.nodes)] * len(nodes)
    counts += [float(len(graph.train))] * len(labelled)
    counts += [float(graph.messages.edges)] * len(edges)
    stacked = torch.stack(list(sums.values()))
    totals = graph.messages.total(torch.stack([stacked, stacked.new_tensor(counts)]))
    return dict(zip(sums, (totals[0] / totals[1]).unbind(), strict=True))


class _Pairs(NamedTuple):
    """Edges to score, and how often each counts."""

    messages: MessageGraph
    weights: Tensor | None
    """`(E,)`; None for 1."""


_pairs_of: weakref.WeakKeyDictionary[MessageGraph, _Pairs] = weakref.WeakKeyDictionary()


def _pairs(messages: MessageGraph) -> _Pairs:
    """The edges of a graph, those of a symmetric one once for both ways: their score is the same.

    A part of a graph is not halved, since its rows and columns number nodes differently.
    """
    if not messages.symmetric or type(messages) is not MessageGraph:
        return _Pairs(messages, None)
    if messages not in _pairs_of:
        source, target = messages.sources, messages.targets
        once = source <= target
        half = MessageGraph(
            torch.stack([source[once], target[once]]),
            messages.nodes,
            self_loops=bool((source == target).any()),
        )
        _pairs_of[messages] = _Pairs(half, 1.0 + (half.sources != half.targets))
    return _pairs_of[messages]


class _UnitRows(torch.autograd.Function):
    """Rows scaled to length 1, those of zeros left: `functional.normalize`, at half the cost."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """`(N, H)` of `(N, H)`."""
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        length = length.masked_fill(length == 0, torch.inf)
        unit = x / length
        ctx.save_for_backward(unit, length)
        return unit

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> Tensor:
        """The gradient of `x`."""
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
        """`(E,)` of `(N, H)` and the gathered `(width, H)`."""
        ctx.messages = messages
        ctx.save_for_backward(
            into if ctx.needs_input_grad[1] else None, out if ctx.needs_input_grad[0] else None
        )
        places = messages._matrix(into.new_zeros(messages.edges))  # pyright: ignore[reportPrivateUsage]
        return torch.sparse.sampled_addmm(places, into, out.T, beta=0.0).values()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None]:
        """Gradients of both embeddings."""
        into, out = ctx.saved_tensors
        messages: MessageGraph = ctx.messages
        weights = gradients[0]
        of_into = of_out = None
        with _full_precision(weights):
            if ctx.needs_input_grad[0]:
                of_into = messages._matrix(weights) @ out  # pyright: ignore[reportPrivateUsage]
            if ctx.needs_input_grad[1]:
                of_out = messages._transposed(weights) @ into  # pyright: ignore[reportPrivateUsage]
        return of_into, of_out, None


def _full_precision(x: Tensor) -> torch.autocast:
    """No 16 bits inside autocast either: it costs nothing here, and `torch.sparse` lacks them."""
    return torch.autocast(x.device.type, enabled=False)
