from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from modicum.methods.reliant import pictures

RNG = np.random.default_rng(0)
GROUPS = RNG.integers(0, 2, 400)
LABELS = RNG.integers(0, 2, 400)
SCORES = {name: RNG.random(400) for name in ("teacher", "plain student", "RELIANT student")}
NAMES = ("not $white", "white")


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are turned into files, in order."""
    figures = []
    real = pictures.png

    def keep(figure: Figure) -> bytes:
        figures.append(figure)
        return real(figure)

    monkeypatch.setattr(pictures, "png", keep)
    return figures


def size(content):
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG"
        assert np.asarray(image.convert("L")).std() > 5  # something is drawn
        return image.size


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_plane(drawn):
    points = {
        "teacher": [(30.0, 90.0), (31.0, 91.0)],
        "plain student": [(28.0, 89.0), (29.0, 89.5), (27.0, 88.5)],
        "RELIANT": [(3.0, 82.0), (5.0, 83.0), (4.0, 84.0)],
        "one seed": [(10.0, 80.0)],
    }
    size(pictures.gap_accuracy_plane(points, gap="eo"))
    (axes,) = drawn[0].axes
    assert axes.get_xlabel() == "equal opportunity gap, percentage points"
    assert axes.get_ylabel() == "accuracy, percent"
    assert legend(axes) == list(points)
    (arrow,) = axes.texts
    assert (arrow.xy, arrow.xyann) == ((4.0, 83.0), (28.0, 89.0))
    assert axes.get_xlim()[0] <= 0
    # Student's interval of three seeds that lie one apart.
    reach = 4.302653 / np.sqrt(3)
    bars = [bar.get_segments()[0] for bar in axes.collections]
    assert any(np.allclose(bar, [[4 - reach, 83], [4 + reach, 83]]) for bar in bars)
    size(pictures.gap_accuracy_plane({"RELIANT": points["RELIANT"]}))
    assert not drawn[1].axes[0].texts


def test_scores(drawn):
    size(pictures.score_distributions(SCORES, GROUPS, NAMES))
    assert [axes.get_title() for axes in drawn[0].axes] == list(SCORES)
    assert legend(drawn[0].axes[-1]) == [r"not \$white", "white"]
    outline = drawn[0].axes[0].patches[1].get_data().values
    assert outline.sum() == pytest.approx(100)
    expected = np.histogram(SCORES["teacher"][GROUPS == 0], 20, (0, 1))[0]
    assert outline == pytest.approx(100 * expected / expected.sum())
    # A group with nobody is an empty outline.
    size(pictures.score_distributions({"teacher": SCORES["teacher"]}, GROUPS * 0, NAMES))


def test_confusions(drawn):
    decided = {name: (score > 0.5).astype(int) for name, score in SCORES.items()}
    size(pictures.group_confusions(decided, LABELS, GROUPS, NAMES, ("no", "yes")))
    assert len(drawn[0].axes) == 6
    inside = GROUPS == 1
    wrong = int(((decided["plain student"] == 1) & (LABELS == 0) & inside).sum())
    cell = drawn[0].axes[3].texts[1].get_text()
    share = 100 * wrong / ((LABELS == 0) & inside).sum()
    assert cell == f"{share:.1f} %\n{wrong:,}"
    assert drawn[0].axes[3].get_title() == "plain student, white"
    size(pictures.group_confusions(decided, LABELS, GROUPS * 0, NAMES, ("no", "yes", "maybe")))


def test_pareto(drawn):
    points = [
        (0.0, 90.0, 30.0), (0.0, 91.0, 32.0), (10.0, 88.0, 33.0), (10.0, 89.0, 35.0),
        (1000.0, 82.0, 4.0), (1000.0, 83.0, 6.0),
    ]  # fmt: skip
    size(pictures.pareto_plot(points))
    (axes,) = drawn[0].axes
    front = axes.lines[0].get_xydata()
    assert front.tolist() == [[5.0, 82.5], [31.0, 90.5]]
    means = {line.get_label(): line for line in axes.lines if "alpha" in line.get_label()}
    beaten = r"$\alpha$ = 10"
    assert {name for name, line in means.items() if line.get_mfc() == "white"} == {beaten}
    size(pictures.pareto_plot(points[:1], objective="eo"))


def test_overview(drawn):
    degrees = np.array([0, 1, 1, 2, 3, 4, 7, 8, 100])
    rates = np.array([0.3, 0.6])
    content = pictures.graph_overview(NAMES, np.array([4, 5]), rates, degrees, positive="yes")
    size(content)
    sizes, base_rates, histogram = drawn[0].axes
    assert [bar.get_width() for bar in sizes.patches] == [4, 5]
    assert [bar.get_width() for bar in base_rates.patches] == pytest.approx([30, 60])
    assert [bar.get_height() for bar in histogram.patches] == [1, 2, 2, 2, 1, 0, 0, 1]
    assert histogram.get_xticklabels()[-1].get_text() == "128"
    again = pictures.graph_overview(NAMES, np.array([4, 5]), rates, degrees, positive="yes")
    assert again == content
    size(pictures.graph_overview(NAMES, np.array([4, 5]), rates, degrees * 0, positive="yes"))
