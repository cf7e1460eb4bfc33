from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from colour_folders import write_photographs
from event_folders import write_folder
from small_networks import SMALL

from modicum.claims import Picture, Study
from modicum.cli import main
from modicum.engine.run import Run, RunOptions
from modicum.events import datasets
from modicum.method import load_method
from modicum.options import replace


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of ten recordings in class folders."""
    return write_folder(tmp_path_factory.mktemp("recordings"), 10)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of ten photographs in class folders."""
    return write_photographs(tmp_path_factory.mktemp("photographs"), 10)


@pytest.fixture(scope="session")
def train_by_command() -> Callable[..., Path]:
    """Trains a small network by `modicum train` and returns its run folder."""

    def train(method: str, folder: Path, *words: object, **options: object) -> Path:
        few = {"epochs": 1, "batch_size": 8, "holdout": 0.2}
        command = ["train", method, *map(str, words), "--device", "cpu", "--workers", "0"]
        for name, value in (dict(SMALL[method]) | few | options | {"out": folder}).items():
            command += [f"--{name.replace('_', '-')}", *str(value).split()]
        assert main(command) == 0
        return folder

    return train


@pytest.fixture(scope="session")
def run_of(
    recordings: Path,
    photographs: Path,
    tmp_path_factory: pytest.TempPathFactory,
    train_by_command: Callable[..., Path],
) -> Callable[[str], Path]:
    """The run of a method that has learnt more than chance of photographs or recordings."""

    @cache
    def run(method: str) -> Path:
        folder = tmp_path_factory.mktemp("runs") / method
        if method == "vgnet":
            options: dict[str, object] = {"learning_rate": 0.05, "epochs": 16}
            return train_by_command(method, folder, data=photographs, **options)
        options = {"learning_rate": 0.01, "epochs": 12, "score_every": 6}
        return train_by_command(method, folder, data=recordings, **options)

    return run


@pytest.fixture
def try_study(
    tmp_path: Path,
) -> Callable[..., tuple[Mapping[str, Mapping[str, float]], Sequence[Picture]]]:
    """Trains every arm of a study a little; what it measures and draws of them."""

    def run_arms(
        study: Study, **changes: object
    ) -> tuple[Mapping[str, Mapping[str, float]], Sequence[Picture]]:
        measured: dict[str, Mapping[str, float]] = {}
        runs: dict[str, list[Path]] = {}
        train = load_method(study.method).recipe().train
        options = RunOptions(device="cpu", workers=0)
        for number, (arm, stage) in enumerate(study.arms.items()):
            folder = tmp_path / f"arm {number}"
            config = replace(stage.config, **changes)
            described: dict[str, Any] = {"method": study.method, "config": config}
            with Run(folder, options=options, quiet=True, **described) as run:
                network = train(config, run).eval()
            measured[arm] = study.measure(config, network)
            (folder / "result.json").write_text(json.dumps({"metrics": measured[arm]}))
            runs[arm] = [folder]
        assert study.pictures is not None
        return measured, study.pictures(runs)

    return run_arms


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> int:
    """How many of the built-in recordings a split has in a test: all take seconds to simulate."""
    whole: Callable[..., Any] = datasets.digit_recordings

    def some(split: str, count: int | None = None, **options: Any) -> Any:
        return whole(split, count or 40, **options)

    monkeypatch.setattr(datasets, "digit_recordings", some)
    return 40
