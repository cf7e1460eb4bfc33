"""RELIANT's losses: the gap between groups, with a smooth step for decisions, and CPF's distance.

Source: specification, sections 2.2 (the step), 2.3 (gaps) and 3 (CPF's distillation loss).

Each takes `total`, which sums a small tensor over the processes that hold parts of one graph
(`MessageGraph.total`), so that a part gives the loss of the whole.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from numpy.polynomial import legendre
from torch import Tensor
from torch.nn import functional

from modicum.errors import ConfigError, DataError

Surrogate = Literal["official", "legendre", "identity", "sigmoid"]
Total = Callable[[Tensor], Tensor]

OFFICIAL_ORDER = 9
"""Of the last Legendre polynomial in the authors' code."""


def only_process(x: Tensor) -> Tensor:
    """`x`: the sum over the processes where there is one."""
    return x


def step_surrogate(
    probabilities: Tensor,
    kind: Surrogate = "official",
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
        probabilities: Of any shape, of any float type.
        kind: `"official"`: the authors', up to `P_9`; `"legendre"`: the normalised series;
            `"identity"`: `p` itself; `"sigmoid"`: `sigmoid((p - 1/2) / temperature)`.
        order: Odd; the last polynomial of `"legendre"`.
        temperature: Of `"sigmoid"`; below it the step is hard.

    Returns:
        As `probabilities`.

    Raises:
        ConfigError: An option is out of range.
    """
    if kind not in get_args(Surrogate):
        known = ", ".join(get_args(Surrogate))
        raise ConfigError(f"surrogate: expected one of {known}, found {kind!r}.")
    if kind == "identity":
        return probabilities
    if kind == "sigmoid":
        if not temperature > 0:
            raise ConfigError(f"temperature: expected more than 0, found {temperature}.")
        return ((probabilities - 0.5) / temperature).sigmoid()
    if kind == "official":
        coefficients = step_coefficients(OFFICIAL_ORDER, normalised=False)
    else:
        coefficients = step_coefficients(order)
    return 0.5 + _odd_legendre_sum(2 * probabilities - 1, coefficients)


@functools.cache
def step_coefficients(order: int, *, normalised: bool = True) -> tuple[float, ...]:
    """Coefficients of `P_1, P_3, …, P_order` in the series of the step from -1/2 to 1/2 at 0.

    Args:
        order: Odd.
        normalised: Multiply the integral of `P_k` over [0, 1] by `(2k + 1) / 2`, which makes it the
            Legendre series of the step. The authors do not.

    Raises:
        ConfigError: `order` is not an odd number of at least 1.
    """
    if order < 1 or order % 2 == 0:
        raise ConfigError(f"order: expected an odd number of at least 1, found {order}.")
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
        surrogate: `g`; see `step_surrogate`, and so are `order` and `temperature`.
        order: Odd; the last polynomial of `"legendre"`.
        temperature: Of `"sigmoid"`.
        positive: `(N,)`, bool: the nodes that count as positive; None for all.
        names: Names of the groups. They also say how many there are, which a part of a graph need
            not show where there are more than two.
        total: The sum over processes.

    Returns:
        A scalar.

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
        raise DataError(
            f"expected groups 0..{count - 1}, found {lowest if lowest < 0 else highest}."
        )
    decided = step_surrogate(
        probabilities.index_select(0, index), surrogate, order=order, temperature=temperature
    )
    member = functional.one_hot(groups.index_select(0, index), count).to(decided.dtype)
    # Not a matrix product, which autocast would round to 16 bits.
    sums = (member[:, :, None] * decided[:, None, :]).sum(0)
    sums = total(torch.cat([sums, member.sum(0)[:, None]], 1))
    sums, sizes = sums[:, :-1], sums[:, -1:]
    _require_members(sizes, names, equal_opportunity=positive is not None)
    means = sums / sizes
    return (means.amax(0) - means.amin(0)).square().sum()


def _require_members(
    sizes: Tensor, names: Sequence[str] | None, *, equal_opportunity: bool
) -> None:
    counts = [round(size) for size in sizes.detach().flatten().tolist()]
    if all(counts):
        return
    names = names or [str(group) for group in range(len(counts))]
    nodes = "nodes with a positive label" if equal_opportunity else "nodes"
    mend = ", or take labels from elsewhere (eo_labels)" if equal_opportunity else ""
    raise DataError(
        f"the fairness loss compares {nodes} of every group, but group "
        f"{names[counts.index(0)]!r} has none of those it looks at ("
        + ", ".join(f"group {name!r}: {size}" for name, size in zip(names, counts, strict=True))
        + f"). Choose splits with every group in them{mend}."
    )


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
        DataError: The shapes differ.
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
