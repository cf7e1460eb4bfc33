"""The folder of a run: whose it is, and the files that say what was run and where."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from modicum.engine.options import RunOptions
from modicum.errors import ConfigError, DataError
from modicum.options import from_json
from modicum.system.environment import describe_environment
from modicum.system.files import FolderLock, write_text


class RunFolder:
    """A run folder, claimed by this process: two that write one run would destroy both.

    Args:
        path: Must be absent or empty, unless `resume`.
        method: Name of the method, for messages.
        resume: Whether a run in it may be gone on with.

    Raises:
        ConfigError: The folder is in use, or not empty without `resume`.
    """

    def __init__(self, path: Path, *, method: str, resume: bool) -> None:
        self.path = path
        self._described = False
        used = path.is_dir() and {entry.name for entry in path.iterdir()} - {".lock"}
        if used and not resume:
            raise ConfigError(
                f"{path}: the run folder exists and is not empty. Go on with it by "
                f"`modicum train {method} --resume {path}`, or give another --out."
            )
        try:
            self._lock = FolderLock(path)
        except BlockingIOError as error:
            raise ConfigError(
                f"{path}: another process is writing this run. Wait for it, or stop it."
            ) from error
        for left in (path / "checkpoints").glob(".*"):  # half written when it was killed
            left.unlink()

    def describe(self, description: Mapping[str, Any], *, processes: int) -> None:
        """Write config.json, of what is JSON-able, unless it is there, and environment.json."""
        self._described = True
        config = self.path / "config.json"
        if not config.is_file():
            write_text(config, json.dumps(description, indent=2) + "\n")
        environment = describe_environment() | {"processes": str(processes)}
        write_text(self.path / "environment.json", json.dumps(environment, indent=2) + "\n")

    def close(self, *, keep: bool) -> None:
        """Give the folder back. Without `keep` one that was never described goes."""
        self._lock.release()
        if not self._described and not keep:
            with contextlib.suppress(OSError):  # of a run that never began, nothing stays
                self._lock.path.unlink()
                self.path.rmdir()


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
    try:
        described = json.loads(file.read_text())
        names = described["method"], described["recipe"]
        config, options = described["config"], described["run"]
    except FileNotFoundError as error:
        raise ConfigError(
            f"{folder}: not a run folder (it holds no config.json). Expected the folder given to "
            f"`modicum train … --out`."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file}: not the description of a run ({error!r}). Restore it from a backup, or train "
            f"anew in another folder."
        ) from error
    return DescribedRun(
        *names, from_json(config_of(*names), config), from_json(RunOptions, options)
    )
