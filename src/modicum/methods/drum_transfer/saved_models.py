"""Models to and from what a file of weights can hold, and to folders for other programs.

A file of `modicum.weights.saved` holds a state dict and the arguments that its network is built
with. `arguments_of` gives these for any causal model or baseline, `build` is their inverse.
"""

from __future__ import annotations

import base64
import copy
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from modicum.errors import ConfigError, DataError, require
from modicum.methods.drum_transfer.model_folders import (
    Origin,
    find_again,
    new_folder,
    read_network,
    read_tokenizer,
    reading,
)
from modicum.methods.drum_transfer.models.baselines import Baseline, NGram, Random, Repeat
from modicum.methods.drum_transfer.models.decoder import CausalModel, Decoder
from modicum.methods.drum_transfer.models.language_models import (
    LanguageModel,
    Lora,
    load_language_model,
    random_network,
)
from modicum.methods.drum_transfer.models.vocabulary import Subwords, Vocabulary, from_config
from modicum.options import check_arguments
from modicum.weights.saved import from_elsewhere

BASELINES: Mapping[str, type[Baseline]] = {"ngram": NGram, "repeat": Repeat, "random": Random}
_MOST_RULES = 1 << 26
"""Bytes; the largest tokenizers of language models have half as many."""
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


def arguments_of(model: nn.Module) -> dict[str, Any]:
    """What `build` needs to make the same model again, JSON-able.

    For a `LanguageModel` that is the configuration and tokenizer of Transformers, too, or where its
    base is, if only its adapters are stored.

    Raises:
        ConfigError: The model is of another class.
    """
    for kind, baseline in BASELINES.items():
        if isinstance(model, baseline):
            return {"kind": kind, **model.arguments}
    if not isinstance(model, Decoder | LanguageModel):
        raise ConfigError(f"{type(model).__name__}: no model that can be stored.")
    written = _write_vocabulary(model.vocabulary)
    if isinstance(model, Decoder):
        return {"kind": "decoder", "vocabulary": written, **model.shape}
    arguments: dict[str, Any] = {
        "kind": "language model",
        "vocabulary": written,
        "origin": asdict(model.origin) if model.origin else None,
        "lora": asdict(model.lora) if model.lora else None,
    }
    if model.lora and not model.lora.store_base:
        del written["tokenizer"]
        return arguments
    network = model.plain_network
    config = json.loads(network.config.to_json_string(use_diff=False))
    dtype = str(network.get_input_embeddings().weight.dtype).removeprefix("torch.")
    return arguments | {"config": config, "dtype": dtype}


def build(*, kind: str, **arguments: Any) -> CausalModel | Baseline:
    """The network or baseline that `arguments_of` told of, for its state dict to be loaded into.

    Its weights are random, but for a base whose adapters alone were stored.

    Raises:
        CheckpointError: The base of adapters is not what it was, or may not be opened, see
            `model_folders.find_again`.
        ConfigError: The arguments are of no known kind of network.
        DataError: The base of adapters is gone.
        MissingExtraError: A language model needs the extra `music`.
    """
    kinds: Mapping[str, Any] = {**BASELINES, "decoder": _decoder, "language model": _language_model}
    if kind not in kinds:
        raise ConfigError(f"a network of the kind {kind!r}: expected one of {', '.join(kinds)}.")
    return check_arguments(kinds[kind])(**arguments)


def _decoder(vocabulary: Mapping[str, Any], **shape: Any) -> Decoder:
    return check_arguments(Decoder)(_read_vocabulary(vocabulary), **shape)


def _language_model(
    vocabulary: Mapping[str, Any],
    origin: Mapping[str, Any] | None = None,
    lora: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32",
) -> LanguageModel:
    require("transformers", "music", "A language model")
    source = check_arguments(Origin)(**origin) if origin else None
    adapters = check_arguments(Lora)(**lora) if lora else None
    if config is not None:
        try:
            network = random_network(_read_config(config), seed=0, dtype=getattr(torch, dtype))
            known = _read_vocabulary(vocabulary)
        except DataError as error:  # of what is in the file, not of another
            raise ConfigError(str(error)) from error
        if len(network.get_output_embeddings().weight) != known.size:
            raise ConfigError(f"a language model: its vocabulary of {known.size} is of another.")
        model = LanguageModel(network, known, source)
    elif source is None:
        raise ConfigError("adapters without their base: expected where it is from.")
    else:
        kept = {name: vocabulary[name] for name in ("alphabet", "restrict", "kept")}
        with from_elsewhere():
            model = load_language_model(find_again(source), **kept)
        model.origin = source
    if adapters is not None:
        model.add_lora(adapters)
    return model.eval()


