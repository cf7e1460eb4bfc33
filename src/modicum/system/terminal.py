"""What people read in a terminal: results as text, warnings, nothing that is data left out.

Names of files, classes and groups are other people's text: no markup is interpreted in them, and
control characters, which could make a terminal do things, are shown as escapes.
"""

from __future__ import annotations

import logging
import math
import re
import shutil
import sys
import textwrap
from collections.abc import Container, Mapping, Sequence
from typing import Any, cast

_ESCAPES = {code: f"\\x{code:02x}" for code in [*range(32), *range(127, 160)]}
"""Control characters, the line feed included: names of files may hold them."""
_NARROWEST = 20
"""Columns that text is wrapped into beside a name."""
_USUAL_WIDTH = 80
"""Columns that a table of counts by name may have where there is no terminal."""
_PERCENT = re.compile(r"top\d{1,4}|(.*_)?(accuracy|iou)|.*_gap(_.*)?")
"""Names of numbers that are in percent, if they are no `Share`."""


class Share(float):
    """A share of a whole: JSON has the fraction, people read it in percent."""

    @classmethod
    def marked(cls, value: Any, names: Container[str]) -> Any:
        """Numbers, or lists of them, of such names, in any nesting, as shares."""
        if isinstance(value, list):
            return [cls.marked(item, names) for item in cast("list[Any]", value)]
        if not isinstance(value, Mapping):
            return value
        fields = cast("Mapping[str, Any]", value).items()
        return {n: cls._of(x) if n in names else cls.marked(x, names) for n, x in fields}

    @classmethod
    def _of(cls, value: Any) -> Any:
        if isinstance(value, list):
            return [cls._of(item) for item in cast("list[Any]", value)]
        return cls(value) if isinstance(value, float) else value


def quantity(name: str, value: float) -> str:
    """A number with four significant digits, and with its sign where it is in percent."""
    return f"{value:.4g} %" if _PERCENT.fullmatch(name) else f"{value:.4g}"


class ByName(dict[str, Any]):
    """Values by other people's names, such as those of classes, which are printed as they are."""


def counted(count: int, one: str, several: str = "") -> str:
    """How many there are: `1 image`, `2,000 images`; `several` is needed where it is not `one`s."""
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"


def plain(text: object) -> str:
    """Text in one line without control characters."""
    return str(text).translate(_ESCAPES)


class PlainFormatter(logging.Formatter):
    """Log records whose messages cannot move the cursor; lines of ours stay lines."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        return "\n".join(map(plain, super().format(record).split("\n")))


def render(result: Mapping[str, Any], width: int | None = None) -> str:
    """A verb's result as text: numbers and words in lines, lists of records as tables, a mapping of
    such lists as a table each. A table that is too wide becomes a block a record; where there is
    room, a column of counts by name becomes a column for each name.

    Args:
        result: What a verb returned.
        width: Columns there are; none: those of the terminal, and no limit where there is none.
    """
    if width is None and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
    tables: list[tuple[str, Sequence[Mapping[str, Any]]]] = []
    single: dict[str, Any] = {}
    for name, value in result.items():
        if _is_table(value):
            tables.append((name, value))
        elif isinstance(value, Mapping) and value and all(map(_is_table, value.values())):
            tables += [(f"{name} of {key}", table) for key, table in value.items()]
        else:
            single[name] = value
    parts = [_block(_lines(single), width)] if single else []
    for name, records in tables:
        parts.append(f"{_title(name)}{_table(records, width)}")
    return "\n\n".join(parts)


def _table(records: Sequence[Mapping[str, Any]], width: int | None) -> str:
    """Records in rows, numbers by name spread where these fit; or in blocks, where none do."""
    field = next((name for name, value in records[0].items() if isinstance(value, ByName)), "")
    if field:
        rows = [next(iter(record.values())) for record in records]
        names = list(dict.fromkeys(name for record in records for name in record[field]))
        names.sort(key=lambda name: rows.index(name) if name in rows else len(rows))
        table = _rows(_spread(records, field, names), width or _USUAL_WIDTH, names)
        if table:
            return f" (last columns: {_title(field)})\n{table}"
    if table := _rows(records, width):
        return f"\n{table}"
    columns = list(dict.fromkeys(column for record in records for column in record))
    return "\n" + "\n\n".join(
        _block([(_title(c), _format(record[c], c)) for c in columns if c in record], width)
        for record in records
    )


def _spread(
    records: Sequence[Mapping[str, Any]], field: str, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Records with a last field for each name that one of their fields may have a number for."""
    spread: list[dict[str, Any]] = []
    for record in records:
        others = {name: value for name, value in record.items() if name != field}
        if not others.keys().isdisjoint(names):
            return []
        spread.append(others | {name: record[field].get(name, "") for name in names})
    return spread


