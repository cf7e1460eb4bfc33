"""Where modicum keeps what it can compute again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The user's cache folder for modicum. It need not exist; deleting it is always safe.

    `MODICUM_CACHE` where it is set, else `modicum` in `XDG_CACHE_HOME`, else `~/.cache/modicum`.
    """
    if chosen := os.environ.get("MODICUM_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "modicum"
