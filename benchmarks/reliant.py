"""Training and predicting with RELIANT's networks, beside DGL, and how the cost grows.

    python benchmarks/reliant.py [--data FOLDER] [--peers FOLDER] [--out FOLDER] [--only PART …]

One core, CPU time, medians of rounds in which ours and DGL take turns:

- teacher:    forward and backward of the GCN teacher (3 layers, 18 features, width 64) on
              Recidivism's graph, ours beside DGL's GraphConv;
- distilling: an epoch of CPF with RELIANT by the published recipe (step of the student, step of
              the proxies, prediction), and the prediction by itself, ours beside CPF's equations on
              DGL's message passing;
- memory:     the peak after 20 epochs and after 200;
- growth:     prediction, epoch and peak memory on random graphs with 10 edges a node, as a table,
              and with --out as a picture;
- similarity: the time and memory to build Recidivism's graph from its table.

`--data` is a folder with Recidivism's bail.csv; without it, a random graph of the same size takes
its place and `similarity` is left out. Without DGL, only ours is measured. `--peers FOLDER` makes a
virtual environment there, installs DGL 1.1.3 in it, the last that runs with any PyTorch (it needs
Python 3.11 at most), and runs this benchmark in it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DGL = "dgl==1.1.3"
DGL_NEEDS = ("networkx", "packaging", "psutil", "requests", "tqdm")
NODES, PAIRS = 18_876, 311_870
"""Of Recidivism's graph: people, and undirected edges between them."""
HIDDEN, ROUNDS, DROPOUT, ATTENTION_DROPOUT = 64, 9, 0.8, 0.2
LEARNING_RATE, WEIGHT_DECAY, ALPHA, PROXY_SIZE = 0.01, 0.01, 1000.0, 2
"""CPF's recipe on Recidivism (official code)."""
SIMILARITY = 0.6
PARTS = ("teacher", "distilling", "memory", "growth", "similarity")


def install_peers(folder: Path) -> Path:
    """An environment with modicum and DGL; the path of its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
        subprocess.run([*pip, "--editable", ROOT, *DGL_NEEDS], check=True)
        subprocess.run([*pip, "--no-deps", DGL], check=True)
    return python


def interleave(work: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every call in every round, in an order that changes with the round."""
    times: dict[str, list[float]] = {name: [] for name in work}
    names = list(work)
    for number in range(rounds + 2):
        random.Random(number).shuffle(names)
        for name in names:
            began = time.process_time()
            work[name]()
            if number >= 2:  # the first two warm up
                times[name].append(time.process_time() - began)
    return times


def compare(title: str, work: dict[str, Callable[[], Any]], rounds: int, target: str) -> None:
    """Print medians, and the median over the rounds of ours in parts of DGL's."""
    times = interleave(work, rounds)
    told = ", ".join(f"{name} {1000 * statistics.median(times[name]):.1f} ms" for name in times)
    if "DGL" in times:
        pairs = zip(times["modicum"], times["DGL"], strict=True)
        told += f"; {statistics.median(a / b for a, b in pairs):.2f} times DGL's"
    print(f"  {title}: {told}{target}", flush=True)


def peak_mebibytes() -> float:
    """Peak memory of this process (Linux); `getrusage` would count that of its parent as well."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def in_process(part: str, *words: object) -> dict[str, float]:
    """What this file prints as JSON when it is run for one measurement in a new process."""
    command = [sys.executable, __file__, "--measure", part, *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{part} {' '.join(map(str, words))}: ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def recidivism(data: Path | None) -> Any:
    """Recidivism's graph, or a random one of its size."""
    if data is None:
        return random_graph(NODES, PAIRS)
    from modicum.methods.reliant.data.sources import load_graph

    return load_graph(f"recidivism={data}")


def random_graph(nodes: int, pairs: int, features: int = 18) -> Any:
    """Random features, labels, groups and undirected edges."""
    import torch

    from modicum.methods.reliant.graphs.graph import Graph

    draw = torch.Generator().manual_seed(0)
    order = torch.randperm(nodes, generator=draw)
    first, second = int(0.3 * nodes), int(0.5 * nodes)
    return Graph.build(
        features=torch.rand(nodes, features, generator=draw),
        edges=torch.randint(nodes, (2, pairs), generator=draw),
        labels=torch.randint(2, (nodes,), generator=draw),
        sensitive=torch.randint(2, (nodes,), generator=draw),
        train=order[:first],
        val=order[first:second],
        test=order[second:],
        name="random graph",
    )


