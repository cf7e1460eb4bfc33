"""Image folders: class-per-folder trees, and tiny-imagenet-200.

Tiny-imagenet-200 has `wnids.txt`, `train/<wnid>/images/`, `val/images/` with
`val/val_annotations.txt`, and `words.txt` for readable names. The other trees are those of
`modicum.data.folders`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from modicum.data import folders
from modicum.data.folders import FileKind, Listing, Tree, class_folders, some, split_tree, walk
from modicum.errors import DataError
from modicum.images.decode import SUFFIXES
from modicum.system.files import read_text

IMAGES = FileKind(
    "image",
    SUFFIXES,
    "(The validation images of ImageNet come flat; the ground truth in its development kit gives "
    "the class of each.)",
)


@dataclass(frozen=True)
class AnnotatedTree(Tree):
    """Tiny-imagenet-200 as distributed: its validation images lie flat."""

    annotations: Path
    """The list of the validation images' labels."""


def recognise(root: Path) -> Tree:
    """As `modicum.data.folders.recognise`, of a folder of images."""
    if (root / "wnids.txt").is_file() and (root / "train").is_dir():
        return _recognise_tiny_imagenet(root)
    return folders.recognise(root, IMAGES)


def list_files(tree: Tree, split: str) -> Listing:
    """List the image files of one split with their labels.

    Raises:
        DataError: A class has no images, or tiny-imagenet's annotations do not fit the files.
    """
    if split == "val" and isinstance(tree, AnnotatedTree):
        return _list_annotated(tree)
    return folders.list_files(tree, split)


def _recognise_tiny_imagenet(root: Path) -> Tree:
    listed = read_text(root / "wnids.txt").split()
    found = class_folders(root / "train", root, IMAGES)
    if set(listed) != set(found):
        raise DataError(
            f"{root}: wnids.txt and train/ must have the same classes; only in wnids.txt: "
            f"{some(sorted(set(listed) - set(found)))}; only in train/: "
            f"{some(sorted(set(found) - set(listed)))}. Unpack the archive again."
        )
    annotations, classes = root / "val" / "val_annotations.txt", _readable(root, found)
    splits = {name: root / name for name in ("train", "val") if (root / name).is_dir()}
    if not annotations.is_file():  # sorted into class folders by its owner
        return dataclasses.replace(split_tree(root, splits, IMAGES), classes=classes)
    return AnnotatedTree(root, "tiny-imagenet", found, classes, splits, IMAGES, annotations)


def _readable(root: Path, codes: tuple[str, ...]) -> tuple[str, ...]:
    """The first word words.txt has for each class; with the class's code where it is not unique."""
    words: dict[str, str] = {}
    if (root / "words.txt").is_file():
        for line in read_text(root / "words.txt").splitlines():
            code, _, meaning = line.partition("\t")
            words[code] = meaning.split(",")[0].strip()
    names = [words.get(code) or code for code in codes]
    times = Counter(names)
    return tuple(
        name if times[name] == 1 else f"{name} ({code})"
        for name, code in zip(names, codes, strict=True)
    )


def _list_annotated(tree: AnnotatedTree) -> Listing:
    annotations = tree.annotations
    label_of = {folder: label for label, folder in enumerate(tree.folders)}
    found = Listing()
    walk(annotations.parent, tree, found)
    there = set(found.names)
    below = annotations.parent.relative_to(tree.root).as_posix()
    listing = Listing(ignored=found.ignored, bad=found.bad)
    for number, line in enumerate(read_text(annotations).splitlines(), 1):
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
