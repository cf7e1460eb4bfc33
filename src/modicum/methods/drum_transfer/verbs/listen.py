"""The verb `listen`: have people judge grooves without knowing where they come from.

It writes a page with pairs of grooves and the form of the paper's expert, and joins the answers
with the key that says which groove is whose.
"""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import io
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro
from markupsafe import Markup

from modicum.engine.random import fold_keys, permutation
from modicum.errors import ConfigError, DataError
from modicum.methods.drum_transfer.options import ModelReading
from modicum.methods.drum_transfer.rendering.pictures import step_grid
from modicum.methods.drum_transfer.rendering.synthesis import render, to_wav
from modicum.methods.drum_transfer.text.drumroll import (
    bars,
    to_hits,
    to_text,
    without_leading_silence,
)
from modicum.methods.drum_transfer.text.files import groove_paths, read_groove
from modicum.methods.drum_transfer.text.notation import Groove
from modicum.options import FLAT, Ge, Options
from modicum.report.page import data_uri, write_page
from modicum.system.files import atomic_write

PATTERNS = ("consistent", "repetitive", "chaotic", "not gradable")
"""What the pattern of a groove can be."""
_YES_NO = ("yes", "no")
_TEMPLATES = Path(__file__).parent / "templates"

logger = logging.getLogger(__name__)


# What a listener says


class Annotation(NamedTuple):
    """What one listener says of one groove: a row of the CSV, whose columns are these fields.

    Every field but `item` may be empty, which is no answer.
    """

    page: str
    """Which page it was heard on; empty for a form filled in without one."""
    listener: str
    """Who says so."""
    item: str
    """Which groove of the page, such as `3B`; or the name of a groove."""
    pattern: str
    """One of `PATTERNS`."""
    fills: str
    """yes or no: whether it has any."""
    musical: str
    """yes or no: whether its fills are musical; all of it, if it has none."""
    short: str
    """yes or no: whether it ends too early."""
    preferred: str
    """yes or no: whether it is the better of its pair; equal: neither is."""
    comment: str
    """Anything else."""


COLUMNS = Annotation._fields
"""Of the CSV of answers."""
KEY_COLUMNS = ("page", "item", "source", "name")
"""Of the CSV of a key: which groove an item is, and where it comes from."""
_ALLOWED = {
    "pattern": PATTERNS,
    "fills": _YES_NO,
    "musical": _YES_NO,
    "short": _YES_NO,
    "preferred": (*_YES_NO, "equal"),
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
        answers.append(Annotation(**{name: row[name].strip() for name in COLUMNS}))
        for name, allowed in _ALLOWED.items():
            value = getattr(answers[-1], name)
            if value and value not in allowed:
                raise DataError(
                    f"{path}, line {line}, column {name}: found {value!r}; expected "
                    f"{', '.join(allowed)} or nothing."
                )
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
    answers: Sequence[Annotation],
    key: Mapping[tuple[str, str], Origin],
    *,
    tests: bool = False,
) -> dict[str, Any]:
    """Count what was said of each source, as the official repository counts its expert's answers.

    Args:
        answers: Of any number of listeners.
        key: By page and item.
        tests: Add p-values. They take judgements as independent, which several judgements of one
            groove, or by one listener, are not: they are then too small.

    Returns:
        `table`: a record for each thing that can be said, with the number of grooves of each source
        it was said of, and with `tests` Fisher's exact p for a difference between two sources.
        `preference`: how often each source was preferred, how often neither, and with `tests` the
        two-sided p of the sign test.

    Raises:
        DataError: There are no answers, or one is of an item that the key does not have, or a
            listener answers for an item twice.
    """
    given = _by_source(answers, key)
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
    rows.append(
        {"said": "not judged"} | {s: sum(not a.pattern for a in of_s) for s, of_s in given.items()}
    )
    preferred = {s: sum(a.preferred == "yes" for a in of_s) for s, of_s in given.items()}
    preference: dict[str, Any] = {f"prefer {s}": n for s, n in preferred.items()}
    preference["no preference"] = sum(answer.preferred == "equal" for answer in answers) // 2
    if tests:
        preference["p"] = _sign_test(*preferred.values())
    return {
        "listeners": len({(answer.page, answer.listener) for answer in answers}),
        "table": rows,
        "preference": preference,
    }


