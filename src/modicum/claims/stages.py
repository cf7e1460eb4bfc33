"""Stages: one training each, arms as chains of them, and what makes two the same.

A stage is a recipe with a configuration. It may take the run folders of stages before it: a student
is trained with the teacher that another stage left. A stage is kept in the cache under everything
that its result depends on, so equal stages of different arms are trained once.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import resolve_name
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modicum import methods
from modicum.method import load_method
from modicum.options import replace, to_json
from modicum.system.cache import cache_folder
from modicum.system.environment import version

if TYPE_CHECKING:
    from modicum.engine.run import RunOptions


@dataclass(frozen=True)
class Stage:
    """One training of a chain."""

    config: Any
    """What the recipe is trained with."""
    recipe: str = "train"
    """Name of a recipe of the study's method."""
    inputs: Mapping[str, Stage] = field(default_factory=dict[str, "Stage"])
    """Stages before it whose run folders it starts from, by the fields of `config` that take these
    folders. They have the seed of this stage."""
    options: RunOptions | None = None
    """How it is executed, if not as usual; seed, device and workers are the check's own."""


@dataclass(frozen=True)
class Training:
    """A stage with a seed, and where it is kept."""

    method: str
    stage: Stage
    seed: int
    folder: Path
    """The run folder: it is there once the training is done."""
    inputs: Mapping[str, Training]
    """The trainings before it, by the fields of the configuration that take their folders."""

    @property
    def config(self) -> Any:
        """The stage's configuration with the folders of the stages before it."""
        given = {name: before.folder for name, before in self.inputs.items()}
        return replace(self.stage.config, **given)

    def chain(self) -> Iterator[Training]:
        """All trainings before it, and itself, in an order in which they can be done."""
        for before in self.inputs.values():
            yield from before.chain()
        yield self


def training_of(method: str, stage: Stage, seed: int, fingerprint: str = "") -> Training:
    """The training of a stage, and of those before it, with a seed; see `Study` for the others."""
    inputs = {
        name: training_of(method, before, seed, fingerprint)
        for name, before in stage.inputs.items()
    }
    recipe = load_method(method).recipe(stage.recipe)
    described = {
        "method": method,
        "recipe": stage.recipe,
        "config": to_json(stage.config),
        "options": None if stage.options is None else to_json(stage.options),
        "seed": seed,
        "inputs": {name: before.folder.name for name, before in inputs.items()},
        "data": fingerprint,
        "code": code_digest(recipe.train.__module__, recipe.config.__module__),
    }
    key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]
    return Training(method, stage, seed, cache_folder() / "claims" / key, inputs)


# What the code of a result is

SOURCE = Path(__file__).parents[1]

NOT_IN_RESULTS = ("catalogue", "check", "claims", "cli", "method", "report")
"""Modules and rooms that judge and show what is trained, and have no part in its numbers."""


@cache
def code_digest(*modules: str) -> str:
    """SHA-256 over the code that modules use, and over Python's and PyTorch's versions.

    What they import, at their top or in a function, belongs to them, save for `NOT_IN_RESULTS`.
    """
    digest = hashlib.sha256(f"{sys.version_info[:2]} {version('torch')}".encode())
    for file in sorted(_files_of(modules)):
        digest.update(Path(os.path.relpath(file, SOURCE)).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def digest_of_function(function: Any) -> str:
    """`code_digest` of the module that a function is of; of another package, its source's."""
    if function.__module__.startswith("modicum."):
        return code_digest(function.__module__)
    return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()


def _files_of(modules: Iterable[str]) -> set[Path]:
    files: set[Path] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        file = _file_of(module)
        if file is not None and file not in files:
            files.add(file)
            waiting += _imports_of(file, module)
    return files


def _file_of(module: str) -> Path | None:
    """The file of a module or a package; None of what is no module or has no part in results."""
    names = module.split(".")
    if names[0] != "modicum" or len(names) == 1 or names[1] in NOT_IN_RESULTS:
        return None
    roots, inside = [str(SOURCE)], names[1:]
    if inside[0] == "methods" and len(inside) > 1:  # a room may lie elsewhere
        roots, inside = list(methods.__path__), inside[1:]
    places = [Path(root, *inside) for root in roots]
    found = [file for at in places for file in (at.with_suffix(".py"), at / "__init__.py")]
    return next((file for file in found if file.is_file()), None)


def _imports_of(file: Path, module: str) -> Iterator[str]:
    """Every name a module imports, whole: modules, and what is taken from them."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)
