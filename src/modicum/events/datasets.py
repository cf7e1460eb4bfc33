"""Opening sets of recordings by path or name: which layout it is, which split is asked for."""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from modicum.data.folders import Listing, Split, Tree, walk
from modicum.errors import ConfigError, DataError
from modicum.events.check import decoded_size, usable
from modicum.events.division import Division, describe, divide
from modicum.events.event_set import EventSet, FileRecordings, MemoryRecordings
from modicum.events.formats.aedat2 import Convention
from modicum.events.formats.recording import Size
from modicum.events.layouts import DATA_SETS, RECORDINGS, DataSet, Found, find_class_folders
from modicum.events.reading import read
from modicum.events.simulator import Variation, digit_recordings
from modicum.system.threads import Progress, in_threads

MEMORY_LIMIT = 2**30
"""Bytes of decoded events up to which a set is decoded once, into memory."""

SOURCES = {
    "digits": "built in: recordings simulated of scikit-learn's 1,797 handwritten digits",
    "n-mnist": "N-MNIST, G. Orchard (CC BY-SA 4.0): Train/ and Test/ with a folder a digit",
    "n-caltech101": "N-Caltech101, G. Orchard (CC BY 4.0): 101 class folders; or EST's pack",
    "n-cars": "N-CARS, Prophesee (non-commercial): n-cars_train/, n-cars_test/; or EST's pack",
    "cifar10-dvs": "CIFAR10-DVS, figshare 4724671 (CC BY 4.0): class folders of .aedat",
    "mnist-dvs-scale4": "MNIST-DVS, IMSE-CNM: grabbed_data<digit>/scale4/ (8, 16)",
    "dvs-gesture": "DVS128 Gesture, IBM (CC BY 4.0): .aedat with _labels.csv and trial lists",
    "your own": "recordings in a folder a class, with or without train/ and test/ above them",
}
"""What `open_recordings` takes, by name, with where to get it and how it must lie on disk."""

_LOOKED_AT = 100
"""Files of a large set that are decoded to find out the size of the sensor."""

log = logging.getLogger(__name__)


def open_recordings(
    source: str | Path,
    split: Split = "train",
    *,
    holdout: float = 0.1,
    division: Division | None = None,
    division_seed: int = 0,
    sensor: Size | None = None,
    convention: Convention = "jaer",
    skip_bad: bool = False,
    memory_limit: int = MEMORY_LIMIT,
    progress: Progress | None = None,
) -> EventSet:
    """Open one split of a set of labelled recordings.

    A path alone is a folder of your own: class folders of recordings of any format that
    `modicum.events.read` knows, with or without `train/` and `val/` or `test/` folders around them
    (see `modicum.data.folders`). A published data set is named before its path, as in
    `"n-mnist=/data/N-MNIST"`, and lies there as it is distributed:

    | name | expected | division |
    |---|---|---|
    | `n-mnist` | `Train/`, `Test/`; or flat, with `labels.tsv` | its own; or `hash` |
    | `n-caltech101` | 101 class folders; or the pack of EST's authors | `hash`; or its own |
    | `n-cars` | `n-cars_train/`, `n-cars_test/`; or the pack of EST's authors | its own |
    | `cifar10-dvs` | class folders of `cifar10_<class>_<i>.aedat` | `tet` |
    | `mnist-dvs-scale4`, `-scale8`, `-scale16` | `grabbed_data<digit>/scale<s>/` | `tet` |
    | `dvs-gesture` | `user<uu>_<light>.aedat` and `_labels.csv` | its own, by users |

    `mnist-dvs` alone will do where only one scale is there. "val" and "test" are the same where
    there is only one of them; to choose anything by validation, use `EventSet.hold_out` on the
    training recordings. What the data is, how it was divided and which way up it was read stands in
    `EventSet.layout`: print it beside results.

    Sets whose files need at most `memory_limit` bytes are decoded at once. Of others the sizes and
    starts of files are looked at, and the rest is found when a file is decoded: for every batch
    anew, and whole, though `dvs-gesture` cuts recordings of seconds out of files of minutes. A
    higher limit, where there is memory, is much faster there.

    Args:
        source: A folder, `NAME=FOLDER`, or "digits": see `open_digits`.
        split: "train", "val" or "test".
        holdout: Share of each class that is for testing where the data has no split of its own.
            0: all recordings are for training.
        division: Which share that is; none: the rule in the table, else "hash".
            See `modicum.events.division`.
        division_seed: Seed of the division "random".
        sensor: Height and width in pixels, for a folder of your own; none: what the files say, else
            as large as they need. Of more files than fit into memory some from all over the folder
            are looked at for that; an event outside is then an error when it is read.
        convention: Which way up AEDAT 2.0 is read.
        skip_bad: Leave unusable files out, with a warning, and list them in `EventSet.skipped`.
        memory_limit: See above.
        progress: Called with (files done, files in all) while files are decoded or checked.

    Returns:
        `MemoryRecordings` or `FileRecordings`, ordered by class, then by the numbers in names.

    Raises:
        DataError: Nothing there, not the layout expected, other classes, or unusable files.
        ConfigError: An option makes no sense.
    """
    if split not in ("train", "val", "test"):
        raise ConfigError(f"split: found {split!r}, expected 'train', 'val' or 'test'.")
    if division not in (None, *get_args(Division)):
        raise ConfigError(
            f"division: found {division!r}, expected one of {', '.join(get_args(Division))}."
        )
    if str(source) == "digits":
        return open_digits("train" if split == "train" else "test")
    known, root = known_and_root(str(source))
    if not os.path.exists(root):  # unlike Path.exists, also of what can be no path
        raise DataError(f"{root}: there is no such folder. Check the path.")
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of recordings. If it is an archive, unpack it.")
    found = known.find(root, split)
    if known.sensor and sensor not in (None, known.sensor):
        raise ConfigError(f"sensor: that of {known.title} is {known.sensor}; leave it out.")
    size = known.sensor or sensor or _size_needed(root, convention, memory_limit)
    files = FileRecordings(
        found.classes,
        torch.tensor(found.labels, dtype=torch.int64),
        np.array(_names(found), dtype=np.str_),
        _description(known, found, convention),
        *size,
        root,
        np.array(found.files, dtype=np.str_),
        None if found.spans is None else np.array(found.spans, dtype=np.int64).reshape(-1, 2),
        convention,
    )
    if found.split != "all" and division is not None:
        raise ConfigError(
            f"division: {root} comes divided ({found.layout}), so {division!r} has no meaning; "
            f"leave it out."
        )
    if found.split == "all" and holdout:
        files = _part(files, split, holdout, division or known.division, division_seed)
        if not len(files):
            raise DataError(
                f"{root}: nothing can be held out of classes with a single recording each. Add "
                f"recordings, or divide the folder into train/ and test/."
            )
    elif found.split == "all" and split != "train":
        raise ConfigError(
            f"holdout: {root} has no {split} split, and with holdout=0 none is made. Give the "
            f"share to hold out, such as 0.1."
        )
    log.info("%s: %s; %s: %d recordings", root, files.layout, split, len(files))
    return usable(
        files,
        memory_limit=memory_limit,
        not_followed=found.bad,
        skip_bad=skip_bad,
        progress=progress,
    )