def loop_of(graph: Any) -> Any:
    """The same edges as a graph of DGL, self loops included."""
    import dgl

    return dgl.graph((graph.messages.sources, graph.messages.targets), num_nodes=graph.nodes)


def dgl_is_installed() -> bool:
    os.environ.setdefault("DGLBACKEND", "pytorch")
    try:
        import dgl  # noqa: F401
    except ImportError as error:
        print(f"DGL is left out: {error}")
        return False
    return True


# The teacher.


def teacher_in_dgl(inputs: int, classes: int) -> Any:
    import dgl.nn.pytorch
    import torch
    from torch import nn

    class GCN(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = [inputs, HIDDEN, HIDDEN, classes]
            self.layers = nn.ModuleList(
                dgl.nn.pytorch.GraphConv(*pair) for pair in itertools.pairwise(widths)
            )

        def forward(self, graph: Any, x: Any) -> Any:
            for number, layer in enumerate(self.layers):
                if number:
                    x = nn.functional.dropout(torch.relu(x), DROPOUT, self.training)
                x = layer(graph, x)
            return x

    return GCN()


def train_teacher(network: Any, message_graph: Any, graph: Any) -> None:
    """Forward, loss and backward."""
    from torch import nn

    network.zero_grad()
    logits = network(message_graph, graph.features)[graph.train]
    nn.functional.cross_entropy(logits, graph.labels[graph.train]).backward()


def teacher(graph: Any, peers: bool, rounds: int) -> None:
    import torch

    from modicum.methods.reliant.checkpoints import load_official
    from modicum.methods.reliant.networks.teachers import GCN

    inputs, classes = graph.features.shape[1], len(graph.classes)
    ours = GCN(inputs, classes, hidden=HIDDEN, dropout=DROPOUT)
    work: dict[str, Callable[[], Any]] = {"modicum": partial(train_teacher, ours, graph, graph)}
    if peers:
        theirs, dgl_graph = teacher_in_dgl(inputs, classes), loop_of(graph)
        load_official(ours, theirs.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(
                ours.eval()(graph, graph.features), theirs.eval()(dgl_graph, graph.features),
                rtol=1e-4, atol=1e-5,
            )  # fmt: skip
        ours.train()
        theirs.train()
        work["DGL"] = partial(train_teacher, theirs, dgl_graph, graph)
    print("\nGCN teacher, training mode")
    compare("forward and backward", work, rounds, " (target: at most 1.10)")


# Distilling.


def student_in_dgl(inputs: int, classes: int, nodes: int) -> Any:
    """CPF's student by its equations, round by round and edge by edge."""
    import dgl.function
    import torch
    from dgl.nn.functional import edge_softmax
    from torch import nn
    from torch.nn.functional import dropout

    class PLP(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.Parameter(torch.empty(1, inputs))
            nn.init.xavier_normal_(self.attention, gain=2**0.5)
            self.balance = nn.Parameter(torch.zeros(nodes, 1))
            self.first, self.second = nn.Linear(inputs, HIDDEN), nn.Linear(HIDDEN, classes)

        def official_state(self) -> dict[str, Any]:
            names = {
                "plp_layer.attn_l": "attention",
                "plp_layer.lr_alpha": "balance",
                "plp_layer.mlp.linears.0.weight": "first.weight",
                "plp_layer.mlp.linears.0.bias": "first.bias",
                "plp_layer.mlp.linears.1.weight": "second.weight",
                "plp_layer.mlp.linears.1.bias": "second.bias",
            }
            state = self.state_dict()
            return {official: state[name] for official, name in names.items()}

        def forward(self, dgl_graph: Any, graph: Any, x: Any) -> Any:
            fixed = graph.training[:, None]
            known = nn.functional.one_hot(graph.labels, classes).float()
            h = torch.where(fixed, known, 1 / classes)
            share = self.balance.sigmoid()
            for _ in range(ROUNDS):
                seen = dropout(x, DROPOUT, self.training)
                score = (seen * self.attention).sum(1, keepdim=True)
                with dgl_graph.local_scope():
                    dgl_graph.srcdata.update(h=h, score=score)
                    dgl_graph.apply_edges(dgl.function.copy_u("score", "score"))
                    attention = edge_softmax(dgl_graph, dgl_graph.edata.pop("score"))
                    dgl_graph.edata["a"] = dropout(attention, ATTENTION_DROPOUT, self.training)
                    dgl_graph.update_all(
                        dgl.function.u_mul_e("h", "a", "m"), dgl.function.sum("m", "h")
                    )
                    passed = dgl_graph.dstdata["h"]
                hidden = dropout(torch.relu(self.first(seen)), DROPOUT, self.training)
                h = torch.relu(share * passed + (1 - share) * self.second(hidden))
                h = torch.where(fixed, known, h)
            return h

    return PLP()


class DistillingInDGL:
    """An epoch of CPF with RELIANT on DGL's message passing."""

    def __init__(self, graph: Any, targets: Any, fairness: Any) -> None:
        import torch

        self.graph, self.targets, self.fairness = graph, targets, fairness
        self.dgl_graph = loop_of(graph)
        self.features = student_features(graph)
        inputs = self.features.shape[1] + PROXY_SIZE
        self.network = student_in_dgl(inputs, len(graph.classes), graph.nodes)
        self.proxies = torch.nn.Parameter(torch.rand(graph.nodes, PROXY_SIZE))
        self.optimizer, self.proxy_optimizer = (
            torch.optim.Adam(parameters, LEARNING_RATE, weight_decay=WEIGHT_DECAY)
            for parameters in (self.network.parameters(), [self.proxies])
        )

    def probabilities(self, proxies: Any) -> Any:
        """Of every node, each with its row of `proxies`, or all with the only one."""
        import torch

        x = torch.cat([self.features, proxies.expand(self.graph.nodes, -1)], 1)
        return self.network(self.dgl_graph, self.graph, x).softmax(1)

    def epoch(self) -> None:
        """Step of the student, step of the proxies, prediction."""
        self.network.train()
        others = ~self.graph.training
        p = self.probabilities(self.proxies.detach().mean(0))
        distance = (p[others] - self.targets.probabilities[others]).square().sum().sqrt()
        loss = distance + self.fairness(p, self.fairness.student_nodes)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        p = self.probabilities(self.proxies)
        loss = -self.fairness(p, self.fairness.proxy_nodes)
        self.proxy_optimizer.zero_grad()
        loss.backward()
        self.proxy_optimizer.step()
        self.predict()

    def predict(self) -> Any:
        """Probabilities with the mean proxy."""
        import torch

        self.network.eval()
        with torch.no_grad():
            return self.probabilities(self.proxies.mean(0))


class Distilling:
    """An epoch of CPF with RELIANT as `modicum train reliant` runs it."""

    def __init__(self, graph: Any, targets: Any, fairness: Any) -> None:
        import torch

        from modicum.methods.reliant.networks.distilled import Proxies
        from modicum.methods.reliant.networks.students import PLP
        from modicum.methods.reliant.recipes.epochs import Student

        self.graph, self.targets, self.fairness = graph, targets, fairness
        features = student_features(graph)
        network = PLP(
            features.shape[1] + PROXY_SIZE,
            len(graph.classes),
            graph.nodes,
            rounds=ROUNDS,
            mlp_layers=2,
            hidden=HIDDEN,
            dropout=DROPOUT,
            attention_dropout=ATTENTION_DROPOUT,
        )
        proxies = Proxies(graph.nodes, PROXY_SIZE)
        network_adam, proxy_adam = (
            torch.optim.Adam(module.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
            for module in (network, proxies)
        )
        self.student = Student(network, network_adam, features, proxies, proxy_adam)

    def epoch(self) -> None:
        """Step of the student, step of the proxies, prediction."""
        from modicum.methods.reliant.recipes.epochs import cpf_epoch

        cpf_epoch(self.graph, self.student, self.targets, self.fairness, step)
        self.predict()

    def predict(self) -> Any:
        """Probabilities with the mean proxy."""
        return self.student.predict(self.graph)


def check_same(ours: Distilling, theirs: DistillingInDGL) -> None:
    """Give both the same weights, and stop unless they predict the same."""
    import torch

    from modicum.methods.reliant.checkpoints import load_official

    load_official(ours.student.network, theirs.network.official_state())
    with torch.no_grad():
        ours.student.proxies.rows.copy_(theirs.proxies)
    torch.testing.assert_close(ours.predict(), theirs.predict(), rtol=1e-4, atol=1e-5)


def step(terms: Any, optimizer: Any) -> None:
    """Backward and update."""
    optimizer.zero_grad()
    sum(terms.values()).backward()
    optimizer.step()


def student_features(graph: Any) -> Any:
    """All columns but the last two, in whose places the authors put the proxies."""
    return graph.features[:, :-PROXY_SIZE]


def task_of(graph: Any) -> tuple[Any, Any]:
    """A teacher's probabilities, drawn at random, and the fairness term."""
    import torch

    from modicum.methods.reliant.recipes.fairness import Fairness, fairness_term
    from modicum.methods.reliant.recipes.teacher import Targets

    draw = torch.Generator().manual_seed(1)
    logits = torch.randn(graph.nodes, len(graph.classes), generator=draw)
    targets = Targets(logits.softmax(1), logits.log_softmax(1))
    return targets, fairness_term(graph, targets.probabilities, Fairness(alpha=ALPHA), "cpf")


def distilling(graph: Any, peers: bool, rounds: int) -> None:
    task = task_of(graph)
    runs: dict[str, Any] = {"modicum": Distilling(graph, *task)}
    if peers:
        runs["DGL"] = DistillingInDGL(graph, *task)
        check_same(runs["modicum"], runs["DGL"])
    print("\nCPF student with RELIANT, recipe of Recidivism")
    epochs = {name: run.epoch for name, run in runs.items()}
    target = " (target: at most 600 ms; the authors' code took 1960 ms elsewhere)"
    compare("epoch", epochs, rounds, target)
    predictions = {name: run.predict for name, run in runs.items()}
    target = " (target: at most 20 ms; the authors' code took 234 ms elsewhere)"
    compare("prediction", predictions, 3 * rounds, target)


# Memory and growth, each measurement in a process of its own.


def measure_memory(data: Path | None, epochs: int) -> dict[str, float]:
    graph = recidivism(data)
    run = Distilling(graph, *task_of(graph))
    for _ in range(epochs):
        run.epoch()
    return {"peak": peak_mebibytes()}


def memory(words: list[object], quick: bool) -> None:
    counts = (5, 20) if quick else (20, 200)
    print("\npeak memory of a process that distils, MiB, three processes (target: the same)")
    for count in counts:
        peaks = sorted(in_process("memory", count, *words)["peak"] for _ in range(3))
        print(f"  after {count} epochs: {', '.join(f'{peak:.0f}' for peak in peaks)}", flush=True)


def measure_growth(nodes: int, repeats: int) -> dict[str, float]:
    graph = random_graph(nodes, 5 * nodes)
    run = Distilling(graph, *task_of(graph))
    (prediction,) = interleave({"": run.predict}, repeats).values()
    predicting = peak_mebibytes()
    (epoch,) = interleave({"": run.epoch}, repeats).values()
    return {
        "nodes": nodes,
        "edges": graph.messages.edges,
        "prediction": statistics.median(prediction),
        "epoch": statistics.median(epoch),
        "prediction peak": predicting,
        "epoch peak": peak_mebibytes(),
    }


def growth(out: Path | None, quick: bool) -> None:
    sizes = (10_000, 30_000) if quick else (10_000, 30_000, 100_000, 300_000, 1_000_000)
    print("\nrandom graphs with 10 edges a node and a self loop, CPF student with RELIANT")
    print("                             CPU seconds          peak memory, MiB")
    print("      nodes       edges  prediction    epoch    prediction    epoch")
    rows: list[dict[str, float]] = []
    for nodes in sizes:
        row = in_process("growth", nodes, 3)
        rows.append(row)
        print(
            f"  {nodes:>9,} {row['edges']:>11,} {row['prediction']:>11.3f} {row['epoch']:>8.2f}"
            f" {row['prediction peak']:>13.0f} {row['epoch peak']:>8.0f}",
            flush=True,
        )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "growth.json").write_text(json.dumps(rows, indent=2) + "\n")
        (out / "growth.png").write_bytes(growth_picture(rows))
        print(f"  written: {out / 'growth.png'}, {out / 'growth.json'}")


def growth_picture(rows: list[dict[str, float]]) -> bytes:
    """Time and memory against the number of edges, both logarithmic, as a PNG file."""
    from matplotlib.figure import Figure

    from modicum.report.pictures import png

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    edges = [row["edges"] for row in rows]
    for axes, (quantity, names) in zip(
        figure.subplots(1, 2),
        {
            "CPU seconds, one core": ("epoch", "prediction"),
            "peak memory, MiB": ("epoch peak", "prediction peak"),
        }.items(),
        strict=True,
    ):
        for name in names:
            values = [row[name] for row in rows]
            axes.loglog(edges, values, marker="o", label=name)
            limits = axes.get_ylim()
            axes.loglog(edges, [values[-1] * e / edges[-1] for e in edges], color="grey", lw=0.7)
            axes.set_ylim(limits)
        axes.set(xlabel="edges, self loops included", ylabel=f"{quantity}; grey: in proportion")
        axes.legend(fontsize=8)
    return png(figure)


def measure_similarity(data: Path, repeats: int) -> dict[str, float]:
    import numpy as np

    from modicum.methods.reliant.data.similarity import similarity_graph

    with (data / "bail.csv").open() as file:
        names = next(file).replace('"', "").strip().split(",")
        table = np.loadtxt(file, delimiter=",")
    columns = table[:, [place for place, name in enumerate(names) if name != "RECID"]]
    before = peak_mebibytes()
    times: list[float] = []
    edges = np.empty((2, 0), np.int64)
    for _ in range(repeats):
        began = time.process_time()
        edges = similarity_graph(columns, SIMILARITY)
        times.append(time.process_time() - began)
    peak = peak_mebibytes()
    undirected = len(np.unique(edges.min(0) * len(table) + edges.max(0)))
    seconds = statistics.median(times)
    return {"seconds": seconds, "edges": undirected, "before": before, "peak": peak}


def similarity(data: Path | None, repeats: int) -> None:
    print("\nRecidivism's graph from its table")
    if data is None:
        print("  left out: it needs --data")
        return
    row = in_process("similarity", repeats, "--data", data)
    print(
        f"  {row['seconds']:.2f} CPU-s, {row['edges']:,} undirected edges, peak memory "
        f"{row['peak']:.0f} MiB, of which {row['before']:.0f} MiB before it began"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with Recidivism's bail.csv")
    parser.add_argument("--peers", type=Path, help="folder of an environment to make and run in")
    parser.add_argument("--out", type=Path, help="folder for the picture of the growth")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="few rounds, small graphs")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peers is not None:
        python = str(install_peers(options.peers))
        words = ["--only", *options.only, "--rounds", str(options.rounds)]
        for name in ("data", "out"):
            if (value := getattr(options, name)) is not None:
                words += [f"--{name}", str(value)]
        words += ["--quick"] * options.quick
        os.execv(python, [python, __file__, *words])

    import torch

    from modicum.engine.memory import keep_freed_memory

    keep_freed_memory()  # as in every training run; DGL has it too
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if options.measure:
        part, *numbers = options.measure
        count = [int(number) for number in numbers]
        measured = {
            "memory": lambda: measure_memory(options.data, *count),
            "growth": lambda: measure_growth(*count),
            "similarity": lambda: measure_similarity(options.data, *count),
        }[part]()
        print(json.dumps(measured))
        return
    rounds = 3 if options.quick else options.rounds
    print(f"PyTorch {torch.__version__}, one thread, CPU time")
    if {"teacher", "distilling"} & set(options.only):
        graph = recidivism(options.data)
        print(f"{graph.name}: {graph.nodes:,} nodes, {graph.messages.edges:,} edges with loops")
        peers = dgl_is_installed()
        if "teacher" in options.only:
            teacher(graph, peers, rounds)
        if "distilling" in options.only:
            distilling(graph, peers, rounds)
    words: list[object] = [] if options.data is None else ["--data", options.data]
    if "memory" in options.only:
        memory(words, options.quick)
    if "growth" in options.only:
        growth(options.out, options.quick)
    if "similarity" in options.only:
        similarity(options.data, 1 if options.quick else 3)


if __name__ == "__main__":
    main()