def _rows(
    records: Sequence[Mapping[str, Any]], width: int | None, names: Sequence[str] = ()
) -> str:
    """Records in rows, numbers to the right; empty where there is no room for them. Columns that
    other people named are among the `names`.
    """
    columns = list(dict.fromkeys(column for record in records for column in record))
    if not columns:
        return ""
    rows = [[_format(record.get(column, ""), column) for column in columns] for record in records]
    heads = [plain(column) if column in names else _title(column) for column in columns]
    sizes = [max(map(len, cells)) for cells in zip(heads, *rows, strict=True)]
    if width is not None and sum(sizes) + 2 * len(sizes) - 2 > width:
        return ""
    right = [all(isinstance(r.get(c) or 0, int | float) for r in records) for c in columns]
    lines = [heads, ["-" * size for size in sizes], *rows]
    return "\n".join(
        "  ".join(
            cell.rjust(size) if numeric else cell.ljust(size)
            for cell, size, numeric in zip(line, sizes, right, strict=True)
        ).rstrip()
        for line in lines
    )


def _block(lines: Sequence[tuple[str, Any]], width: int | None) -> str:
    """Names and values side by side; what is longer than a line goes on below."""
    indent = max(len(name) for name, _ in lines) + 2
    printed: list[str] = []
    for name, value in lines:
        text = _format(value)
        columns = width or sys.maxsize
        # Names, paths and commands can be copied: words are never broken, and what has room in a
        # line of its own gets it, unless it is a sentence.
        if columns - indent < len(text) <= columns and not text.endswith("."):
            moved = text.rjust(min(len(text) + 2, columns))  # indented where there is room
            printed += [name, moved] if name else [moved]
            continue
        # Where names leave little room beside them, text goes below them.
        below = columns - indent < min(_NARROWEST, len(text))
        left = 2 if below else indent
        wrapped = textwrap.wrap(
            text, max(columns - left, 1), break_long_words=False, break_on_hyphens=False
        )
        first, *others = ["", *wrapped] if below else wrapped or [""]
        if name or first:
            printed.append(f"{name.ljust(indent)}{first}".rstrip())
        printed += [" " * left + line for line in others]
    return "\n".join(printed)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _title(name: str) -> str:
    """A name of ours in words; names of others, such as `is_member=yes`, stay."""
    return name.replace("_", " ") if re.fullmatch(r"\w+", name) else plain(name)


def _lines(values: Mapping[str, Any], indent: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as indented lines; sentences, groups and records as a line each."""
    lines: list[tuple[str, Any]] = []
    for name, value in values.items():
        label = indent + (plain(name) if isinstance(values, ByName) else _title(str(name)))
        if isinstance(value, Mapping) and value:
            nested = cast("Mapping[str, Any]", value)
            lines += [(label, ""), *_lines(nested, indent + "  ")]
        elif isinstance(value, list) and any(map(_has_own_line, value)):
            several = cast("list[Any]", value)
            lines += [("" if number else label, text) for number, text in enumerate(several)]
        else:
            lines.append((label, _format(value, str(name))))
    return lines


def _has_own_line(item: Any) -> bool:
    return isinstance(item, list | dict) or str(item).endswith(".")


def _format(value: Any, name: str = "") -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Share):
        return f"{100 * value:.4g} %"
    if isinstance(value, float):
        if math.isnan(value):
            return "undefined"
        return quantity(name, value) if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return ", ".join(f"{_title(key)}: {_format(item)}" for key, item in items) or "none"
    if isinstance(value, list):
        return ", ".join(_format(item) for item in cast("list[Any]", value)) or "none"
    return "" if value is None else plain(value)
