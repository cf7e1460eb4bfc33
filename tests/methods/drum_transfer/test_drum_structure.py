from __future__ import annotations

import itertools
import json
import math
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from modicum.errors import ConfigError, DataError
from modicum.methods.drum_transfer.metrics.structure import (
    stability,
    structure,
    structure_means,
    two_means,
)
from modicum.methods.drum_transfer.text.drumroll import bars, to_text

MAIN = Path(__file__).parents[3]
# Numbers alone; the texts they are of have no licence and stay in ../shared.
NUMBERS = json.loads((MAIN / "tests/golden/drum-transfer/structure_numbers.json").read_text())
GROOVES = [groove for who in NUMBERS.values() for groove in who["per_groove"].values()]

BEAT = "----o-\n---oo-\n--o-o-\n------\n" * 4
FILL = "-----o\n" * 16


@pytest.fixture(scope="module")
def texts():
    path = MAIN.parent / "shared/golden/drum-transfer/structure.json"
    if not path.exists():
        pytest.skip("../shared/golden/drum-transfer is absent; its texts are not kept here")
    return json.loads(path.read_text())["texts"]


def inertia(values, upper):
    values = np.asarray(values, float)
    return sum(((part - part.mean()) ** 2).sum() for part in (values[upper], values[~upper]))


@pytest.mark.parametrize("who", ["human", "davinci", "ada"])
def test_golden_of_texts(texts, who):
    expected = NUMBERS[who]
    found = [structure(text, official=True) for text in texts[who].values()]
    for name, one in zip(texts[who], found, strict=True):
        golden = expected["per_groove"][name]
        assert one.stability.tolist() == golden["stability"]
        assert one.separation == pytest.approx(golden["separation_exact"], abs=1e-9)
        assert one.tightness == pytest.approx(golden["tightness_exact"], abs=1e-9)
    means = structure_means(found)
    assert means.stability == pytest.approx(expected["mean_stability"], abs=1e-9)
    assert means.separation == pytest.approx(expected["mean_separation_exact"], abs=1e-9)
    assert means.tightness == pytest.approx(expected["mean_tightness_exact"], abs=1e-9)
    assert (means.bars, means.grooves, means.excluded) == (expected["n_stability"], 37, 0)
    plain = structure_means([structure(text) for text in texts[who].values()])
    assert plain.stability == pytest.approx(expected["mean_stability_single_newline"], abs=1e-9)


def test_golden_of_exact_clusters():
    for groove in GROOVES:
        found = two_means(groove["stability"])
        assert found.separation == pytest.approx(groove["separation_exact"], abs=1e-9)
        assert found.tightness == pytest.approx(groove["tightness_exact"], abs=1e-9)


@pytest.mark.skipif(
    not version("scikit-learn").startswith("1.9."),
    reason="the starts of k-means are random and depend on the version; golden numbers are of 1.9",
)
def test_golden_of_ten_starts():
    for who in NUMBERS.values():
        found = [
            two_means(groove["stability"], clusterer="sklearn")
            for groove in who["per_groove"].values()
        ]
        for measure in ("separation", "tightness"):
            mean = np.mean([getattr(one, measure) for one in found])
            assert mean == pytest.approx(who[f"mean_{measure}_ninit10"], abs=1e-9)


def test_golden_of_one_start_where_there_is_no_choice():
    """One start depends on the version of scikit-learn, but two different values are two clusters
    whatever it starts from.
    """
    grooves = [groove for groove in GROOVES if len(set(groove["stability"])) == 2]
    assert grooves
    for groove in grooves:
        found = two_means(groove["stability"], clusterer="sklearn", starts=1)
        assert found.separation == pytest.approx(groove["separation_auto"], abs=1e-9)
        assert found.tightness == pytest.approx(groove["tightness_auto"], abs=1e-9)


def test_exact_is_the_best_of_all_divisions():
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = rng.integers(0, 12, 7)
        if values.min() == values.max():
            continue
        best = min(
            inertia(values, np.array(upper))
            for upper in itertools.product([False, True], repeat=7)
            if any(upper) and not all(upper)
        )
        found = two_means(values)
        assert inertia(values, found.upper) == pytest.approx(best)
        other = two_means(values, clusterer="sklearn", starts=1)
        assert inertia(values, other.upper) >= best - 1e-9
        low, high = values[~found.upper].mean(), values[found.upper].mean()
        assert found.separation == pytest.approx(high - low)


@pytest.mark.parametrize("clusterer", ["exact", "sklearn"])
def test_equal_values_have_no_clusters(clusterer):
    for values in ([7] * 14, [3]):
        found = two_means(values, clusterer=clusterer)
        assert (found.separation, found.tightness, found.upper.any()) == (0, 0, False)


def test_what_two_means_refuses():
    for values in ([], [1, math.nan], [[1, 2]]):
        with pytest.raises(DataError, match="two_means"):
            two_means(values)
    with pytest.raises(ConfigError, match="exact or sklearn"):
        two_means([1, 2], clusterer="other")


def test_a_fill_stands_out():
    found = structure(BEAT * 3 + FILL + BEAT * 4)
    peak = stability(BEAT + FILL + BEAT)[0]
    assert found.stability.tolist() == [0, 0, peak, 0, 0, 0]
    assert (found.fills, found.separation, found.tightness) == ((3,), peak, 0)


def test_a_bar_is_compared_with_the_nearer_neighbour():
    near = BEAT[:-3] + "o-\n"
    assert stability(FILL + BEAT + near).tolist() == [1]
    assert stability(near + BEAT + FILL).tolist() == [1]


def test_which_bars_count():
    text = BEAT * 20
    assert len(stability(text)) == 14
    assert len(stability(text, most_bars=None)) == 18
    assert len(stability(BEAT * 2 + BEAT[:14])) == 1  # a tail of two lines is a bar


def test_official_bars_pay_twice_for_a_newline():
    shorter = BEAT[7:]
    text = BEAT * 2 + shorter
    assert stability(text + BEAT)[1] < stability(text + BEAT, official=True)[1]
    assert stability(BEAT * 4, official=True).tolist() == [0, 0]


def test_grooves_without_structure_are_excluded_and_counted():
    found = [structure(text) for text in (BEAT * 2, "", BEAT * 3 + FILL + BEAT)]
    assert [bool(one.undefined) for one in found] == [True, True, False]
    assert "fewer than 3 bars" in found[0].undefined
    assert math.isnan(found[0].separation)
    means = structure_means(found)
    assert (means.grooves, means.excluded, means.bars) == (1, 2, 3)
    assert means.separation == found[2].separation
    nothing = structure_means(found[:2])
    assert math.isnan(nothing.stability)
    assert math.isnan(nothing.separation)


def test_repetition_and_coin_flips():
    """The columns `repeat` and `random` of the README's table of structure."""
    rng = np.random.default_rng(0)
    flips = [to_text(rng.integers(0, 2, (256, 6))) for _ in range(37)]
    official = structure_means([structure(text, official=True) for text in flips])
    assert official.stability == pytest.approx(40.4, abs=0.3)
    assert structure_means([structure(text) for text in flips]).stability == pytest.approx(
        39.8, abs=0.2
    )
    first, second, *_ = bars(flips[0])
    again = structure(first + second * 15)
    assert (again.stability.any(), again.separation, again.tightness) == (False, 0, 0)
