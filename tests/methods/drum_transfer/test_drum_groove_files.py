from __future__ import annotations

import os

import pytest

from modicum.errors import DataError
from modicum.methods.drum_transfer.options import Reading
from modicum.methods.drum_transfer.text.files import groove_paths, read_groove
from modicum.methods.drum_transfer.text.notation import (
    Groove,
)
from modicum.methods.drum_transfer.text.tablature import to_tablature

BEAT = "---oo-\n------\n----o-\n------\n" * 4


def test_of_one_name_the_file_that_says_most(tmp_path):
    for name in ("a.txt", "a.tab", "b.tab", "b.MID", "c.txt", "d.kar"):
        (tmp_path / name).write_text(BEAT)
    assert [path.name for path in groove_paths([tmp_path])] == ["a.tab", "b.MID", "c.txt"]
    named = [tmp_path / "a.txt", tmp_path / "d.kar", tmp_path / "a.tab"]
    assert groove_paths(named) == named  # a file that is named is meant


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "song.kar").write_bytes(b"MThd")
    with pytest.raises(DataError, match=r"song\.kar: expected a file ending in \.mid, \.midi, "):
        read_groove(tmp_path / "song.kar")


def test_a_tab_has_a_meter_and_lines_have_none(tmp_path):
    groove = Groove("x", BEAT * 3, tempo=90, meter=(3, 4))
    (tmp_path / "x.tab").write_text(to_tablature(groove))
    (tmp_path / "x.txt").write_text(groove.text)
    assert read_groove(tmp_path / "x.tab") == groove
    read = read_groove(tmp_path / "x.tab", Reading(meter_bars=True))
    assert (read.meter, read.notation.beats_per_bar, read.text) == ((3, 4), 3, groove.text)
    read = read_groove(tmp_path / "x.txt", Reading(meter_bars=True), name="y", tempo=7)
    assert read == Groove("y", groove.text, tempo=7)


BROKEN = BEAT + "SEP\n--x---\n" + BEAT


@pytest.mark.parametrize(
    ("malformed", "text"),
    [
        ("keep", BEAT + "--x---\n" + BEAT),
        ("pad", BEAT + "------\n" + BEAT),
        ("drop", BEAT * 2),
    ],
)
def test_malformed_lines(malformed, text, tmp_path):
    (tmp_path / "x.txt").write_text(BROKEN.replace("--x---", "!-x---"))
    read = read_groove(tmp_path / "x.txt", malformed=malformed)
    assert read.text == text.replace("--x---", "!-x---")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "drumroll",
            BROKEN.replace("x", "€"),
            "line 18, column 3: found '€'; expected one of '-",
        ),
        ("drumroll", BROKEN.replace("x", ""), "line 18, column 6: the line has 5 characters; exp"),
        ("drumroll", BROKEN.replace("x", "oo"), "line 18, column 7: the line has 7 characters"),
        ("drumroll", BEAT + "--END", "line 17, column 3: the line has 2 characters"),
        ("rows", "K: o---|----|o---|----\n", "ends within a bar, of which 1 of 6 lines are there"),
        ("drumroll", "", "no groove in it. Expected lines such as '------'"),
        ("rows", "SEP\nEND", "no groove in it. Expected lines such as 'K: ----|----|----|----'"),
        ("drumroll", BROKEN, "33 lines 1 cannot .* line 18, '--x---'; all can in articulated"),
        ("rows", BEAT, "16 lines 16 cannot .* all can in drumroll or .* or twelfths"),
        ("drumroll", "Dear diary,\n", "1 line 1 cannot .* 'Dear diary,'; expected lines such"),
    ],
)
def test_lines_that_are_refused_are_named(name, text, said, tmp_path):
    (tmp_path / "x.txt").write_text(text)
    with pytest.raises(DataError, match=rf"x\.txt.*{said}") as told:
        read_groove(tmp_path / "x.txt", Reading(notation=name), advice="Or not.")
    assert str(tmp_path) in str(told.value)
    assert ("Mend it. Or not." in str(told.value)) == ("lines are" in said or "column" in said)
    assert "repair=" not in str(told.value)


@pytest.mark.parametrize("text", ["\n" * 200_000, "\r" * 200_000, "SEP\n" * 200_000])
def test_lines_without_end_are_refused(text, tmp_path):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(DataError, match=r"a\.txt: 200,000 lines; expected at most 170,000"):
        read_groove(tmp_path / "a.txt")


@pytest.mark.parametrize("suffix", [".txt", ".tab", ".mid"])
def test_what_is_no_file_is_refused_at_once(suffix, tmp_path):
    pipe, loop, large = (tmp_path / (name + suffix) for name in ("pipe", "loop", "large"))
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    with large.open("wb") as file:
        file.truncate(1 << 40)
    for path, said in ((pipe, "no ordinary file"), (loop, "cannot be read"), (large, "at most")):
        with pytest.raises(DataError, match=said):
            read_groove(path)
