from __future__ import annotations

import io
import math
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from modicum.claims import Claim, judge
from modicum.report import effect_plot, image_grid, line_plot, paired_plot
from modicum.report.plots import STRETCHES

CLAIM = Claim("better", "It is better.", "ours", "theirs", "accuracy", threshold=0.5)
SEEDS = st.integers(1, 20)
VALUES = st.floats(width=32) | st.sampled_from([0.0, 1e-9, -1e9])


def parts(svg: str, tag: str, style: str) -> list[ElementTree.Element]:
    found = ElementTree.fromstring(svg).iter(tag)
    return [element for element in found if style in element.get("class", "").split()]


def coordinates(svg: str) -> list[float]:
    names = ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy")
    elements = list(ElementTree.fromstring(svg).iter())
    single = [float(e.attrib[name]) for e in elements for name in names if name in e.attrib]
    points = [pair.split(",") for e in elements for pair in e.get("points", "").split()]
    return single + [float(value) for pair in points for value in pair]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_plots_stay_within_the_picture_whatever_the_values(data: st.DataObject) -> None:
    count = data.draw(SEEDS)
    before = data.draw(st.lists(VALUES, min_size=count, max_size=count))
    after = data.draw(st.lists(VALUES, min_size=count, max_size=count))
    with np.errstate(all="ignore"):
        verdict = judge(CLAIM, after, before)
    seeds = list(range(count))
    curve = list(zip(seeds, before, strict=True))
    for svg in (
        line_plot({"ours": [curve], "theirs": []}, label="loss"),
        paired_plot(seeds, before, after, names=("theirs", "ours"), label="accuracy"),
        effect_plot(verdict, seeds),
    ):
        height = float(ElementTree.fromstring(svg).attrib["viewBox"].split()[3])
        assert all(0 <= value <= max(360, height) for value in coordinates(svg))


def test_line_plot_draws_a_line_a_seed_and_keeps_the_colours_of_absent_arms() -> None:
    curve = [(0, 1.0), (10, 0.5)]
    svg = line_plot({"a": [curve, curve], "b": [], "c": [curve]}, label="loss")
    assert len(parts(svg, "polyline", "arm-0")) == 2
    assert len(parts(svg, "polyline", "arm-1")) == 0
    assert len(parts(svg, "polyline", "arm-2")) == 1
    assert ElementTree.fromstring(svg).get("aria-label") == "loss against optimizer step: a, c"


def test_line_plot_leaves_a_gap_where_a_value_is_not_finite() -> None:
    svg = line_plot({"a": [[(0, 1), (1, 2), (2, math.nan), (3, 2), (4, 1)]]}, label="loss")
    assert len(parts(svg, "polyline", "curve")) == 2


def test_line_plot_shows_a_single_value_as_a_dot() -> None:
    assert len(parts(line_plot({"a": [[(5, 1.0)]]}, label="loss"), "circle", "dot")) == 1


def test_a_long_curve_becomes_means_within_their_range() -> None:
    values = np.zeros(100 * STRETCHES)
    values[4_000] = 1.0  # one peak among thousands
    svg = line_plot({"a": [list(enumerate(values.tolist()))]}, label="loss")
    (line,) = parts(svg, "polyline", "curve")
    (band,) = parts(svg, "polygon", "range")
    assert len(line.attrib["points"].split()) == STRETCHES
    heights = [float(point.split(",")[1]) for point in band.attrib["points"].split()]
    ticks = parts(svg, "line", "grid")
    assert min(heights) == float(ticks[-1].attrib["y1"]), "the peak reaches the axis end, 1.0"
    assert min(float(p.split(",")[1]) for p in line.attrib["points"].split()) > min(heights)


def test_paired_plot_names_each_seed_without_overlap() -> None:
    svg = paired_plot(
        [1, 2, 3], [70.0, 71.0, 72.0], [80.0, 80.0, 80.0], names=("a", "b"), label="accuracy"
    )
    assert len(parts(svg, "line", "pair")) == 3
    labels = [e for e in ElementTree.fromstring(svg).iter("text") if "seed" in (e.text or "")]
    heights = sorted(float(label.attrib["y"]) for label in labels)
    assert len(heights) == 3
    assert min(np.diff(heights)) >= 12


def test_effect_plot_shows_seeds_mean_interval_and_threshold() -> None:
    svg = effect_plot(judge(CLAIM, [2.0, 3.0, 4.0], [1.0, 1.0, 1.0]), [1, 2, 3])
    assert len(parts(svg, "circle", "seed")) == 3
    assert len(parts(svg, "polygon", "mean")) == 1
    assert len(parts(svg, "line", "interval")) == 3  # the line and its two ends
    assert {"threshold 0.5", "seed 1", "mean"} <= set(texts(svg))
    (threshold,) = parts(svg, "line", "threshold")
    line = parts(svg, "line", "interval")[0]
    assert float(threshold.attrib["x1"]) > float(line.attrib["x1"]), "2 ± 2.5 starts below 0.5"


def test_effect_plot_without_an_interval_is_open_at_both_ends() -> None:
    (line,) = parts(effect_plot(judge(CLAIM, [3.0], [1.0]), [1]), "line", "interval")
    assert "unbounded" in line.attrib["class"]


def test_effect_plot_writes_out_what_is_not_a_number() -> None:
    svg = effect_plot(judge(CLAIM, [3.0, math.nan], [1.0, 1.0]), [1, 2])
    assert texts(svg).count("not a number") == 2  # the seed's and the mean's


def test_names_cannot_inject_markup() -> None:
    hostile = '"><script>alert(1)</script>'
    svg = paired_plot([1], [1.0], [2.0], names=(hostile, hostile), label=hostile)
    assert "<script" not in svg
    assert ElementTree.fromstring(svg).get("aria-label", "").startswith(hostile)


def test_image_grid_is_a_png_that_grows_with_its_rows() -> None:
    images = np.random.default_rng(0).integers(0, 255, (7, 8, 8, 3), dtype=np.uint8)
    sizes = [
        Image.open(io.BytesIO(image_grid(images[:n], ["$x_1"] * n, columns=5))).size for n in (5, 7)
    ]
    assert sizes[0][0] == sizes[1][0]
    assert sizes[1][1] > 1.8 * sizes[0][1]


def test_image_grid_wants_a_caption_for_each_image() -> None:
    with pytest.raises(ValueError, match="2 images and 1 captions"):
        image_grid(np.zeros((2, 4, 4), dtype=np.uint8), ["one"])
    with pytest.raises(ValueError, match="at least one image"):
        image_grid([])
