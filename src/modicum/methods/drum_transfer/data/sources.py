"""Grooves by name: the Groove MIDI Dataset, a folder of MIDI files, and made-up ones."""

from __future__ import annotations

import csv
import io
import logging
import struct
import zipfile
import zlib
from collections import Counter, UserDict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

from modicum.data.folders import FileKind, files_below
from modicum.engine.random import fold_keys
from modicum.errors import ConfigError, DataError
from modicum.methods.drum_transfer.data.generator import made_up_grooves, style_of
from modicum.methods.drum_transfer.options import Corpus
from modicum.methods.drum_transfer.text.drumroll import windows
from modicum.methods.drum_transfer.text.midi import parse_midi, unknown_pitches
from modicum.methods.drum_transfer.text.notation import Groove
from modicum.methods.drum_transfer.text.smf import MOST_BYTES
from modicum.system.files import read_bytes
from modicum.system.terminal import counted

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
GENERATED = (372, 47, 37)
"""Made-up grooves in each split: as many as the paper has records."""
DOWNLOAD = (
    "Download groove-v1.0.0-midionly.zip (Groove MIDI Dataset, CC BY 4.0) from "
    "magenta.tensorflow.org/datasets/groove; it need not be unpacked."
)
DATASETS = {
    "groove": DOWNLOAD,
    "generated": "built in: made-up grooves of several styles, with fills, by rule",
}
"""Data sets by name, with where to get each and how it must lie on disk."""
_COLUMNS = ("drummer", "session", "style", "beat_type", "time_signature", "midi_filename", "split")
_SPLIT_NAMES = {"train": "train", "validation": "val", "test": "test"}
_OF_ZIP = (zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError,
           EOFError, ValueError, OverflowError, OSError)  # fmt: skip
"""What `zipfile` raises for damaged archives."""
_MOST_LISTED = 5

_log = logging.getLogger(__name__)

Read: TypeAlias = Callable[[str], bytes | None]
"""The bytes of a file of a data set by its name, None if it is not there."""


