from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from modicum.errors import DataError
from modicum.methods.drum_transfer.options import Reading
from modicum.methods.drum_transfer.text.drumroll import to_text
from modicum.methods.drum_transfer.text.midi import write_midi
from modicum.methods.drum_transfer.text.notation import (
    NOTATIONS,
    Groove,
    Notation,
)
from modicum.methods.drum_transfer.text.tablature import to_tablature
from modicum.methods.drum_transfer.verbs.analyse import Analysis, analyse
from modicum.system.terminal import render

MAIN = Path(__file__).parents[3]
BEAT = "---oo-\n------\n----o-\n------\n--o-o-\n------\n----o-\n------\n" * 2
FILL = "--o---\n" * 8 + "-----o\n" * 8
GROOVE = BEAT * 3 + FILL + BEAT * 3


def strict_json(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_midi_and_text_are_found_alike(tmp_path):
    write_midi(Groove("groove", GROOVE, tempo=90), tmp_path / "groove.mid")
    (tmp_path / "groove.txt").write_text(GROOVE)
    files = (tmp_path / "groove.mid", tmp_path / "groove.txt")
    assert analyse((tmp_path,), tmp_path / "out", picture=False)["read"] == 1
    found = analyse(files, tmp_path / "out", picture=False)
    midi, text = found["files"]
    assert midi == text | {"file": "groove.mid"}
    assert (text["bars"], text["fills"], text["tightness"]) == (7, [4], 0)
    assert text["separation"] == 5 * text["stability"]
    assert found["mean_separation"] == text["separation"]
    details = strict_json(tmp_path / "out/analysis.json")
    assert details["bars"]["groove.mid"] == details["bars"]["groove.txt"]
    assert [bar["kind"] for bar in details["bars"]["groove.txt"]] == [
        "", "pattern", "pattern", "fill", "pattern", "pattern", "",
    ]  # fmt: skip
    fourth, fifth = details["bars"]["groove.txt"][3:5]
    assert (fourth["hits"], fourth["onset_density"], fourth["back_beat_consistency"]) == (16, 1, 0)
    assert (fifth["hits"], fifth["onset_density"], fifth["back_beat_consistency"]) == (12, 0.5, 1)
    assert details["playing"][0]["back_beat_consistency"] == pytest.approx(6 / 7)


def test_single_file_with_picture(tmp_path):
    file = tmp_path / "fill $1.txt"
    file.write_text(GROOVE)
    found = analyse((file,), tmp_path / "out")
    assert len(found["bars"]) == 7
    assert len(found["pictures"]) == 2
    for drawn in found["pictures"]:
        assert Path(drawn).read_bytes().startswith(b"\x89PNG")
    assert "fill" in render(found)


def test_malformed_text_is_measured(tmp_path):
    lines = (GROOVE[:7] + "oops\n" + GROOVE[14:]).replace(BEAT + FILL, BEAT + "SEP\n" + FILL)
    analysis = Analysis.of(Groove("x", lines + "---"))
    summary = analysis.summary()
    assert (summary["bars"], summary["unreadable_steps"], summary["fills"]) == (8, 2, [4])
    assert analysis.picture().startswith(b"\x89PNG")
    assert len(analysis.by_bar()) == 8


@pytest.mark.parametrize("bars", [1, 2, 20])
def test_short_and_long_grooves(bars):
    analysis = Analysis.of(Groove("x", BEAT * bars))
    assert ("undefined" in analysis.summary()) == (bars < 3)
    assert [row["kind"] for row in analysis.by_bar()].count("pattern") == max(0, bars - 2)
    assert analysis.picture().startswith(b"\x89PNG")


def test_other_notation():
    notation = Notation(steps_per_beat=3, beats_per_bar=3, layout="rows")
    bar = "".join(f"{letter}: o--|---|--o\n" for letter in "KSHTCR")
    analysis = Analysis.of(Groove("x", bar * 4, notation=notation))
    assert (analysis.bars, analysis.by_bar()[0]["hits"]) == (4, 12)
    assert analysis.picture().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", NOTATIONS)
def test_a_model_of_any_notation(name, tmp_path):
    """Lines, a tab and MIDI of one groove are found alike."""
    notation = NOTATIONS[name]
    random = np.random.default_rng(0)
    sizes = [len(column) for column in notation.columns]
    hits = random.integers(0, sizes, (5 * notation.steps_per_bar, 6))
    groove = Groove("groove", to_text(hits, notation), notation=notation)
    write_midi(groove, tmp_path / "a.mid")
    (tmp_path / "b.tab").write_text(to_tablature(groove))
    (tmp_path / "c.txt").write_text(groove.text)
    found = analyse((tmp_path,), tmp_path / "out", picture=False, reading=Reading(notation=name))
    assert found["usable"]
    for row in found["files"]:
        assert (row["bars"], row["unreadable_steps"]) == (5, 0)
        assert row["stability"] == found["files"][0]["stability"]


def test_a_text_of_another_notation_is_no_malformed_one(tmp_path):
    triplets = Groove("x", "o-----\n" * 24, notation=NOTATIONS["triplets"])
    (tmp_path / "a.tab").write_text(to_tablature(triplets))
    (tmp_path / "b.txt").write_text("O-----\n------\n" + "o-----\n" * 14)
    (tmp_path / "c.txt").write_text("K: O---|----|O---|----\n" * 6)
    (tmp_path / "d.txt").write_text("K: o--|---|o--\n" * 6)
    (tmp_path / "e.txt").write_text("o-----\n" * 16 + "o----\n" * 16)
    (tmp_path / "f.txt").write_text("o-----\n" * 16 + "o----\n" * 17)
    found = analyse((tmp_path,), tmp_path / "out", picture=False)
    errors = {row["file"]: row.get("error", "") for row in found["files"]}
    assert "a.tab, line 5: '1&a2&a3&a4&a' counts 3 steps a quarter note" in errors["a.tab"]
    assert "b.txt: of its 16 lines 1 cannot be read" in errors["b.txt"]
    assert "all can in loudness or articulated" in errors["b.txt"]
    assert not errors["e.txt"]
    for name in ("c.txt", "d.txt", "f.txt"):
        assert "expected lines such as '------'" in errors[name]
        assert str(tmp_path) in errors[name]
    assert all("--notation drumroll, loudness" in error for error in errors.values() if error)


def test_what_one_prediction_wrote_is_found_alike(tmp_path):
    """A tab of 16-line bars in 3/4 is divided anew, and silence at the end left out, as of MIDI."""
    groove = Groove("groove", GROOVE + "------\n" * 40, meter=(3, 4))
    write_midi(groove, tmp_path / "a.mid")
    (tmp_path / "b.txt").write_text(to_tablature(groove))
    files = (tmp_path / "a.mid", tmp_path / "b.txt")
    for meter_bars, bars in ((True, 10), (False, 7)):
        found = analyse(
            files, tmp_path / "out", picture=False, reading=Reading(meter_bars=meter_bars)
        )
        midi, text = found["files"]
        assert midi | {"file": ""} == text | {"file": ""}
        assert midi["bars"] == bars
        assert found["playing"][0] | {"file": ""} == found["playing"][1] | {"file": ""}


def test_official_bars_do_not_follow_the_meter(tmp_path):
    """16 bars of 3/4 are 12 of 16 steps; texts are not filled up."""
    write_midi(Groove("a", GROOVE, meter=(3, 4)), tmp_path / "a.mid")
    (tmp_path / "b.txt").write_text(to_tablature(Groove("b", GROOVE, meter=(3, 4))))
    (tmp_path / "c.txt").write_text(GROOVE + "------\n" * 16)
    found = analyse((tmp_path,), tmp_path / "out", picture=False, official=True)
    assert [row["bars"] for row in found["files"]] == [12, 7, 8]


def test_unusable_files_do_not_stop_the_others(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "groove.txt").write_text(GROOVE)
    (tmp_path / "a/broken.mid").write_bytes(b"MThd")
    (tmp_path / "b/notes.txt").write_text("Dear diary,")
    (tmp_path / "b/latin.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "song.kar").write_bytes(b"MThd")
    files = (tmp_path / "a", tmp_path / "b", tmp_path / "song.kar")
    found = analyse(files, tmp_path / "out", picture=False)
    errors = {row["file"]: row["error"] for row in found["files"] if "error" in row}
    assert set(errors) == {"broken.mid", "notes.txt", "latin.txt", "song.kar"}
    assert "Dear diary," in errors["notes.txt"]
    assert "cannot be read as text" in errors["latin.txt"]
    assert "song.kar: expected a file ending in .mid, .midi, .tab, .txt" in errors["song.kar"]
    assert (found["read"], found["unusable"], found["usable"]) == (2, 4, False)
    assert {"groove.txt", "groove.txt-2"} == {row["file"] for row in found["playing"]}
    strict_json(tmp_path / "out/analysis.json")
    with pytest.raises(DataError, match=r"broken\.mid: cut off"):
        analyse((tmp_path / "a/broken.mid",), tmp_path / "out")


def test_official_is_that_of_the_paper(tmp_path):
    folder = MAIN.parent / "shared/golden/drum-transfer/midi"
    if not folder.exists():
        pytest.skip("../shared/golden/drum-transfer is absent; its MIDI files are not kept here")
    numbers = json.loads((MAIN / "tests/golden/drum-transfer/structure_numbers.json").read_text())
    golden = numbers["human"]["per_groove"]
    files = [file for file in sorted(folder.glob("*.mid")) if file.stem in golden]
    assert files
    found = analyse(tuple(files), tmp_path, official=True, picture=False)
    for file, row in zip(files, found["files"], strict=True):
        expected = golden[file.stem]
        assert row["separation"] == pytest.approx(expected["separation_exact"], abs=1e-9)
        assert row["tightness"] == pytest.approx(expected["tightness_exact"], abs=1e-9)
