from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from modicum.errors import ConfigError
from modicum.methods.drum_transfer.data.sources import load_grooves
from modicum.methods.drum_transfer.metrics import measures
from modicum.methods.drum_transfer.metrics.measures import (
    MEASURES,
    Reference,
    back_beat_consistency,
    beyond_two_hands,
    duplication,
    hamming_distance,
    hits_per_bar,
    line_counts,
    line_divergence,
    note_count_error,
    off_beat_ratio,
    onset_density,
    score,
    score_table,
    self_similarity,
    silent_share,
    validity,
)
from modicum.methods.drum_transfer.text.drumroll import bars, to_text
from modicum.methods.drum_transfer.text.grids import read_grids

MAIN = Path(__file__).parents[3]
GOLDEN = json.loads((MAIN / "tests/golden/drum-transfer/duplication.json").read_text())

# Kick on beats 1 and 3, snare on 2 and 4, hi-hat in eighths.
ROCK = "---oo-\n------\n----o-\n------\n--o-o-\n------\n----o-\n------\n" * 2
SILENCE = "------\n" * 16
TOMS = "-----o\n" * 16


@pytest.fixture(scope="module")
def texts():
    path = MAIN.parent / "shared/golden/drum-transfer/structure.json"
    if not path.exists():
        pytest.skip("../shared/golden/drum-transfer is absent; its texts are not kept here")
    return {who: list(of.values()) for who, of in json.loads(path.read_text())["texts"].items()}


def flips(seed, grooves=3, bars=4, p=0.3):
    """Random grooves `(grooves, steps, 6)` and their texts."""
    hits = (np.random.default_rng(seed).random((grooves, 16 * bars, 6)) < p).astype(np.int8)
    return hits, [to_text(groove) for groove in hits]


def record(*stretches, end="END"):
    return "SEP\n".join(stretches) + end


# Validity


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # lines, bad lines, broken separators, bars, whole bars, right length, ended
        (record(ROCK, ROCK), (32, 0, 0, 2, 2, True, True)),
        (record(ROCK, ROCK, end=""), (32, 0, 0, 2, 2, True, False)),
        (record(ROCK, ROCK, "", end=""), (32, 0, 0, 2, 2, True, False)),  # ends in a separator
        (record(ROCK, "", ROCK), (32, 0, 0, 3, 2, True, True)),  # two separators on end
        (record(ROCK, ROCK[7:]), (31, 0, 0, 2, 1, False, True)),
        (record(ROCK, "-oo-o-o\n" + ROCK[7:]), (32, 1, 0, 2, 2, True, True)),
        (record(ROCK, "-[o-o-\n" + ROCK[7:]), (32, 1, 0, 2, 2, True, True)),
        (record(ROCK, "\n" + ROCK[7:]), (32, 1, 0, 2, 2, True, True)),
        (record(ROCK, "\u2014o-o-\u266a\n" + ROCK[7:]), (32, 1, 0, 2, 2, True, True)),
        # A separator within a line is a bad line and ends no bar.
        (ROCK + "---SEP\n" + ROCK[7:] + "END", (32, 1, 1, 1, 0, True, True)),
        (ROCK + "SEP \n" + ROCK[7:] + "END", (32, 1, 1, 1, 0, True, True)),
        # Writing stops in the middle of a line, or goes on after the end.
        (record(ROCK, ROCK[:-4], end=""), (32, 1, 0, 2, 2, True, False)),
        (record(ROCK, ROCK) + "\nnonsense", (32, 0, 0, 2, 2, True, True)),
        ("", (0, 0, 0, 0, 0, False, False)),
        ("END", (0, 0, 0, 0, 0, False, True)),
        ("once upon a time", (1, 1, 0, 1, 0, False, False)),
    ],
)
def test_validity(text, expected):
    # Neighbours must not matter.
    for texts, place in ([text], 0), ([ROCK, text, record(TOMS, TOMS)], 1), (["", text, ""], 1):
        found = validity(texts, groove_bars=2)
        assert tuple(getattr(found, name)[place] for name in found.__dataclass_fields__) == expected


def test_validity_of_stored_texts(texts):
    """What the davinci and ada outputs of the official repository have."""
    for who, lines, bad, right in (("davinci", 9403, 7, 19), ("ada", 9393, 4, 17)):
        found = validity(texts[who])
        assert (found.lines.sum(), found.bad_lines.sum()) == (lines, bad)
        assert found.right_length.sum() == right


# Duplication


def histogram(counts):
    return {int(times): bars for times, bars in counts.items()}


@pytest.mark.parametrize("who", ["human", "davinci", "ada"])
def test_golden_duplication_against_test_set(texts, who):
    found = duplication(texts[who], Reference.read(texts["human"]))
    assert found.bars == GOLDEN[who]["bars"]
    assert found.known == GOLDEN[who]["in_human_same_split"]
    assert found.occurrences == histogram(GOLDEN[who]["hist_vs_same_split"])


