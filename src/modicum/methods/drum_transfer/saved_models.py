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
from typing import Any

import torch
from torch import Tensor, nn

from modicum.errors import CheckpointError, ConfigError, require
from modicum.methods.drum_transfer.model_folders import (
    Origin,
    find_model,
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
from modicum.weights.saved import from_elsewhere

BASELINES: Mapping[str, type[Baseline]] = {"ngram": NGram, "repeat": Repeat, "random": Random}
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


def build(
    *, kind: str, vocabulary: Mapping[str, Any] | None = None, **arguments: Any
) -> CausalModel | Baseline:
    """The network or baseline that `arguments_of` told of, for its state dict to be loaded into.

    Its weights are random, but for a base whose adapters alone were stored.

    Raises:
        CheckpointError: The base of adapters is not what it was.
        ConfigError: The arguments are of no known kind of network.
        DataError: The base of adapters is gone.
        MissingExtraError: A language model needs the extra `music`.
    """
    if kind in BASELINES:
        return BASELINES[kind](**arguments)
    if vocabulary is None:
        raise ConfigError(f"a network of the kind {kind!r}: expected its vocabulary as well.")
    if kind == "decoder":
        return Decoder(_read_vocabulary(vocabulary), **arguments)
    if kind != "language model":
        raise ConfigError(f"a network of the kind {kind!r}: expected a decoder or language model.")
    require("transformers", "music", "A language model")
    origin = Origin(**arguments["origin"]) if arguments["origin"] else None
    lora = Lora(**arguments["lora"]) if arguments["lora"] else None
    if "config" not in arguments:
        assert origin is not None  # adapters of a base without one are stored with it
        _find_again(origin)
        kept = {name: vocabulary[name] for name in ("alphabet", "restrict", "kept")}
        with from_elsewhere():
            model = load_language_model(origin.source, **kept)
    else:
        from transformers import CONFIG_MAPPING

        kinds: Any = CONFIG_MAPPING
        config = kinds[arguments["config"]["model_type"]].from_dict(dict(arguments["config"]))
        network = random_network(config, seed=0, dtype=getattr(torch, arguments["dtype"]))
        model = LanguageModel(network, _read_vocabulary(vocabulary), origin)
    if lora is not None:
        model.add_lora(lora)
    return model.eval()


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
        base, state = _find_again(model.origin), network.state_dict()
        network, tokenizer = read_network(base), read_tokenizer(base)
        target = network.state_dict()
        for name, weight in state.items():  # of tables of tokens, the kept rows
            same = target[name].shape == weight.shape
            target[name][slice(None) if same else model.vocabulary.kept] = weight
    with new_folder(Path(path)) as temporary, reading(path):
        network.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


def _find_again(origin: Origin) -> Path:
    """The folder of the model that weights came from, if it is what it was."""
    folder = find_model(origin.source)
    if folder.origin.sha256 != origin.sha256:
        raise CheckpointError(
            f"{origin.source}: has changed since it was trained on (SHA-256 "
            f"{folder.origin.sha256[:16]}…, expected {origin.sha256[:16]}…). Put the model back "
            f"that it was."
        )
    return folder.path


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

    rules = zlib.decompress(base64.b64decode(stored["rules"])).decode()
    table = tokenizers.Tokenizer.from_str(rules)
    special = {name: stored[name] for name in _SPECIAL if name in stored}
    return from_config(config, PreTrainedTokenizerFast(tokenizer_object=table, **special))


def example(network: nn.Module) -> tuple[Tensor]:
    """Some tokens, `(2, 12)`."""
    assert isinstance(network, CausalModel)
    return (torch.arange(24).reshape(2, 12) % network.vocabulary.size,)
