"""Causal models: what all of them can do, and the compact decoder that is trained from scratch.

The decoder follows the conventions of LlamaForCausalLM: RMSNorm before each part, rotary positions,
grouped key and value heads, a SwiGLU MLP, no biases, and an output matrix that is the embedding's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from modicum.errors import ConfigError
from modicum.methods.drum_transfer.models.vocabulary import Vocabulary
from modicum.options import Ge, Interval

_ROOM = 128
"""Tokens by which rooms for keys and values grow."""


class CausalModel(nn.Module, ABC):
    """A network that gives the next token's logits at every place of a text, whatever is behind it.

    Args:
        vocabulary: What the ids stand for.
        context: The most tokens it can see at once.
    """

    def __init__(self, vocabulary: Vocabulary, context: int) -> None:
        super().__init__()
        self.vocabulary, self.context, self.checkpointing = vocabulary, context, False

    @abstractmethod
    def new_cache(self) -> Any:
        """An empty cache of keys and values, which `forward` fills in place."""

    @abstractmethod
    def keep_rows(self, cache: Any, rows: Tensor) -> None:
        """Keep rows `(k,)`, int64, of the batch in a cache, in this order; in place."""

    @abstractmethod
    def forward(
        self,
        ids: Tensor,
        *,
        present: Tensor | None = None,
        cache: Any = None,
        last_only: bool = False,
    ) -> Tensor:
        """Logits of the token that follows each place.

        Args:
            ids: `(B, T)`, int64. Where nothing is present any id will do. Padding on the right
                needs no `present`: nothing before it sees it.
            present: `(B, S)`, bool, S = tokens in the cache + T: which places hold a token. None:
                all. Positions are counted over these alone, so a row padded on the left gives what
                it gives by itself.
            cache: Of `new_cache`. The tokens are seen after those in it, and are added to it.
            last_only: Give the logits of the last place only, T = 1: cheaper for a long prompt and
                a large vocabulary.

        Returns:
            `(B, T, V)`, float32. V is `vocabulary.size`.

        Raises:
            ConfigError: More tokens than the model can see.
        """

    def use_gradient_checkpointing(self) -> None:
        """Compute activations again in the backward pass: less memory, about a third more time."""
        self.checkpointing = True

    def cast(self, dtype: torch.dtype) -> None:
        """Change the weights' type, but, other than `to`, not that of tables of frequencies."""
        for weight in self.parameters():
            weight.data = weight.data.to(dtype)

    def check_length(self, tokens: int, what: str = "the text") -> None:
        """Raise a `ConfigError` if `tokens` are more than the context."""
        if tokens > self.context:
            raise ConfigError(
                f"{what}: {tokens:,} tokens, but the model sees at most {self.context:,}. Use "
                f"fewer bars, or a model with a longer context."
            )


def count_positions(present: Tensor) -> Tensor:
    """The position of each token among those present, `(B, S)`, int64; 0 before the first one."""
    return (present.long().cumsum(1) - 1).clamp(min=0)


class Decoder(CausalModel):
    """A small decoder-only Transformer, by default of 4.9 million parameters.

    Its size is inferred: the paper names a Transformer trained from scratch and does not give
    any. All heads share keys and values (multi-query attention, Shazeer 2019), for which the MLP is
    larger: to write grooves in a batch is above all to read their keys. Weights are drawn from
    PyTorch's global generator: normal, deviation 0.02, as in Llama.

    Args:
        vocabulary: What the ids stand for.
        width: Features of a token, divided among the heads.
        layers: Blocks of attention and MLP.
        heads: Heads of queries.
        key_value_heads: Heads of keys and values, each shared by several heads of queries.
        mlp: Inner features of the MLP.
        dropout: Share of features dropped after the embedding and each part.
        context: The most tokens it can see; 16 bars of 5/4 have 2,319 characters. It has no table
            of positions, so this is a promise of what it was trained for, not a size.
        rope_base: Base of the wave lengths of rotary positions.
        epsilon: What RMSNorm adds.

    Raises:
        ConfigError: Heads do not divide.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        width: Annotated[int, Ge(1)] = 256,
        layers: Annotated[int, Ge(1)] = 6,
        heads: Annotated[int, Ge(1)] = 8,
        key_value_heads: Annotated[int, Ge(1)] = 1,
        mlp: Annotated[int, Ge(1)] = 864,
        dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.1,
        context: Annotated[int, Ge(1)] = 4096,
        rope_base: Annotated[float, Interval(gt=0, lt=1e30)] = 10_000.0,
        epsilon: Annotated[float, Interval(ge=0, lt=1)] = 1e-5,
    ) -> None:
        super().__init__(vocabulary, context)
        if width % (2 * heads) or heads % key_value_heads:
            raise ConfigError(
                f"a decoder of width {width}, {heads} heads and {key_value_heads} key and value "
                f"heads: expected a width that is an even multiple of the heads, and heads that "
                f"are a multiple of the key and value heads."
            )
        self.shape = {
            "width": width, "layers": layers, "heads": heads, "key_value_heads": key_value_heads,
            "mlp": mlp, "dropout": dropout, "context": context, "rope_base": rope_base,
            "epsilon": epsilon,
        }  # fmt: skip
        self.embedding = nn.Embedding(vocabulary.size, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            _Block(width, heads, key_value_heads, mlp, dropout, epsilon) for _ in range(layers)
        )
        self.norm = nn.RMSNorm(width, epsilon)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def new_cache(self) -> list[KeysAndValues]:
        """An empty cache of every layer. It is for use without gradients."""
        return [KeysAndValues() for _ in self.blocks]

    def keep_rows(self, cache: list[KeysAndValues], rows: Tensor) -> None:
        """See `CausalModel.keep_rows`."""
        for layer in cache:
            layer.keep_rows(rows)

    def forward(
        self,
        ids: Tensor,
        *,
        present: Tensor | None = None,
        cache: list[KeysAndValues] | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Logits `(B, T, V)` of the token after each of `(B, T)`; see `CausalModel.forward`."""
        seen = cache[0].length if cache else 0
        total = seen + ids.shape[1]
        self.check_length(total)
        if present is None:
            positions = torch.arange(seen, total, device=ids.device)[None]
        else:
            positions = count_positions(present)[:, seen:]
        # Not a buffer: a network cast to bfloat16 would take its angles along, and they are too
        # coarse there.
        size = int(self.shape["width"]) // int(self.shape["heads"])
        powers = torch.arange(0, size, 2, device=ids.device, dtype=torch.float32) / size
        angles = positions[:, None, :, None] * self.shape["rope_base"] ** -powers
        rotation = angles.cos(), angles.sin()
        mask = _mask(present, seen, total, ids.device)
        hidden = self.dropout(self.embedding(ids))
        for block, layer in zip(self.blocks, cache or [None] * len(self.blocks), strict=True):
            if self.checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(block, hidden, rotation, mask, use_reentrant=False)
            else:
                hidden = block(hidden, rotation, mask, layer)
        if last_only:
            hidden = hidden[:, -1:]
        return functional.linear(self.norm(hidden), self.embedding.weight).float()


