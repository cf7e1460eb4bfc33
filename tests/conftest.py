"""What all tests share: the threads, a private cache, and the data of ../shared where it lies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from chromium import browser

__all__ = ["browser"]

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    """One, unless `make portable` asks for more."""
    torch.set_num_threads(int(os.environ.get("MODICUM_TEST_THREADS", "1")))


@pytest.fixture(autouse=True)
def _private_cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODICUM_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Path of a data set in ../shared/data; skips the test where it is absent."""

    def find(name: str) -> Path:
        path = SHARED / "data" / name
        if not path.exists():
            pytest.skip(f"../shared/data/{name} is absent; real data is not kept here")
        return path

    return find


@pytest.fixture
def modicum_command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python -m modicum …` as a user would, in a process of its own."""

    def run(*words: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "modicum", *map(str, words)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    return run
