"""What turns a table of people into features, on the training table and on later ones."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modicum.data.folders import some
from modicum.errors import DataError
from modicum.methods.reliant.data.delimited import Rows, Texts
from modicum.system.files import refuse_large

CATEGORY_LIMIT = 64
"""Different texts in a column above which it is taken for names or ids."""

MISSING = frozenset({"", ".", "?", "na", "n/a", "nan", "null"})
"""What stands for a missing value, in lower case."""

_AMOUNT = re.compile(r"[-+]?[$€£¥]? ?(\d{1,3}([., '\u00a0\u202f]\d{3})+|\d+)([.,]\d+)? ?[%$€£¥]?")
"""A number with separators of thousands, a decimal comma, a currency or a percent sign."""

_log = logging.getLogger("modicum")


def is_missing(texts: Texts) -> npt.NDArray[np.bool_]:
    """`(N,)`: where a value is missing."""
    if MISSING.isdisjoint(map(str.lower, texts)):
        return np.zeros(len(texts), np.bool_)
    return np.array([text.lower() in MISSING for text in texts], np.bool_)


@dataclass(frozen=True)
class Column:
    """How one column becomes features."""

    name: str
    mean: float = 0.0
    """Taken from a column of numbers, which is then divided by `deviation`."""
    deviation: float = 1.0
    values: tuple[str, ...] = ()
    """Values of a column of text, each a feature of 0 or 1. Empty for numbers."""

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features: the column's, or `column=value` for each value."""
        return tuple(f"{self.name}={value}" for value in self.values) or (self.name,)


@dataclass(frozen=True)
class Encoding:
    """How a table becomes features. Made by `fit` on a training table."""

    columns: tuple[Column, ...]
    names: tuple[str, ...]
    """The features it gives, in their order."""
    others: tuple[str, ...] = ()
    """Columns of the training table that are no features: a later table need not have them."""

    @classmethod
    def fit(
        cls, rows: Rows, names: Sequence[str], train: npt.NDArray[np.int64],
        standardise: bool = True,
    ) -> Encoding:  # fmt: skip
        """Find out how the columns `names`, without missing values, become features.

        Columns of numbers are standardised with mean and deviation of the rows `train`, or left as
        they are; columns of text become one feature a value.

        Raises:
            DataError: No column is left, or one of text has more than `CATEGORY_LIMIT` values.
        """
        if not names:
            raise DataError(f"{rows.path}: no column is left to be a feature.")
        columns = [_fit_column(rows, name, train, standardise) for name in names]
        features = tuple(feature for column in columns for feature in column.features)
        for name, count in Counter(features).items():
            if count > 1:
                raise DataError(
                    f"{rows.path}: {count} features would be called {name!r}: a column, and a "
                    f"value of another. Rename the column, or leave it out (--drop)."
                )
        used = set(names)
        others = tuple(name for name in rows.columns if name not in used)
        return cls(tuple(columns), features, others)

    def keep(self, names: Iterable[str]) -> Encoding:
        """The same with only some of its features, in the order of `names`."""
        return dataclasses.replace(self, names=tuple(names))

    def apply(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Features of a table with the columns of the training table: `(N, F)`, float64.

        Columns that are no features may be absent. A text that a column did not have in training
        is 0 in all features of the column, and told of in a warning.

        Raises:
            DataError: A column is absent or unknown, or a value is missing or no number.
        """
        wanted = set(self.names)
        needed = [column for column in self.columns if not wanted.isdisjoint(column.features)]
        absent = [column.name for column in needed if column.name not in rows.columns]
        known = {*self.others, *(column.name for column in self.columns)}
        unknown = [name for name in rows.columns if name not in known]
        if absent or unknown:
            raise DataError(
                f"{rows.path}: its columns are not those of the training table. Missing: "
                f"{', '.join(absent) or 'none'}; unknown: {', '.join(unknown) or 'none'}. Expected "
                f"{', '.join(column.name for column in needed)}."
            )
        refuse_missing(rows, [column.name for column in needed])
        size = 8 * len(rows) * sum(len(column.features) for column in needed)
        refuse_large(rows.path, 2 * size, "its features take")
        features: dict[str, npt.NDArray[np.float64]] = {}
        for column in needed:
            if column.values:
                features.update(_one_hot(rows, column))
            else:
                numbers = rows.numbers(column.name)
                features[column.name] = (numbers - column.mean) / column.deviation
        return np.stack([features[name] for name in self.names], 1)


def refuse_missing(rows: Rows, names: Iterable[str]) -> None:
    """Raise a `DataError` at the first missing value in one of these columns."""
    for name in names:
        missing = is_missing(rows.columns[name])
        if missing.any():
            raise DataError(
                f"{rows.place(int(missing.argmax()))}, column {name!r}: the value is missing "
                f"({int(missing.sum()):,} in this column). Fill it in, or remove the row."
            )


def _fit_column(rows: Rows, name: str, train: npt.NDArray[np.int64], standardise: bool) -> Column:
    texts = rows.columns[name]
    numbers = rows.parsed(name)
    is_text = np.isnan(numbers)
    if is_text.any():
        values, first = sorted(set(texts.tolist())), int(is_text.argmax())
        odd = set(texts[is_text].tolist())
        amounts = sum(_AMOUNT.fullmatch(text) is not None for text in odd)
        if amounts > max(2, 0.9 * len(odd)):
            raise DataError(
                f"{rows.place(first)}, column {name!r}: numbers such as {texts[first]!r} would "
                f"become a feature for each of {len(values)} texts. Write them as 1234.5, without "
                f"separators and units, or leave the column out (--drop)."
            )
        if len(values) > CATEGORY_LIMIT:
            raise DataError(
                f"{rows.path}: column {name!r} has {len(values):,} different texts such as "
                f"{texts[first]!r}; more than {CATEGORY_LIMIT} look like names or ids. Leave it "
                f"out (--drop), or name it as --id-column. Numbers are written with a point: 1.5."
            )
        if is_text.mean() < 0.5:
            _log.warning(
                f"{rows.place(first)}, column {name!r}: taken as text because of {texts[first]!r}, "
                f"though most values are numbers. If it is a slip, mend it."
            )
        return Column(name, values=tuple(values))
    if not np.isfinite(numbers).all():
        rows.numbers(name)  # which refuses the first
    if not standardise:
        return Column(name)
    seen = numbers[train]
    deviation = float(seen.std())
    # A column that is the same in all training rows says nothing; rounding makes its deviation
    # tiny rather than 0.
    constant = deviation <= 1e-12 * float(np.abs(seen).max())
    return Column(name, float(seen.mean()), 1.0 if constant else deviation)


def _one_hot(rows: Rows, column: Column) -> dict[str, npt.NDArray[np.float64]]:
    """A feature `(N,)` of 0 or 1 for each value, by its name."""
    texts = rows.columns[column.name]
    unknown = np.flatnonzero(~np.isin(texts, column.values))
    if len(unknown):
        _log.warning(
            f"{rows.path}: column {column.name!r} has {len(unknown)} value(s) that training did "
            f"not see, first {texts[unknown[0]]!r} in line {rows.lines[unknown[0]]}; they count as "
            f"none of {some(column.values)}."
        )
    named = zip(column.features, column.values, strict=True)
    return {name: (texts == value).astype(np.float64) for name, value in named}
