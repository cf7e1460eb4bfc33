"""RELIANT's losses: the gap between groups, CPF's distance from the teacher, GraphAKD's game.

Equations: README, Losses. Each takes `total`, which sums a small tensor over the processes that
hold parts of one graph (`MessageGraph.total`), or the messages themselves, so that a part gives the
loss of the whole.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional

from modicum.errors import ConfigError, DataError
from modicum.methods.reliant.graphs.messages import MessageGraph
from modicum.methods.reliant.networks.discriminators import (
    Adversary,
    EdgeDiscriminator,
    full_precision,
    pairs_of,
    unit_rows,
)

Surrogate = Literal["official", "legendre", "identity", "sigmoid"]
GlobalTarget = Literal["reliant", "graphakd"]
Total = Callable[[Tensor], Tensor]

OFFICIAL_ORDER = 9
"""Of the last Legendre polynomial in the authors' code."""


def only_process(x: Tensor) -> Tensor:
    """`x`: the sum over the processes where there is one."""
    return x


def step_surrogate(
    probabilities: Tensor,
    surrogate: Surrogate = "official",
    *,
    order: int = 9,
    temperature: float = 0.1,
) -> Tensor:
    """A differentiable stand-in `g(p)` for the decision `p > 1/2`, with `g(1 - p) = 1 - g(p)`.

    `official` and `legendre` are `1/2 + sum_k c_k P_k(2p - 1)` over the odd Legendre polynomials.
    The authors take `c_k`, the integral of `P_k` over [0, 1], without the factor `(2k + 1) / 2` of
    a Legendre series. Theirs increases smoothly from 0.074 to 0.926; the normalised series is
    steeper at 1/2, but runs from -0.123 to 1.123 and is not monotone.

    Args:
        probabilities: Of any shape, of any float type; so is what is returned.
        surrogate: `"official"`: the authors', up to `P_9`; `"legendre"`: the normalised series;
            `"identity"`: `p` itself; `"sigmoid"`: `sigmoid((p - 1/2) / temperature)`.
        order: Odd; the last polynomial of `"legendre"`.
        temperature: Of `"sigmoid"`; below it the step is hard.

    Raises:
        ConfigError: An option is out of range.
    """
    if surrogate not in get_args(Surrogate):
        known = ", ".join(get_args(Surrogate))
        raise ConfigError(f"surrogate: expected one of {known}, found {surrogate!r}.")
    if surrogate == "identity":
        return probabilities
    if surrogate == "sigmoid":
        if not temperature > 0:
            raise ConfigError(f"temperature: expected more than 0, found {temperature}.")
        return ((probabilities - 0.5) / temperature).sigmoid()
    normalised = surrogate == "legendre"
    coefficients = step_coefficients(order if normalised else OFFICIAL_ORDER, normalised=normalised)
    return 0.5 + _odd_legendre_sum(2 * probabilities - 1, coefficients)


@functools.cache
def step_coefficients(order: int, *, normalised: bool = True) -> tuple[float, ...]:
    """Coefficients of `P_1, P_3, …, P_order` in the series of the step from -1/2 to 1/2 at 0.

    They are the integrals of `P_k` over [0, 1], `normalised` by `(2k + 1) / 2`.
    """
    if order < 1 or order % 2 == 0:
        raise ConfigError(f"order: expected an odd number of at least 1, found {order}.")
    from numpy.polynomial import legendre

    coefficients: list[float] = []
    for k in range(1, order + 1, 2):
        antiderivative = legendre.legint([0] * k + [1], lbnd=0)
        integral = float(legendre.legval(1, antiderivative))
        coefficients.append(integral * (2 * k + 1) / 2 if normalised else integral)
    return tuple(coefficients)


