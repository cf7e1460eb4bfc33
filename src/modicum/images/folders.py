"""Class-per-folder trees: which layout a folder has, and the image files of a split.

Recognised, whatever the case of names and suffixes:

- `root/<class>/**/image.jpg`, without splits;
- `root/train/<class>/**` with `val|valid|validation/<class>/**` and/or `test/<class>/**`;
- tiny-imagenet-200: `wnids.txt`, `train/<wnid>/images/`, `val/images/` with
  `val/val_annotations.txt`, and `words.txt` for readable names.

Folders nested in a class belong to the class. Names that begin with a dot are ignored. A symbolic
link is followed only where it stays inside `root`.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modicum.errors import DataError
from modicum.images.decode import SUFFIXES
from modicum.images.image_set import BadImage

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_NOT_DATA = frozenset({"__macosx", "lost+found"})


@dataclass(frozen=True)
class Tree:
    """A folder of images whose layout is known."""

    root: Path
    layout: str
    """For people: "class folders in train/ and val/"."""
    folders: tuple[str, ...]
    """Folder name of each class, sorted; a label is an index into it."""
    classes: tuple[str, ...]
    """Readable name of each class."""
    splits: Mapping[str, Path]
    """Folder of each of "train", "val" and "test" that is there, or only of "all"."""
    annotations: Path | None = None
    """tiny-imagenet's list of validation labels, where the validation images lie flat."""


@dataclass
class Listing:
    """The files of one split."""

    names: list[str] = field(default_factory=list[str])
    """Below the root, with slashes; sorted within a class."""
    labels: list[int] = field(default_factory=list[int])
    ignored: Counter[str] = field(default_factory=Counter[str])
    """Number of files that are no images, by suffix."""
    bad: list[BadImage] = field(default_factory=list[BadImage])
    """Symbolic links that are not followed."""


def recognise(root: Path) -> Tree:
    """Find out how a folder is laid out, without listing its images.

    Raises:
        DataError: The folder is missing or of no known layout, splits disagree on the classes, or
            two class folders have the same name but for case or accents' encoding.
    """
    if not root.exists():
        raise DataError(f"{root}: there is no such folder. Check the path.")
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of images. If it is an archive, unpack it.")
    if (root / "wnids.txt").is_file() and (root / "train").is_dir():
        return _recognise_tiny_imagenet(root)
    subfolders = list(_folders(root, root))
    named = [folder for folder in subfolders if folder.name.casefold() in _SPLIT_NAMES]
    splits: dict[str, Path] = {}
    for folder in named:
        split = _SPLIT_NAMES[folder.name.casefold()]
        if split in splits:
            raise DataError(
                f"{root}: both {splits[split].name}/ and {folder.name}/ could be the {split} "
                f"split. Rename or remove one of them."
            )
        splits[split] = folder
    split_layout = len(named) > 0 and (
        len(named) == len(subfolders)
        or ("train" in splits and len(splits) > 1 and any(_folders(splits["train"], root)))
    )
    if not split_layout:
        folders = _class_folders(root, root)
        return Tree(root, "class folders without splits", folders, folders, {"all": root})
    if "test" in splits and len(splits) > 1 and not any(_folders(splits["test"], root)):
        del splits["test"]  # as in ImageNet: without labels
    order = ("train", "val", "test")
    return _split_tree(root, {split: splits[split] for split in order if split in splits})


def list_files(tree: Tree, split: str) -> Listing:
    """List the image files of one split with their labels.

    Raises:
        DataError: A class has no images, or tiny-imagenet's annotations do not fit the files.
    """
    if split == "val" and tree.annotations is not None:
        return _list_annotated(tree, tree.annotations)
    folder = tree.splits[split]
    listing = Listing()
    empty: list[str] = []
    for label, name in enumerate(tree.folders):
        before = len(listing.names)
        _walk(folder / name, tree.root, listing)
        found = len(listing.names) - before
        listing.names[before:] = sorted(listing.names[before:])
        listing.labels += [label] * found
        if not found:
            empty.append(name)
    if empty:
        raise DataError(
            f"{folder}: {_some(empty)} {'holds' if len(empty) == 1 else 'hold'} no image "
            f"({', '.join(sorted(SUFFIXES))}). Remove the empty class folders or fill them."
        )
    return listing


def _split_tree(root: Path, splits: Mapping[str, Path]) -> Tree:
    folders = {split: _class_folders(folder, root) for split, folder in splits.items()}
    first = next(iter(folders))
    for split, found in folders.items():
        missing = sorted(set(folders[first]) - set(found))
        surplus = sorted(set(found) - set(folders[first]))
        if missing or surplus:
            parts = [f"only in {splits[first].name}/: {_some(missing)}"] if missing else []
            parts += [f"only in {splits[split].name}/: {_some(surplus)}"] if surplus else []
            raise DataError(
                f"{root}: {splits[first].name}/ and {splits[split].name}/ must have the same class "
                f"folders; {'; '.join(parts)}. Add what is missing or remove what is too many."
            )
    layout = "class folders in " + " and ".join(f"{folder.name}/" for folder in splits.values())
    return Tree(root, layout, folders[first], folders[first], splits)


