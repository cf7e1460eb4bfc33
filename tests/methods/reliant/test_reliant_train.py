"""The recipe: stages, options, networks of one's own, batches."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor, nn

import modicum
from modicum.engine.run import Run, RunOptions
from modicum.errors import CheckpointError, ConfigError, DataError
from modicum.method import load_method
from modicum.methods.reliant import (
    Config,
    Distilled,
    Graph,
    Teacher,
    distill,
    evaluate,
    evaluate_predictions,
    train,
)
from modicum.methods.reliant.data.people import describe_graph
from modicum.methods.reliant.data.sources import blocks
from modicum.methods.reliant.recipes import teacher as teacher_recipe
from modicum.methods.reliant.recipes.batches import RunningGap
from modicum.methods.reliant.recipes.fairness import FairnessTerm
from modicum.options import replace

QUICK: dict[str, Any] = {
    "teacher": Teacher(epochs=15, hidden=16),
    "epochs": 15,
    "rounds": 3,
    "hidden": 16,
    "dropout": 0.5,
}


@pytest.fixture(scope="module")
def graph() -> Graph:
    return blocks(nodes=300)


def same(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("framework", ["cpf", "akd"])
@pytest.mark.parametrize("objective", ["sp", "eo"])
def test_a_run_leaves_teacher_plain_and_reliant(
    graph: Graph, framework: Any, objective: Any, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    networks = distill(graph, framework=framework, objective=objective, out=out, **QUICK)
    assert set(networks.networks) == {"teacher", "plain", "reliant"}
    p = networks(graph)
    assert p.shape == (300, 2)
    torch.testing.assert_close(p.sum(1), torch.ones(300))
    assert networks.proxies.shape == (300, 2)
    torch.testing.assert_close(networks.proxies.mean(0), networks.mean_proxy)
    loaded = modicum.load(out)
    assert same(networks, loaded)
    assert torch.equal(loaded(graph), p)
    with pytest.raises(ConfigError, match="from Python"):
        evaluate(out)


def test_the_fairness_term_without_weight_and_proxies_is_the_plain_student(graph: Graph) -> None:
    plain = distill(graph, objective="none", **QUICK)
    fair = distill(graph, alpha=0.0, proxy="none", compare=False, **QUICK)
    assert same(plain.networks["plain"], fair.networks["reliant"])


def test_a_large_weight_makes_a_small_gap() -> None:
    graph = blocks(nodes=1000)
    options = QUICK | {"teacher": Teacher(epochs=60, hidden=16), "epochs": 100, "compare": False}
    gaps: list[float] = []
    for alpha in (0.0, 1000.0):
        p = distill(graph, alpha=alpha, **options)(graph)
        found = evaluate_predictions(p, graph.labels, graph.sensitive, graph.test, bootstrap=0)
        gaps.append(found["sp_gap_absolute"])
    assert gaps[1] < 0.35 * gaps[0]


def test_the_usual_weight_leaves_a_student_of_few_people_something_to_say() -> None:
    graph = blocks(nodes=50, bias=0.0)
    options = QUICK | {"teacher": Teacher(epochs=40, hidden=16), "epochs": 60, "compare": False}
    p = distill(graph, **options)(graph)[~graph.training]
    assert p[:, 1].std() > 0.08  # with the published 1000 everybody gets about 0.5
    assert (p.argmax(1) == graph.labels[~graph.training]).double().mean() > 0.65


def test_the_usual_weight_is_the_published_one_from_1000_people_on() -> None:
    used = [Config().filled(nodes).fairness.alpha for nodes in (40, 1000, 18876)]
    assert used == [40, 1000, 1000]
    assert replace(Config(), alpha=7.0).filled(40).fairness.alpha == 7
    assert replace(Config(), framework="akd").filled(40).fairness.alpha == 10


@pytest.mark.parametrize("proxy", ["learned", "sensitive", "none"])
@pytest.mark.parametrize("seen", ["mean", "node"])
def test_proxies_move_only_when_they_learn(graph: Graph, proxy: Any, seen: Any) -> None:
    networks = distill(graph, proxy=proxy, proxy_in_student=seen, compare=False, **QUICK)
    if proxy == "none":
        assert networks.proxies.shape == (300, 0)
    elif proxy == "sensitive":
        assert graph.sensitive is not None
        assert torch.equal(networks.proxies[:, 0], graph.sensitive.float())
        assert torch.equal(networks.proxies.sum(1), torch.ones(300))
    else:
        assert ((networks.proxies < 0) | (networks.proxies > 1)).any()  # they began in [0, 1)


def test_columns_only_the_reliant_student_does_not_see(graph: Graph) -> None:
    networks = distill(graph, drop_from_student=("merit 0", "noise 9"), **QUICK)
    assert networks.visible == list(range(1, 15))
    assert networks.student_features(graph).shape == (300, 16)
    assert networks(graph).shape == (300, 2)


@pytest.mark.parametrize(
    "options",
    [{}, {"framework": "akd"}, {"student": "decoupled", "batch_size": 64}],
    ids=["cpf", "akd", "batches"],
)
def test_half_precision(graph: Graph, options: dict[str, Any], tmp_path: Path) -> None:
    config = replace(Config(), **QUICK | options)
    run_options = RunOptions(device="cpu", precision="bf16")
    with Run(
        tmp_path, method="reliant", recipe="distil", config=config, options=run_options, quiet=True
    ) as run:
        networks = train(config, run, graph=graph)
    assert all(value.dtype == torch.float32 for value in networks.state_dict().values())
    p = networks(graph)
    torch.testing.assert_close(p.sum(1), torch.ones(300))


class Own(nn.Module):
    """A student of somebody else."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, classes)

    def forward(self, graph: Graph, features: Tensor) -> Tensor:
        return self.linear(graph.messages.propagate_normalised(features))


