"""Prediction by a window that slides over images of any size."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from modicum.methods.tinymim.segmentation.augment import WholeBatch
from modicum.methods.tinymim.segmentation.metrics import confusion_matrix

_PIXELS_AT_ONCE = 1 << 26
"""Scores that are resized at a time: a quarter of a gigabyte."""


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along a side; the last one is moved back inside.

    A side shorter than the window has one, from 0 on.
    """
    count = -(-max(length - window, 0) // stride) + 1
    return [max(min(number * stride, length - window), 0) for number in range(count)]


class _Scores:
    """Scores of an image, summed over its windows."""

    def __init__(self, image: Tensor, window: tuple[int, int], stride: tuple[int, int]) -> None:
        self.image, self.size = image, (image.shape[1], image.shape[2])
        rows, columns = map(window_starts, self.size, window, stride)
        self.places = [(row, column) for row in rows for column in columns]
        self.window, self.done = window, 0
        self.sum: Tensor | None = None

    def part(self, row: int, column: int) -> Tensor:
        """A window of the image, padded with 0 at the right and bottom."""
        height, width = self.window
        part = self.image[:, row : row + height, column : column + width]
        return functional.pad(part, (0, width - part.shape[2], 0, height - part.shape[1]))

    def add(self, row: int, column: int, scores: Tensor) -> None:
        """Add the scores of a window, (classes, *window)."""
        if self.sum is None:
            self.sum = scores.new_zeros((len(scores), *self.size), dtype=torch.float32)
        here = self.sum[:, row : row + self.window[0], column : column + self.window[1]]
        here += scores[:, : here.shape[1], : here.shape[2]]
        self.done += 1

    def mean(self) -> Tensor:
        """Scores by how many windows show a pixel."""
        assert self.sum is not None
        counts = [torch.zeros(side, device=self.sum.device) for side in self.size]
        for axis, (count, side) in enumerate(zip(counts, self.window, strict=True)):
            for start in {place[axis] for place in self.places}:
                count[start : start + side] += 1
        return self.sum.div_(counts[0][:, None] * counts[1])


def sliding_scores(
    network: Callable[[Tensor], Tensor],
    images: Iterable[Tensor],
    window: int | tuple[int, int],
    *,
    stride: int | None = None,
    batch_size: int = 8,
) -> Iterator[Tensor]:
    """Class scores of images, each the mean over all windows that show a pixel.

    Windows of several images make a batch; no more images are held than a batch needs.

    Args:
        network: Gives class scores (B,K,*window) of normalised images (B,C,*window).
        images: Normalised, float (C,H,W) of any sizes, on the network's device.
        window: Side, or height and width, that the network takes. Smaller images are padded with 0.
        stride: Pixels from window to window; none: two thirds of the window, rounded down (341 of
            512).
        batch_size: Windows at a time.

    Yields:
        Scores before softmax, float32 (K,H,W), in the order of the images.
    """
    sides = (window, window) if isinstance(window, int) else window
    steps = (stride, stride) if stride else (sides[0] * 2 // 3, sides[1] * 2 // 3)
    started: deque[_Scores] = deque()
    waiting: list[tuple[_Scores, tuple[int, int]]] = []

    def compute(count: int) -> Iterator[Tensor]:
        chosen, waiting[:count] = waiting[:count], []
        for (scores, place), found in zip(
            chosen, network(torch.stack([one.part(*at) for one, at in chosen])), strict=True
        ):
            scores.add(*place, found)
        while started and started[0].done == len(started[0].places):
            yield started.popleft().mean()

    for image in images:
        scores = _Scores(image, sides, steps)
        started.append(scores)
        waiting += [(scores, place) for place in scores.places]
        while len(waiting) >= batch_size:
            yield from compute(batch_size)
    if waiting:
        yield from compute(len(waiting))


def label_map_of(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """The likeliest class of each pixel, uint8 (H,W), once scores (K,h,w) are resized to `size`.

    Bilinearly, a few classes at a time: scores of a large photograph could fill all memory.
    """
    best, labels = None, torch.zeros(size, dtype=torch.uint8, device=scores.device)
    step = max(1, _PIXELS_AT_ONCE // (size[0] * size[1]))
    for first in range(0, len(scores), step):
        some = scores[None, first : first + step]
        resized = functional.interpolate(some, size, mode="bilinear", align_corners=False)[0]
        highest, label = resized.max(dim=0)
        label = (label + first).to(torch.uint8)
        better = None if best is None else highest > best
        labels = label if better is None else torch.where(better, label, labels)
        best = highest if best is None else torch.maximum(best, highest)
    return labels


def predicted_confusion(
    network: Callable[[Tensor], Tensor],
    batches: Iterable[WholeBatch],
    classes: int,
    window: int | tuple[int, int],
    *,
    normalise: Callable[[Tensor], Tensor],
    device: torch.device | str = "cpu",
    batch_size: int = 8,
) -> Tensor:
    """The confusion matrix over batches of whole images, int64 (classes, classes) on the CPU.

    Args:
        network: As of `sliding_scores`.
        batches: Images and label maps.
        classes: Number of classes.
        window: See `sliding_scores`.
        normalise: From bytes (1,3,h,w) to what the network takes.
        device: Where the network is.
        batch_size: Windows at a time.
    """
    total = torch.zeros(classes, classes, dtype=torch.int64)
    maps: deque[Tensor] = deque()

    def images() -> Iterator[Tensor]:
        for batch in batches:
            for image, label_map in zip(batch.image, batch.label_map, strict=True):
                maps.append(label_map)
                yield normalise(image[None].to(device))[0]

    for scores in sliding_scores(network, images(), window, batch_size=batch_size):
        truth = maps.popleft().to(device)
        found = label_map_of(scores, (truth.shape[0], truth.shape[1]))
        total += confusion_matrix(found, truth, classes).cpu()
    return total
