"""The networks of the paper by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, TypedDict

from typing_extensions import Unpack

from modicum.methods.tinymim.networks.vit import Pooling, Size, VisionTransformer


class Parts(TypedDict, total=False):
    """What all builders take beside their shape; see `VisionTransformer`."""

    last_heads: int | None
    mlp_ratio: float
    image_size: Size
    patch: int
    channels: int
    drop_path: float | Sequence[float]
    train_positions: bool
    num_classes: int | None
    pooling: Pooling
    eps: float


def vit_tiny(
    *, width: int = 192, depth: int = 12, heads: int = 3, **parts: Unpack[Parts]
) -> VisionTransformer:
    """ViT-T/16: 5,524,416 parameters without classes, 5,717,416 with 1000.

    The authors pre-train it with 6 heads, and fine-tune it with DeiT's 3; its weights fit both.
    """
    return VisionTransformer(width, depth, heads, **parts)


def vit_small(
    *, width: int = 384, depth: int = 12, heads: int = 6, **parts: Unpack[Parts]
) -> VisionTransformer:
    """ViT-S/16: 21,665,664 parameters without classes, 22,050,664 with 1000."""
    return VisionTransformer(width, depth, heads, **parts)


def vit_base(
    *, width: int = 768, depth: int = 12, heads: int = 12, **parts: Unpack[Parts]
) -> VisionTransformer:
    """ViT-B/16: 85,798,656 parameters without classes, 86,567,656 with 1000."""
    return VisionTransformer(width, depth, heads, **parts)


def vit_large(
    *, width: int = 1024, depth: int = 24, heads: int = 16, **parts: Unpack[Parts]
) -> VisionTransformer:
    """ViT-L/16: 303,301,632 parameters without classes."""
    return VisionTransformer(width, depth, heads, **parts)


def vit_tiny_star(
    *,
    width: int = 192,
    depth: int = 12,
    heads: int = 12,
    feature_width: int = 1280,
    **parts: Unpack[Parts],
) -> VisionTransformer:
    """TinyMIM*-T: 12 heads, a distillation token, and a layer of 1280 before the classifiers.

    5,771,840 parameters without classes. Layer and token are those of the authors' segmentation
    code and of the names in their checkpoint; that they were fine-tuned with DeiT's hard
    distillation is inferred.
    """
    return VisionTransformer(
        width, depth, heads, distillation_token=True, feature_width=feature_width, **parts
    )


Model: TypeAlias = Literal["tiny", "small", "base", "large", "tiny-star"]
"""Names of the builders."""
BUILDERS: dict[Model, Callable[..., VisionTransformer]] = {
    "tiny": vit_tiny,
    "small": vit_small,
    "base": vit_base,
    "large": vit_large,
    "tiny-star": vit_tiny_star,
}
