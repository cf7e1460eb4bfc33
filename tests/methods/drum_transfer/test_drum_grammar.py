"""The grammar allows all that is valid, and nothing else, however texts are cut into tokens."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from test_drum_vocabulary import crossing

from modicum.errors import ConfigError
from modicum.methods.drum_transfer.models.grammar import Automaton, Grammar, UntilEnd
from modicum.methods.drum_transfer.models.vocabulary import Characters, Subwords, Vocabulary
from modicum.methods.drum_transfer.text.notation import (
    DRUMROLL,
    END,
    NOTATIONS,
    SEPARATOR,
    Notation,
)

TINY = Notation(columns=("-o",), steps_per_beat=1, beats_per_bar=2)
OVER_BARS = ("-\nSEP\n-", "o\nE", "-\n-\nSEP\no\no\nSEP\n-")
TWO = ("--", "-\n", "\n-", "EN", "ND", "P\n", "PS")
OTHERS = ("o\no", "\n-\n", "\nSE", SEPARATOR.strip(), END, "\nEND", "END-", "SEPEND", "--o", "x")


class Pieces(Vocabulary):
    """Any tokens; the last is padding."""

    def __init__(self, pieces: tuple[str, ...]) -> None:
        self.pieces = pieces
        self.pad = len(pieces) - 1

    def _encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def to_config(self) -> dict[str, object]:
        raise NotImplementedError


def all_written(automaton: Automaton, vocabulary: Vocabulary) -> list[tuple[str, ...]]:
    """Every sequence of tokens to the end, all grown at once."""
    state, rows, ended = automaton.start(1), [()], []
    while len(rows):
        row, ids = automaton.allowed(state).nonzero(as_tuple=True)
        state = automaton.advance(state[row], ids)
        rows = [
            (*rows[at], vocabulary.pieces[token])
            for at, token in zip(row.tolist(), ids.tolist(), strict=True)
        ]
        finished = automaton.finished(state)
        ended += [row for row, end in zip(rows, finished.tolist(), strict=True) if end]
        rows = [row for row, end in zip(rows, finished.tolist(), strict=True) if not end]
        state = state[~finished]
    return ended


def segmentations(text: str, pieces: set[str]) -> list[tuple[str, ...]]:
    if not text:
        return [()]
    return [
        (piece, *rest)
        for piece in pieces
        if text.startswith(piece)
        for rest in segmentations(text[len(piece) :], pieces)
    ]


@pytest.mark.parametrize(
    ("bars", "tokens"),
    [(1, (*OVER_BARS, *OTHERS, *TWO)), (2, (*OVER_BARS, *OTHERS)), (3, OVER_BARS)],
)
def test_exactly_the_valid_texts_in_every_way_to_cut_them(
    bars: int, tokens: tuple[str, ...]
) -> None:
    tokens = (*TINY.alphabet, *tokens, "")
    lines = ["".join(cell + "\n" for cell in cells) for cells in product("-o", repeat=2)]
    texts = [SEPARATOR.join(parts) + END for parts in product(lines, repeat=bars)]
    pieces = {token for token in tokens if token}
    expected = [cut for text in texts for cut in segmentations(text, pieces)]

    vocabulary = Pieces(tokens)
    found = all_written(Grammar(TINY, bars, vocabulary), vocabulary)
    assert sorted(found) == sorted(expected)
    assert len(found) > len(texts) > 3
    assert max(map(len, found)) == Grammar(TINY, bars, vocabulary).characters == len(texts[0])


@pytest.mark.parametrize("name", [*NOTATIONS, "crossing"])
def test_the_end_can_be_reached_from_everywhere(name: str) -> None:
    if name == "crossing":
        notation, vocabulary = DRUMROLL, Subwords(crossing(), DRUMROLL.alphabet, restrict=False)
        assert any("\nSEP\n" in piece and len(piece) > 7 for piece in vocabulary.pieces)
    else:
        notation = NOTATIONS[name]
        vocabulary = Characters(notation.alphabet)
    grammar = Grammar(notation, 3, vocabulary)
    new, edges = grammar.start(1), []
    seen = new
    while len(new):
        row, ids = grammar.allowed(new).nonzero(as_tuple=True)
        assert len(row.unique()) == len(new), "a state without a way on"
        after = grammar.advance(new[row], ids)
        edges.append(torch.stack([new[row], after]))
        new = after.unique()
        new = new[~torch.isin(new, seen)]
        seen = torch.cat([seen, new])
    before, after = torch.cat(edges, 1)
    good = seen[grammar.finished(seen)]
    assert len(good) == 1
    for _ in range(len(seen)):
        good = torch.cat([good, before[torch.isin(after, good)]]).unique()
    assert len(good) == len(seen) >= grammar.characters


def test_a_thousand_bars() -> None:
    bar = "--o---\n" * 16
    vocabulary = Pieces((*DRUMROLL.alphabet, bar, SEPARATOR, END, ""))
    grammar = Grammar(DRUMROLL, 1000, vocabulary)
    state = grammar.start(2)
    for piece in [bar, SEPARATOR] * 999 + [bar, END]:
        ids = torch.full((2,), vocabulary.pieces.index(piece))
        allowed = grammar.allowed(state)
        assert bool(allowed.gather(1, ids[:, None]).all())
        if piece in (SEPARATOR, END):
            other = vocabulary.pieces.index(END if piece == SEPARATOR else SEPARATOR)
            assert not allowed[:, other].any()
        state = grammar.advance(state, ids)
    assert grammar.characters == 1000 * (len(bar) + len(SEPARATOR)) - len(SEPARATOR) + len(END)
    assert grammar.finished(state).all()
    assert grammar.allowed(state).nonzero()[:, 1].tolist() == [vocabulary.pad] * 2


@pytest.mark.parametrize(
    ("text", "ends"),
    [("--END", 5), ("EEND", 4), ("ENEND", 5), ("EN-D", 0), ("ENSEP\nEND", 9), ("-", 0)],
)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_the_end_in_several_tokens(text: str, ends: int, size: int) -> None:
    parts = [text[start : start + size] for start in range(0, len(text), size)]
    vocabulary = Pieces((*dict.fromkeys(parts), "", "<pad>"))
    automaton = UntilEnd(vocabulary)
    state = automaton.start(1)
    allowed = automaton.allowed(state)[0].tolist()
    assert allowed == [True] * (vocabulary.size - 2) + [False, True]
    for number, part in enumerate(parts):
        state = automaton.advance(state, torch.tensor([vocabulary.pieces.index(part)]))
        read = min(number * size + size, len(text))
        assert bool(automaton.finished(state)) == (0 < ends <= read)
    if ends:
        assert automaton.allowed(state)[0].nonzero().tolist() == [[vocabulary.pad]]


def test_a_vocabularys_own_end() -> None:
    vocabulary = Subwords(crossing(), DRUMROLL.alphabet)
    automaton = UntilEnd(vocabulary)
    assert vocabulary.eos is not None
    assert bool(automaton.allowed(automaton.start(1))[0, vocabulary.eos])
    assert automaton.finished(automaton.advance(automaton.start(1), torch.tensor([vocabulary.eos])))
    grammar = Grammar(DRUMROLL, 1, vocabulary)
    assert not grammar.allowed(grammar.start(1))[0, vocabulary.eos]


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="--bars 0: must be at least 1"):
        Grammar(DRUMROLL, 0, Characters(DRUMROLL.alphabet))
    with pytest.raises(ConfigError, match="no token for 'O'"):
        Grammar(NOTATIONS["loudness"], 1, Characters(DRUMROLL.alphabet))