def _by_source(
    answers: Sequence[Annotation], key: Mapping[tuple[str, str], Origin]
) -> dict[str, list[Annotation]]:
    """The answers on each source; see `join_answers` for what is refused."""
    if not answers:
        raise DataError("there are no answers to join.")
    given: dict[str, list[Annotation]] = {origin.source: [] for origin in key.values()}
    seen: set[tuple[str, str, str]] = set()
    for answer in answers:
        origin = key.get((answer.page, answer.item))
        if origin is None:
            raise DataError(
                f"the answers of {answer.listener or 'a listener without a name'} are of the item "
                f"{answer.item!r} of the page {answer.page!r}, which is not in the key. Take the "
                f"key.csv that was written with that page."
            )
        who = answer.page, answer.listener, answer.item
        if who in seen:
            raise DataError(
                f"the item {answer.item!r} of the page {answer.page!r} is answered twice by "
                f"{answer.listener or 'listeners without a name'}. Give every file of answers once "
                f"and, in the column listener, every listener a name."
            )
        seen.add(who)
        given[origin.source].append(answer)
    return given


def _fisher(table: list[tuple[int, int]]) -> float:
    from scipy.stats import fisher_exact

    return float(fisher_exact(table).pvalue)  # pyright: ignore[reportAttributeAccessIssue]


def _sign_test(first: int, second: int) -> float:
    from scipy.stats import binomtest

    return float(binomtest(first, first + second).pvalue) if first + second else math.nan


# The page


@dataclass(frozen=True)
class Page(Options):
    """How a page is made."""

    given_bars: Annotated[int, Ge(0)] = 2
    """Bars from the first that were given to the model, and which both therefore have; they are
    shaded. 0 where grooves begin differently."""
    seed: int = 0
    """Seed of choosing and shuffling."""
    embed_below: float = 50.0
    """Largest page in megabytes that is a single file; of a larger one, sounds and pictures lie
    beside it. A pair of 16 bars at 120 bpm takes 8."""
    soundfont: Path | None = None
    """An .sf2 file to play with; None: the built-in kit."""


