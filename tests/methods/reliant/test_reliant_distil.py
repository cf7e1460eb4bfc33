"""Whole epochs of both frameworks, as `train` runs them, against the official code's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.optim import Adam, Optimizer

from modicum.errors import ConfigError
from modicum.methods.reliant.checkpoints import load_official
from modicum.methods.reliant.graphs.graph import Graph
from modicum.methods.reliant.networks.discriminators import Adversary
from modicum.methods.reliant.networks.distilled import Proxies
from modicum.methods.reliant.networks.students import PLP, SGCStudent
from modicum.methods.reliant.recipes.epochs import Student, akd_epoch, cpf_epoch, frozen
from modicum.methods.reliant.recipes.fairness import Fairness, fairness_term
from modicum.methods.reliant.recipes.teacher import Targets

GOLDEN = Path(__file__).parents[2] / "golden" / "reliant"
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 2e-5}
"""Of the README of the golden numbers."""


@pytest.fixture(scope="module")
def graph() -> Graph:
    told = load_file(GOLDEN / "graph.safetensors")
    return Graph.build(
        features=told["x"],
        edges=torch.stack([told["edge_src"], told["edge_dst"]]),
        labels=told["y"],
        sensitive=told["sens"],
        train=told["idx_train"],
        val=told["idx_val"],
        test=told["idx_test"],
    )


def step(terms: Mapping[str, Tensor], optimizer: Optimizer) -> None:
    torch.stack(list(terms.values())).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def official(golden: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): v for n, v in golden.items() if n.startswith(prefix)}


@pytest.mark.parametrize("objective", ["sp", "eo", "vanilla"])
def test_cpf(graph: Graph, objective: str) -> None:
    golden = load_file(GOLDEN / f"cpf_{objective}.safetensors")
    fair = objective != "vanilla"
    p = golden["teacher_prob"]
    targets = Targets(p, p.log())
    network = PLP(6 + 2 * fair, 2, 48, rounds=4, hidden=8, dropout=0, attention_dropout=0)
    load_official(network, official(golden, "sd_0."))
    student = Student(
        network, Adam(network.parameters(), lr=0.01, weight_decay=0.01), graph.features
    )
    if fair:
        student.proxies = Proxies.from_rows(golden["proxy_0"])
        student.proxy_optimizer = Adam([student.proxies.rows], lr=0.01, weight_decay=0.01)
    options: Any = {"objective": objective if fair else "none", "eo_labels": "official"}
    options = Fairness(alpha=1000, **options)
    fairness = fairness_term(graph, targets.probabilities, options, "cpf")
    for epoch in range(6):
        told = cpf_epoch(graph, student, targets, fairness, step)
        loss = told["distance"] + told.get("fairness", torch.tensor(0.0))
        torch.testing.assert_close(loss.double(), golden["loss_student"][epoch].double(), **CLOSE)
        if fair:
            torch.testing.assert_close(
                told["proxy"].double(), golden["loss_proxy"][epoch].double(), **CLOSE
            )
        log_p = student.predict(graph).log()
        torch.testing.assert_close(log_p, golden["eval_logp"][epoch], **CLOSE)
        if epoch in (0, 5) and student.proxies is not None:
            rows = student.proxies.rows.detach()
            torch.testing.assert_close(rows, golden[f"proxy_{epoch + 1}"], **CLOSE)


@pytest.mark.parametrize("objective", ["sp", "eo", "vanilla"])
def test_akd(graph: Graph, objective: str) -> None:
    golden = load_file(GOLDEN / f"akd_{objective}.safetensors")
    fair = objective != "vanilla"
    log_p = golden["teacher_logprob"]
    targets = Targets(log_p.exp(), log_p, golden["teacher_emb"])
    network = SGCStudent(6 + 2 * fair, 2, hidden=8, dropout=0)
    load_official(network, official(golden, "step0.student."))
    adversary = Adversary(2, 8)
    for module, name in (
        (adversary.logit, "D_logit"), (adversary.edge, "D_local"), (adversary.whole, "D_global")
    ):  # fmt: skip
        load_official(module, official(golden, f"step0.{name}."))
    student = Student(
        network, Adam(network.parameters(), lr=0.001, weight_decay=5e-4), graph.features
    )
    if fair:
        student.proxies = Proxies.from_rows(golden["step0.proxy"])
        student.proxy_optimizer = Adam([student.proxies.rows], lr=0.01, weight_decay=5e-4)
    options: Any = {"objective": objective if fair else "none", "eo_labels": "official"}
    options = Fairness(alpha=10, **options)
    fairness = fairness_term(graph, targets.probabilities, options, "akd")
    adam = Adam(adversary.parameters(), lr=0.01, weight_decay=5e-4)
    for epoch in range(5):
        told = akd_epoch(graph, student, adversary, adam, targets, fairness, step)
        of_adversary = sum(v for n, v in told.items() if n.startswith("discriminator_"))
        of_student = sum(
            v for n, v in told.items() if not n.startswith("discriminator_") and n != "proxy"
        )
        for found, name in ((of_adversary, "loss_D"), (of_student, "loss_G")):
            expected = golden[f"rec.{name}"][epoch].double()
            torch.testing.assert_close(torch.as_tensor(found).double(), expected, **CLOSE)
        if fair:
            expected = golden["rec.loss_P"][epoch].double()
            torch.testing.assert_close(told["proxy"].double(), expected, **CLOSE)
        if epoch in (0, 4):
            with torch.no_grad():
                logits = network.eval()(graph, student.mean_features(graph))
            torch.testing.assert_close(logits, golden[f"step{epoch + 1}.logits"], **CLOSE)


@pytest.mark.parametrize("framework", ["cpf", "akd"])
def test_index_sets(graph: Graph, framework: Any, caplog: pytest.LogCaptureFixture) -> None:
    p = torch.softmax(torch.randn(48, 2), 1)
    others = (~graph.training).nonzero().flatten()

    def of(**options: Any) -> Any:
        return fairness_term(graph, p, Fairness(alpha=1.0, **options), framework)

    sp = of(objective="sp")
    assert torch.equal(sp.student_nodes, others if framework == "cpf" else graph.train)
    assert len(sp.proxy_nodes) == (len(others) if framework == "cpf" else 48)
    assert sp.positive is None

    teacher = of(objective="eo")
    assert torch.equal(teacher.positive[graph.train], graph.labels[graph.train] == 1)
    assert torch.equal(teacher.positive[others], p[others].argmax(1) == 1)
    assert not caplog.text
    validation = of(objective="eo", eo_labels="validation")
    allowed = {*graph.train.tolist(), *graph.val.tolist()}
    assert {*validation.student_nodes.tolist(), *validation.proxy_nodes.tolist()} <= allowed
    official = of(objective="eo", eo_labels="official")
    assert torch.equal(official.positive, graph.labels == 1)
    assert "test nodes" in caplog.text
    assert of(objective="none") is None
    if framework == "cpf":
        with pytest.raises(ConfigError, match="eo-labels train"):
            of(objective="eo", eo_labels="train")
    else:
        assert set(of(objective="eo", eo_labels="train").proxy_nodes.tolist()) == {
            *graph.train.tolist()
        }


def test_frozen_gives_gradients_back() -> None:
    module = torch.nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    with frozen(module):
        assert not module.weight.requires_grad
    assert module.weight.requires_grad
    assert not module.bias.requires_grad
