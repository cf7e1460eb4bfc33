"""Plots as inline SVG.

They take their colours from the style sheet of the page, so that they follow light and dark, and
are drawn 360 units wide, so that their text stays readable on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup

from modicum.claims import Verdict
from modicum.report.text import MINUS, number

Curve = Sequence[tuple[float, float]]
"""Points as (x, y), x increasing."""

WIDTH = 360
_HEIGHT = 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 350, 12, 180
_ROW = 20
STRETCHES = 80
"""Into how many stretches a long curve is summarised."""
_STYLES = 6
"""How many `arm-0`, `arm-1`, … the style sheet knows."""


def arm_class(index: int) -> str:
    """The CSS class that gives the `index`-th arm its colour and dashes."""
    return f"arm-{index % _STYLES}"


@dataclass(frozen=True)
class _Axis:
    """A linear map from values to SVG units, and the values to mark on it."""

    low: float
    high: float
    start: float
    end: float
    ticks: Sequence[float]

    def __call__(self, value: float) -> float:
        part = (value - self.low) / (self.high - self.low)
        return round(self.start + part * (self.end - self.start), 1)


def _axis(values: Sequence[float], start: float, end: float, *, widen: bool) -> _Axis:
    """An axis over the finite `values`; with `widen` it ends on round numbers."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if low == high:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    from matplotlib.ticker import MaxNLocator

    ticks = [float(t) for t in MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]
    if widen:
        low, high = ticks[0], ticks[-1]
    slack = (high - low) * 1e-9  # ticks are exact to rounding errors only, zero too
    ticks = [0.0 if abs(t) < slack else t for t in ticks if low - slack <= t <= high + slack]
    return _Axis(low, high, start, end, ticks)


def _tick_texts(ticks: Sequence[float]) -> list[str]:
    largest = max(map(abs, ticks), default=0.0)
    if largest >= 1e4 and largest < 1e7 and all(tick % 100 == 0 for tick in ticks):
        return [f"{tick / 1000:g}k".replace("-", MINUS) if tick else "0" for tick in ticks]
    if largest >= 1e5 or 0 < largest < 1e-2:
        return [_power_of_ten(tick) for tick in ticks]
    places = max((len(f"{tick:.6g}".partition(".")[2]) for tick in ticks), default=0)
    return [number(tick, places) for tick in ticks]


def _power_of_ten(value: float) -> str:
    mantissa, _, exponent = f"{value:.3e}".partition("e")
    if float(mantissa) == 0:
        return "0"
    return f"{float(mantissa):g}e{int(exponent)}".replace("-", MINUS)


def _svg(height: float, label: str) -> ElementTree.Element:
    size = f"0 0 {WIDTH} {height:g}"
    attributes = {"viewBox": size, "role": "img", "aria-label": label, "class": "plot"}
    return ElementTree.Element("svg", attributes)


def _draw(
    parent: ElementTree.Element, tag: str, style: str, text: str = "", **attributes: float | str
) -> None:
    values = {name.replace("_", "-"): f"{value}" for name, value in attributes.items()}
    ElementTree.SubElement(parent, tag, {"class": style, **values}).text = text or None


def _markup(root: ElementTree.Element) -> Markup:
    # ElementTree has escaped every text and attribute.
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _draw_y_axis(root: ElementTree.Element, y: _Axis) -> None:
    for tick, text in zip(y.ticks, _tick_texts(y.ticks), strict=True):
        _draw(root, "line", "grid", x1=_LEFT, x2=_RIGHT, y1=y(tick), y2=y(tick))
        _draw(root, "text", "tick end", text, x=_LEFT - 6, y=y(tick) + 4)


def _draw_x_axis(root: ElementTree.Element, x: _Axis, bottom: float, label: str) -> None:
    _draw(root, "line", "axis", x1=x.start, x2=x.end, y1=bottom, y2=bottom)
    for tick, text in zip(x.ticks, _tick_texts(x.ticks), strict=True):
        _draw(root, "line", "axis", x1=x(tick), x2=x(tick), y1=bottom, y2=bottom + 4)
        # A label under either end would stand out of the picture if it were centred.
        side = " end" if x(tick) > WIDTH - 20 else " middle"
        _draw(root, "text", f"tick{side}", text, x=min(x(tick), WIDTH - 2), y=bottom + 17)
    _draw(root, "text", "label middle", label, x=(x.start + x.end) / 2, y=bottom + 34)


