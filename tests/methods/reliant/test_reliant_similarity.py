from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from modicum.errors import ConfigError, DataError
from modicum.methods.reliant.data import similarity
from modicum.methods.reliant.data.similarity import cached_similarity_graph, similarity_graph
from modicum.system.cache import cache_folder

GOLDEN = Path(__file__).parents[2] / "golden" / "reliant"


def by_matrix(x: npt.NDArray[np.float64], threshold: float) -> npt.NDArray[np.int64]:
    """The rule as it is written, with the N x N matrix; the row itself is left out by number."""
    alike = 1 / (1 + np.sqrt(np.square(x[:, None] - x[None]).sum(2)))
    others = alike.copy()
    np.fill_diagonal(others, -1)
    return np.argwhere(others > threshold * others.max(1, keepdims=True)).T


def test_similarity_matches_the_reference() -> None:
    golden = json.loads((GOLDEN / "similarity_graph.json").read_text())
    edges = similarity_graph(golden["table"], golden["threshold"])
    assert edges.T.tolist() == golden["directed_edges_sorted"]
    assert edges.dtype == np.int64


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.8, 0.99])
@pytest.mark.parametrize("seed", range(4))
def test_similarity_equals_the_rule_with_ties_and_repeated_rows(
    seed: int, threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whole numbers in few dimensions: many rows are equal and many distances tie exactly.
    monkeypatch.setattr(similarity, "_BLOCK", 1000)
    random = np.random.default_rng(seed)
    x = random.integers(0, 3 + 5 * seed, (150, 3)).astype(np.float64)
    np.testing.assert_array_equal(similarity_graph(x, threshold), by_matrix(x, threshold))


def test_similarity_decides_a_tie_in_the_similarity_form() -> None:
    # d = 2 and 4: 1 + 4 = (1 + 2) / 0.6 exactly, but 1/5 > 0.6 * (1/3) in float64.
    x = np.array([[0.0], [2.0], [-4.0]])
    assert 1 / 5 > 0.6 * (1 / 3)
    assert [0, 2] in similarity_graph(x, 0.6).T.tolist()


def test_similarity_leaves_a_row_out_by_number_among_equal_rows() -> None:
    x = np.array([[1.0, 2.0]] * 3 + [[50.0, 2.0]])
    edges = similarity_graph(x, 0.9).T.tolist()
    assert edges[:6] == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]
    assert edges[6:] == [[3, 0], [3, 1], [3, 2]]
    assert similarity_graph([[0.0], [-0.0]], 0.5).T.tolist() == [[0, 1], [1, 0]]


def test_similarity_from_the_last_rows_only() -> None:
    x = np.random.default_rng(0).standard_normal((80, 4))
    whole = similarity_graph(x, 0.7)
    np.testing.assert_array_equal(similarity_graph(x, 0.7, first=70), whole[:, whole[0] >= 70])
    assert similarity_graph(x, 0.7, first=80).shape == (2, 0)
    assert similarity_graph(x[:1], 0.7).shape == (2, 0)


def test_similarity_refuses_what_cannot_be_connected() -> None:
    for threshold in (0, 1, -0.5, float("nan")):
        with pytest.raises(ConfigError, match="--similarity"):
            similarity_graph(np.eye(3), threshold)
    with pytest.raises(DataError, match=r"row 1, column 2 .* nan"):
        similarity_graph([[1, 2, 3], [1, 2, np.nan]], 0.5)
    with pytest.raises(DataError, match=r"\(rows, columns\)"):
        similarity_graph([1.0, 2.0], 0.5)


def test_similarity_refuses_too_many_edges_before_they_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(DataError, match="39,999,800,000 edges for 200,000 rows"):
        similarity_graph(np.ones((200_000, 3)), 0.6)
    near = np.random.default_rng(0).random((2000, 3)) * 1e-3  # all within each other's radius
    monkeypatch.setattr(similarity, "EDGE_LIMIT", 1_000_000)
    with pytest.raises(DataError, match="3,998,000 edges for 2,000 rows"):
        similarity_graph(near, 0.6)


def test_similarity_is_remembered_by_table_and_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).standard_normal((30, 4))
    first = cached_similarity_graph(x, 0.7)
    other = cached_similarity_graph(x, 0.8)
    assert other.shape[1] < first.shape[1]
    with monkeypatch.context() as patch:
        patch.setattr(similarity, "similarity_graph", pytest.fail)
        np.testing.assert_array_equal(cached_similarity_graph(x, 0.7), first)
    for path in (cache_folder() / "graphs").iterdir():
        path.write_bytes(b"broken")
    np.testing.assert_array_equal(cached_similarity_graph(x, 0.7), first)


def test_a_cached_graph_is_not_believed() -> None:
    x = np.random.default_rng(0).normal(size=(30, 3))
    first = cached_similarity_graph(x, 0.7)
    (path,) = (cache_folder() / "graphs").iterdir()
    np.savez(path, edges=first + 30)
    np.testing.assert_array_equal(cached_similarity_graph(x, 0.7), first)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    np.testing.assert_array_equal(cached_similarity_graph(x, 0.7), first)
