"""What the contract's tests share: the toy method, and one smoke run of every recipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from smoke_runs import Smoke, smoke

from modicum.catalogue import CATALOGUE

PLUGIN = Path(__file__).parent / "plugin"
sys.path.insert(0, str(PLUGIN))
from toy_method import install  # noqa: E402


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch, _shared_cache: Path) -> Iterator[None]:
    """The toy method is in the catalogue of this process and of those that it starts."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PLUGIN), *_python_path()]))
    monkeypatch.setenv("MODICUM_CACHE", str(_shared_cache))
    install()
    yield
    del CATALOGUE["toy"]


def _python_path() -> list[str]:
    return [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]


@pytest.fixture(scope="session")
def _shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built-in data that takes seconds to make is made once."""
    return tmp_path_factory.mktemp("contract-cache")


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Smoke]:
    """The run of a recipe that all tests look at; none may change it."""
    done: dict[tuple[str, str], Smoke] = {}

    def run(name: str, recipe: str) -> Smoke:
        if (name, recipe) not in done:
            done[name, recipe] = smoke(name, recipe, tmp_path_factory.mktemp("smoke") / "run")
        return done[name, recipe]

    return run