def _read_config(values: Mapping[str, Any]) -> Any:
    """A `PreTrainedConfig` of what its `to_json_string` gave."""
    from transformers import CONFIG_MAPPING

    kinds: Any = CONFIG_MAPPING
    name = values.get("model_type")
    if not isinstance(name, str) or name not in kinds:
        raise ConfigError("a language model: expected a configuration that Transformers knows.")
    with reading(name):
        return kinds[name].from_dict(dict(values))


@torch.no_grad()
def export_folder(model: nn.Module, path: Path | str) -> None:
    """Write a plain folder of Transformers, which other programs read.

    Adapters are merged. A restricted vocabulary is made whole again: rows that were not kept are
    those of the base, which is read from where it was. The model is left as it is.

    Raises:
        CheckpointError: The base is not what it was.
        ConfigError: The model is none of Transformers', or its vocabulary cannot be made whole.
        DataError: The base is gone, or there is something at `path`.
    """
    if not isinstance(model, LanguageModel):
        raise ConfigError(
            f"export: a {type(model).__name__} is no model of Transformers. Use its file of "
            f"weights, with modicum.load."
        )
    merged = copy.deepcopy(model)
    merged.merge_lora()
    merged.cast(torch.float32)
    network, tokenizer = merged.plain_network, _tokenizer_of(model.vocabulary)
    if model.vocabulary.kept is not None:
        if model.origin is None:
            raise ConfigError(
                "export: the model knows a part of its vocabulary only, and the rows of the other "
                "tokens are in no file, as it began with random weights. Train it with the whole "
                "vocabulary to export it."
            )
        base, state = find_again(model.origin).path, network.state_dict()
        network, tokenizer = read_network(base), read_tokenizer(base)
        target = network.state_dict()
        for name, weight in state.items():  # of tables of tokens, the kept rows
            same = target[name].shape == weight.shape
            target[name][slice(None) if same else model.vocabulary.kept] = weight
    with new_folder(Path(path)) as temporary, reading(path):
        network.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


def _tokenizer_of(vocabulary: Vocabulary) -> Any:
    return vocabulary.tokenizer if isinstance(vocabulary, Subwords) else None


def _write_vocabulary(vocabulary: Vocabulary) -> dict[str, Any]:
    """A configuration with the tokenizer's rules and table, packed: they are megabytes."""
    written = vocabulary.to_config()
    tokenizer = _tokenizer_of(vocabulary)
    if tokenizer is not None:
        rules = zlib.compress(tokenizer.backend_tokenizer.to_str().encode(), 9)
        special = {name: token for name in _SPECIAL if (token := getattr(tokenizer, name))}
        written["tokenizer"] = {"rules": base64.b64encode(rules).decode(), **special}
    return written


def _read_vocabulary(written: Mapping[str, Any]) -> Vocabulary:
    """The inverse of `_write_vocabulary`."""
    config = dict(written)
    stored = config.pop("tokenizer", None)
    if stored is None:
        return from_config(config)
    tokenizers: Any = require("tokenizers", "music", "A language model")
    from transformers import PreTrainedTokenizerFast

    opened = zlib.decompressobj()
    rules = opened.decompress(base64.b64decode(stored["rules"]), _MOST_RULES)
    if opened.unconsumed_tail:
        raise ConfigError(f"the rules of a tokenizer: more than {_MOST_RULES:,} bytes, unpacked.")
    with reading("the tokenizer"):
        table = tokenizers.Tokenizer.from_str(rules.decode())
        special = {name: str(stored[name]) for name in _SPECIAL if name in stored}
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=table, **special)
    return from_config(config, tokenizer)


def example(network: nn.Module) -> tuple[Tensor]:
    """Some tokens, `(2, 12)`."""
    assert isinstance(network, CausalModel)
    return (torch.arange(24).reshape(2, 12) % network.vocabulary.size,)
