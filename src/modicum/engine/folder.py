"""The folder of a run: whose it is, and the files that say what was run and where."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from modicum.engine.checkpoint import remove_checkpoints
from modicum.engine.options import RunOptions
from modicum.errors import ConfigError, DataError
from modicum.options import from_json
from modicum.system.environment import describe_environment
from modicum.system.files import TEMPORARY, FolderLock, read_json, write_text
from modicum.weights.saved import BEST_FILE, MODEL_FILE

RESULTS = (
    "metrics.jsonl", BEST_FILE, "tensorboard/events.out.tfevents.*",
    "report.html", "confusion.json", "pictures/*.png", "pictures/*.wav", "pictures/*.txt",
    "evaluation.json", "confusion.png", "scores.png", "written.png",
    "written/*/*.txt", "written/*/*.tab",
)  # fmt: skip
"""Patterns of files that a run, its report and the verb evaluate make, besides what describes it,
checkpoints and the network."""
_SAVING = re.compile(r"\.step-\d+\.saving")


class RunFolder:
    """A run folder, claimed by this process: two that write one run would destroy both.

    Nothing outside of it is touched, and what is removed in it has names that this program gives.

    Args:
        path: Must be absent or empty, unless `resume` or `restart`.
        method: Name of the method, for messages.
        resume: Whether a run in it may be gone on with.
        restart: Whether a run in it may be begun anew; `clear` removes what it left.

    Raises:
        ConfigError: The folder is in use, has links that lead out of it, or is not empty without
            `resume` and `restart`.
    """

    def __init__(
        self, path: Path, *, method: str, resume: bool = False, restart: bool = False
    ) -> None:
        self.path = path
        self._described = False
        used = path.is_dir() and any(
            entry.name != ".lock" and not _is_left(entry) for entry in path.iterdir()
        )
        if used and not (resume or restart):
            raise ConfigError(
                f"{path}: the run folder exists and is not empty. Go on with it by `modicum train "
                f"{method} --resume {shlex.quote(str(path))}`, or give another --out."
            )
        _refuse_ways_out(path)
        try:
            self._lock = FolderLock(path)
        except BlockingIOError as error:
            raise ConfigError(
                f"{path}: another process is writing this run. Wait for it, or stop it."
            ) from error
        for folder in (path, path / "checkpoints"):
            for entry in folder.glob(".*"):
                if _is_left(entry):
                    entry.unlink()

    def clear(self) -> None:
        """Remove the checkpoints and results of a run that is begun anew.

        Killed in between, the run can be gone on with or begun anew: an ended run becomes one whose
        last checkpoint lacks nothing but the network, then one that has older checkpoints, then one
        that has none.
        """
        (self.path / MODEL_FILE).unlink(missing_ok=True)
        remove_checkpoints(self.path / "checkpoints")
        for pattern in RESULTS:
            for path in self.path.glob(pattern):
                if path.is_file():
                    path.unlink()

    def describe(self, description: Mapping[str, Any], *, processes: int) -> None:
        """Write config.json, of what is JSON-able, and environment.json."""
        self._described = True
        write_text(self.path / "config.json", json.dumps(description, indent=2) + "\n")
        environment = describe_environment() | {"processes": str(processes)}
        write_text(self.path / "environment.json", json.dumps(environment, indent=2) + "\n")

    def close(self, *, keep: bool) -> None:
        """Give the folder back. Without `keep` one that was never described goes."""
        self._lock.release()
        if not self._described and not keep:
            with contextlib.suppress(OSError):  # of a run that never began, nothing stays
                self._lock.path.unlink()
                self.path.rmdir()


def _is_left(entry: Path) -> bool:
    """Whether a file was half written when a process was killed."""
    named = TEMPORARY.fullmatch(entry.name) or _SAVING.fullmatch(entry.name)
    return bool(named) and entry.is_file() and not entry.is_symlink()


def _refuse_ways_out(path: Path) -> None:
    """Raise where a link in the folder leads out of it: what is written there would go astray."""
    home = path.resolve()
    for folder, folders, files in os.walk(path):
        for name in folders + files:
            entry = Path(folder) / name
            end = Path(os.path.realpath(entry))
            if entry.is_symlink() and not end.is_relative_to(home):
                raise ConfigError(
                    f"{entry}: a link that leads out of the run folder, to {end}. Nothing is "
                    f"written through links; put there what it leads to."
                )


class DescribedRun(NamedTuple):
    """What a run folder was started with."""

    method: str
    recipe: str
    config: Any
    options: RunOptions


def read_run(folder: Path, config_of: Callable[[str, str], type[Any]]) -> DescribedRun:
    """What a run folder was started with.

    Args:
        folder: A run folder.
        config_of: From the names of a method and a recipe to the configuration class.

    Raises:
        ConfigError: It is not a run folder, or was written by another version.
        DataError: Its config.json is damaged.
    """
    file = folder / "config.json"
    if not file.exists():
        raise ConfigError(
            f"{folder}: not a run folder (it holds no config.json). Expected the folder given to "
            f"`modicum train … --out`, once its training began; if that was stopped before, give "
            f"the same command again."
        )
    described = read_json(file)
    try:
        method, recipe = str(described["method"]), str(described["recipe"])
        config, options = described["config"], described["run"]
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{file}: not the description of a run ({error!r}). Restore it from a backup, or train "
            f"anew in another folder."
        ) from error
    return DescribedRun(
        method, recipe, from_json(config_of(method, recipe), config), from_json(RunOptions, options)
    )
