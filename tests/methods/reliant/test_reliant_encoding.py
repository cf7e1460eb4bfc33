from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from modicum.errors import DataError
from modicum.methods.reliant.data.delimited import Rows, parse_rows
from modicum.methods.reliant.data.encoding import CATEGORY_LIMIT, Encoding

TABLE = "age,city,same,label\n30,Rome,1,0\n50,Oslo,1,1\n40,Rome,1,0\n90,Bern,1,1\n"
NAMES = ["age", "city", "same"]


def rows_of(text: str) -> Rows:
    return parse_rows(Path("people.csv"), text)


def fitted(**options: bool) -> Encoding:
    return Encoding.fit(rows_of(TABLE), NAMES, np.array([0, 1, 2]), **options)


def test_numbers_are_standardised_by_training_rows_and_texts_made_columns() -> None:
    encoding = fitted()
    assert encoding.names == ("age", "city=Bern", "city=Oslo", "city=Rome", "same")
    x = encoding.apply(rows_of(TABLE))
    deviation = np.sqrt(200 / 3)
    np.testing.assert_allclose(x[:, 0], [-10 / deviation, 10 / deviation, 0, 50 / deviation])
    assert x[:, 1:4].tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert (x[:, 4] == 0).all()  # constant
    raw = fitted(standardise=False).apply(rows_of(TABLE))
    assert raw[:, [0, 4]].tolist() == [[30, 1], [50, 1], [40, 1], [90, 1]]


def test_encoding_keeps_some_features_and_is_jsonable() -> None:
    encoding = fitted()
    assert json.loads(json.dumps(dataclasses.asdict(encoding)))["names"] == list(encoding.names)
    some = encoding.keep(["city=Oslo", "age"])
    rows = rows_of("city,age\nOslo,40\n")  # same is not needed any more, nor the label
    assert some.apply(rows).tolist() == [[1, 0]]


def test_unknown_texts_count_as_none_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    rows = rows_of("age,city,same\n40,Rome,1\n40,Paris,1\n40,Lima,1\n")
    with caplog.at_level(logging.WARNING, "modicum"):
        x = fitted().apply(rows)
    assert x[:, 1:4].tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert "2 value(s)" in caplog.text
    assert "'Paris' in line 3" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("age,same\n40,1\n", "Missing: city; unknown: none"),
        ("age,city,same,size\n40,Rome,1,2\n", "Missing: none; unknown: size"),
        ("age,city,same\n40,Rome,1\nNA,Rome,1\n", r"line 3, column 'age': the value is missing"),
        ("age,city,same\n40,,1\n", r"line 2, column 'city': the value is missing"),
        ("age,city,same\nold,Rome,1\n", r"line 2, column 'age': expected a number, found 'old'"),
        ("age,city,same\ninf,Rome,1\n", r"line 2, column 'age': expected a number, found 'inf'"),
    ],
)
def test_encoding_refuses_another_table(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fitted().apply(rows_of(text))


def test_names_and_ids_are_no_features(caplog: pytest.LogCaptureFixture) -> None:
    many = "\n".join(f"n{k}" for k in range(CATEGORY_LIMIT + 1))
    with pytest.raises(DataError, match=r"'name' has 65 different texts such as 'n0'.*--drop"):
        Encoding.fit(rows_of(f"name\n{many}"), ["name"], np.arange(3))
    with pytest.raises(DataError, match="no column is left"):
        Encoding.fit(rows_of(TABLE), [], np.arange(3))
    with caplog.at_level(logging.WARNING, "modicum"):
        Encoding.fit(rows_of("size\n1\n2\n3O\n4\n"), ["size"], np.arange(3))
    assert "line 4, column 'size': taken as text because of '3O'" in caplog.text
