"""Features that give away what they should not: the label, or the group."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from modicum.methods.reliant.graphs.graph import Graph

CORRELATION = 0.95
AUC = 0.99
_SAME = 0.999
"""Correlation above which a feature is the sensitive attribute itself under another name."""

_COLUMNS = 256
"""Features looked at together, which bounds the memory."""

Measure = Literal["correlation", "presence", "auc", "sensitive"]
Numbers = npt.NDArray[np.float64]


class Leak(NamedTuple):
    """A feature to look at before results are believed."""

    column: str
    measure: Measure
    """correlation, presence (whether the feature is 0) or auc: it alone predicts the label so
    well. sensitive: it is the sensitive attribute."""
    value: float
    """The size of the correlation, or the area under the ROC curve."""

    def __str__(self) -> str:
        if self.measure == "sensitive":
            return f"{self.column}: the sensitive attribute is among the features."
        how = {"presence": "correlation of whether it is 0", "auc": "area under the ROC curve"}
        measure = how.get(self.measure, self.measure)
        return (
            f"{self.column}: it alone predicts the label ({measure} {self.value:.3f} on training "
            f"nodes). If it is known only after the label is, drop it."
        )


def leaks(graph: Graph) -> list[Leak]:
    """Features that predict the label alone, and the sensitive attribute among the features.

    On training nodes: a feature leaks if its correlation with one class against the others is
    above `CORRELATION` in size, or its area under the ROC curve above `AUC` in either direction.
    Looked at too is whether it is 0 (inferred): TIME of Recidivism, the months until the arrest
    that is to be predicted, shows in nothing else. Leaks are in the order of the features.
    """
    train = graph.train.cpu()
    labels = graph.labels.cpu()[train].numpy()
    # Of two classes one is enough.
    classes = range(len(graph.classes) == 2, len(graph.classes))
    positive = np.stack([labels == label for label in classes], 1)
    sensitive = None
    if graph.sensitive is not None and len(graph.groups) == 2:
        sensitive = (graph.sensitive.cpu()[train] == 1).numpy()[:, None]
    found: list[Leak] = []
    for begin in range(0, graph.features.shape[1], _COLUMNS):
        names = graph.feature_names[begin : begin + _COLUMNS]
        x = graph.features[:, begin : begin + _COLUMNS].cpu()[train].double().numpy()
        predicted: list[tuple[Measure, Numbers, float]] = [
            ("correlation", _correlation(x, positive), CORRELATION),
            ("presence", _correlation(x != 0, positive), CORRELATION),
            ("auc", _auc(x, positive), AUC),
        ]
        with_group = np.zeros(len(names)) if sensitive is None else _correlation(x, sensitive)
        for place, name in enumerate(names):
            found += [
                Leak(name, measure, float(values[place]))
                for measure, values, limit in predicted
                if values[place] > limit
            ]
            named = name == graph.sensitive_name or name.startswith(f"{graph.sensitive_name}=")
            if named or with_group[place] > _SAME:
                found.append(Leak(name, "sensitive", float(with_group[place])))
    return found


def _correlation(x: npt.NDArray[Any], positive: npt.NDArray[np.bool_]) -> Numbers:
    """`(F,)`: the largest size of the correlation of each column of `x` with one of `positive`."""
    y = positive - positive.mean(0)
    x = x - x.mean(0)
    scale = np.sqrt(np.square(x).sum(0)[:, None] * np.square(y).sum(0))
    with np.errstate(invalid="ignore"):  # constant columns
        return np.nan_to_num(np.abs(x.T @ y) / scale).max(1).clip(max=1)


def _auc(x: Numbers, positive: npt.NDArray[np.bool_]) -> Numbers:
    """`(F,)`: the largest area under the ROC curve, in either direction; 0 where it is below `AUC`.

    Ranks cost a sort. Columns that are 0 for many nodes of either class, as counts of words are,
    cannot have a large area, because ties count half.
    """
    from scipy.stats import rankdata

    zero = (x == 0).astype(np.float64)
    inside = positive.sum(0)
    outside = len(positive) - inside
    ties = (zero.T @ positive / inside) * (zero.T @ ~positive / outside)
    possible = np.flatnonzero((1 - ties / 2).max(1) > AUC)
    areas = np.zeros(x.shape[1])
    if len(possible):
        ranks = rankdata(x[:, possible], axis=0)
        wins = ranks.T @ positive - inside * (inside + 1) / 2
        area = wins / (inside * outside)
        areas[possible] = np.maximum(area, 1 - area).max(1)
    return areas
