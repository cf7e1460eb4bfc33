"""Losses between a teacher and a student: relations of tokens, and what they are compared with.

TinyMIM, CVPR 2023, section 3. A relation is what every token sees of every other: `softmax(a b^T /
sqrt(d))` of two of queries, keys and values, `(B, heads, N, N)`. It does not depend on the width of
a network, so that no projection stands between teacher and student.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

Relation: TypeAlias = Literal["qk", "vv", "qq", "kk"]
"""Two of queries, keys and values."""

_NUMBERS = 1 << 22
"""Entries of relations that are held at a time."""


def relations(
    q: Tensor, k: Tensor, v: Tensor, kinds: Sequence[Relation] = ("qk", "vv")
) -> dict[Relation, Tensor]:
    """Relations by name, each `(B, heads, N, N)` with rows that sum to 1, in float32.

    Args:
        q: Queries, `(B, heads, N, d)`.
        k: Keys, alike.
        v: Values, alike.
        kinds: `qk` is the attention map itself.
    """
    of = {"q": q, "k": k, "v": v}
    return {kind: relation_logits(of[kind[0]], of[kind[1]]).softmax(-1) for kind in kinds}


def relation_logits(a: Tensor, b: Tensor) -> Tensor:
    """`a b^T / sqrt(d)` of `(B, heads, N, d)` each: `(B, heads, N, N)`, in float32."""
    with torch.autocast(a.device.type, enabled=False):
        return a.float() @ b.float().transpose(-2, -1) / math.sqrt(a.shape[-1])


def relation_divergence(teacher: tuple[Tensor, Tensor], student: tuple[Tensor, Tensor]) -> Tensor:
    """`KL(teacher || student)` of a relation, the mean over images, heads and tokens.

    It is taken of logarithms of softmax, which stay finite where a probability underflows. The
    relations are never held as a whole: parts of them are made, compared and, with the gradient
    `student - teacher` of the logits, let go.

    Args:
        teacher: The two sides of the relation, `(B, heads, N, d)` each; without a gradient.
        student: The same, its `d` may differ.

    Raises:
        ValueError: Images, heads or tokens differ in number.
    """
    shapes = [tuple(side.shape[:3]) for side in (*teacher, *student)]
    if len(set(shapes)) > 1:
        raise ValueError(
            f"relations of {shapes[0]} (images, heads, tokens) and {shapes[2]} cannot be compared."
        )
    with torch.autocast(student[0].device.type, enabled=False):
        return _Divergence.apply(*student, *(side.detach() for side in teacher))  # pyright: ignore


class _Divergence(torch.autograd.Function):
    """The gradient is taken as the value is, part by part."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, teacher_a: Tensor, teacher_b: Tensor) -> Tensor:
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        count = a.shape[0] * a.shape[1] * a.shape[2]
        total = torch.zeros((), device=a.device)
        gradients = [torch.empty_like(a), torch.empty_like(b)] if wanted else []
        scale = 1 / math.sqrt(a.shape[-1])
        for rows in _parts(a):
            left, right = a[rows].float() * scale, b[rows].float()
            t = relation_logits(teacher_a[rows], teacher_b[rows]).log_softmax(-1)
            s = (left @ right.transpose(-2, -1)).log_softmax(-1)
            p = t.exp()
            total += (p * t.sub_(s)).sum()
            if wanted:
                change = s.exp_().sub_(p).div_(count)
                gradients[0][rows] = change @ right * scale
                gradients[1][rows] = change.transpose(-2, -1) @ left
        ctx.save_for_backward(*gradients)
        return total / count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        return *(part * grad for part in ctx.saved_tensors), None, None


def _parts(a: Tensor) -> Iterator[slice]:
    """Images whose relations are held at a time."""
    step = max(1, _NUMBERS // (a.shape[1] * a.shape[2] ** 2))
    yield from (slice(first, first + step) for first in range(0, len(a), step))


def relation_error(teacher: tuple[Tensor, Tensor], student: tuple[Tensor, Tensor]) -> Tensor:
    """Mean squared difference of a relation's logits, in place of softmax and divergence."""
    return functional.mse_loss(relation_logits(*student), relation_logits(*teacher).detach())


def regrouped(side: Tensor, heads: int) -> Tensor:
    """Queries, keys or values `(B, M, N, d)` among another number of heads.

    The heads are laid side by side and cut anew: `(B, heads, N, M d / heads)` (Wang et al.,
    "MiniLMv2", ACL Findings 2021).

    Raises:
        ValueError: They cannot be divided so.
    """
    width = side.shape[1] * side.shape[3]
    if width % heads:
        raise ValueError(f"a width of {width} cannot be divided among {heads} relation heads.")
    joined = side.transpose(1, 2).flatten(2)
    return joined.unflatten(2, (heads, -1)).transpose(1, 2)
