"""The folder of a run: whose it is, and the files that say what was run and where."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modicum.errors import ConfigError
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
        """Write config.json, unless it is there, and environment.json.

        Args:
            description: What the run is, JSON-able.
            processes: Processes that train together.
        """
        self._described = True
        config = self.path / "config.json"
        if not config.is_file():
            write_text(config, json.dumps(description, indent=2) + "\n")
        environment = describe_environment() | {"processes": str(processes)}
        write_text(self.path / "environment.json", json.dumps(environment, indent=2) + "\n")

    def close(self, *, keep: bool) -> None:
        """Give the folder back to other processes. Safe to call twice.

        Args:
            keep: Whether a folder that was never described stays.
        """
        self._lock.release()
        if not self._described and not keep:
            with contextlib.suppress(OSError):  # of a run that never began, nothing stays
                self._lock.path.unlink()
                self.path.rmdir()
