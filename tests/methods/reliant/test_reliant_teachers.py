"""Teachers against the golden numbers of the official code, and against dense matrices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from modicum.errors import ConfigError, DataError
from modicum.methods.reliant.graphs.graph import Graph
from modicum.methods.reliant.graphs.messages import MessageGraph
from modicum.methods.reliant.networks.teachers import (
    APPNP,
    GAT,
    GCN,
    GCNII,
    SGC,
    GraphConvolution,
    GraphSAGE,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "reliant"
VECTORS = load_file(GOLDEN / "teachers.safetensors")
TEACHERS: dict[str, Callable[..., Any]] = {
    "gcn": GCN,
    "sage": GraphSAGE,
    "gat": GAT,
    "appnp": APPNP,
    "sgc": SGC,
    "gcnii": GCNII,
}


def golden_graph() -> Graph:
    found = load_file(GOLDEN / "graph.safetensors")
    return Graph.build(
        features=found["x"],
        edges=torch.stack([found["edge_src"], found["edge_dst"]]),
        labels=found["y"],
        sensitive=found["sens"],
        train=found["idx_train"],
        val=found["idx_val"],
        test=found["idx_test"],
        symmetrise=False,
    )


GRAPH = golden_graph()


def fill(network: nn.Module, prefix: str) -> None:
    """Weights of the official state dict; DGL's GraphConv has a column for each output."""
    for place, layer in enumerate(network.layers):  # type: ignore[arg-type]
        with torch.no_grad():
            name = f"{prefix}.layers.{place}"
            transposed = f"{name}.weight" in VECTORS
            weight = VECTORS[f"{name}.weight"].T if transposed else None
            layer.weight.copy_(VECTORS[f"{name}.fc_neigh.weight"] if weight is None else weight)
            layer.bias.copy_(VECTORS[f"{name}.bias"])


@pytest.mark.parametrize(("name", "layers"), [("gcn", 3), ("sage", 4)])
def test_logits_and_embedding_equal_the_official_ones(name: str, layers: int) -> None:
    network = TEACHERS[name](6, 2, hidden=8, layers=layers).eval()
    fill(network, f"{name}.sd")
    logits, embedding = network.embed(GRAPH, GRAPH.features)
    torch.testing.assert_close(logits, VECTORS[f"{name}.logits"], rtol=0, atol=1e-5)
    torch.testing.assert_close(embedding, VECTORS[f"{name}.emb"], rtol=0, atol=1e-5)
    assert torch.equal(network(GRAPH, GRAPH.features), logits)


def test_gcn_learns_as_the_official_one() -> None:
    network = GCN(6, 2, hidden=8, dropout=0)
    fill(network, "gcn.sd")
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01, weight_decay=0.001)
    losses: list[Tensor] = []
    for _ in range(5):
        logits = network(GRAPH, GRAPH.features)
        loss = functional.cross_entropy(logits[GRAPH.train], GRAPH.labels[GRAPH.train])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    torch.testing.assert_close(
        torch.stack(losses).double(), VECTORS["gcn.train_losses"].double(), rtol=1e-4, atol=2e-5
    )
    for place, layer in enumerate(network.layers):
        weight, bias = (VECTORS[f"gcn.sd_after5.layers.{place}.{x}"] for x in ("weight", "bias"))
        torch.testing.assert_close(layer.weight, nn.Parameter(weight.T), rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(layer.bias, nn.Parameter(bias), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "features", "count"),
    [
        ("gcn", 18, 5_506),
        ("sage", 18, 35_714),
        ("gcn", 5_694, 368_770),
        ("sage", 5_694, 762_242),
        ("sgc", 18, 36),
        ("gat", 18, 18 * 64 + 128 + 64 * 2 + 4),
        ("appnp", 18, 18 * 64 + 64 + 64 * 2 + 2),
        ("gcnii", 18, 18 * 64 + 64 + 8 * 64 * 64 + 64 * 2 + 2),
    ],
)
def test_parameters(name: str, features: int, count: int) -> None:
    assert sum(p.numel() for p in TEACHERS[name](features, 2).parameters()) == count


def dense() -> tuple[Tensor, Tensor]:
    """The adjacency, and the normalised one; float64."""
    matrix = torch.zeros(GRAPH.nodes, GRAPH.nodes, dtype=torch.float64)
    matrix[GRAPH.messages.targets, GRAPH.messages.sources] = 1
    return matrix, matrix.sum(1).rsqrt()[:, None] * matrix * matrix.sum(0).rsqrt()


