"""Pictures of grooves: step grids, one or several, and how alike their bars are.

Rows are ordered as on a staff, cymbals above and kick below. Pictures are the bytes of PNG files;
figures are made without pyplot, see `modicum.report.pictures`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modicum.methods.drum_transfer.text.drumroll import to_hits
from modicum.methods.drum_transfer.text.kit import SOFT, writing_tables
from modicum.methods.drum_transfer.text.notation import DRUMROLL, INSTRUMENTS, Groove, Notation
from modicum.methods.drum_transfer.text.tablature import ROWS
from modicum.report.pictures import png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ORDER = tuple(ROWS.values())
"""The instruments from top to bottom."""
HIT, _SOFT, FILL = "#0b5fb0", "#86b4df", "#b9480e"
_COLOURS = ("#17703f", "#0b5fb0", "#7b3bb0", "#6a717b", "#b9480e", "#0d7280")
_INK, MUTED, _RULE, _GIVEN, _PAPER = "#1d2024", "#5b626b", "#dcdfe3", "#e6e9ee", "#fafaf8"
_HEAD, _GAP = 1.4, 0.9
"""Space above the rows of a line, for the numbers of its bars, and below, in rows."""
_SQUARE = np.array([[0.12, 0.1], [0.88, 0.1], [0.88, 0.9], [0.12, 0.9]])
_DIAMOND = np.array([[0.5, 0.08], [0.95, 0.5], [0.5, 0.92], [0.05, 0.5]])
MOST_BARS = 512
"""Bars that are drawn of a groove; a picture of more would be too large to be opened."""
_ROW_INCHES, _STEP_INCHES = 0.15, 0.135
_NAMES_INCHES = 0.6


def draw_step_grid(
    axes: Axes,
    text: str,
    notation: Notation = DRUMROLL,
    *,
    given_bars: int = 0,
    fills: Collection[int] = (),
    bars_per_line: int = 4,
) -> None:
    """Draw a groove into `axes`: a row an instrument, a column a step, lines of bars as in a score.

    Of a long one the first `MOST_BARS` are drawn. Hits are squares, those written `x` in a notation
    that knows it diamonds; soft ones are pale.

    Args:
        axes: Takes the drawing whole, in units of steps and rows.
        text: Lines in `notation`, without separators.
        notation: How the text is written.
        given_bars: So many bars from the first were given to the model; they are shaded.
        fills: Bars to mark as fills, counted from 0.
        bars_per_line: Bars side by side.

    Raises:
        DataError: The text is no text in `notation`.
    """
    from matplotlib.collections import PolyCollection

    bar = notation.steps_per_bar
    hits = to_hits(text, notation)[: MOST_BARS * bar]
    steps = len(hits)
    across = bars_per_line * bar
    height = len(ORDER) + _HEAD + _GAP

    # Every bar's place: left edge, first row, and how many steps it has.
    first = np.arange(0, steps, bar)
    left, top = first % across, first // across * height + _HEAD
    width = np.minimum(bar, steps - first)
    for number, (x, y, wide) in enumerate(zip(left, top, width, strict=True)):
        given, fill = number < given_bars, number in fills
        face = _GIVEN if given else _PAPER
        axes.fill_between([x, x + wide], y, y + len(ORDER), color=face, linewidth=0, zorder=0)
        word = " given" if given else " fill" if fill else ""
        colour = FILL if fill else MUTED
        axes.text(x + 0.15, y - 0.25, f"{number + 1}{word}", fontsize=7, color=colour, va="bottom")
        if fill:
            axes.plot([x, x + wide], [y - 0.1] * 2, color=FILL, linewidth=2, solid_capstyle="butt")

    beats = np.arange(0, steps, notation.steps_per_beat)
    at_beats = beats % across, beats // across * height + _HEAD
    lines_at = (at_beats, _RULE, 0.6), ((left, top), MUTED, 0.8), ((left + width, top), MUTED, 0.8)
    for (x, above), colour, wide in lines_at:
        ends = above, above + len(ORDER)
        axes.vlines(x, *ends, colors=colour, linewidths=wide, zorder=2)

    step, column = np.nonzero(hits)
    row = np.argsort(ORDER)[column]
    corner = np.stack([step % across, step // across * height + _HEAD + row], 1)
    code = hits[step, column]
    soft = writing_tables(notation).velocity[column, code] == SOFT
    widest = max(map(len, notation.columns))
    letters = np.array([list(characters.ljust(widest)) for characters in notation.columns])
    crossed = np.isin(letters[column, code], ["x", "X"])
    shapes = np.where(crossed[:, None, None], _DIAMOND, _SQUARE) + corner[:, None, :]
    colours = np.where(soft, _SOFT, HIT).tolist()
    axes.add_collection(PolyCollection(list(shapes), facecolors=colours, linewidths=0, zorder=3))

    lines = max(1, -(-steps // across))
    for line in range(lines):
        for place, instrument in enumerate(ORDER):
            axes.text(
                -0.6, line * height + _HEAD + place + 0.5, INSTRUMENTS[instrument],
                fontsize=7, color=_INK, ha="right", va="center",
            )  # fmt: skip
    axes.set(xlim=(-0.1, min(across, max(steps, bar)) + 0.1), ylim=(lines * height, 0))
    axes.set_axis_off()


def step_grid(
    groove: Groove, *, given_bars: int = 0, fills: Collection[int] = (), title: str | None = None
) -> bytes:
    """A groove as a step grid, four bars a line, which fits a page; see `comparison_sheet`.

    Its title is name, tempo and meter, unless another is given.
    """
    if title is None:
        title = f"{groove.name}, {groove.tempo:g} bpm, {groove.meter[0]}/{groove.meter[1]}"
    return comparison_sheet(
        {title: groove}, given_bars=given_bars, fills={title: fills}, bars_per_line=4
    )


def comparison_sheet(
    grooves: Mapping[str, Groove],
    *,
    given_bars: int = 0,
    fills: Mapping[str, Collection[int]] | None = None,
    bars_per_line: int = 16,
) -> bytes:
    """Grooves one above another, so that their bars can be compared.

    Args:
        grooves: By title, such as `human`, `model`, `repeat`; at least one.
        given_bars: Bars from the first that all of them were given, or are.
        fills: Of each groove the bars to mark, counted from 0; those that are not named have none.
        bars_per_line: Bars side by side. With the default, grooves of 16 bars stand bar below bar.

    Raises:
        ValueError: There are no grooves.
        DataError: A text is no text in its groove's notation.
    """
    from matplotlib.figure import Figure

    if not grooves:
        raise ValueError("comparison_sheet needs at least one groove, got none")
    across, heights = 0, list[float]()
    for name, groove in grooves.items():
        size = groove.notation.steps_per_bar
        bars = max(1, -(-len(to_hits(groove.text, groove.notation, source=name)) // size))
        bars = min(bars, MOST_BARS)
        across = max(across, min(bars, bars_per_line) * size)
        lines = -(-bars // bars_per_line)
        heights.append(_ROW_INCHES * (len(ORDER) + _HEAD + _GAP) * lines + 0.2)
    # Wide sheets have narrower steps: at most 14 inches, which a screen shows without scrolling.
    width, whole = min(_STEP_INCHES * across, 14.0) + _NAMES_INCHES, sum(heights)
    figure, bottom = Figure(figsize=(width, whole)), whole
    for (name, groove), height in zip(grooves.items(), heights, strict=True):
        bottom -= height
        left = _NAMES_INCHES / width
        axes = figure.add_axes((left, bottom / whole, 1 - left, (height - 0.2) / whole))
        shown: Any = {"given_bars": given_bars, "fills": (fills or {}).get(name, ())}
        draw_step_grid(axes, groove.text, groove.notation, **shown, bars_per_line=bars_per_line)
        axes.set_xlim(-0.1, across + 0.1)
        axes.set_title(_plain(name), fontsize=9, color=_INK, loc="left", pad=2)
    return png(figure)


def similarity_matrix(similarity: npt.ArrayLike, title: str) -> bytes:
    """How alike the bars of a groove are, each against each: `(bars, bars)`, 1 is the same."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    values = np.asarray(similarity, np.float64)
    figure = Figure(figsize=(3.9, 3.3), layout="constrained")
    axes = figure.subplots()
    edge = len(values) + 0.5
    picture = axes.imshow(
        values, cmap="Blues", vmin=0, vmax=1, extent=(0.5, edge, edge, 0.5), interpolation="nearest"
    )
    axes.set(xlabel="bar", ylabel="bar")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_title(_plain(title), fontsize=10)
    figure.colorbar(picture, label="similarity").outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return png(figure)


def structure_plane(points: Mapping[str, Sequence[tuple[float, float]]]) -> bytes:
    """Where sets of grooves stand between repetition, at 0, and noise: points of each set,
    `(stability, separation)`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 3.4), layout="constrained")
    axes = figure.subplots()
    for place, (name, of_set) in enumerate(points.items()):
        colour, marker = _COLOURS[place % len(_COLOURS)], "osD^vP"[place % 6]
        x, y = np.asarray(of_set, np.float64).reshape(-1, 2).T
        axes.plot(x, y, marker, color=colour, label=name, markersize=6, alpha=0.75, mew=0)
    axes.set(xlabel="stability, characters", ylabel="separation, characters")
    axes.set_xlim(left=-1)
    axes.set_ylim(bottom=-1)
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def _plain(text: str) -> str:
    # Dollar signs would start a formula.
    return text.replace("$", r"\$")
