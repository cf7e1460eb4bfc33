"""Pictures of groups, scores and gaps, as the bytes of PNG files.

Colours are those of the reports (report/templates/style.css), told apart also by markers and
dashes. Figures are made without pyplot, see `modicum.report.pictures`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from modicum.methods.reliant.metrics import pareto_front
from modicum.report.pictures import png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0b5fb0", "#b9480e", "#17703f", "#7b3bb0", "#6a717b", "#0d7280")
MARKERS = "osD^vP"
DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 3)))
_INK, _MUTED = "#1d2024", "#5b626b"

GAPS = {
    "sp": "statistical parity gap, percentage points",
    "eo": "equal opportunity gap, percentage points",
}
Gap = Literal["sp", "eo"]
Array = npt.NDArray[Any]


def gap_accuracy_plane(
    points: Mapping[str, Sequence[tuple[float, float]]],
    *,
    gap: Gap = "sp",
    arrow: tuple[str, str] | None = ("plain student", "RELIANT"),
) -> bytes:
    """Accuracy against absolute gap: a point a seed, a cross for mean and 95 % interval.

    The interval is Student's over the seeds; one seed has none.

    Args:
        points: For each network `(gap, accuracy)` of every seed, in percent.
        gap: What the gap is of.
        arrow: From whose mean to whose an arrow is drawn, if both are there; None for none.
    """
    figure, axes = _figure(5.4, 3.8)
    means: dict[str, Array] = {}
    for place, (name, of_seeds) in enumerate(points.items()):
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        values = np.asarray(of_seeds, np.float64).reshape(-1, 2)
        means[name] = values.mean(0)
        axes.plot(*values.T, marker, color=colour, markersize=4.5, alpha=0.55, mew=0)
        reach = _interval_reach(values)
        axes.errorbar(
            *means[name], xerr=reach[0], yerr=reach[1], color=colour, capsize=3, elinewidth=1.5
        )
        axes.plot(*means[name], marker, color=colour, markersize=7, label=_plain(name), zorder=4)
    if arrow is not None and all(name in means for name in arrow):
        axes.annotate(
            "", tuple(means[arrow[1]]), tuple(means[arrow[0]]), zorder=5,
            arrowprops={
                "arrowstyle": "-|>", "color": _INK, "mutation_scale": 14, "shrinkA": 7, "shrinkB": 7
            },
        )  # fmt: skip
    axes.set(xlabel=GAPS[gap], ylabel="accuracy, percent")
    axes.set_xlim(left=min(0, axes.get_xlim()[0]))
    _legend(axes)
    return png(figure)


def score_distributions(
    scores: Mapping[str, Array],
    groups: Array,
    names: Sequence[str],
    *,
    threshold: float | None = 0.5,
    bins: int = 20,
) -> bytes:
    """How the probability of a positive decision is distributed in each group, network by network.

    Args:
        scores: For each network `(M,)`, probabilities.
        groups: `(M,)`, group of each node.
        names: Names of the groups.
        threshold: Where decisions turn, drawn as a line; with more than two classes there is no
            such place.
        bins: Equal parts of 0 to 1.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.9 * len(scores) + 0.6, 3.1), layout="constrained")
    grid = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    edges = np.linspace(0, 1, bins + 1)
    for axes, (network, score) in zip(grid, scores.items(), strict=True):
        for group, name in enumerate(names):
            inside = score[groups == group]
            share = 100 * np.histogram(inside, edges)[0] / max(1, len(inside))
            style: dict[str, Any] = {"color": COLOURS[group % len(COLOURS)]}
            axes.stairs(share, edges, fill=True, alpha=0.15, **style)
            axes.stairs(
                share, edges, linestyle=DASHES[group % len(DASHES)], linewidth=1.5,
                label=_plain(name), **style,
            )  # fmt: skip
        if threshold is not None:
            axes.axvline(threshold, color=_MUTED, linewidth=1, linestyle=(0, (2, 2)))
        axes.set(title=_plain(network), xlabel="probability of a positive decision", xlim=(0, 1))
        _bare(axes)
    grid[0].set_ylabel("share of the group, percent")
    _legend(grid[-1])
    return png(figure)


