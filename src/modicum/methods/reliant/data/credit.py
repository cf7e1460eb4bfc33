"""The Credit table, from its own file or from the public file it was made of.

The public file is UCI's "default of credit card clients" (30,000 card holders in Taiwan, 2005;
amounts in NT$, months from September back to April). Derived from it, all 15 columns of all rows
equal those of the published table.
"""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modicum.errors import DataError
from modicum.methods.reliant.data.delimited import Rows, parse_rows, read_text
from modicum.system.arrays import refuse_unpacked
from modicum.system.files import open_ordinary

COLUMNS = (
    "NoDefaultNextMonth", "Married", "Single", "Age", "EducationLevel",
    "MaxBillAmountOverLast6Months", "MaxPaymentAmountOverLast6Months",
    "MonthsWithZeroBalanceOverLast6Months", "MonthsWithLowSpendingOverLast6Months",
    "MonthsWithHighSpendingOverLast6Months", "MostRecentBillAmount", "MostRecentPaymentAmount",
    "TotalOverdueCounts", "TotalMonthsOverdue", "HistoryOfOverduePayments",
)  # fmt: skip

_NT_DOLLARS = 32.75
"""For one US dollar."""

_UCI = (
    "LIMIT_BAL", "SEX", "EDUCATION", "MARRIAGE", "AGE", *(f"PAY_{n}" for n in (0, 2, 3, 4, 5, 6)),
    *(f"BILL_AMT{n}" for n in range(1, 7)), *(f"PAY_AMT{n}" for n in range(1, 7)),
)  # fmt: skip
"""Columns X1 to X23 of the public file; its last, Y, is whether payment was in default."""

_DEFAULT = ("default payment next month", "default.payment.next.month", "Y")
_MARKS = ("NoDefaultNextMonth", "LIMIT_BAL", "X23")
"""Names that show in the first two lines what a file is."""

Numbers = npt.NDArray[np.float64]


def read_credit(folder: Path) -> dict[str, Numbers]:
    """The 15 columns of the Credit table, `(N,)` each.

    The folder has `credit.csv`, or the public file under any name as CSV, with or without the line
    X1, X2, … above its names (an .xls file if pandas and xlrd are installed).

    Raises:
        DataError: Neither is there, or the one that is cannot be read.
    """
    for path in (folder / "credit.csv", *sorted(folder.glob("*.csv"))):
        if path.is_file() and any(mark in _first_lines(path) for mark in _MARKS):
            return _columns_of(path, read_text(path))
    for path in sorted([*folder.glob("*.xls"), *folder.glob("*.xlsx")]):
        return _columns_of(path, _spreadsheet(path))
    raise DataError(
        f"{folder}: found neither credit.csv nor the file 'default of credit card clients' of the "
        f"UCI repository as CSV, which has a column LIMIT_BAL. Put one of them there."
    )


def _first_lines(path: Path) -> str:
    try:
        with open_ordinary(path) as file:
            start = file.read(1 << 16).decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error
    return "\n".join(start.splitlines()[:2])


def _columns_of(path: Path, text: str) -> dict[str, Numbers]:
    first, second = [*text.split("\n", 2), ""][:2]
    if _MARKS[0] in first:
        rows = parse_rows(path, text)
        return {name: rows.numbers(name) for name in COLUMNS}
    rows = parse_rows(path, text, skip="LIMIT_BAL" not in first and "LIMIT_BAL" in second)
    return derive_credit(rows)


def _spreadsheet(path: Path) -> str:
    """A spreadsheet as CSV."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                refuse_unpacked(path, archive)
        pandas: Any = importlib.import_module("pandas")
        return pandas.read_excel(path, header=None).to_csv(index=False, header=False)
    except DataError:
        raise
    except Exception as error:  # a damaged one makes its reader fail with whatever it meets
        raise DataError(
            f"{path}: the spreadsheet cannot be read here ({error}). Export it as CSV from any "
            f"spreadsheet program, or: pip install pandas xlrd."
        ) from error


def derive_credit(rows: Rows) -> dict[str, Numbers]:
    """The columns of the Credit table, `(N,)` whole numbers each, from those of the public file.

    These are under UCI's names, or X1 to X23 and Y. A `DataError` is raised if one is missing, or a
    value is no number.
    """
    table, default = _uci_numbers(rows)
    limit, _, degree, marriage, age = table[:, :5].T
    status, bills, payments = np.split(table[:, 5:], 3, axis=1)
    limit, bills, payments = map(_tens, (limit, bills, payments))
    owed = bills.clip(min=0)
    spent = bills / limit[:, None]
    late = status > 0
    # Columns go back in time: a run begins where a month is late and that to the right is not.
    begins = late & ~np.pad(late[:, 1:], ((0, 0), (0, 1)))
    columns: Mapping[str, Any] = {
        "NoDefaultNextMonth": 1 - default,
        "Married": marriage == 1,
        "Single": marriage == 2,
        "Age": age < 25,
        "EducationLevel": np.select([degree == level for level in (1, 2, 3)], [3, 2, 1], 0),
        "MaxBillAmountOverLast6Months": owed.max(1),
        "MaxPaymentAmountOverLast6Months": payments.max(1),
        "MonthsWithZeroBalanceOverLast6Months": (payments > bills).sum(1),
        "MonthsWithLowSpendingOverLast6Months": (spent < 0.2).sum(1),
        "MonthsWithHighSpendingOverLast6Months": (spent > 0.8).sum(1),
        "MostRecentBillAmount": owed[:, 0],
        "MostRecentPaymentAmount": payments[:, 0],
        "TotalOverdueCounts": begins.sum(1),
        "TotalMonthsOverdue": status.clip(min=0).sum(1),
        "HistoryOfOverduePayments": late.any(1),
    }
    return {name: columns[name].astype(np.float64) for name in COLUMNS}


def _tens(amounts: Numbers) -> Numbers:
    """NT$ in US dollars, rounded to tens. No whole amount of NT$ lies halfway."""
    return np.round(amounts / _NT_DOLLARS, -1)


def _uci_numbers(rows: Rows) -> tuple[Numbers, Numbers]:
    """X1 to X23 as `(N, 23)`, and Y."""
    names = [f"X{place}" for place in range(1, 24)] if "X1" in rows.columns else list(_UCI)
    if "PAY_1" in rows.columns and "PAY_0" not in rows.columns:
        names[5] = "PAY_1"
    label = next((name for name in _DEFAULT if name in rows.columns), _DEFAULT[0])
    table = np.stack([rows.numbers(name) for name in names], 1)
    for bad in np.flatnonzero(table[:, 0] < _NT_DOLLARS):
        raise DataError(
            f"{rows.place(bad)}, column {names[0]!r}: expected a limit in NT$, found "
            f"{table[bad, 0]:g}."
        )
    return table, rows.numbers(label)
