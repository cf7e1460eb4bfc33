"""Models stored and built again, with no other file or with the base's, and exported folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from tiny_language_models import COMPLETION, PROMPT, write_model

from modicum.errors import CheckpointError, ConfigError, DataError
from modicum.methods.drum_transfer.models.decoder import CausalModel, Decoder
from modicum.methods.drum_transfer.models.language_models import (
    LanguageModel,
    Lora,
    load_language_model,
)
from modicum.methods.drum_transfer.models.vocabulary import Characters
from modicum.methods.drum_transfer.saved_models import arguments_of, build, export_folder
from modicum.methods.drum_transfer.text.notation import DRUMROLL
from modicum.weights.saved import save_model

TEXTS = [PROMPT, COMPLETION]


def change(model: CausalModel) -> None:
    """Stands for training."""
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape))


def store_and_build(model: CausalModel, file: Path) -> CausalModel:
    arguments = arguments_of(model)
    save_model(file, model, method="drum-transfer", arguments=arguments, notes={})
    with safetensors.safe_open(file, "pt") as opened:
        stored = json.loads(opened.metadata()["modicum.arguments"])
    built = build(**stored)
    built.load_state_dict(safetensors.torch.load_file(file))
    return built


@torch.no_grad()
def assert_same(model: CausalModel, other: CausalModel) -> None:
    ids = torch.tensor([model.vocabulary.encode(PROMPT)])
    assert other.vocabulary.encode(PROMPT) == ids[0].tolist()
    assert other.vocabulary.pieces == model.vocabulary.pieces
    assert (other.vocabulary.eos, other.vocabulary.pad) == (
        model.vocabulary.eos,
        model.vocabulary.pad,
    )
    assert other.context == model.context
    assert torch.equal(other.eval()(ids), model.eval()(ids))


def test_a_decoder_is_built_again(tmp_path: Path) -> None:
    shape: dict[str, Any] = {"width": 16, "layers": 1, "heads": 2, "mlp": 8, "context": 300}
    model = Decoder(Characters(DRUMROLL.alphabet), **shape)
    assert_same(model, store_and_build(model, tmp_path / "model.safetensors"))


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("restrict", [True, False])
@pytest.mark.parametrize("lora", [None, Lora(rank=2), Lora(rank=2, frozen_dtype="bfloat16")])
def test_a_language_model_needs_no_other_file(
    tmp_path: Path, family: str, restrict: bool, lora: Lora | None
) -> None:
    base = write_model(tmp_path / family, family)
    model = load_language_model(str(base), texts=TEXTS, restrict=restrict)
    if lora is not None:
        model.add_lora(lora)
    change(model)
    for file in base.iterdir():
        file.unlink()
    built = store_and_build(model, tmp_path / "model.safetensors")
    assert_same(model, built)
    assert isinstance(built, LanguageModel)
    assert (built.origin, built.lora) == (model.origin, model.lora)
    if lora is not None:  # what was built can be used on
        built.merge_lora()
        assert_same(built, store_and_build(built, tmp_path / "merged.safetensors"))


def test_adapters_alone_need_their_base(tmp_path: Path) -> None:
    base = write_model(tmp_path / "llama")
    model = load_language_model(str(base), texts=TEXTS)
    model.add_lora(Lora(rank=2, store_base=False))
    change(model)
    file = tmp_path / "adapters.safetensors"
    assert_same(model, store_and_build(model, file))
    assert all(".lora_" in name for name in safetensors.torch.load_file(file))
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({})

    arguments = json.loads(json.dumps(arguments_of(model)))
    write_model(base, seed=1)
    with pytest.raises(CheckpointError, match="has changed since"):
        build(**arguments)
    (base / "model.safetensors").unlink()
    with pytest.raises(DataError, match="no weights"):
        build(**arguments)

    twin = load_language_model(
        str(write_model(tmp_path / "other")), texts=TEXTS, random_weights=True
    )
    with pytest.raises(ConfigError, match="comes from no file"):
        twin.add_lora(Lora(store_base=False))


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
@torch.no_grad()
def test_an_exported_folder_is_whole(tmp_path: Path, family: str) -> None:
    base = write_model(tmp_path / family, family)
    model = load_language_model(str(base), texts=TEXTS)
    change(model)
    model.add_lora(Lora(rank=2))
    change(model)
    out = tmp_path / "exported"
    export_folder(model, out)

    exported = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    ids = torch.tensor([tokenizer.encode(PROMPT, add_special_tokens=False)])
    kept = model.vocabulary.kept
    assert kept is not None
    assert ids[0].tolist() == kept[model.vocabulary.encode(PROMPT)].tolist()
    expected = model(torch.tensor([model.vocabulary.encode(PROMPT)]))
    assert exported(ids).logits.shape[-1] == 300
    torch.testing.assert_close(exported(ids).logits[..., kept], expected, rtol=0, atol=1e-4)
    rows = exported.get_input_embeddings().weight
    before = load_language_model(str(base), restrict=False).plain_network.get_input_embeddings()
    others = torch.ones(300, dtype=torch.bool)
    others[kept] = False
    assert torch.equal(rows[others], before.weight[others])
    assert not torch.equal(rows[kept], before.weight[kept])

    # it is a base again, and a source like any other
    assert load_language_model(str(out), texts=TEXTS).vocabulary.pieces == model.vocabulary.pieces
    with pytest.raises(DataError, match="exists already"):
        export_folder(model, out)
    write_model(base, family, seed=1)
    with pytest.raises(CheckpointError, match="has changed since"):
        export_folder(model, tmp_path / "another")


def test_what_cannot_be_exported_or_built(tmp_path: Path) -> None:
    base = str(write_model(tmp_path / "llama"))
    twin = load_language_model(base, texts=TEXTS, random_weights=True)
    with pytest.raises(ConfigError, match="a part of its vocabulary"):
        export_folder(twin, tmp_path / "out")
    whole = load_language_model(base, restrict=False, random_weights=True)
    export_folder(whole, tmp_path / "out")
    assert_same(whole, load_language_model(str(tmp_path / "out"), restrict=False))
    with pytest.raises(ConfigError, match="Decoder is no model of Transformers"):
        export_folder(Decoder(Characters(DRUMROLL.alphabet)), tmp_path / "decoder")
    with pytest.raises(ConfigError, match="kind 'rumour'"):
        build(kind="rumour", vocabulary={})