def test_networks_of_ones_own(graph: Graph, tmp_path: Path) -> None:
    teacher = Own(16, 2)
    teacher.train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    out = tmp_path / "run"
    networks = distill(graph, teacher=teacher, student=Own, out=out, epochs=5)
    assert isinstance(networks.networks["reliant"], Own)
    assert networks.networks["reliant"].linear.in_features == 18
    assert networks(graph).shape == (300, 2)
    assert teacher.training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    with pytest.raises(CheckpointError, match="program of yours"):
        modicum.load(out)
    with pytest.raises(ConfigError, match="embedding"):
        distill(graph, teacher=teacher, framework="akd", epochs=2)


def test_foreign_graphs(graph: Graph) -> None:
    messages = graph.messages
    edges = torch.stack([messages.sources, messages.targets])
    data = SimpleNamespace(
        x=graph.features, edge_index=edges, y=graph.labels, sens=graph.sensitive,
        train_mask=graph.rows(graph.train), val_mask=graph.rows(graph.val),
        test_mask=graph.rows(graph.test),
    )  # fmt: skip
    quick = QUICK | {"teacher": Teacher(epochs=3, hidden=16), "epochs": 3}
    networks = distill(data, **quick)
    matrix = sparse.coo_array((np.ones(edges.shape[1]), edges.numpy()), shape=(300, 300))
    other = Graph.from_csr(
        matrix.tocsr(), features=graph.features, labels=graph.labels, sensitive=graph.sensitive,
        train=graph.train, val=graph.val, test=graph.test,
    )  # fmt: skip
    assert torch.equal(other.messages.columns, messages.columns)
    assert isinstance(networks, Distilled)


@pytest.mark.parametrize("objective", ["sp", "eo"])
def test_batches_train_as_the_whole_does(graph: Graph, objective: Any, tmp_path: Path) -> None:
    options = QUICK | {"student": "decoupled", "epochs": 60, "objective": objective}
    out = tmp_path / "run"
    networks = distill(graph, batch_size=64, out=out, **options)
    truth = graph.labels[graph.test]
    for role in ("plain", "reliant"):
        p = networks.probabilities(graph, role)
        assert (p[graph.test].argmax(1) == truth).float().mean() > 0.6
    assert not list(out.glob("*.propagated"))


def test_batches_have_value_and_gradient_of_the_whole_gap(graph: Graph) -> None:
    assert graph.sensitive is not None
    nodes = (~graph.training).nonzero().flatten()
    fairness = FairnessTerm(10.0, graph.sensitive, nodes, nodes)
    torch.manual_seed(0)
    logits = torch.randn(300, 2, requires_grad=True)
    whole = fairness(logits.softmax(1), nodes)
    (expected,) = torch.autograd.grad(whole, logits)
    running = RunningGap(fairness, nodes, logits.softmax(1).detach())
    gradients: list[Tensor] = []
    for index in torch.randperm(300).split(60):
        gap = running(logits[index].softmax(1), index)
        torch.testing.assert_close(gap, whole)
        gradients += torch.autograd.grad(gap, logits)
    torch.testing.assert_close(torch.stack(gradients).mean(0), expected)


