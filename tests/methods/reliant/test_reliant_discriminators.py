"""GraphAKD's losses against the official code's golden numbers and the formulas written out."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from modicum.errors import ConfigError
from modicum.methods.reliant.graphs.graph import Graph
from modicum.methods.reliant.graphs.messages import MessageGraph
from modicum.methods.reliant.losses import (
    Outputs,
    discriminator_losses,
    group_gap_loss,
    student_losses,
)
from modicum.methods.reliant.networks import discriminators
from modicum.methods.reliant.networks.discriminators import Adversary, EdgeDiscriminator
from modicum.methods.reliant.networks.students import SGCStudent

GOLDEN = Path(__file__).parents[2] / "golden" / "reliant"
STRUCTURE = load_file(GOLDEN / "graph.safetensors")
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
NODES, WIDTH = GRAPH.nodes, 8
DISCRIMINATOR_TERMS = ("logits", "classes", "edges", "teacher_summary", "student_summary")
STUDENT_TERMS = ("labels", "classes", "logits", "distance", *DISCRIMINATOR_TERMS[2:])
"""In the order of the golden numbers."""
HALVED = ("classes", "logits")
OFFICIAL_NAMES = {
    "logit.hidden.weight": "D_logit.lin.weight",
    "logit.hidden.bias": "D_logit.lin.bias",
    "logit.out.weight": "D_logit.lin2.weight",
    "edge.diagonal": "D_local.d",
    "edge.scale": "D_local.scale",
    "whole.diagonal": "D_global.d",
    "whole.scale": "D_global.scale",
}


# Five epochs of GraphAKD


def official_state(golden: Mapping[str, Tensor], epoch: int) -> tuple[dict[str, Tensor], ...]:
    """Parameters of student and discriminators by our names."""
    student = {
        f"layers.{place}.{name}": golden[f"step{epoch}.student.layers.{place}.fc.{name}"]
        for place in range(3)
        for name in ("weight", "bias")
    }
    adversary = {ours: golden[f"step{epoch}.{name}"] for ours, name in OFFICIAL_NAMES.items()}
    return student, adversary


def parts(terms: Mapping[str, Tensor], names: tuple[str, ...]) -> Tensor:
    """Terms as the golden numbers have them: not halved."""
    return torch.stack([terms[n].detach() * (2 if n in HALVED else 1) for n in names]).double()


@pytest.mark.parametrize("objective", ["sp", "eo", "vanilla"])
def test_akd_learns_as_the_official_one(objective: str) -> None:
    """Student forward, discriminator step, student step, proxy step, evaluation."""
    golden = load_file(GOLDEN / f"akd_{objective}.safetensors")
    fair = objective != "vanilla"
    teacher = golden["teacher_logprob"]
    real = Outputs(teacher, golden["teacher_emb"])
    proxies = golden["step0.proxy"].clone().requires_grad_() if fair else torch.zeros(NODES, 0)
    student = SGCStudent(6 + proxies.shape[1], 2, hidden=WIDTH, dropout=0)
    adversary = Adversary(2, WIDTH)
    for network, state in zip((student, adversary), official_state(golden, 0), strict=True):
        network.load_state_dict(state)
    adam = torch.optim.Adam(student.parameters(), lr=0.001, weight_decay=5e-4)
    adam_of_adversary = torch.optim.Adam(adversary.parameters(), lr=0.01, weight_decay=5e-4)
    adam_of_proxies = torch.optim.Adam([proxies], lr=0.01, weight_decay=5e-4) if fair else None
    close: dict[str, Any] = {"rtol": 1e-4, "atol": 2e-5}
    best, result = torch.inf, torch.zeros(4)

    def inputs(rows: Tensor) -> Tensor:
        return torch.cat([GRAPH.features, rows], 1)

    def mean_proxy() -> Tensor:
        return proxies.detach().mean(0).expand(NODES, -1)

    def gap(logits: Tensor, index: Tensor) -> Tensor:
        assert GRAPH.sensitive is not None
        positive = GRAPH.labels == 1 if objective == "eo" else None
        return 10 * group_gap_loss(logits.softmax(1), GRAPH.sensitive, index, positive=positive)

    def step(terms: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> Tensor:
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach().double()

    for epoch in range(5):
        fake = Outputs(*student.embed(GRAPH, inputs(mean_proxy())))
        both = (adversary, GRAPH.messages, real, fake, GRAPH.labels, GRAPH.train)

        terms = discriminator_losses(*both)
        found = parts(terms, DISCRIMINATOR_TERMS)
        torch.testing.assert_close(found, golden["rec.D_parts"][epoch], **close)
        loss = step(terms, adam_of_adversary)
        torch.testing.assert_close(loss, golden["rec.loss_D"][epoch], **close)

        terms = student_losses(*both)
        found = parts(terms, STUDENT_TERMS)
        torch.testing.assert_close(found, golden["rec.G_parts"][epoch], **close)
        if fair:
            terms["fairness"] = gap(fake.logits, GRAPH.train)
        loss = step(terms, adam)
        torch.testing.assert_close(loss, golden["rec.loss_G"][epoch], **close)

        if adam_of_proxies is not None:
            ascent = -gap(student(GRAPH, inputs(proxies)), torch.arange(NODES))
            loss = step({"proxy": ascent}, adam_of_proxies)
            torch.testing.assert_close(loss, golden["rec.loss_P"][epoch], **close)

        with torch.no_grad():
            logits = student(GRAPH, inputs(mean_proxy()))
        entropy = functional.cross_entropy(logits[GRAPH.val], GRAPH.labels[GRAPH.val])
        if float(entropy) <= best:
            best, result = float(entropy), scores(logits.argmax(1))
        if epoch + 1 in (1, 5):
            torch.testing.assert_close(logits, golden[f"step{epoch + 1}.logits"], **close)
            states = official_state(golden, epoch + 1)
            for network, state in zip((student, adversary), states, strict=True):
                for name, expected in state.items():
                    found = network.get_parameter(name).detach()
                    torch.testing.assert_close(found, expected, **close)
            if fair:
                expected = golden[f"step{epoch + 1}.proxy"]
                torch.testing.assert_close(proxies.detach(), expected, **close)
    expected = golden["result_val_test_sp_eo"].double()
    torch.testing.assert_close(result.double(), expected, **close)


def scores(decided: Tensor) -> Tensor:
    """Validation and test accuracy, and the gaps of decisions on test nodes."""
    assert GRAPH.sensitive is not None
    right = (decided == GRAPH.labels).double()
    one, y, s = (x[GRAPH.test] for x in (decided.double(), GRAPH.labels, GRAPH.sensitive))
    shares = [
        abs(one[(s == 0) & among].mean() - one[(s == 1) & among].mean())
        for among in (y >= 0, y == 1)
    ]
    return torch.stack([right[GRAPH.val].mean(), right[GRAPH.test].mean(), *shares])


# The formulas written out

DIRECTED = torch.randint(20, (2, 90), generator=torch.Generator().manual_seed(0))
GRAPHS = {
    "directed": MessageGraph(DIRECTED, 20),
    "symmetric": MessageGraph(torch.cat([DIRECTED, DIRECTED.flip(0)], 1), 20),
    "symmetric without loops": MessageGraph(
        torch.cat([DIRECTED, DIRECTED.flip(0)], 1), 20, self_loops=False
    ),
}
every_graph = pytest.mark.parametrize("messages", GRAPHS.values(), ids=GRAPHS)


@dataclasses.dataclass
class Case:
    """A graph of 20 nodes and 3 classes, its teacher, student and discriminators, in float64."""

    graph: Graph
    adversary: Adversary
    teacher: Outputs
    student: Outputs

    def losses(self, whose: str, **options: Any) -> dict[str, Tensor]:
        compute = discriminator_losses if whose == "discriminators" else student_losses
        graph = self.graph
        given = (self.adversary, graph.messages, self.teacher, self.student)
        return compute(*given, graph.labels, graph.train, **options)


def case(messages: MessageGraph, *, dtype: torch.dtype = torch.float64) -> Case:
    torch.manual_seed(0)
    graph = Graph(
        torch.rand(20, 1), torch.arange(20) % 3, None, messages, *torch.arange(20).split([9, 5, 6]),
        ("x",), tuple("abc"), (),
    )  # fmt: skip
    adversary = Adversary(3, 4).to(dtype)
    for parameter in adversary.parameters():
        nn.init.normal_(parameter)
    log_p = torch.randn(20, 3, dtype=dtype).log_softmax(1)
    teacher = Outputs(log_p, torch.randn(20, 4, dtype=dtype))
    logits = torch.randn(20, 3, dtype=dtype, requires_grad=True)
    student = Outputs(logits, torch.randn(20, 4, dtype=dtype).requires_grad_())
    return Case(graph, adversary, teacher, student)


def written_out(
    c: Case, whose: str, global_target: Literal["reliant", "graphakd"] = "reliant"
) -> dict[str, Tensor]:
    """The equations, with a tensor of `(E, H)` and plain sigmoids."""
    graph, adversary = c.graph, c.adversary
    source, target = graph.messages.sources, graph.messages.targets
    train, y = graph.train, graph.labels[graph.train]

    def logit(z: Tensor) -> Tensor:
        first, last = adversary.logit.hidden, adversary.logit.out
        return torch.relu(z + z @ first.weight.T + first.bias) @ last.weight.T

    def local(e: Tensor) -> Tensor:
        unit = e / e.norm(dim=1, keepdim=True)
        products = adversary.edge.diagonal * unit[source] * unit[target]
        return adversary.edge.scale * products.sum(1)

    def whole(e: Tensor, of: Tensor) -> Tensor:
        unit, summary = e / e.norm(dim=1, keepdim=True), of.mean(0).sigmoid()
        return adversary.whole.scale * (adversary.whole.diagonal * unit * summary).sum(1)

    def real(scores: Tensor) -> Tensor:
        return -scores.sigmoid().log().mean()

    def fake(scores: Tensor) -> Tensor:
        return -(1 - scores.sigmoid()).log().mean()

    def classes(z: Tensor) -> Tensor:
        return functional.cross_entropy(logit(z)[train, :3], y)

    (t, big), (z, e) = c.teacher, c.student
    if whose == "discriminators":
        z, e = z.detach(), e.detach()
        return {
            "logits": 0.5 * (real(logit(t)[:, 3]) + fake(logit(z)[:, 3])),
            "classes": 0.5 * (classes(t) + classes(z)),
            "edges": real(local(big)) + fake(local(e)),
            "teacher_summary": real(whole(big, big)) + fake(whole(e, big)),
            "student_summary": real(whole(e, e)) + fake(whole(big, e)),
        }
    own = real(whole(e, e)) + fake(whole(big, e))
    if global_target == "graphakd":
        own = fake(whole(e, e)) + real(whole(big, e))
    return {
        "labels": functional.cross_entropy(z[train], y),
        "classes": 0.5 * classes(z),
        "logits": 0.5 * real(logit(z)[:, 3]),
        "distance": (z - t).abs().sum() / 20,
        "edges": real(local(e)),
        "teacher_summary": real(whole(e, big)),
        "student_summary": own,
    }


@every_graph
@pytest.mark.parametrize(
    ("whose", "options"),
    [
        ("discriminators", {}),
        ("student", {}),
        ("student", {"global_target": "graphakd"}),
    ],
)
def test_losses_and_gradients_equal_the_formulas(
    messages: MessageGraph, whose: str, options: dict[str, Any]
) -> None:
    c = case(messages)
    found, expected = c.losses(whose, **options), written_out(c, whose, **options)
    assert found.keys() == expected.keys()
    assert set(found) == set(DISCRIMINATOR_TERMS if whose == "discriminators" else STUDENT_TERMS)
    inputs = [*c.student, *c.adversary.parameters()]
    for name, term in found.items():
        torch.testing.assert_close(term, expected[name])
        gradients = [
            torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
            for loss in (term, expected[name])
        ]
        for mine, theirs in zip(*gradients, strict=True):
            zero = torch.zeros(())
            if theirs is None:
                assert mine is None or not mine.any()
            else:
                torch.testing.assert_close(zero if mine is None else mine, theirs)


def test_only_those_who_learn_get_gradients() -> None:
    c = case(GRAPHS["symmetric"])
    torch.stack(list(c.losses("discriminators").values())).sum().backward()
    assert all(own.grad is None for own in c.student)
    assert all(p.grad is not None and p.grad.any() for p in c.adversary.parameters())
    c.adversary.zero_grad()
    c.adversary.requires_grad_(False)
    torch.stack(list(c.losses("student").values())).sum().backward()
    for own in c.student:
        assert own.grad is not None
        assert own.grad.any()
    assert all(p.grad is None for p in c.adversary.parameters())


# Edges


@every_graph
def test_scores_of_edges(messages: MessageGraph) -> None:
    torch.manual_seed(0)
    edge = EdgeDiscriminator(4).double()
    nn.init.normal_(edge.diagonal)
    rows = torch.randn(20, 4, dtype=torch.float64, requires_grad=True)

    def score(rows: Tensor, diagonal: Tensor, scale: Tensor) -> Tensor:
        parameters = {"diagonal": diagonal, "scale": scale}
        return torch.func.functional_call(edge, parameters, (messages, rows))

    expected = 0.5 * (edge.diagonal * rows[messages.sources] * rows[messages.targets]).sum(1)
    torch.testing.assert_close(edge(messages, rows), expected)
    assert torch.autograd.gradcheck(score, (rows, edge.diagonal, edge.scale))


def test_scores_of_no_edges() -> None:
    nothing = MessageGraph(torch.zeros(2, 0, dtype=torch.int64), 4, self_loops=False)
    rows = torch.rand(4, 3, requires_grad=True)
    scores = EdgeDiscriminator(3)(nothing, rows)
    scores.sum().backward()
    assert scores.shape == (0,)
    assert rows.grad is not None
    assert not rows.grad.any()


def test_edges_of_a_symmetric_graph_are_scored_once() -> None:
    scored: dict[str, tuple[int, int]] = {}
    for name, messages in GRAPHS.items():
        pairs = discriminators.pairs_of(messages)
        weights = torch.ones(messages.edges) if pairs.weights is None else pairs.weights
        assert float(weights.sum()) == messages.edges
        assert discriminators.pairs_of(messages).messages is pairs.messages
        scored[name] = (messages.edges, pairs.messages.edges)
    edges, once = scored["symmetric"]
    assert once == (edges - 20) / 2 + 20
    edges, once = scored["symmetric without loops"]
    assert once == edges / 2
    edges, once = scored["directed"]
    assert once == edges


def test_remembers_no_graph_that_is_gone() -> None:
    before = len(discriminators._pairs_of)
    messages = MessageGraph(torch.tensor([[0, 1], [1, 0]]), 2)
    discriminators.pairs_of(messages)
    assert len(discriminators._pairs_of) == before + 1
    del messages
    assert len(discriminators._pairs_of) == before


def test_embedding_of_zeros_is_no_trouble() -> None:
    c = case(GRAPHS["symmetric"])
    with torch.no_grad():
        c.student.embedding[3] = 0
    torch.stack(list(c.losses("student").values())).sum().backward()
    assert c.student.embedding.grad is not None
    assert c.student.embedding.grad.abs().max() < 10


def test_losses_keep_their_precision_inside_autocast() -> None:
    c = case(GRAPHS["symmetric"], dtype=torch.float32)
    for whose in ("discriminators", "student"):
        expected = c.losses(whose)
        learns = c.adversary.edge.diagonal if whose == "discriminators" else c.student.embedding
        (gradient,) = torch.autograd.grad(expected["edges"], learns)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = c.losses(whose)
            # Products of edges also where backward is inside autocast.
            (inside,) = torch.autograd.grad(found["edges"], learns)
        assert found.keys() == expected.keys()
        assert all(torch.equal(term, expected[name]) for name, term in found.items())
        assert torch.equal(inside, gradient)


# Parts of a graph


class Exchange:
    """What two processes, here threads, tell each other. Gradients stay with each."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=30)
        self.given: list[Tensor] = [torch.empty(0)] * 2

    def __call__(self, mine: int, x: Tensor) -> list[Tensor]:
        self.given[mine] = x.detach()
        self.barrier.wait()
        others = list(self.given)
        self.barrier.wait()
        others[mine] = x
        return others


