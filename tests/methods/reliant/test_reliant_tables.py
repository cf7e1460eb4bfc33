from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modicum.errors import ConfigError, DataError
from modicum.methods.reliant.data.delimited import read_rows
from modicum.methods.reliant.data.similarity import similarity_graph
from modicum.methods.reliant.data.sources import blocks
from modicum.methods.reliant.data.tables import Table, join, join_table, read_table

COUNT = 40


def people(count: int = COUNT, first: int = 0) -> list[dict[str, Any]]:
    """Rows whose label and group are told apart by nothing but their own columns."""
    random = np.random.default_rng(first)
    return [
        {
            "who": f"p{first + k}",
            "age": 20 + int(random.integers(0, 50)),
            "city": ("Rome", "Oslo")[k % 2],
            "race": ("white", "black")[k // 2 % 2],
            "grant": ("no", "yes")[k // 4 % 2],
        }
        for k in range(count)
    ]


def write(path: Path, rows: list[dict[str, Any]], columns: list[str] | None = None) -> Path:
    columns = columns or list(rows[0])
    lines = [",".join(columns), *(",".join(str(row[c]) for c in columns) for row in rows)]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "people.csv", people())


@pytest.fixture
def friends(tmp_path: Path) -> Path:
    path = tmp_path / "friends.csv"
    path.write_text("a,b\np0,p1\np1,p2\np2,p1\np9,p39\n")
    return path


def read(path: Path, drop: Sequence[str] = (), **options: Any):
    usual = {"label": "grant", "sensitive": "race", "id_column": "who"}
    shares = {"train_share": 0.3, "val_share": 0.2}
    return read_table(path, Table(**usual | shares | options), drop)


def test_table_becomes_a_graph(table: Path, friends: Path) -> None:
    graph = read(table, edges=friends)
    rows = people()
    assert graph.feature_names == ("age", "city=Oslo", "city=Rome")
    assert (graph.classes, graph.groups) == (("no", "yes"), ("black", "white"))
    assert graph.labels.tolist() == [int(row["grant"] == "yes") for row in rows]
    assert graph.sensitive is not None
    assert graph.sensitive.tolist() == [int(row["race"] == "white") for row in rows]
    assert (graph.label_name, graph.sensitive_name, graph.name) == ("grant", "race", "people.csv")
    assert graph.messages.edges == COUNT + 2 * 3
    age = torch.tensor([float(row["age"]) for row in rows])
    seen = age[graph.train]
    expected = (age - seen.mean()) / seen.std(unbiased=False)
    torch.testing.assert_close(graph.features[:, 0], expected)
    assert [len(part) for part in (graph.train, graph.val, graph.test)] == [12, 8, 20]
    assert graph.ids[39] == "p39"
    assert graph.similarity is None


def test_table_is_connected_by_similarity_of_its_features(table: Path) -> None:
    graph = read(table)
    directed = similarity_graph(graph.encoding.apply(read_rows(table)), 0.8)
    assert (
        graph.messages.edges
        == COUNT + np.unique(np.concatenate([directed, directed[::-1]], 1), axis=1).shape[1]
    )
    assert graph.notes == ("Edges by similarity of the features, threshold 0.8.",)


def test_table_without_ids_has_row_numbers(table: Path, tmp_path: Path) -> None:
    edges = tmp_path / "edges.txt"
    edges.write_text("0 1\n39 3\n")
    graph = read(table, edges=edges, id_column=None, drop=["who"])
    assert graph.messages.edges == COUNT + 4
    assert graph.ids[:2] == ("0", "1")


def test_values_that_are_positive_are_number_1(table: Path) -> None:
    graph = read(table, positive_label="no", sensitive_positive="black")
    assert (graph.classes, graph.groups) == (("yes", "no"), ("white", "black"))
    for options in ({"positive_label": "maybe"}, {"sensitive_positive": "maybe"}):
        with pytest.raises(DataError, match=r"maybe: the column '\w+' has the values \w+, \w+"):
            read(table, **options)


def test_numbers_are_values_too_and_in_order(tmp_path: Path) -> None:
    rows = [row | {"grant": (-1, "1.0", 10)[k % 3], "race": (2, 1)[k % 2]} for k, row in
            enumerate(people(60))]  # fmt: skip
    path = write(tmp_path / "t.csv", rows)
    graph = read(path)
    assert (graph.classes, graph.groups) == (("-1", "1", "10"), ("1", "2"))
    assert graph.labels[:3].tolist() == [0, 1, 2]
    assert read(path, positive_label="10").classes == ("-1", "10", "1")


def test_sensitive_column_is_a_feature_only_on_request(table: Path) -> None:
    assert not any("race" in name for name in read(table).feature_names)
    kept = read(table, keep_sensitive=True)
    assert kept.feature_names[-2:] == ("race=black", "race=white")
    assert kept.sensitive is not None
    assert torch.equal(kept.features[:, -1], kept.sensitive.float())
    assert read(table, sensitive=None).sensitive is None


def test_more_groups_are_an_option(tmp_path: Path) -> None:
    rows = [row | {"race": "abc"[k % 3]} for k, row in enumerate(people())]
    path = write(tmp_path / "t.csv", rows)
    with pytest.raises(DataError, match=r"'race' has the values a, b, c; expected two"):
        read(path)
    assert read(path, many_groups=True).groups == ("a", "b", "c")


def test_empty_labels_are_in_no_split(tmp_path: Path) -> None:
    rows = [row | {"grant": row["grant"] if k % 4 else ""} for k, row in enumerate(people())]
    graph = read(write(tmp_path / "t.csv", rows))
    unknown = torch.arange(0, COUNT, 4)
    assert (graph.labels[unknown] == -1).all()
    known = torch.cat([graph.train, graph.val, graph.test]).sort().values
    assert known.tolist() == [k for k in range(COUNT) if k % 4]
    assert "10 rows have no label" in graph.notes[-1]


def test_split_column_is_followed(tmp_path: Path) -> None:
    rows = [row | {"part": ("Train", "val", "test", "", "train")[k % 5]} for k, row in
            enumerate(people())]  # fmt: skip
    graph = read(write(tmp_path / "t.csv", rows), split_column="part")
    assert graph.val.tolist() == list(range(1, COUNT, 5))
    assert graph.train.tolist() == [k for k in range(COUNT) if k % 5 in (0, 4)]
    assert "part" not in graph.feature_names
    rows[3]["part"] = "holdout"
    with pytest.raises(DataError, match=r"line 5, column 'part': expected train.*'holdout'"):
        read(write(tmp_path / "t.csv", rows), split_column="part")


def test_missing_values_are_refused_or_left_out(
    tmp_path: Path, friends: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = people()
    rows[1]["age"], rows[5]["race"] = "NA", ""
    path = write(tmp_path / "t.csv", rows)
    with pytest.raises(DataError, match="line 3, column 'age': the value is missing"):
        read(path, edges=friends)
    with caplog.at_level(logging.WARNING, "modicum"):
        graph = read(path, edges=friends, skip_bad=True)
    assert graph.nodes == COUNT - 2
    assert graph.ids[:2] == ("p0", "p2")
    assert graph.messages.edges == graph.nodes + 2  # p9-p39 alone is left
    loop = graph.messages.sources == graph.messages.targets
    assert {graph.ids[k] for k in graph.messages.sources[~loop]} == {"p9", "p39"}
    assert "left out 2 of 40 rows for a missing value" in caplog.text
    assert graph.notes[0] in caplog.text


def test_dropped_columns_and_features(table: Path) -> None:
    graph = read(table, drop=["age", "city=Oslo"])
    assert graph.feature_names == ("city=Rome",)
    later = read(table).without_columns(["age", "city=Oslo"])
    assert torch.equal(later.features, graph.features)
    assert later.encoding.apply(read_rows(table)).shape == (COUNT, 1)
    with pytest.raises(DataError, match="--drop town: there is no column or feature"):
        read(table, drop=["town"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"label": "granted"}, DataError, "no column is called 'granted'. Its columns: who, age"),
        ({"sensitive": "grant"}, ConfigError, "must be different columns"),
        ({"similarity": 1.0}, ConfigError, "--similarity 1.0: must be above 0 and below 1"),
        ({"label": None}, ConfigError, "--label"),
        ({"id_column": "city"}, DataError, "line 4, column 'city': 'Rome' is also in line 2"),
        (
            {"label": "who", "id_column": None},
            DataError,
            "no row .* in the train split",
        ),
        ({"train_share": 0.8, "val_share": 0.3}, ConfigError, "leave a rest"),
    ],
)
def test_tables_refuse_options_that_do_not_fit(
    options: dict[str, Any], error: type[Exception], message: str, table: Path
) -> None:
    with pytest.raises(error, match=message):
        read(table, **options)


