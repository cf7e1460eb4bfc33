"""The n-gram gives the README's yardsticks; baselines write what is valid."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from modicum.errors import ConfigError, DataError
from modicum.methods.drum_transfer.data.generator import made_up_grooves
from modicum.methods.drum_transfer.data.sources import load_grooves
from modicum.methods.drum_transfer.metrics.structure import stability
from modicum.methods.drum_transfer.models.baselines import (
    BY_NAME,
    YARDSTICKS,
    NGram,
    Random,
    Repeat,
)
from modicum.methods.drum_transfer.options import Sampling
from modicum.methods.drum_transfer.text.drumroll import (
    Record,
    bars,
    convert,
    to_hits,
    to_record,
    without_separators,
)
from modicum.methods.drum_transfer.text.notation import (
    DRUMROLL,
    END,
    NOTATIONS,
    SEPARATOR,
    Groove,
)


def records_of(data: str, split: str) -> list[Record]:
    return [r for groove in load_grooves(data)[split] if (r := to_record(groove)) is not None]


@pytest.fixture(scope="module")
def made_up() -> list[Record]:
    return records_of("generated", "test")


@pytest.fixture(scope="module")
def ngram() -> NGram:
    return NGram.of_made_up_grooves()


def test_yardsticks(shared_data: Callable[[str], Path]) -> None:
    """Of the official records, measured apart."""
    data = f"groove={shared_data('groove')}"
    model, test = NGram.fit(records_of(data, "train")), records_of(data, "test")
    found = [model.nats(test, order) for order in range(len(YARDSTICKS))]
    assert found[-1].lines.sum() == found[-1].tokens.sum() == 8080
    assert [nats.per_line for nats in found] == pytest.approx(
        [4.159, 2.031, 1.899, 1.652, 1.234, 1.129], abs=5.1e-4
    )
    assert model.nats(test).per_sounding_line == pytest.approx(1.43, abs=5e-3)


def counted_by_hand(train: list[Record], record: Record, order: int, weight: float) -> float:
    """Nats of a completion, written down as the README says it."""
    contexts = [
        lambda lines, at: (),
        lambda lines, at: at % 16,
        lambda lines, at: (at % 16, lines[at - 1] if at else None),
        lambda lines, at: lines[at - 16] if at >= 16 else None,
        lambda lines, at: (lines[at - 16] if at >= 16 else None, lines[at - 1] if at else None),
    ][:order]
    both, alone = Counter(), Counter()
    for seen in train:
        lines = without_separators(seen.prompt + seen.completion).split()
        for at, line in enumerate(lines):
            for number, context in enumerate(contexts):
                both[number, context(lines, at), line] += 1
                alone[number, context(lines, at)] += 1
    lines, nats = without_separators(record.prompt + record.completion).split(), 0.0
    for at in range(32, len(lines)):
        odds = 1 / 64
        for number, context in enumerate(contexts):
            key = number, context(lines, at)
            odds = (both[(*key, lines[at])] + weight * odds) / (alone[key] + weight)
        nats -= np.log(odds)
    return nats


@pytest.mark.parametrize("order", range(6))
def test_counts_and_back_off(order: int, made_up: list[Record]) -> None:
    model = NGram.fit(made_up[:6], weight=1.5)
    found = model.nats(made_up[5:7], order)
    expected = [counted_by_hand(made_up[:6], record, order, 1.5) for record in made_up[5:7]]
    assert found.nats.tolist() == pytest.approx(expected, rel=1e-9)
    for record, nats, lines in zip(
        made_up[5:7], found.sounding_nats, found.sounding_lines, strict=True
    ):
        heard = to_hits(without_separators(record.completion)).any(1).nonzero()[0][-1] + 1
        assert lines == heard
        assert 0 < nats <= found.nats.max()


def test_drawn_lines_follow_the_probabilities(ngram: NGram, made_up: list[Record]) -> None:
    prompt, number = made_up[0].prompt, 3000
    [texts] = ngram.complete([prompt], bars=1, sampling=Sampling(samples=number, temperature=1.0))
    for place in (0, 5):
        begun = Counter(text[: 7 * (place + 1)] for text in texts)
        for beginning, count in begun.most_common(3):
            record = Record(prompt, beginning + END, "")
            share = np.exp(-ngram.nats([record]).nats[0])
            assert share > 0.01
            assert count / number == pytest.approx(share, abs=4 * np.sqrt(share / number))


def test_saved_and_read_again(ngram: NGram, made_up: list[Record]) -> None:
    again = NGram(**json.loads(json.dumps(ngram.arguments)))
    again.load_state_dict(ngram.state_dict())
    assert again.notation == DRUMROLL
    assert again.nats(made_up).nats.tolist() == ngram.nats(made_up).nats.tolist()
    assert ngram.nats(made_up).per_line < ngram.nats(made_up, 4).per_line < np.log(64) / 2


@pytest.mark.parametrize("name", BY_NAME)
def test_completions(name: str, made_up: list[Record]) -> None:
    model, prompts = BY_NAME[name](), [record.prompt for record in made_up[:5]]
    twice = Sampling(samples=2)
    found = model.complete(prompts, DRUMROLL, twice, bars=3)
    assert [len(texts) for texts in found] == [2] * 5
    for texts in found:
        for text in texts:
            lines = without_separators(text)
            assert len(to_hits(lines)) == 48
            assert text == SEPARATOR.join(bars(lines)) + END
    assert found == model.complete(prompts, DRUMROLL, twice, bars=3)
    assert found[:2] == model.complete(prompts[:2], DRUMROLL, twice, bars=3)
    other = model.complete(prompts, DRUMROLL, Sampling(samples=2, seed=1), bars=3)
    assert (found == other) == (name == "repeat")
    assert len({text for texts in found for text in texts}) == (5 if name == "repeat" else 10)
    assert model.complete([], DRUMROLL) == []


def test_repeat_copies_the_last_bar(made_up: list[Record]) -> None:
    for notation in NOTATIONS.values():
        bar = "".join(place[-1] for place in notation.bar())
        silence = "".join(place[0] for place in notation.bar())
        [[text]] = Repeat().complete([silence + SEPARATOR + bar + SEPARATOR], notation, bars=3)
        assert text == SEPARATOR.join([bar] * 3) + END
    texts = Repeat().complete([record.prompt for record in made_up])
    for record, [text] in zip(made_up, texts, strict=True):
        assert not stability(without_separators(record.prompt + text))[1:].any()


def test_random_grooves_have_the_papers_stability() -> None:
    """39.8 with single newlines, 40.4 as the official script reads."""
    [found] = Random().complete([""], sampling=Sampling(samples=4 * 37), bars=16)
    values = [
        np.mean([stability(without_separators(text), official=official) for text in found])
        for official in (True, False)
    ]
    assert values == [pytest.approx(40.4, abs=0.3), pytest.approx(39.8, abs=0.2)]
    [[text]] = Random().complete(["x"], NOTATIONS["articulated"], bars=50)
    hits = to_hits(without_separators(text), NOTATIONS["articulated"])
    assert [np.unique(column).tolist() for column in hits.T] == [
        list(range(len(characters))) for characters in NOTATIONS["articulated"].columns
    ]


def test_temperature(ngram: NGram, made_up: list[Record]) -> None:
    prompts = [record.prompt for record in made_up]

    def nats(temperature: float) -> float:
        texts = ngram.complete(prompts, bars=2, sampling=Sampling(temperature=temperature))
        records = [Record(p, text, "") for p, [text] in zip(prompts, texts, strict=True)]
        return ngram.nats(records).per_line

    assert nats(0) < nats(0.5) < nats(1) < nats(3)


def test_rows_are_counted_by_steps() -> None:
    """The layout changes how lines are told, not what is known."""
    steps = NOTATIONS["articulated"]
    rows = replace(steps, layout="rows")
    texts = [
        without_separators(text)
        for [text] in Random().complete([""] * 4, steps, Sampling(seed=3), bars=9)
    ]
    of_steps = [to_record(Groove("a", text, notation=steps)) for text in texts]
    of_rows = [to_record(Groove("a", convert(text, steps, rows), notation=rows)) for text in texts]
    one, other = NGram.fit(of_steps[:3]), NGram.fit(of_rows[:3])
    assert one.nats(of_steps).nats.tolist() == other.nats(of_rows).nats.tolist()
    assert other.nats(of_rows).lines.tolist() == [7 * 6] * 4
    assert other.nats(of_rows).sounding_lines.tolist() == [7 * 6] * 4
    [[text]] = other.complete([of_rows[0].prompt], rows, bars=2)
    assert len(to_hits(without_separators(text), rows)) == 32


WALTZ = replace(DRUMROLL, beats_per_bar=3)


def in_meters() -> tuple[list[Record], list[Record]]:
    """Made-up grooves without the last beat of their bars, and as they are."""
    fours = made_up_grooves(range(8), bars=12)
    threes = [
        replace(groove, text="".join(bar[: 12 * 7] for bar in bars(groove.text)), notation=WALTZ)
        for groove in fours
    ]
    of_threes, of_fours = (
        [record for groove in grooves if (record := to_record(groove))]
        for grooves in (threes, fours)
    )
    return of_threes, of_fours


def test_bars_of_several_lengths_are_counted_apart() -> None:
    threes, fours = in_meters()
    mixed, alone = NGram.fit(threes + fours[:2]), NGram.fit(threes)
    for order in (2, 3):
        # A position is one in a bar of its length; the unigrams below are shared.
        contexts = mixed._contexts_of(torch.zeros(48, dtype=torch.int64), 12)
        others = mixed._contexts_of(torch.zeros(48, dtype=torch.int64), 16)
        assert not set(contexts[order - 1].tolist()) & set(others[order - 1].tolist())
    both = NGram.fit(threes + threes)
    assert both.nats(threes[:1]).per_line < alone.nats(threes[:1]).per_line
    assert mixed.nats(threes + fours).lines.tolist() == [
        *mixed.nats(threes).lines.tolist(),
        *mixed.nats(fours).lines.tolist(),
    ]
    assert mixed.notation == DRUMROLL
    again = NGram(**json.loads(json.dumps(mixed.arguments)))
    again.load_state_dict(mixed.state_dict())
    assert again.nats(threes).nats.tolist() == mixed.nats(threes).nats.tolist()
    [[text]] = again.complete([threes[0].prompt], WALTZ, bars=3)
    assert text.split(SEPARATOR)[0].count("\n") == text.split(SEPARATOR)[2].count("\n") == 12
    for record in (threes[0], fours[0]):  # what is written is what is likely
        [[likely]] = mixed.complete(
            [record.prompt], record.notation, Sampling(temperature=0), bars=4
        )
        written = replace(record, completion=likely)
        assert mixed.nats([written]).per_line < mixed.nats([record]).per_line


def test_a_bar_of_a_length_never_seen_backs_off_to_the_unigram() -> None:
    threes, fours = in_meters()
    model = NGram.fit(fours)
    unigram = model.nats(threes, 1).nats.tolist()
    assert model.nats(threes, 2).nats.tolist() == unigram
    assert model.nats(threes, 3).nats.tolist() == unigram
    assert model.nats(threes).per_line < model.nats(threes, 1).per_line  # a bar is a bar
    with pytest.raises(ConfigError, match="another notation"):
        model.nats([replace(threes[0], notation=NOTATIONS["loudness"])])
    with pytest.raises(ConfigError, match="another notation"):
        NGram.fit([*threes, replace(fours[0], notation=NOTATIONS["triplets"])])


def test_likeliest_lines_alone(ngram: NGram, made_up: list[Record]) -> None:
    prompts = [record.prompt for record in made_up]
    greedy = ngram.complete(prompts, bars=2, sampling=Sampling(temperature=0))
    assert ngram.complete(prompts, bars=2, sampling=Sampling(top_p=1e-9)) == greedy
    assert ngram.complete(prompts, bars=2) != greedy
    with pytest.raises(ConfigError, match="--top-p"):
        ngram.complete(prompts, bars=2, sampling=Sampling(top_p=0.0))


def test_refusals(ngram: NGram, made_up: list[Record]) -> None:
    prompt = made_up[0].prompt
    with pytest.raises(DataError, match="found no records"):
        NGram.fit([])
    with pytest.raises(DataError, match="line 33, column 1: found 'x'"):
        NGram.fit([Record(prompt, "xooooo\n" + END, "a groove")])
    with pytest.raises(ConfigError, match="another notation"):
        ngram.complete([prompt], NOTATIONS["loudness"])
    for model in (ngram, Repeat()):
        for wrong, found in (("------\n" * 17, 17), ("", 0)):
            with pytest.raises(DataError, match=f"found {found} steps; expected a multiple of 16"):
                model.complete([wrong], DRUMROLL)
    for model in (ngram, Repeat(), Random()):
        with pytest.raises(ConfigError, match="--bars 0"):
            model.complete([prompt], DRUMROLL, bars=0)