def _summarise(points: Curve) -> tuple[Curve, Curve, Curve]:
    """Mean, minimum and maximum of each stretch of a long curve; a short one, and nothing.

    A stretch with a value that is not finite has a mean that is not finite.
    """
    if len(points) <= 2 * STRETCHES:
        return points, [], []
    parts = np.array_split(np.asarray(points, dtype=np.float64), STRETCHES)
    centres = [float(part[:, 0].mean()) for part in parts]
    with np.errstate(invalid="ignore"):  # infinities of both signs have no mean
        columns = [[float(f(part[:, 1])) for part in parts] for f in (np.mean, np.min, np.max)]
    means, lows, highs = (list(zip(centres, column, strict=True)) for column in columns)
    return means, lows, highs


def _pieces(points: Curve) -> list[list[tuple[float, float]]]:
    """The runs of finite points: a line has a gap where a value is not a number."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y):
            pieces[-1].append((x, y))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def line_plot(
    curves: Mapping[str, Sequence[Curve]], *, label: str, x_label: str = "optimizer step"
) -> Markup:
    """Curves over a common axis, a colour for each group and a line for each curve in it.

    Args:
        curves: For each group, such as an arm, its curves, such as one a seed. The order of the
            groups decides their colours; a group may be empty.
        label: What the y axis shows; also the text for people who cannot see the plot.
        x_label: What the x axis shows.

    Returns:
        An `<svg>` element. Values that are not finite leave gaps. Of a curve of more than
        `2 * STRETCHES` points the mean of each stretch is drawn, and if it is the only curve, the
        range from the lowest to the highest value too.
    """
    everything = [point for group in curves.values() for curve in group for point in curve]
    x = _axis([x for x, _ in everything], _LEFT, _RIGHT, widen=False)
    y = _axis([y for _, y in everything], _BOTTOM, _TOP, widen=True)
    groups = ", ".join(name for name, group in curves.items() if group)
    root = _svg(_HEIGHT, f"{label} against {x_label}: {groups}")
    _draw_y_axis(root, y)
    _draw_x_axis(root, x, _BOTTOM, x_label)
    drawn = [
        (arm_class(index), *_summarise(curve))
        for index, group in enumerate(curves.values())
        for curve in group
    ]
    for style, means, lows, highs in drawn:
        if len(drawn) == 1:
            for low, high in zip(_pieces(lows), _pieces(highs), strict=True):
                _draw(root, "polygon", f"range {style}", points=_path([*low, *high[::-1]], x, y))
        for piece in _pieces(means):
            if len(piece) == 1:
                (a, b) = piece[0]
                _draw(root, "circle", f"dot {style}", cx=x(a), cy=y(b), r=2.5)
            else:
                _draw(root, "polyline", f"curve {style}", points=_path(piece, x, y))
    return _markup(root)


def _path(points: Curve, x: _Axis, y: _Axis) -> str:
    return " ".join(f"{x(a):g},{y(b):g}" for a, b in points)


def _spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move labels apart to at least `gap`, keeping their order, within `low` to `high`."""
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    placed = [0.0] * len(positions)
    edge = low - gap
    for index in order:
        edge = placed[index] = max(positions[index], edge + gap)
    edge = high + gap
    for index in reversed(order):
        edge = placed[index] = min(placed[index], edge - gap)
    return placed