def _odd_legendre_sum(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """`c_1 P_1(x) + c_3 P_3(x) + …` by a recurrence, stable at any order as powers of x are not.

    It is `(k + 1) P_(k+1) = (2k + 1) x P_k - k P_(k-1)`.
    """
    before, now = torch.ones_like(x), x
    result = coefficients[0] * x
    for k in range(1, 2 * len(coefficients) - 1):
        after = torch.addcmul(before * (-k / (k + 1)), x, now, value=(2 * k + 1) / (k + 1))
        before, now = now, after
        if k % 2 == 0:
            result = result.add(now, alpha=coefficients[k // 2])
    return result


def group_gap_loss(
    probabilities: Tensor,
    groups: Tensor,
    index: Tensor,
    *,
    surrogate: Surrogate = "official",
    order: int = 9,
    temperature: float = 0.1,
    positive: Tensor | None = None,
    names: Sequence[str] | None = None,
    total: Total = only_process,
) -> Tensor:
    """How far apart the groups' mean decisions are: squared, and summed over the classes.

        sum_c (mean over group 0 of g(p_c) - mean over group 1 of g(p_c))^2

    That is statistical parity; with `positive`, which leaves only nodes whose label is positive,
    it is equal opportunity. Of more than two groups the largest mean less the smallest (inferred).

    Args:
        probabilities: `(N, C)`.
        groups: `(N,)`, int64: the group of each node, from 0.
        index: `(M,)`, int64: the nodes to look at.
        surrogate: `g`; see `step_surrogate`.
        order: Of `step_surrogate`.
        temperature: Of `step_surrogate`.
        positive: `(N,)`, bool: the nodes that count as positive; None for all.
        names: Names of the groups. They also say how many there are, which a part of a graph need
            not show where there are more than two.
        total: The sum over processes.

    Raises:
        DataError: A group has none of the nodes, or the shapes do not fit each other.
        ConfigError: An option of the surrogate is out of range.
    """
    nodes = len(probabilities)
    if probabilities.dim() != 2 or groups.shape != (nodes,):
        raise DataError(
            f"expected probabilities (N, C) and groups (N,), found {tuple(probabilities.shape)} "
            f"and {tuple(groups.shape)}."
        )
    if positive is not None:
        if positive.shape != (nodes,) or positive.dtype != torch.bool:
            raise DataError(
                f"expected a boolean for each of {nodes} nodes that says whether its label is "
                f"positive, found {positive.dtype} of the shape {tuple(positive.shape)}."
            )
        index = index[positive[index]]
    lowest, highest = (int(end) for end in groups.aminmax()) if nodes else (0, 0)
    count = max(2, highest + 1) if names is None else len(names)
    if lowest < 0 or highest >= count:
        wrong = lowest if lowest < 0 else highest
        raise DataError(f"expected groups 0..{count - 1}, found {wrong}.")
    p = probabilities.index_select(0, index)
    decided = step_surrogate(p, surrogate, order=order, temperature=temperature)
    member = functional.one_hot(groups.index_select(0, index), count).to(decided.dtype)
    # Not a matrix product, which autocast would round to 16 bits.
    sums = (member[:, :, None] * decided[:, None, :]).sum(0)
    sums = total(torch.cat([sums, member.sum(0)[:, None]], 1))
    sums, sizes = sums[:, :-1], sums[:, -1:]
    members = [round(size) for size in sizes.detach().flatten().tolist()]
    if not all(members):
        names = names or [str(group) for group in range(count)]
        of = ", ".join(f"group {name!r}: {size}" for name, size in zip(names, members, strict=True))
        kind, mend = " with a positive label", ", or take labels from elsewhere (eo_labels)"
        kind, mend = ("", "") if positive is None else (kind, mend)
        raise DataError(
            f"the fairness loss compares nodes{kind} of every group, but group "
            f"{names[members.index(0)]!r} has none of those it looks at ({of}). Choose splits with "
            f"every group in them{mend}."
        )
    means = sums / sizes
    return (means.amax(0) - means.amin(0)).square().sum()


def distillation_loss(
    probabilities: Tensor, teacher: Tensor, index: Tensor, *, total: Total = only_process
) -> Tensor:
    """CPF's distance from the teacher: the Frobenius norm over the nodes `index`, not a mean.

    It grows with the square root of their number, and the weight of a fairness term must with it.

    Args:
        probabilities: `(N, C)`, the student's.
        teacher: `(N, C)`, the teacher's.
        index: `(M,)`, int64.
        total: The sum over processes.

    Returns:
        A scalar; where it is 0 its gradient is 0 too.

    Raises:
        DataError: The shapes of teacher and student differ.
    """
    if probabilities.shape != teacher.shape:
        raise DataError(
            f"expected the teacher's probabilities in the shape of the student's, "
            f"{tuple(probabilities.shape)}, found {tuple(teacher.shape)}."
        )
    apart = probabilities.index_select(0, index) - teacher.index_select(0, index)
    squared = total(apart.square().sum())
    zero = squared == 0  # where the derivative of the root is infinite
    return torch.where(zero, 0.0, torch.where(zero, 1.0, squared).sqrt())


def label_loss(
    logits: Tensor, labels: Tensor, train: Tensor, *, total: Total = only_process
) -> Tensor:
    """Mean cross entropy of logits `(N, C)` and labels `(N,)` over the nodes `train`, `(M,)`."""
    loss = _labels(logits, labels, train)
    return total(loss) / total(loss.new_tensor(float(len(train))))


def _labels(logits: Tensor, labels: Tensor, train: Tensor) -> Tensor:
    return functional.cross_entropy(logits[train], labels[train], reduction="sum")


# GraphAKD


class Outputs(NamedTuple):
    """What a network says of every node."""

    logits: Tensor
    """`(N, C)`, float32; of the teacher its log probabilities, as in the official code."""
    embedding: Tensor
    """`(N, H)`, float32."""


def discriminator_losses(
    adversary: Adversary,
    messages: MessageGraph,
    teacher: Outputs,
    student: Outputs,
    labels: Tensor,
    train: Tensor,
) -> dict[str, Tensor]:
    """What the discriminators minimise: the sum of these terms, the student as it is.

    Args:
        adversary: The discriminators.
        messages: The edges, and the sums over processes.
        teacher: Its outputs.
        student: Its outputs.
        labels: `(N,)`, int64.
        train: `(M,)`, int64: the nodes whose labels are known.

    Returns:
        Scalars by name: `logits`, halved; `classes`, the labels from the logits of both, halved;
        `edges`; `teacher_summary` and `student_summary`, nodes against either.

    Raises:
        ConfigError: The embeddings have other widths.
    """
    with full_precision(student.logits):
        fake_outputs = Outputs(*(values.detach() for values in student))
        real, fake = _sides(messages, teacher, fake_outputs)
        of_real, of_fake = adversary.logit(real.logits), adversary.logit(fake.logits)
        edge, whole = adversary.edge, adversary.whole
        logits = _told(of_real[:, -1], real=True) + _told(of_fake[:, -1], real=False)
        nodes = {
            "logits": 0.5 * logits,
            "teacher_summary": _told(whole(real.rows, real.summary), real=True)
            + _told(whole(fake.rows, real.summary), real=False),
            "student_summary": _told(whole(fake.rows, fake.summary), real=True)
            + _told(whole(real.rows, fake.summary), real=False),
        }
        classes = _labels(of_real[:, :-1], labels, train) + _labels(of_fake[:, :-1], labels, train)
        labelled = {"classes": 0.5 * classes}
        edges = _edges_told(messages, edge, real.rows, real=True)
        edges = edges + _edges_told(messages, edge, fake.rows, real=False)
        return _means(messages, nodes, labelled, edges, known=len(train))


def student_losses(
    adversary: Adversary,
    messages: MessageGraph,
    teacher: Outputs,
    student: Outputs,
    labels: Tensor,
    train: Tensor,
    *,
    global_target: GlobalTarget = "reliant",
) -> dict[str, Tensor]:
    """What the student minimises: the sum of these terms, the discriminators as they are.

    Freeze the parameters of the discriminators around it: their gradients would be computed for
    nothing. Arguments are those of `discriminator_losses`, and `global_target`: whose nodes the
    student's own summary should call real. `"reliant"`: the student's, just as for the
    discriminators; `"graphakd"`: the teacher's, the adversarial reading, which is upstream's.

    Returns:
        Scalars by name: `labels`, cross entropy of the training nodes; `classes`, the same through
        the discriminator, halved; `logits`, halved; `distance`, L1 from the teacher's logits, a
        mean over nodes; `edges`; `teacher_summary`; `student_summary`.

    Raises:
        ConfigError: The embeddings have other widths, or `global_target` is unknown.
    """
    if global_target not in get_args(GlobalTarget):
        known = " or ".join(get_args(GlobalTarget))
        raise ConfigError(f"global_target: expected {known}, found {global_target!r}.")
    reliant = global_target == "reliant"
    with full_precision(student.logits):
        real, fake = _sides(messages, teacher, student)
        of_fake = adversary.logit(fake.logits)
        edge, whole = adversary.edge, adversary.whole
        labelled = {
            "labels": _labels(fake.logits, labels, train),
            "classes": 0.5 * _labels(of_fake[:, :-1], labels, train),
        }
        nodes = {
            "logits": 0.5 * _told(of_fake[:, -1], real=True),
            "distance": (fake.logits - real.logits).abs().sum(),
            "teacher_summary": _told(whole(fake.rows, real.summary), real=True),
            "student_summary": _told(whole(fake.rows, fake.summary), real=reliant)
            + _told(whole(real.rows, fake.summary), real=not reliant),
        }
        edges = _edges_told(messages, edge, fake.rows, real=True)
        return _means(messages, nodes, labelled, edges, known=len(train))


class _Side(NamedTuple):
    """What is known of the teacher (real) or of the student (fake)."""

    logits: Tensor
    """`(N, C)`."""
    rows: Tensor
    """`(N, H)`, embeddings of length 1."""
    summary: Tensor
    """`(H,)`, sigmoid of the mean embedding of the whole graph."""


def _sides(messages: MessageGraph, teacher: Outputs, student: Outputs) -> tuple[_Side, _Side]:
    width, found = student.embedding.shape[1], teacher.embedding.shape[1]
    if found != width:
        raise ConfigError(
            f"GraphAKD compares the student's embedding of {width} columns with the teacher's; the "
            f"teacher has one of {found} columns. Make both as wide (--hidden, --teacher.hidden)."
        )
    nodes = student.embedding.new_tensor([float(messages.nodes)])
    sums = messages.total(torch.cat([teacher.embedding.sum(0), student.embedding.sum(0), nodes]))
    summaries = (sums[:-1] / sums[-1]).sigmoid()
    return (
        _Side(teacher.logits, unit_rows(teacher.embedding), summaries[:width]),
        _Side(student.logits, unit_rows(student.embedding), summaries[width:]),
    )


def _told(scores: Tensor, *, real: bool, weights: Tensor | None = None) -> Tensor:
    """Binary cross entropy of scores that should say real, or fake: a sum."""
    target = torch.full_like(scores, float(real))
    return functional.binary_cross_entropy_with_logits(scores, target, weights, reduction="sum")


def _edges_told(
    messages: MessageGraph, edge: EdgeDiscriminator, rows: Tensor, *, real: bool
) -> Tensor:
    """`_told` of all edges."""
    pairs = pairs_of(messages)
    return _told(edge(pairs.messages, rows), real=real, weights=pairs.weights)


def _means(
    messages: MessageGraph,
    nodes: Mapping[str, Tensor],
    labelled: Mapping[str, Tensor],
    edges: Tensor,
    *,
    known: int,
) -> dict[str, Tensor]:
    """Means of sums over nodes, the known ones and edges; processes exchange once."""
    sums = {**nodes, **labelled, "edges": edges}
    counts = [messages.nodes] * len(nodes) + [known] * len(labelled) + [messages.edges]
    stacked = torch.stack(list(sums.values()))
    totals = messages.total(torch.stack([stacked, stacked.new_tensor(counts)]))
    return dict(zip(sums, (totals[0] / totals[1]).unbind(), strict=True))
