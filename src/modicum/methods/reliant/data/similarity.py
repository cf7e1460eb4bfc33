"""Edges for a table: who is nearly as similar to whom as the most similar other row.

The similarity of two rows is `1 / (1 + d)`, `d` their Euclidean distance. Row `i` is connected to
every row more similar to it than a share `theta` of its best match (the rule of the
published data sets):

    sim(i, j) > theta * max_{k != i} sim(i, k)    or    d_ij < (1 + d_i,min) / theta - 1

The second form is a radius, which a k-d tree answers without the N x N matrix. The radius only
preselects; the first form decides, in float64, because tables of whole numbers have exact ties.
"""

from __future__ import annotations

import hashlib
import itertools
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from modicum.errors import ConfigError, DataError
from modicum.system.arrays import read_arrays
from modicum.system.cache import cache_folder
from modicum.system.files import atomic_write

Edges = npt.NDArray[np.int64]

EDGE_LIMIT = 50_000_000
"""Directed edges above which a table is refused; they take 16 bytes each."""

_BLOCK = 1 << 22
"""Numbers (pairs times columns) compared at a time; 32 MiB in float64."""


def similarity_graph(features: npt.ArrayLike, threshold: float, *, first: int = 0) -> Edges:
    """Connect each row to the rows that are nearly as similar to it as the most similar one.

    Rows that are equal have distance 0 and are each other's best match; a row is never its own.

    Args:
        features: `(N, F)`, finite numbers; the columns count as they are scaled.
        threshold: The share `theta`, above 0 and below 1; larger gives fewer edges.
        first: Only edges from the rows `first` and after are found, to rows of all numbers: what
            new rows at the end of a known table need.

    Returns:
        `(2, E)`, int64: from which row (first row of the array) to which. Sorted, directed: an
        edge is there in one direction where only one of the two rows sees it so.

    Raises:
        ConfigError: `threshold` makes no sense.
        DataError: `features` has another shape or is not finite, or there are too many edges.
    """
    from scipy.spatial import KDTree

    if not 0 < threshold < 1:
        raise ConfigError(f"--similarity {threshold}: must be above 0 and below 1.")
    x = np.ascontiguousarray(features, dtype=np.float64)
    if x.ndim != 2 or not x.shape[1]:
        raise DataError(f"expected a table of the shape (rows, columns), found {x.shape}.")
    if not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0].tolist()
        raise DataError(
            f"row {row}, column {column} of the table to connect by similarity is "
            f"{x[row, column]}; expected finite numbers."
        )
    rows = np.arange(first, len(x))
    if len(x) < 2 or not len(rows):
        return np.empty((2, 0), np.int64)
    # Before the tree is asked: a search among equal rows looks at all of them. -0 is 0.
    _, which, counts = np.unique(x + 0.0, axis=0, return_inverse=True, return_counts=True)
    _refuse_if_many((counts[which.reshape(-1)] - 1)[first:].sum(), threshold, len(x))
    tree = KDTree(x)
    distances, nearest = (np.asarray(found) for found in tree.query(x[first:], k=2))
    # Of equal rows, any two may be returned: then both distances are 0.
    smallest = np.where(nearest[:, 0] == rows, distances[:, 1], distances[:, 0])
    radius = (1 + smallest) / threshold - 1
    radius += 1e-9 * (1 + radius)
    counts = np.asarray(tree.query_ball_point(x[first:], radius, return_length=True))
    total = int(counts.sum()) - len(rows)
    _refuse_if_many(total, threshold, len(x))
    pairs = np.empty((total, 2), np.int64)
    filled = 0
    block = (np.cumsum(counts) - 1) // max(1, _BLOCK // x.shape[1])
    borders = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), len(rows)]
    for low, high in itertools.pairwise(borders):
        number = counts[low:high]
        lists = tree.query_ball_point(x[first + low : first + high], radius[low:high])
        target = np.fromiter(itertools.chain.from_iterable(lists), np.int64, int(number.sum()))
        near = _near(x, np.repeat(rows[low:high], number), target, threshold)
        pairs[filled : filled + len(near)] = near
        filled += len(near)
    return pairs[:filled].T


def _near(x: npt.NDArray[np.float64], source: Edges, target: Edges, threshold: float) -> Edges:
    """The pairs that are edges, `(E, 2)`; every row of `source` is there with its best match."""
    other = source != target
    source, target = source[other], target[other]
    difference = x[source]
    difference -= x[target]
    similarity = 1 / (1 + np.sqrt(np.square(difference, out=difference).sum(1)))
    begin = np.flatnonzero(np.diff(source, prepend=-1))
    best = np.repeat(np.maximum.reduceat(similarity, begin), np.diff(begin, append=len(source)))
    edge = similarity > threshold * best
    source, target = source[edge], target[edge]
    order = np.lexsort((target, source))
    return np.stack([source[order], target[order]], 1)


def cached_similarity_graph(features: npt.ArrayLike, threshold: float) -> Edges:
    """As `similarity_graph`, found once for the same table and threshold, and kept in the cache."""
    x = np.ascontiguousarray(features, dtype=np.float64)
    digest = hashlib.sha256(f"similarity 1 {x.shape} {threshold!r}".encode())
    digest.update(x.tobytes())
    path = cache_folder() / "graphs" / f"{digest.hexdigest()[:32]}.npz"
    with suppress(DataError, KeyError):  # an .npz has a checksum
        edges: Any = read_arrays(path)["edges"]
        sound = edges.ndim == 2 and len(edges) == 2 and edges.dtype == np.int64
        if sound and edges.min(initial=0) >= 0 and edges.max(initial=0) < len(x):
            return edges
    edges = similarity_graph(x, threshold)
    with suppress(OSError), atomic_write(path) as file:
        np.savez(file, edges=edges)
    return edges


def _refuse_if_many(edges: Any, threshold: float, rows: int) -> None:
    if edges > EDGE_LIMIT:
        raise DataError(
            f"the similarity rule gives {int(edges):,} edges for {rows:,} rows at the threshold "
            f"{threshold}, more than {EDGE_LIMIT:,}: too many rows are equal, or nearer to each "
            f"other than 1, beside which small distances do not count. Raise --similarity, scale "
            f"the columns up, remove repeated rows, or give edges of your own (--edges)."
        )
