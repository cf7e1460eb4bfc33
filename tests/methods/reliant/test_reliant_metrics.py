from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from modicum.errors import ConfigError, DataError
from modicum.methods.reliant.metrics import (
    agreement,
    evaluate_predictions,
    paired_gap_difference,
    pareto_front,
)

GOLDEN = Path(__file__).parents[2] / "golden/reliant"


def random_case(seed, nodes=300, classes=2, groups=2):
    """Probabilities that know something of the labels, and labels that depend on the group."""
    rng = np.random.default_rng(seed)
    s = rng.integers(0, groups, nodes)
    y = (rng.random(nodes) < 0.3 + 0.4 * s / groups).astype(int)
    if classes > 2:
        y = rng.integers(0, classes, nodes)
    logits = rng.normal(size=(nodes, classes)) + np.eye(classes)[y]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return p, y, s, rng.permutation(nodes)[: nodes * 2 // 3]


def test_golden():
    losses, graph = (
        load_file(GOLDEN / "losses.safetensors"),
        load_file(GOLDEN / "graph.safetensors"),
    )
    splits = [graph[f"idx_{name}"] for name in ("train", "val", "test")] + [np.arange(48)]
    expected = losses["metrics_sp_eo_train_val_test_all"]
    for index, (sp, eo) in zip(splits, expected, strict=True):
        found = evaluate_predictions(losses["prob"], graph["y"], graph["sens"], index)
        assert found["sp_gap_absolute"] == pytest.approx(sp, abs=1e-10)
        assert found["eo_gap_absolute"] == pytest.approx(eo, abs=1e-10)


def test_by_hand():
    p = np.array([[0.2, 0.8], [0.6, 0.4], [0.5, 0.5], [0.1, 0.9], [0.3, 0.7], [0.9, 0.1]])
    y, s = np.array([1, 1, 0, 1, 0, 1]), np.array([0, 0, 0, 1, 1, 1])
    found = evaluate_predictions(p, y, s, np.arange(6), bootstrap=0)
    # Decided: 1 0 0 | 1 1 0; a tie is the lowest class.
    assert found["accuracy"] == pytest.approx(3 / 6)
    assert found["sp_gap"] == pytest.approx(1 / 3 - 2 / 3)
    assert found["eo_gap"] == pytest.approx(1 / 2 - 1 / 2)
    assert found["confusion"] == [[[1, 0], [1, 1]], [[0, 1], [1, 1]]]
    assert [g["base_rate"] for g in found["groups"]] == pytest.approx([2 / 3, 2 / 3])
    assert [g["positive_rate"] for g in found["groups"]] == pytest.approx([1 / 3, 2 / 3])
    assert math.isnan(found["sp_gap_interval"][0])


@pytest.mark.parametrize("groups", [2, 3, 5])
def test_agrees_with_fairlearn(groups):
    fairlearn = pytest.importorskip("fairlearn.metrics")
    for seed in range(6):
        p, y, s, index = random_case(seed, groups=groups)
        found = evaluate_predictions(p, y, s, index, bootstrap=0)
        true, decided, group = y[index], p[index].argmax(1), s[index]
        for name, gap in (
            ("sp", fairlearn.demographic_parity_difference),
            ("eo", fairlearn.equal_opportunity_difference),
        ):
            expected = gap(true, decided, sensitive_features=group)
            assert found[f"{name}_gap_absolute"] == pytest.approx(expected, abs=1e-12)
        frame = fairlearn.MetricFrame(
            metrics={
                "accuracy": accuracy_score,
                "positive_rate": fairlearn.selection_rate,
                "true_positive_rate": fairlearn.true_positive_rate,
                "nodes": fairlearn.count,
            },
            y_true=true,
            y_pred=decided,
            sensitive_features=group,
        )
        for name, of_groups in frame.by_group.items():
            mine = [row[name] for row in found["groups"]]
            assert mine == pytest.approx(of_groups.tolist(), abs=1e-12)


@pytest.mark.parametrize("classes", [2, 4])
def test_agrees_with_scikit_learn(classes):
    for seed in range(10):
        p, y, s, index = random_case(seed, classes=classes)
        p = p.round(1)  # ties among the scores
        found = evaluate_predictions(p, y, s, index, bootstrap=0, positive_class=classes - 1)
        true, decided = y[index] == classes - 1, p[index].argmax(1) == classes - 1
        assert found["accuracy"] == pytest.approx(accuracy_score(y[index], p[index].argmax(1)))
        assert found["f1"] == pytest.approx(f1_score(true, decided))
        assert found["roc_auc"] == pytest.approx(roc_auc_score(true, p[index][:, classes - 1]))


def test_intervals_are_those_of_resampled_nodes():
    p, y, s, index = random_case(0, nodes=600)
    found = evaluate_predictions(p, y, s, index, bootstrap=4000)
    rng = np.random.default_rng(1)
    names = ("accuracy", "f1", "sp_gap", "sp_gap_absolute", "eo_gap", "roc_auc")
    drawn = []
    for _ in range(400):
        again = evaluate_predictions(p, y, s, rng.choice(index, len(index)), bootstrap=0)
        drawn.append([again[name] for name in names])
    slow = np.quantile(drawn, (0.025, 0.975), axis=0).T
    for name, expected in zip(names, slow, strict=True):
        # The ends of 400 resamples scatter by about a tenth of the interval.
        room = 0.15 * (expected[1] - expected[0])
        assert found[f"{name}_interval"] == pytest.approx(expected, abs=room)


def test_intervals_cover():
    """Of 200 samples of a population, the interval holds its gap in about 95 %."""
    p, y, s, _ = random_case(3, nodes=100_000)
    everybody = evaluate_predictions(p, y, s, np.arange(len(y)), bootstrap=0)
    rng = np.random.default_rng(0)
    hits = dict.fromkeys(("accuracy", "roc_auc", "f1", "sp_gap", "eo_gap"), 0)
    for seed in range(200):
        index = rng.integers(0, len(y), 300)
        found = evaluate_predictions(p, y, s, index, bootstrap=300, seed=seed)
        for name in hits:
            low, high = found[f"{name}_interval"]
            hits[name] += low <= everybody[name] <= high
    # Four deviations of a binomial of 0.95.
    assert all(177 <= count <= 200 for count in hits.values()), hits


def test_the_same_for_a_seed_and_for_tensors():
    p, y, s, index = random_case(5)
    first = evaluate_predictions(p, y, s, index, seed=4)
    tensors = [torch.from_numpy(values) for values in (p, y, s, index)]
    tensors[0].requires_grad_()
    assert evaluate_predictions(*tensors, seed=4) == first
    assert evaluate_predictions(p, y, s, index, seed=5) != first
    assert json.loads(json.dumps(first)) == first


def test_calibration():
    rng = np.random.default_rng(0)
    score, s = rng.random(40_000), rng.integers(0, 2, 40_000)
    truth = np.where(s == 1, score, score**2)  # wrong in group 0
    y = (rng.random(len(score)) < truth).astype(int)
    p = np.stack([1 - score, score], 1)
    found = evaluate_predictions(p, y, s, np.arange(len(y)), bootstrap=0)
    wrong, right = (row["calibration_error"] for row in found["groups"])
    assert right < 0.02
    assert wrong == pytest.approx(1 / 6, abs=0.02)  # mean of x - x^2
    table = [row for row in found["calibration"] if row["group"] == 1]
    assert [row["low"] for row in table] == pytest.approx(np.arange(10) / 10)
    assert sum(row["nodes"] for row in table) == found["groups"][1]["nodes"]
    assert all(row["low"] <= row["probability"] <= row["high"] for row in found["calibration"])
    # Errors of opposite sign cancel in a bin of everybody, so that this is no mean of the two.
    assert found["calibration_error"] == pytest.approx(1 / 12, abs=0.02)


def test_without_groups():
    p, y, _, index = random_case(1)
    found = evaluate_predictions(p, y, None, index)
    assert "sp_gap" not in found
    assert found["groups"][0]["nodes"] == len(index)


def test_an_empty_group_is_nan_with_a_warning(caplog):
    p, y, s, _ = random_case(2)
    found = evaluate_predictions(p, y, s, np.flatnonzero(s == 1))
    assert math.isnan(found["sp_gap"])
    assert all(map(math.isnan, found["sp_gap_interval"] + found["eo_gap_interval"]))
    assert "group 0 has no node" in caplog.text
    assert found["warnings"] == [record.message for record in caplog.records]


def test_a_group_without_positive_labels_is_nan_with_a_warning(caplog):
    p, y, s, _ = random_case(2, groups=3)
    index = np.flatnonzero((s != 2) | (y == 0))
    found = evaluate_predictions(p, y, s, index)
    assert math.isnan(found["eo_gap"])
    assert found["sp_gap"] > 0
    assert "no node of group 2 has a positive label" in caplog.text
    difference = paired_gap_difference(p, p[::-1], y, s, index)
    assert math.isnan(difference["eo"])
    assert not math.isnan(difference["sp"])


def test_one_class_has_no_area_under_the_curve(caplog):
    p, y, s, _ = random_case(2)
    found = evaluate_predictions(p, y, s, np.flatnonzero(y == 0))
    assert math.isnan(found["roc_auc"])
    assert "roc_auc is not defined" in caplog.text


def test_paired_difference():
    p, y, s, index = random_case(0, nodes=3000)
    rng = np.random.default_rng(0)
    q = p + 0.02 * rng.random(p.shape)  # nearly the same decisions
    q /= q.sum(1, keepdims=True)
    found = paired_gap_difference(p, q, y, s, index)
    one, other = (evaluate_predictions(values, y, s, index) for values in (p, q))
    for name in ("sp", "eo"):
        gap = f"{name}_gap_absolute"
        assert found[name] == pytest.approx(one[gap] - other[gap], abs=1e-12)
        low, high = found[f"{name}_interval"]
        assert low <= found[name] <= high
        # What both models share falls out of the paired interval.
        widths = [measured[f"{gap}_interval"] for measured in (one, other)]
        assert high - low < 0.5 * min(b - a for a, b in widths)
    same = paired_gap_difference(p, p, y, s, index)
    assert same["sp"] == 0
    assert same["sp_interval"] == [0, 0]


def test_agreement():
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.3, 0.7]])
    q = torch.tensor([[0.6, 0.4], [0.7, 0.3], [0.9, 0.1], [0.1, 0.9]])
    assert agreement(p, q) == 0.75
    with pytest.raises(DataError, match=r"\(4, 2\) and \(3, 2\)"):
        agreement(p, q[:3])