def test_golden_duplication_against_training_set(texts, shared_data):
    train = load_grooves(f"groove={shared_data('groove')}")["train"]
    reference = Reference.read([groove.text for groove in train])
    shares, distinct = {}, {}
    for who, of in texts.items():
        found = duplication(of, reference)
        assert found.known == GOLDEN[who]["in_train"]
        assert found.occurrences == histogram(GOLDEN[who]["hist_vs_train"])
        generated = duplication(of, reference, given_bars=2, most_bars=16)
        shares[who], distinct[who] = round(generated.share, 3), round(generated.distinct, 3)
    # Measured apart, from the same outputs.
    assert shares == {"human": 0.191, "davinci": 0.133, "ada": 0.192}
    assert distinct == pytest.approx({"human": 0.832, "davinci": 0.610, "ada": 0.614}, abs=6e-4)


def test_duplication_by_hand():
    found = duplication(
        [ROCK + ROCK + TOMS.removesuffix("\n"), SILENCE, TOMS],
        Reference.read([TOMS + SILENCE + TOMS]),
    )
    assert (found.bars, found.known, found.occurrences) == (4, 2, {0: 2, 2: 2})
    assert (found.share, found.distinct) == (0.5, 0.5)
    assert found.distinct_per_groove == pytest.approx([2 / 3, math.nan, 1], nan_ok=True)


# How grooves are played


def test_playing_by_hand():
    grids = read_grids([ROCK + SILENCE, TOMS * 2 + "ooo-oo\n", SILENCE, ""])
    each = hits_per_bar(grids)
    assert each[0].tolist() == [0, 0, 1, 1, 4, 0]
    assert each[1] * 33 / 16 == pytest.approx([1, 1, 1, 0, 1, 33])
    assert each[2].tolist() == [0] * 6
    assert np.isnan(each[3]).all()
    nan = math.nan
    for measure, expected in (
        (onset_density, [8 / 32, 1, 0, nan]),
        (silent_share, [1 / 2, 0, 1, nan]),
        (off_beat_ratio, [4 / 12, 24 / 37, nan, nan]),
        (back_beat_consistency, [1, 0, nan, nan]),
        (beyond_two_hands, [0, 1 / 33, nan, nan]),
    ):
        assert measure(grids) == pytest.approx(expected, nan_ok=True), measure.__name__
    expected = read_grids([ROCK + ROCK, TOMS * 2, TOMS, SILENCE])
    assert note_count_error(grids, expected) == pytest.approx([1 / 2, 5 / 32, 1, nan], nan_ok=True)
    with pytest.raises(ConfigError, match="4 grooves and 1 expected"):
        note_count_error(grids, read_grids([ROCK]))


def test_given_bars_are_left_out():
    grids = read_grids([TOMS + ROCK, TOMS], given_bars=1)
    assert hits_per_bar(grids)[0].tolist() == [0, 0, 2, 2, 8, 0]
    assert np.isnan(hits_per_bar(grids)[1]).all()


def test_unreadable_lines_keep_their_place():
    damaged = ROCK[:7] + "what?\n" + ROCK[14:] + ROCK  # the second line
    whole, broken = read_grids([ROCK * 2]), read_grids([damaged])
    assert broken.unreadable.tolist() == [1]
    assert (broken.hits[0, 2:] == whole.hits[0, 2:]).all()
    assert back_beat_consistency(broken).tolist() == [1]
    assert onset_density(broken)[0] == pytest.approx(16 / 31)
    assert hamming_distance(broken, 16).tolist() == [0]
    unknown = ROCK.replace("--o-o-", "--o-?-", 1)  # the first back beat
    assert back_beat_consistency(read_grids([unknown + TOMS])).tolist() == [0]


def test_hamming_distance_and_self_similarity_step_by_step():
    hits, texts = flips(0)
    grids = read_grids(texts)
    lags = [1, 5, 16]
    profile = np.stack([hamming_distance(grids, lag) for lag in lags], 1)
    similar = self_similarity(grids)
    for groove, of in zip(hits, range(len(hits)), strict=True):
        expected = [
            np.mean([(groove[t] != groove[t - lag]).mean() for t in range(lag, len(groove))])
            for lag in lags
        ]
        assert profile[of] == pytest.approx(expected)
        for a in range(4):
            for b in range(4):
                one, other = groove[16 * a :][:16] > 0, groove[16 * b :][:16] > 0
                alike = (one & other).sum() / (one | other).sum()
                assert similar[of, a, b] == pytest.approx(alike)
    of_two = self_similarity(read_grids([SILENCE * 2 + ROCK, ROCK]))
    assert of_two[0].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert of_two[1, 0, 0] == 1
    assert np.isnan(of_two[1, 1:]).all()
    for lag in (16, 99):
        assert np.isnan(hamming_distance(read_grids([ROCK]), lag)).all()


