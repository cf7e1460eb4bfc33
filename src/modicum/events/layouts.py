"""How data sets of recordings lie on disk: which file belongs to which split and class.

One function a data set finds the recordings of a split; `DATA_SETS` names them, with what is fixed
by the data set: the sensor's size, the classes and how many recordings there are. Nothing is
decoded here.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from modicum.data.folders import (
    FileKind,
    Split,
    Tree,
    list_files,
    own_split,
    recognise,
    refuse_link,
    some,
    split_tree,
)
from modicum.data.sample_set import BadFile
from modicum.errors import DataError
from modicum.events.division import Division
from modicum.events.formats.recording import Size
from modicum.events.reading import SUFFIXES
from modicum.system.files import read_bytes

RECORDINGS = FileKind("recording", frozenset(SUFFIXES))
DIGITS = tuple(str(digit) for digit in range(10))
OBJECTS = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
GESTURES = (
    *("hand clapping", "right hand wave", "left hand wave"),
    *("right arm clockwise", "right arm counter-clockwise"),
    *("left arm clockwise", "left arm counter-clockwise", "arm roll"),
    *("air drums", "air guitar", "other gestures"),
)
_LONGEST_TABLE = 1 << 24
GESTURE_USERS_TO_TRAIN = 23
"""DVS128 Gesture's training split is users 1 to 23 of 29."""


@dataclass(frozen=True)
class Found:
    """The recordings of one split, in the order of their classes and of the numbers in names."""

    root: Path
    layout: str
    """For people."""
    classes: tuple[str, ...]
    files: list[str]
    """Below the root, with slashes."""
    labels: list[int]
    split: str
    """The split of the data set that these are, or "all" where it has none."""
    spans: list[tuple[int, int]] | None = None
    """Where recordings are parts of a file: see `FileRecordings.spans`."""
    bad: tuple[BadFile, ...] = ()
    """Symbolic links that are not followed."""


class DataSet(NamedTuple):
    """What is known of a published data set, or of a folder of one's own."""

    title: str
    sensor: Size | None
    """Height and width in pixels."""
    counts: Mapping[str, int]
    """Recordings of each split; of "all" for what comes without splits."""
    find: Callable[[Path, Split], Found]
    division: Division = "hash"
    """How it is usually divided where it comes without splits."""


def in_numeric_order(name: str) -> list[tuple[int, int | str]]:
    """A sort key that compares the numbers in names as numbers: 2 comes before 10."""
    return [(0, int(p)) if p.isdecimal() else (1, p) for p in re.split(r"(\d+)", name) if p]


def find_class_folders(root: Path, split: Split) -> Found:
    """Class folders with or without folders for the splits; see `modicum.data.folders`."""
    return _in_tree(recognise(root, RECORDINGS), split)


def _n_mnist(root: Path, split: Split) -> Found:
    """`Train/` and `Test/` with a folder for each digit; or a flat folder with `labels.tsv`."""
    if (root / "labels.tsv").is_file():
        return _with_list(root, root / "labels.tsv")
    return _in_tree(recognise(root, RECORDINGS), split, DIGITS)


def _with_list(root: Path, table: Path) -> Found:
    """Files `<number>.bin` beside a table of their numbers and digits, separated by tabs."""
    files: dict[int, str] = {}
    for file in sorted(root.glob("*.bin")):
        number = _number(file.stem)
        if number in files:
            raise DataError(
                f"{root}: {files[number]} and {file.name} have the same number, so the list cannot "
                f"tell them apart. Keep one of them."
            )
        if number is not None:
            refuse_link(file, root)
            files[number] = file.name
    label_of: dict[int, int] = {}
    for line, row in enumerate(_rows(table, "\t"), 1):
        if not row or row[0].startswith("#"):
            continue
        number, digit = map(_number, row if len(row) == 2 else ("", ""))
        if number is None or digit is None or digit > 9 or label_of.get(number, digit) != digit:
            raise DataError(
                f"{table}, line {line}: expected the number of a file and a digit, separated by a "
                f"tab, and each number once; found {' '.join(row)[:80]!r}."
            )
        label_of[number] = digit
    absent, unlisted = sorted(set(label_of) - set(files)), sorted(set(files) - set(label_of))
    if absent or unlisted or not files:
        raise DataError(
            f"{table}: expected a line for each .bin file; listed but not there: "
            f"{some(map(str, absent))}; there but not listed: {some(map(str, unlisted))}. Unpack "
            f"the archive again."
        )
    order = sorted(files, key=lambda number: (label_of[number], number))
    return Found(
        root,
        "a flat folder with labels.tsv",
        DIGITS,
        [files[number] for number in order],
        [label_of[number] for number in order],
        "all",
    )


