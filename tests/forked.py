"""Processes of their own, forked from one that has done all imports: a start takes no seconds."""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore

from modicum.catalogue import CATALOGUE, room
from modicum.claims import runner

# The process that is forked computes nothing itself: threads and locks do not survive a fork.
FORKING = multiprocessing.get_context("forkserver")


def _imported() -> list[str]:
    names = ["accelerate", "cattrs", "matplotlib.pyplot", "modicum.cli", "modicum.report", "pytest"]
    names += ["scipy.stats", "torch._dynamo", "tyro._cli"]
    for method in CATALOGUE:
        package = f"modicum.methods.{room(method)}"
        recipes = importlib.import_module(f"{package}.method").METHOD.recipes.values()
        names += [importlib.util.resolve_name(name.split(":")[0], package) for name in recipes]
    return names


FORKING.set_forkserver_preload(_imported())


def stop() -> None:
    """End the process that is forked, so that its time and its children's count as the caller's."""
    forkserver._forkserver._stop()


class Forked:
    """A function in a process of its own.

    Args:
        function: Of a module, not of another function. What it returns is the exit code.
        arguments: Its arguments, picklable.
        log: File that gets what the process prints.
        environment: Variables besides those of this process.
    """

    def __init__(
        self, function: Callable[..., Any], *arguments: Any, log: Path, **environment: str
    ) -> None:
        self._log = log
        whole = {**os.environ, **environment}
        self._process = FORKING.Process(target=_run, args=(function, arguments, log, whole))
        self._process.start()

    @property
    def exit_code(self) -> int | None:
        """None while it runs; below 0 where a signal killed it."""
        return self._process.exitcode

    @property
    def said(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        if self.exit_code is None:
            os.kill(self._process.pid, number)

    def wait(self, seconds: float = 120) -> int:
        """The exit code; the process is killed if it takes longer."""
        self._process.join(seconds)
        if self.exit_code is None:
            self._process.kill()
            raise TimeoutError(f"still running after {seconds} s: {self.said[-3000:]}")
        return self.exit_code


def _run(
    function: Callable[..., Any], arguments: Any, log: Path, environment: dict[str, str]
) -> None:
    _start(environment)
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(function(*arguments))


def _start(environment: dict[str, str]) -> None:
    """What a Python that is started with these variables does."""
    os.environ.clear()
    os.environ.update(environment)
    for folder in environment.get("PYTHONPATH", "").split(os.pathsep):
        if folder and (file := Path(folder, "sitecustomize.py")).is_file():
            runpy.run_path(str(file))


def begin_worker(environment: dict[str, str]) -> None:
    """Prepare a process that trains stages of a study."""
    _start(environment)
    runner._follow_parent()


def together(function: Callable[..., Any], *arguments: Any, folder: Path) -> None:
    """Run a function in two processes that train together, as PyTorch's launcher starts them.

    Args:
        function: See `Forked`.
        arguments: The same for both.
        folder: For what the processes print.
    """
    store = TCPStore("localhost", 0, is_master=True)  # must live as long as they do
    shared = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # nobody need find a free port
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    members = [
        Forked(
            function, *arguments, log=folder / f"process {rank}.txt",
            RANK=str(rank), LOCAL_RANK=str(rank), **shared,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        for member in members:
            assert member.wait() == 0, member.said[-3000:]
    finally:
        for member in members:
            member.send_signal(signal.SIGKILL)