def test_line_divergence():
    grids, other = read_grids(flips(1)[1]), flips(2)[1]
    reference = Reference.read(other)
    lines = "".join(other).split()
    assert reference.lines.sum() == len(lines)
    assert reference.lines[0b100001] == lines.count("o----o")
    p = line_counts([grids])
    p, q = p / p.sum(), (reference.lines + 1) / (reference.lines + 1).sum()
    expected = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)
    assert line_divergence([grids], reference) == pytest.approx(expected)
    assert math.isnan(line_divergence([read_grids(["?"])], reference))


# All together


def test_score_of_stored_texts(texts):
    found = score(texts["davinci"], expected=texts["human"], official=True, given_bars=2)
    assert found["stability"].value == pytest.approx(3.0392927308, abs=1e-9)
    assert found["bad_lines"].value == pytest.approx(7 / 9403)
    assert found["distinct_bars"].value == pytest.approx(0.610, abs=6e-4)
    assert (found["stability"].texts, found["stability"].excluded) == (37, 0)
    assert found["off_beat_ratio"].excluded == 4  # nothing is hit after the prompt
    assert list(found) == [
        name for name in MEASURES
        if name not in ("whole_bars", "ended", "duplicated_bars", "line_divergence")
    ]  # fmt: skip


def test_score_takes_whatever_a_model_writes():
    good = record(ROCK, TOMS, ROCK, ROCK)
    texts = [
        good,
        "",
        "END",
        "SEP\nSEP\n",
        "once upon a time\n" * 60,
        ROCK + "---SEP\n" + ROCK,
        SILENCE,
    ]
    found = score(texts, reference=Reference.read([ROCK * 2]), records=True, groove_bars=4)
    assert list(found) == [name for name in MEASURES if name != "note_count_error"]
    for name, measure in found.items():
        assert measure.texts + measure.excluded == len(texts), name
        assert math.isfinite(measure.value), name
    # Structure can be had of any three bars, what is played only of lines that can be read.
    assert (found["stability"].texts, found["stability"].excluded) == (3, 4)
    assert (found["hits_per_bar"].texts, found["back_beat_consistency"].texts) == (3, 2)
    assert found["ended"].value == pytest.approx(2 / 7)
    assert (found["broken_separators"].value, found["right_length"].value) == (1, 1 / 7)
    as_played = score(texts, expected=texts, groove_bars=4)
    assert as_played["right_length"].value == 1
    nothing = score([])
    assert all(measure.texts == 0 for measure in nothing.values())


def test_a_table_of_several_sets():
    grooves = [ROCK * 3, TOMS * 3, ROCK * 4, ""]  # rock, jazz, rock, jazz
    expected = [ROCK * 3, ROCK * 3, ROCK * 4, ROCK]
    scores = {"all": score(grooves, expected=expected, groove_bars=3)}
    for style, first in (("rock", 0), ("jazz", 1)):
        some = slice(first, None, 2)
        scores[style] = score(grooves[some], expected=expected[some], groove_bars=3)
    rows = {row["measure"]: row for row in score_table(scores)}
    assert rows["back_beat_consistency"]["rock"] == 1
    assert rows["back_beat_consistency"]["jazz"] == 0
    assert rows["back_beat_consistency"]["excluded"] == {"all": 1, "jazz": 1}
    assert rows["right_length"]["excluded"] == {}
    assert rows["right_length"]["all"] == 3 / 4


def test_bars_are_those_of_the_text():
    """A bar that cannot be read is a bar all the same."""
    text = ROCK + "?\n" * 16 + ROCK
    assert len(bars(text)) == 3
    assert duplication([text], Reference.read([ROCK])).occurrences == {0: 1, 1: 2}


def test_one_long_text_takes_no_room_for_the_others(monkeypatch):
    monkeypatch.setattr(measures, "_MOST_LINES", 10_000)
    texts = [ROCK] * 60 + [ROCK * 40, "", SILENCE]
    together = read_grids
    sizes = []

    def counted(some, *given, **options):
        found = together(some, *given, **options)
        sizes.append(found.hits.size)
        return found

    monkeypatch.setattr(measures, "read_grids", counted)
    apart = score(texts, expected=texts)
    assert max(sizes) == 61 * 16 * 6  # together 63 * 640 * 6
    monkeypatch.setattr(measures, "_MOST_LINES", 1 << 22)
    usual = score(texts, expected=texts)
    assert {n: (pytest.approx(s.value, nan_ok=True), s.texts) for n, s in apart.items()} == {
        n: (s.value, s.texts) for n, s in usual.items()
    }
