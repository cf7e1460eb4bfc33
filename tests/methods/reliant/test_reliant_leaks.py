from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from modicum.methods.reliant.data import leaks as module
from modicum.methods.reliant.data.leaks import leaks
from modicum.methods.reliant.data.sources import blocks, load_graph
from modicum.methods.reliant.graphs.graph import Graph


def graph_of(
    features: np.ndarray, labels: np.ndarray, names: list[str], **options: object
) -> Graph:
    count = len(labels)
    return Graph.build(
        features=features,
        edges=np.zeros((2, 0), int),
        labels=labels,
        sensitive=np.arange(count) % 2,
        train=np.arange(0, count // 2),
        val=np.arange(count // 2, count - 5),
        test=np.arange(count - 5, count),
        feature_names=names,
        sensitive_name="race",
    )


def test_leaks_finds_the_label_in_a_feature_and_nothing_else() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 400)
    noise = random.standard_normal((400, 3))
    # Skewed, so that the correlation is small while the order is perfect.
    skewed = np.exp(random.standard_normal(400) * 2) * (1 - 2 * labels)
    features = np.stack(
        [labels + 0.01 * noise[:, 0], noise[:, 1], skewed, labels * 0.5, noise[:, 2] * 0 + 3], 1
    )
    found = leaks(graph_of(features, labels, ["copy", "noise", "order", "half", "constant"]))
    assert [(leak.column, leak.measure) for leak in found] == [
        ("copy", "correlation"),
        ("copy", "auc"),
        ("order", "auc"),
        ("half", "correlation"),
        ("half", "presence"),
        ("half", "auc"),
    ]
    assert "area under the ROC curve 1.000" in str(found[2])


def test_leaks_looks_at_training_nodes_only() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 400)
    feature = np.where(np.arange(400) < 200, random.standard_normal(400), labels)
    assert leaks(graph_of(feature[:, None], labels, ["late"])) == []


def test_leaks_has_the_area_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AUC", 0.5)
    monkeypatch.setattr(module, "_COLUMNS", 2)
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 300)
    x = random.integers(0, 4, (300, 5)) + labels[:, None] * np.array([2, -2, 1, 3, -1])
    graph = graph_of(x, labels, list("abcde"))
    found = {leak.column: leak.value for leak in leaks(graph) if leak.measure == "auc"}
    train = graph.train.numpy()
    for column, name in enumerate("abcde"):
        area = roc_auc_score(labels[train], x[train, column])
        assert found[name] == pytest.approx(max(area, 1 - area), abs=1e-12)


def test_leaks_looks_at_every_class() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 300)
    x = np.stack([labels == 2, random.standard_normal(300)], 1)
    assert {leak.column for leak in leaks(graph_of(x, labels, ["third", "noise"]))} == {"third"}


def test_leaks_finds_the_sensitive_attribute_by_name_or_value() -> None:
    random = np.random.default_rng(0)
    labels, group = random.integers(0, 2, 400), np.arange(400) % 2
    x = np.stack([random.standard_normal(400)] * 2 + [5 - 3 * group, group + labels], 1)
    found = leaks(graph_of(x, labels, ["race", "race=b", "other", "mixed"]))
    assert [(leak.column, leak.measure) for leak in found] == [
        (name, "sensitive") for name in ("race", "race=b", "other")
    ]
    graph = graph_of(x, labels, ["x", "y", "other", "mixed"])
    assert leaks(dataclasses.replace(graph, sensitive=None)) == []


def test_leaks_of_words_are_found_without_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    # Columns that are mostly 0 cannot have a large area: ties count half.
    monkeypatch.setattr("scipy.stats.rankdata", pytest.fail)
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 400)
    x = (random.random((400, 300)) < 0.1).astype(np.float32)
    assert leaks(graph_of(x, labels, [f"word {k}" for k in range(300)])) == []


def test_leaks_of_blocks_and_of_recidivism(shared_data: Callable[[str], Path]) -> None:
    assert leaks(blocks()) == []
    found = leaks(load_graph(f"recidivism={shared_data('bail')}"))
    assert [(leak.column, leak.measure) for leak in found] == [
        ("WHITE", "sensitive"),
        ("TIME", "presence"),
    ]