def group_confusions(
    decisions: Mapping[str, Array],
    labels: Array,
    groups: Array,
    group_names: Sequence[str],
    class_names: Sequence[str],
) -> bytes:
    """Confusion matrices: a row of pictures a network, a column a group.

    A cell says which share of a label's nodes is decided so, and how many nodes that is.

    Args:
        decisions: For each network `(M,)`, classes.
        labels: `(M,)`, classes.
        groups: `(M,)`, group of each node.
        group_names: Names of the groups.
        class_names: Names of the C classes.
    """
    from matplotlib.figure import Figure

    classes, rows, columns = len(class_names), len(decisions), len(group_names)
    side = max(1.9, 0.62 * classes)
    figure = Figure(
        figsize=((side + 0.35) * columns + 1.4, (side + 0.35) * rows + 0.5), layout="constrained"
    )
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    ticks = [_plain(textwrap.fill(name, 14)) for name in class_names]
    for network_axes, (network, decided) in zip(grid, decisions.items(), strict=True):
        for group, axes in enumerate(network_axes):
            inside = groups == group
            cell = labels[inside] * classes + decided[inside]
            counts = np.bincount(cell, minlength=classes**2).reshape(classes, classes)
            share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
            # White to mid blue alone, so that dark text is readable on all of it.
            axes.imshow(share, cmap="Blues", vmin=0, vmax=1.7)
            for label, choice in np.ndindex(classes, classes):
                text = f"{100 * share[label, choice]:.1f} %\n{counts[label, choice]:,}"
                axes.text(choice, label, text, ha="center", va="center", color=_INK, fontsize=8)
            axes.set_title(f"{_plain(network)}, {_plain(group_names[group])}", fontsize=9)
            axes.set_xticks(range(classes), ticks, fontsize=8)
            axes.set_yticks(range(classes), ticks, fontsize=8, rotation=90, va="center")
            axes.tick_params(length=0)
            for spine in axes.spines.values():
                spine.set_visible(False)
        network_axes[0].set_ylabel("label", color=_MUTED, fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("decision", color=_MUTED, fontsize=9)
    return png(figure)


def of_networks(
    probabilities: Mapping[str, Array],
    labels: Array,
    groups: Array,
    group_names: Sequence[str],
    class_names: Sequence[str],
    positive: int = 1,
) -> tuple[bytes, bytes]:
    """`score_distributions` and `group_confusions` of networks.

    Args:
        probabilities: For each network `(M, C)`.
        labels: `(M,)`, classes.
        groups: `(M,)`, group of each node.
        group_names: Names of the groups.
        class_names: Names of the C classes.
        positive: The class of a positive decision.
    """
    scores = {name: p[:, positive] for name, p in probabilities.items()}
    decisions = {name: p.argmax(1) for name, p in probabilities.items()}
    threshold = 0.5 if len(class_names) == 2 else None
    return (
        score_distributions(scores, groups, group_names, threshold=threshold),
        group_confusions(decisions, labels, groups, group_names, class_names),
    )


def pareto_plot(points: Sequence[tuple[float, float, float]], *, objective: Gap = "sp") -> bytes:
    """Accuracy against gap for each weight of the fairness term, the front of the means marked.

    Small points are seeds, large ones their means; a filled mean is on the front, which none other
    beats in both.

    Args:
        points: `(alpha, accuracy, gap)` of every run, accuracy and absolute gap in percent.
        objective: What the gap is of.
    """
    figure, axes = _figure(5.4, 3.8)
    rows = np.asarray(points, np.float64).reshape(-1, 3)
    alphas = np.unique(rows[:, 0])
    means = np.stack([rows[rows[:, 0] == alpha].mean(0) for alpha in alphas])
    front = pareto_front(means[:, 1].tolist(), means[:, 2].tolist())
    axes.plot(
        means[front, 2], means[front, 1], "-", color=COLOURS[0], linewidth=6, alpha=0.2,
        solid_capstyle="round", label="front",
    )  # fmt: skip
    for place, (alpha, accuracy, gap) in enumerate(means):
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        seeds = rows[rows[:, 0] == alpha]
        axes.plot(seeds[:, 2], seeds[:, 1], marker, color=colour, markersize=4, alpha=0.45, mew=0)
        axes.plot(
            gap, accuracy, marker, color=colour, markersize=8, mew=1.5, zorder=4,
            mfc=colour if place in front else "white", label=rf"$\alpha$ = {alpha:g}",
        )  # fmt: skip
    axes.set(xlabel=GAPS[objective], ylabel="accuracy, percent")
    axes.set_xlim(left=min(0, axes.get_xlim()[0]))
    _legend(axes)
    return png(figure)


def graph_overview(
    names: Sequence[str], sizes: Array, base_rates: Array, degrees: Array, *, positive: str
) -> bytes:
    """Sizes of the groups, their base rates, and how many neighbours nodes have.

    Args:
        names: Names of the G groups.
        sizes: `(G,)`, nodes of each.
        base_rates: `(G,)`, fractions.
        degrees: `(N,)`, neighbours of each node.
        positive: What the positive label is called.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 2.9), layout="constrained")
    size_axes, rate_axes, degree_axes = figure.subplots(1, 3)
    rows = np.arange(len(names))
    colours = [COLOURS[group % len(COLOURS)] for group in rows]
    for axes, values, texts in (
        (size_axes, sizes, [f"{size:,}" for size in sizes]),
        (rate_axes, 100 * base_rates, [f"{100 * rate:.1f}" for rate in base_rates]),
    ):
        bars = axes.barh(rows, values, color=colours, height=0.6)
        axes.bar_label(bars, texts, padding=3, fontsize=9)
        axes.set_yticks(rows, list(map(_plain, names)))
        axes.invert_yaxis()
        axes.margins(x=0.2)
    size_axes.set(xlabel="nodes", title="Groups")
    rate_axes.set(xlabel=f"labels {_plain(positive)!r}, percent", title="Base rates")
    rate_axes.set_yticklabels([])
    # Each bar is twice as wide as the one before; 0 is on its own.
    starts = np.concatenate([[0], 2 ** np.arange(int(degrees.max()).bit_length() + 1)])
    counts = np.histogram(degrees, starts)[0]
    degree_axes.bar(np.arange(len(counts)), counts, color=COLOURS[4], width=1, align="edge")
    degree_axes.set_xticks(np.arange(len(starts)), [f"{start}" for start in starts], fontsize=8)
    degree_axes.tick_params("x", rotation=45)
    degree_axes.set(xlabel="neighbours", ylabel="nodes", title="Degrees", yscale="log")
    for axes in (size_axes, rate_axes, degree_axes):
        _bare(axes)
    return png(figure)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    _bare(axes)
    return figure, axes


def _bare(axes: Axes) -> None:
    """Thin lines behind, no box around."""
    axes.grid(color="#dcdfe3", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.title.set_fontsize(10)


def _legend(axes: Axes) -> None:
    axes.legend(fontsize=8, frameon=False)


def _interval_reach(values: Array) -> Array:
    """Half the 95 % interval of the mean of each column; 0 of a single row."""
    from scipy import stats

    seeds = len(values)
    if seeds < 2:
        return np.zeros(values.shape[1])
    return stats.t.ppf(0.975, seeds - 1) * values.std(0, ddof=1) / np.sqrt(seeds)


def _plain(text: str) -> str:
    # Dollar signs would start a formula.
    return text.replace("$", r"\$")
