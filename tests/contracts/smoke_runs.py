"""A smoke run of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from modicum.cli import main
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


def main_in_double_precision(words: Sequence[str]) -> int:
    """The command line, in a process of its own, whose networks and losses are of float64.

    Rounding is then so small that no spike flips by it, and what two processes do otherwise than
    one is seen.
    """
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    register_module_forward_pre_hook(_widened)  # pyright: ignore[reportArgumentType]
    return main(words)


def _widened(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    floating = (isinstance(given, Tensor) and given.is_floating_point() for given in inputs)
    return tuple(
        given.double() if wide else given for given, wide in zip(inputs, floating, strict=True)
    )
