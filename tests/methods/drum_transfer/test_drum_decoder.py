"""The decoder against LlamaForCausalLM, and what every causal model promises about padding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_language_models import parameter_counts

from modicum.errors import ConfigError
from modicum.methods.drum_transfer.models.decoder import Decoder
from modicum.methods.drum_transfer.models.vocabulary import Characters
from modicum.methods.drum_transfer.text.notation import DRUMROLL

GOLDEN = Path(__file__).parents[2] / "golden" / "drum-transfer"
NUMBERS = json.loads((GOLDEN / "tiny_lm.json").read_text())
IO = load_file(GOLDEN / "tiny_llama_io.safetensors")


LLAMA_NAMES = {
    "attention_norm": ["input_layernorm"],
    "query_key_value": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "attention_output": ["self_attn.o_proj"],
    "mlp_norm": ["post_attention_layernorm"],
    "gate_and_up": ["mlp.gate_proj", "mlp.up_proj"],
    "down": ["mlp.down_proj"],
}


def from_llama(state: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """Weights of a LlamaForCausalLM with tied embeddings under the names of a `Decoder`."""
    weights = {
        "embedding.weight": state["model.embed_tokens.weight"],
        "norm.weight": state["model.norm.weight"],
    }
    for layer in range(layers):
        for ours, theirs in LLAMA_NAMES.items():
            parts = [state[f"model.layers.{layer}.{name}.weight"] for name in theirs]
            weights[f"blocks.{layer}.{ours}.weight"] = torch.cat(parts)
    return weights


def golden_decoder() -> Decoder:
    vocabulary = Characters(NUMBERS["charset"], padding=False)
    decoder = Decoder(
        vocabulary, width=32, layers=2, heads=4, key_value_heads=2, mlp=88, context=1024
    )
    decoder.load_state_dict(from_llama(load_file(GOLDEN / "tiny_llama_weights.safetensors"), 2))
    return decoder.eval()


def test_sizes() -> None:
    assert parameter_counts(golden_decoder()) == (NUMBERS["llama"]["params"],) * 2
    # 4.83 M less the rows of its larger vocabulary
    own_keys = Decoder(Characters(DRUMROLL.alphabet), key_value_heads=8, mlp=704)
    assert parameter_counts(own_keys)[0] == 4_825_088 - (19 - 9) * 256
    assert parameter_counts(Decoder(Characters(DRUMROLL.alphabet)))[0] == 4_871_680


@pytest.mark.parametrize("number", [0, 1])
@torch.no_grad()
def test_logits_are_those_of_llama(number: int) -> None:
    logits = golden_decoder()(IO[f"ids_{number}"])
    expected = IO[f"logits_last64_{number}"]
    torch.testing.assert_close(logits[0, -64:], expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("number", [0, 1])
@torch.no_grad()
def test_greedy_continuation_with_a_cache(number: int) -> None:
    decoder, example = golden_decoder(), NUMBERS["llama"]["examples"][number]
    ids = IO[f"ids_{number}"][:, : example["prompt_len"]]
    cache, written = decoder.new_cache(), []
    for _ in range(48):
        ids = decoder(ids, cache=cache, last_only=True).argmax(-1)
        written += ids[0].tolist()
    assert decoder.vocabulary.decode(written) == example["greedy48"]


@torch.no_grad()
def test_padded_and_cached_rows_give_what_they_give_alone() -> None:
    decoder = golden_decoder()
    long, short = IO["ids_0"][:, :50], IO["ids_1"][:, :37]
    ids = torch.cat([long, torch.cat([torch.full((1, 13), 5), short], 1)])
    present = torch.ones(2, 50, dtype=torch.bool)
    present[1, :13] = False
    alone = decoder(long)[0], decoder(short)[0]

    cache = decoder.new_cache()
    parts = [decoder(ids[:, :20], present=present[:, :20], cache=cache)]
    parts += [
        decoder(ids[:, end - 1 : end], present=present[:, :end], cache=cache)
        for end in range(21, 31)
    ]
    both = torch.cat(parts, 1)
    torch.testing.assert_close(both[0], alone[0][:30], rtol=0, atol=1e-4)
    torch.testing.assert_close(both[1, 13:], alone[1][:17], rtol=0, atol=1e-4)

    decoder.keep_rows(cache, torch.tensor([1]))
    rest = decoder(ids[1:, 30:], present=present[1:], cache=cache)
    torch.testing.assert_close(rest[0], alone[1][17:], rtol=0, atol=1e-4)


def test_gradient_checkpointing_changes_nothing() -> None:
    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        decoder = golden_decoder()
        if checkpointing:
            decoder.use_gradient_checkpointing()
        decoder(IO["ids_0"]).square().mean().backward()
        return [weight.grad for weight in decoder.parameters() if weight.grad is not None]

    plain, again = gradients(False), gradients(True)
    assert len(plain) == len(again) > 0
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"1,025 tokens.*at most 1,024"):
        golden_decoder()(torch.zeros(1, 1025, dtype=torch.int64))
    with pytest.raises(ConfigError, match="5 heads"):
        Decoder(Characters(NUMBERS["charset"], padding=False), heads=5)
