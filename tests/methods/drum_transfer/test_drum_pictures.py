from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from modicum.errors import DataError
from modicum.methods.drum_transfer.rendering import pictures
from modicum.methods.drum_transfer.text.drumroll import to_text
from modicum.methods.drum_transfer.text.notation import DRUMROLL, Groove, Notation

ARTICULATED = Notation(("-oO", "-xoXO", "-xoXO", "-oO", "-xoXO", "-oO"))
HITS = np.zeros((72, 6), np.int8)
HITS[::2, 4] = 1
HITS[::16, 3] = HITS[4::8, 2] = 1
HITS[64, 0] = 1
GROOVE = Groove("of $5 and $6", to_text(HITS), tempo=98.5)


def size(content: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG"
        assert np.asarray(image.convert("L")).std() > 5  # something is drawn
        return image.size


def drawn(text, notation=DRUMROLL, **options):
    axes = Figure().subplots()
    pictures.draw_step_grid(axes, text, notation, **options)
    (hits,) = [one for one in axes.collections if isinstance(one, PolyCollection) and
               one.get_zorder() == 3]  # fmt: skip
    corners = np.array([path.vertices[:4].mean(0) - 0.5 for path in hits.get_paths()])
    return axes, np.rint(corners).astype(int), [to_hex(c) for c in hits.get_facecolors()]


def test_every_hit_is_where_its_step_and_instrument_are():
    _, corners, _ = drawn(GROOVE.text, bars_per_line=2)
    step, column = np.nonzero(HITS)
    line, x = np.divmod(step, 32)
    first = np.rint(line * (6 + pictures._HEAD + pictures._GAP) + pictures._HEAD).astype(int)
    row = np.array([pictures.ORDER.index(c) for c in column])
    expected = np.stack([x, first + row], 1)
    assert abs(corners - expected).max() <= 1  # rows of a later line are not at whole numbers
    assert (corners[:, 0] == x).all()
    assert len(corners) == HITS.sum()


def test_bars_are_numbered_and_say_what_they_are():
    axes, _, _ = drawn(GROOVE.text, given_bars=2, fills=[1, 3])
    texts = [text.get_text() for text in axes.texts]
    assert texts[:5] == ["1 given", "2 given", "3", "4 fill", "5"]
    assert texts[5:11] == ["crash", "ride", "hi-hat", "toms", "snare", "kick"]
    assert len(texts) == 5 + 2 * 6


def test_soft_hits_are_pale_and_second_articulations_diamonds():
    hits = np.zeros((16, 6), np.int8)
    hits[:4, 4] = [1, 2, 3, 4]  # x o X O
    _, _, colours = drawn(to_text(hits, ARTICULATED), ARTICULATED)
    assert colours == ["#86b4df", "#86b4df", "#0b5fb0", "#0b5fb0"]
    axes, _, _ = drawn(to_text(hits, ARTICULATED), ARTICULATED)
    paths = next(c for c in axes.collections if c.get_zorder() == 3).get_paths()
    across = [np.ptp(path.vertices[:, 0]) for path in paths]
    assert across == pytest.approx([0.9, 0.76, 0.9, 0.76])


def test_step_grids_grow_by_lines_and_bars():
    one_bar = pictures.step_grid(dataclasses.replace(GROOVE, text=to_text(HITS[:16])))
    five = pictures.step_grid(GROOVE)
    assert size(one_bar)[0] < size(five)[0] - 300
    assert size(one_bar)[1] < size(five)[1] - 100
    nothing = dataclasses.replace(GROOVE, text="")
    assert abs(size(pictures.step_grid(nothing, title=""))[1] - size(one_bar)[1]) < 30


def test_a_sheet_holds_grooves_of_any_length():
    sheet = {"human": GROOVE, "repeat": dataclasses.replace(GROOVE, text=to_text(HITS[:32]))}
    width, height = size(pictures.comparison_sheet(sheet, given_bars=2, fills={"human": [3]}))
    assert width > 3 * height
    with pytest.raises(ValueError, match="at least one groove"):
        pictures.comparison_sheet({})
    with pytest.raises(DataError, match=r"human, line 1, column 1"):
        pictures.comparison_sheet({"human": dataclasses.replace(GROOVE, text="x\n")})


def test_similarity():
    size(pictures.similarity_matrix(np.eye(16), "alike"))
    size(pictures.similarity_matrix([[np.nan]], "$"))
