"""A student whose messages can be passed once, before training: an MLP on `X, A X, …, A^k X`."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from modicum.methods.reliant.teachers import check_at_least, check_dropout

if TYPE_CHECKING:
    from modicum.methods.reliant.graph import Graph


class DecoupledStudent(nn.Module):
    """An MLP on features that were propagated 0 to k times (as SIGN and SGC do; inferred here).

    Args:
        in_features: F + d.
        classes: C.
        hops: k.
        proxy_size: d, the last columns, which are not propagated: a constant has no neighbours.
        hidden: Columns between the layers.
        layers: Linear layers.
        dropout: Probability, before all but the first.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self,
        in_features: int,
        classes: int,
        *,
        hops: int = 2,
        proxy_size: int = 0,
        hidden: int = 64,
        layers: int = 3,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_dropout(dropout=dropout)
        check_at_least(1, layers=layers)
        check_at_least(0, hops=hops)
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
        """Logits `(B, C)` of some nodes.

        Args:
            rows: `(B, F * (k + 1))`: of `PropagatedFeatures`.
            proxies: `(B, d)`.
        """
        return self.mlp(torch.cat([rows, proxies], 1))


def hops_of(graph: Graph, x: Tensor, hops: int) -> list[Tensor]:
    """`x, A x, …, A^hops x`, each `(N, F)`, A normalised symmetrically."""
    found = [x]
    for _ in range(hops):
        found.append(graph.messages.propagate_normalised(found[-1]))
    return found
