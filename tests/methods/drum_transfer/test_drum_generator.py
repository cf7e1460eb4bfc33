from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
from rapidfuzz.distance import Levenshtein

from modicum.errors import ConfigError
from modicum.methods.drum_transfer.data.generator import STYLES, made_up_grooves, style_of
from modicum.methods.drum_transfer.text.drumroll import bars, to_hits, to_record

GROOVES = made_up_grooves(range(400))
CRASH, RIDE, SNARE, KICK, HAT, TOMS = range(6)


def test_a_groove_is_a_function_of_seed_and_number_alone() -> None:
    (alone,) = made_up_grooves([17])
    assert alone == GROOVES[17]
    np.testing.assert_array_equal(alone.velocities, GROOVES[17].velocities)
    assert made_up_grooves([3, 17])[1] == alone
    assert GROOVES[17].text.startswith(made_up_grooves([17], bars=5)[0].text)
    assert made_up_grooves([17], seed=1)[0].text != alone.text
    assert made_up_grooves([]) == []
    assert len({groove.text for groove in GROOVES}) == len(GROOVES)


def test_grooves_are_playable_records_with_velocities() -> None:
    assert {style_of(groove) for groove in GROOVES} == set(STYLES)
    for groove in GROOVES:
        hits = to_hits(groove.text) > 0
        assert hits.shape == (256, 6)
        assert groove.velocities is not None
        np.testing.assert_array_equal(groove.velocities > 0, hits)
        assert groove.velocities.max() <= 127
        assert (hits[:, [CRASH, RIDE, SNARE, HAT, TOMS]].sum(1) <= 2).all()  # two hands
        low, high = STYLES[style_of(groove)].tempo
        assert low <= groove.tempo <= high
        record = to_record(groove)
        assert record is None or len(record.prompt) == 232


def test_bars_repeat_and_vary_as_those_of_people() -> None:
    texts = [bars(groove.text) for groove in GROOVES]
    distance = np.array(
        [[Levenshtein.distance(a, b) for a, b in pairwise(of_it)] for of_it in texts]
    )
    stability = np.minimum(distance[:, :-1], distance[:, 1:])
    assert 3 < stability.mean() < 6  # people: 5.08 (README, Results)
    # Fills, in the last bar of a phrase of four, stand out of the bars between.
    last = np.arange(1, 15) % 4 == 3
    assert stability[:, last].mean() > 1.8 * stability[:, ~last].mean()
    lines = np.array([groove.text.split() for groove in GROOVES])
    assert 0.6 < (lines[:, 16:] == lines[:, :-16]).mean() < 0.75  # people: 0.687
    assert len({bar for of_it in texts for bar in of_it}) > 0.6 * 16 * len(texts)


def test_a_crash_follows_fills() -> None:
    hits = np.stack([to_hits(groove.text) for groove in GROOVES]).reshape(-1, 16, 16, 6) > 0
    begins = hits[:, 1:, 0, CRASH]
    ends = hits[:, :-1, :, TOMS].any(2) & ~hits[:, :-1, -1, [HAT, RIDE]].any(2)
    assert begins[ends].all()
    assert hits[:, 1:, 0, KICK][begins].all()
    assert not hits[:, :, 1:, CRASH].any()


def test_a_thousand_are_made_in_a_second() -> None:
    seconds: list[float] = []
    for _ in range(2):
        began = time.process_time()
        made_up_grooves(range(1000))
        seconds.append(time.process_time() - began)
    assert min(seconds) < 1


def test_bad_numbers_are_refused() -> None:
    for bad in ({"index": [0], "bars": 0}, {"index": [-1]}):
        with pytest.raises(ConfigError, match="expected at least 1 bar, and numbers from 0"):
            made_up_grooves(**bad)
