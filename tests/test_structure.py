"""What decides is in every floor: a module stands above what it uses."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import modicum
from modicum.catalogue import CATALOGUE, room

SOURCE = Path(modicum.__file__).parent


def imports(path: Path) -> Iterator[str]:
    """Names that a file imports when it runs, at its top or in a function."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from names
            if not all(name in MODULES for name in names):
                yield node.module


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in SOURCE.rglob("*.py")}


def circle(edges: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_module_imports_one_that_imports_it() -> None:
    edges = {
        module: {name for name in imports(path) if name in MODULES and name != module}
        for module, path in MODULES.items()
    }
    assert circle(edges) == []


def test_no_room_imports_one_that_imports_it() -> None:
    edges: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        parts = module.split(".")
        if len(parts) == 1 or parts[1] == "methods":
            continue
        others = {name.split(".")[1] for name in imports(path) if name.startswith("modicum.")}
        edges.setdefault(parts[1], set()).update(others - {parts[1]})
    assert circle(edges) == []


@pytest.mark.parametrize("name", CATALOGUE)
def test_nothing_shared_names_a_method(name: str) -> None:
    for module, path in MODULES.items():
        if not module.startswith("modicum.methods.") and module != "modicum.catalogue":
            text = path.read_text()
            assert f"methods.{room(name)}" not in text, path


def test_the_catalogue_imports_nothing_heavy() -> None:
    code = "import modicum.catalogue, modicum.method, modicum.cli, sys; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for heavy in ("torch", "numpy", "tyro", "rich", "accelerate", "scipy"):
        assert f"'{heavy}'" not in done.stdout, heavy


def test_what_is_called_takes_few_arguments() -> None:
    """More than twelve are a group of options; what builds a thing of many parts may have them."""
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name not in ("__init__", "build"):
                arguments = [*node.args.args, *node.args.kwonlyargs]
                found = [a.arg for a in arguments if a.arg not in ("self", "cls")]
                assert len(found) <= 12, f"{path}: {node.name}"


def test_texts_cite_nothing_that_a_reader_cannot_have() -> None:
    for path in [*SOURCE.rglob("*.py"), *SOURCE.rglob("*.md")]:
        assert "the specification" not in path.read_text(encoding="utf-8").lower(), path