def _recognise_tiny_imagenet(root: Path) -> Tree:
    listed = (root / "wnids.txt").read_text(encoding="utf-8").split()
    folders = _class_folders(root / "train", root)
    if set(listed) != set(folders):
        raise DataError(
            f"{root}: wnids.txt and train/ must have the same classes; only in wnids.txt: "
            f"{_some(sorted(set(listed) - set(folders)))}; only in train/: "
            f"{_some(sorted(set(folders) - set(listed)))}. Unpack the archive again."
        )
    annotations = root / "val" / "val_annotations.txt"
    if not annotations.is_file():  # sorted into class folders by its owner
        val = {"val": root / "val"} if (root / "val").is_dir() else {}
        tree = _split_tree(root, {"train": root / "train", **val})
        return Tree(root, tree.layout, folders, _readable(root, folders), tree.splits)
    return Tree(
        root,
        "tiny-imagenet",
        folders,
        _readable(root, folders),
        {"train": root / "train", "val": root / "val"},
        annotations,
    )


def _readable(root: Path, folders: tuple[str, ...]) -> tuple[str, ...]:
    """The first word words.txt has for each class; with the class's code where it is not unique."""
    words: dict[str, str] = {}
    if (root / "words.txt").is_file():
        for line in (root / "words.txt").read_text(encoding="utf-8").splitlines():
            code, _, meaning = line.partition("\t")
            words[code] = meaning.split(",")[0].strip()
    names = [words.get(folder) or folder for folder in folders]
    times = Counter(names)
    return tuple(
        name if times[name] == 1 else f"{name} ({folder})"
        for name, folder in zip(names, folders, strict=True)
    )


def _list_annotated(tree: Tree, annotations: Path) -> Listing:
    label_of = {folder: label for label, folder in enumerate(tree.folders)}
    found = Listing()
    _walk(annotations.parent, tree.root, found)
    there = set(found.names)
    below = annotations.parent.relative_to(tree.root).as_posix()
    listing = Listing(ignored=found.ignored, bad=found.bad)
    for number, line in enumerate(annotations.read_text(encoding="utf-8").splitlines(), 1):
        file, _, rest = line.partition("\t")
        code = rest.split("\t")[0]
        name = f"{below}/images/{file}"
        if code not in label_of or name not in there:
            raise DataError(
                f"{annotations}, line {number}: expected an image of val/images/ and a class of "
                f"wnids.txt, separated by a tab, found {line[:80]!r}. Unpack the archive again."
            )
        listing.names.append(name)
        listing.labels.append(label_of[code])
    if not listing.names:
        raise DataError(f"{annotations}: lists no image. Unpack the archive again.")
    return listing


def _class_folders(folder: Path, root: Path) -> tuple[str, ...]:
    names = sorted(found.name for found in _folders(folder, root))
    if not names:
        loose = sum(1 for entry in _entries(folder) if _is_image(entry.name))
        what = f"{loose} images lie directly in it" if loose else "there are no folders in it"
        raise DataError(
            f"{folder}: expected one folder for each class with its images in it, but {what}. "
            f"Move the images into {folder.name}/<class>/. (The validation images of ImageNet come "
            f"flat; the ground truth in its development kit gives the class of each.)"
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


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What is in a folder, hidden things left out."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.name.casefold() not in _NOT_DATA:
                    yield entry
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be read ({error.strerror}).") from error


def _folders(folder: Path, root: Path) -> Iterator[Path]:
    for entry in _entries(folder):
        if entry.is_dir():
            if entry.is_symlink() and (reason := _not_followed(entry, root)):
                raise DataError(f"{entry.path}: {reason}")
            yield folder / entry.name


def _walk(folder: Path, root: Path, listing: Listing) -> None:
    """Add all images below `folder` to `listing`, unsorted."""
    for entry in _entries(folder):
        path = Path(entry.path)
        if entry.is_symlink() and (reason := _not_followed(entry, root)):
            listing.bad.append(BadImage(path.relative_to(root).as_posix(), reason))
        elif entry.is_dir():
            _walk(path, root, listing)
        elif _is_image(entry.name):
            listing.names.append(path.relative_to(root).as_posix())
        else:
            listing.ignored[path.suffix.casefold()] += 1


def _not_followed(entry: os.DirEntry[str], root: Path) -> str | None:
    """Why a symbolic link is not followed; None if it is."""
    target = Path(entry.path).resolve()
    if not target.exists():
        return "the symbolic link leads nowhere. Remove it or restore its target."
    if not target.is_relative_to(root.resolve()):
        return (
            f"the symbolic link leads out of {root}, to {target}, and is not followed. Copy the "
            f"files here, or give the folder that really holds them."
        )
    if target.is_dir() and Path(entry.path).parent.resolve().is_relative_to(target):
        return "the symbolic link leads back to a folder above it. Remove it."
    return None


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].casefold() in SUFFIXES


def _some(names: Iterable[str], most: int = 8) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    shown = ", ".join(names[:most]) or "none"
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
