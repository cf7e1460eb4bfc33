from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.errors import DataError
from modicum.methods.drum_transfer.text.drumroll import to_hits, to_text
from modicum.methods.drum_transfer.text.notation import (
    DRUMROLL,
    NOTATIONS,
    Groove,
)
from modicum.methods.drum_transfer.text.tablature import from_tablature, to_tablature

TAB = """\
Title: simple
Tempo: 96
Meter: 4/4

  |1e&a2e&a3e&a4e&a|1e&a2e&a|
CC|x---------------|--------|
RD|----------------|--------|
HH|x-x-x-x-x-x-x-x-|x-x-x-x-|
T1|----------------|------oo|
SD|----o-------o---|----o---|
BD|o-------o-------|o-------|
"""


def test_a_tab_is_written_and_read():
    groove = from_tablature(TAB)
    assert (groove.name, groove.tempo, groove.meter) == ("simple", 96, (4, 4))
    lines = groove.text.splitlines()
    assert len(lines) == 24
    assert lines[0] == "o--oo-"
    assert lines[4] == "--o-o-"
    assert lines[-2:] == ["----oo", "-----o"]
    assert to_tablature(groove) == TAB


WALTZ = """\
Meter: 3/4

HH|x-x-x-x-x-x-|x-x-x-x-x-x-|x-x-x---|
SD|----o---o---|----o---o---|----o---|
BD|o-----------|o-----------|o-------|
"""


def test_bars_as_long_as_those_of_the_tab():
    groove = from_tablature(WALTZ, meter_bars=True)
    assert (groove.meter, groove.notation.beats_per_bar) == ((3, 4), 3)
    assert len(groove.text.splitlines()) == 32
    unnamed = WALTZ.partition("\n")[2]
    assert from_tablature(unnamed, meter_bars=True) == groove
    assert from_tablature(TAB, meter_bars=True) == from_tablature(TAB)
    with pytest.raises(DataError, match="line 1: the first bar has 6 steps, which are no whole"):
        from_tablature("SD|o--o--|", meter_bars=True)


def test_steps_are_divided_anew_where_bars_are_to_be_others():
    """As those of a MIDI file in 3/4, for a model of 16-line bars and back."""
    waltz = from_tablature(WALTZ, meter_bars=True)
    paper = from_tablature(WALTZ)
    assert (paper.meter, paper.notation) == ((3, 4), DRUMROLL)
    assert paper.text == waltz.text
    tab = to_tablature(paper)
    assert tab.splitlines()[4].count("|") == 3
    assert from_tablature(tab) == paper
    again = from_tablature(tab, meter_bars=True)
    assert (again.meter, again.notation) == (waltz.meter, waltz.notation)
    assert again.text == waltz.text + "------\n" * 4
    rows = from_tablature(WALTZ, NOTATIONS["rows"])
    assert to_hits(rows.text, rows.notation).any(1).tolist() == to_hits(paper.text).any(1).tolist()


def test_counts_divide_blocks():
    groove = Groove("x", "o-----\n" * 64)
    tab = to_tablature(groove, bars_per_line=2)
    head, _, rest = tab.partition("\n\n")
    assert from_tablature(head + "\n" + rest.replace("\n\n", "\n")) == groove


def test_counts_tell_triplets_from_a_waltz():
    """Twelve steps are four quarter notes of the one, and three of the other."""
    triplets = NOTATIONS["triplets"]
    tab = to_tablature(Groove("x", "o-----\n" * 24, meter=(3, 4), notation=triplets))
    assert from_tablature(tab, triplets, meter_bars=True).notation.beats_per_bar == 3
    with pytest.raises(DataError, match="line 5: '1&a2&a3&a4&a' counts 3 steps a quarter note; ex"):
        from_tablature(tab, meter_bars=True)
    other = tab.replace("1&a2&a3&a4&a", "1-2-3-4-5-6-")  # as somebody may count a waltz
    assert from_tablature(other, meter_bars=True).meter == (3, 4)


@pytest.mark.parametrize("meter_bars", [False, True])
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("3/4", "4/4", "line 3, column 4: a bar has 12 steps; expected 16, 4 quarter notes of 4"),
        ("3/4", "5/4", "a bar has 12 steps; expected"),
        ("3/4", "3/8", "line 1: the meter is 3/8; expected quarters"),
        ("3/4", "6/8", "line 1: the meter is 6/8; expected quarters"),
    ],
)
def test_a_meter_that_is_not_that_of_the_bars_is_refused(old, new, said, meter_bars):
    with pytest.raises(DataError, match=said) as told:
        from_tablature(WALTZ.replace(old, new), meter_bars=meter_bars)
    if "a bar has" in said:
        assert "'Meter:'" in str(told.value)
        assert "--notation drumroll, loudness" in str(told.value)


