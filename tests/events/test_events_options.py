"""The options that configurations of methods on recordings share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modicum.errors import ConfigError
from modicum.events import (
    EventBatch,
    Events,
    Fitting,
    Framing,
    Reading,
    Recordings,
    open_unseen,
    write,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of ten recordings, of 8 by 6 pixels as far as their events tell."""
    for name in ("a", "b"):
        (tmp_path / "all" / name).mkdir(parents=True)
        for number in range(10):
            one = Events.of([0, 9 + number], [0, 5], [0, 7], [1, 0])
            write(tmp_path / "all" / name / f"{number}.bin", one)
    return tmp_path / "all"


def test_a_share_of_the_training_recordings_is_taken(folder: Path) -> None:
    some = Recordings(str(folder), train_share=0.5)
    every = Recordings(str(folder))
    assert len(every.open("train")) == 18
    assert len(some.open("train")) in (8, 10)
    assert set(some.open("train").names) < set(every.open("train").names)
    assert list(some.open("val").names) == list(every.open("val").names)


def test_frames_are_made_as_the_options_say(folder: Path) -> None:
    recordings = Recordings(str(folder))
    framing = Framing(time_steps=3, split_by="equal", normalise="clip1")
    train_set = recordings.open("train")
    pipeline = framing.pipeline(train_set, "jaer", None)
    batch = train_set.read(np.arange(2))
    assert isinstance(batch, EventBatch)
    assert pipeline(batch).shape == (2, 3, 2, 8, 6)
    assert framing.pipeline(train_set, "jaer", 16).input_size == (16, 16)
    notes = recordings.notes(train_set, pipeline)
    assert notes["pipeline"] == pipeline.to_notes()
    assert (notes["classes"], notes["data"]) == (["a", "b"], str(folder))


def test_what_was_held_out_is_unseen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recordings = Recordings(str(folder), Reading(sensor=(9, 7)), holdout=0.3, division="tet")
    train_set = recordings.open("train")
    pipeline = Framing().pipeline(train_set, "jaer", None)
    notes = json.loads(json.dumps(recordings.notes(train_set, pipeline)))
    monkeypatch.chdir(folder.parent)
    for data in (str(folder), folder.name):
        found = open_unseen(notes, data, "val")
        assert list(found.names) == list(recordings.open("val").names)
        assert (found.height, found.width) == (9, 7)


def test_another_folder_is_unseen_as_a_whole(folder: Path) -> None:
    pipeline = {"height": 20, "width": 30, "convention": "jaer"}
    trained = {"data": "elsewhere", "pipeline": pipeline}
    found = open_unseen(trained, str(folder), "val")
    assert (len(found), found.height, found.width) == (20, 20, 30)
    folder.rename(folder.with_name("train"))
    for name in ("a", "b"):
        (folder.parent / "test" / name).mkdir(parents=True)
        write(folder.parent / "test" / name / "0.bin", Events.of([0], [0], [0], [1]))
    assert len(open_unseen(trained, str(folder.parent), "val")) == 2


@pytest.mark.parametrize(
    ("group", "option", "value"),
    [
        (Recordings, "train_share", 0.0),
        (Recordings, "holdout", 1.0),
        (Framing, "time_steps", 0),
        (Fitting, "epochs", 0),
        (Fitting, "batch_size", 0),
        (Fitting, "learning_rate", 0.0),
        (Fitting, "weight_decay", -1.0),
        (Fitting, "score_every", 0),
    ],
)
def test_options_out_of_range(group: Any, option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"--{option.replace('_', '-')} {value}: must be"):
        group(**{option: value})
