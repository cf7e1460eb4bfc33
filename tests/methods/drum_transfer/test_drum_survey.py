from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable
from pathlib import Path

from modicum.methods.drum_transfer.data.generator import made_up_grooves
from modicum.methods.drum_transfer.data.sources import Collection
from modicum.methods.drum_transfer.options import Corpus
from modicum.methods.drum_transfer.text.midi import write_midi
from modicum.methods.drum_transfer.text.notation import Groove
from modicum.methods.drum_transfer.train import Config
from modicum.methods.drum_transfer.verbs.survey import data, describe


def test_the_data_set_is_as_it_was_measured(
    shared_data: Callable[[str], Path],
) -> None:
    found = data(f"groove={shared_data('groove')}")
    json.dumps(found)
    assert found["usable"]
    assert (found["files"], found["grooves"]) == (1150, 457)
    assert [row["records"] for row in found["splits"]] == [372, 47, 37]
    assert [(row["silent_bars"], row["bars"]) for row in found["splits"]] == [
        (1394, 5846),
        (76, 733),
        (121, 579),
    ]
    assert found["splits"][0]["lines"] == 42
    styles = {row["style"]: row["train"] for row in found["styles"]}
    # One groove of style rock is silent, so that it is in no record.
    assert (styles["rock"], styles["jazz"], styles["latin"], styles["hiphop"]) == (169, 41, 37, 26)
    assert {row["meter"]: row["train"] for row in found["meters"]} == {
        "4/4": 368,
        "3/4": 4,
        "5/4": 1,
    }
    assert {row["why"]: row["files"] for row in found["dropped"]} == {
        "evaluation session": 40,
        "fill": 647,
        "meter not in quarters": 6,
    }
    assert any("24 % of the bars to train on are silent" in text for text in found["warnings"])
    assert any("some grooves are in 3/4, 5/4. Without --meter-bars" in t for t in found["warnings"])


def test_made_up_grooves_are_usable() -> None:
    found = data("generated")
    assert found["usable"]
    assert not found["warnings"]
    assert found["splits"][0]["grooves"] == found["splits"][0]["records"] == 372
    assert found["splits"][1]["silent_bars"] == 0
    assert found["tempo"]["min"] <= found["tempo"]["median"] <= found["tempo"]["max"]
    assert sum(row["train"] + row["val"] + row["test"] for row in found["styles"]) == 456


def test_options_are_those_of_training() -> None:
    """What is looked at is what is trained on, unless the model is given something else."""
    (theirs,) = (field for field in dataclasses.fields(Config) if field.name == "corpus")
    ours = inspect.signature(data).parameters["corpus"]
    assert (ours.default, ours.annotation) == (theirs.default, theirs.type)


def test_duplicates_across_splits_are_told() -> None:
    a, b, c, d = made_up_grooves(range(4))
    twin = Groove("twin", "------\n" * 16 + a.text)  # the same but for a silent bar before
    found = describe(Collection({"train": [a, b], "val": [c, twin], "test": [d, d]}))
    assert found["duplicates"] == {
        "grooves": 4,
        "across_splits": 2,
        "such_as": [
            {"groove": a.name, "split": "train", "same_as": "twin", "other_split": "val"},
        ],
    }
    assert "2 grooves are in more than one split" in found["warnings"][0]


def test_what_cannot_be_used_is_told(tmp_path: Path) -> None:
    found = data(str(tmp_path))
    assert not found["usable"]
    assert "no file in it ends in .mid" in found["problems"][0]
    for number in range(3):
        write_midi(made_up_grooves([number], bars=8)[0], tmp_path / f"{number}.mid")
    assert data(str(tmp_path))["usable"]
    short = data(str(tmp_path), Corpus(pad=False))
    assert not short["usable"]
    assert "the train split has no record. A record needs more than 8 bars" in short["problems"][0]


def test_bars_that_follow_the_meter_are_not_warned_of(tmp_path: Path) -> None:
    for number in range(3):
        groove = made_up_grooves([number], bars=12)[0]
        write_midi(groove, tmp_path / f"{number}.mid", meter=(3, 4))
    (warning,) = data(str(tmp_path))["warnings"]
    assert "some grooves are in 3/4. Without --meter-bars their bars are those of 4/4" in warning
    assert "16 steps" in warning
    assert data(str(tmp_path), Corpus(meter_bars=True))["warnings"] == []


def test_records_are_those_of_training(tmp_path: Path) -> None:
    """A pick-up of a bar before eight others is a record's ninth, if it is kept."""
    for number in range(3):
        pick_up = Groove("", "------\n" * 12 + "--o---\n" * 4 + "---o--\n" * 128, tempo=120)
        write_midi(pick_up, tmp_path / f"{number}.mid")
    for keep, count in ((False, 0), (True, 1)):
        corpus = Corpus(pad=False, keep_pickups=keep)
        found = data(str(tmp_path), corpus)
        config = Config(data=str(tmp_path), corpus=corpus)
        records = [config.record(groove) for groove in config.open()["train"]]
        assert found["splits"][0]["records"] == sum(r is not None for r in records) == count
        assert found["splits"][0]["bars"] == 8 + keep
        assert found["duplicates"]["grooves"] == 3