def test_options_that_do_not_fit(graph: Graph) -> None:
    for options, words in (
        ({"framework": "akd", "student": "plp"}, "no embedding"),
        ({"batch_size": 8}, "decoupled"),
        ({"alpha": -1.0}, "--alpha"),
        ({"proxy_size": 0}, "--proxy-size"),
        ({"rounds": 0}, "--rounds"),
        ({"dropout": 1.0}, "--dropout"),
        ({"objective": "none", "compare": False}, "no student"),
        ({"nodes": Path("a.csv")}, "--label"),
        ({"sensitive": "race"}, "--sensitive"),
        ({"nodes": Path("a.csv"), "data": "loanapp"}, "one of them"),
        ({"objective": "equal_opportunity"}, "one of sp, eo, none"),
        ({"student": "PLP"}, "one of plp"),
        ({"learning_rate": 0.0}, "--learning-rate"),
        ({"batch_size": 0, "student": "decoupled"}, "--batch-size"),
        ({"surrogate_order": 4}, "--surrogate-order"),
        ({"dropout_in_evaluation": True}, "akd alone"),
        ({"framework": "akd", "select_gap_weight": 1.0}, "--select-gap-weight"),
        ({"alpha_scale": "per_sqrt_node"}, "--alpha as well"),
    ):
        with pytest.raises(ConfigError, match=words):
            replace(Config(), **options)
    with pytest.raises(ConfigError, match="one of gcn"):
        distill(graph, teacher="GCN")
    with pytest.raises(ConfigError, match="eo-labels train"):
        distill(graph, objective="eo", eo_labels="train", **QUICK)
    with pytest.raises(ConfigError, match="64"):
        distill(graph, framework="akd", teacher=Teacher("sage", epochs=1), hidden=64, epochs=1)
    with pytest.raises(TypeError, match="alfa"):
        distill(graph, alfa=1)
    with pytest.raises(ConfigError, match="TIME"):
        distill(graph, drop_from_student=("TIME",), **QUICK)
    with pytest.raises(ConfigError, match="whole graph"):
        distill(graph, student="decoupled", parts=2, **QUICK)
    with pytest.raises(ConfigError, match="alpha-scale"):
        replace(Config(), framework="akd", alpha_scale="per_sqrt_node", alpha=1.0)
    blind = Graph.build(
        features=graph.features, edges=[[0, 1], [1, 2]], labels=graph.labels,
        train=graph.train, val=graph.val, test=graph.test,
    )  # fmt: skip
    with pytest.raises(DataError, match="no sensitive attribute"):
        distill(blind, teacher=Teacher(epochs=1), epochs=1)


@pytest.fixture(scope="module")
def three_classes() -> Graph:
    random = torch.Generator().manual_seed(0)
    return Graph.build(
        features=torch.randn(90, 4, generator=random),
        edges=torch.randint(0, 90, (2, 200), generator=random),
        labels=torch.arange(90) % 3, sensitive=torch.arange(90) // 3 % 2,
        train=range(30), val=range(30, 60), test=range(60, 90), classes=("no", "wait", "yes"),
    )  # fmt: skip


@pytest.mark.parametrize("objective", ["sp", "eo"])
def test_of_three_classes_the_positive_one_must_be_named(
    three_classes: Graph, objective: Any
) -> None:
    quick = QUICK | {"objective": objective, "eo_labels": "validation", "epochs": 2}
    with pytest.raises(ConfigError, match="2: yes"):
        distill(three_classes, **quick)
    with pytest.raises(ConfigError, match="found 3"):
        distill(three_classes, positive_class=3, **quick)
    assert distill(three_classes, positive_class=2, **quick)(three_classes).shape == (90, 3)


def test_an_empty_group_is_told_before_anything_is_trained(graph: Graph, tmp_path: Path) -> None:
    assert graph.sensitive is not None
    one_group = dataclasses.replace(
        graph,
        sensitive=torch.where(graph.training, graph.sensitive, torch.zeros_like(graph.sensitive)),
    )
    out = tmp_path / "run"
    with pytest.raises(DataError, match="group '1' has none"):
        distill(one_group, out=out, **QUICK)
    metrics = out / "metrics.jsonl"
    assert not metrics.exists() or "teacher_loss" not in metrics.read_text()


def test_a_teacher_given_as_what_it_says(graph: Graph, caplog: pytest.LogCaptureFixture) -> None:
    plain = {"objective": "none", "epochs": 5, "rounds": 3, "dropout": 0.5}
    torch.manual_seed(0)
    teacher = Own(16, 2)
    with torch.no_grad():
        p = teacher(graph, graph.features).softmax(1)
    by_network = distill(graph, teacher=teacher, **plain)
    by_rows = distill(graph, teacher=p, **plain)
    torch.testing.assert_close(by_network(graph), by_rows(graph))
    assert "teacher" not in by_rows.networks
    with pytest.raises(DataError, match="look like logits"):
        distill(graph, teacher=p.log(), **plain)
    assert "sum to 1" not in caplog.text
    confused = Own(16, 2)
    confused.forward = lambda graph, features: p  # type: ignore[method-assign]
    distill(graph, teacher=confused, **plain)
    assert "sum to 1" in caplog.text


