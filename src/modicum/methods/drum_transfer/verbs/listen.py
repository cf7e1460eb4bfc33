"""The verb `listen`: have people judge grooves without knowing where they come from.

It writes a page with pairs of grooves and the form of the paper's expert, and joins the answers
with the key that says which groove is whose.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from markupsafe import Markup

from modicum.engine.random import fold_keys, permutation
from modicum.errors import ConfigError, DataError
from modicum.methods.drum_transfer.options import ModelReading
from modicum.methods.drum_transfer.rendering.pictures import step_grid
from modicum.methods.drum_transfer.rendering.synthesis import render, to_wav
from modicum.methods.drum_transfer.text import drumroll
from modicum.methods.drum_transfer.text.files import groove_paths, read_groove
from modicum.methods.drum_transfer.text.notation import Groove
from modicum.methods.drum_transfer.verbs import answers
from modicum.options import FLAT, Ge, Options, check_arguments
from modicum.report.page import data_uri, write_page
from modicum.system.files import atomic_write
from modicum.system.tables import write_csv
from modicum.system.terminal import counted

_TEMPLATES = Path(__file__).parent / "templates"

logger = logging.getLogger(__name__)


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
    options: Page = Page(),
) -> dict[str, Any]:
    """Write a blind listening test: `page/`, to hand to listeners, and `key.csv`, to keep.

    Beside the page lies the same form as an empty CSV file, for those who prefer a spreadsheet.

    The order of the pairs and the sides of the sources are shuffled; each source is on either side
    equally often, or once more. Both grooves of a pair are played without velocities, at the tempo
    of the second and with the same sounds, so that nothing but what is played tells them apart.

    Args:
        out: Folder for both.
        pairs: Of the first and the second source, at least one.
        sources: What the sources are called, in the key alone.
        options: How the page is made.

    Returns:
        The files `page`, `form` and `key`; how many `pairs`; `megabytes` of all that is to hand
        over; `self_contained`, whether the one file is enough.

    Raises:
        ConfigError: There are no pairs, or the sources have the same name.
        DataError: The grooves of a pair do not begin alike, or one cannot be read or played.
    """
    given_bars, folder = options.given_bars, out / "page"
    if not pairs:
        raise ConfigError("a listening test needs at least one pair of grooves, got none.")
    if sources[0] == sources[1]:
        raise ConfigError(
            f"both sources are called {sources[0]!r}, which would make the answers useless. Give "
            f"them different names."
        )
    for pair in pairs:
        first, second = (drumroll.bars(groove.text, groove.notation) for groove in pair)
        if first[:given_bars] != second[:given_bars]:
            raise DataError(
                f"{pair[0].name}: its first {given_bars} bars are not those of the other groove of "
                f"the pair. Read them as in training: --notation, --meter-bars, --keep-pickups. If "
                f"nothing was given to the model, say so: --given-bars 0."
            )
    texts = [groove.text for pair in pairs for groove in pair]
    page = f"{fold_keys(options.seed, *texts) >> 32:08x}"
    order = permutation(len(pairs), options.seed, "pairs")
    swapped = permutation(len(pairs), options.seed, "sides") % 2 == 1
    key: list[dict[str, str]] = []
    shown: dict[str, tuple[bytes, bytes]] = {}
    for number, (place, swap) in enumerate(zip(order.tolist(), swapped, strict=True), 1):
        for side, which in zip("AB", (1, 0) if swap else (0, 1), strict=True):
            item, tempo = f"{number}{side}", pairs[place][1].tempo
            groove = dataclasses.replace(pairs[place][which], tempo=tempo, velocities=None)
            key.append({"page": page, "item": item, "source": sources[which], "name": groove.name})
            picture = step_grid(groove, given_bars=given_bars, title="")
            shown[item] = picture, to_wav(render(groove, channels=1, soundfont=options.soundfont))
    megabytes = sum(len(picture) + len(sound) for picture, sound in shown.values()) / 1e6
    embedded = megabytes * 4 / 3 < options.embed_below

    def address(content: bytes, kind: str, name: str) -> str:
        """An address that holds the content, or of a file that does, which is then written."""
        if embedded:
            return data_uri(content, kind)
        with atomic_write(folder / name) as file:
            file.write(content)
        return name

    items = [
        {
            "item": item,
            "picture": address(picture, "image/png", f"{item}.png"),
            "audio": address(sound, "audio/wav", f"{item}.wav"),
        }
        for item, (picture, sound) in shown.items()
    ]
    script = (_TEMPLATES / "listen.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    index = write_page(
        folder / "index.html",
        _TEMPLATES / "listen.html",
        page=page,
        pairs=list(zip(items[::2], items[1::2], strict=True)),
        given_bars=given_bars,
        patterns=[(pattern, pattern) for pattern in answers.PATTERNS],
        yes_no=[(word, word) for word in answers.YES_NO],
        script=Markup(script),
        script_hash=f"sha256-{digest}",
    )
    write_csv(folder / "form.csv", key, answers.COLUMNS, marked=True)
    write_csv(out / "key.csv", key, answers.KEY_COLUMNS, marked=True)
    return {
        "page": str(index),
        "form": str(folder / "form.csv"),
        "key": str(out / "key.csv"),
        "pairs": len(pairs),
        "megabytes": round(megabytes * 4 / 3 if embedded else megabytes, 1),
        "self_contained": embedded,
    }


@dataclass(frozen=True)
class Judged(Options):
    """What listeners said."""

    answers: tuple[Path, ...] = ()
    """Answers of listeners, CSV files."""
    key: Path | None = None
    """The key.csv of the page that the answers are of."""
    tests: bool = False
    """With answers, add p-values: Fisher's exact test, and the sign test of preferences."""


