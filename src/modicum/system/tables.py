"""Tables as CSV files that a spreadsheet shows and never runs."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modicum.system.files import atomic_write

_FORMULA = re.compile(r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""How a cell begins that spreadsheets take for a formula, the wide characters of Asia included."""
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")


def cell(value: Any) -> Any:
    """What stands in a cell: text that a spreadsheet would run gets an apostrophe before it.

    That is the usual way: spreadsheets show the text and do not compute it. Numbers, and text that
    is one, stay as they are.
    """
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return "'" + value
    return value


def plain(text: str) -> str:
    """The text of a cell that `cell` gave."""
    return text[1:] if text[:1] == "'" and cell(text[1:]) != text[1:] else text


def write_csv(
    path: Path,
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[str],
    *,
    marked: bool = False,
) -> None:
    """Write records as CSV in UTF-8, atomically; see `cell` for what stands in it.

    Args:
        path: The file.
        rows: Values by column; what is absent is left empty, and what is of no column, out.
        columns: In this order.
        marked: Begin with the mark that tells spreadsheets that it is UTF-8.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(map(cell, columns))
    writer.writerows([cell(row.get(column, "")) for column in columns] for row in rows)
    try:  # file names need not be UTF-8
        content = text.getvalue().encode(errors="strict" if marked else "surrogateescape")
    except UnicodeEncodeError:
        content = text.getvalue().encode(errors="backslashreplace")
    with atomic_write(path) as file:
        file.write(b"\xef\xbb\xbf" * marked + content)
