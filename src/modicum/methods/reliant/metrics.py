"""Accuracy and fairness of decisions on one set of nodes, with intervals.

All shares and gaps are fractions, as the field prints them (.9225/.0619), not percent.

What depends on decisions alone depends on how many nodes there are of each group, label and
decision. To draw nodes anew, with replacement, is to draw these counts from a multinomial
distribution, so that a thousand resamples cost no more memory than a thousand small tables.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from modicum.engine.random import fold_keys
from modicum.errors import ConfigError, DataError

Numbers = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_log = logging.getLogger("modicum")


def evaluate_predictions(
    probabilities: Any,
    labels: Any,
    sensitive: Any,
    index: Any,
    *,
    positive_class: int = 1,
    bootstrap: int = 1000,
    seed: int = 0,
    bins: int = 10,
) -> dict[str, Any]:
    """Accuracy, fairness and calibration of probabilities on some nodes.

    A decision is the class of the largest probability, the lowest of equal ones. Gaps compare
    shares of positive decisions: `sp`, statistical parity, `P(d = 1 | s = 0) - P(d = 1 | s = 1)`,
    and `eo`, equal opportunity, the same among nodes whose label is positive. Of more than two
    groups a gap is the largest share less the smallest. fairlearn's
    `demographic_parity_difference` and `equal_opportunity_difference` are the absolute gaps.

    Intervals are of 95 %: percentiles over resampled nodes, and for the area under the ROC curve
    DeLong's variance (DeLong, DeLong and Clarke-Pearson, 1988). They speak of other people, not of
    other seeds of training. An absolute gap cannot be below zero, so that an interval of it never
    shows that there is none; look at the signed one.

    Args:
        probabilities: `(N, C)`, tensor or array, each 0 to 1.
        labels: `(N,)`, classes 0..C-1; what is not in `index` may be -1.
        sensitive: `(N,)`, group of each node from 0, or None.
        index: `(M,)`, the nodes to look at.
        positive_class: The class that is a positive decision.
        bootstrap: Resamples; 0 makes all intervals NaN.
        seed: Of the resamples.
        bins: Equal parts of 0 to 1 in which calibration compares probability and frequency.

    Returns:
        Plain values, ready for JSON:

        - `nodes`; `accuracy`; `roc_auc` and `f1` of the positive class against the others; each
            but the first with its interval, as `accuracy_interval` `[low, high]`;
        - with groups, `sp_gap`, `sp_gap_absolute`, `eo_gap`, `eo_gap_absolute`, each with its
            interval;
        - `calibration_error`: the mean over nodes of the distance between mean probability and
            frequency of the positive class in the node's bin (expected calibration error);
        - `groups`: for each `group` its `nodes`, `accuracy`, `base_rate` (share of positive
            labels), `positive_rate` (of positive decisions), `true_positive_rate`,
            `calibration_error`; without groups, of all nodes together, `group` 0;
        - `calibration`: for each `group` and bin from `low` to `high` with a node in it: `nodes`,
            mean `probability`, `frequency`;
        - `confusion`: `(groups, C, C)`, nodes by group, label and decision;
        - `warnings`: sentences.

        What is not defined is NaN, with a warning: the gap if a group, or the positive labels of a
        group, are missing; the area under the curve if a class is.

    Raises:
        DataError: Shapes do not fit, `index` is empty or outside, a label is unknown, or there are
            numbers that are no probabilities.
        ConfigError: There is no class `positive_class`, or `bootstrap` or `bins` is too small.
    """
    from scipy import stats

    p, y, s, groups = _chosen(probabilities, labels, sensitive, index)
    _check_options(p.shape[1], positive_class, bootstrap, bins)
    counts = _count(groups, p.shape[1], s, y, p.argmax(1))
    gaps = sensitive is not None
    measures = _with_intervals(
        lambda counts: _measures(counts, positive_class, gaps=gaps), counts, bootstrap, seed
    )
    positive = y == positive_class
    auc, deviation = _roc_auc(p[:, positive_class], positive)
    reach = float(stats.norm.ppf(0.975)) * deviation if bootstrap else np.nan
    rates = _rates(counts, positive_class)
    error, errors, calibration = _calibration(p[:, positive_class], positive, s, groups, bins)
    rates["calibration_error"] = errors
    warnings = _undefined(rates, groups, auc)
    for warning in warnings:
        _log.warning("%s", warning)
    return {
        "nodes": len(y),
        **measures,
        "roc_auc": auc,
        "roc_auc_interval": np.array([auc - reach, auc + reach]).clip(0, 1).tolist(),
        "calibration_error": error,
        "groups": [
            {"group": group, "nodes": int(rates["nodes"][group])}
            | {name: float(of[group]) for name, of in rates.items() if name != "nodes"}
            for group in range(groups)
        ],
        "calibration": calibration,
        "confusion": counts.tolist(),
        "warnings": warnings,
    }


def agreement(a: Any, b: Any) -> float:
    """Share of nodes that two models decide alike, of their probabilities `(M, C)`.

    Raises:
        DataError: The shapes differ, or there is no node.
    """
    a, b = _array(a), _array(b)
    if a.shape != b.shape or a.ndim != 2 or not len(a):
        found = f"{a.shape} and {b.shape}"
        raise DataError(f"agreement: expected two tables (nodes, classes) alike, found {found}.")
    return float((a.argmax(1) == b.argmax(1)).mean())


def paired_gap_difference(
    a: Any,
    b: Any,
    labels: Any,
    sensitive: Any,
    index: Any,
    *,
    positive_class: int = 1,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """The absolute gap of one model less that of another on the same nodes, with an interval.

    Both models meet the same resampled nodes, so that what is common to them falls out. `a` and `b`
    are their probabilities, `(N, C)`; the other arguments are those of `evaluate_predictions`.

    Returns:
        `sp` and `eo`: the absolute gap of `a` less that of `b`, negative where `a` is fairer; and
        their 95 % intervals, `sp_interval` and `eo_interval`. NaN where a gap is not defined.

    Raises:
        DataError: As of `evaluate_predictions`, or there are no groups.
    """
    if sensitive is None:
        raise DataError("paired_gap_difference: expected the group of each node, found None.")
    p, y, s, groups = _chosen(a, labels, sensitive, index)
    q, *_ = _chosen(b, labels, sensitive, index)
    if p.shape != q.shape:
        raise DataError(
            f"paired_gap_difference: expected as many classes of both models, found {p.shape[1]} "
            f"and {q.shape[1]}."
        )
    _check_options(p.shape[1], positive_class, bootstrap, bins=1)
    decided = [table.argmax(1) == positive_class for table in (p, q)]
    counts = _count(groups, 2, s, y == positive_class, *decided)  # group, label, a, b
    return _with_intervals(_gap_differences, counts, bootstrap, seed)


def pareto_front(accuracies: Sequence[float], gaps: Sequence[float]) -> list[int]:
    """Places of the points that none other beats, in the order of their gaps.

    A point is beaten by one that is at least as accurate with a gap at least as small, and better
    in one of them. Of equal points all are on the front, or none; one that is not finite never is.
    """
    accuracy, gap = np.asarray(accuracies, np.float64), np.asarray(gaps, np.float64)
    no_worse = (accuracy[:, None] >= accuracy) & (gap[:, None] <= gap)
    better = (accuracy[:, None] > accuracy) | (gap[:, None] < gap)
    on_front = ~(no_worse & better).any(0) & np.isfinite(accuracy) & np.isfinite(gap)
    places = np.flatnonzero(on_front)
    return places[np.argsort(gap[places], kind="stable")].tolist()


def _array(values: Any) -> npt.NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _chosen(
    probabilities: Any, labels: Any, sensitive: Any, index: Any
) -> tuple[Numbers, Integers, Integers, int]:
    """Probabilities, labels and groups of the nodes in `index`, and the number of groups."""
    p, y, where = _array(probabilities), _array(labels), _array(index)
    s = np.zeros(len(y), np.int64) if sensitive is None else _array(sensitive)
    if p.ndim != 2 or y.shape != (len(p),) or s.shape != (len(p),):
        raise DataError(
            f"expected probabilities (N, C), labels (N,) and groups (N,), found {p.shape}, "
            f"{y.shape} and {s.shape}."
        )
    if where.ndim != 1 or not where.size:
        raise DataError(f"expected nodes to look at, shape (M,), found {where.shape}.")
    if where.dtype == np.bool_:
        raise DataError("index: expected numbers of nodes, found a mask; give mask.nonzero().")
    if where.min() < 0 or where.max() >= len(p):
        raise DataError(
            f"index: there are the nodes 0..{len(p) - 1}; found {where.min()}..{where.max()}."
        )
    # Of all nodes, so that a group with none in `index` is noticed.
    groups = 1 if sensitive is None else max(2, int(s.max()) + 1)
    p, y, s = p[where].astype(np.float64), y[where].astype(np.int64), s[where].astype(np.int64)
    if not (p.min() >= -1e-3 and p.max() <= 1 + 1e-3):  # NaN fails as well
        raise DataError(
            f"expected probabilities from 0 to 1, found {p.min():g} to {p.max():g}. Of logits, "
            f"take the softmax."
        )
    if y.min() < 0 or y.max() >= p.shape[1]:
        bad = int(np.flatnonzero((y < 0) | (y >= p.shape[1]))[0])
        raise DataError(
            f"node {where[bad]} has the label {y[bad]}; expected 0..{p.shape[1] - 1} of nodes that "
            f"are looked at."
        )
    if s.min() < 0:
        raise DataError(f"expected groups 0, 1, …, found {s.min()}.")
    return p, y, s, groups


def _check_options(classes: int, positive_class: int, bootstrap: int, bins: int) -> None:
    for name, value, fine, expected in (
        ("positive_class", positive_class, 0 <= positive_class < classes, f"0..{classes - 1}"),
        ("bootstrap", bootstrap, bootstrap >= 0, "0 or more"),
        ("bins", bins, bins >= 1, "at least 1"),
    ):
        if not fine:
            raise ConfigError(f"{name} {value}: must be {expected}.")


def _count(groups: int, values: int, s: Integers, *others: npt.NDArray[Any]) -> Integers:
    """Nodes by group and by each of `others`, whose entries are 0..values-1."""
    shape = (groups, *(values for _ in others))
    cell = np.ravel_multi_index((s, *(other.astype(np.int64) for other in others)), shape)
    return np.bincount(cell, minlength=int(np.prod(shape))).reshape(shape)


def _with_intervals(
    measure: Callable[[Integers], dict[str, Numbers]], counts: Integers, times: int, seed: int
) -> dict[str, Any]:
    """What is measured of counts, and over as many nodes drawn with replacement its middle 95 %.

    Resamples in which a measure is not defined are left out.
    """
    random = np.random.Generator(np.random.Philox(key=fold_keys(seed, "bootstrap")))
    cells, total = np.flatnonzero(counts), counts.sum()
    drawn = np.zeros((times, counts.size), np.int64)
    drawn[:, cells] = random.multinomial(total, counts.ravel()[cells] / total, size=times)
    resampled = measure(drawn.reshape(times, *counts.shape))
    result: dict[str, Any] = {}
    for name, value in measure(counts).items():
        defined = resampled[name][~np.isnan(resampled[name])]
        ends = np.quantile(defined, (0.025, 0.975)) if len(defined) else np.full(2, np.nan)
        result |= {name: float(value), f"{name}_interval": ends.tolist()}
    return result


def _share(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Numbers:
    """`part / whole`, NaN where there is nothing."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _rates(counts: Integers, positive: int) -> dict[str, npt.NDArray[Any]]:
    """Shares within each group, `(..., G)`, of counts `(..., G, C, C)`."""
    nodes = counts.sum((-2, -1))
    of_positive = counts[..., positive, :].sum(-1)
    return {
        "nodes": nodes,
        "accuracy": _share(np.trace(counts, axis1=-2, axis2=-1), nodes),
        "base_rate": _share(of_positive, nodes),
        "positive_rate": _share(counts[..., :, positive].sum(-1), nodes),
        "true_positive_rate": _share(counts[..., positive, positive], of_positive),
    }


