"""Text files with columns: tables with a header, and lists of edges."""

from __future__ import annotations

import csv
import io
import itertools
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from modicum.errors import DataError
from modicum.system.files import read_bytes

Texts = npt.NDArray[np.object_]

_DELIMITERS = ",;\t"


@dataclass(frozen=True, eq=False)
class Rows:
    """A table as it stands in a file: every field is text."""

    path: Path
    columns: Mapping[str, Texts]
    """The fields of each column, `(N,)` strings without the blanks around them."""
    lines: npt.NDArray[np.int64]
    """`(N,)`: the line of the file each row begins on, from 1."""
    _numbers: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.lines)

    def column(self, name: str) -> Texts:
        """The fields of a column; a `DataError` if there is none of that name."""
        if name not in self.columns:
            known = ", ".join(self.columns)
            raise DataError(f"{self.path}: no column is called {name!r}. Its columns: {known}.")
        return self.columns[name]

    def numbers(self, name: str) -> npt.NDArray[np.float64]:
        """A column of finite numbers, `(N,)`; a `DataError` if it is none."""
        texts = self.column(name)
        values = self.parsed(name)
        for bad in np.flatnonzero(~np.isfinite(values)):
            where = f"{self.place(bad)}, column {name!r}"
            raise DataError(f"{where}: expected a number, found {texts[bad]!r}.")
        return values

    def parsed(self, name: str) -> npt.NDArray[np.float64]:
        """See `as_numbers`, found once for a column."""
        if name not in self._numbers:
            self._numbers[name] = as_numbers(self.column(name))
        return self._numbers[name]

    def place(self, row: int | np.integer) -> str:
        """File and line of a row, for messages."""
        return f"{self.path}, line {self.lines[row]}"

    def take(self, index: npt.NDArray[np.int64]) -> Rows:
        """Some of the rows."""
        columns = {name: values[index] for name, values in self.columns.items()}
        return Rows(self.path, columns, self.lines[index])


def as_numbers(texts: Texts) -> npt.NDArray[np.float64]:
    """Numbers for texts, NaN where a text is none."""
    try:
        return texts.astype(np.float64)
    except ValueError:
        return np.array([_number(text) for text in texts], np.float64)


def plain(text: str) -> str:
    """One way to write a number, so that `1`, `1.0` and `01` are equal; other texts unchanged."""
    value = _number(text)
    if not np.isfinite(value):
        return text
    return str(int(value)) if value == int(value) else repr(value)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def read_text(path: Path) -> str:
    """A file of UTF-8, with or without a byte order mark; a `DataError` if it is none."""
    try:
        text = read_bytes(path, 1 << 33).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: found the byte 0x{error.object[error.start]:02x} at {error.start}, which is "
            f"no UTF-8 text; expected CSV or TSV. Save it as UTF-8, a spreadsheet as CSV."
        ) from error
    if "\0" in text:
        raise DataError(
            f"{path}: holds characters of the code 0, as UTF-16 without a byte order mark does. "
            f"Save it as UTF-8."
        )
    return text


def read_rows(path: Path) -> Rows:
    """A table with one header line, whose delimiter is a comma, a semicolon or a tab.

    Fields may be quoted with `"`. Empty lines are passed over.

    Raises:
        DataError: It cannot be read, has no header or no rows, a column has no name or that of
            another, or a row has another number of fields than the header.
    """
    return parse_rows(path, read_text(path))


def parse_rows(path: Path, text: str, skip: int = 0) -> Rows:
    """As `read_rows`, from a text with `skip` lines before the header; `path` is for messages."""
    records = _records(path, text)
    header = next(itertools.islice(records, skip, None), (0, []))[1]
    if not header:
        raise DataError(f"{path}: it is empty; expected a header line and a row a person.")
    seen: set[str] = set()
    for place, name in enumerate(header):
        if not name:
            raise DataError(
                f"{path}: column {place + 1} has no name. Name it, or remove it: numbers of rows "
                f"are no feature."
            )
        if name in seen:
            raise DataError(f"{path}: two columns are called {name!r}. Rename one.")
        seen.add(name)
    if np.isfinite(as_numbers(np.array(header, dtype=object))).all():
        raise DataError(
            f"{path}: the first line is {', '.join(header[:6])}; expected names of columns. Add a "
            f"header."
        )
    rows = list(records)
    for line, fields in rows:
        if len(fields) != len(header):
            raise DataError(
                f"{path}, line {line}: expected {len(header)} fields as in the header, found "
                f"{len(fields)}."
            )
    if not rows:
        raise DataError(f"{path}: it has a header and no rows.")
    lines, records_of_fields = zip(*rows, strict=True)
    by_column = zip(header, zip(*records_of_fields, strict=True), strict=True)
    columns = {name: np.array(fields, dtype=object) for name, fields in by_column}
    return Rows(path, columns, np.array(lines))


