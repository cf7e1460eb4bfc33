from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from event_folders import write_folder

from modicum.cli import main
from modicum.events import datasets


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of ten recordings in class folders."""
    return write_folder(tmp_path_factory.mktemp("recordings"), 10)


@pytest.fixture(scope="session")
def train_by_command() -> Callable[..., Path]:
    """Trains a small network by `modicum train` and returns its run folder."""

    def train(method: str, folder: Path, *words: object, **options: object) -> Path:
        small = {"network": "small", "time_steps": 4, "epochs": 1, "batch_size": 8, "holdout": 0.2}
        command = ["train", method, *map(str, words), "--device", "cpu", "--workers", "0"]
        for name, value in (small | options | {"out": folder}).items():
            command += [f"--{name.replace('_', '-')}", *str(value).split()]
        assert main(command) == 0
        return folder

    return train


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> int:
    """How many of the built-in recordings a split has in a test: all take seconds to simulate."""
    whole: Callable[..., Any] = datasets.digit_recordings

    def some(split: str, count: int | None = None, **options: Any) -> Any:
        return whole(split, count or 40, **options)

    monkeypatch.setattr(datasets, "digit_recordings", some)
    return 40