def paired_plot(
    seeds: Sequence[int],
    baseline: Sequence[float],
    method: Sequence[float],
    *,
    names: tuple[str, str],
    classes: tuple[str, str] = ("arm-0", "arm-1"),
    label: str,
) -> Markup:
    """Two arms side by side, a line for each seed from the baseline to the method.

    Args:
        seeds: In the order of the values.
        baseline: The metric of the baseline, one value a seed.
        method: The same of the method.
        names: Of baseline and method.
        classes: Their CSS classes, see `arm_class`.
        label: What the metric is; also the text for people who cannot see the plot.

    Returns:
        An `<svg>` element. A seed with a value that is not finite has no line.
    """
    pairs = [
        (seed, before, after)
        for seed, before, after in zip(seeds, baseline, method, strict=True)
        if math.isfinite(before) and math.isfinite(after)
    ]
    y = _axis([value for _, *both in pairs for value in both], _BOTTOM, _TOP, widen=True)
    left, right = _LEFT + 50, _RIGHT - 80
    root = _svg(_HEIGHT, f"{label} of every seed, from {names[0]} to {names[1]}")
    _draw_y_axis(root, y)
    for _, before, after in pairs:
        _draw(root, "line", "pair", x1=left, x2=right, y1=y(before), y2=y(after))
    for _, before, after in pairs:
        _draw(root, "circle", f"dot {classes[0]}", cx=left, cy=y(before), r=4)
        _draw(root, "circle", f"dot {classes[1]}", cx=right, cy=y(after), r=4)
    # More labels than that have no room; the plot of the effects names every seed.
    named = pairs if len(pairs) <= 12 else []
    ends = [y(after) for _, _, after in named]
    for (seed, _, _), end, place in zip(named, ends, _spread(ends, 13, _TOP, 186), strict=True):
        _draw(root, "line", "leader", x1=right + 6, x2=right + 16, y1=end, y2=place)
        _draw(root, "text", "tick", f"seed {seed}", x=right + 20, y=place + 4)
    for position, name in ((left, names[0]), (right, names[1])):
        _draw(root, "text", "label middle", _ellipsis(name, 24), x=position, y=_BOTTOM + 24)
    return _markup(root)


def _ellipsis(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def effect_plot(verdict: Verdict, seeds: Sequence[int]) -> Markup:
    """The effect of every seed, their mean with its 95 % interval, and the threshold.

    An `<svg>` element, a row for each of `seeds`, in the order of `verdict.differences`, and one
    for the mean. An interval without ends reaches both sides of the plot; values that are not a
    number are written out.
    """
    claim = verdict.claim
    top, left, right = 24, 62, 346
    bottom = top + _ROW * (len(seeds) + 1) + 12
    bounds = [*verdict.differences, verdict.mean, verdict.low, verdict.high, claim.threshold, 0.0]
    finite = [value for value in bounds if math.isfinite(value)]
    room = 0.1 * (max(finite) - min(finite))  # so that both sides of the threshold are seen
    x = _axis([*finite, claim.threshold - room, claim.threshold + room], left, right, widen=True)
    label = f"Effect on {claim.metric} of every seed, with mean, 95 % interval and threshold"
    root = _svg(bottom + 42, label)
    threshold = x(claim.threshold)
    _draw(root, "rect", "beyond", x=threshold, y=top, width=right - threshold, height=bottom - top)
    for tick in x.ticks:
        _draw(root, "line", "grid", x1=x(tick), x2=x(tick), y1=top, y2=bottom)
    _draw(root, "line", "threshold", x1=threshold, x2=threshold, y1=top - 4, y2=bottom)
    text = f"threshold {claim.threshold:g}".replace("-", MINUS)
    _draw(root, "text", "label middle", text, x=min(threshold, right - 36), y=top - 9)
    _draw_x_axis(root, x, bottom, f"effect in {_ellipsis(claim.unit, 24)}, larger is better")
    for row, (seed, effect) in enumerate(zip(seeds, verdict.differences, strict=True)):
        middle = top + _ROW * (row + 0.5) + 2
        _draw(root, "text", "tick end", f"seed {seed}", x=left - 8, y=middle + 4)
        if math.isfinite(effect):
            _draw(root, "circle", "seed", cx=x(effect), cy=middle, r=3.5)
        else:
            _draw(root, "text", "tick", number(effect, 0), x=left + 6, y=middle + 4)
    middle = top + _ROW * (len(seeds) + 0.5) + 6
    _draw(root, "text", "tick end strong", "mean", x=left - 8, y=middle + 4)
    if not math.isfinite(verdict.mean):
        _draw(root, "text", "tick", number(verdict.mean, 0), x=left + 6, y=middle + 4)
        return _markup(root)
    if math.isfinite(verdict.low) and math.isfinite(verdict.high):
        low, high = x(verdict.low), x(verdict.high)
        _draw(root, "line", "interval", x1=low, x2=high, y1=middle, y2=middle)
        for end in (low, high):
            _draw(root, "line", "interval", x1=end, x2=end, y1=middle - 5, y2=middle + 5)
    else:
        _draw(root, "line", "interval unbounded", x1=left, x2=right, y1=middle, y2=middle)
    centre = x(verdict.mean)
    diamond = f"{centre - 6},{middle} {centre},{middle - 6} {centre + 6},{middle} "
    _draw(root, "polygon", "mean", points=f"{diamond}{centre},{middle + 6}")
    return _markup(root)
