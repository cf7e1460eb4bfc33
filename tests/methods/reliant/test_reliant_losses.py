"""The step, gaps and CPF's distance against the golden numbers of the official code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.polynomial import legendre
from safetensors.torch import load_file
from torch import Tensor

from modicum.errors import ConfigError, DataError
from modicum.methods.reliant.graphs.graph import Graph
from modicum.methods.reliant.losses import (
    distillation_loss,
    group_gap_loss,
    step_coefficients,
    step_surrogate,
)
from modicum.methods.reliant.networks.students import PLP

GOLDEN = Path(__file__).parents[2] / "golden" / "reliant"
STRUCTURE = load_file(GOLDEN / "graph.safetensors")
VECTORS = load_file(GOLDEN / "losses.safetensors")
GRAPH = Graph.build(
    features=STRUCTURE["x"],
    edges=torch.stack([STRUCTURE["edge_src"], STRUCTURE["edge_dst"]]),
    labels=STRUCTURE["y"],
    sensitive=STRUCTURE["sens"],
    train=STRUCTURE["idx_train"],
    val=STRUCTURE["idx_val"],
    test=STRUCTURE["idx_test"],
    symmetrise=False,
)
NODES = GRAPH.nodes
OTHERS = (~GRAPH.training).nonzero().flatten()
INDEX = {"train": GRAPH.train, "notrain": OTHERS, "all": torch.arange(NODES)}
KINDS: list[Any] = ["official", "legendre", "identity", "sigmoid"]


def groups() -> Tensor:
    assert GRAPH.sensitive is not None
    return GRAPH.sensitive


def positive_of(objective: str) -> Tensor | None:
    """As the official code has it: true labels everywhere."""
    return GRAPH.labels == 1 if objective == "eo" else None


# The step


def step_at(p: float, kind: Any, **options: Any) -> float:
    return float(step_surrogate(torch.tensor([p], dtype=torch.float64), kind, **options))


def slope_at_half(kind: Any, **options: Any) -> float:
    p = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    return float(torch.autograd.grad(step_surrogate(p, kind, **options), p)[0])


def test_step_equals_the_official_one() -> None:
    found = step_surrogate(VECTORS["s_grid"])
    torch.testing.assert_close(found, VECTORS["surrogate_of_s"], rtol=0, atol=1e-10)


def test_step_has_the_published_values() -> None:
    official = (1 / 2, -1 / 8, 1 / 16, -5 / 128, 7 / 256)
    assert step_coefficients(9, normalised=False) == pytest.approx(official, abs=1e-15)
    normalised = (3 / 4, -7 / 16, 11 / 32, -75 / 256, 133 / 512)
    assert step_coefficients(9) == pytest.approx(normalised, abs=1e-15)
    for p, expected in ((0, 0.07421875), (1, 0.92578125), (0.5, 0.5)):
        assert step_at(p, "official") == pytest.approx(expected, abs=1e-12)
    assert step_at(0.1, "official") == pytest.approx(0.120472, abs=1e-6)
    assert step_at(0.9, "official") == pytest.approx(0.879528, abs=1e-6)
    assert slope_at_half("official") == pytest.approx(1.914856, abs=1e-6)
    for p, expected in ((0, -0.123047), (1, 1.123047), (0.1, -0.046674)):
        assert step_at(p, "legendre") == pytest.approx(expected, abs=1e-6)
    assert slope_at_half("legendre") == pytest.approx(6.661835, abs=1e-6)
    assert step_at(0.3, "legendre", order=1) == pytest.approx(0.5 + 0.75 * -0.4)
    assert step_at(0.3, "identity") == 0.3
    assert step_at(0.6, "sigmoid", temperature=0.2) == pytest.approx(1 / (1 + math.exp(-0.5)))


@pytest.mark.parametrize("order", [1, 3, 9, 51, 101])
def test_series_equals_numpys_and_nears_the_step(order: int) -> None:
    p = torch.linspace(0, 1, 501, dtype=torch.float64)
    series = np.zeros(order + 1)
    series[0], series[1::2] = 0.5, step_coefficients(order)
    expected = torch.from_numpy(legendre.legval(2 * p.numpy() - 1, series))
    found = step_surrogate(p, "legendre", order=order)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    in_float32 = step_surrogate(p.float(), "legendre", order=order)
    torch.testing.assert_close(in_float32.double(), expected, rtol=0, atol=1e-4)
    off = (found - (p > 0.5).double()).abs()[(p - 0.5).abs() > 0.2]
    assert off[1:-1].mean() < 1 / order


@pytest.mark.parametrize("kind", KINDS)
def test_step_is_odd_about_one_half(kind: Any) -> None:
    p = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(step_surrogate(1 - p, kind), 1 - step_surrogate(p, kind))
    increasing = bool((step_surrogate(p, kind).diff() > 0).all())
    assert increasing == (kind != "legendre")
    x = torch.tensor([0.2, 0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: step_surrogate(x, kind), x)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"surrogate": "hard"},
            "expected one of official, legendre, identity, sigmoid, found 'hard'",
        ),
        ({"surrogate": "legendre", "order": 8}, "order: expected an odd number"),
        ({"surrogate": "legendre", "order": -1}, "found -1"),
        ({"surrogate": "sigmoid", "temperature": 0.0}, "temperature: expected more than 0"),
        ({"surrogate": "sigmoid", "temperature": math.nan}, "temperature"),
    ],
)
def test_refuses_options_of_the_step(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        step_surrogate(torch.rand(3), **options)


# Gaps between groups


@pytest.mark.parametrize("where", INDEX)
@pytest.mark.parametrize("objective", ["sp", "eo"])
def test_gap_equals_the_official_one(objective: str, where: str) -> None:
    p = VECTORS["prob"].clone().requires_grad_()
    loss = group_gap_loss(p, groups(), INDEX[where], positive=positive_of(objective))
    loss.backward()
    expected = VECTORS[f"{objective}_{where}"]
    torch.testing.assert_close(loss.detach(), expected, rtol=0, atol=1e-10)
    assert p.grad is not None
    torch.testing.assert_close(p.grad, VECTORS[f"{objective}_{where}_grad"], rtol=0, atol=1e-10)


def test_gap_is_twice_the_squared_difference_of_one_class() -> None:
    p, index = VECTORS["prob"], INDEX["all"]
    means = [step_surrogate(p[groups() == group, 1]).mean() for group in (0, 1)]
    expected = 2 * (means[0] - means[1]) ** 2
    torch.testing.assert_close(group_gap_loss(p, groups(), index), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_gap_of_many_groups_and_classes(kind: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(60, 4, dtype=torch.float64, generator=generator).softmax(1)
    group = torch.arange(60) % 3
    index = torch.arange(7, 60)
    g = step_surrogate(p[index], kind)
    means = torch.stack([g[group[index] == s].mean(0) for s in range(3)])
    expected = (means.amax(0) - means.amin(0)).square().sum()
    torch.testing.assert_close(group_gap_loss(p, group, index, surrogate=kind), expected)
    p.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: group_gap_loss(p, group, index, surrogate=kind), p)


def test_options_of_the_step_reach_it() -> None:
    p, index = VECTORS["prob"], INDEX["all"]

    def gap(**options: Any) -> float:
        return float(group_gap_loss(p, groups(), index, **options))

    assert gap(surrogate="legendre", order=3) != gap(surrogate="legendre", order=5)
    assert gap(surrogate="sigmoid", temperature=0.1) != gap(surrogate="sigmoid", temperature=1.0)


def test_gap_keeps_its_precision_inside_autocast() -> None:
    p = VECTORS["prob"].float()
    expected = group_gap_loss(p, groups(), INDEX["all"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(group_gap_loss(p, groups(), INDEX["all"]), expected)


def test_names_the_group_that_is_empty() -> None:
    p, one = VECTORS["prob"], (groups() == 1).nonzero().flatten()
    with pytest.raises(
        DataError, match=rf"group '0' has none .*\(group '0': 0, group '1': {len(one)}\)"
    ):
        group_gap_loss(p, groups(), one)
    with pytest.raises(DataError, match="group 'white' has none"):
        group_gap_loss(p, groups(), (groups() == 0).nonzero().flatten(), names=("other", "white"))
    positive = (GRAPH.labels == 1) & (groups() == 0)
    with pytest.raises(DataError, match=r"nodes with a positive label .* group '1' .*eo_labels"):
        group_gap_loss(p, groups(), INDEX["all"], positive=positive)
    with pytest.raises(DataError, match="group '2' has none"):
        group_gap_loss(p, groups(), INDEX["all"], names="012")
    with pytest.raises(DataError, match=r"group '0': 0, group '1': 0"):
        group_gap_loss(p, groups(), torch.zeros(0, dtype=torch.int64))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"probabilities": torch.rand(48)}, r"expected probabilities \(N, C\)"),
        ({"groups": torch.zeros(47, dtype=torch.int64)}, r"found \(48, 2\) and \(47,\)"),
        ({"groups": torch.full((48,), -1)}, r"expected groups 0..1, found -1"),
        ({"groups": torch.arange(48), "names": "ab"}, r"expected groups 0..1, found 47"),
        ({"positive": torch.ones(48)}, r"a boolean for each of 48 nodes .* found torch.float32"),
        ({"positive": torch.ones(2, dtype=torch.bool)}, r"of the shape \(2,\)"),
    ],
)
def test_refuses_what_does_not_fit(changed: dict[str, Any], told: str) -> None:
    given: dict[str, Any] = {
        "probabilities": VECTORS["prob"],
        "groups": groups(),
        "index": INDEX["all"],
    }
    with pytest.raises(DataError, match=told):
        group_gap_loss(**(given | changed))


# CPF's distance


def test_distance_equals_the_official_one() -> None:
    found = distillation_loss(VECTORS["prob"], VECTORS["prob_teacher"], INDEX["all"])
    torch.testing.assert_close(found, VECTORS["kd_euclid"], rtol=0, atol=1e-10)
    p = VECTORS["prob"].clone().requires_grad_()
    teacher = VECTORS["prob_teacher"]
    assert torch.autograd.gradcheck(lambda p: distillation_loss(p, teacher, OTHERS), p)


def test_distance_of_nothing_has_no_gradient() -> None:
    p = VECTORS["prob"].clone().requires_grad_()
    for index in (INDEX["all"], INDEX["all"][:0]):
        loss = distillation_loss(p, VECTORS["prob"], index)
        (gradient,) = torch.autograd.grad(loss, p)
        assert loss.item() == 0
        assert torch.equal(gradient, torch.zeros_like(p))


def test_distance_refuses_another_shape() -> None:
    with pytest.raises(DataError, match=r"\(48, 2\), found \(48, 3\)"):
        distillation_loss(VECTORS["prob"], torch.rand(48, 3), INDEX["all"])


# Parts of a graph


@pytest.mark.parametrize("name", ["sp", "eo", "distance"])
def test_parts_give_the_loss_of_the_whole(name: str) -> None:
    """Each part's sums plus those of the other: the loss, and the gradient of its own rows."""
    teacher = VECTORS["prob_teacher"]

    def loss(p: Tensor, rows: slice, total: Any) -> Tensor:
        index = INDEX["all"][rows] - rows.start
        if name == "distance":
            return distillation_loss(p, teacher[rows], index, total=total)
        positive = positive_of(name)
        positive = None if positive is None else positive[rows]
        return group_gap_loss(p, groups()[rows], index, positive=positive, total=total)

    whole = VECTORS["prob"].clone().requires_grad_()
    expected = loss(whole, slice(0, NODES), lambda x: x)
    (gradient,) = torch.autograd.grad(expected, whole)
    # The second part has nodes of one group alone, and so would be refused by itself.
    cut = NODES - 1
    parts = (slice(0, cut), slice(cut, NODES))
    sums: list[list[Tensor]] = [[], []]
    for mine, rows in enumerate(parts):

        def record(x: Tensor, mine: int = mine) -> Tensor:
            sums[mine].append(x.detach())
            return torch.ones_like(x)

        loss(VECTORS["prob"][rows], rows, record)
    for mine, rows in enumerate(parts):
        p = VECTORS["prob"][rows].clone().requires_grad_()
        found = loss(p, rows, lambda x, mine=mine: x + sums[1 - mine][0])
        assert len(sums[mine]) == 1  # one exchange
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(torch.autograd.grad(found, p)[0], gradient[rows])