@check_arguments
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
        given = [answer for path in judged.answers for answer in answers.read_answers(path)]
        return answers.join_answers(given, answers.read_key(judged.key), tests=judged.tests)
    if folder is None or against is None:
        raise ConfigError(
            "give two folders of grooves, FOLDER --against FOLDER, or the answers of listeners, "
            "--answers FILE --key FILE."
        )
    ours, theirs = (_by_name(source) for source in (folder, against))
    ours = _alike(ours, theirs)
    theirs = _alike(theirs, ours)
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        raise DataError(
            f"{folder} and {against} have no groove of the same name in common: found "
            f"{min(ours)} and others here, {min(theirs)} and others there. Name the files alike."
        )
    if left := len(ours.keys() ^ theirs.keys()):
        logger.warning("left out %s in one of the folders alone.", counted(left, "groove"))
    chosen = sorted(permutation(len(common), page.seed, "chosen")[:pairs])
    advice = "Or have such lines mended: --repair pad or --repair drop."

    def read(path: Path) -> Groove:
        malformed = repair or "refuse"
        groove = read_groove(path, reading, tempo=math.nan, malformed=malformed, advice=advice)
        return _to_be_heard(groove, path, most_bars, reading.keep_pickups)

    both = [(read(ours[common[place]]), read(theirs[common[place]])) for place in chosen]
    names = names or (folder.resolve().name, against.resolve().name)
    return write_listening_page(out, [_at_one_tempo(*pair) for pair in both], names, page)


def _by_name(folder: Path) -> dict[str, Path]:
    """The grooves of a folder by name, which none may share with another."""
    found: dict[str, Path] = {}
    for path in groove_paths([folder]):
        if (other := found.setdefault(path.stem, path)) != path:
            raise DataError(
                f"{folder}: {other.relative_to(folder)} and {path.relative_to(folder)} have the "
                f"same name, so that pairs cannot be told. Rename one, or give the folder of one."
            )
    return found


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
    groove = drumroll.without_leading_silence(groove, keep_pickups=keep_pickups)
    notation = groove.notation
    hits = drumroll.to_hits(groove.text, notation)[: most_bars * notation.steps_per_bar]
    if not hits.any():
        raise DataError(f"{path}: nothing is hit in it; a silent groove cannot be judged.")
    sounding = int(np.flatnonzero(hits.any(1))[-1]) // notation.steps_per_bar + 1
    text = drumroll.to_text(hits[: sounding * notation.steps_per_bar], notation)
    return dataclasses.replace(groove, text=text, velocities=None)
