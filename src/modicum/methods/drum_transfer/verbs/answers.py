"""What listeners say of grooves, and whose they turn out to be."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from modicum.errors import DataError
from modicum.methods.drum_transfer.data.sources import read_table
from modicum.methods.drum_transfer.text.smf import MOST_BYTES
from modicum.system.files import read_bytes
from modicum.system.tables import plain

PATTERNS = ("consistent", "repetitive", "chaotic", "not gradable")
"""What the pattern of a groove can be."""
YES_NO = ("yes", "no")
_IN_A_PAIR = re.compile(r"\d+[AB]")


class Annotation(NamedTuple):
    """What one listener says of one groove: a row of the CSV, whose columns are these fields.

    Every field but `item` may be empty, which is no answer; `_ALLOWED` has the others.
    """

    page: str
    """Which page it was heard on; empty for a form filled in without one."""
    listener: str
    item: str
    """Which groove of the page, such as `3B`; or the name of a groove."""
    pattern: str
    fills: str
    """Whether it has any."""
    musical: str
    """Whether its fills are musical; all of it, if it has none."""
    short: str
    """Whether it ends too early."""
    preferred: str
    """Whether it is the better of its pair; equal: neither is."""
    comment: str


COLUMNS = Annotation._fields
"""Of the CSV of answers."""
KEY_COLUMNS = ("page", "item", "source", "name")
"""Of the CSV of a key: which groove an item is, and where it comes from."""
_ALLOWED = {
    "pattern": PATTERNS,
    "fills": YES_NO,
    "musical": YES_NO,
    "short": YES_NO,
    "preferred": (*YES_NO, "equal"),
}
_SAID = (
    *((f"pattern {pattern}", "pattern", pattern) for pattern in PATTERNS),
    ("has fills", "fills", "yes"),
    ("musical", "musical", "yes"),
    ("ends too early", "short", "yes"),
)


def read_answers(path: Path) -> list[Annotation]:
    """Read the answers that a page, or a filled-in form, holds.

    Raises:
        DataError: It cannot be read, lacks a column, or holds an answer that is none of those
            allowed; with the line.
    """
    answers: list[Annotation] = []
    for line, row in _read_csv(path, COLUMNS):
        given = {name: row[name].strip() for name in COLUMNS}
        for name, allowed in _ALLOWED.items():
            if given[name] not in ("", *allowed):
                raise DataError(
                    f"{path}, line {line}, column {name}: found {given[name]!r}; expected "
                    f"{', '.join(allowed)} or nothing."
                )
        answers.append(Annotation(**given))
    return answers


class Origin(NamedTuple):
    """Where an item of a page comes from."""

    source: str
    name: str


def read_key(path: Path) -> dict[tuple[str, str], Origin]:
    """Read which groove each item of a page is, by page and item.

    Raises:
        DataError: It cannot be read, lacks a column, or names an item twice.
    """
    key: dict[tuple[str, str], Origin] = {}
    for line, row in _read_csv(path, KEY_COLUMNS):
        item = row["page"], row["item"]
        if item in key:
            raise DataError(f"{path}, line {line}: the item {row['item']} is there twice.")
        key[item] = Origin(row["source"], row["name"])
    return key


def join_answers(
    answers: Sequence[Annotation], key: Mapping[tuple[str, str], Origin], *, tests: bool = False
) -> dict[str, Any]:
    """Count what was said of each source, as the official repository counts its expert's answers.

    Args:
        answers: Of any number of listeners.
        key: By page and item.
        tests: Add p-values, between two sources: Fisher's exact of what was said, the two-sided one
            of the sign test of preferences. They take judgements as independent, which several of
            one groove, or by one listener, are not: they are then too small.

    Returns:
        `table`: a record for each thing that can be said, with the number of grooves of each source
        it was said of. `preference`: how often each source was preferred, how often neither.

    Raises:
        DataError: There are no answers, or one is of an item that the key does not have, or a
            listener answers for an item twice.
    """
    if not answers:
        raise DataError("there are no answers to join.")
    given: dict[str, list[Annotation]] = {origin.source: [] for origin in key.values()}
    seen: set[tuple[str, str, str]] = set()
    for page, listener, item in (answer[:3] for answer in answers):
        if (page, item) not in key:
            raise DataError(
                f"the answers of {listener or 'a listener without a name'} are of the item "
                f"{item!r} of the page {page!r}, which is not in the key. Take the key.csv that "
                f"was written with that page."
            )
        if (page, listener, item) in seen:
            raise DataError(
                f"the item {item!r} of the page {page!r} is answered twice by "
                f"{listener or 'listeners without a name'}. Give every file of answers once and, "
                f"in the column listener, every listener a name."
            )
        seen.add((page, listener, item))
    for answer in answers:
        given[key[answer.page, answer.item].source].append(answer)
    tests = tests and len(given) == 2
    rows: list[dict[str, Any]] = []
    for said, field, value in _SAID:
        # An item whose pattern is not judged was not heard; that it is not short says nothing.
        of = "pattern" if field == "short" else field
        asked = {s: [a for a in of_s if getattr(a, of)] for s, of_s in given.items()}
        counts = {s: sum(getattr(a, field) == value for a in of_s) for s, of_s in asked.items()}
        rows.append({"said": said} | counts)
        if tests:
            rows[-1]["p"] = _fisher([(counts[s], len(asked[s]) - counts[s]) for s in given])
    unjudged = {s: sum(not a.pattern for a in of_s) for s, of_s in given.items()}
    preferred = {s: sum(a.preferred == "yes" for a in of_s) for s, of_s in given.items()}
    preference: dict[str, Any] = {f"prefer {s}": n for s, n in preferred.items()}
    preference["no preference"] = _undecided(answers)
    if tests:
        preference["p"] = _sign_test(*preferred.values())
    return {
        "listeners": len({(answer.page, answer.listener) for answer in answers}),
        "table": [*rows, {"said": "not judged"} | unjudged],
        "preference": preference,
    }


def _fisher(table: list[tuple[int, int]]) -> float:
    from scipy.stats import fisher_exact

    return float(fisher_exact(table).pvalue)  # pyright: ignore[reportAttributeAccessIssue]


def _sign_test(first: int, second: int) -> float:
    from scipy.stats import binomtest

    return float(binomtest(first, first + second).pvalue) if first + second else math.nan


def _read_csv(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    content = read_bytes(path, MOST_BYTES)
    rows = read_table(content, str(path), columns, "Save it as CSV in UTF-8.")
    return [(line, {name: plain(text) for name, text in row.items()}) for line, row in rows]


def _undecided(answers: Sequence[Annotation]) -> int:
    """Pairs of which neither groove was preferred, whichever of the two, or both, say so."""
    equal = [(a.page, a.listener, a.item) for a in answers if a.preferred == "equal"]
    pairs = {(*of, item[:-1]) for *of, item in equal if _IN_A_PAIR.fullmatch(item)}
    others = sum(not _IN_A_PAIR.fullmatch(item) for *_, item in equal)
    return len(pairs) + -(-others // 2)
