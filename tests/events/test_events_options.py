"""The options that configurations of methods on recordings share."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modicum.errors import ConfigError
from modicum.events import EventBatch, Events, RecordingOptions, open_unseen, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of ten recordings, of 8 by 6 pixels as far as their events tell."""
    for name in ("a", "b"):
        (tmp_path / "all" / name).mkdir(parents=True)
        for number in range(10):
            one = Events.of([0, 9 + number], [0, 5], [0, 7], [1, 0])
            write(tmp_path / "all" / name / f"{number}.bin", one)
    return tmp_path / "all"


def classifier(**notes: Any) -> Any:
    """What `open_unseen` looks at."""
    pipeline = SimpleNamespace(height=20, width=30, convention="jaer")
    return SimpleNamespace(pipeline=pipeline, notes=notes)


def test_a_share_of_the_training_recordings_is_taken(folder: Path) -> None:
    some = RecordingOptions(str(folder), train_share=0.5)
    every = RecordingOptions(str(folder))
    assert len(every.open("train")) == 18
    assert len(some.open("train")) in (8, 10)
    assert set(some.open("train").names) < set(every.open("train").names)
    assert list(some.open("val").names) == list(every.open("val").names)


def test_frames_are_made_as_the_options_say(folder: Path) -> None:
    options = RecordingOptions(str(folder), time_steps=3, split_by="equal", normalise="clip1")
    train_set = options.open("train")
    pipeline = options.frame_pipeline(train_set, None)
    batch = train_set.read(np.arange(2))
    assert isinstance(batch, EventBatch)
    assert pipeline(batch).shape == (2, 3, 2, 8, 6)
    assert options.frame_pipeline(train_set, 16).input_size == (16, 16)
    notes = options.notes(train_set, pipeline)
    assert notes["pipeline"] == pipeline.to_notes()
    assert (notes["classes"], notes["data"]) == (["a", "b"], str(folder))


def test_what_was_held_out_is_unseen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = RecordingOptions(str(folder), holdout=0.3, division="tet", sensor=(9, 7))
    train_set = options.open("train")
    trained = classifier(**options.notes(train_set, options.frame_pipeline(train_set, None)))
    monkeypatch.chdir(folder.parent)
    for data in (str(folder), folder.name):
        found = open_unseen(trained, data, "val")
        assert list(found.names) == list(options.open("val").names)
        assert (found.height, found.width) == (9, 7)


def test_another_folder_is_unseen_as_a_whole(folder: Path) -> None:
    trained = classifier(data="elsewhere")
    found = open_unseen(trained, str(folder), "val")
    assert (len(found), found.height, found.width) == (20, 20, 30)
    folder.rename(folder.with_name("train"))
    for name in ("a", "b"):
        (folder.parent / "test" / name).mkdir(parents=True)
        write(folder.parent / "test" / name / "0.bin", Events.of([0], [0], [0], [1]))
    assert len(open_unseen(trained, str(folder.parent), "val")) == 2


@pytest.mark.parametrize(("option", "value"), [("train_share", 0.0), ("time_steps", 0)])
def test_options_out_of_range(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"--{option.replace('_', '-')} {value}: must be"):
        RecordingOptions(**{option: value})