def _n_caltech101(root: Path, split: Split) -> Found:
    """A folder for each of 101 classes, or the pack of EST's authors, which is split in three.

    Of the two folders of faces, `Faces_easy` is used and `Faces`, the same pictures uncropped, is
    not; `BACKGROUND_Google` is a class.
    """
    tree = recognise(root, RECORDINGS)
    kept = tuple(folder for folder in tree.folders if folder != "Faces")
    if len(kept) != 101:
        raise DataError(
            f"{root}: expected the 101 class folders of N-Caltech101 ('Faces' does not count), "
            f"found {len(kept)}: {some(kept)}. Give the folder that holds the class folders, or "
            f"unpack the archive again."
        )
    return _in_tree(dataclasses.replace(tree, folders=kept, classes=kept), split)


def _n_cars(root: Path, split: Split) -> Found:
    """`n-cars_train/` and `n-cars_test/`, or the pack of EST's authors, which is split in three."""
    if (root / "n-cars_train").is_dir():
        parts = {"train": root / "n-cars_train", "test": root / "n-cars_test"}
        there = {name: folder for name, folder in parts.items() if folder.is_dir()}
        tree = split_tree(root, there, RECORDINGS)
    else:
        tree = recognise(root, RECORDINGS)
    return _in_tree(tree, split, ("background", "cars"))


def _cifar10_dvs(root: Path, split: Split) -> Found:
    """A folder for each class with `cifar10_<class>_<i>.aedat`."""
    return _in_tree(recognise(root, RECORDINGS), split, OBJECTS)


def _mnist_dvs(root: Path, split: Split, scale: int | None = None) -> Found:
    """`grabbed_data<d>/scale<s>/`: the same 1,000 samples of each digit at three scales.

    The scales are not mixed: a digit would be in the training and in the test split.
    """
    scales: dict[int, list[str]] = {}
    for digit in DIGITS:
        for folder in (root / f"grabbed_data{digit}").glob("scale*"):
            number = re.fullmatch(r"scale0*(\d+)", folder.name)
            if number and folder.is_dir():
                scales.setdefault(int(number[1]), []).append(folder.relative_to(root).as_posix())
    chosen = next(iter(scales)) if scale is None and len(scales) == 1 else scale
    if chosen is None and scales:
        raise DataError(
            f"{root}: the digits are there at the scales {some(map(str, sorted(scales)))}; "
            f"together they would be in training and test. Choose one, such as "
            f"mnist-dvs-scale{min(scales)}={root}."
        )
    folders = tuple(scales.get(chosen or 0, ()))
    if len(folders) != len(DIGITS):
        raise DataError(
            f"{root}: expected grabbed_data0/scale{chosen or 4}/ to grabbed_data9/, found "
            f"{some(folders)}. Unpack the ten archives side by side."
        )
    layout = f"grabbed_data<digit>/{Path(folders[0]).name}/"
    return _in_tree(Tree(root, layout, folders, DIGITS, {"all": root}, RECORDINGS), split)


def _dvs_gesture(root: Path, split: Split) -> Found:
    """`user<uu>_<light>.aedat`, each with a `_labels.csv` that cuts it into gestures.

    Users 1 to 23 are for training, 24 to 29 for testing, as `trials_to_train.txt` and
    `trials_to_test.txt` list them; without the lists, the number in the name decides.
    """
    part = "train" if split == "train" else "test"
    trials = root / f"trials_to_{part}.txt"
    if trials.is_file():
        files = [row[0].strip() for row in _rows(trials, ",") if row and row[0].strip()]
    else:
        user = {file.name: re.match(r"user0*(\d+)_", file.name) for file in root.glob("*.aedat")}
        files = [
            name
            for name, number in user.items()
            if number and (int(number[1]) <= GESTURE_USERS_TO_TRAIN) == (part == "train")
        ]
    if not files:
        raise DataError(
            f"{root}: no recording of the {part} split; expected user01_fluorescent.aedat and so "
            f"on, with trials_to_train.txt and trials_to_test.txt. Give the folder that holds them."
        )
    there = {file.name for file in root.iterdir()}
    if absent := [file for file in files if file not in there]:
        raise DataError(
            f"{trials}: lists {some(name[:80] for name in absent)}, not beside it. Unpack the "
            f"archive again."
        )
    gestures: list[tuple[int, str, int, int]] = []
    for file in sorted(set(files), key=in_numeric_order):
        refuse_link(root / file, root)
        for label, start, stop in _gesture_intervals(root / file):
            gestures.append((label, file, start, stop))
    gestures.sort(key=lambda gesture: gesture[0])  # stable: files stay in order
    return Found(
        root,
        "gestures cut out by *_labels.csv",
        GESTURES,
        [file for _, file, _, _ in gestures],
        [label for label, _, _, _ in gestures],
        part,
        [(start, stop) for _, _, start, stop in gestures],
    )


