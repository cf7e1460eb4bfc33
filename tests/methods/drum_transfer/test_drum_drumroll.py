from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from modicum.errors import ConfigError, DataError
from modicum.methods.drum_transfer.text.drumroll import (
    bars,
    convert,
    silent_bars,
    to_hits,
    to_prompt,
    to_record,
    to_text,
    windows,
    without_leading_silence,
    without_separators,
)
from modicum.methods.drum_transfer.text.notation import (
    ARTICULATED,
    DRUMROLL,
    NOTATIONS,
    Groove,
    Notation,
)

SILENT, KICK, FULL = "------\n", "---o--\n", "oooooo\n"
BAR = KICK + SILENT * 15


def random_hits(notation: Notation, *, whole: bool = False):
    """Arrays of hits in a notation, of any number of steps or of whole bars."""
    step = notation.steps_per_bar if whole else 1
    least = min(len(characters) for characters in notation.columns)
    shapes = st.integers(0, 3 if whole else 40).map(lambda count: (count * step, 6))
    return shapes.flatmap(lambda shape: arrays(np.int8, shape, elements=st.integers(0, least - 1)))


def test_records_are_those_of_the_official_code_to_the_byte(
    shared_data: Callable[[str], Path],
) -> None:
    golden = json.loads((shared_data("../golden/drum-transfer") / "encode.json").read_text())
    assert len(golden) == 45
    for name, of_it in golden.items():
        if of_it["text"] is None:
            continue
        record = to_record(Groove(name, of_it["text"]))
        if of_it["prompt"] is None:
            assert record is None
        else:
            assert record is not None
            assert (record.name, record.prompt, record.completion) == (
                name,
                of_it["prompt"],
                of_it["completion"],
            )
            assert without_separators(record.prompt + record.completion).endswith(
                of_it["text"][-112:]
            )


