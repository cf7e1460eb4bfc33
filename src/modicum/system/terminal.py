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
from collections.abc import Mapping, Sequence
from typing import Any, cast

_ESCAPES = {code: f"\\x{code:02x}" for code in [*range(32), *range(127, 160)]}
"""Control characters, the line feed included: names of files may hold them."""


class ByName(dict[str, Any]):
    """Values by other people's names, such as those of classes, which are printed as they are."""


def counted(count: int, one: str, several: str = "") -> str:
    """How many there are: `1 image`, `2,000 images`; `several` is needed where it is not `one`s."""
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"


_NARROWEST = 20
"""Columns that text is wrapped into beside a name."""


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
    such lists as a table each. A table that is too wide becomes a block a record.

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
        parts.append(f"{_title(name)}\n{_table(records, width)}")
    return "\n\n".join(parts)


def _table(records: Sequence[Mapping[str, Any]], width: int | None) -> str:
    """Records in rows, numbers to the right; or where that is too wide, in blocks."""
    columns = list(dict.fromkeys(column for record in records for column in record))
    rows = [[_format(record.get(column, "")) for column in columns] for record in records]
    heads = [_title(column) for column in columns]
    sizes = [max(map(len, cells)) for cells in zip(heads, *rows, strict=True)]
    if width is not None and sum(sizes) + 2 * len(sizes) - 2 > width:
        blocks = (
            _block(
                [(_title(column), record[column]) for column in columns if column in record], width
            )
            for record in records
        )
        return "\n\n".join(blocks)
    right = [all(isinstance(r.get(c, 0), int | float) for r in records) for c in columns]
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
            lines.append((label, value))
    return lines


def _has_own_line(item: Any) -> bool:
    return isinstance(item, list | dict) or str(item).endswith(".")


def _format(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if math.isnan(value):
            return "undefined"
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return ", ".join(f"{_title(key)}: {_format(item)}" for key, item in items) or "none"
    if isinstance(value, list):
        return ", ".join(_format(item) for item in cast("list[Any]", value)) or "none"
    return "" if value is None else plain(value)
