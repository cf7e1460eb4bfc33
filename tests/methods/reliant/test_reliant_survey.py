from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from modicum.errors import ConfigError
from modicum.methods.reliant.data.sources import load_graph
from modicum.methods.reliant.data.survey import accuracy_ceiling, base_rates, data, describe
from modicum.methods.reliant.data.tables import Table
from modicum.methods.reliant.graphs.graph import Graph

PNG = b"\x89PNG\r\n\x1a\n"


def small(**changes):
    """Eight people, two groups, a path of the first five with one edge between the groups."""
    rng = np.random.default_rng(0)
    arrays = {
        "features": np.column_stack([rng.random(8), np.ones(8)]),
        "edges": [[0, 1, 2, 3], [1, 2, 3, 4]],
        "labels": [0, 1, 0, 1, 1, 1, 0, 1],
        "sensitive": [0, 0, 1, 1, 1, 0, 1, 0],
        "train": [0, 1, 2, 3],
        "val": [4, 5],
        "test": [6, 7],
        "feature_names": ("age", "one"),
        "classes": ("no", "yes"),
        "groups": ("a", "b"),
        "label_name": "hired",
    }
    return Graph.build(**(arrays | changes))


def test_describes_what_is_there():
    found = describe(small())
    assert found["nodes"] == 8
    assert found["edges"] == {"undirected": 4, "directed": 8, "self_loops": 8}
    assert found["degree"] == {"min": 0, "median": 1, "mean": 1, "max": 2, "isolated": 3}
    assert found["constant_columns"] == ["one"]
    assert found["classes"] == [{"class": "no", "nodes": 3}, {"class": "yes", "nodes": 5}]
    assert found["groups"] == [
        {"group": "a", "nodes": 4, "share": 0.5, "base_rate": 0.75},
        {"group": "b", "nodes": 4, "share": 0.5, "base_rate": 0.5},
    ]
    assert found["homophily"]["label"]["within"] == 1 / 4
    # Edge ends by group: a has 3 of 8, b has 5.
    assert found["homophily"]["group"] == {"within": 3 / 4, "expected": (9 + 25) / 64}
    assert found["base_rate_gap"] == 0.25
    assert found["accuracy_at_most_with_equal_shares"] == 1 - 0.5 * 0.25
    assert {key: value for key, value in found["splits"][1].items() if key != "base_rate"} == {
        "split": "train",
        "group": "b",
        "nodes": 2,
        "hired=no": 1,
        "hired=yes": 1,
    }
    assert found["usable"]
    text = " ".join(found["warnings"])
    assert "nodes without a neighbour, which hear only of themselves: 3 of 8" in text
    assert "1 feature has the same value for all nodes: one" in text
    assert "no 'yes' in the group 'b'" in text
    assert json.loads(json.dumps(found)) == found


def test_a_directed_graph():
    found = describe(small(edges=[[0, 1, 1], [1, 0, 2]], symmetrise=False, self_loops=False))
    assert found["edges"] == {"undirected": 2, "directed": 3, "self_loops": 0}


def test_a_split_without_a_group_cannot_be_used():
    found = describe(small(val=[4], test=[5, 6, 7]))
    assert not found["usable"]
    assert found["problems"] == [
        "the val split has no node of the group 'a': its gap is not defined. Divide the nodes anew."
    ]


def test_without_a_sensitive_attribute():
    found = describe(dataclasses.replace(small(), sensitive=None, groups=()))
    assert not found["usable"]
    assert "no sensitive attribute" in found["problems"][0]
    assert "groups" not in found
    assert [row["nodes"] for row in found["splits"]] == [4, 2, 2]


def test_unlabelled_nodes_and_more_classes():
    labels = [0, 1, 2, 2, -1, 1, 0, 1]
    graph = small(
        labels=labels, val=[5, 6], test=[7, 3], train=[0, 1, 2], classes=("no", "yes", "maybe")
    )
    found = describe(graph, positive_class=2)
    assert found["unlabelled"] == 1
    assert [row["base_rate"] for row in found["groups"]] == [0, 2 / 3]
    # 4 and 3 labelled nodes, so that the smaller group gives way.
    assert found["accuracy_at_most_with_equal_shares"] == pytest.approx(1 - 3 / 7 * 2 / 3)
    assert any("of 3 classes, 'maybe' counts" in warning for warning in found["warnings"])
    with pytest.raises(ConfigError, match=r"must be 0\.\.2"):
        describe(graph, positive_class=3)


