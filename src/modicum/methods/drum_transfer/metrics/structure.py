"""How a groove repeats itself: stability of its bars, and how its fills stand out.

A bar that sounds like one of its neighbours belongs to the pattern; one that resembles neither is
a fill or a change. The three numbers say something only together: coin flips have a separation of 5
as well, on a stability of 40.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from modicum.errors import ConfigError, DataError
from modicum.methods.drum_transfer.text.drumroll import bars
from modicum.methods.drum_transfer.text.grids import Integers, Mask
from modicum.methods.drum_transfer.text.notation import DRUMROLL, Notation

Clusterer = Literal["exact", "sklearn"]
BARS = 16
"""Bars of a groove that the paper measures; later ones are left out."""


def stability(
    text: str,
    *,
    notation: Notation = DRUMROLL,
    official: bool = False,
    most_bars: int | None = BARS,
) -> Integers:
    """Of each bar but the first and the last, how far it is from the nearer of its neighbours.

    Low everywhere is repetition, peaks are fills or changes, high everywhere is chaos.

    Args:
        text: Lines without separators, well-formed or not. A short tail is a bar.
        notation: How the text is written.
        official: Compare bars as the official script writes them, each newline doubled. It makes a
            difference only where lines are missing, surplus or of the wrong width, and is not the
            default: a missing line costs one newline less.
        most_bars: Bars to look at, from the first; None for all.

    Returns:
        Levenshtein distances `(bars - 2,)`, in characters; empty for fewer than 3 bars.
    """
    from rapidfuzz.distance import Levenshtein

    found = bars(text, notation)[:most_bars]
    if official:
        found = [bar.replace("\n", "\n\n") for bar in found]
    apart = [Levenshtein.distance(bar, following) for bar, following in pairwise(found)]
    return np.array([min(pair) for pair in pairwise(apart)], np.int64)


@dataclass(frozen=True)
class TwoMeans:
    """Numbers divided into a lower and an upper cluster."""

    separation: float
    """How far apart the two means are; 0 if all values are equal."""
    tightness: float
    """Mean distance of a value from the mean of its own cluster."""
    upper: Mask
    """`(n,)`, which values are in the upper cluster; none if all are equal."""


def two_means(
    values: npt.ArrayLike, *, clusterer: Clusterer = "exact", starts: int = 10
) -> TwoMeans:
    """Divide numbers into two clusters with the least squared distance from their means.

    Args:
        values: `(n,)`, at least one.
        clusterer: exact: the best of all splits of the sorted values. sklearn: the k-means of
            scikit-learn with `random_state=0`, as in the official script, which may end in a worse
            split.
        starts: Starts of scikit-learn: 10 was its default when the paper was written; from version
            1.4 on the script gets 1. The random numbers behind them depend on the version.

    Raises:
        DataError: There are no values, or one is not finite.
        ConfigError: The clusterer is unknown.
    """
    x = np.asarray(values, np.float64)
    n = x.size
    if x.ndim != 1 or n == 0 or not np.isfinite(x).all():
        raise DataError(
            f"two_means: found values of shape {x.shape}{' with NaN or infinity' if n else ''}; "
            f"expected a row of at least one finite number. Leave out grooves that have none."
        )
    if clusterer not in ("exact", "sklearn"):
        raise ConfigError(f"clusterer {clusterer!r}: expected exact or sklearn.")
    if x.min() == x.max():
        return TwoMeans(0.0, 0.0, np.zeros(n, np.bool_))
    if clusterer == "sklearn":
        from sklearn.cluster import KMeans

        found = KMeans(2, random_state=0, n_init=starts).fit(x[:, None])  # pyright: ignore[reportArgumentType]
        centres = found.cluster_centers_[:, 0]
        upper = found.labels_ == centres.argmax()
        low, high = centres.min(), centres.max()
    else:
        ordered = np.sort(x)
        below = np.arange(1, n)
        # The squared distance between clusters of `below` and the other values, but for a constant
        # factor; in whole numbers if the values are, so that ties are ties. The first is taken.
        excess = n * ordered.cumsum()[:-1] - below * ordered.sum()
        border = ordered[(excess**2 / (below * (n - below))).argmax()]
        upper = x > border
        low, high = x[~upper].mean(), x[upper].mean()
    tightness = np.abs(x - np.where(upper, high, low)).mean()
    return TwoMeans(float(high - low), float(tightness), upper)


@dataclass(frozen=True)
class Structure:
    """How one groove repeats itself."""

    stability: Integers
    """`(bars - 2,)`, of all bars but the first and the last, see `stability`."""
    separation: float
    """How much less stable fills are than the pattern, see `TwoMeans`; NaN if undefined. The
    official script prints it under the word `intra`."""
    tightness: float
    """How closely both keep to their means, see `TwoMeans`; NaN if undefined. The official script
    prints it under the word `inter`."""
    fills: tuple[int, ...]
    """Bars in the less stable cluster, counted from 0."""
    undefined: str = ""
    """Why there is no stability; empty if there is."""


def structure(
    text: str,
    *,
    notation: Notation = DRUMROLL,
    official: bool = False,
    most_bars: int | None = BARS,
    clusterer: Clusterer = "exact",
) -> Structure:
    """Stability, separation, tightness and fills of a groove; see `stability` and `two_means`."""
    values = stability(text, notation=notation, official=official, most_bars=most_bars)
    if values.size == 0:
        why = "fewer than 3 bars, so that no bar has two neighbours"
        return Structure(values, math.nan, math.nan, (), why)
    split = two_means(values, clusterer=clusterer)
    fills = tuple((1 + np.flatnonzero(split.upper)).tolist())
    return Structure(values, split.separation, split.tightness, fills)


@dataclass(frozen=True)
class StructureMeans:
    """Mean stability of the bars of all grooves, and mean separation and tightness of grooves."""

    stability: float
    separation: float
    tightness: float
    bars: int
    """Bars that have a stability."""
    grooves: int
    """Grooves that have one."""
    excluded: int
    """Grooves that have none, which count in nothing else."""


def structure_means(found: Sequence[Structure]) -> StructureMeans:
    """Mean structure, as the paper's script averages it; NaN if no groove has any."""
    defined = [one for one in found if not one.undefined]
    pooled = [value for one in defined for value in one.stability.tolist()]
    each = pooled, [one.separation for one in defined], [one.tightness for one in defined]
    means = [float(np.mean(values)) if values else math.nan for values in each]
    excluded = len(found) - len(defined)
    return StructureMeans(means[0], means[1], means[2], len(pooled), len(defined), excluded)