def _gap(rates: Numbers) -> Numbers:
    """`(...)` of `(..., G)`: group 0 less group 1; of more groups, largest less smallest."""
    if rates.shape[-1] == 2:
        return rates[..., 0] - rates[..., 1]
    return rates.max(-1) - rates.min(-1)


def _measures(counts: Integers, positive: int, *, gaps: bool) -> dict[str, Numbers]:
    """What decisions alone decide, `(...)`, of counts `(..., G, C, C)`."""
    table = counts.sum(-3)
    positives = table[..., positive, :].sum(-1) + table[..., :, positive].sum(-1)
    measures = {
        "accuracy": _share(np.trace(table, axis1=-2, axis2=-1), table.sum((-2, -1))),
        "f1": _share(2 * table[..., positive, positive], positives),
    }
    if gaps:
        rates = _rates(counts, positive)
        for name, of in (("sp_gap", "positive_rate"), ("eo_gap", "true_positive_rate")):
            gap = _gap(rates[of])
            measures |= {name: gap, f"{name}_absolute": np.abs(gap)}
    return measures


def _gap_differences(counts: Integers) -> dict[str, Numbers]:
    """Absolute gap of a less that of b, `(...)`, of counts `(..., G, label, a, b)`, each 0 or 1."""
    by_a, by_b = (_rates(counts.sum(axis), 1) for axis in (-1, -2))
    return {
        name: np.abs(_gap(by_a[of])) - np.abs(_gap(by_b[of]))
        for name, of in (("sp", "positive_rate"), ("eo", "true_positive_rate"))
    }