def test_proxies_of_the_last_epoch(graph: Graph) -> None:
    """With the same student, since proxies only follow it, but for the mean it sees."""
    options = QUICK | {"epochs": 60, "compare": False}
    best = distill(graph, **options)
    last = distill(graph, last_proxies=True, **options)
    assert same(best.networks["reliant"], last.networks["reliant"])
    assert not torch.equal(best.proxies, last.proxies)


def test_a_student_without_embedding_is_refused_by_akd(graph: Graph) -> None:
    with pytest.raises(ConfigError, match="embed"):
        distill(graph, framework="akd", student=Own, teacher=Teacher(epochs=1), epochs=1)


def test_a_student_that_would_see_nothing_is_refused(graph: Graph) -> None:
    with pytest.raises(ConfigError, match="every feature"):
        distill(graph, drop_from_student=graph.feature_names, **QUICK)


@pytest.mark.parametrize("options", [{}, {"framework": "akd", "parts": 2}], ids=["cpf", "akd"])
def test_a_teacher_of_its_own_run_is_the_one_of_the_same_run(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """Bit by bit, students included, with the same seed."""
    quick = QUICK | options | {"data": "blocks-mild", "epochs": 4}
    quick["teacher"] = dataclasses.replace(quick["teacher"], epochs=4, patience=1)
    whole = replace(Config(), **quick)
    taught = teacher_recipe.Config(whole.people, whole.teacher, whole.execution)
    staged = dataclasses.replace(whole, teacher=Teacher(), teacher_run=tmp_path / "teacher")
    networks: dict[str, nn.Module] = {}
    for name, recipe, config in (
        ("whole", "distil", whole), ("teacher", "teacher", taught), ("staged", "distil", staged)
    ):  # fmt: skip
        how = RunOptions(device="cpu", seed=5)
        with Run(
            tmp_path / name, method="reliant", recipe=recipe, config=config, options=how, quiet=True
        ) as run:
            networks[name] = load_method("reliant").recipe(recipe).train(config, run)
    assert same(networks["whole"], networks["staged"])
    assert same(networks["whole"].networks["teacher"], networks["teacher"].networks["teacher"])
    with pytest.raises(ConfigError, match="run of the recipe distil"):
        teacher_recipe.read_teacher(tmp_path / "whole", {})
    described = describe_graph(blocks(nodes=300))
    with pytest.raises(DataError, match="300 nodes"):
        teacher_recipe.read_teacher(tmp_path / "teacher", described)
    found = evaluate(tmp_path / "teacher", bootstrap=10)
    assert [row["network"] for row in found["networks"]] == ["teacher"]


def test_going_on_from_python(graph: Graph, tmp_path: Path) -> None:
    first = distill(graph, out=tmp_path / "run", **QUICK)
    options = RunOptions(device="cpu", seed=9)  # the seed is the argument's
    again = distill(graph, out=tmp_path / "run", run_options=options, resume=True, **QUICK)
    assert same(first, again)


def test_a_feature_that_tells_the_label_is_warned_of(
    graph: Graph, caplog: pytest.LogCaptureFixture
) -> None:
    features = torch.cat([graph.features, graph.labels[:, None].float()], 1)
    leaking = Graph.build(
        features=features, edges=[[0, 1], [1, 2]], labels=graph.labels, sensitive=graph.sensitive,
        train=graph.train, val=graph.val, test=graph.test,
    )  # fmt: skip
    distill(leaking, teacher=Teacher(epochs=1), epochs=1)
    assert "x16: it alone predicts the label" in caplog.text


def test_a_damaged_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        modicum.load(tmp_path)


@pytest.mark.parametrize("learnable", [True, False])
def test_a_network_that_is_no_better_than_a_guess_is_warned_of(
    graph: Graph, learnable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if not learnable:  # more than nine of ten are of one class, whatever is known of them
        labels = (torch.arange(len(graph.labels)) % 11 == 0).long()
        graph = dataclasses.replace(graph, labels=labels, features=torch.zeros_like(graph.features))
    distill(graph, objective="none", **QUICK)
    said = [record.getMessage() for record in caplog.records]
    warned = [text.split()[1] for text in said if "no better than a guess" in text]
    assert ("teacher" in warned) == (not learnable)
