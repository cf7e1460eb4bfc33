"""Products against dense matrices, their gradients, and the random numbers of dropout."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from modicum.errors import DataError
from modicum.methods.reliant.graphs.messages import MessageGraph, kept_share


def random_edges(nodes: int = 30, count: int = 100) -> Tensor:
    return torch.randint(nodes, (2, count), generator=torch.Generator().manual_seed(0))


def dense(graph: MessageGraph) -> Tensor:
    matrix = torch.zeros(graph.nodes, graph.nodes, dtype=torch.float64)
    matrix[graph.targets, graph.sources] = 1
    return matrix


DIRECTED = MessageGraph(random_edges(), 30)
SYMMETRIC = MessageGraph(torch.cat([random_edges(), random_edges().flip(0)], 1), 30)
WITHOUT_LOOPS = MessageGraph(random_edges(), 30, self_loops=False)
GRAPHS = {"directed": DIRECTED, "symmetric": SYMMETRIC, "without loops": WITHOUT_LOOPS}
every_graph = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)


def test_row_of_a_node_lists_who_sends_to_it() -> None:
    edges = torch.tensor([[0, 0, 2, 1, 1, 0], [1, 1, 1, 1, 0, 2]])  # 0 -> 1 twice, 1 -> 1
    graph = MessageGraph(edges, 3)
    assert graph.row_pointers.tolist() == [0, 2, 5, 7]
    assert graph.columns.tolist() == [0, 1, 0, 1, 2, 0, 2]
    assert graph.targets.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert graph.edges == 7
    assert graph.in_degree.tolist() == [2, 3, 2]
    assert graph.out_degree.tolist() == [3, 2, 2]
    assert not graph.symmetric
    assert MessageGraph(edges, 3, self_loops=False).columns.tolist() == [1, 0, 2, 0]
    x = torch.tensor([[1.0], [10.0], [100.0]])
    assert graph.propagate(x).flatten().tolist() == [11, 111, 101]


def test_symmetry_is_found() -> None:
    assert SYMMETRIC.symmetric
    assert not DIRECTED.symmetric
    ring = torch.tensor([[0, 1, 2], [1, 2, 0]])  # all degrees are equal, both ways
    assert not MessageGraph(ring, 3).symmetric


@every_graph
def test_products_equal_dense_ones(graph: MessageGraph) -> None:
    x = torch.randn(30, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = torch.rand(graph.edges, dtype=torch.float64)
    matrix = dense(graph)
    torch.testing.assert_close(graph.propagate(x), matrix @ x)
    torch.testing.assert_close(graph.propagate(x.float()), (matrix @ x).float())
    weighted = matrix.clone()
    weighted[graph.targets, graph.sources] = weights
    torch.testing.assert_close(graph.propagate(x, weights), weighted @ x)
    into, out = (matrix.sum(axis).clamp(min=1).rsqrt() for axis in (1, 0))
    torch.testing.assert_close(
        graph.propagate_normalised(x), into[:, None] * (matrix @ (out[:, None] * x))
    )
    torch.testing.assert_close(
        graph.propagate_normalised(x, weights), into[:, None] * (weighted @ (out[:, None] * x))
    )
    torch.testing.assert_close(graph.in_degree, matrix.sum(1).float())
    torch.testing.assert_close(graph.out_degree, matrix.sum(0).float())


@every_graph
def test_gradients(graph: MessageGraph) -> None:
    x = torch.randn(30, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(graph.edges, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(graph.propagate, (x,))
    assert torch.autograd.gradcheck(graph.propagate, (x, weights))
    assert torch.autograd.gradcheck(graph.propagate_normalised, (x,))
    assert torch.autograd.gradcheck(graph.propagate_normalised, (x, weights))


def test_products_are_of_float32_in_mixed_precision() -> None:
    x = torch.randn(30, 3)
    assert SYMMETRIC.propagate(x.bfloat16()).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(
            SYMMETRIC.propagate(x), SYMMETRIC.propagate(x, torch.ones(SYMMETRIC.edges))
        )


def test_graph_without_edges() -> None:
    nothing = torch.zeros(2, 0, dtype=torch.int64)
    x = torch.randn(4, 2)
    assert torch.equal(MessageGraph(nothing, 4).propagate(x), x)
    lonely = MessageGraph(nothing, 4, self_loops=False)
    assert torch.equal(lonely.propagate(x), torch.zeros(4, 2))
    assert torch.equal(lonely.propagate_normalised(x), torch.zeros(4, 2))


def test_on_another_device() -> None:
    SYMMETRIC.propagate(torch.ones(30, 1))
    moved = SYMMETRIC.to("meta")
    assert moved.device.type == moved.row_pointers.device.type == "meta"
    assert (moved.nodes, moved.edges, moved.symmetric) == (30, SYMMETRIC.edges, True)
    assert SYMMETRIC.to("cpu") is SYMMETRIC
    assert SYMMETRIC.device.type == "cpu"


@pytest.mark.parametrize(
    ("edges", "told"),
    [
        ([[0, 5], [1, 2]], "names node 5; there are 0..4"),
        ([[0, -1], [1, 2]], "names node -1"),
        ([[0, 1, 2]], r"found \(1, 3\)"),
    ],
)
def test_refuses_edges_that_are_none(edges: list[list[int]], told: str) -> None:
    with pytest.raises(DataError, match=told):
        MessageGraph(torch.tensor(edges), 5)


def test_refuses_attention_over_nothing() -> None:
    DIRECTED.require_neighbours()
    chain = MessageGraph(torch.tensor([[0, 1], [1, 2]]), 3, self_loops=False)
    for _ in range(2):  # the answer is remembered
        with pytest.raises(DataError, match="no edge leads to node 0"):
            chain.require_neighbours()


@pytest.mark.parametrize("p", [0.2, 0.5, 0.8])
def test_dropout_keeps_shares_and_means(p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(40_000, 4)
    graph = MessageGraph(torch.zeros(2, 0, dtype=torch.int64), len(x))
    out = graph.dropout(x, p, training=True)
    assert sorted(out.unique().tolist()) == pytest.approx([0, 1 / (1 - p)], rel=1e-4)
    # Each 64-bit draw decides on four numbers, one in each column here: all must be fair, and
    # independent of each other.
    kept = (out > 0).double()
    sigma = math.sqrt(p * (1 - p) / len(x))
    assert (kept.mean(0) - (1 - p)).abs().max() < 5 * sigma
    correlation = torch.corrcoef(kept.T) - torch.eye(4)
    assert correlation.abs().max() < 5 / math.sqrt(len(x))
    assert graph.dropout(x, p, training=False) is x
    assert graph.dropout(x, 0.0, training=True) is x


def test_dropout_is_of_the_global_generator() -> None:
    def draw(seed: int) -> tuple[Tensor, Tensor]:
        torch.manual_seed(seed)
        return SYMMETRIC.dropout(torch.ones(30, 7), 0.5, True), SYMMETRIC.edge_dropout(0.5)

    for first, again, other in zip(draw(1), draw(1), draw(2), strict=True):
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
    assert not torch.equal(SYMMETRIC.edge_dropout(0.5), SYMMETRIC.edge_dropout(0.5))


def test_dropout_passes_gradients_where_it_keeps() -> None:
    x = torch.ones(30, 3, requires_grad=True)
    out = SYMMETRIC.dropout(x, 0.5, training=True)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, out)


def test_edge_dropout() -> None:
    graph = MessageGraph(random_edges(2000, 60_000), 2000)
    torch.manual_seed(0)
    weights = graph.edge_dropout(0.2)
    assert weights.shape == (graph.edges,)
    assert sorted(weights.unique().tolist()) == pytest.approx([0, 1.25], rel=1e-4)
    assert float(weights.mean()) == pytest.approx(1, abs=0.01)
    assert torch.equal(graph.edge_dropout(0.0), torch.ones(graph.edges))


def test_probabilities_are_kept_in_16_bits() -> None:
    assert kept_share(0.5) == 0.5
    assert kept_share(0.8) == pytest.approx(0.2, abs=1 / 2**17)
    assert kept_share(1e-9) == 1
    assert kept_share(1 - 1e-9) == 1 / 2**16
    assert SYMMETRIC.keep((30, 2), 1e-9).all()
    torch.manual_seed(0)
    assert float(SYMMETRIC.keep((30, 9), 1 - 1e-9).sum()) < 2


def test_a_whole_graph_knows_no_other_process() -> None:
    x = torch.randn(30, 2)
    assert SYMMETRIC.total(x) is x
    assert SYMMETRIC.gather(x) is x
    assert SYMMETRIC.maximum(x) == x.max()
