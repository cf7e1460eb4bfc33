"""Consistency of predictions under shifts."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
    shifts of one pixel: of images `(B, C, H, W)`, `(B,)`, float32, each 0 to 1.
    """
    predicted = network(image).argmax(1)
    moves = ((-1, 0), (1, 0), (0, -1), (0, 1))
    same = [network(shifted(image, *move)).argmax(1) == predicted for move in moves]
    return torch.stack(same).float().mean(0)