def test_column_of_many_values_is_no_label(tmp_path: Path) -> None:
    rows = [row | {"grant": k} for k, row in enumerate(people(60))]
    with pytest.raises(DataError, match=r"'grant' has 60 different values .0, 1, 2"):
        read(write(tmp_path / "t.csv", rows))


def test_new_people_are_joined_by_edges(table: Path, friends: Path, tmp_path: Path) -> None:
    graph = read(table, edges=friends)
    new = write(tmp_path / "new.csv", people(3, first=100), ["city", "who", "age"])
    edges = tmp_path / "new_edges.csv"
    edges.write_text("p100,p0\np101,p102\n")
    joined = join_table(graph, new, edges)
    assert joined.nodes == COUNT + 3
    assert joined.ids[COUNT:] == ("p100", "p101", "p102")
    assert joined.sensitive is None
    assert joined.labels[COUNT:].tolist() == [-1] * 3
    assert torch.equal(joined.features[:COUNT], graph.features)
    expected = torch.from_numpy(graph.encoding.apply(read_rows(new))).float()
    assert torch.equal(joined.features[COUNT:], expected)
    assert torch.equal(joined.train, graph.train)
    assert joined.messages.edges == graph.messages.edges + 3 + 4
    assert joined.messages.symmetric
    with pytest.raises(DataError, match="edges of the training table came from a file"):
        join_table(graph, new)
    edges.write_text("")
    assert join_table(graph, new, edges).messages.edges == graph.messages.edges + 3
    with pytest.raises(DataError, match="line 2: 'p0' is already in the training table"):
        join_table(graph, table, edges)