# Six epochs of CPF


def official_state(golden: Mapping[str, Tensor], epoch: int) -> dict[str, Tensor]:
    """PLP's parameters by our names; the official `alpha` is used by no network."""
    at = f"sd_{epoch}.plp_layer"
    mlp = {
        f"mlp.{place}.{name}": golden[f"{at}.mlp.linears.{place}.{name}"]
        for place in range(2)
        for name in ("weight", "bias")
    }
    return {"balance": golden[f"{at}.lr_alpha"], "score": golden[f"{at}.attn_l"], **mlp}


@pytest.mark.parametrize("objective", ["sp", "eo", "vanilla"])
def test_cpf_learns_as_the_official_one(objective: str) -> None:
    """Student step with the mean proxy, proxy step with the same student, evaluation."""
    golden = load_file(GOLDEN / f"cpf_{objective}.safetensors")
    fair = objective != "vanilla"
    proxies = golden["proxy_0"].clone().requires_grad_() if fair else torch.zeros(NODES, 0)
    student = PLP(
        6 + proxies.shape[1], 2, NODES, rounds=4, hidden=8, dropout=0, attention_dropout=0
    )
    student.load_state_dict(official_state(golden, 0))
    adam = torch.optim.Adam(student.parameters(), lr=0.01, weight_decay=0.01)
    adam_of_proxies = torch.optim.Adam([proxies], lr=0.01, weight_decay=0.01) if fair else None
    close: dict[str, Any] = {"rtol": 1e-4, "atol": 2e-5}

    def logits(rows: Tensor) -> Tensor:
        return student(GRAPH, torch.cat([GRAPH.features, rows], 1))

    def mean_proxy() -> Tensor:
        return proxies.detach().mean(0).expand(NODES, -1)

    def gap(p: Tensor) -> Tensor:
        return 1000 * group_gap_loss(p, groups(), OTHERS, positive=positive_of(objective))

    for epoch in range(6):
        student.train()
        p = logits(mean_proxy()).softmax(1)
        loss = distillation_loss(p, golden["teacher_prob"], OTHERS)
        if fair:
            loss = loss + gap(p)
        adam.zero_grad()
        loss.backward()
        adam.step()
        torch.testing.assert_close(loss.detach().double(), golden["loss_student"][epoch], **close)

        if adam_of_proxies is not None:
            loss = -gap(logits(proxies).softmax(1))
            adam_of_proxies.zero_grad()
            loss.backward()
            adam_of_proxies.step()
            found = loss.detach().double()
            torch.testing.assert_close(found, golden["loss_proxy"][epoch], **close)

        student.eval()
        with torch.no_grad():
            told = logits(mean_proxy()).log_softmax(1)
        torch.testing.assert_close(told, golden["eval_logp"][epoch], **close)
        distance = distillation_loss(told.exp(), golden["teacher_prob"], GRAPH.val).double()
        torch.testing.assert_close(distance, golden["val_kd"][epoch].double(), **close)
        decided = told[:, 1] - told[:, 0] > 1e-6  # of nodes that are a tie the first class, 0
        accuracy = (decided == GRAPH.labels)[GRAPH.val].double().mean()
        torch.testing.assert_close(accuracy, golden["val_acc"][epoch].double(), **close)
        if epoch + 1 in (1, 6):
            for name, expected in official_state(golden, epoch + 1).items():
                found = student.get_parameter(name).detach()
                torch.testing.assert_close(found, expected, **close)
            if fair:
                torch.testing.assert_close(proxies.detach(), golden[f"proxy_{epoch + 1}"], **close)
