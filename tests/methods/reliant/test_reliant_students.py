"""Students against the golden numbers of the official code, and what makes PLP quick."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
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
from modicum.methods.reliant.networks.students import PLP, GCNStudent, SGCStudent

GOLDEN = Path(__file__).parents[2] / "golden" / "reliant"
STRUCTURE = load_file(GOLDEN / "graph.safetensors")
VECTORS = load_file(GOLDEN / "plp_forward.safetensors")
ATTENTION: dict[str, Any] = {"ind": "features", "tra": "nodes"}


def golden_graph() -> Graph:
    return Graph.build(
        features=STRUCTURE["x"],
        edges=torch.stack([STRUCTURE["edge_src"], STRUCTURE["edge_dst"]]),
        labels=STRUCTURE["y"],
        sensitive=STRUCTURE["sens"],
        train=STRUCTURE["idx_train"],
        val=STRUCTURE["idx_val"],
        test=STRUCTURE["idx_test"],
        symmetrise=False,
    )


GRAPH = golden_graph()
NODES = GRAPH.nodes
UNKNOWN = ~GRAPH.training


def plp(**options: Any) -> PLP:
    return PLP(**{"in_features": 6, "classes": 2, "nodes": NODES, "hidden": 8} | options)


def fill(student: PLP, state: Mapping[str, Tensor], prefix: str) -> None:
    names = {f"{prefix}.plp_layer.lr_alpha": student.balance}
    score = "attn_l" if student.attention == "features" else "fc_emb"
    names[f"{prefix}.plp_layer.{score}"] = student.score
    for place, layer in enumerate(student.mlp):
        linear = "linear" if len(student.mlp) == 1 else f"linears.{place}"
        for name, parameter in layer.named_parameters():
            names[f"{prefix}.plp_layer.mlp.{linear}.{name}"] = parameter
    assert {name for name in state if name.startswith(f"{prefix}.")} == {
        *names,
        f"{prefix}.alpha",
    }
    with torch.no_grad():
        for name, parameter in names.items():
            parameter.copy_(state[name])


@pytest.mark.parametrize("mlp_layers", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", ["ind", "tra"])
def test_plp_equals_the_official_one(kind: str, mlp_layers: int) -> None:
    student = plp(rounds=4, mlp_layers=mlp_layers, attention=ATTENTION[kind]).eval()
    case = f"{kind}.mlp{mlp_layers}"
    fill(student, VECTORS, f"{case}.sd")

    def close(mine: Tensor, field: str) -> None:
        torch.testing.assert_close(mine, VECTORS[f"{case}.{field}"], rtol=0, atol=1e-5)

    with torch.no_grad():
        logits = student(GRAPH, GRAPH.features)
        score = student.scores(GRAPH, GRAPH.features)
        heard = student._attend(GRAPH, GRAPH.features)
    close(logits, "logits")
    close(score.flatten(), "el")
    close(student.balance.detach().sigmoid().flatten(), "alpha_sigmoid")
    source, target = STRUCTURE["edge_src"], STRUCTURE["edge_dst"]
    close((heard.weights[source] / heard.total[target]).flatten(), "edge_attention")
    assert heard.kept is None


def test_plp_learns_as_the_official_one() -> None:
    golden = load_file(GOLDEN / "cpf_vanilla.safetensors")
    student = plp(rounds=4, dropout=0, attention_dropout=0)
    fill(student, golden, "sd_0")
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01, weight_decay=0.01)
    losses: list[Tensor] = []
    for epoch in range(6):
        student.train()
        apart = student(GRAPH, GRAPH.features).softmax(1) - golden["teacher_prob"]
        loss = apart[UNKNOWN].norm()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        student.eval()
        with torch.no_grad():
            found = student(GRAPH, GRAPH.features).log_softmax(1)
        torch.testing.assert_close(found, golden["eval_logp"][epoch], rtol=1e-4, atol=2e-5)
        if epoch in (0, 5):
            expected = plp(rounds=4)
            fill(expected, golden, f"sd_{epoch + 1}")
            for name, parameter in expected.named_parameters():
                mine = student.get_parameter(name)
                torch.testing.assert_close(mine, parameter, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(
        torch.stack(losses).double(), golden["loss_student"].double(), rtol=1e-4, atol=2e-5
    )


@pytest.mark.parametrize("step", [1, 5])
def test_sgc_student_equals_the_official_one(step: int) -> None:
    golden = load_file(GOLDEN / "akd_vanilla.safetensors")
    for student in (SGCStudent(6, 2, hidden=8).eval(), GCNStudent(6, 2, hidden=8).eval()):
        student.load_state_dict(
            {
                f"layers.{place}.{name}": golden[f"step{step}.student.layers.{place}.fc.{name}"]
                for place in range(3)
                for name in ("weight", "bias")
            }
        )
        logits, embedding = student.embed(GRAPH, GRAPH.features)
        torch.testing.assert_close(logits, golden[f"step{step}.logits"], rtol=1e-4, atol=2e-5)
        # The embedding is what the last layer sees: after ReLU, before dropout.
        assert float(embedding.detach().min()) == 0
        last = student.layers[-1](GRAPH.messages, embedding)
        torch.testing.assert_close(last, logits)
        assert torch.equal(student(GRAPH, GRAPH.features), logits)


def test_parameters() -> None:
    def count(network: nn.Module) -> int:
        return sum(p.numel() for p in network.parameters())

    assert count(PLP(18, 2, 18_876)) == 1_364 + 18_876
    assert count(PLP(18, 2, 18_876, attention="nodes")) == 1_346 + 2 * 18_876
    for student in (SGCStudent, GCNStudent):
        assert count(student(20, 2)) == 5_634
        assert count(student(18, 2)) == 5_506


def reference(student: PLP, x: Tensor) -> Tensor:
    """The same with a dense softmax, without dropout."""
    messages = GRAPH.messages
    adjacency = torch.zeros(NODES, NODES, dtype=x.dtype)
    adjacency[messages.targets, messages.sources] = 1
    score = student.scores(GRAPH, x).T.expand(NODES, -1)
    attention = score.masked_fill(adjacency == 0, -math.inf).softmax(1)
    labels = torch.full((NODES, 2), 0.5, dtype=x.dtype)
    known = functional.one_hot(GRAPH.labels, 2).to(x.dtype)
    share = student.balance.sigmoid()
    for _ in range(student.rounds):
        labels = torch.where(UNKNOWN[:, None], labels, known)
        mlp = x
        for place, layer in enumerate(student.mlp):
            mlp = layer(mlp.relu() if place else mlp)
        labels = (share * (attention @ labels) + (1 - share) * mlp).relu()
    return torch.where(UNKNOWN[:, None], labels, known)


def test_plp_and_its_gradients_equal_a_dense_softmax() -> None:
    torch.manual_seed(0)
    student = plp(rounds=3, dropout=0, attention_dropout=0).double()
    nn.init.normal_(student.balance)
    found: list[list[Tensor]] = []
    for network in (student.forward, lambda _, x: reference(student, x)):
        x = GRAPH.features.double().requires_grad_()
        out = network(GRAPH, x)
        loss = (out.softmax(1)[:, 0] * torch.linspace(-1, 1, NODES)).sum()
        found.append([out, *torch.autograd.grad(loss, [x, *student.parameters()])])
    for mine, expected in zip(*found, strict=True):
        torch.testing.assert_close(mine, expected)


def test_scores_far_apart_do_not_vanish() -> None:
    student = plp(attention="nodes", dropout=0)
    with torch.no_grad():
        student.score.copy_(torch.linspace(-500, 500, NODES)[:, None])
    out = student(GRAPH, GRAPH.features)
    out.square().sum().backward()
    assert out.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())
    # Where the highest score of the graph is heard, the softmax is exact.
    with torch.no_grad():
        student.eval()
        heard = student._attend(GRAPH, GRAPH.features)
    messages = GRAPH.messages
    listeners = messages.targets[messages.sources == NODES - 1]
    share = heard.weights[-1] / heard.total[listeners]
    torch.testing.assert_close(share, torch.ones_like(share))


@pytest.mark.parametrize("tied", [False, True])
def test_training_rows_are_their_labels_and_teach_nothing(tied: bool) -> None:
    student = plp(tied_dropout=tied)
    out = student(GRAPH, GRAPH.features)
    assert torch.equal(out[GRAPH.train].argmax(1), GRAPH.labels[GRAPH.train])
    assert torch.equal(out[GRAPH.train].sum(1), torch.ones(len(GRAPH.train)))
    assert out.min() >= 0
    out[GRAPH.train].square().sum().backward()
    assert not any(bool(p.grad.any()) for p in student.parameters() if p.grad is not None)


@pytest.mark.parametrize(("tied", "rounds_drawn"), [(False, 5), (True, 1)])
def test_every_round_draws_dropout_unless_tied(
    tied: bool, rounds_drawn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[int, ...]] = []
    keep, keep_edges = MessageGraph.keep, MessageGraph.keep_edges

    def count(self: MessageGraph, shape: Any, p: float) -> Tensor:
        drawn.append(tuple(shape))
        return keep(self, shape, p)

    def count_edges(self: MessageGraph, p: float) -> Tensor:
        drawn.append((self.edges,))
        return keep_edges(self, p)

    monkeypatch.setattr(MessageGraph, "keep", count)
    monkeypatch.setattr(MessageGraph, "keep_edges", count_edges)
    student = plp(rounds=5, tied_dropout=tied)
    student(GRAPH, GRAPH.features)
    a_round = [(NODES, 6), (GRAPH.messages.edges,), (NODES, 6), (NODES, 8)]
    assert sorted(drawn) == sorted(a_round * rounds_drawn)
    drawn.clear()
    student.eval()
    assert torch.equal(student(GRAPH, GRAPH.features), student(GRAPH, GRAPH.features))
    assert not drawn


@pytest.mark.parametrize("tied", [False, True])
def test_dropout_leaves_no_bias_in_the_average_of_neighbours(tied: bool) -> None:
    torch.manual_seed(0)
    student = plp(rounds=1, mlp_layers=0, dropout=0, attention_dropout=0.5, tied_dropout=tied)
    with torch.no_grad():
        mean = torch.stack([student(GRAPH, GRAPH.features) for _ in range(2000)]).mean(0)
        expected = student.eval()(GRAPH, GRAPH.features)
    # A mean of 2000 draws of numbers of a deviation of at most about 1.
    torch.testing.assert_close(mean, expected, rtol=0, atol=5 / math.sqrt(2000))


def test_proxies_learn_while_the_student_is_frozen() -> None:
    student = plp(in_features=8, dropout=0.5)
    proxies = torch.rand(NODES, 2, requires_grad=True)
    found: list[Tensor] = []
    for frozen in (False, True):
        torch.manual_seed(0)
        student.requires_grad_(not frozen)
        out = student(GRAPH, torch.cat([GRAPH.features, proxies], 1))
        found.append(torch.autograd.grad(out[UNKNOWN].softmax(1)[:, 1].sum(), proxies)[0])
    assert found[0].any()
    torch.testing.assert_close(found[0], found[1])


def test_predicts_on_other_nodes_by_the_mean_balance() -> None:
    student = plp().eval()
    with torch.no_grad():
        student.balance.copy_(torch.linspace(-1, 2, NODES)[:, None])
    index = torch.arange(20)
    kept = (STRUCTURE["edge_src"] < 20) & (STRUCTURE["edge_dst"] < 20)
    smaller = Graph.build(
        features=GRAPH.features[index],
        edges=torch.stack([STRUCTURE["edge_src"], STRUCTURE["edge_dst"]])[:, kept],
        labels=GRAPH.labels[index],
        train=GRAPH.train[GRAPH.train < 20],
        val=GRAPH.val[GRAPH.val < 20],
        test=GRAPH.test[GRAPH.test < 20],
    )
    with pytest.raises(DataError, match=r"balance=student.mean_balance\(20\)"):
        student(smaller, smaller.features)
    balance = student.mean_balance(20)
    torch.testing.assert_close(balance, torch.full((20, 1), 0.5))
    out = student(smaller, smaller.features, balance=balance)
    assert out.shape == (20, 2)
    assert not torch.equal(out, student(smaller, smaller.features, balance=balance + 1))
    with pytest.raises(DataError, match="a score for each of 48, and none for others"):
        plp(attention="nodes")(smaller, smaller.features, balance=balance)


def test_refuses_a_node_without_neighbours() -> None:
    lonely = MessageGraph(torch.tensor([[0, 1], [1, 0]]), NODES, self_loops=False)
    with pytest.raises(DataError, match="no edge leads to node 2"):
        plp()(dataclasses.replace(GRAPH, messages=lonely), GRAPH.features)


def test_runs_in_mixed_precision() -> None:
    torch.manual_seed(0)
    for student in (plp(), SGCStudent(6, 2), GCNStudent(6, 2, layers=2)):
        student.eval()
        expected = student(GRAPH, GRAPH.features)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = student(GRAPH, GRAPH.features)
            out.float().sum().backward()
        torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.02)


def test_sgc_student_hops() -> None:
    student = SGCStudent(6, 2, hops=2).eval()
    x = GRAPH.features
    for place, layer in enumerate(student.layers):
        for _ in range(2):
            x = GRAPH.messages.propagate_normalised(x)
        x = functional.linear(x, layer.weight, layer.bias)
        x = x.relu() if place < 2 else x
    torch.testing.assert_close(student(GRAPH, GRAPH.features), x)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rounds": 0}, "--rounds 0: must be at least 1"),
        ({"dropout": 1.0}, "dropout"),
        ({"attention_dropout": -0.5}, "--attention-dropout -0.5: must be at least 0 and below 1"),
        ({"mlp_layers": -1}, "mlp-layers"),
        ({"attention": "edges"}, "--attention edges: must be one of features, nodes"),
    ],
)
def test_refuses_options_out_of_range(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        plp(**options)
    with pytest.raises(ConfigError, match="hops"):
        SGCStudent(6, 2, hops=0)
