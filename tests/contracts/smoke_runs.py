"""A smoke run of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from modicum.engine.run import Run, RunOptions
from modicum.method import load_method


@dataclass(frozen=True)
class Smoke:
    """A run of a recipe's smoke preset."""

    folder: Path
    network: nn.Module
    """What `train` returned, in eval mode."""


def smoke(name: str, recipe: str, folder: Path, seed: int = 0) -> Smoke:
    """Train a few steps on built-in data."""
    chosen = load_method(name).recipe(recipe)
    config = chosen.presets["smoke"].config
    options = RunOptions(seed=seed, device="cpu")
    with Run(folder, method=name, recipe=recipe, config=config, options=options, quiet=True) as run:
        return Smoke(folder, chosen.train(config, run).eval())