class Part(MessageGraph):
    """The first or the last rows of a matrix."""

    def __init__(self, whole: MessageGraph, rows: slice, mine: int, exchange: Exchange) -> None:
        pointers = whole.row_pointers[rows.start : rows.stop + 1]
        entries = slice(int(pointers[0]), int(pointers[-1]))
        self.mine, self.exchange = mine, exchange
        self._store(pointers - pointers[0], whole.columns[entries], whole.nodes)

    def gather(self, x: Tensor) -> Tensor:
        return torch.cat(self.exchange(self.mine, x))

    def total(self, x: Tensor) -> Tensor:
        return torch.stack(self.exchange(self.mine, x)).sum(0)


@pytest.mark.parametrize("whose", ["discriminators", "student"])
def test_parts_give_the_losses_of_the_whole(whose: str) -> None:
    whole, exchange = case(GRAPHS["symmetric"]), Exchange()

    def part(mine: int) -> Case:
        rows = slice(0, 13) if mine == 0 else slice(13, 20)
        train = whole.graph.train
        graph = dataclasses.replace(
            whole.graph,
            features=whole.graph.features[rows],
            labels=whole.graph.labels[rows],
            train=train[(train >= rows.start) & (train < rows.stop)] - rows.start,
            messages=Part(whole.graph.messages, rows, mine, exchange),
        )
        teacher, student = (
            Outputs(*(x[rows] for x in outputs)) for outputs in (whole.teacher, whole.student)
        )
        return Case(graph, whole.adversary, teacher, student)

    # All training nodes are in the first part.
    parts = [part(0), part(1)]
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda part: part.losses(whose), parts))
    expected = whole.losses(whose)
    for terms in found:
        assert terms.keys() == expected.keys()
        for name, term in terms.items():
            torch.testing.assert_close(term, expected[name])
    if whose == "discriminators":
        parameters = list(whole.adversary.parameters())
        gradients = [
            torch.autograd.grad(torch.stack(list(terms.values())).sum(), parameters)
            for terms in (*found, expected)
        ]
        for first, second, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(first + second, theirs)


# Sizes and options


def test_parameters() -> None:
    adversary = Adversary(2, 64)
    counts = [
        sum(p.numel() for p in part.parameters())
        for part in (adversary.logit, adversary.edge, adversary.whole)
    ]
    assert counts == [12, 65, 65]
    assert adversary.edge.scale.item() == adversary.whole.scale.item() == 0.5
    for part in (adversary.edge, adversary.whole):
        assert torch.equal(part.diagonal, torch.ones(64))


def test_refuses_what_does_not_fit() -> None:
    c = case(GRAPHS["symmetric"])
    with pytest.raises(ConfigError, match="expected reliant or graphakd, found 'upstream'"):
        c.losses("student", global_target="upstream")
    c.teacher = c.teacher._replace(embedding=torch.rand(20, 5))
    for whose in ("discriminators", "student"):
        with pytest.raises(ConfigError, match=r"embedding of 4 columns .* one of 5 columns"):
            c.losses(whose)
    with pytest.raises(ConfigError, match="--classes 1: must be at least 2"):
        Adversary(1, 64)
    with pytest.raises(ConfigError, match="width"):
        Adversary(2, 0)
