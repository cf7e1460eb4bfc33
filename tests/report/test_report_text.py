from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.report.text import MINUS, decimals, duration, interval, number, short


@pytest.mark.parametrize(
    ("value", "places", "signed", "printed"),
    [
        (1.005, 1, False, "1.0"),
        (-2.345, 2, True, f"{MINUS}2.35"),
        (2.345, 1, True, "+2.3"),
        (1234567.0, 0, False, "1,234,567"),
        (math.nan, 2, False, "not a number"),
        (math.inf, 2, False, "∞"),
        (-math.inf, 2, True, f"{MINUS}∞"),
        (None, 2, False, "missing"),
        (-0.004, 2, True, "0.00"),
        (0.0, 0, True, "0"),
        (100.0, 0, True, "+100"),
    ],
)
def test_number(value: float | None, places: int, signed: bool, printed: str) -> None:
    assert number(value, places, signed=signed) == printed


@settings(max_examples=50)
@given(st.floats(1e-5, 1e5))
def test_decimals_show_the_significant_digits(value: float) -> None:
    shown = number(value, decimals([value, math.nan, 0.0], significant=3)).replace(",", "")
    assert float(shown) == pytest.approx(value, rel=5.001e-3)


def test_decimals_of_nothing_finite() -> None:
    assert decimals([math.nan, math.inf, 0.0], significant=3) == 0


def test_interval_says_why_there_is_none() -> None:
    assert interval(-0.5, 1.25, 2) == f"95 % interval {MINUS}0.50 to +1.25"
    assert interval(-math.inf, math.inf, 2) == "no interval with one seed"
    assert interval(math.nan, math.nan, 2) == "no interval: a value is not finite"


def test_short() -> None:
    assert short(-0.000123456) == f"{MINUS}0.00012346"
    assert short(math.nan) == "not a number"


@pytest.mark.parametrize(
    ("seconds", "printed"),
    [(1.25, "1.2 s"), (42, "42 s"), (200, "3 min 20 s"), (3600 * 5 + 120, "5 h 2 min")],
)
def test_duration(seconds: float, printed: str) -> None:
    assert duration(seconds) == printed