def test_pareto_front():
    accuracy = [0.9, 0.8, 0.85, 0.7, 0.9, math.nan, 0.8]
    gap = [0.3, 0.1, 0.2, 0.1, 0.3, 0.0, 0.15]
    assert pareto_front(accuracy, gap) == [1, 2, 0, 4]
    assert pareto_front([], []) == []
    rng = np.random.default_rng(0)
    accuracy, gap = rng.integers(0, 6, (2, 60))
    beaten = {
        a
        for a in range(60)
        for b in range(60)
        if accuracy[b] >= accuracy[a] and gap[b] <= gap[a]
        if accuracy[b] > accuracy[a] or gap[b] < gap[a]
    }
    assert set(pareto_front(accuracy, gap)) == set(range(60)) - beaten


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"p": lambda p: np.log(p)}, DataError, "softmax"),
        ({"p": lambda p: p * np.nan}, DataError, "found nan"),
        ({"p": lambda p: p[:, 0]}, DataError, r"probabilities \(N, C\)"),
        ({"y": lambda y: y[:-1]}, DataError, r"\(299,\)"),
        ({"y": lambda y: y - 1}, DataError, "label -1"),
        ({"y": lambda y: y + 1}, DataError, "label 2"),
        ({"s": lambda s: s - 1}, DataError, "groups 0, 1"),
        ({"index": lambda i: i[:0]}, DataError, "nodes to look at"),
        ({"index": lambda i: i + 200}, DataError, "0..299"),
        ({"index": lambda i: np.ones(300, bool)}, DataError, "mask"),
        ({"positive_class": lambda _: 2}, ConfigError, "positive_class 2"),
        ({"bootstrap": lambda _: -1}, ConfigError, "bootstrap -1"),
    ],
)
def test_refuses(change, error, match):
    p, y, s, index = random_case(0)
    given = {"p": p, "y": y, "s": s, "index": index, "positive_class": 1, "bootstrap": 10}
    given |= {name: make(given[name]) for name, make in change.items()}
    arrays = [given.pop(name) for name in ("p", "y", "s", "index")]
    with pytest.raises(error, match=match):
        evaluate_predictions(*arrays, **given)


def test_paired_difference_refuses_what_it_cannot_pair():
    p, y, s, index = random_case(0)
    with pytest.raises(DataError, match="found None"):
        paired_gap_difference(p, p, y, None, index)
    with pytest.raises(DataError, match="found 2 and 3"):
        paired_gap_difference(p, np.full((300, 3), 1 / 3), y, s, index)