X = GRAPH.features.double()


@pytest.mark.parametrize(("inputs", "outputs"), [(6, 9), (6, 2)])
@pytest.mark.parametrize("hops", [1, 3])
def test_graph_convolution_is_the_same_whichever_product_is_first(
    inputs: int, outputs: int, hops: int
) -> None:
    layer = GraphConvolution(inputs, outputs, hops=hops).double()
    assert layer.bias is not None
    nn.init.normal_(layer.bias)
    _, a = dense()
    expected = torch.linalg.matrix_power(a, hops) @ X @ layer.weight.T + layer.bias
    torch.testing.assert_close(layer(GRAPH.messages, X), expected)


def test_gat_is_a_softmax_over_neighbours() -> None:
    network = GAT(6, 3, hidden=4, heads=2).double().eval()
    mask = dense()[0] == 0
    h = X
    for layer in network.layers:
        out: list[Tensor] = []
        for weight, left, right in zip(
            layer.weight.view(-1, *layer.source.shape[1:], h.shape[1]),
            layer.source,
            layer.target,
            strict=True,
        ):
            z = h @ weight.T
            score = functional.leaky_relu((z @ right)[:, None] + (z @ left)[None, :], 0.2)
            out.append(score.masked_fill(mask, -math.inf).softmax(1) @ z)
        h = torch.cat(out, 1)
        h = h.relu() if layer is network.layers[0] else h
    logits, embedding = network.embed(GRAPH, X)
    torch.testing.assert_close(logits, h)
    assert embedding.shape == (GRAPH.nodes, 8)


def test_gat_refuses_a_node_without_neighbours() -> None:
    lonely = MessageGraph(torch.tensor([[0, 1], [1, 0]]), GRAPH.nodes, self_loops=False)
    with pytest.raises(DataError, match="no edge leads to node 2"):
        GAT(6, 2)(dataclasses.replace(GRAPH, messages=lonely), GRAPH.features)


def test_appnp_returns_to_its_start() -> None:
    network = APPNP(6, 2, steps=3, teleport=0.3).double().eval()
    first, last = network.layers
    start = h = last(first(X).relu())
    for _ in range(3):
        h = 0.7 * dense()[1] @ h + 0.3 * start
    torch.testing.assert_close(network(GRAPH, X), h)


def test_sgc_is_linear() -> None:
    network = SGC(6, 2).double()
    _, a = dense()
    torch.testing.assert_close(network(GRAPH, X), a @ a @ X @ network.layer.weight.T)


def test_gcnii_keeps_its_start() -> None:
    network = GCNII(6, 2, hidden=5, layers=2, teleport=0.2, decay=0.5).double().eval()
    _, a = dense()
    start = h = network.first(X).relu()
    for depth, layer in enumerate(network.layers, start=1):
        beta = math.log(0.5 / depth + 1)
        mixed = 0.8 * a @ h + 0.2 * start
        h = ((1 - beta) * mixed + beta * layer(mixed)).relu()
    torch.testing.assert_close(network(GRAPH, X), network.last(h))


@pytest.mark.parametrize("name", TEACHERS)
def test_dropout_in_training_alone_and_gradients_everywhere(name: str) -> None:
    torch.manual_seed(0)
    network = TEACHERS[name](6, 2)
    outputs: list[Tensor] = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(network(GRAPH, GRAPH.features))
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2]) == (name == "sgc")  # which has no dropout
    outputs[0].square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in network.parameters())
    network.eval()
    assert torch.equal(network(GRAPH, GRAPH.features), network(GRAPH, GRAPH.features))


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("gcn", {"dropout": 1.0}, "--dropout 1.0: must be at least 0 and below 1"),
        ("gcn", {"layers": 1}, "--layers 1: must be at least 2"),
        ("sage", {"dropout": -0.1}, "dropout"),
        ("gat", {"attention_dropout": 1}, "attention-dropout"),
        ("gat", {"heads": 0}, "heads"),
        ("appnp", {"edge_dropout": math.nan}, "edge-dropout"),
        ("appnp", {"teleport": 1.5}, "--teleport 1.5: must be at least 0 and at most 1"),
        ("sgc", {"hops": 0}, "hops"),
        ("gcnii", {"decay": 0}, "decay"),
    ],
)
def test_refuses_options_out_of_range(name: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        TEACHERS[name](6, 2, **options)
