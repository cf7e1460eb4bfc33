from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from modicum.methods.drum_transfer.text.drumroll import to_hits, to_text
from modicum.methods.drum_transfer.text.grids import read_grids, read_lines
from modicum.methods.drum_transfer.text.notation import DRUMROLL, Notation

LEVELS = Notation(columns=("-o", "-oO", "-xoO", "-oO", "-oOxX", "-o"))
WALTZ = Notation(beats_per_bar=3)
TRIPLETS = Notation(steps_per_beat=3)


def grooves(notation, bars):
    """Random grooves of so many bars each, and their texts."""
    rng = np.random.default_rng(0)
    sizes = [len(characters) for characters in notation.columns]
    hits = [rng.integers(0, sizes, (count * notation.steps_per_bar, 6)) for count in bars]
    return hits, [to_text(groove, notation) for groove in hits]


@pytest.mark.parametrize("layout", ["steps", "rows"])
@pytest.mark.parametrize("notation", [DRUMROLL, LEVELS, WALTZ, TRIPLETS])
def test_well_formed_texts(notation, layout):
    notation = replace(notation, layout=layout)
    hits, texts = grooves(notation, (3, 0, 5, 1))
    grids = read_grids(texts, notation)
    for text, expected, found, readable, steps in zip(
        texts, hits, grids.hits, grids.readable, grids.steps, strict=True
    ):
        assert steps == len(expected)
        assert readable[:steps].all()
        assert (found[:steps] == expected).all()
        assert (found[:steps] == to_hits(text, notation)).all()
        assert not readable[steps:].any()
        assert not found[steps:].any()
    assert not grids.unreadable.any()
    later = read_grids(texts, notation, given_bars=2)
    assert (later.hits == grids.hits[:, 2 * notation.steps_per_bar :]).all()
    assert later.steps.tolist() == [notation.steps_per_bar * bars for bars in (1, 0, 3, 0)]


def test_separators_make_no_difference():
    _, texts = grooves(DRUMROLL, (2, 3))
    records = [
        "SEP\n".join(text[start : start + 112] for start in range(0, len(text), 112)) + "END"
        for text in texts
    ]
    plain, marked = read_grids(texts), read_grids(records)
    assert (plain.hits == marked.hits).all()
    assert (plain.readable == marked.readable).all()
    lines = read_lines(records)
    assert lines.separator.sum() == 3
    assert lines.count.tolist() == [32, 48]


def test_a_bad_row_takes_its_bar():
    notation = replace(DRUMROLL, layout="rows")
    hits, (text,) = grooves(notation, (3,))
    lines = text.split("\n")
    lines[8] = lines[8].replace("|", "!", 1)  # in the second bar
    grids = read_grids(["\n".join(lines)], notation)
    assert grids.unreadable.tolist() == [16]
    assert grids.readable[0].tolist() == [True] * 16 + [False] * 16 + [True] * 16
    assert (grids.hits[0][grids.readable[0]] == hits[0][grids.readable[0]]).all()
    # Rows in another order are not this notation.
    lines[0], lines[1] = lines[1], lines[0]
    assert read_grids(["\n".join(lines)], notation).unreadable.tolist() == [32]


@pytest.mark.parametrize(
    "texts", [[], [""], ["", "END"], ["\n"], ["SEP"], ["\u20ac\x00"], ["ooooooo"]]
)
def test_nothing_to_read(texts):
    grids = read_grids(texts)
    assert len(grids.hits) == len(grids.steps) == len(texts)
    assert not grids.readable.any()
    assert not grids.struck.any()
