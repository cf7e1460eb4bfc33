"""Class-per-folder trees: which layout a folder has, and the files of a split.

Recognised, whatever the case of names and suffixes:

- `root/<class>/**/file`, without splits;
- `root/train/<class>/**` with `val|valid|validation/<class>/**` and/or `test/<class>/**`.

`training`, `testing` and `dev` are understood, too. Folders nested in a class belong to the class.
Names that begin with a dot are ignored, and so are run folders and folders of them, which training
inside the data leaves there. A symbolic link is followed only where it stays inside `root`, or
where `MODICUM_FOLLOW_LINKS=1` is set; each folder is read once.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from modicum.data.sample_set import BadFile
from modicum.errors import DataError
from modicum.system.files import links_allowed
from modicum.system.terminal import counted

Split: TypeAlias = Literal["train", "val", "test"]

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "development": "val",
    "test": "test",
    "testing": "test",
}
_NOWHERE = "the symbolic link leads nowhere. Remove it or restore its target."
_NOT_DATA = frozenset({"__macosx", "lost+found"})


class FileKind(NamedTuple):
    """The files a tree is searched for."""

    noun: str
    """What one is called in messages, such as "image"."""
    suffixes: frozenset[str]
    """In lower case, with the dot."""
    when_flat: str = ""
    """Advice where files lie beside the class folders that should hold them."""

    def has(self, name: str) -> bool:
        """Whether a file of this name is of the kind."""
        return os.path.splitext(name)[1].casefold() in self.suffixes


@dataclass(frozen=True)
class Tree:
    """A folder of labelled files whose layout is known."""

    root: Path
    layout: str
    """For people: "class folders in train/ and val/"."""
    folders: tuple[str, ...]
    """Folder name of each class, sorted; a label is an index into it."""
    classes: tuple[str, ...]
    """Readable name of each class."""
    splits: Mapping[str, Path]
    """Folder of each of "train", "val" and "test" that is there, or only of "all"."""
    files: FileKind


@dataclass
class Listing:
    """The files of one split."""

    names: list[str] = field(default_factory=list[str])
    """Below the root, with slashes; sorted within a class."""
    labels: list[int] = field(default_factory=list[int])
    ignored: Counter[str] = field(default_factory=Counter[str])
    """Number of files of other kinds, by suffix."""
    bad: list[BadFile] = field(default_factory=list[BadFile])
    """Symbolic links that are not followed."""


def recognise(root: Path, files: FileKind) -> Tree:
    """Find out how a folder is laid out, without listing its files.

    Raises:
        DataError: The folder is missing or of no known layout, splits disagree on the classes, or
            two class folders have the same name but for case or accents' encoding.
    """
    splits, only = _named_splits(root, files)
    several = "train" in splits and len(splits) > 1
    if not splits or not (only or (several and any(_folders(splits["train"], root)))):
        folders = class_folders(root, root, files)
        return Tree(root, "class folders without splits", folders, folders, {"all": root}, files)
    if "test" in splits and len(splits) > 1 and not any(_folders(splits["test"], root)):
        del splits["test"]  # as in ImageNet: without labels
    return split_tree(root, splits, files)


def recognise_unlabelled(root: Path, files: FileKind) -> Tree:
    """A folder whose files need no labels: all below it, or below its train/, val/ and test/."""
    splits, only = _named_splits(root, files)
    if "train" not in splits or not (only or len(splits) > 1):
        return Tree(root, f"{files.noun}s without labels", (), (), {"all": root}, files)
    names = " and ".join(f"{folder.name}/" for folder in splits.values())
    return Tree(root, f"{files.noun}s without labels in {names}", (), (), splits, files)


def _named_splits(root: Path, files: FileKind) -> tuple[dict[str, Path], bool]:
    """The folders named as splits are, and whether there are no others."""
    if not root.exists():
        raise DataError(f"{root}: there is no such folder. Check the path.")
    if not root.is_dir():
        raise DataError(
            f"{root}: expected a folder of {files.noun}s. If it is an archive, unpack it."
        )
    subfolders = list(_folders(root, root))
    splits: dict[str, Path] = {}
    for folder in subfolders:
        split = _SPLIT_NAMES.get(folder.name.casefold())
        if split in splits:
            raise DataError(
                f"{root}: both {splits[split].name}/ and {folder.name}/ could be the {split} "
                f"split. Rename or remove one of them."
            )
        if split is not None:
            splits[split] = folder
    order = ("train", "val", "test")
    ordered = {split: splits[split] for split in order if split in splits}
    return ordered, len(splits) == len(subfolders)


def own_split(tree: Tree, split: Split) -> str:
    """Which of the tree's splits has the files: validation and test stand in for each other.

    Raises:
        DataError: Training files are asked for where there are only others.
    """
    other = "test" if split == "val" else "val"
    for name in ("train", "all") if split == "train" else (split, other, "train", "all"):
        if name in tree.splits:
            return name
    raise DataError(
        f"{tree.root}: there is no train/ folder beside {', '.join(tree.splits)}. Add one, or open "
        f"the split that is there."
    )


def list_files(tree: Tree, split: str, order: Callable[[str], Any] | None = None) -> Listing:
    """List the files of one split with their labels, of a tree without classes with none.

    Args:
        tree: A tree.
        split: One of its splits.
        order: Sort key of the names within a class; none: the names themselves.

    Raises:
        DataError: A class has no files, or a tree without classes has none.
    """
    folder = tree.splits[split]
    listing = Listing()
    empty: list[str] = []
    for label, name in enumerate(tree.folders or ("",)):
        before = len(listing.names)
        walk(folder / name, tree, listing)
        found = len(listing.names) - before
        listing.names[before:] = sorted(listing.names[before:], key=order)
        listing.labels += [label] * found if tree.folders else []
        empty += [] if found else [name]
    suffixes = ", ".join(sorted(tree.files.suffixes))
    if empty and not tree.folders:
        raise DataError(f"{folder}: there is no {tree.files.noun} below it ({suffixes}).")
    if empty:
        hold = "holds" if len(empty) == 1 else "hold"
        raise DataError(
            f"{folder}: {some(empty)} {hold} no {tree.files.noun} ({suffixes}). Remove the empty "
            f"class folders or fill them."
        )
    return listing


def split_tree(root: Path, splits: Mapping[str, Path], files: FileKind) -> Tree:
    """The tree of class folders in a folder for each split.

    Raises:
        DataError: The splits disagree on the classes, or one has none.
    """
    folders = {split: class_folders(folder, root, files) for split, folder in splits.items()}
    first = next(iter(folders))
    for split, found in folders.items():
        missing = sorted(set(folders[first]) - set(found))
        surplus = sorted(set(found) - set(folders[first]))
        if missing or surplus:
            parts = [f"only in {splits[first].name}/: {some(missing)}"] if missing else []
            parts += [f"only in {splits[split].name}/: {some(surplus)}"] if surplus else []
            raise DataError(
                f"{root}: {splits[first].name}/ and {splits[split].name}/ must have the same class "
                f"folders; {'; '.join(parts)}. Add what is missing or remove what is too many."
            )
    layout = "class folders in " + " and ".join(f"{folder.name}/" for folder in splits.values())
    return Tree(root, layout, folders[first], folders[first], splits, files)


def class_folders(folder: Path, root: Path, files: FileKind) -> tuple[str, ...]:
    """The names of the class folders in a folder, sorted.

    Raises:
        DataError: There is none, or two have the same name but for case or accents' encoding.
    """
    names = sorted(found.name for found in _folders(folder, root))
    if not names:
        loose = sum(1 for entry in _entries(folder) if files.has(entry.name))
        lies = counted(loose, f"{files.noun} lies", f"{files.noun}s lie")
        what = f"{lies} directly in it"
        advice = f"Move the {files.noun}s into {folder.name}/<class>/. {files.when_flat}".rstrip()
        raise DataError(
            f"{folder}: expected one folder for each class with its {files.noun}s in it, but "
            f"{what if loose else 'there are no folders in it'}. {advice}"
        )
    first_spelling: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", name).casefold().strip()
        if key in first_spelling:
            raise DataError(
                f"{folder}: the class folders {first_spelling[key]!r} and {name!r} have the same "
                f"name but for its spelling. Merge them, or name them apart."
            )
        first_spelling[key] = name
    return tuple(names)


def remarks(tree: Tree) -> list[str]:
    """What about the layout of a labelled tree may not be meant, and files that are left out."""
    found: list[str] = []
    for split, folder in tree.splits.items():
        inside = {name: _inside(folder / name, tree) for name in tree.folders}
        holders = {name: names for name, names in inside.items() if names}
        times = Counter(name for names in holders.values() for name in names)
        common = sorted(name for name, count in times.items() if count > 1)
        where = "" if split == "all" else f"{split}: "
        if len(tree.folders) == 1 and holders:
            (name,) = holders
            found.append(
                f"{where}there is one class only, {name}, a folder with nothing but folders in it "
                f"({some(sorted(holders[name]))}). If they are the classes, give {folder / name}."
            )
        elif len(common) > 1:
            several = [name for name in holders if not holders[name].isdisjoint(common)]
            found.append(
                f"{where}the classes {some(several)} hold folders of the same names "
                f"({some(common)}). If those are the classes, and {some(several)} splits of the "
                f"data, name these folders train, val and test."
            )
    if strays := _strays(tree):
        belong = counted(len(strays), f"{tree.files.noun} belongs", f"{tree.files.noun}s belong")
        found.append(
            f"{belong} to no class, left out: {some(sorted(strays))}. Move what is meant into the "
            f"folders of the classes."
        )
    return found


def _inside(folder: Path, tree: Tree) -> set[str]:
    """Names of the folders in a class folder that has no files of its own, else none."""
    entries = list(_entries(folder))
    if any(tree.files.has(entry.name) for entry in entries):
        return set()
    return {entry.name for entry in entries if _is_folder(entry)}


def _strays(tree: Tree) -> list[str]:
    """Files beside the class folders, and in folders beside those of the splits."""
    listing = Listing()
    for folder in {tree.root, *tree.splits.values()}:
        for entry in _entries(folder):
            path = folder / entry.name
            if _is_folder(entry):
                beside = folder == tree.root and "all" not in tree.splits
                if beside and path not in tree.splits.values() and not entry.is_symlink():
                    walk(path, tree, listing)
            elif tree.files.has(entry.name):
                listing.names.append(path.relative_to(tree.root).as_posix())
    return listing.names


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What is in a folder; hidden things, and what training leaves, are left out."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                hidden = entry.name.startswith(".") or entry.name.casefold() in _NOT_DATA
                if not hidden and not (_is_folder(entry) and _of_runs(folder / entry.name)):
                    yield entry
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be read ({error.strerror}).") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symbolic link to itself
        return False


def _of_runs(folder: Path) -> bool:
    """Whether a folder is that of a run, or of runs as `runs/` is."""
    return (folder / ".lock").is_file() or (folder.name == "runs" and any(folder.glob("*/.lock")))


def _folders(folder: Path, root: Path) -> Iterator[Path]:
    for entry in _entries(folder):
        if _is_folder(entry):
            refuse_link(folder / entry.name, root)
            yield folder / entry.name


def files_below(root: Path, files: FileKind) -> Listing:
    """All files of a kind below a folder, sorted; of links that are not followed, those that are
    folders or are called as such a file is.
    """
    listing = Listing()
    walk(root, Tree(root, "", (), (), {}, files), listing)
    listing.names.sort()
    listing.bad = [bad for bad in listing.bad if files.has(bad.name) or (root / bad.name).is_dir()]
    return listing


def walk(folder: Path, tree: Tree, listing: Listing) -> None:
    """Add all files below `folder` to `listing`, unsorted and without labels.

    Each folder is read once: links between folders could lead on without end. Links come last, so
    that what lies in `folder` itself has its own name.
    """
    if folder != tree.root:
        refuse_link(folder, tree.root)
    to_read, links = [(folder, folder.resolve())], list[Path]()
    read = {to_read[0][1]}

    def add(path: Path) -> None:
        if tree.files.has(path.name):
            listing.names.append(path.relative_to(tree.root).as_posix())
        else:
            listing.ignored[path.suffix.casefold()] += 1

    while to_read or links:
        if to_read:
            path, real = to_read.pop()
            for entry in _entries(path):
                if entry.is_symlink():
                    links.append(path / entry.name)
                elif _is_folder(entry):
                    to_read.append((path / entry.name, real / entry.name))
                    read.add(real / entry.name)
                else:
                    add(path / entry.name)
            links.sort(reverse=True)
            continue
        path = links.pop()
        if reason := _not_followed(path, tree.root, read):
            listing.bad.append(BadFile(path.relative_to(tree.root).as_posix(), reason))
        elif path.is_dir():
            to_read.append((path, path.resolve()))
        else:
            add(path)


def refuse_link(path: Path, root: Path) -> None:
    """Raise a `DataError` for what leads out of `root` by a symbolic link, or nowhere."""
    if reason := _not_followed(path, root):
        raise DataError(f"{path}: {reason}")


def _not_followed(path: Path, root: Path, read: set[Path] | None = None) -> str | None:
    """Why a symbolic link is not followed; None if it is. A folder is then among those `read`."""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # a RuntimeError of links in a circle
        return _NOWHERE if path.is_symlink() else None
    if not target.is_relative_to(root.resolve()) and not links_allowed():
        return (
            f"the symbolic link leads out of {root}, to {target}, and is not followed. Copy the "
            f"files here or, if you trust the folder, set MODICUM_FOLLOW_LINKS=1."
        )
    if target.is_dir() and path.parent.resolve().is_relative_to(target):
        return "the symbolic link leads back to a folder above it. Remove it."
    if read is not None and target.is_dir():
        if target in read:
            return "the symbolic link leads to a folder that is read already. Remove it."
        read.add(target)
    return None


def some(names: Iterable[str], most: int = 8) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    shown = ", ".join(names[:most]) or "none"
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
