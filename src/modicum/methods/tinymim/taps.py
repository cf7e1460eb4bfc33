"""What a layer of any vision transformer makes of images: queries, keys, values, branches.

Of this room's networks only what is asked for is computed: nothing after the queries, keys and
values of the layer, if relations alone are compared. Others are looked into by hooks, and stopped
as early by an exception.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from modicum.errors import ConfigError
from modicum.methods.tinymim.networks.vit import QueryKeyValue, VisionTransformer


@dataclass
class Layer:
    """What a layer of a network made of images."""

    qkv: QueryKeyValue
    """`(B, heads, N, d)` each."""
    attention: Tensor | None = None
    """What its attention adds to the tokens, `(B, N, width)`."""
    mlp: Tensor | None = None
    """What its MLP adds to the tokens, alike."""
    block: Tensor | None = None
    """The tokens after it, alike."""


Tap: TypeAlias = Callable[[Tensor, "Tensor | None"], Layer]
"""From images `(B, channels, H, W)`, and perhaps the patches that are seen, to a layer."""


def tap(network: nn.Module, layer: int, *, whole: bool = False) -> Tap:
    """A way to look at one layer of a network.

    Args:
        network: This room's; a module with `blocks`, each with `attn.qkv` and `attn.num_heads`, as
            timm has them; or a ViTMAE model of Transformers.
        layer: Counted from 1.
        whole: Compute the branches and tokens of the layer, too.

    Raises:
        ConfigError: The network is none of these, or has no such layer.
    """
    if isinstance(network, VisionTransformer):
        _check(layer, len(network.blocks), network)
        return lambda images, keep: _own(network, layer, images, keep, whole=whole)
    blocks = getattr(network, "blocks", None)
    if blocks is not None:
        _check(layer, len(blocks), network)
        block = blocks[layer - 1]
        attention = getattr(block, "attn", None)
        if isinstance(getattr(attention, "qkv", None), nn.Module):
            parts = {"attention": attention, "mlp": getattr(block, "mlp", None), "block": block}
            return _Hooked(network, _Joint(attention), parts if whole else {}, network)
    mae = getattr(network, "vit", network)
    layers = getattr(getattr(mae, "encoder", mae), "layer", getattr(mae, "layers", None))
    if layers is not None and hasattr(getattr(mae, "embeddings", None), "random_masking"):
        _check(layer, len(layers), network)
        block = layers[layer - 1]
        return _Hooked(mae, _Apart(block), {"block": block} if whole else {}, _unshuffled(mae))
    raise ConfigError(
        f"a {type(network).__name__} cannot be looked into. Expected a network of "
        f"modicum.methods.tinymim, a module with blocks[i].attn.qkv and blocks[i].attn.num_heads, "
        f"or a ViTMAEModel of Transformers."
    )


def _check(layer: int, depth: int, network: nn.Module) -> None:
    if not 1 <= layer <= depth:
        raise ConfigError(
            f"layer {layer}: the {type(network).__name__} has layers 1 to {depth}. Choose one of "
            f"them."
        )


def _own(
    network: VisionTransformer, number: int, images: Tensor, keep: Tensor | None, *, whole: bool
) -> Layer:
    x = network.embed(images, keep)
    for block in list(network.blocks)[: number - 1]:
        x = block(x)
    block: Any = network.blocks[number - 1]
    normalised = block.norm1(x)
    layer = Layer(block.attn.split(normalised))
    if whole:
        layer.attention = block.attn(normalised)
        x = x + block.drop_path(layer.attention)
        layer.mlp = block.mlp(block.norm2(x))
        layer.block = x + block.drop_path(layer.mlp)
    return layer


class _EnoughError(Exception):
    """What was asked for is there."""


class _Joint:
    """Queries, keys and values of one linear layer, as timm has them."""

    def __init__(self, attention: Any) -> None:
        self.attention = attention
        self.modules: list[nn.Module] = [attention.qkv]

    def __call__(self, outputs: list[Tensor]) -> QueryKeyValue:
        heads = self.attention.num_heads
        q, k, v = outputs[0].unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        norms = (getattr(self.attention, name, None) for name in ("q_norm", "k_norm"))
        q, k = (x if norm is None else norm(x) for x, norm in zip((q, k), norms, strict=True))
        return QueryKeyValue(q, k, v)


class _Apart:
    """Queries, keys and values of three linear layers, as Transformers has them."""

    def __init__(self, block: Any) -> None:
        attention: Any = block.attention
        self.attention = getattr(attention, "attention", attention)  # until 5.5 it is one deeper
        names = ("query", "key", "value")
        if not hasattr(self.attention, "query"):
            names = ("q_proj", "k_proj", "v_proj")
        self.modules: list[nn.Module] = [getattr(self.attention, name) for name in names]
        heads = getattr(self.attention, "num_attention_heads", None)
        self.heads: int = heads or self.attention.config.num_attention_heads

    def __call__(self, outputs: list[Tensor]) -> QueryKeyValue:
        parts = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in outputs)
        return QueryKeyValue(*parts)


def _unshuffled(mae: nn.Module) -> Callable[[Tensor], Any]:
    """ViTMAE shuffles patches, even where it masks none, unless its noise is in order."""
    config: Any = mae.config

    def forward(images: Tensor) -> Any:
        ratio, config.mask_ratio = config.mask_ratio, 0.0
        patches = images.shape[2] * images.shape[3] // config.patch_size**2
        noise = torch.arange(patches, device=images.device, dtype=torch.float32)
        try:
            return mae(images, noise=noise.expand(len(images), -1))
        finally:
            config.mask_ratio = ratio

    return forward


class _Hooked:
    """A layer of a foreign network, seen by hooks."""

    def __init__(
        self,
        network: nn.Module,
        split: _Joint | _Apart,
        parts: dict[str, nn.Module | None],
        forward: Callable[[Tensor], Any],
    ) -> None:
        self.network, self.split, self.forward = network, split, forward
        self.parts = {name: part for name, part in parts.items() if part is not None}

    def __call__(self, images: Tensor, keep: Tensor | None) -> Layer:
        if keep is not None:
            raise ConfigError(
                f"a {type(self.network).__name__} cannot be shown some patches only; mask the "
                f"student alone."
            )
        modules = [*self.split.modules, *self.parts.values()]
        outputs: list[Tensor | None] = [None] * len(modules)
        with self._hooks(modules, outputs), contextlib.suppress(_EnoughError):
            self.forward(images)
        if any(output is None for output in outputs):
            raise ConfigError(
                f"the {type(self.network).__name__} does not pass through the layer that is "
                f"looked at."
            )
        seen: list[Any] = outputs
        count = len(self.split.modules)
        return Layer(self.split(seen[:count]), **dict(zip(self.parts, seen[count:], strict=True)))

    @contextlib.contextmanager
    def _hooks(
        self, modules: list[nn.Module], outputs: list[Tensor | None]
    ) -> Generator[None, None, None]:
        def hook(place: int) -> Callable[[nn.Module, Any, Any], None]:
            def keep(module: nn.Module, inputs: Any, output: Any) -> None:
                outputs[place] = output[0] if isinstance(output, tuple) else output
                if all(found is not None for found in outputs):
                    raise _EnoughError

            return keep

        handles = [m.register_forward_hook(hook(place)) for place, m in enumerate(modules)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
