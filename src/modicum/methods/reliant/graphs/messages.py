"""Who passes messages to whom, the sums over neighbours, and the random numbers of graph networks.

Networks and losses draw random numbers and sum over nodes through a `MessageGraph` alone, so that
what is written for a whole graph is right on the part of one that a process holds
(`partition.PartitionedMessageGraph` overrides what must know of other processes).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from modicum.errors import DataError

DRAWS = 1 << 16
"""Random numbers that decide on dropout have 16 bits: four of them cost one draw of 64."""


class MessageGraph:
    """Directed edges without weights, as the sparse matrix whose row v lists the u with u -> v.

    Products go through `torch.sparse`; gradients through the stored transpose, which for a
    symmetric graph is the matrix itself.

    Args:
        edges: `(2, E)`, int64: from which node (first row) to which. Repetitions and self loops
            are removed.
        nodes: N.
        self_loops: Then add one edge from every node to itself.

    Attributes:
        nodes: N, the rows; `total_nodes` of all processes.
        width: Columns of the matrix: N, or more where a part of a graph reads nodes of others.
        edges: Entries, self loops included.
        row_pointers: `(N + 1,)`: the entries of row v are `row_pointers[v]:row_pointers[v + 1]`.
        columns: `(E,)`, the source of each entry, ascending within a row.
        symmetric: Whether the matrix is its own transpose.

    Raises:
        DataError: `edges` has another shape, or names a node there is none of.
    """

    total_nodes: int
    row_pointers: Tensor
    columns: Tensor

    def __init__(self, edges: Tensor, nodes: int, *, self_loops: bool = True) -> None:
        if edges.dim() != 2 or len(edges) != 2:
            raise DataError(f"expected edges of the shape (2, E), found {tuple(edges.shape)}.")
        edges = edges.to(torch.int64)
        if edges.numel() and (int(edges.min()) < 0 or int(edges.max()) >= nodes):
            bad = int(edges.min()) if int(edges.min()) < 0 else int(edges.max())
            raise DataError(f"an edge names node {bad}; there are 0..{nodes - 1}.")
        self.total_nodes = nodes
        source, target = edges[:, edges[0] != edges[1]]
        entries = target * nodes + source
        if self_loops:
            entries = torch.cat([entries, torch.arange(nodes, device=edges.device) * (nodes + 1)])
        entries = entries.unique()
        self._store(_pointers(entries // nodes, nodes), entries % nodes, nodes)

    def _store(self, row_pointers: Tensor, columns: Tensor, width: int) -> None:
        """Take the matrix `(N, width)`, its columns ascending within each row."""
        self.nodes, self.width, self.edges = len(row_pointers) - 1, width, len(columns)
        # A product with 32-bit indices takes half as long.
        dtype = torch.int32 if max(self.edges, width) < 2**31 else torch.int64
        self.row_pointers, self.columns = row_pointers.to(dtype), columns.to(dtype)
        self._transposed_order = torch.argsort(self.columns, stable=True).to(dtype)
        self._transposed_pointers = _pointers(self.columns, width).to(dtype)
        self._transposed_columns = self.targets[self._transposed_order].to(dtype)
        self.symmetric = (
            width == self.nodes
            and torch.equal(self.row_pointers, self._transposed_pointers)
            and torch.equal(self.columns, self._transposed_columns)
        )
        if self.symmetric:
            self._transposed_pointers = self.row_pointers
            self._transposed_columns = self.columns
        # The first node that no edge leads to, if there is one.
        self._lonely: list[int] = (row_pointers.diff() == 0).nonzero().flatten()[:1].tolist()
        self._fixed: dict[tuple[str, torch.dtype], tuple[Tensor, Tensor]] = {}

    def to(self, device: torch.device | str) -> MessageGraph:
        """The same on a device."""
        if self.device == torch.device(device):
            return self
        moved = object.__new__(type(self))
        for name, value in vars(self).items():
            setattr(moved, name, value.to(device) if isinstance(value, Tensor) else value)
        moved._fixed = {}
        return moved

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.columns.device

    @property
    def sources(self) -> Tensor:
        """`(E,)`, int64: the column of each entry, a row of what `gather` returns."""
        return self.columns.to(torch.int64)

    @property
    def targets(self) -> Tensor:
        """`(E,)`, int64: the row of each entry."""
        rows = torch.arange(self.nodes, device=self.device)
        degree = self.row_pointers.diff().to(torch.int64)
        return rows.repeat_interleave(degree, output_size=self.edges)

    @property
    def in_degree(self) -> Tensor:
        """`(N,)`, float32: edges into each node, its self loop included."""
        return self.row_pointers.diff().to(torch.float32)

    @property
    def out_degree(self) -> Tensor:
        """`(N,)`, float32: edges out of each node, its self loop included."""
        return self._transposed_pointers.diff().to(torch.float32)

    def require_neighbours(self) -> None:
        """Refuse (`DataError`) a node that no edge leads to, whose attention is not defined."""
        for node in self._lonely:
            raise DataError(
                f"no edge leads to node {node}, so that attention over its neighbours is not "
                f"defined. Keep self loops (self_loops=True), or remove the node."
            )

    def propagate(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """What each node receives: the sum of `weights * x[u]` over the edges u -> v into it.

        Takes `x`, `(N, C)`, and a weight for each entry, `(E,)`, None for 1; returns `(N, C)`,
        float32 or better. Differentiable, once, in both; for weights two `(E, C)` tensors are made.
        """
        gathered = self.gather(at_least_float32(x))
        if weights is None:
            return _Multiply.apply(gathered, *self._fixed_matrices("ones", gathered.dtype))
        return _MultiplyWeighted.apply(gathered, weights.to(gathered.dtype), self)

    def propagate_normalised(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """`D_in^(-1/2) A D_out^(-1/2) x`, with degrees below 1 taken as 1. See `propagate`.

        Entries of A are the `weights`; degrees are those without them.
        """
        x = at_least_float32(x)
        matrix, transposed = self._fixed_matrices("normalised", x.dtype)
        if weights is None:
            return _Multiply.apply(self.gather(x), matrix, transposed)
        return self.propagate(x, weights * matrix.values())

    def dropout(self, x: Tensor, p: float, training: bool) -> Tensor:
        """`x`, `(N, ...)`, with zeros of probability `p` in training, the rest scaled up."""
        if not training or p == 0:
            return x
        return x * (self.keep(x.shape, p) * (1 / kept_share(p)))

    def edge_dropout(self, p: float) -> Tensor:
        """`(E,)`, float32: for each entry 0 with probability `p`, or `1 / (1 - p)`."""
        if p == 0:
            return torch.ones(self.edges, device=self.device)
        return self.keep_edges(p) * (1 / kept_share(p))

    def seed(self, key: int) -> None:
        """Begin the random numbers of a step; those of a whole graph are PyTorch's own."""

    def keep(self, shape: Sequence[int], p: float) -> Tensor:
        """`shape`, which is `(N, ...)`: 0 with probability `p`, or 1; int16."""
        return draw_kept(shape, p, self.device)

    def keep_edges(self, p: float) -> Tensor:
        """`(E,)`: for each entry 0 with probability `p`, or 1; int16."""
        return draw_kept((self.edges,), p, self.device)

    def gather(self, x: Tensor) -> Tensor:
        """`(width, C)`: the row of `x` for each column of the matrix. Differentiable."""
        return x

    def total(self, x: Tensor) -> Tensor:
        """`x`, a sum over nodes or edges, summed over all processes too. Differentiable."""
        return x

    def maximum(self, x: Tensor) -> Tensor:
        """The largest number of `x` on all processes, a scalar without gradient."""
        return x.detach().max()

    def _fixed_matrices(self, kind: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """`"ones"` or `"normalised"`, which depend on the graph alone, and the transpose."""
        if (kind, dtype) not in self._fixed:
            values = torch.ones(self.edges, dtype=dtype, device=self.device)
            if kind == "normalised":
                out = self.gather(self.out_degree.to(dtype).clamp(min=1)[:, None]).flatten()
                into = self.in_degree.to(dtype).clamp(min=1)
                values = (out[self.sources] * into[self.targets]).rsqrt()
            matrix = self.matrix(values)
            transposed = matrix if self.symmetric else self.transposed(values)
            self._fixed[kind, dtype] = matrix, transposed
        return self._fixed[kind, dtype]

    def matrix(self, values: Tensor) -> Tensor:
        """`(N, width)`, sparse."""
        return _csr(self.row_pointers, self.columns, values, (self.nodes, self.width))

    def transposed(self, values: Tensor) -> Tensor:
        """`(width, N)`, sparse: the transpose of `matrix(values)`."""
        values, shape = values.index_select(0, self._transposed_order), (self.width, self.nodes)
        return _csr(self._transposed_pointers, self._transposed_columns, values, shape)


def kept_share(p: float) -> float:
    """`1 - p` as dropout keeps it: a multiple of 1/65536, at least one.

    What is kept is divided by this, so that means are right to the last bit.
    """
    return max(1, round((1 - p) * DRAWS)) / DRAWS


def draw_kept(
    shape: Sequence[int], p: float, device: torch.device, generator: torch.Generator | None = None
) -> Tensor:
    """0 with probability `p`, or 1; int16. Without a generator, by PyTorch's global one."""
    below = round(kept_share(p) * DRAWS) - DRAWS // 2
    if below == DRAWS // 2:  # p rounds to 0
        return torch.ones(shape, dtype=torch.int16, device=device)
    count = torch.Size(shape).numel()
    draws = torch.empty((count + 3) // 4, dtype=torch.int64, device=device)
    draws.random_(-(2**63), None, generator=generator)
    # draw < below, in integers: a comparison gives booleans, which are slow to multiply by.
    bits = draws.view(torch.int16)[:count].view(shape)
    return bits.clamp_(below - 1, below).neg_().add_(below)


class _Multiply(torch.autograd.Function):
    """A constant sparse matrix times `x`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
        ctx.transposed = transposed
        return multiply(matrix, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore
        return multiply(ctx.transposed, gradients[0]), None, None


class _MultiplyWeighted(torch.autograd.Function):
    """The matrix with entries `weights` times `x`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, graph: MessageGraph) -> Tensor:
        ctx.graph = graph
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weights)
        return multiply(graph.matrix(weights.detach()), x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        x, weights = ctx.saved_tensors
        graph, gradient = ctx.graph, gradients[0]
        of_x = of_weights = None
        if ctx.needs_input_grad[0]:
            of_x = multiply(graph.transposed(weights), gradient)
        if ctx.needs_input_grad[1]:
            of_weights = (gradient[graph.targets] * x[graph.sources]).sum(1)
        return of_x, of_weights, None


def multiply(matrix: Tensor, x: Tensor) -> Tensor:
    """`matrix @ x`, in full precision also inside autocast, whose types `torch.sparse` lacks."""
    with torch.autocast(x.device.type, enabled=False):
        return matrix @ x


def _csr(pointers: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(pointers, columns, values, shape, check_invariants=False)


def _pointers(rows: Tensor, count: int) -> Tensor:
    """Where each of `count` rows begins in sorted entries of the rows `rows`, and the end."""
    return torch.cat([rows.new_zeros(1), torch.bincount(rows, minlength=count).cumsum(0)])


def at_least_float32(x: Tensor) -> Tensor:
    """`x`, in float32 where it is of a narrower type."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