def _records(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Line and fields of every record that is not empty."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    try:
        begin = 1
        for fields in reader:
            if fields:
                yield begin, [field.strip() for field in fields]
            begin = reader.line_num + 1
    except csv.Error as error:
        raise _unusual(f"{path}, line {reader.line_num}", error) from error


def _unusual(where: str, error: csv.Error) -> DataError:
    mend = "Is a quote left open before, or is this no text of columns?"
    return DataError(f"{where}: {error}. {mend}")


def _delimiter(text: str) -> str:
    """The delimiter that the first line has most of, outside of quotes."""
    first = re.sub(r'"[^"]*"', "", text.partition("\n")[0])
    return max(_DELIMITERS, key=first.count)


def read_edges(path: Path, ids: int | Mapping[str, int]) -> npt.NDArray[np.int64]:
    """A list of edges: two nodes a line, between them a comma, a semicolon, a tab or blanks.

    A first line that names no nodes is taken as a header. Empty lines, and lines that begin with
    `#`, are passed over. Whole numbers may be written as floats. `ids` is how many nodes there are,
    if the file has their numbers from 0; or the number of each id.

    Returns:
        `(2, E)`, int64: numbers of nodes, in the order of the file.

    Raises:
        DataError: The file cannot be read, a line has not two fields, or one names no node.
    """
    text = read_text(path)
    if isinstance(ids, int) and (edges := _loaded(text, ids)) is not None:
        return edges
    pairs = list(_pairs(path, text))
    texts, first = {name for _, pair in pairs for name in pair}, pairs[0][1] if pairs else []
    if isinstance(ids, int):
        number = {name: _whole(name, ids) for name in texts}
        header = any(np.isnan(_number(name)) for name in first)
    else:
        number = {name: ids.get(name, ids.get(plain(name), -1)) for name in texts}
        header = bool(first) and all(number[name] < 0 for name in first)
    pairs = pairs[header:]
    edges = np.array([[number[a], number[b]] for _, (a, b) in pairs], np.int64).reshape(-1, 2)
    for row, column in np.argwhere(edges < 0):
        line, pair = pairs[row]
        if isinstance(ids, int):
            raise DataError(
                f"{path}, line {line}: found {' '.join(pair)}; expected two whole numbers of "
                f"0..{ids - 1}, the rows of the table from 0."
            )
        raise DataError(
            f"{path}, line {line}: {pair[column]!r} is the id of no row; expected ids such as "
            f"{', '.join(map(repr, itertools.islice(ids, 3)))}."
        )
    return edges.T


def _whole(text: str, below: int) -> int:
    """A text as a whole number from 0, -1 if it is none."""
    value = _number(text)
    return int(value) if 0 <= value < below and value % 1 == 0 else -1


def _loaded(text: str, nodes: int) -> npt.NDArray[np.int64] | None:
    """Edges of a text of nothing but numbers of nodes, fast; None for any other."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "loadtxt: input contained no data")
            numbers = np.loadtxt(io.StringIO(text), delimiter=_edge_separator(text), ndmin=2)
    except ValueError:
        return None
    # Comparisons with NaN are false, so that it is none either.
    fine = (numbers >= 0) & (numbers < nodes) & (numbers % 1 == 0)
    return numbers.astype(np.int64).T if fine.all() and numbers.shape[1] == 2 else None


def _pairs(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Line and two fields of every edge, the header included."""
    separator = _edge_separator(text)
    lines: Iterable[str] = io.StringIO(text)
    if separator is None:
        lines, separator = (" ".join(line.split()) for line in lines), " "
    try:
        for number, found in enumerate(csv.reader(lines, delimiter=separator), 1):
            pair = [field.strip() for field in found]
            if not any(pair) or pair[0].startswith("#"):
                continue
            if len(pair) != 2:
                raise DataError(
                    f"{path}, line {number}: expected two nodes, found {len(pair)} fields. Edges "
                    f"have no weights here; remove other columns."
                )
            yield number, pair
    except csv.Error as error:
        raise _unusual(str(path), error) from error


def _edge_separator(text: str) -> str | None:
    """The delimiter of the first line that is an edge; None for blanks."""
    for line in io.StringIO(text):
        if line.strip() and not line.startswith("#"):
            found = max(_DELIMITERS, key=line.count)
            return found if found in line else None
    return None
