"""Graphs of arrays: what they may be, and what is refused and how."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from modicum.errors import DataError
from modicum.methods.reliant import Graph, Teacher, distill

FEATURES = np.arange(12.0).reshape(6, 2)
EDGES = np.array([[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]])
GOOD: dict[str, Any] = {
    "features": FEATURES,
    "edges": EDGES,
    "labels": [0, 1, 0, 1, 0, 1],
    "sensitive": [0, 0, 1, 1, 0, 1],
    "train": [0, 1],
    "val": [2, 3],
    "test": [4, 5],
}


def build(**changes: Any) -> Graph:
    return Graph.build(**GOOD | changes)


def same(one: Graph, other: Graph) -> bool:
    return all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in ("features", "labels", "sensitive", "train", "val", "test")
    ) and torch.equal(one.messages.columns, other.messages.columns)


def test_what_a_graph_holds() -> None:
    graph = build()
    assert graph.nodes == 6
    assert graph.features.dtype == torch.float32
    assert graph.messages.symmetric
    assert graph.messages.edges == 2 * 5 + 6
    assert graph.feature_names == ("x0", "x1")
    assert graph.classes == graph.groups == ("0", "1")
    assert graph.training.tolist() == [True, True, False, False, False, False]
    one_way = build(symmetrise=False)
    assert not one_way.messages.symmetric
    assert one_way.messages.edges == 5 + 6


def read_only(values: Any) -> np.ndarray[Any, Any]:
    array = np.array(values)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "changes",
    [
        {"edges": EDGES.T},
        {"edges": EDGES.astype(float)},
        {"edges": np.concatenate([EDGES, EDGES, EDGES[::-1], [[3], [3]]], 1)},
        {"features": read_only(FEATURES), "labels": read_only(GOOD["labels"])},
        {"features": torch.tensor(FEATURES, dtype=torch.bfloat16, requires_grad=True)},
        {"features": sparse.csr_array(FEATURES)},
        {"features": torch.tensor(FEATURES).to_sparse()},
        {"train": [True, True, False, False, False, False]},
        {"train": torch.tensor([0.0, 1.0])},
        {"sensitive": [1, 1, 2, 2, 1, 2], "sensitive_positive": 2},
        {"sensitive": list("aabbab"), "sensitive_positive": "b"},
    ],
)
def test_other_forms_of_the_same(changes: dict[str, Any]) -> None:
    assert same(build(**changes), build())


def test_groups_of_other_values_keep_their_names() -> None:
    assert build(sensitive=list("aabbab"), sensitive_positive="a").groups == ("b", "a")


def nan_at(place: int, values: Any) -> np.ndarray[Any, Any]:
    array = np.array(values, dtype=float)
    array.flat[place] = np.nan
    return array


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        # features
        ({"features": nan_at(3, FEATURES)}, "feature 1 of node 1 is nan"),
        ({"features": FEATURES[:, 0]}, r"\(nodes, features\), found \(6,\)"),
        ({"features": [["a", "b"]] * 6}, "features: expected numbers, found .* such as 'a'"),
        ({"features": [[1, 2], [1]]}, "features: expected an array of numbers"),
        ({"features": FEATURES * 1j}, "complex128"),
        ({"feature_names": ["a"]}, "1 names for 2 features"),
        # labels
        ({"labels": [0, 1]}, r"labels: expected one a node, shape \(6,\), found \(2,\)"),
        ({"labels": [[0], [1], [0], [1], [0], [1]]}, r"found \(6, 1\)"),
        ({"labels": [0, 1, -2, 1, 0, 1]}, "labels 0..C-1 .* found -2, 0, 1"),
        ({"labels": [0] * 6}, "C at least 2"),
        ({"labels": [0, 1, 0, 1, 0, 2], "classes": ("no", "yes")}, "label 2 is outside of the 2"),
        ({"labels": [0, 1, 0.5, 1, 0, 1]}, "labels: expected whole numbers, found 0.5 at node 2"),
        ({"labels": [0, 1, np.inf, 1, 0, 1]}, "found inf at node 2"),
        ({"labels": list("ababab")}, "labels: expected numbers, found .* such as 'a'"),
        ({"labels": [0, 1, -1, 1, 0, 1]}, "node 2 is in a split but has no label"),
        ({"train": [0], "val": [1, 3]}, "no node of the class '1' is in the training split"),
        # the sensitive attribute
        ({"sensitive": [0, 1]}, r"'sensitive': expected one a node, shape \(6,\), found \(2,\)"),
        ({"sensitive": nan_at(2, GOOD["sensitive"])}, "found nan at node 2"),
        ({"sensitive": [0, None, 1, 1, 0, 1]}, "expected numbers, found object"),
        ({"sensitive": [1, 2, 1, 2, 1, 2]}, "found 1, 2. Say which value .*sensitive_positive"),
        ({"sensitive": [0, 1, 2, 1, 0, 1]}, "found 0, 1, 2.*many_groups"),
        ({"sensitive": [1] * 6}, "must be 0 or 1 and have both; found 1"),
        ({"sensitive": [0, 3, 3, 3, 0, 3], "many_groups": True}, "none without a node; found 0, 3"),
        ({"sensitive": [-1, 0, 1, 1, 0, 1], "many_groups": True}, "found -1, 0, 1"),
        ({"sensitive_positive": 2}, "one of them 2 .* found 0, 1"),
        ({"sensitive": [1, 2, 3, 1, 2, 3], "sensitive_positive": 2}, "two values.* found 1, 2, 3"),
        ({"sensitive": nan_at(2, GOOD["sensitive"]), "sensitive_positive": 1}, "found 0.0, nan"),
        ({"groups": ("a",)}, "1 names for 2 groups"),
        # edges
        ({"edges": [[6, 1], [1, 2]]}, r"edge 0 names node 6; there are 0..5"),
        ({"edges": [[0, 1], [1, -1]]}, r"edge 1 names node -1; there are 0..5"),
        ({"edges": np.zeros((3, 4))}, r"\(2, E\) or \(E, 2\), found \(3, 4\)"),
        ({"edges": [0, 1, 2]}, r"found \(3,\)"),
        ({"edges": [[0, 1], [1, 2], [2.5, 3]]}, "edge 2 names node 2.5; expected whole numbers"),
        ({"edges": nan_at(0, EDGES)}, "edge 0 names node nan"),
        ({"edges": [["a", "b"], ["b", "c"]]}, "edges: expected numbers"),
        # splits
        ({"val": [1, 2]}, r"node 1 is there twice, in the split\(s\) train, val"),
        ({"val": [2, 2]}, r"node 2 is there twice, in the split\(s\) val"),
        ({"val": []}, "the val split is empty"),
        ({"val": np.zeros(6, bool)}, "the val split is empty"),
        ({"test": [6]}, r"the test split names node 6; there are 0..5"),
        ({"test": [-1]}, "the test split names node -1"),
        ({"test": [4.5]}, "the test split names node 4.5; expected whole numbers"),
        ({"train": np.ones(5, bool)}, r"mask of the train split has the shape \(5,\)"),
        ({"train": [[0, 1]]}, r"the train split has the shape \(1, 2\)"),
    ],
)
def test_bad_input_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as refused:
        build(**changes, name="people")
    assert str(refused.value).startswith("people: ")


def test_more_groups_and_unknown_labels_when_asked_for() -> None:
    graph = build(
        sensitive=[0, 1, 2, 2, 1, 0], many_groups=True, labels=[0, 1, 0, -1, 0, 1], val=[2]
    )
    assert graph.groups == ("0", "1", "2")
    assert graph.labels[3] == -1


def test_columns_can_be_left_out() -> None:
    graph = build(feature_names=["age", "debt"])
    assert graph.without_columns(["age"]).feature_names == ("debt",)
    assert torch.equal(graph.without_columns(["age"]).features[:, 0], graph.features[:, 1])
    with pytest.raises(DataError, match="no feature is called town"):
        graph.without_columns(["town"])
    with pytest.raises(DataError, match="no feature is left"):
        graph.without_columns(["age", "debt"])


ARRAYS = {name: value for name, value in GOOD.items() if name != "edges"}


@pytest.mark.parametrize("layout", [sparse.csr_array, sparse.csc_matrix, sparse.coo_array])
def test_a_sparse_adjacency(layout: Any) -> None:
    matrix = layout(sparse.coo_array((np.full(5, 7.0), EDGES), shape=(6, 6)))
    assert same(Graph.from_csr(matrix, **ARRAYS), build())


def test_another_adjacency_is_refused() -> None:
    with pytest.raises(DataError, match=r"shape \(5, 5\), but there are 6 nodes"):
        Graph.from_csr(sparse.eye_array(5), **ARRAYS)
    with pytest.raises(DataError, match="found ndarray"):
        Graph.from_csr(np.eye(6), **ARRAYS)


def test_pyg_data() -> None:
    masks = {
        f"{split}_mask": torch.isin(torch.arange(6), torch.tensor(GOOD[split]))
        for split in ("train", "val", "test")
    }
    data = SimpleNamespace(
        x=torch.tensor(FEATURES),
        edge_index=torch.tensor(EDGES),
        y=torch.tensor(GOOD["labels"]),
        **masks,
    )
    assert Graph.from_pyg(data).sensitive is None
    assert same(Graph.from_pyg(data, sensitive=GOOD["sensitive"]), build())
    for name in ("sens", "sensitive"):
        named = SimpleNamespace(**vars(data), **{name: torch.tensor(GOOD["sensitive"])})
        assert same(Graph.from_pyg(named), build())
    data.val_mask = None
    with pytest.raises(DataError, match="it has no val_mask"):
        Graph.from_pyg(data)


def test_a_node_without_neighbours_needs_its_self_loop() -> None:
    edges = [[0, 1], [1, 2]]
    quick: dict[str, Any] = {
        "teacher": Teacher(epochs=1),
        "epochs": 1,
        "rounds": 1,
        "hidden": 4,
        "objective": "none",
    }
    distill(build(edges=edges), **quick)
    with pytest.raises(DataError, match="no edge leads to node 3"):
        distill(build(edges=edges, self_loops=False), **quick)


def test_edges_made_symmetric_are_told() -> None:
    given = {
        "features": torch.randn(4, 2), "labels": [0, 1, 0, 1], "sensitive": [0, 1, 1, 0],
        "train": [0, 1], "val": [2], "test": [3],
    }  # fmt: skip
    once = Graph.build(edges=[[0, 1, 2], [1, 2, 3]], symmetrise=True, **given)
    assert once.notes == ()
    mixed = Graph.build(edges=[[0, 1, 1], [1, 0, 2]], **given)
    assert "1 of 3 edges had no edge back" in mixed.notes[0]
    assert Graph.build(edges=[[0, 1, 1], [1, 0, 2]], symmetrise=False, **given).notes == ()
