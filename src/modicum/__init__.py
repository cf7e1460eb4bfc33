"""modicum: ten published methods for learning when something is scarce.

`modicum.load(path)` gives back a trained network; `from modicum.methods import vgnet` opens a
method's room. Importing modicum itself imports neither PyTorch nor any method.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__all__ = ["load"]


def load(path: Path | str, weights: str = "last") -> nn.Module:
    """The network in a run folder or a `.safetensors` file, in eval mode on the CPU.

    Args:
        path: A run folder of `modicum train`, or a file it wrote.
        weights: For a run folder, `"last"` or `"best"`.

    Raises:
        CheckpointError: There is no such network, or its file is damaged or foreign.
    """
    from modicum.method import load_saved

    return load_saved(path, weights).module
