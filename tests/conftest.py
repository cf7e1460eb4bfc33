# ruff: noqa: E402
"""What all tests share: the threads, a private cache, and the data of ../shared where it lies."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path

# One thread, here and in the processes that tests start, unless `make portable` asks for more:
# small tensors gain nothing from several, which spin while they wait.
THREADS = os.environ.get("MODICUM_TEST_THREADS", "1")
os.environ["OMP_NUM_THREADS"] = THREADS

import pytest
import torch

import forked
from chromium import browser
from modicum.claims import runner

__all__ = ["browser"]

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    torch.set_num_threads(int(THREADS))


@pytest.fixture(autouse=True, scope="session")
def _forking_process() -> Iterator[None]:
    yield
    forked.stop()


@pytest.fixture(autouse=True)
def _private_cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODICUM_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that train stages of a study are forked rather than started anew."""
    begin = functools.partial(forked.begin_worker, dict(os.environ))
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: forked.FORKING)
    monkeypatch.setattr(runner, "_follow_parent", begin)


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Path of a data set in ../shared/data; skips the test where it is absent."""

    def find(name: str) -> Path:
        path = SHARED / "data" / name
        if not path.exists():
            pytest.skip(f"../shared/data/{name} is absent; real data is not kept here")
        return path

    return find