class KeysAndValues:
    """Keys and values of the tokens that a layer has seen, in rooms that grow in large steps."""

    def __init__(self) -> None:
        self.length = 0
        """Tokens seen."""
        self._rooms: list[Tensor] = []

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add those of new tokens, `(B, heads, T, features)`, and give those of all tokens."""
        start, self.length = self.length, self.length + keys.shape[2]
        if not self._rooms or self.length > self._rooms[0].shape[2]:
            size = -(-self.length // _ROOM) * _ROOM
            larger = [new.new_zeros(*new.shape[:2], size, new.shape[3]) for new in (keys, values)]
            for room, before in zip(larger, self._rooms, strict=False):
                room[:, :, :start] = before[:, :, :start]
            self._rooms = larger
        for room, new in zip(self._rooms, (keys, values), strict=True):
            room[:, :, start : self.length] = new
        return self.all_tokens()

    def all_tokens(self) -> tuple[Tensor, Tensor]:
        """Keys and values, `(B, heads, length, features)`; what lies behind them is finite."""
        keys, values = (room[:, :, : self.length] for room in self._rooms)
        return keys, values

    def keep_rows(self, rows: Tensor) -> None:
        """Keep some rows `(k,)`, int64, of the batch."""
        self._rooms = [room[rows] for room in self._rooms]


class _Block(nn.Module):
    """Attention and MLP, each on normalised features and added to them."""

    def __init__(
        self, width: int, heads: int, key_value_heads: int, mlp: int, dropout: float, epsilon: float
    ) -> None:
        super().__init__()
        self.heads = (heads, key_value_heads, key_value_heads)
        self.attention_norm = nn.RMSNorm(width, epsilon)
        self.query_key_value = nn.Linear(width, width // heads * sum(self.heads), bias=False)
        self.attention_output = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.RMSNorm(width, epsilon)
        self.gate_and_up = nn.Linear(width, 2 * mlp, bias=False)
        self.down = nn.Linear(mlp, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        hidden: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask: Tensor | None,
        seen: KeysAndValues | None = None,
    ) -> Tensor:
        """One layer, of `(B, T, width)`.

        Queries and keys are turned by `rotation`, cosine and sine, each `(B or 1, 1, T, features /
        2)`. The mask is that of `_mask`.
        """
        rows, tokens, width = hidden.shape
        mixed = self.query_key_value(self.attention_norm(hidden))
        heads = mixed.view(rows, tokens, sum(self.heads), -1).transpose(1, 2)
        query, key, value = heads.split(self.heads, dim=1)
        query, key = _rotate(query, rotation), _rotate(key, rotation)
        if seen is not None:
            key, value = seen.extend(key, value)
        if tokens == 1:
            # All heads that share keys at once, as if they were tokens: the keys, which are most of
            # the work of writing, are read once.
            query = query.reshape(rows, self.heads[1], -1, query.shape[-1])
        causal, shared = mask is None and tokens > 1, query.shape[1] != key.shape[1]
        attended = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal, enable_gqa=shared
        )
        attended = attended.reshape(rows, self.heads[0], tokens, -1).transpose(1, 2)
        attended = attended.reshape(rows, tokens, width)
        hidden = hidden + self.dropout(self.attention_output(attended))
        gate, up = self.gate_and_up(self.mlp_norm(hidden)).chunk(2, dim=-1)
        return hidden + self.dropout(self.down(functional.silu(gate) * up))


def _mask(present: Tensor | None, seen: int, total: int, device: torch.device) -> Tensor | None:
    """Who sees whom, `(B or 1, 1, T, S)`; None where being causal says it all."""
    if present is None and (seen == 0 or total == seen + 1):
        return None
    places = torch.arange(total, device=device)
    own = places[seen:, None]
    mask = (places <= own)[None, None]
    if present is not None:
        # Padding sees itself: the soft-max of a row that sees nothing is not a number.
        mask = mask & (present[:, None, None] | (places == own))
    return mask


def _rotate(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn features i and i + half by the position's angles, as Llama pairs them."""
    half = heads.shape[-1] // 2
    first, second = heads.float().split(half, dim=-1)
    cosine, sine = rotation
    turned = (first * cosine - second * sine, second * cosine + first * sine)
    return torch.cat(turned, dim=-1).to(heads.dtype)
