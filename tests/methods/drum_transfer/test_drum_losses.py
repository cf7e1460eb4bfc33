"""The loss against the golden numbers, and nats counted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_drum_decoder import IO, NUMBERS, golden_decoder
from test_drum_language_models import GPT2_IO, golden_gpt2

from modicum.errors import ConfigError
from modicum.methods.drum_transfer import losses
from modicum.methods.drum_transfer.losses import (
    collate,
    completion_nats,
    encode_record,
    record_loss,
    token_nats,
)
from modicum.methods.drum_transfer.models.decoder import Decoder
from modicum.methods.drum_transfer.models.vocabulary import Characters
from modicum.methods.drum_transfer.text.drumroll import Record
from modicum.methods.drum_transfer.text.notation import DRUMROLL, Notation

HIT, SILENT = "--o---\n", "------\n"
RECORDS = [
    Record((HIT * 16 + "SEP\n") * 2, HIT * 3 + SILENT * 13 + "SEP\n" + SILENT * 16 + "END", "a"),
    Record((HIT * 16 + "SEP\n") * 2, HIT * 5 + "END", "b"),
    Record(HIT * 16 + "SEP\n", SILENT * 16 + "SEP\n" + HIT * 16 + "END", "c"),
]


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    torch.manual_seed(0)
    model = Decoder(Characters(DRUMROLL.alphabet), width=16, layers=1, heads=2, mlp=16, context=463)
    with torch.no_grad():
        model.embedding.weight.mul_(20)
    return model


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(
    ("family", "build", "io"), [("llama", golden_decoder, IO), ("gpt2", golden_gpt2, GPT2_IO)]
)
@torch.no_grad()
def test_golden_losses(
    family: str, build: object, io: dict[str, torch.Tensor], number: int
) -> None:
    assert callable(build)
    example, ids = NUMBERS[family]["examples"][number], io[f"ids_{number}"]
    assert ids.shape[1] == example["n"]
    logits, prompt = build()(ids), example["prompt_len"]
    nats = token_nats(logits, ids)[0].double()
    assert nats[: prompt - 1].sum().item() == pytest.approx(example["nll_prompt"], rel=1e-5)
    assert nats[prompt - 1 :].sum().item() == pytest.approx(example["nll_completion"], rel=1e-5)
    for prompt_weight, expected in example["loss"].items():
        weights = torch.ones(ids.shape)
        weights[:, :prompt] = float(prompt_weight)
        assert record_loss(logits, ids, weights).item() == pytest.approx(expected, rel=1e-5)


def test_a_batch_is_averaged_by_its_weight(decoder: Decoder) -> None:
    encoded = [encode_record(record, decoder.vocabulary, prompt_weight=0.1) for record in RECORDS]
    decoder.eval()

    def loss_of(*rows: int) -> torch.Tensor:
        batch = collate([encoded[row] for row in rows], decoder.vocabulary.pad)
        return record_loss(decoder(batch.ids), batch.ids, batch.weights)

    shares = torch.tensor([sum(weights[1:]) for _, weights in encoded])
    alone = torch.stack([loss_of(row) for row in range(3)])
    torch.testing.assert_close(loss_of(0, 1, 2), (alone * shares).sum() / shares.sum())


def test_encoding_and_collating() -> None:
    vocabulary = Characters(DRUMROLL.alphabet)
    ids, weights = encode_record(Record("-\n", "END", ""), vocabulary, prompt_weight=0.5)
    assert vocabulary.decode(ids) == "-\nEND"
    assert weights == [0.5, 0.5, 1, 1, 1]
    batch = collate([(ids, weights), ([1], [1.0])], vocabulary.pad)
    assert batch.ids.tolist() == [ids, [1, 8, 8, 8, 8]]
    assert batch.weights.tolist() == [weights, [1, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("batch_size", "logits", "rows"), [(1, 1 << 26, 1), (3, 1 << 26, 3), (3, 9, 1)]
)
def test_nats_of_completions(
    decoder: Decoder, batch_size: int, logits: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "_MOST_LOGITS", logits)
    seen: list[int] = []
    decoder.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    decoder.train()
    found = completion_nats(decoder, RECORDS, batch_size=batch_size)
    assert decoder.training
    assert seen == [rows] * (3 // rows)
    assert found.lines.tolist() == [32, 5, 32]
    assert found.sounding_lines.tolist() == [3, 5, 32]
    assert found.tokens.tolist() == [len(record.completion) for record in RECORDS]
    decoder.eval()
    for row, (record, sounding) in enumerate(zip(RECORDS, (3, 5, 32), strict=True)):
        ids = torch.tensor([decoder.vocabulary.encode(record.prompt + record.completion)])
        with torch.no_grad():
            nats = token_nats(decoder(ids), ids)[0, len(record.prompt) - 1 :].double()
        assert found.nats[row] == pytest.approx(nats.sum().item(), rel=1e-5)
        characters = 7 * sounding + ("SEP" in record.completion[: 7 * sounding]) * len("SEP\n")
        assert found.sounding_nats[row] == pytest.approx(nats[:characters].sum().item(), rel=1e-5)
    assert found.per_line == pytest.approx(found.nats.sum() / 69)
    assert found.per_token == pytest.approx(found.nats.sum() / found.tokens.sum())
    assert found.per_sounding_line == pytest.approx(found.sounding_nats.sum() / 40)


def test_rows_sound_up_to_the_end_of_their_bar(decoder: Decoder) -> None:
    notation = Notation(layout="rows")
    silent = "".join(f"{letter}: ----|----|----|----\n" for letter in "KSHTCR")
    hit = silent.replace("H: -", "H: o")
    record = Record(f"{hit}SEP\n", f"{silent}SEP\n{hit}SEP\n{silent}END", "rows", notation)
    model = Decoder(Characters(notation.alphabet), width=16, layers=1, heads=2, mlp=16)
    found = completion_nats(model, [record])
    assert (found.lines.item(), found.sounding_lines.item()) == (18, 12)
    all_silent = replace(record, completion=f"{silent}END")
    assert np.isnan(completion_nats(model, [all_silent]).per_sounding_line)


def test_a_record_that_is_too_long_is_named(decoder: Decoder) -> None:
    long = Record(HIT * 16 + "SEP\n", (HIT * 16 + "SEP\n") * 3 + "END", "groove 7")
    with pytest.raises(ConfigError, match=r"groove 7: 467 tokens.*at most 463"):
        completion_nats(decoder, [RECORDS[1], long])
