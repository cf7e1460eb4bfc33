"""Generation: valid whatever the model, and the same alone and in a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_drum_decoder import IO, NUMBERS, golden_decoder
from test_drum_vocabulary import crossing
from tiny_language_models import COMPLETION, PROMPT, write_model
from torch import Tensor, nn

from modicum.errors import CheckpointError, ConfigError, DataError
from modicum.methods.drum_transfer.models.decoder import CausalModel, Decoder
from modicum.methods.drum_transfer.models.generate import choose, generate
from modicum.methods.drum_transfer.models.language_models import load_language_model
from modicum.methods.drum_transfer.models.vocabulary import Characters, Subwords, Vocabulary
from modicum.methods.drum_transfer.options import Sampling
from modicum.methods.drum_transfer.text.drumroll import bars, to_hits, without_separators
from modicum.methods.drum_transfer.text.notation import (
    DRUMROLL,
    END,
    NOTATIONS,
    SEPARATOR,
    Notation,
)

SMALL = Notation(steps_per_beat=1)
"""Bars of four lines."""
BARS = ["------\n--o---\noo----\n---ooo\nSEP\n", "o-o-o-\n------\n-oo---\n----oo\nSEP\n"]
PROMPTS = [BARS[0], BARS[1] + BARS[0], BARS[1]]


class Says(CausalModel):
    """Logits by a rule; the cache holds the ids read, so that rows can be seen to stay in step."""

    def __init__(
        self, logits: Callable[[list[list[int]]], Tensor], vocabulary: Vocabulary | None = None
    ) -> None:
        super().__init__(vocabulary or Characters(DRUMROLL.alphabet), context=10_000)
        self.weight = nn.Parameter(torch.zeros(()))
        self.logits = logits
        self.calls: list[tuple[int, ...]] = []

    def new_cache(self) -> list[list[int]]:
        return []

    def keep_rows(self, cache: list[list[int]], rows: Tensor) -> None:
        cache[:] = [list(cache[row]) for row in rows.tolist()]

    def forward(
        self, ids: Tensor, *, present: Tensor | None = None, cache: Any = None, **_: Any
    ) -> Tensor:
        self.calls.append(tuple(ids.shape))
        if not cache:
            cache[:] = [[] for _ in ids]
        for row, new in zip(cache, ids.tolist(), strict=True):
            row += new
        if present is not None:
            assert present.shape == (len(cache), len(cache[0]))
        return self.logits(cache)[:, None]


def valid(text: str, count: int, notation: Notation = DRUMROLL) -> bool:
    lines = without_separators(text)
    try:
        hits = to_hits(lines, notation)
    except DataError:
        return False
    whole = len(hits) == count * notation.steps_per_bar
    return whole and text == SEPARATOR.join(bars(lines, notation)) + END


def decoder(vocabulary: Vocabulary | None = None) -> Decoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = Decoder(
            vocabulary or Characters(DRUMROLL.alphabet), width=32, layers=2, heads=4, mlp=48
        )
        for weight in model.parameters():  # far from equal logits
            weight.data *= 8 if weight.ndim > 1 else 1
    return model.eval()


MODELS = {
    "decoder": lambda _: decoder(),
    "long tokens": lambda _: decoder(Subwords(crossing(), DRUMROLL.alphabet, restrict=False)),
    "llama": lambda path: load_language_model(
        str(write_model(path / "llama")), texts=[PROMPT, COMPLETION]
    ),
    "gpt2": lambda path: load_language_model(
        str(write_model(path / "gpt2", "gpt2")), restrict=False
    ),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_batch_gives_what_its_rows_give_alone(
    name: str, temperature: float, tmp_path: Path
) -> None:
    model = MODELS[name](tmp_path).double()  # a batch is rounded otherwise than a row
    model.train()
    options: dict[str, Any] = {"notation": SMALL, "bars": 2}
    sampling = Sampling(samples=2, temperature=temperature)
    together = generate(model, PROMPTS, sampling, batch=4, **options)
    assert model.training
    assert together == generate(model, PROMPTS, sampling, batch=1, **options)
    ids = [model.vocabulary.encode(prompt) for prompt in PROMPTS]
    assert together == generate(model, ids, sampling, **options)
    assert [len(of_prompt) for of_prompt in together] == [2] * 3
    assert all(valid(text, 2, SMALL) for texts in together for text in texts)
    distinct = {text for texts in together for text in texts}
    if temperature:
        assert len(distinct) == 6
        assert generate(model, PROMPTS, replace(sampling, seed=1), **options) != together
    else:
        assert all(len(set(texts)) == 1 for texts in together)

    sampling = replace(sampling, constrained=False, max_tokens=12)
    free = generate(model, PROMPTS, sampling, batch=4, **options)
    alone = generate(model, PROMPTS, sampling, batch=1, **options)
    assert free == alone
    assert not any(valid(text, 2, SMALL) for texts in free for text in texts)


@pytest.mark.parametrize("number", [0, 1])
def test_golden_greedy_continuation(number: int) -> None:
    example = NUMBERS["llama"]["examples"][number]
    prompt = IO[f"ids_{number}"][0, : example["prompt_len"]].tolist()
    [[text]] = generate(
        golden_decoder(), [prompt], Sampling(temperature=0, constrained=False, max_tokens=48)
    )
    assert text == example["greedy48"]


STRANGE = {
    "constant": torch.zeros(9),
    "infinite": torch.tensor([math.inf, -math.inf] * 4 + [math.inf]),
    "nothing": torch.full((9,), -math.inf),
    "everything": torch.full((9,), math.inf),
    "large": torch.tensor([3e38, -3e38, 3e38, -3e38, 0, 3e38, -3e38, 1, 2]),
}


@pytest.mark.parametrize("logits", STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize("temperature", [0.0, 1e-300, 0.9, 1e300, math.inf])
def test_valid_whatever_the_model(logits: Tensor, temperature: float) -> None:
    model = Says(lambda rows: logits.expand(len(rows), -1))
    for name in ("drumroll", "loudness", "rows"):
        notation = NOTATIONS[name]
        model.vocabulary = Characters(notation.alphabet)
        size = model.vocabulary.size
        model.logits = lambda rows, size=size: logits.repeat(4)[:size].expand(len(rows), -1)
        prompt = "".join(place[0] for place in notation.bar()) + SEPARATOR
        [texts] = generate(
            model, [prompt], Sampling(samples=2, temperature=temperature), notation=notation, bars=2
        )
        assert all(valid(text, 2, notation) for text in texts)


def test_what_is_forced_is_not_asked() -> None:
    model = Says(lambda rows: torch.zeros(len(rows), 9))
    generate(model, [PROMPT] * 3, Sampling(samples=2), bars=2)
    assert model.calls[0] == (3, len(PROMPT))
    assert len(model.calls) == 2 * 16 * 6
    assert set(model.calls[1:]) == {(6, 1), (6, 2), (6, 6)}  # after a newline, after a separator


def test_rows_leave_when_they_end() -> None:
    """Texts of several lengths, by the prompt, with `END` in one, two or three tokens, or `eos`."""
    vocabulary = Subwords(crossing(), DRUMROLL.alphabet)
    vocabulary.pieces += ("EN", "ND", "DD", "END")
    assert vocabulary.eos is not None
    identities = {piece: identity for identity, piece in enumerate(vocabulary.pieces)}
    said = {
        "-": ["-", "END", "-"],
        "o": ["EN", "DD", "-", "-"],
        "-o": ["E", "E", "ND", "o"],
        "o-": ["E", "N", "E", "N", "S", "-", "o", "-", None, "o"],
        "--": ["o"] * 12,
    }
    said = {key * 4: value for key, value in said.items()}

    def logits(rows: list[list[int]]) -> Tensor:
        found = torch.zeros(len(rows), vocabulary.size)
        for row, ids in enumerate(rows):
            first, _, rest = vocabulary.decode(ids).partition("\nSEP\n")
            words = said[first]
            token = next(
                word
                for number, word in enumerate(words)
                if rest == "".join(filter(None, words[:number]))
            )
            found[row, vocabulary.eos if token is None else identities[token]] = 100
        return found

    model = Says(logits, vocabulary)
    # Padding has no text, so it may stand before a prompt.
    prompts = [key + "\nSEP\n" for key in said]
    found = generate(model, prompts, Sampling(constrained=False, temperature=1, max_tokens=9))
    assert found == [["-END"], ["END"], ["EEND"], ["ENENS-o-"], ["o" * 9]]
    assert [rows for rows, _ in model.calls] == [5, 5, 3, 2, 2, 2, 2, 2, 2]


def test_choose() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 4.0, 0.5])
    allowed = torch.tensor([True, True, True, True, False, True])
    noise = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000

    def shares(**options: float) -> Tensor:
        rows = len(noise)
        found = choose(logits.expand(rows, -1), noise, allowed.expand(rows, -1), **options)
        return found.bincount(minlength=6) / rows

    for temperature in (0.5, 1.0, 3.0):
        expected = (logits / temperature).masked_fill(~allowed, -math.inf).softmax(0)
        torch.testing.assert_close(
            shares(temperature=temperature), expected, rtol=0, atol=1e-4, check_dtype=False
        )
    assert shares(temperature=0).tolist() == [0, 0, 1, 0, 0, 0]
    # 0.59, 0.22, 0.13: the fewest that sum to 0.6 are two
    expected = logits.masked_fill(torch.tensor([True, False, False, True, True, True]), -math.inf)
    torch.testing.assert_close(shares(top_p=0.6), expected.softmax(0), rtol=0, atol=1e-4)
    assert shares(top_p=1e-9).tolist() == [0, 0, 1, 0, 0, 0]
    edge = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    for temperature in (1e-3, 1.0, 1e3):
        found = choose(logits.expand(2, -1), edge, allowed.expand(2, -1), temperature=temperature)
        assert allowed[found].all()


def test_progress() -> None:
    steps: list[tuple[int, int]] = []
    model = decoder()
    generate(
        model, PROMPTS, Sampling(samples=2), notation=SMALL, bars=1, batch=3,
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert steps == sorted(set(steps))
    assert steps[0] == (3, 6 * 31)
    assert steps[-1] == (6 * 31, 6 * 31)
    assert generate(model, []) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bars": 0}, "--bars 0"),
        ({"samples": 0}, "--samples 0"),
        ({"temperature": -0.1}, "--temperature -0.1"),
        ({"temperature": math.nan}, "--temperature nan"),
        ({"top_p": 0.0}, "--top-p 0.0"),
        ({"batch": 0}, "--batch 0"),
        ({"max_tokens": 0}, "--max-tokens 0"),
        ({"bars": 20}, r"prompt of 32 .* to 639 are 671 tokens.*at most 500"),
        ({"max_tokens": 469, "constrained": False}, r"501 tokens.*at most 500"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    model = Says(lambda rows: torch.zeros(len(rows), 9))
    model.context = 500
    ours = {name: options.pop(name) for name in ("bars", "batch") if name in options}
    with pytest.raises(ConfigError, match=message):
        generate(model, BARS[:1], Sampling(**options), notation=SMALL, **ours)
    assert not model.calls


def test_what_is_cut_has_no_end() -> None:
    assert generate(decoder(), [PROMPT], Sampling(max_tokens=5000), bars=1) == generate(
        decoder(), [PROMPT], bars=1
    )
    [[text]] = generate(decoder(), [PROMPT], Sampling(max_tokens=20), bars=1)
    assert [len(line) for line in text.split("\n")] == [6, 6, 6]


def test_refusals() -> None:
    with pytest.raises(DataError, match=r"prompt 2 .*ends in '------\\n', expected"):
        generate(decoder(), [PROMPT, "------\n"])
    for wrong in (torch.full((9,), math.nan), torch.tensor([0.0] * 8 + [math.nan])):
        with pytest.raises(CheckpointError, match="the model gives NaN"):
            generate(Says(lambda rows, wrong=wrong: wrong.expand(len(rows), -1)), [PROMPT])
