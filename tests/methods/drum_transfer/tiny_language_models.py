"""Folders of tiny language models with random weights, of the families that matter."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

LINES = ("--o-o-\n", "---o--\n", "------\n", "oo-o--\n", "--o---\n", "o--oo-\n")
PROMPT = "".join(LINES[place * place % 5] for place in range(16)) + "SEP\n"
COMPLETION = "".join(LINES[place * place % 6] for place in range(16)) + "END"


def parameter_counts(model: torch.nn.Module) -> tuple[int, int]:
    """Numbers in all parameters, and in those that are trained."""
    sizes = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}
_GROUPED = {**_SHAPE, "num_key_value_heads": 2}
FAMILIES = {
    "llama": lambda **o: transformers.LlamaConfig(**_GROUPED, tie_word_embeddings=True, **o),
    "qwen2": lambda **o: transformers.Qwen2Config(**_GROUPED, tie_word_embeddings=False, **o),
    "gemma2": lambda **o: transformers.Gemma2Config(
        **_GROUPED, head_dim=8, sliding_window=64, final_logit_softcapping=2.0, **o
    ),
    "gpt_neox": lambda **o: transformers.GPTNeoXConfig(**_SHAPE, **o),
    "gpt2": lambda **o: transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.3, **o
    ),
}


@cache
def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Byte-level BPE with some merges of drum text, as SmolLM2 has."""
    rules = Tokenizer(models.BPE())
    rules.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rules.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<start>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rules.train_from_iterator([PROMPT, COMPLETION, "other words ooze --> on and on"], trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=rules, bos_token="<start>", eos_token="<end>", pad_token="<end>"
    )


def write_model(folder: Path, family: str = "llama", seed: int = 0) -> Path:
    """Write a model of a family, with 300 rows and a tokenizer of fewer ids."""
    config = FAMILIES[family](
        vocab_size=300, bos_token_id=0, eos_token_id=1, pad_token_id=1, architectures=None
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = transformers.AutoModelForCausalLM.from_config(config)
    network.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
