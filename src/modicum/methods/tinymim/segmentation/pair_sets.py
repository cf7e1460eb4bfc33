"""Sets of images with label maps: in memory, or in files that are decoded when asked for."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import Self

from modicum.data.sample_set import SampleSet
from modicum.errors import DataError
from modicum.images.decode import decode_image, decode_label_map, opened

IGNORED = 255
"""Label of pixels that have no class: no loss, and no part in any score."""
MOST_CLASSES = IGNORED


class Pair(NamedTuple):
    """An image and its labels."""

    image: Tensor
    """uint8 (3,H,W)."""
    label_map: Tensor
    """uint8 (H,W), `IGNORED` where there is no class."""


@dataclass(frozen=True, eq=False)
class PairSet(SampleSet):
    """Images with label maps, of one split. `labels` is empty, (N,0): an image has no class."""

    @abstractmethod
    def read(self, number: int) -> Pair:
        """One image with its label map.

        Raises:
            DataError: A file cannot be decoded, the two differ in size, or a number is no label.
        """

    def picture(self, index: int) -> npt.NDArray[np.uint8]:
        """See `SampleSet.picture`."""
        return self.read(index).image.permute(1, 2, 0).numpy()


@dataclass(frozen=True, eq=False)
class MemoryPairs(PairSet):
    """Pairs of one size held in memory."""

    images: Tensor
    """uint8 (N,3,H,W)."""
    label_maps: Tensor
    """uint8 (N,H,W)."""

    def values(self, number: int) -> bytes:
        """See `SampleSet.values`."""
        return self.images[number].numpy().tobytes() + self.label_maps[number].numpy().tobytes()

    def read(self, number: int) -> Pair:
        """See `PairSet.read`."""
        return Pair(self.images[number], self.label_maps[number])

    def subset(self, index: npt.NDArray[np.int64]) -> Self:
        """See `SampleSet.subset`."""
        kept = torch.from_numpy(index)
        parts = {"images": self.images[kept], "label_maps": self.label_maps[kept]}
        return dataclasses.replace(super().subset(index), **parts)


@dataclass(frozen=True)
class Coding:
    """How the numbers or colours of a mask file are labels."""

    labels: tuple[int, ...] = tuple(range(MOST_CLASSES))
    """Label of each number, or of each colour, from the first on. 255 is `IGNORED`."""
    colours: tuple[tuple[int, int, int], ...] | None = None
    """Red, green and blue, where labels are written as colours."""

    def read(self, path: Path) -> npt.NDArray[np.uint8]:
        """The labels of a mask file, (H,W).

        Raises:
            DataError: The file cannot be decoded, has colours where numbers are expected, or
                numbers or colours that are no label.
        """
        if self.colours is None:
            with opened(path) as image:
                if image.format != "JPEG" and image.mode in ("RGB", "RGBA", "CMYK"):
                    raise DataError(
                        f"{path}: expected numbers of classes, in grey or with a palette, found "
                        f"colours. Say in classes.csv, beside the folder of the masks, which "
                        f"colour is which class: a line name,red,green,blue for each."
                    )
        found = decode_label_map(path, self.colours)
        table = np.full(1 << 8, -1, np.int16)
        table[: len(self.labels)] = self.labels
        table[IGNORED] = IGNORED
        labels = np.where(found < 1 << 8, table[found & 0xFF], -1)
        if (wrong := np.argwhere(labels < 0)).size:
            row, column = wrong[0].tolist()
            raise DataError(
                f"{path}: column {column}, row {row} is {found[row, column]}, expected 0 to "
                f"{len(self.labels) - 1}, or 255 for no class. Mend the mask, or list all classes "
                f"in classes.txt, a line each (at most {MOST_CLASSES})."
            )
        return labels.astype(np.uint8)


@dataclass(frozen=True, eq=False)
class FilePairs(PairSet):
    """Image files with mask files, decoded on demand."""

    root: Path
    """The folder that `names` and `masks` are below."""
    masks: npt.NDArray[np.str_]
    """Of each image, (N,)."""
    coding: Coding

    @property
    def files(self) -> list[str]:
        """All files, below `root`."""
        return [*map(str, self.names), *map(str, self.masks)]

    def read(self, number: int) -> Pair:
        """See `PairSet.read`."""
        path, mask = self.root / str(self.names[number]), self.root / str(self.masks[number])
        image, labels = decode_image(path), self.coding.read(mask)
        if reason := sizes_differ(image.shape[:2], labels.shape):
            raise DataError(f"{mask}: {reason}")
        pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous()
        return Pair(pixels, torch.from_numpy(labels))

    def subset(self, index: npt.NDArray[np.int64]) -> Self:
        """See `SampleSet.subset`."""
        return dataclasses.replace(super().subset(index), masks=self.masks[index])


def sizes_differ(image: Iterable[int], mask: Iterable[int]) -> str | None:
    """Why an image and a mask of these heights and widths are no pair."""
    (height, width), (mask_height, mask_width) = image, mask
    if (height, width) == (mask_height, mask_width):
        return None
    return (
        f"the mask has {mask_width} x {mask_height} pixels, its image {width} x {height}. Export "
        f"one of them again in the size of the other."
    )