@dataclass
class Collection(UserDict[str, list[Groove]]):
    """Grooves by split, as a mapping, and where they come from."""

    data: dict[str, list[Groove]]
    """Grooves of `train`, `val` and `test`, by name in order."""
    styles: dict[str, str] = field(default_factory=dict[str, str])
    """The style of each groove by its name, where it is known."""
    dropped: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Files that were left out, by the reason."""
    files: int = 0
    """How many files there are, used or not."""


def load_grooves(
    data: str,
    corpus: Corpus | None = None,
    *,
    seed: int = 0,
    sizes: tuple[int, int, int] = GENERATED,
) -> Collection:
    """Grooves by name, divided in `train`, `val` and `test`.

    Args:
        data: `groove=PATH` with the Groove MIDI Dataset, as an archive or an unpacked folder; PATH
            of a folder with MIDI files of one's own, see `own_files`; or `generated`, see
            `generator`.
        corpus: How files are read; None: as in the paper.
        seed: Of the division of one's own files and of the made-up grooves.
        sizes: Made-up grooves in each split.

    Raises:
        ConfigError: There is no data of that name, or an option is not for it.
        DataError: The files cannot be used, or none is left.
    """
    corpus = corpus or Corpus()
    name, named, path = data.partition("=")
    if named and name == "groove":
        return groove_dataset(Path(path).expanduser(), corpus)
    if corpus.eval_session or corpus.fills:
        raise ConfigError("--eval-session and --fills are of the Groove MIDI Dataset, groove=PATH.")
    if data == "generated":
        if corpus.notation != "drumroll":
            raise ConfigError("generated: made-up grooves are in the notation drumroll alone.")
        if min(sizes) < 0 or sizes[0] < 1:
            shown = " ".join(map(str, sizes))
            raise ConfigError(f"sizes {shown}: at least 1 groove is to train on.")
        grooves = made_up_grooves(range(sum(sizes)), seed=seed, bars=corpus.bars)
        rest = iter(grooves)
        splits = {split: list(islice(rest, n)) for split, n in zip(SPLITS, sizes, strict=True)}
        return Collection(splits, {groove.name: style_of(groove) for groove in grooves})
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"{data}: {'is a file' if folder.exists() else 'no such folder'}; expected generated, "
            f"a folder of MIDI files, or groove=PATH. {DOWNLOAD}"
        )
    return own_files(folder, corpus, seed=seed)


def groove_dataset(path: Path, corpus: Corpus) -> Collection:
    """The Groove MIDI Dataset 1.0.0 (Gillick and others, ICML 2019).

    By default the selection of the paper: beats, not fills, of sessions 1 to 3 in quarters, divided
    as in the data set: 373, 47 and 37 grooves of which one is silent.

    `path` is the archive, the folder with `info.csv`, or that above it.

    Raises:
        DataError: There is no such file, `info.csv` lacks columns, files it names are absent or
            unusable, or nothing is left.
    """
    unknown: Counter[int] = Counter()
    collection = Collection({split: [] for split in SPLITS})
    with _open(path) as read:
        rows = _rows(path, read)
        kept: list[tuple[str, Mapping[str, str]]] = []
        for row in rows:
            file = row["midi_filename"]
            if row["session"].endswith("eval_session") and not corpus.eval_session:
                collection.dropped.setdefault("evaluation session", []).append(file)
            elif row["beat_type"] != "beat" and not corpus.fills:
                collection.dropped.setdefault("fill", []).append(file)
            elif not row["time_signature"].endswith("-4"):
                collection.dropped.setdefault("meter not in quarters", []).append(file)
            else:
                kept.append((file, row))
        absent: list[str] = []
        for file, row in kept:  # one at a time: together they may be large
            if (content := read(file)) is None:
                absent.append(file)
                continue
            name = f"{row['drummer'].removeprefix('drummer')}_{PurePosixPath(file).stem}"
            # One performance of the data set is only hi-hat pedal; the paper has its text.
            grooves, unread = _parse(content, f"{path}: {file}", corpus, name, silent=True)
            unknown += unread
            collection[_SPLIT_NAMES[row["split"]]] += grooves
            collection.styles.update(dict.fromkeys((g.name for g in grooves), row["style"]))
    if absent:
        raise DataError(
            f"{path}: {len(absent)} of {len(kept)} files that info.csv names are absent: "
            f"{_some(absent)}. Unpack it anew. {DOWNLOAD}"
        )
    return _finished(collection, path, len(rows), unknown)


def own_files(path: Path, corpus: Corpus, *, seed: int = 0) -> Collection:
    """MIDI files of one's own: all `.mid` and `.midi` in a folder and the folders in it.

    Folders `train`, `val` and `test` directly in it are the splits, and files beside them are left
    out. Without them the files are put in an order by a hash of seed and name; a tenth each, at
    least one, is for test and validation. So other files hardly change the split of a file. Fewer
    than three files are all for training.

    A file that cannot be used is left out with a warning, unless `corpus.strict`. Grooves are
    called after their file and the folders it is in. `seed` is that of the division.

    Raises:
        DataError: No file can be used, or one cannot and `corpus.strict`.
    """
    listing = files_below(path, FileKind("groove", frozenset({".mid", ".midi"})))
    links = dict(listing.bad)
    files = sorted([*listing.names, *links])
    if not files:
        raise DataError(f"{path}: no file in it ends in .mid or .midi.")
    collection = Collection({split: [] for split in SPLITS})
    unknown: Counter[int] = Counter()
    taken: dict[str, str] = {}
    for file, split in _division(files, seed):
        name = file.rpartition(".")[0]
        try:
            if file in links:
                raise DataError(f"{file}: {links[file]}")
            if split is None:
                raise DataError(f"{file}: it is in none of the folders {', '.join(SPLITS)}.")
            if name in taken:
                raise DataError(f"{file}: {taken[name]} gives a groove of the same name.")
            grooves, unread = _parse(read_bytes(path / file, MOST_BYTES), file, corpus, name)
        except (DataError, OSError) as error:
            if corpus.strict:
                raise DataError(f"{path}: {error}") from error
            collection.dropped.setdefault("unusable file", []).append(str(error))
            continue
        taken[name] = file
        unknown += unread
        collection[split] += grooves
    if unusable := collection.dropped.get("unusable file"):
        _log.warning("%s: left out %d of %s: %s", path, len(unusable),
                     counted(len(files), "file"), _some(unusable))  # fmt: skip
    return _finished(collection, path, len(files), unknown)


def _parse(
    data: bytes, source: str, corpus: Corpus, name: str, *, silent: bool = False
) -> tuple[list[Groove], Counter[int]]:
    """The grooves of a file, one unless it is cut, and hits of unknown pitches."""
    groove, unknown = parse_midi(
        data, source, corpus, name=name, bars=None if corpus.cut else corpus.bars, pad=corpus.pad,
        strict=corpus.strict, silent=silent,
    )  # fmt: skip
    return windows(groove, corpus.bars, pad=corpus.pad) if corpus.cut else [groove], unknown


def _division(files: list[str], seed: int) -> Iterable[tuple[str, str | None]]:
    """Each file with its split, None if it is beside the folders of splits."""
    top = {file: file.partition("/")[0] for file in files}
    if any(folder in SPLITS and folder != file for file, folder in top.items()):
        return [(file, folder if folder in SPLITS else None) for file, folder in top.items()]
    ranked = sorted(files, key=lambda file: fold_keys(seed, "split", file))
    held_out = max(round(len(files) / 10), 1) if len(files) >= 3 else 0
    parts = ("test",) * held_out + ("val",) * held_out
    split = dict(zip(ranked, parts, strict=False))
    return [(file, split.get(file, "train")) for file in files]


def _finished(collection: Collection, path: Path, files: int, unknown: Counter[int]) -> Collection:
    """The collection in order, once it holds anything."""
    if not any(collection.values()):
        fell = "; ".join(f"{why}: {len(names)}" for why, names in collection.dropped.items())
        reasons = _some(collection.dropped.get("unusable file", []))
        told = f"{path}: none of its {files} files is left. Left out: {fell}. {reasons}"
        raise DataError(told.rstrip())
    if unknown:
        _log.warning("%s: %s", path, unknown_pitches(unknown))
    for grooves in collection.values():
        grooves.sort(key=lambda groove: groove.name)
    return replace(collection, files=files)


def _rows(path: Path, read: Read) -> list[dict[str, str]]:
    """The rows of `info.csv`, checked."""
    content = read("info.csv")
    assert content is not None  # _open found it
    rows = read_table(content, f"{path}: info.csv", _COLUMNS, DOWNLOAD)
    for line, row in rows:
        place, name = f"{path}: info.csv, line {line}", row["midi_filename"]
        if row["split"] not in _SPLIT_NAMES:
            expected = ", ".join(_SPLIT_NAMES)
            raise DataError(
                f"{place}: found the split {row['split']!r}; expected one of {expected}."
            )
        file = PurePosixPath(name)
        if file.is_absolute() or ".." in file.parts or "\\" in name:
            raise DataError(f"{place}: the file {file} lies outside of the data set.")
    return [row for _, row in rows]


def read_table(
    content: bytes, source: str, columns: Sequence[str], advice: str
) -> list[tuple[int, dict[str, str]]]:
    """The line that each row of a CSV file ends on, and its fields, delimited as the header is.

    Raises:
        DataError: It is no table, lacks one of `columns`, or a row has not the header's fields;
            `advice` says how to mend it.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is no table in UTF-8: {error}. {advice}") from error
    delimiter = max(",;\t", key=text.partition("\n")[0].count)  # as spreadsheets have it
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = [(table.line_num, row) for row in table]
    except csv.Error as error:
        raise DataError(f"{source}, line {table.line_num}: {error}. {advice}") from error
    header = table.fieldnames or ()
    if missing := [column for column in columns if column not in header]:
        raise DataError(
            f"{source} lacks the columns {', '.join(missing)}; found "
            f"{', '.join(header) or 'nothing'}. {advice}"
        )
    for line, row in rows:
        if None in row or None in row.values():
            expected = f"{len(header)} fields, as in the header"
            raise DataError(f"{source}, line {line}: expected {expected}. {advice}")
    return rows