def has_splits(source: str | Path) -> bool:
    """Whether a data set comes divided; otherwise `open_recordings` divides it."""
    if str(source) == "digits":
        return True
    known, root = known_and_root(str(source))
    return known.find(root, "val").split != "all"


def open_digits(
    split: Literal["train", "test"] = "train",
    count: int | None = None,
    *,
    variation: str | Variation = "clean",
    seed: int = 0,
) -> MemoryRecordings:
    """The built-in set "digits", or a part or variation of it, as a set.

    The options are those of `modicum.events.digit_recordings`. A thousand take about two seconds.
    """
    made = digit_recordings(split, count, seed=seed, variation=variation)
    named = variation if isinstance(variation, str) else "a variation of your own"
    return MemoryRecordings(
        tuple(str(digit) for digit in range(10)),
        torch.from_numpy(made.labels),
        np.array([f"digits/{split}/{number}" for number in range(len(made.labels))]),
        f"built-in digits, simulated ({named})",
        made.events.height,
        made.events.width,
        tuple(made.events),
        made_up=True,
    )


def known_and_root(source: str) -> tuple[DataSet, Path]:
    """What is known of the data set that a source names, and its folder."""
    name, equals, path = source.partition("=")
    if equals and name.casefold() in DATA_SETS:
        return DATA_SETS[name.casefold()], Path(path)
    root = Path(source)
    if equals and "/" not in name and not root.exists():
        raise ConfigError(
            f"{source}: there is no data set {name!r}; known are {', '.join(DATA_SETS)}. A folder "
            f"of your own is given without a name."
        )
    if name.casefold() in DATA_SETS and not equals and not root.exists():
        raise ConfigError(
            f"{source}: a published data set; say where it lies: {source}=FOLDER. Nothing is "
            f"downloaded."
        )
    return DataSet(root.name, None, {}, find_class_folders), root


def _description(known: DataSet, found: Found, convention: Convention) -> str:
    """What a set is, for people: its layout, how much of it is there, which way up it is read."""
    parts = [known.title, found.layout]
    expected = known.counts.get(found.split)
    if expected not in (None, len(found.files)):
        parts.append(f"{len(found.files):,} of {expected:,} recordings")
    if found.spans is None and any(file.endswith(".aedat") for file in found.files):
        parts.append(f"{convention} coordinates")
    return ", ".join(parts)


def _names(found: Found) -> list[str]:
    """What identifies each recording: its file, and where it starts in a file of several."""
    if found.spans is None:
        return found.files
    return [f"{file}@{start}" for file, (start, _) in zip(found.files, found.spans, strict=True)]


def _part(
    files: FileRecordings, split: Split, share: float, division: Division, seed: int
) -> FileRecordings:
    """The training or the other recordings of a set that comes without splits."""
    names = [str(name) for name in files.names]
    held = divide(names, files.labels.numpy(), share, division, seed)
    part = files.subset(np.flatnonzero(~held if split == "train" else held))
    return dataclasses.replace(part, layout=f"{files.layout}, {describe(share, division, seed)}")


def _size_needed(root: Path, convention: Convention, memory_limit: int) -> Size:
    """The sensor's size of a tree of recordings, the same for all its splits.

    What the files say, or else what their events need: those of all files where these fit into
    memory, else of some from all over the tree.
    """

    def size(path: Path) -> Size:
        try:
            events = read(path, convention=convention)
        except DataError:
            return 1, 1  # found and named later
        return events.height, events.width

    listing = Listing()
    walk(root, Tree(root, "", (), (), {}, RECORDINGS), listing)
    paths = [root / name for name in sorted(listing.names)]
    if decoded_size(paths) > memory_limit:
        some = np.linspace(0, len(paths) - 1, min(_LOOKED_AT, len(paths))).astype(int)
        paths = [paths[number] for number in some.tolist()]
    heights, widths = zip((1, 1), *in_threads(size, paths), strict=True)
    return max(heights), max(widths)
