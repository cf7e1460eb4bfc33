"""Killed at any moment, a run is gone on with to the same bits, by what modicum itself advises.

A process is killed before what it does to a file in the run folder (`kills.Watch`). Then a person
gives the same command again and, if modicum advises another, that one.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_contract import command, of_recipes

from forked import Forked
from kills import CPU, Kills, left, some_of, try_twenty
from modicum.cli import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which file is written"),
]

TINY = ["train", "toy", "teacher", "--epochs", "3", "--batch-size", "64"]
"""Three optimizer steps: one checkpoint is removed."""


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    folder = tmp_path / "finished" / "run"
    assert Forked(main, [*TINY, *CPU, "--out", str(folder)], log=tmp_path / "log").wait() == 0
    return folder


def test_before_every_event_of_a_run(tmp_path: Path) -> None:
    tried = Kills(tmp_path)
    words = [*TINY, *CPU, "--out", str(tried.folder)]
    events, whole = tried.undisturbed(words)
    assert {"open", "write", "fsync", "os.rename", "os.remove"} <= {e.split()[0] for e in events}
    for number in range(1, len(events) + 1):
        tried.kill(words, number, words, whole)
    tried.judge("every event of a run")


def test_before_events_of_a_resumed_run(tmp_path: Path) -> None:
    first = Kills(tmp_path / "first")
    words = [*TINY, *CPU, "--out", str(first.folder)]
    events, whole = first.undisturbed(words)
    stop = next(n for n, e in enumerate(events, 1) if "step-00000002" in e and "half" in e)
    assert first.run(words, stop) == -9
    tried = Kills(tmp_path, lambda folder: shutil.copytree(first.folder, folder))
    resume = ["train", "--resume", str(tried.folder)]
    events, resumed = tried.undisturbed(resume)
    assert resumed == whole
    for number in some_of(events, 7):
        tried.kill(resume, number, resume, whole)
    tried.judge("a resumed run")


@pytest.mark.parametrize("again", ["--restart", "--resume"])
def test_before_events_of_a_restarted_run(tmp_path: Path, finished: Path, again: str) -> None:
    tried = Kills(tmp_path, lambda folder: shutil.copytree(finished, folder))
    restart = ["train", "--restart", str(tried.folder)]
    events, whole = tried.undisturbed(restart)
    assert whole == left(finished)
    for number in some_of(events, 20):
        tried.kill(restart, number, ["train", again, str(tried.folder)], whole)
    tried.judge(f"a restarted run, then {again}")


@of_recipes
def test_twenty_kills_of_a_recipe(tmp_path: Path, name: str, recipe: str) -> None:
    words = [*command(name, recipe), "--preset", "smoke"]
    try_twenty(tmp_path, f"{name} {recipe}", words)


def test_twenty_kills_of_a_model_that_is_counted(tmp_path: Path) -> None:
    words = ["train", "drum-transfer", "--preset", "smoke", "--model", "ngram"]
    try_twenty(tmp_path, "drum-transfer ngram", words)


def test_twenty_kills_of_students_trained_in_batches(tmp_path: Path) -> None:
    words = ["train", "reliant", "distil", "--preset", "smoke", "--batch-size", "64"]
    words += ["--student", "decoupled", "--framework", "cpf", "--parts", "1"]
    try_twenty(tmp_path, "reliant distil in batches", words)


def test_twenty_kills_with_tensorboard(tmp_path: Path) -> None:
    try_twenty(tmp_path, "toy with TensorBoard", [*TINY, "--tensorboard"])


# A check


def verdicts(folder: Path) -> Any:
    """What a check said, but for the time it took."""
    found = json.loads((folder / "results.json").read_text())
    for arms in found["arms"].values():
        for arm in arms:
            del arm["cpu_seconds"]
    return found


def test_a_killed_check_ends_with_the_same_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(out: Path) -> Forked:
        words = ["check", "toy", "--seeds", "2", "--jobs", "2", "--report", str(out)]
        return Forked(main, words, log=tmp_path / "said.txt")

    def files(cache: Path) -> int:
        return sum(path.is_file() for path in cache.rglob("*"))

    monkeypatch.setenv("MODICUM_CACHE", str(tmp_path / "cache"))
    process = check(tmp_path / "whole")
    assert process.wait() == 0, process.said
    most, draw = files(tmp_path / "cache"), random.Random(0)
    kills = lost = differing = 0
    for number in range(5):
        cache, out = tmp_path / f"cache {number}", tmp_path / str(number)
        monkeypatch.setenv("MODICUM_CACHE", str(cache))
        process, enough = check(out), draw.randrange(most)
        while process.exit_code is None and files(cache) < enough:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -9
        process = check(out)
        if process.wait() or "Traceback" in process.said:
            lost += 1
        else:
            differing += verdicts(out) != verdicts(tmp_path / "whole")
    print(f"modicum check: {kills} kills, {lost} lost, {differing} differing")
    assert (lost, differing) == (0, 0)
    assert kills > 2