def write_listening_page(
    out: Path,
    pairs: Sequence[tuple[Groove, Groove]],
    sources: tuple[str, str],
    options: Page | None = None,
) -> dict[str, Any]:
    """Write a blind listening test: `page/`, to hand to listeners, and `key.csv`, to keep.

    Beside the page lies the same form as an empty CSV file, for those who prefer a spreadsheet.

    The order of the pairs and the sides of the sources are shuffled; each source is on either side
    equally often, or once more. Both grooves of a pair are played without velocities, at one tempo
    and with the same sounds, so that nothing but what is played tells them apart.

    Args:
        out: Folder for both.
        pairs: Of the first and the second source, at least one. The second's tempo counts.
        sources: What the sources are called, in the key alone.
        options: How the page is made; None: as usual.

    Returns:
        `page`, `form` and `key`, the files; `pairs`, how many; `megabytes`, of all that is to hand
        over; `self_contained`, whether the one file is enough.

    Raises:
        ConfigError: There are no pairs, or the sources have the same name.
        DataError: The grooves of a pair do not begin alike, or one cannot be read or played.
    """
    options = options or Page()
    given_bars = options.given_bars
    if not pairs:
        raise ConfigError("a listening test needs at least one pair of grooves, got none.")
    if sources[0] == sources[1]:
        raise ConfigError(
            f"both sources are called {sources[0]!r}, which would make the answers useless. Give "
            f"them different names."
        )
    for first, second in pairs:
        if (
            bars(first.text, first.notation)[:given_bars]
            != bars(second.text, second.notation)[:given_bars]
        ):
            raise DataError(
                f"{first.name}: its first {given_bars} bars are not those of the other groove of "
                f"the pair. Read them as in training: --notation, --meter-bars, --keep-pickups. If "
                f"nothing was given to the model, say so: --given-bars 0."
            )
    page = (
        f"{fold_keys(options.seed, *(groove.text for pair in pairs for groove in pair)) >> 32:08x}"
    )
    order = permutation(len(pairs), options.seed, "pairs")
    swapped = permutation(len(pairs), options.seed, "sides") % 2 == 1
    key: list[dict[str, str]] = []
    shown: list[list[tuple[str, bytes, bytes]]] = []
    for number, (place, swap) in enumerate(zip(order.tolist(), swapped, strict=True), 1):
        shown.append([])
        for side, which in zip("AB", (1, 0) if swap else (0, 1), strict=True):
            groove, item = pairs[place][which], f"{number}{side}"
            groove = dataclasses.replace(groove, tempo=pairs[place][1].tempo, velocities=None)
            key.append({"page": page, "item": item, "source": sources[which], "name": groove.name})
            picture = step_grid(groove, given_bars=given_bars, title="")
            sound = to_wav(render(groove, channels=1, soundfont=options.soundfont))
            shown[-1].append((item, picture, sound))
    folder = out / "page"
    megabytes = sum(len(p) + len(s) for pair in shown for _, p, s in pair) * 4 / 3 / 1e6
    embedded = megabytes < options.embed_below

    def address(content: bytes, kind: str, name: str) -> str:
        """An address that holds the content, or of a file that does, which is then written."""
        if embedded:
            return data_uri(content, kind)
        with atomic_write(folder / name) as file:
            file.write(content)
        return name

    addressed = [
        [
            {
                "item": item,
                "picture": address(picture, "image/png", f"{item}.png"),
                "audio": address(sound, "audio/wav", f"{item}.wav"),
            }
            for item, picture, sound in pair
        ]
        for pair in shown
    ]
    script = (_TEMPLATES / "listen.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    index = write_page(
        folder / "index.html",
        _TEMPLATES / "listen.html",
        page=page,
        pairs=addressed,
        given_bars=given_bars,
        patterns=[(pattern, pattern) for pattern in PATTERNS],
        yes_no=[(word, word) for word in _YES_NO],
        script=Markup(script),
        script_hash=f"sha256-{digest}",
    )
    form = [{"page": row["page"], "item": row["item"]} for row in key]
    _write_csv(folder / "form.csv", COLUMNS, form)
    _write_csv(out / "key.csv", KEY_COLUMNS, key)
    return {
        "page": str(index),
        "form": str(folder / "form.csv"),
        "key": str(out / "key.csv"),
        "pairs": len(pairs),
        "megabytes": round(megabytes if embedded else megabytes * 3 / 4, 1),
        "self_contained": embedded,
    }


# The verb


@dataclass(frozen=True)
class Judged(Options):
    """What listeners said."""

    answers: tuple[Path, ...] = ()
    """Answers of listeners, CSV files."""
    key: Path | None = None
    """The key.csv of the page that the answers are of."""
    tests: bool = False
    """With answers, add p-values: Fisher's exact test, and the sign test of preferences."""


