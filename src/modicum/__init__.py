"""modicum: ten published methods for learning when something is scarce.

    trained = modicum.open("runs/photos")  # what `modicum train` left
    trained.classes, trained.network, trained.pipeline
    trained.predict("photos/red")["predictions"]

`modicum.open(path)` gives back what a run left, for use; `modicum.load(path)` the network alone.
The rooms of the methods are the packages of `modicum.methods`. Importing modicum itself imports
neither PyTorch nor any method.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from modicum.method import Trained

__all__ = ["load", "open"]


def load(path: str | os.PathLike[str], weights: str = "last") -> nn.Module:
    """The network in a run folder or a `.safetensors` file, in eval mode on the CPU.

    Args:
        path: A run folder of `modicum train`, or a file it wrote.
        weights: For a run folder, `"last"` or `"best"`.

    Raises:
        CheckpointError: There is no such network, or its file is damaged or foreign.
    """
    from modicum.method import load_saved

    return load_saved(path, weights).module


def open(path: str | os.PathLike[str], weights: str = "last") -> Trained:
    """A trained network for use, with its classes and transforms.

    `.network`, `.classes`, `.pipeline`, `.probabilities(samples)`; and the verbs `.predict(files)`,
    `.evaluate(data)` and `.export()`. See `modicum.method.Trained`.

    Args:
        path: A run folder of `modicum train`, or a file it wrote.
        weights: For a run folder, `"last"` or `"best"`.

    Raises:
        CheckpointError: There is no such network, or its file is damaged or foreign.
    """
    from modicum.method import Trained

    trained = Trained(Path(path), weights)
    trained.saved  # noqa: B018 (a wrong path is told here)
    return trained