def _roc_auc(score: Numbers, positive: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Area under the ROC curve and DeLong's standard deviation of it.

    From the placements: for each positive node the share of negative nodes below it, and for each
    negative node the share of positive nodes above it, equal scores counting half.
    """
    from scipy import stats

    if positive.all() or not positive.any():
        return np.nan, np.nan
    rank = stats.rankdata(score)
    inside, outside = score[positive], score[~positive]
    below = (rank[positive] - stats.rankdata(inside)) / len(outside)
    above = 1 - (rank[~positive] - stats.rankdata(outside)) / len(inside)
    variance = sum(
        float(placements.var(ddof=1)) / len(placements) if len(placements) > 1 else np.nan
        for placements in (below, above)
    )
    return float(below.mean()), float(np.sqrt(variance))


def _calibration(
    score: Numbers, positive: npt.NDArray[np.bool_], s: Integers, groups: int, bins: int
) -> tuple[float, Numbers, list[dict[str, Any]]]:
    """Expected calibration error, that of each group `(G,)`, and what they are made of."""
    place = np.clip((score * bins).astype(np.int64), 0, bins - 1)
    # Nodes, sum of probabilities and positive labels of each group and bin.
    nodes, expected, found = (
        np.bincount(s * bins + place, weights, groups * bins).reshape(groups, bins)
        for weights in (None, score, positive.astype(np.float64))
    )
    table = [
        {
            "group": group,
            "low": bin / bins,
            "high": (bin + 1) / bins,
            "nodes": int(nodes[group, bin]),
            "probability": float(expected[group, bin] / nodes[group, bin]),
            "frequency": float(found[group, bin] / nodes[group, bin]),
        }
        for group, bin in np.argwhere(nodes > 0).tolist()
    ]
    return (
        float(np.abs(expected.sum(0) - found.sum(0)).sum() / len(score)),
        _share(np.abs(expected - found).sum(1), nodes.sum(1)),
        table,
    )


def _undefined(rates: dict[str, npt.NDArray[Any]], groups: int, auc: float) -> list[str]:
    """Sentences about what could not be measured."""
    told = "roc_auc is not defined: all labels are positive, or none is. Measure on more nodes."
    warnings = [told] if np.isnan(auc) else []
    for group in range(groups if groups > 1 else 0):
        if not rates["nodes"][group]:
            warnings.append(f"sp_gap and eo_gap are not defined: group {group} has no node here.")
        elif not rates["base_rate"][group]:
            warnings.append(
                f"eo_gap is not defined: no node of group {group} has a positive label here."
            )
    return warnings