def listen(
    folder: tyro.conf.Positional[Path | None] = None,
    against: Path | None = None,
    out: Path = Path("listening"),
    names: tuple[str, str] | None = None,
    pairs: Annotated[int, Ge(1)] = 8,
    most_bars: Annotated[int, Ge(1)] = 16,
    repair: Literal["pad", "drop"] | None = None,
    reading: Annotated[ModelReading, FLAT] = ModelReading(),
    page: Annotated[Page, FLAT] = Page(),
    judged: Annotated[Judged, FLAT] = Judged(),
) -> dict[str, Any]:
    """Write a blind listening test, or count what listeners answered.

    The page has two grooves at a time, one of each folder, and does not say which is which; hand
    the folder `page` of --out to listeners and keep key.csv. They save their answers as CSV, or
    fill in form.csv. Give those as --answers, with --key, and no folder.

    Args:
        folder: Grooves of one source: .mid, and .tab or .txt with a drum tab or a drumroll.
        against: Those of another, such as people; of the same names.
        out: Folder for the page and the key.
        names: What the two sources are called in the key; None: their folders' names.
        pairs: At most so many pairs, chosen by the seed.
        most_bars: Grooves are cut after so many. Silent bars at the beginning and the end are left
            out.
        repair: What is done about malformed lines of .txt files: pad or drop. None: an error.
        reading: How files are read: as those of the model's training were.
        page: How the page is made.
        judged: What listeners said.

    Returns:
        Where page, form and key are; or what was said of each source.
    """
    if judged.answers:
        if folder is not None or against is not None or judged.key is None:
            raise ConfigError(
                "--answers needs --key, the key.csv that was written with the page, and no folder."
            )
        given = [answer for path in judged.answers for answer in read_answers(path)]
        return join_answers(given, read_key(judged.key), tests=judged.tests)
    if folder is None or against is None:
        raise ConfigError(
            "give two folders of grooves, FOLDER --against FOLDER, or the answers of listeners, "
            "--answers FILE --key FILE."
        )
    ours, theirs = ({path.stem: path for path in groove_paths([f])} for f in (folder, against))
    ours = _alike(ours, theirs)
    theirs = _alike(theirs, ours)
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        raise DataError(
            f"{folder} and {against} have no groove of the same name in common: found "
            f"{min(ours)} and others here, {min(theirs)} and others there. Name the files alike."
        )
    if left := len(ours.keys() ^ theirs.keys()):
        logger.warning("%d grooves are in one of the folders alone and left out.", left)
    chosen = [
        common[place] for place in sorted(permutation(len(common), page.seed, "chosen")[:pairs])
    ]

    def read(path: Path) -> Groove:
        groove = read_groove(
            path,
            reading,
            tempo=math.nan,
            malformed=repair or "refuse",
            advice="Or have such lines mended: --repair pad or --repair drop.",
        )
        return _to_be_heard(groove, path, most_bars, reading.keep_pickups)

    both = [(read(ours[name]), read(theirs[name])) for name in chosen]
    return write_listening_page(
        out,
        [_at_one_tempo(first, second) for first, second in both],
        names or (folder.resolve().name, against.resolve().name),
        page,
    )


def _alike(ours: dict[str, Path], theirs: dict[str, Path]) -> dict[str, Path]:
    """Ours by the names of theirs: `groove_1` continues `groove`, and is the first that does."""
    found: dict[str, Path] = {}
    for name, path in sorted(ours.items()):
        source, _, number = name.rpartition("_")
        whole = name if name in theirs or not number.isdecimal() else source
        found.setdefault(whole, path)
    return found


def _at_one_tempo(first: Groove, second: Groove) -> tuple[Groove, Groove]:
    """Both at the tempo of the second, or where its file says none, of the first, or 120."""
    known = [groove.tempo for groove in (second, first) if not math.isnan(groove.tempo)]
    tempo = known[0] if known else Groove.tempo
    return dataclasses.replace(first, tempo=tempo), dataclasses.replace(second, tempo=tempo)


def _to_be_heard(groove: Groove, path: Path, most_bars: int, keep_pickups: bool) -> Groove:
    """So many bars of a groove without silent ones at either end, as records leave out those at the
    beginning.
    """
    groove, notation = without_leading_silence(groove, keep_pickups=keep_pickups), groove.notation
    hits = to_hits(groove.text, notation)[: most_bars * notation.steps_per_bar]
    if not hits.any():
        raise DataError(f"{path}: nothing is hit in it; a silent groove cannot be judged.")
    sounding = int(np.flatnonzero(hits.any(1))[-1]) // notation.steps_per_bar + 1
    text = to_text(hits[: sounding * notation.steps_per_bar], notation)
    return dataclasses.replace(groove, text=text, velocities=None)


# Tables


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    """With a mark at the beginning that tells spreadsheets that it is UTF-8."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode("utf-8-sig", "backslashreplace"))


def _read_csv(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """The line each row ends on, and its fields."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no UTF-8 text. Save it as CSV in UTF-8.") from error
    delimiter = max(",;\t", key=text.partition("\n")[0].count)  # as spreadsheets have it
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}.") from error
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise DataError(
            f"{path}: the column {missing[0]} is absent; expected {', '.join(columns)}. Found "
            f"{', '.join(reader.fieldnames or ()) or 'nothing'}."
        )
    for line, row in rows:
        if None in row or None in row.values():
            raise DataError(
                f"{path}, line {line}: expected {len(reader.fieldnames or ())} fields, as in the "
                f"header."
            )
    return rows
