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
    points: Mapping[str, Sequence[tuple[float, float]]], *, gap: Gap = "sp"
) -> bytes:
    """Accuracy against absolute gap: a point a seed, a cross for mean and 95 % interval.

    The interval is Student's over the seeds; one seed has none. `points` are `(gap, accuracy)` of
    every seed in percent, for each network. An arrow leads from the mean of the plain student to
    that of RELIANT, if both are there.
    """
    figure, ((axes,),) = _figure(5.4, 3.8)
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
    if {"plain student", "RELIANT"} <= set(means):
        axes.annotate(
            "", tuple(means["RELIANT"]), tuple(means["plain student"]), zorder=5,
            arrowprops={
                "arrowstyle": "-|>", "color": _INK, "mutation_scale": 14, "shrinkA": 7, "shrinkB": 7
            },
        )  # fmt: skip
    return _accuracy_against(gap, axes, figure)


def score_distributions(
    scores: Mapping[str, Array],
    groups: Array,
    names: Sequence[str],
    threshold: float | None = 0.5,
) -> bytes:
    """How the probability of a positive decision is distributed in each group, network by network.

    `scores` are the probabilities `(M,)` of each network, `groups` `(M,)` the group of each node.
    Decisions turn at `threshold`, drawn as a line; with more than two classes nowhere (None).
    """
    figure, (grid,) = _figure(2.9 * len(scores) + 0.6, 3.1, 1, len(scores), sharey=True)
    edges = np.linspace(0, 1, 21)
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
    grid[-1].legend(fontsize=8, frameon=False)
    return png(figure)


def group_confusions(
    decisions: Mapping[str, Array],
    labels: Array,
    groups: Array,
    group_names: Sequence[str],
    class_names: Sequence[str],
) -> bytes:
    """Confusion matrices: a row of pictures a network, a column a group.

    A cell says which share of a label's nodes is decided so, and how many nodes that is. Decisions
    (of each network) and labels are classes, `(M,)`; groups are those of the nodes, `(M,)`.
    """
    classes, rows, columns = len(class_names), len(decisions), len(group_names)
    side = max(1.9, 0.62 * classes) + 0.35
    width, height = side * columns + 1.4, side * rows + 0.5
    figure, grid = _figure(width, height, rows, columns, sharex=True, sharey=True)
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
    """`score_distributions` and `group_confusions` of the probabilities `(M, C)` of networks."""
    scores = {name: p[:, positive] for name, p in probabilities.items()}
    decisions = {name: p.argmax(1) for name, p in probabilities.items()}
    threshold = 0.5 if len(class_names) == 2 else None
    return (
        score_distributions(scores, groups, group_names, threshold),
        group_confusions(decisions, labels, groups, group_names, class_names),
    )


def pareto_plot(points: Sequence[tuple[float, float, float]], *, objective: Gap = "sp") -> bytes:
    """Accuracy against gap for each weight of the fairness term, the front of the means marked.

    Small points are seeds, large ones their means; a filled mean is on the front, which none other
    beats in both. `points` are `(alpha, accuracy, gap)` of every run, the latter two in percent.
    """
    figure, ((axes,),) = _figure(5.4, 3.8)
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
    return _accuracy_against(objective, axes, figure)


def graph_overview(
    names: Sequence[str], sizes: Array, base_rates: Array, degrees: Array, *, positive: str
) -> bytes:
    """Sizes `(G,)` of the groups, their base rates `(G,)`, which are fractions of the label called
    `positive`, and how many neighbours nodes have: `degrees`, `(N,)`.
    """
    figure, ((size_axes, rate_axes, degree_axes),) = _figure(9.6, 2.9, 1, 3)
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


def _figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **shared: Any
) -> tuple[Figure, Array]:
    """A figure of so many inches, and its axes `(rows, columns)`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def _accuracy_against(gap: Gap, axes: Axes, figure: Figure) -> bytes:
    _bare(axes)
    axes.set(xlabel=GAPS[gap], ylabel="accuracy, percent")
    axes.set_xlim(left=min(0, axes.get_xlim()[0]))
    axes.legend(fontsize=8, frameon=False)
    return png(figure)


def _bare(axes: Axes) -> None:
    """Thin lines behind, no box around."""
    axes.grid(color="#dcdfe3", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.title.set_fontsize(10)


def _interval_reach(values: Array) -> Array:
    """Half the 95 % interval of the mean of each column; 0 of a single row."""
    from scipy import stats

    seeds = len(values)
    if seeds < 2:
        return np.zeros(values.shape[1])
    return stats.t.ppf(0.975, seeds - 1) * values.std(0, ddof=1) / np.sqrt(seeds)


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # which would start a formula
