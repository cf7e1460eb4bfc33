from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from modicum.errors import DataError
from modicum.methods.reliant.data.credit import COLUMNS, read_credit
from modicum.methods.reliant.data.sources import load_graph

NAMES = (
    "LIMIT_BAL,SEX,EDUCATION,MARRIAGE,AGE,PAY_0,PAY_2,PAY_3,PAY_4,PAY_5,PAY_6,"
    "BILL_AMT1,BILL_AMT2,BILL_AMT3,BILL_AMT4,BILL_AMT5,BILL_AMT6,"
    "PAY_AMT1,PAY_AMT2,PAY_AMT3,PAY_AMT4,PAY_AMT5,PAY_AMT6"
)
NUMBERED = ",".join(f"X{number}" for number in range(1, 24))
RAW = [
    "20000,2,2,1,24,2,2,-1,-1,-2,-2,3913,3102,689,0,0,0,0,689,0,0,0,0,1",
    "50000,1,1,2,25,1,0,2,-1,3,3,-500,45000,40000,1000,0,-2000,5000,0,100,2000,0,100,0",
    "100000,1,5,3,40,0,-1,-2,0,0,0" + 12 * ",3275" + ",0",
    "100000,1,3,0,40,0,-1,-2,0,0,0" + 12 * ",3275" + ",1",
]
# By hand. First row: the limit is 610 dollars, bills are 120, 90, 20, 0, 0, 0 and payments
# 0, 20, 0, 0, 0, 0; 120 / 610 < 0.2. Second: limit 1530, bills -20, 1370, 1220, 30, 0, -60,
# payments 150, 0, 0, 60, 0, 0; 1370 / 1530 > 0.8 > 1220 / 1530. The others: 3050, 100, 100.
DERIVED = [
    [0, 1, 0, 1, 2, 120, 20, 0, 6, 0, 120, 0, 1, 4, 1],
    [1, 0, 1, 0, 3, 1370, 150, 3, 4, 1, 0, 150, 3, 9, 1],
    [1, 0, 0, 0, 0, 100, 100, 0, 6, 0, 100, 100, 0, 0, 0],
    [0, 0, 0, 0, 1, 100, 100, 0, 6, 0, 100, 100, 0, 0, 0],
]
WITH_IDS = [f"{number},{row}" for number, row in enumerate(RAW, 1)]
FILES = {
    "two headers": [f",{NUMBERED},Y", f"ID,{NAMES},default payment next month", *WITH_IDS],
    "numbered": [f"{NUMBERED},Y", *RAW],
    "names with points": [f"ID,{NAMES},default.payment.next.month", *WITH_IDS],
    "names in quotes, semicolons": [
        ";".join(f'"{name}"' for name in NAMES.replace("PAY_0", "PAY_1").split(","))
        + ';"default payment next month"',
        *(row.replace(",", ";") for row in RAW),
    ],
}


def as_rows(table: dict[str, np.ndarray]) -> list[list[float]]:
    assert tuple(table) == COLUMNS
    return np.stack(list(table.values()), 1).tolist()


@pytest.mark.parametrize("kind", FILES)
def test_credit_is_derived_from_the_public_file(kind: str, tmp_path: Path) -> None:
    (tmp_path / "UCI_Credit_Card.csv").write_text("\n".join(FILES[kind]))
    assert as_rows(read_credit(tmp_path)) == DERIVED


def test_credit_reads_its_own_file_first(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\n".join(FILES["numbered"]))
    rows = [",".join(map(str, row)) for row in DERIVED[:2]]
    (tmp_path / "credit.csv").write_text("\n".join([",".join(COLUMNS), *rows]))
    assert as_rows(read_credit(tmp_path)) == DERIVED[:2]


def test_credit_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither credit.csv nor"):
        read_credit(tmp_path)
    path = tmp_path / "credit.csv"
    path.write_text("\n".join([f"{NUMBERED},Y", RAW[0], RAW[1].replace("45000", "x")]))
    with pytest.raises(DataError, match=r"credit.csv, line 3, column 'X13': .*'x'"):
        read_credit(tmp_path)
    path.write_text("\n".join([f"{NUMBERED},Y", RAW[0].replace("20000", "0", 1)]))
    with pytest.raises(DataError, match="line 2, column 'X1': expected a limit in NT"):
        read_credit(tmp_path)
    path.write_text(f"{NAMES}\n{RAW[0].rpartition(',')[0]}")
    with pytest.raises(DataError, match="'default payment next month'"):
        read_credit(tmp_path)


def test_credit_reads_a_spreadsheet_if_pandas_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "default of credit card clients.xls").write_bytes(b"\xd0\xcf\x11\xe0")
    monkeypatch.setitem(sys.modules, "pandas", None)  # an import of it fails
    with pytest.raises(DataError, match="Export it as CSV"):
        read_credit(tmp_path)

    class Sheet:
        def to_csv(self, *, index: bool, header: bool) -> str:
            assert not index
            assert not header
            return "\n".join(FILES["two headers"])

    pandas = SimpleNamespace(read_excel=lambda path, header: Sheet())
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    assert as_rows(read_credit(tmp_path)) == DERIVED


def test_credit_graph_drops_single_and_divides_as_published(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = [RAW[k] for k in random.integers(0, 4, 2500)]
    rows = [f"{int(random.integers(1, 90)) * 10000},{row.partition(',')[2]}" for row in rows]
    (tmp_path / "credit.csv").write_text("\n".join([f"{NUMBERED},Y", *rows]))
    graph = load_graph(f"credit={tmp_path}")
    assert graph.feature_names == tuple(n for n in COLUMNS if n not in (COLUMNS[0], "Single"))
    assert len(graph.feature_names) == 13
    assert graph.labels[graph.train].bincount().tolist() == [500, 500]
    assert graph.groups == ("25 or older", "younger than 25")
    assert graph.features[graph.train].mean(0).abs().max() < 1e-4
    (tmp_path / "credit_edges.txt").write_text("0 1\n1.0 2.0\n")
    assert load_graph(f"credit={tmp_path}").messages.edges == 2500 + 4
