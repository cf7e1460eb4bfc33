"""Parts of a graph: one process, or two, compute what the whole does."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

import forked
from modicum.engine.random import fold_keys, generator
from modicum.engine.run import Run, RunOptions
from modicum.errors import ConfigError, DataError
from modicum.methods.reliant.data.sources import blocks
from modicum.methods.reliant.graphs import partition
from modicum.methods.reliant.graphs.graph import Graph
from modicum.methods.reliant.graphs.messages import MessageGraph
from modicum.methods.reliant.graphs.partition import (
    ModuleState,
    OptimizerState,
    PartitionedMessageGraph,
    collect,
    collected,
    complete_gradients,
    divide,
    keep_own_rows,
    node_parameters,
    own_rows,
    part_of,
)
from modicum.methods.reliant.networks.discriminators import Adversary
from modicum.methods.reliant.networks.distilled import Proxies
from modicum.methods.reliant.networks.students import PLP, SGCStudent
from modicum.methods.reliant.networks.teachers import APPNP, GAT, GCN, GCNII, SGC, GraphSAGE
from modicum.methods.reliant.recipes.epochs import Student, akd_epoch, cpf_epoch
from modicum.methods.reliant.recipes.fairness import Fairness, fairness_term
from modicum.methods.reliant.recipes.teacher import Targets

PARTS = 3  # of which the first of two processes holds two
EPOCHS = 6

NETWORKS: dict[str, Callable[[Graph], nn.Module]] = {
    "plp": lambda g: PLP(16, 2, g.messages.total_nodes, rounds=3, hidden=8),
    "plp of nodes": lambda g: PLP(
        16, 2, g.messages.total_nodes, rounds=3, hidden=8, attention="nodes"
    ),
    "sgc student": lambda g: SGCStudent(16, 2, hidden=8),
    "gcn": lambda g: GCN(16, 2, hidden=8),
    "sage": lambda g: GraphSAGE(16, 2, hidden=8),
    "gat": lambda g: GAT(16, 2, hidden=4, heads=2),
    "appnp": lambda g: APPNP(16, 2, hidden=8, steps=3),
    "sgc": lambda g: SGC(16, 2),
    "gcnii": lambda g: GCNII(16, 2, hidden=8, layers=3),
}


def whole_graph() -> Graph:
    return blocks(nodes=150)


def directed_graph() -> Graph:
    graph = whole_graph()
    edges = torch.randint(150, (2, 600), generator=generator("edges"))
    return Graph.build(
        features=graph.features, edges=edges, labels=graph.labels, sensitive=graph.sensitive,
        train=graph.train, val=graph.val, test=graph.test, symmetrise=False,
    )  # fmt: skip


def random_rows(graph: Graph, name: str, *columns: int) -> Tensor:
    """Numbers that belong to nodes, whichever process asks."""
    numbers = torch.randn(graph.messages.total_nodes, *columns, generator=generator(name))
    return own_rows(graph, numbers)


def processes(graph: Graph) -> int:
    return graph.messages.world if isinstance(graph.messages, PartitionedMessageGraph) else 1


def of_all_nodes(
    graph: Graph, module: nn.Module, values: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    names = node_parameters(module)
    return {n: collect(graph, v) if n in names else v.detach() for n, v in values.items()}


# What is computed on the whole, on parts in one process, and on parts in two


def products(graph: Graph) -> dict[str, Tensor]:
    """Everything a message graph offers, and gradients through it."""
    messages = graph.messages
    x = random_rows(graph, "x", 3).double().requires_grad_()
    found = {
        "sum": messages.propagate(x),
        "normalised": messages.propagate_normalised(x),
        "degrees": torch.stack([messages.in_degree, messages.out_degree], 1),
    }
    # Sums inside of sums, as of GraphAKD's summaries.
    mean = messages.total(x.sum(0)) / messages.total_nodes
    inner = messages.total((found["sum"] * found["normalised"].sin() * mean.exp()).sum())
    loss = inner.square() + messages.total((x * mean).square().sum())
    (of_x,) = torch.autograd.grad(loss, x)
    found |= {"gradient": of_x / processes(graph)}
    return {
        "loss": loss.detach(),
        "largest": messages.maximum(x),
        **{name: collect(graph, value) for name, value in found.items()},
    }


def network_and_gradients(graph: Graph, name: str) -> dict[str, Tensor]:
    """Outputs, and gradients of a loss, without dropout."""
    torch.manual_seed(0)
    network = NETWORKS[name](graph).double().eval()
    for parameter in node_parameters(network).values():
        nn.init.normal_(parameter, generator=generator("balances"))
    keep_own_rows(graph, network)
    optimizer = torch.optim.SGD(network.parameters())
    logits = network(graph, graph.features.double())
    wanted = random_rows(graph, "wanted", 2)
    graph.messages.total(((logits - wanted) ** 3).sum()).backward()
    norm = complete_gradients(graph, network, optimizer)
    gradients = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    gradients = of_all_nodes(graph, network, gradients)
    squares = torch.stack([g.square().sum() for g in gradients.values()]).sum()
    return {
        "logits": collect(graph, logits),
        "norm": squares.sqrt() if norm is None else norm,
        **gradients,
    }


def teacher(graph: Graph) -> Targets:
    log_probabilities = random_rows(graph, "teacher", 2).double().log_softmax(1)
    embedding = random_rows(graph, "embedding", 16).double()
    return Targets(log_probabilities.exp(), log_probabilities, embedding)


def student_of(graph: Graph, framework: str) -> tuple[Student, nn.ModuleDict]:
    torch.manual_seed(0)
    nodes = graph.messages.total_nodes
    network = PLP(18, 2, nodes, rounds=3, hidden=16, dropout=0.5)
    if framework == "akd":
        network = SGCStudent(18, 2, hidden=16)
    proxies = Proxies(nodes)
    modules = nn.ModuleDict({"network": network, "proxies": proxies}).double()
    keep_own_rows(graph, modules)
    adam = Adam(network.parameters(), lr=0.01, weight_decay=0.01)
    proxy_adam = Adam(proxies.parameters(), lr=0.01)
    return Student(network, adam, graph.features.double(), proxies, proxy_adam), modules


def distilled(graph: Graph, framework: Any) -> dict[str, Tensor]:
    """Some epochs of RELIANT with dropout: the terms of every loss, and what was learnt."""
    student, modules = student_of(graph, framework)
    torch.manual_seed(1)
    adversary = modules["adversary"] = Adversary(2, 16).double()
    adversary_adam = Adam(adversary.parameters(), lr=0.01)
    targets = teacher(graph)
    fairness = fairness_term(graph, targets.probabilities, Fairness(alpha=10.0), framework)

    def step(terms: Mapping[str, Tensor], optimizer: Optimizer) -> None:
        torch.stack(list(terms.values())).sum().backward()
        complete_gradients(graph, modules, optimizer)
        optimizer.step()
        optimizer.zero_grad()

    found: dict[str, Tensor] = {}
    for epoch in range(EPOCHS):
        graph.messages.seed(epoch)
        if framework == "cpf":
            terms = cpf_epoch(graph, student, targets, fairness, step)
        else:
            terms = akd_epoch(graph, student, adversary, adversary_adam, targets, fairness, step)
        found |= {f"{epoch} {name}": term for name, term in terms.items()}
    found["probabilities"] = collect(graph, student.predict(graph))
    return found | of_all_nodes(graph, modules, modules.state_dict())


@dataclass(frozen=True)
class Config:
    pass


def run_until(
    folder: Path, graph: Graph, epochs: int, *, resume: bool = False, clip: float | None = None
) -> dict[str, Tensor]:
    """CPF in a `Run`, which ends after some epochs with a checkpoint."""
    options = RunOptions(device="cpu", clip=clip)
    with Run(
        folder, method="test", config=Config(), options=options, resume=resume, quiet=True
    ) as run:
        student, modules = student_of(graph, "cpf")
        assert student.proxy_optimizer is not None
        targets = teacher(graph)
        fairness = fairness_term(graph, targets.probabilities, Fairness(alpha=10.0), "cpf")
        student.optimizer, student.proxy_optimizer = run.prepare(
            student.optimizer, student.proxy_optimizer
        )
        run.register(
            modules=ModuleState(graph, modules),
            adam=OptimizerState(graph, modules, student.optimizer),
            proxy_adam=OptimizerState(graph, modules, student.proxy_optimizer),
        )

        def step(terms: Mapping[str, Tensor], optimizer: Optimizer) -> None:
            run.step(
                terms, optimizer, gradients=partial(complete_gradients, graph, modules, optimizer)
            )

        for number in run.iterations(epochs):
            graph.messages.seed(fold_keys(run.seed, number))
            cpf_epoch(graph, student, targets, fairness, step)
        return of_all_nodes(graph, modules, modules.state_dict())


def spread_of_a_gradient_that_is_not_finite(graph: Graph) -> dict[str, Tensor]:
    """Only the node that is number 0 in the whole graph has a bad gradient."""
    modules = student_of(graph, "cpf")[1]
    optimizer = torch.optim.SGD(modules.parameters())
    bad = own_rows(graph, torch.arange(graph.messages.total_nodes) == 0)
    for name, parameter in modules.named_parameters():
        parameter.grad = torch.zeros_like(parameter)
        if name == "proxies.rows":
            parameter.grad[bad] = torch.inf
    norm = complete_gradients(graph, modules, optimizer)
    assert norm is not None
    finite = [p.grad.isfinite().any() for p in modules.parameters() if p.grad is not None]
    return {"finite": torch.stack(finite).any(), "norm": norm}


def everything(graph: Graph, directed: Graph) -> dict[str, dict[str, Tensor]]:
    found = {"products": products(graph), "products of a directed graph": products(directed)}
    found |= {name: network_and_gradients(graph, name) for name in NETWORKS}
    return found | {framework: distilled(graph, framework) for framework in ("cpf", "akd")}


def parts(graph: Graph) -> Tensor:
    """A part at random for each node, so that many edges lead to others."""
    return torch.randint(PARTS, (graph.nodes,), generator=generator("parts"))


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Tensor]]:
    """Everything, by one process that holds all parts."""
    graphs = (part_of(graph, parts(graph)) for graph in (whole_graph(), directed_graph()))
    return everything(*graphs)


def take_part(folder: Path) -> None:
    """What one of two processes does."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world
    )
    graph, directed = (
        part_of(graph, parts(graph), rank, world) for graph in (whole_graph(), directed_graph())
    )
    found = everything(graph, directed)
    run_until(folder / "run", graph, EPOCHS // 2)
    found["clipped"] = run_until(folder / "clipped", graph, 2, clip=0.01)
    found["bad"] = spread_of_a_gradient_that_is_not_finite(graph)
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """Everything, by two processes; what each of them found, and the folder of their run."""
    folder = tmp_path_factory.mktemp("two")
    forked.together(take_part, folder, folder=folder)
    found = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
    return folder, found


def assert_close(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """Each tensor as a whole, for Adam makes much of the rounding of a gradient near 0.

    Everything is in double precision, in which other orders of sums leave a relative difference of
    1e-15, and of 1e-13 where a gap is the square of a small difference of means.
    """
    assert one.keys() == other.keys()
    for name, expected in one.items():
        apart = (other[name].double() - expected.double()).norm()
        assert float(apart) <= 1e-11 * float(expected.double().norm()), name


# Parts in one process


@pytest.mark.parametrize("name", NETWORKS)
def test_parts_in_one_process_are_the_whole(name: str, alone: dict[str, dict[str, Tensor]]) -> None:
    assert_close(network_and_gradients(whole_graph(), name), alone[name])


@pytest.mark.parametrize("directed", [False, True])
def test_products_of_parts_are_those_of_the_whole(
    directed: bool, alone: dict[str, dict[str, Tensor]]
) -> None:
    graph = directed_graph() if directed else whole_graph()
    name = "products of a directed graph" if directed else "products"
    assert_close(products(graph), alone[name])


def test_what_a_process_holds() -> None:
    graph = whole_graph()
    assignment = parts(graph)
    held = [part_of(graph, assignment, rank, 2) for rank in range(2)]
    numbers = [part.messages.numbers for part in held]  # pyright: ignore
    assert torch.cat(numbers).sort().values.tolist() == list(range(150))
    assert assignment[numbers[0]].tolist() == sorted(assignment[assignment != 1].tolist())
    for part, index in zip(held, numbers, strict=True):
        assert torch.equal(part.features, graph.features[index])
        assert torch.equal(part.labels, graph.labels[index])
        assert graph.sensitive is not None
        assert torch.equal(part.sensitive, graph.sensitive[index])  # pyright: ignore
        for name in ("train", "val", "test"):
            expected = set(index.tolist()) & set(getattr(graph, name).tolist())
            assert set(index[getattr(part, name)].tolist()) == expected
        assert part.messages.nodes == len(index)
        assert part.messages.total_nodes == 150
        assert part.classes == graph.classes
        assert torch.equal(part.messages.in_degree, graph.messages.in_degree[index])
    assert sum(part.messages.edges for part in held) == graph.messages.edges


def test_random_numbers_belong_to_key_and_part() -> None:
    graph = part_of(whole_graph(), parts(whole_graph()))
    messages = graph.messages

    def draw(key: int) -> tuple[Tensor, Tensor, Tensor]:
        messages.seed(key)
        ones = torch.ones(graph.nodes, 40)
        first = messages.dropout(ones, 0.25, True)
        return first, messages.edge_dropout(0.25), messages.dropout(ones, 0.25, True)

    first, edges, second = draw(1)
    for one, other in zip((first, edges, second), draw(1), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first, second)
    assert not torch.equal(first, draw(2)[0])
    for drawn in (first, edges):
        assert set(drawn.unique().tolist()) == {0, float(torch.tensor(4 / 3))}
        assert float((drawn > 0).float().mean()) == pytest.approx(0.75, abs=0.05)
    half = part_of(whole_graph(), parts(whole_graph()), 1, 2).messages
    half.seed(1)
    where = parts(whole_graph())[messages.numbers] == 1  # pyright: ignore
    assert torch.equal(half.keep((half.nodes, 40), 0.25), (first > 0)[where].short())


# Two processes


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_on_two_processes(
    name: str, alone: dict[str, dict[str, Tensor]], together: tuple[Path, list[Any]]
) -> None:
    for found in together[1]:
        assert_close(alone[name], found[name])


@pytest.mark.parametrize("name", ["products", "products of a directed graph"])
def test_the_halo_and_its_gradient(
    name: str, alone: dict[str, dict[str, Tensor]], together: tuple[Path, list[Any]]
) -> None:
    for found in together[1]:
        assert_close(alone[name], found[name])


@pytest.mark.parametrize("framework", ["cpf", "akd"])
def test_epochs_with_dropout_on_two_processes(
    framework: str, alone: dict[str, dict[str, Tensor]], together: tuple[Path, list[Any]]
) -> None:
    first, second = together[1]
    assert_close(alone[framework], first[framework])
    for name, value in first[framework].items():  # what they share does not drift apart
        assert torch.equal(value, second[framework][name]), name
    moved = alone[framework]["proxies.rows"] - Proxies(150).rows
    assert moved.abs().min() > 0


def test_dropout_makes_a_difference(alone: dict[str, dict[str, Tensor]]) -> None:
    """Without the right random numbers the tests above would fail."""
    graph = whole_graph()
    other = distilled(part_of(graph, divide(graph, 2)), "cpf")
    name = "network.balance"
    apart = (other[name] - alone["cpf"][name]).abs().max()
    assert apart > 1e-3 * alone["cpf"][name].abs().max()


def test_a_run_of_two_processes_goes_on_in_one(
    tmp_path: Path, together: tuple[Path, list[Any]]
) -> None:
    graph = part_of(whole_graph(), parts(whole_graph()))
    expected = run_until(tmp_path / "alone", graph, EPOCHS)
    resumed = run_until(together[0] / "run", graph, EPOCHS, resume=True)
    assert_close(expected, resumed)
    whole = torch.load(
        next((together[0] / "run" / "checkpoints").glob(f"step-{EPOCHS // 2:08d}*")),
        weights_only=True,
    )["objects"]
    assert whole["modules"]["network.balance"].shape == (150, 1)
    assert whole["proxy_adam"]["state"][0]["exp_avg"].shape == (150, 2)


def test_clipping_knows_the_gradient_of_all_processes(
    tmp_path: Path, together: tuple[Path, list[Any]]
) -> None:
    graph = part_of(whole_graph(), parts(whole_graph()))
    expected = run_until(tmp_path / "alone", graph, 2, clip=0.01)
    for found in together[1]:
        assert_close(expected, found["clipped"])


def test_a_gradient_that_is_not_finite_stops_every_process(
    together: tuple[Path, list[Any]],
) -> None:
    for found in together[1]:
        assert not found["bad"]["finite"]
        assert not found["bad"]["norm"].isfinite()


# Divisions


@pytest.fixture(params=["metis", "blocks"])
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How graphs are divided, by whether pymetis is there."""
    if request.param == "metis":
        pytest.importorskip("pymetis")
    else:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    return request.param


@pytest.mark.parametrize("count", [1, 2, 7])
def test_divisions(method: str, count: int) -> None:
    for graph in (blocks(nodes=700), directed_graph()):
        assignment = divide(graph, count)
        assert assignment.dtype == torch.int64
        sizes = torch.bincount(assignment)
        assert len(sizes) == count
        assert sizes.max() < 1.5 * graph.nodes / count
        if method == "blocks":
            assert sizes.max() - sizes.min() <= 1
        assert torch.equal(assignment, divide(graph, count))


def test_divisions_know_the_edges_and_cut_few(method: str) -> None:
    # A chain of nodes whose numbers say nothing.
    order = torch.randperm(1000, generator=generator("chain"))
    messages = MessageGraph(torch.stack([order[:-1], order[1:]]), 1000)
    graph = dataclasses.replace(blocks(nodes=1000), messages=messages)
    assignment = divide(graph, 4)
    cut = int((assignment[messages.sources] != assignment[messages.targets]).sum())
    assert cut == 3 if method == "blocks" else cut < 10


# Bad input


def test_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = whole_graph()
    for count in (0, 151):
        with pytest.raises(ConfigError, match="--parts"):
            divide(graph, count)
    for by in ("_by_metis", "_by_blocks"):
        monkeypatch.setattr(partition, by, lambda messages, parts: [0] * messages.nodes)
    with pytest.raises(ConfigError, match="part 1 empty"):
        divide(graph, 2)
    with pytest.raises(ConfigError, match="3 processes"):
        part_of(graph, torch.arange(150) % 2, 0, 3)
    with pytest.raises(DataError, match="150 nodes"):
        part_of(graph, torch.zeros(149, dtype=torch.int64))
    with pytest.raises(DataError, match="another graph"):
        own_rows(part_of(graph, parts(graph)), torch.zeros(149, 2))
    lonely = Graph.build(
        features=graph.features, edges=[[0, 1], [1, 2]], labels=graph.labels, self_loops=False,
        train=graph.train, val=graph.val, test=graph.test,
    )  # fmt: skip
    for rank in range(2):  # both, though only one holds it
        with pytest.raises(DataError, match="node 3"):
            part_of(lonely, parts(graph), rank, 2).messages.require_neighbours()


def test_rows_there_and_back() -> None:
    graph = part_of(whole_graph(), parts(whole_graph()))
    numbers = torch.arange(300.0).view(150, 2)
    rows = own_rows(graph, numbers)
    assert not torch.equal(rows, numbers)
    assert torch.equal(collect(graph, rows), numbers)
    assert own_rows(whole_graph(), numbers) is numbers
    torch.manual_seed(0)
    network = PLP(16, 2, 150, attention="nodes")
    nn.init.normal_(network.balance)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    keep_own_rows(graph, network)
    assert torch.equal(network.score, own_rows(graph, before["score"]))
    assert torch.equal(network.balance, own_rows(graph, before["balance"]))
    after = collected(graph, network)
    assert after is not network
    for name, value in after.state_dict().items():
        assert torch.equal(value, before[name])