@contextmanager
def _open(path: Path) -> Generator[Read]:
    """Read files of an archive or a folder, whose names begin where `info.csv` is."""
    if path.is_dir():
        folder = next((f for f in (path, path / "groove") if (f / "info.csv").is_file()), None)
        if folder is None:
            raise DataError(f"{path}: no info.csv in it. {DOWNLOAD}")
        yield lambda name: read_bytes(f, MOST_BYTES) if (f := folder / name).is_file() else None
        return
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder. {DOWNLOAD}")
    try:
        # Members are read into memory; nothing is unpacked, so no name can lead anywhere.
        with zipfile.ZipFile(path) as archive:
            members = {member.filename: member for member in archive.infolist()}
            tables = [name for name in members if name.rpartition("/")[2] == "info.csv"]
            if not tables:
                raise DataError(f"{path}: no info.csv in the archive. {DOWNLOAD}")
            root = min(tables, key=len).removesuffix("info.csv")
            yield lambda name: _member(archive, members.get(root + name), path)
    except DataError:
        raise
    except _OF_ZIP as error:
        raise DataError(f"{path}: no usable zip archive: {error}. {DOWNLOAD}") from error


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo | None, path: Path) -> bytes | None:
    """The bytes of a file in an archive, whatever size its entry gives."""
    if member is None:
        return None
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(  # others are unpacked without a bound
            f"{path}: {member.filename} is compressed in an unusual way. {DOWNLOAD}"
        )
    with archive.open(member) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise DataError(
            f"{path}: {member.filename} has more than {MOST_BYTES:,} bytes, as no file of the data "
            f"set has. {DOWNLOAD}"
        )
    return content


def _some(items: list[str]) -> str:
    more = len(items) - _MOST_LISTED
    return "; ".join(items[:_MOST_LISTED]) + (f"; and {more} more" if more > 0 else "")