def _gesture_intervals(path: Path) -> list[tuple[int, int, int]]:
    """(label from 0, first microsecond, microsecond after the last) of the gestures of a file."""
    table = path.with_name(f"{path.stem}_labels.csv")
    found: list[tuple[int, int, int]] = []
    for line, row in enumerate(_rows(table, ","), 1):
        if row[:1] == ["class"] or not row:
            continue
        numbers = [number for cell in row if (number := _number(cell.strip())) is not None]
        if len(numbers) != 3 or not 1 <= numbers[0] <= len(GESTURES) or numbers[1] >= numbers[2]:
            raise DataError(
                f"{table}, line {line}: expected a class from 1 to {len(GESTURES)}, a start and a "
                f"later end in microseconds, found {','.join(row)[:80]!r}."
            )
        found.append((numbers[0] - 1, numbers[1], numbers[2]))
    return found


_MNIST_DVS = DataSet("MNIST-DVS", (128, 128), {"all": 10_000}, _mnist_dvs, "tet")
_GESTURES = {"train": 1_176, "test": 288}
DATA_SETS: Mapping[str, DataSet] = {
    "n-mnist": DataSet("N-MNIST", (34, 34), {"train": 60_000, "test": 10_000}, _n_mnist),
    "n-caltech101": DataSet(
        "N-Caltech101",
        (180, 240),
        {"all": 8_709, "train": 4_356, "val": 2_612, "test": 1_741},
        _n_caltech101,
    ),
    "n-cars": DataSet("N-CARS", (100, 120), {"train": 15_422, "test": 8_607}, _n_cars),
    "cifar10-dvs": DataSet("CIFAR10-DVS", (128, 128), {"all": 10_000}, _cifar10_dvs, "tet"),
    "mnist-dvs": _MNIST_DVS,
    **{
        f"mnist-dvs-scale{scale}": _MNIST_DVS._replace(
            title=f"MNIST-DVS, scale {scale}", find=partial(_mnist_dvs, scale=scale)
        )
        for scale in (4, 8, 16)
    },
    "dvs-gesture": DataSet("DVS128 Gesture", (128, 128), _GESTURES, _dvs_gesture),
}
"""The data sets that are known by name."""


def _in_tree(tree: Tree, split: Split, classes: tuple[str, ...] = ()) -> Found:
    """The recordings of a split of a tree, which must have the classes if they are given."""
    if classes and set(tree.classes) != set(classes):
        raise DataError(
            f"{tree.root}: expected the class folders {some(classes, 11)}, found "
            f"{some(tree.classes, 11)}. Give the folder that holds them, or unpack the archive "
            f"again."
        )
    own = own_split(tree, split)
    listing = list_files(tree, own, in_numeric_order)
    return Found(
        tree.root,
        tree.layout,
        tree.classes,
        listing.names,
        listing.labels,
        "all" if set(tree.splits) <= {"all", "train"} else own,
        bad=tuple(listing.bad),
    )


def _number(text: str) -> int | None:
    """A number that fits into 64 bits; Python itself reads digits without end."""
    return int(text) if text.isdecimal() and len(text) <= 18 else None


def _rows(table: Path, separator: str) -> list[list[str]]:
    refuse_link(table, table.parent)
    content = read_bytes(table, _LONGEST_TABLE)
    try:
        return list(csv.reader(io.StringIO(content.decode(), newline=""), delimiter=separator))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read ({error}). Unpack the archive again.") from error