@pytest.mark.parametrize("name", NOTATIONS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_text_to_hits_to_text_is_the_same(name: str, data: st.DataObject) -> None:
    notation = NOTATIONS[name]
    hits = data.draw(random_hits(notation, whole=notation.layout == "rows"))
    text = to_text(hits, notation)
    np.testing.assert_array_equal(to_hits(text, notation), hits)
    assert to_text(to_hits(text, notation), notation) == text
    assert "".join(bars(text, notation)) == text
    for bar in bars(text, notation)[: len(hits) // notation.steps_per_bar]:
        assert len(bar) == len(notation.bar())
        assert all(map(str.__contains__, notation.bar(), bar))


def test_rows_are_as_in_the_follow_up_paper() -> None:
    rows = NOTATIONS["rows"]
    hits = np.zeros((16, 6), int)
    hits[[0, 8], 3] = ARTICULATED.columns[3].index("O")
    hits[4, 2] = ARTICULATED.columns[2].index("X")
    hits[::4, 4] = ARTICULATED.columns[4].index("x")
    hits[15, 0] = ARTICULATED.columns[0].index("o")
    expected = (
        "K: O---|----|O---|----\nS: ----|X---|----|----\nH: x---|x---|x---|x---\n"
        "T: ----|----|----|----\nC: ----|----|----|---o\nR: ----|----|----|----\n"
    )
    assert to_text(hits, rows) == expected
    steps = convert(expected, rows, ARTICULATED)
    assert steps.split("\n")[4] == "--X-x-"
    assert convert(steps, ARTICULATED, rows) == expected
    with pytest.raises(ConfigError, match="different characters"):
        convert(steps, ARTICULATED, DRUMROLL)
    with pytest.raises(DataError, match="whole bars of 16 steps; found 3"):
        convert(steps[:21], ARTICULATED, rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            KICK * 2 + "---o-\n",
            "song, line 3, column 6: the line has 5 characters; expected 6\\. repair=",
        ),
        (KICK + "---o---\n", "line 2, column 7: the line has 7 characters; expected 6"),
        (KICK + "---x--\n", "line 2, column 4: found 'x'; expected one of '-o'"),
        (KICK + "\n" + KICK, "line 2, column 1: the line has 0 characters"),
        (BAR + "SEP\n" + BAR, "line 17, column 1: found a separator. Take it out"),
        (KICK + "--é---\n", "line 2, column 3: found 'é'"),
        ("---", "line 1, column 4: the line has 3"),
    ],
)
def test_malformed_text_is_refused_by_line_and_column(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        to_hits(text, source="song")


def test_malformed_rows_are_refused_by_line_and_column() -> None:
    rows = NOTATIONS["rows"]
    text = to_text(np.zeros((16, 6), int), rows)
    with pytest.raises(DataError, match=r"line 2, column 4: found 'q'; expected one of '-xoXO'"):
        to_hits(text.replace("S: -", "S: q"), rows)
    with pytest.raises(DataError, match=r"line 3, column 1: found 'T'; expected one of 'H'"):
        to_hits(text.replace("H: ----|----|----|----\n", ""), rows)
    with pytest.raises(DataError, match=r"line 6, column 1: the text ends within a bar of 6 lines"):
        to_hits("".join(text.splitlines(keepends=True)[:5]), rows)


def test_repair_is_explicit() -> None:
    text = KICK + "---o---o\n" + "-x-o\n" + "\n" + FULL
    assert to_text(to_hits(text, repair="pad")) == KICK + KICK + KICK + SILENT + FULL
    assert to_text(to_hits(text, repair="drop")) == KICK + FULL
    rows = NOTATIONS["rows"]
    bar = to_text(np.ones((16, 6), int), rows)
    broken = bar + bar.replace("K: oooo", "K: oo?") + bar[:-1]
    assert to_text(to_hits(broken, rows, repair="drop"), rows) == bar * 2
    padded = to_text(to_hits(broken + "\nK: o", rows, repair="pad"), rows)
    assert bars(padded, rows)[1].startswith("K: oo--|ooo-|ooo-|ooo-\nS: x")
    assert bars(padded, rows)[3].startswith("K: o---|----")


def test_hits_are_checked() -> None:
    with pytest.raises(DataError, match=r"expected the shape \(steps, 6\), found \(4, 5\)"):
        to_text(np.zeros((4, 5), int))
    with pytest.raises(DataError, match=r"found 2 for the kick at step 1; expected 0..1"):
        to_text([[0] * 6, [0, 0, 0, 2, 0, 0]])


def test_leading_silence_goes_with_or_without_the_pick_up() -> None:
    pick_up = SILENT * 15 + KICK
    text = SILENT * 16 + pick_up + BAR * 9
    velocities = np.arange(len(text) // 7 * 6, dtype=np.uint8).reshape(-1, 6)
    groove = Groove("g", text, velocities=velocities)
    assert silent_bars(groove).tolist() == [True] + [False] * 10
    official = without_leading_silence(groove)
    assert official.text == BAR * 9
    assert official.velocities is not None
    np.testing.assert_array_equal(official.velocities, velocities[32:])
    assert without_leading_silence(groove, keep_pickups=True).text == pick_up + BAR * 9
    assert without_leading_silence(Groove("s", SILENT * 50)).text == ""
    record = to_record(groove, prompt_bars=1, keep_pickups=True)
    assert record is not None
    assert record.prompt == pick_up + "SEP\n"
    assert record.completion == "SEP\n".join([BAR] * 9) + "END"


def test_a_record_needs_more_than_eight_bars() -> None:
    assert to_record(Groove("g", BAR * 8)) is None
    record = to_record(Groove("g", BAR * 8 + KICK))
    assert record is not None
    assert record.completion.endswith("SEP\n" + KICK + "END")
    assert to_record(Groove("g", BAR * 9), prompt_bars=8) is not None
    with pytest.raises(ConfigError, match=r"--prompt-bars 9: must be 1 to 8"):
        to_record(Groove("g", BAR * 10), prompt_bars=9)


def test_prompts_are_whole_bars() -> None:
    groove = Groove("g", BAR * 2 + KICK * 3)
    assert to_prompt(groove) == (BAR + "SEP\n") * 2
    assert to_prompt(groove, 1) == BAR + "SEP\n"
    with pytest.raises(DataError, match="g: found 35 steps; expected a multiple of 16"):
        to_prompt(groove, None)
    with pytest.raises(DataError, match="g: found 35 steps; a prompt of 3 bars needs 48"):
        to_prompt(groove, 3)
    with pytest.raises(DataError, match="found 0 steps; a prompt of 1 bars needs 16"):
        to_prompt(Groove("g", ""), None)
    with pytest.raises(ConfigError, match="--prompt-bars 0"):
        to_prompt(groove, 0)
    waltz = Groove("w", BAR[: 12 * 7] * 2, notation=Notation(beats_per_bar=3))
    assert to_prompt(waltz, None) == (BAR[: 12 * 7] + "SEP\n") * 2


def test_separators_go_and_malformed_lines_stay() -> None:
    assert without_separators(KICK + "SEP\n" + "--SEP-\n" + KICK + "ENDtrash\n") == (
        KICK + "--SEP-\n" + KICK
    )
    assert without_separators("SEP\nSEP\n" + KICK + "SEP") == KICK


@settings(max_examples=30, deadline=None)
@given(count=st.integers(0, 20), size=st.integers(1, 6), tail=st.integers(0, 15))
def test_windows_hold_everything_once(count: int, size: int, tail: int) -> None:
    text = "".join(to_text(np.full((16, 6), i % 2)) for i in range(count)) + KICK * tail
    velocities = np.arange(text.count("\n") * 6).astype(np.uint8).reshape(-1, 6)
    groove = Groove("g", text, velocities=velocities)
    parts = windows(groove, size, pad=False)
    assert "".join(part.text for part in parts) == text
    np.testing.assert_array_equal(np.concatenate([p.velocities for p in parts]), velocities)
    assert len({part.name for part in parts}) == len(parts)
    assert [p.name for p in parts[:2]] == ["g", f"g@{size + 1}"][: len(parts)]
    padded = windows(groove, size)
    assert {part.text.count("\n") for part in padded} == {16 * size}
    assert all(p.velocities is not None and len(p.velocities) == 16 * size for p in padded)
