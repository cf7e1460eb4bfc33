"""Numbers as a report prints them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, cast

from modicum.system.terminal import quantity

_TOP = re.compile(r"top(\d{1,4})")
MINUS = "\N{MINUS SIGN}"


def decimals(values: Iterable[float], significant: int) -> int:
    """Decimal places at which the largest finite value shows `significant` digits, 0 to 8."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if largest == 0:
        return 0
    return min(max(significant - 1 - math.floor(math.log10(largest)), 0), 8)


def number(value: float | None, places: int, *, signed: bool = False) -> str:
    """`value` with `places` decimals; words for what is missing or not a number.

    With `signed`, a number that is not printed as zero has its sign.
    """
    if value is None:
        return "missing"
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    printed = f"{abs(value):,.{places}f}"
    if not printed.strip("0."):
        return printed
    return (MINUS if value < 0 else "+" if signed else "") + printed


def short(value: float) -> str:
    """`value` with five significant digits, for numbers of unknown size."""
    if not math.isfinite(value):
        return number(value, 0)
    return f"{value:.5g}".replace("-", MINUS)


def value(setting: Any) -> str:
    """A setting in words: numbers, names, lists of these."""
    if setting is None:
        return "not given"
    if isinstance(setting, bool):
        return "yes" if setting else "no"
    if isinstance(setting, float):
        return f"{setting:.6g}"
    if isinstance(setting, (list, tuple)):
        return ", ".join(map(value, cast("Sequence[Any]", setting))) or "none"
    return str(setting)


def label(name: str) -> str:
    """What a logged quantity is called: `top1` is the top-1 accuracy."""
    found = _TOP.fullmatch(name)
    return f"top-{found[1]} accuracy" if found else name


def measured(name: str, amount: float) -> str:
    """A value of a logged quantity; accuracies are in percent."""
    printed = quantity(name, amount)
    return printed if printed.endswith("%") and math.isfinite(amount) else short(amount)


def classes_for(name: str) -> int:
    """How many classes there must be for a quantity to say anything."""
    found = _TOP.fullmatch(name)
    return int(found[1]) + 1 if found else 0


def interval(low: float, high: float, places: int) -> str:
    """The 95 % interval of `modicum.claims.Verdict` in words, or why there is none."""
    if math.isnan(low) or math.isnan(high):
        return "no interval: a value is not finite"
    if math.isinf(low) or math.isinf(high):
        return "no interval with one seed"
    ends = f"{number(low, places, signed=True)} to {number(high, places, signed=True)}"
    return f"95 % interval {ends}"


def duration(seconds: float) -> str:
    """A length of time in the largest units that fit, such as `"3 min 20 s"`."""
    if not math.isfinite(seconds):
        return number(seconds, 0)
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
