"""Processes that are killed at a chosen moment: before one of the things they do to files."""

from __future__ import annotations

import builtins
import io
import json
import os
import random
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from forked import Forked
from modicum.cli import main
from modicum.engine.metrics import MEASURED

CPU = ["--device", "cpu", "--checkpoint-every", "0"]
"""Options of runs that are compared: a checkpoint after every step."""

_EVENTS = {
    "os.rename": 2, "os.remove": 1, "os.mkdir": 1, "os.rmdir": 1, "os.truncate": 1, "os.chmod": 1,
    "os.link": 2, "os.symlink": 2, "os.utime": 1,
}  # fmt: skip
"""What Python tells audit hooks of, besides `open`, and how many of its arguments are paths."""


class Watch:
    """Counts what this process does to files below a folder, and kills it before one of it.

    A write counts twice: the process is killed before it, or when half of it is on the disk.

    Args:
        folder: Only what lies below it counts.
        before: The number, from 1, of the event that is not lived to see; none: only count.
    """

    def __init__(self, folder: Path, before: int | None = None) -> None:
        self.events: list[str] = []
        self._folder, self._before, self._process = str(folder), before, os.getpid()

    def install(self) -> None:
        """Watch this process until it ends."""
        opened, forced = io.open, os.fsync

        def watched_open(file: Any, mode: str = "r", *how: Any, **named: Any) -> Any:
            found = opened(file, mode, *how, **named)
            inside = self._is_inside(_path_of(found.fileno()))
            return _WatchedFile(found, self) if inside and set(mode) & set("wax") else found

        def watched_force(descriptor: Any) -> None:
            self.happens("fsync", _path_of(descriptor))
            forced(descriptor)

        io.open = builtins.open = watched_open
        os.fsync = watched_force
        sys.addaudithook(self._hear)

    def happens(self, what: str, path: str, half: Callable[[], Any] | None = None) -> None:
        """Count an event, or die before it; `half` does a part of it."""
        if not self._is_inside(path) or os.getpid() != self._process:
            return
        for name, begin in [(what, None)] + ([(f"half of {what}", half)] if half else []):
            self.events.append(f"{name} {path[len(self._folder) + 1 :]}")
            if len(self.events) == self._before:
                if begin is not None:
                    begin()
                os.kill(self._process, signal.SIGKILL)

    def _is_inside(self, path: str) -> bool:
        return path == self._folder or path.startswith(self._folder + os.sep)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        paths = arguments[: _EVENTS.get(event, 0)]
        if event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            paths = arguments[:1]
        for path in [os.fspath(p) for p in paths if isinstance(p, str | bytes | os.PathLike)][:1]:
            self.happens(event, os.path.abspath(os.fsdecode(path)))


class _WatchedFile:
    """A file whose writes reach the disk at once."""

    def __init__(self, file: Any, watch: Watch) -> None:
        self._file, self._watch = file, watch

    def write(self, data: Any) -> int:
        def half() -> None:
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        self._watch.happens("write", _path_of(self._file.fileno()), half)
        written = self._file.write(data)
        self._file.flush()
        return written

    def __enter__(self) -> _WatchedFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _path_of(descriptor: Any) -> str:
    number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
    return os.readlink(f"/proc/self/fd/{number}")


def command(words: list[str], folder: Path, before: int | None, events: Path) -> int:
    """`modicum WORDS`, killed before an event in `folder`; else `events` gets what they were."""
    watch = Watch(folder, before)
    watch.install()
    code = main(words)
    events.write_text(json.dumps(watch.events))
    return code


def logged(run: Path) -> list[dict[str, Any]]:
    """What a run logged, but for what measures the machine."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in MEASURED} for line in lines]


def left(folder: Path) -> dict[str, Any]:
    """All that a run leaves and that is no measure of the machine."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    described = {path.name: path.read_bytes() for path in folder.glob("*.json")}
    networks = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    return {
        # The digest in a checkpoint's name changes with the seconds in it, TensorBoard's with both.
        "names": {re.sub(r"-\w{16}(?=\.pt$)|\.tfevents\..*", "", name) for name in names},
        "metrics": logged(folder),
        **described,
        **networks,
    }


def go_on(words: Sequence[str], log: Path) -> str:
    """Give a command again, and then what it advises; what is said where neither is taken."""
    for _ in range(2):
        process = Forked(main, list(words), log=log)
        if process.wait() == 0:
            return ""
        advised = re.search(r"`modicum (train [^`]*--(?:resume|restart) [^`]*)`", process.said)
        if advised is None:
            break
        words = shlex.split(advised[1])
    return f"modicum {shlex.join(words)}: {process.said[-500:]}"


class Kills:
    """Kills of a command, each followed by another that goes on.

    Args:
        base: Folder for everything.
        before: Makes the run folder as it is before the command.
    """

    def __init__(self, base: Path, before: Callable[[Path], object] = lambda folder: None) -> None:
        base.mkdir(exist_ok=True)
        self.folder, self._before = base / "run", before
        self._events, self._log = base / "events.json", base / "said.txt"
        self.count = 0
        self.lost: list[str] = []
        self.differing: list[str] = []

    def run(self, words: Sequence[str], number: int | None) -> int:
        """The exit code of a command that is killed before an event, or lives."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._before(self.folder)
        arguments = (list(words), self.folder, number, self._events)
        return Forked(command, *arguments, log=self._log).wait()

    def undisturbed(self, words: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
        """What a command does to files, and what it leaves."""
        assert self.run(words, None) == 0, self._log.read_text()
        return json.loads(self._events.read_text()), left(self.folder)

    def kill(self, words: Sequence[str], number: int, again: Sequence[str], whole: Any) -> None:
        """Kill a command before one event, go on, and compare with what the whole run left."""
        assert self.run(words, number) == -9, self._log.read_text()
        self.count += 1
        if said := go_on(again, self._log):
            self.lost.append(f"{number}: {said}")
        elif (found := left(self.folder)) != whole:
            differ = [name for name in {**whole, **found} if found.get(name) != whole.get(name)]
            names = found["names"] ^ whole["names"]
            self.differing.append(f"{number}: {', '.join(differ)} {names or ''}")

    def judge(self, what: str) -> None:
        """Say how it went; nothing may be lost or differ."""
        lost, differing = self.lost, self.differing
        print(f"{what}: {self.count} kills, {len(lost)} lost, {len(differing)} differing")
        assert not lost + differing, "\n".join(lost + differing)


def some_of(events: Sequence[str], every: int) -> list[int]:
    """The numbers of all events but writes, and of every so many writes."""
    writes = [place for place, event in enumerate(events, 1) if "write " in event]
    return sorted({*range(1, len(events) + 1)} - {*writes} | {*writes[::every]})


def try_twenty(tmp_path: Path, what: str, words: Sequence[str]) -> None:
    """Kill at moments drawn from all events, and as many from those that are not writes."""
    tried = Kills(tmp_path)
    words = [*words, *CPU, "--out", str(tried.folder)]
    events, whole = tried.undisturbed(words)
    few, draw = some_of(events, len(events)), random.Random(what)
    for number in draw.sample(range(1, len(events) + 1), 10) + draw.sample(few, 10):
        tried.kill(words, number, words, whole)
    tried.judge(what)
