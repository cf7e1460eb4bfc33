"""Accuracy, consistency under shifts, and what a network costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def topk_correct(logits: Tensor, label: Tensor, ks: Sequence[int]) -> Tensor:
    """Whether the label is among the k likeliest classes.

    Args:
        logits: `(B, classes)`.
        label: `(B,)`, int64.
        ks: Several k; one larger than the number of classes counts as all of them.

    Returns:
        Bool, `(len(ks), B)`.
    """
    order = logits.topk(min(max(ks), logits.shape[1]), dim=1).indices
    hits = order == label[:, None]
    return torch.stack([hits[:, :k].any(1) for k in ks])


def shifted(image: Tensor, rows: int, columns: int) -> Tensor:
    """Images `(B, C, H, W)` moved by whole pixels; border pixels are repeated."""
    height, width = image.shape[2:]
    row = (torch.arange(height) - rows).clamp(0, height - 1)
    column = (torch.arange(width) - columns).clamp(0, width - 1)
    return image[:, :, row][:, :, :, column]


@torch.no_grad()
def shift_consistency(network: nn.Module, image: Tensor) -> Tensor:
    """Share of one-pixel shifts (up, down, left, right) that leave the predicted class as it was.

    The measure of Zhang, "Making convolutional networks shift-invariant again", ICML 2019, for
    shifts of one pixel.

    Args:
        network: In eval mode.
        image: `(B, C, H, W)`, as the network takes it.

    Returns:
        `(B,)`, float32, each 0 to 1.
    """
    predicted = network(image).argmax(1)
    moves = ((-1, 0), (1, 0), (0, -1), (0, 1))
    same = [network(shifted(image, *move)).argmax(1) == predicted for move in moves]
    return torch.stack(same).float().mean(0)


@torch.inference_mode()
def latency(network: nn.Module, image: Tensor, repeats: int = 20) -> tuple[float, float]:
    """Minimum and median wall-clock milliseconds of a forward pass, after 3 passes to warm up.

    Args:
        network: In eval mode, on the image's device.
        image: `(B, C, H, W)`.
        repeats: Timed passes.
    """
    times: list[float] = []
    for _ in range(3 + repeats):
        if image.is_cuda:
            torch.cuda.synchronize(image.device)
        began = time.perf_counter()
        network(image)
        if image.is_cuda:
            torch.cuda.synchronize(image.device)
        times.append(1000 * (time.perf_counter() - began))
    return min(times[3:]), statistics.median(times[3:])
