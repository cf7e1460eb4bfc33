from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modicum.errors import DataError
from modicum.methods.reliant.data.delimited import plain, read_edges, read_rows


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "file.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        'id,name\n1,"Meier, A."\n\n2,"so ""x"""\n',
        'id;name\r\n1; "Meier, A." \r\n2;"so ""x"""\r\n',
        '\ufeffid\tname\n1\tMeier, A.\n2\tso "x"',
    ],
)
def test_rows_of_all_usual_kinds(content: str, tmp_path: Path) -> None:
    content = content.replace('; "', ';"').replace('" \r', '"\r')
    if "\t" in content:
        content = content.replace('so "x"', '"so ""x"""')
    rows = read_rows(written(tmp_path, content))
    assert list(rows.columns) == ["id", "name"]
    assert rows.columns["name"].tolist() == ["Meier, A.", 'so "x"']
    assert rows.numbers("id").tolist() == [1, 2]


def test_rows_know_their_lines(tmp_path: Path) -> None:
    rows = read_rows(written(tmp_path, 'a,b\n\n1,"two\nlines"\n2,x\n'))
    assert rows.lines.tolist() == [3, 5]
    with pytest.raises(DataError, match=r"file.csv, line 5, column 'b': .*found 'x'"):
        rows.take(np.array([1])).numbers("b")
    with pytest.raises(DataError, match=r"no column is called 'c'. Its columns: a, b"):
        rows.numbers("c")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "it is empty"),
        ("a,b\n", "a header and no rows"),
        ("a,b\n1,2\n1,2,3\n", "line 3: expected 2 fields as in the header, found 3"),
        ("a,a\n1,2\n", "two columns are called 'a'"),
        (",a\n0,2\n", "column 1 has no name"),
        ("1,2\n3,4\n", "expected names of columns. Add a header"),
        ('a,b\n1,"2\n3,4\n', "unexpected end of data"),
        (b"a,b\n1,caf\xe9\n", "0xe9 at 9, which is no UTF-8"),
    ],
)
def test_rows_refuse_broken_tables(content: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_rows(written(tmp_path, content))


def test_rows_refuse_what_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.csv"):
        with pytest.raises(DataError, match="cannot be read"):
            read_rows(path)


@pytest.mark.parametrize(
    "content",
    [
        "0 1\n2 0\n",
        "0.000e+00 1.000e+00\n2.0 0.0\n",
        "from,to\n0,1\n2,0\n",
        '"source";"target"\n"0";"1"\n"2";"0"',
        "\ufeff# comment\n\n0\t1\r\n# more\n2\t0\r\n",
    ],
)
def test_edges_by_number(content: str, tmp_path: Path) -> None:
    edges = read_edges(written(tmp_path, content), 3)
    assert edges.dtype == np.int64
    assert edges.tolist() == [[0, 2], [1, 0]]


@pytest.mark.parametrize("content", ["", "\n\n", "# nobody\n", "a,b\n"])
def test_edges_may_be_none(content: str, tmp_path: Path) -> None:
    assert read_edges(written(tmp_path, content), 3).shape == (2, 0)
    assert read_edges(written(tmp_path, content), {"x": 0}).shape == (2, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0 1\n2 3\n", r"line 2: found 2 3; expected two whole numbers of 0..2"),
        ("a b\n# x\n0 1\n\n-1 2\n", r"line 5: found -1 2"),
        ("0 1\n1.5 2\n", r"line 2: found 1.5 2"),
        ("0 1\nnan 2\n", r"line 2: found nan 2"),
        ("0,1\n0,x\n", r"line 2: found 0 x; expected two whole numbers"),
        ("0,1\n0,1,5\n", r"line 2: expected two nodes, found 3 fields"),
        ("0,1,0.5\n0,1,5\n", r"line 1: expected two nodes, found 3 fields"),
        ("0\n1\n", r"line 1: expected two nodes, found 1 fields"),
    ],
)
def test_edges_refuse_what_names_no_node(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_edges(written(tmp_path, content), 3)


@pytest.mark.parametrize("header", ["", "from,to\n"])
def test_edges_by_id(header: str, tmp_path: Path) -> None:
    ids = {"anna": 0, "b, c": 1, "7": 2}
    edges = read_edges(written(tmp_path, f'{header}anna,"b, c"\n7.0,anna\n'), ids)
    assert edges.tolist() == [[0, 2], [1, 0]]
    with pytest.raises(DataError, match=r"line \d: 'bert' is the id of no row; .*'anna'"):
        read_edges(written(tmp_path, f"{header}anna,7\nanna,bert\n"), ids)


def test_numbers_are_written_in_one_way() -> None:
    assert [plain(text) for text in ("1", "1.0", "01", "-1e0", "0.50", "x1", "nan")] == [
        "1", "1", "1", "-1", "0.5", "x1", "nan",
    ]  # fmt: skip