def test_leaks_are_reported():
    labels = [0, 1, 0, 1, 1, 1, 0, 1]
    graph = small(features=np.array([labels, np.arange(8)]).T, feature_names=("given", "age"))
    found = describe(graph)
    assert "given" in {leak["column"] for leak in found["leaks"]}
    assert any("given: it alone predicts the label" in warning for warning in found["warnings"])


def test_ceiling_of_two_groups():
    assert accuracy_ceiling([0.5, 0.5], [0.32, 0.67]) == pytest.approx(1 - 0.5 * 0.35)
    assert accuracy_ceiling([900, 100], [0.2, 0.6]) == pytest.approx(1 - 0.1 * 0.4)
    assert accuracy_ceiling([1, 1], [0.3, 0.3]) == 1


def test_no_decisions_exceed_the_ceiling_and_some_attain_it():
    """The best decisions for given shares change as few as they must; all shares are tried."""
    rng = np.random.default_rng(0)
    sizes, positive = np.array([40, 60, 100]), np.array([8, 33, 70])
    ceiling = accuracy_ceiling(sizes, positive / sizes)
    choices = np.stack(np.meshgrid(*(np.arange(size + 1) for size in sizes), indexing="ij"), -1)
    shares = choices / sizes
    allowed = np.ptp(shares, -1) <= 1e-12
    accuracy = 1 - np.abs(choices - positive).sum(-1) / sizes.sum()
    assert accuracy[allowed].max() <= ceiling + 1e-12
    assert accuracy[allowed].max() >= ceiling - 2 / sizes.sum()  # shares are multiples of 1/size
    # Whoever is decided positive, at allowed shares.
    s = np.repeat(np.arange(3), sizes)
    y = np.concatenate([np.arange(n) < p for n, p in zip(sizes, positive, strict=True)])
    for choice in rng.permutation(choices[allowed])[:100]:
        of_groups = zip(sizes, choice, strict=True)
        decided = np.concatenate([rng.permutation(n) < chosen for n, chosen in of_groups])
        assert np.ptp(base_rates(decided.astype(int), s, 3)) <= 1e-12
        assert (decided == y).mean() <= ceiling


def test_verb(tmp_path):
    found = data("blocks", picture=tmp_path / "blocks.png")
    assert found["usable"]
    assert found["source"] == "blocks"
    assert (tmp_path / "blocks.png").read_bytes().startswith(PNG)
    # Base rates of .32 and .67.
    rates = [row["base_rate"] for row in found["groups"]]
    assert rates == pytest.approx([0.32, 0.67], abs=0.03)


def test_verb_on_a_table(tmp_path):
    rng = np.random.default_rng(0)
    rows = [f"{rng.random():.3f},{'xy'[n % 2]},{rng.integers(2)}" for n in range(200)]
    table = tmp_path / "people.csv"
    table.write_text("\n".join(["age,race,hired", *rows]) + "\n")
    found = data(str(table), Table(label="hired", sensitive="race"))
    assert found["graph"] == "people.csv"
    assert [row["group"] for row in found["groups"]] == ["x", "y"]
    with pytest.raises(ConfigError, match="--label and --sensitive"):
        data(str(table))
    table.write_text("age,race,hired\n0.5,x,1\n,y,0\n")
    found = data(str(table), Table(label="hired", sensitive="race"))
    assert not found["usable"]
    assert str(table) in found["problems"][0]
    with pytest.raises(ConfigError, match="nothing here"):
        data(str(tmp_path / "nothing here"))


def test_recidivism(shared_data):
    found = describe(load_graph(f"recidivism={shared_data('bail')}"))
    assert found["edges"] == {"undirected": 311870, "directed": 623740, "self_loops": 18876}
    assert [row["nodes"] for row in found["groups"]] == [18876 - 9559, 9559]
    assert found["classes"][1]["nodes"] == 7104
    assert {"WHITE", "TIME"} <= {leak["column"] for leak in found["leaks"]}
    assert sum(row["nodes"] for row in found["splits"] if row["split"] == "train") == 5662


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu():
    assert describe(small().to("cuda")) == describe(small())