def test_new_people_are_joined_by_similarity_as_if_they_had_been_there(
    table: Path, tmp_path: Path
) -> None:
    graph = read(table)
    new = write(tmp_path / "new.csv", people(5, first=100))
    joined = join_table(graph, new)
    directed = similarity_graph(joined.features.numpy(), 0.8, first=COUNT)
    wanted = {(int(a), int(b)) for a, b in directed.T} | {(int(b), int(a)) for a, b in directed.T}
    source, target = joined.messages.sources, joined.messages.targets
    touches_new = (torch.maximum(source, target) >= COUNT) & (source != target)
    found = set(zip(source[touches_new].tolist(), target[touches_new].tolist(), strict=True))
    assert found == wanted
    assert min(np.bincount(directed[0], minlength=COUNT + 5)[COUNT:]) >= 1
    old = ~(torch.maximum(source, target) >= COUNT)
    assert torch.equal(source[old], graph.messages.sources)
    assert torch.equal(target[old], graph.messages.targets)


def test_new_people_without_ids_know_each_other(table: Path, tmp_path: Path) -> None:
    graph = read(table, id_column=None, drop=["who"])
    new = write(tmp_path / "new.csv", people(3, first=100))
    edges = tmp_path / "edges.txt"
    edges.write_text("0 2\n")
    joined = join_table(graph, new, edges)
    assert joined.messages.edges == graph.messages.edges + 3 + 2
    assert joined.ids[COUNT:] == ("0", "1", "2")


def test_join_takes_arrays_and_refuses_what_does_not_fit() -> None:
    graph = blocks(nodes=60)
    joined = join(graph, np.ones((2, 16)), [[60, 61], [0, 60]])
    assert type(joined) is type(graph)
    assert joined.messages.edges == graph.messages.edges + 2 + 4
    with pytest.raises(DataError, match=r"\(nodes, 16\), found \(2, 3\)"):
        join(graph, np.ones((2, 3)), [[], []])
    with pytest.raises(DataError, match="new nodes: feature 'merit 1' of node 1 is nan"):
        join(graph, [[0.0] * 16, [0, np.nan] + [0] * 14], [[], []])
    with pytest.raises(DataError, match="names node 62"):
        join(graph, np.ones((2, 16)), [[60], [62]])


def test_wide_tables_are_read_in_a_time_that_grows_with_their_columns(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    columns = 20_000
    lines = ["label,group," + ",".join(f"gene{number}" for number in range(columns))]
    for row, values in enumerate(random.integers(0, 10_000, (40, columns)).tolist()):
        lines.append(f"{'yn'[row % 2]},{'ab'[row // 2 % 2]}," + ",".join(map(str, values)))
    (tmp_path / "genes.csv").write_text("\n".join(lines))
    began = time.process_time()
    graph = read_table(tmp_path / "genes.csv", Table(label="label", sensitive="group"))
    assert graph.features.shape == (40, columns)
    assert time.process_time() - began < 6


@pytest.mark.parametrize(
    "amounts", [["30,000", "1,250", "999", "41,000"], ["0,5", "1,25", "2", "3,75"],
                ["$5", "$12.50", "$1,000", "$3"], ["5 %", "12,5 %", "80 %", "7 %"]],
)  # fmt: skip
def test_amounts_never_become_a_feature_a_value(tmp_path: Path, amounts: list[str]) -> None:
    lines = [f"{amounts[row % 4]};{'ab'[row % 2]};{'yn'[row // 2 % 2]}" for row in range(40)]
    (tmp_path / "a.csv").write_text("income;group;label\n" + "\n".join(lines))
    with pytest.raises(DataError, match=r"line \d, column 'income': numbers such as"):
        read_table(tmp_path / "a.csv", Table(label="label", sensitive="group"))


def test_features_of_one_name_are_refused(tmp_path: Path) -> None:
    rows = [f"{'bc'[row % 2]},{row},{'yn'[row % 2]},{'uv'[row // 2 % 2]}" for row in range(20)]
    (tmp_path / "a.csv").write_text("a,a=b,label,group\n" + "\n".join(rows))
    with pytest.raises(DataError, match="2 features would be called 'a=b'"):
        read_table(tmp_path / "a.csv", Table(label="label", sensitive="group"))


def test_pipes_and_open_quotes_are_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match="no ordinary file"):
        read_table(tmp_path / "pipe.csv", Table(label="label"))
    (tmp_path / "a.csv").write_text('a,label\n"' + "x" * 200_000)
    with pytest.raises(DataError, match="Is a quote left open"):
        read_table(tmp_path / "a.csv", Table(label="label"))
