from __future__ import annotations

import json
from pathlib import Path

import pytest

from modicum.cli import render
from modicum.errors import DataError
from modicum.methods.drum_transfer.analyse import Analysis, analyse
from modicum.methods.drum_transfer.midi import write_midi
from modicum.methods.drum_transfer.notation import Groove, Notation

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


def test_unusable_files_do_not_stop_the_others(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "groove.txt").write_text(GROOVE)
    (tmp_path / "a/broken.mid").write_bytes(b"MThd")
    (tmp_path / "b/notes.txt").write_text("Dear diary,")
    (tmp_path / "b/latin.txt").write_bytes(b"\xff\xfe\xfa")
    found = analyse((tmp_path / "a", tmp_path / "b"), tmp_path / "out", picture=False)
    errors = {row["file"]: row["error"] for row in found["files"] if "error" in row}
    assert set(errors) == {"broken.mid", "notes.txt", "latin.txt"}
    assert "Dear diary," in errors["notes.txt"]
    assert "cannot be read as text" in errors["latin.txt"]
    assert (found["read"], found["unusable"], found["usable"]) == (2, 3, False)
    assert {"groove.txt", "groove.txt-2"} == {row["file"] for row in found["playing"]}
    strict_json(tmp_path / "out/analysis.json")
    with pytest.raises(DataError, match="none of the 1 files"):
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