@st.composite
def grooves(draw):
    notation = draw(st.sampled_from(list(NOTATIONS.values())))
    notation = dataclasses.replace(notation, beats_per_bar=draw(st.integers(1, 5)))
    whole = 1 if notation.layout == "steps" else notation.steps_per_bar
    steps = draw(st.integers(1, 4)) * notation.steps_per_bar - draw(st.integers(0, 3)) * (whole < 2)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    sizes = [len(column) for column in notation.columns]
    hits = random.integers(0, sizes, (max(steps, 1), 6)) * random.integers(0, 2, (max(steps, 1), 1))
    return Groove(
        name=draw(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"))),
        text=to_text(hits, notation),
        tempo=draw(st.floats(0.01, 999)),
        meter=(draw(st.integers(1, 99)), 4),
        notation=notation,
    )


@settings(max_examples=50, deadline=None)
@given(grooves(), st.integers(1, 6))
def test_reading_what_is_written_gives_the_groove(groove, bars_per_line):
    tab = to_tablature(groove, bars_per_line=bars_per_line)
    assert from_tablature(tab, groove.notation) == groove
    windows = tab.replace("\n", "\r\n")
    assert from_tablature(windows, groove.notation) == groove


def test_tabs_of_other_people():
    tab = """\
    found on the web |-- not a row
    H |x-x-x-x-x-x-x-x-|
    S |----o-g-----o---|
    FT|------------f---|
    t1|---------------o|

    and again: x2
    H |x-x-x-x-x-x-x-x-|
    K |o-------o-------|
    """
    groove = from_tablature("\n".join(map(str.strip, tab.splitlines())), source="web.tab")
    lines = groove.text.splitlines()
    assert len(lines) == 32
    assert (groove.name, groove.tempo, lines[12], lines[15]) == ("web.tab", 120, "--o-oo", "-----o")
    assert lines[16] == "---oo-"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("HH|x-x", "HH|x*x", r"tab, line 8, column 5: found '\*'; expected one of - o O x"),
        ("SD|", "QQ|", "line 10, column 1: 'QQ' is no instrument"),
        ("|x-x-x-x-|", "|x-x-x-x|", "line 8: its bars do not stand below those of line 6"),
        ("CC|x-", "CC|x", "line 6, column 4: a bar has 15 steps; expected 16"),
        ("----|--------|\nRD", "----||--------|\nRD", "line 6, column 21: a bar has 0 steps"),
        ("96", "slow", "line 2: the tempo is 'slow'"),
        ("96", "nan", "line 2: the tempo is 'nan'"),
        ("Meter: 4/4", "Meter: common", "line 3: the meter is 'common'"),
        ("|", "!", "no row of a drum tab"),
        ("\nBD", "\nBD|o---|\n\nBD", "its bars do not stand below"),
        ("T1|", "\nT1|", "line 6: the last bar has 8 steps; expected 16"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(old, new, said):
    assert old in TAB
    with pytest.raises(DataError, match=said):
        from_tablature(TAB.replace(old, new), source="tab")


def test_a_text_that_is_none_is_refused():
    with pytest.raises(DataError, match="bad, line 2, column 3"):
        to_tablature(Groove("bad", "------\n--x---\n", notation=DRUMROLL))


@pytest.mark.parametrize("more", ["x", "x---", "-" * 12])
def test_rows_of_unequal_length_are_refused(more):
    text = f"HH|x-x-x-x-x-x-x-x-|\nSD|----o-------o---|{more}\n"
    for one in (text, "\n".join(reversed(text.split("\n")))):
        with pytest.raises(DataError, match=r"line \d: its bars do not stand below those of line"):
            from_tablature(one)


@pytest.mark.parametrize("tempo", ["1_0", "1e-300", "1e3", "-5", "0", "inf", "\u0661", ""])
def test_tempos_that_are_none(tempo):
    with pytest.raises(DataError, match="line 1: the tempo is"):
        from_tablature(f"Tempo: {tempo}\n\nHH|x-x-x-x-x-x-x-x-|\n")
