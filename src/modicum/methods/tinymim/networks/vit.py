"""Plain vision transformers, with the parts that MAE, TinyMIM and segmentation change.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, as MAE builds it (He et al., "Masked
Autoencoders Are Scalable Vision Learners", CVPR 2022): sine-cosine position embeddings, blocks that
normalise first, LayerNorm with eps 1e-6. Parameters have MAE's names and order, so that its files,
and TinyMIM's, load strictly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from modicum.vision.layers import DropPath, Mlp

EPS = 1e-6
"""Of LayerNorms, as MAE has it."""

Pooling: TypeAlias = Literal["mean", "cls"]
"""What the classifier sees: the mean of the patch tokens, normalised by `fc_norm`; or the CLS token
of those normalised by `norm`."""
Size: TypeAlias = int | tuple[int, int]
"""Of images and patches in pixels: (height, width), or the side of a square."""


class QueryKeyValue(NamedTuple):
    """What attention makes of tokens, each `(B, heads, N, width / heads)`."""

    q: Tensor
    k: Tensor
    v: Tensor


class Attention(nn.Module):
    """Self-attention of several heads. Queries, keys and values have a bias.

    Args:
        width: Of the tokens.
        heads: They divide the width.
        window: (rows, columns) of patches, for a learned bias of the logits by head and offset
            between patches, zero at first (`relative_position_index`); none: no such bias.
        extra_tokens: Tokens before the patches; they matter to that bias alone.
    """

    relative_position_index: Tensor | None

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        window: tuple[int, int] | None = None,
        extra_tokens: int = 1,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} cannot be divided among {heads} heads.")
        self.num_heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.relative_position_bias_table: nn.Parameter | None = None
        index = None
        if window is not None:
            index = relative_position_index(window, extra_tokens)
            offsets = (2 * window[0] - 1) * (2 * window[1] - 1)
            table = torch.zeros(offsets + 3 * extra_tokens, heads)
            self.relative_position_bias_table = nn.Parameter(table)
        self.register_buffer("relative_position_index", index)

    def split(self, x: Tensor) -> QueryKeyValue:
        """Queries, keys and values of tokens `(B, N, width)`."""
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, -1))
        return QueryKeyValue(*qkv.permute(2, 0, 3, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, N, width)` to the same shape."""
        bias = None
        if self.relative_position_bias_table is not None:
            bias = self.relative_position_bias_table[self.relative_position_index]
            bias = bias.permute(2, 0, 1).to(x.dtype)
        mixed = functional.scaled_dot_product_attention(*self.split(x), attn_mask=bias)
        return self.proj(mixed.transpose(1, 2).flatten(2))


def relative_position_index(window: tuple[int, int], extra_tokens: int = 1) -> Tensor:
    """Which entry of a table of biases belongs to a pair of tokens: int64 `(N, N)`.

    The offsets of patches come first, `(2 rows - 1)(2 columns - 1)` of them (Liu et al., "Swin
    Transformer", ICCV 2021), then three entries for each token that is no patch: for its looking at
    patches, for patches' looking at it, and for its looking at such tokens (BEiT).
    """
    rows, columns = window
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    y, x = y.flatten(), x.flatten()
    down, right = y[:, None] - y + rows - 1, x[:, None] - x + columns - 1
    offsets, tokens = (2 * rows - 1) * (2 * columns - 1), rows * columns + extra_tokens
    index = torch.empty(tokens, tokens, dtype=torch.int64)
    index[extra_tokens:, extra_tokens:] = down * (2 * columns - 1) + right
    for token in range(extra_tokens):
        entries = offsets + 3 * token + torch.arange(3)
        index[token, extra_tokens:], index[extra_tokens:, token] = entries[0], entries[1]
        index[token, :extra_tokens] = entries[2]
    return index


class Block(nn.Module):
    """Attention and an MLP, each normalised before, added to what came in, perhaps dropped.

    Args:
        width: Of the tokens.
        heads: Of the attention.
        mlp_ratio: Hidden width of the MLP by that of the tokens.
        drop_path: Probability that a branch is dropped for a sample.
        layer_scale: Factors of each channel of both branches, learned, 1 at first.
        window: Of the attention, see there.
        extra_tokens: Of the attention.
        eps: Of the LayerNorms.
    """

    gamma_1: nn.Parameter | None
    gamma_2: nn.Parameter | None

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        layer_scale: bool = False,
        window: tuple[int, int] | None = None,
        extra_tokens: int = 1,
        eps: float = EPS,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads, window=window, extra_tokens=extra_tokens)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        for name in ("gamma_1", "gamma_2"):
            self.register_parameter(name, nn.Parameter(torch.ones(width)) if layer_scale else None)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, N, width)` to the same shape."""
        x = x + self.drop_path(self._scaled(self.attn(self.norm1(x)), self.gamma_1))
        return x + self.drop_path(self._scaled(self.mlp(self.norm2(x)), self.gamma_2))

    @staticmethod
    def _scaled(branch: Tensor, gamma: Tensor | None) -> Tensor:
        return branch if gamma is None else branch * gamma


class PatchEmbed(nn.Module):
    """A token for each patch, by a convolution whose stride is its size.

    Args:
        size: Of images, (height, width).
        patch: Side of a patch in pixels.
        width: Of the tokens.
        channels: Of images.
    """

    def __init__(self, size: tuple[int, int], patch: int, width: int, channels: int) -> None:
        super().__init__()
        self.size, self.patch = size, patch
        self.proj = nn.Conv2d(channels, width, patch, patch)

    def forward(self, images: Tensor) -> Tensor:
        """`(B, channels, H, W)` to `(B, H W / patch^2, width)`, row by row."""
        if (found := tuple(images.shape[2:])) != self.size:
            raise ValueError(f"images of {found} pixels; the network takes {self.size}.")
        return self.proj(images).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """A plain vision transformer: an encoder, and a classifier if it has classes.

    Args:
        width: Of the tokens, divisible by 4 and by the heads.
        depth: Blocks.
        heads: Of every block but perhaps the last.
        last_heads: Of the last block; none: as the others. TinyMIM distils into a block with as
            many heads as the teacher has; its weights have the same shapes for any number.
        mlp_ratio: Hidden width of MLPs by that of the tokens.
        image_size: In pixels.
        patch: Side of a patch in pixels; it divides the image's sides.
        channels: Of images.
        drop_path: Probability that a branch of a block is dropped for a sample: of each block, or
            of the last, from 0 in the first on in equal steps.
        train_positions: Whether position embeddings are trained.
        relative_positions: A learned bias of attention in every block, see `Attention`.
        layer_scale: Of every block, see there.
        distillation_token: A second token beside CLS, as DeiT and TinyMIM*-T have it.
        feature_width: Width of a LayerNorm, linear layer and GELU before the classifiers, in place
            of the final LayerNorm; none: no such layer. TinyMIM*-T has 1280.
        num_classes: Classes; none: no classifier.
        pooling: What the classifier sees.
        eps: Of the LayerNorms.

    Raises:
        ValueError: A size does not go with another.
    """

    dist_token: nn.Parameter | None

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        last_heads: int | None = None,
        mlp_ratio: float = 4.0,
        image_size: Size = 224,
        patch: int = 16,
        channels: int = 3,
        drop_path: float | Sequence[float] = 0.0,
        train_positions: bool = False,
        relative_positions: bool = False,
        layer_scale: bool = False,
        distillation_token: bool = False,
        feature_width: int | None = None,
        num_classes: int | None = None,
        pooling: Pooling = "mean",
        eps: float = EPS,
    ) -> None:
        super().__init__()
        sides = (image_size, image_size) if isinstance(image_size, int) else image_size
        size = (sides[0], sides[1])  # JSON has it as a list
        self.arguments: dict[str, Any] = {
            "width": width, "depth": depth, "heads": heads, "last_heads": last_heads,
            "mlp_ratio": mlp_ratio, "image_size": list(size), "patch": patch, "channels": channels,
            "relative_positions": relative_positions, "layer_scale": layer_scale,
            "distillation_token": distillation_token, "feature_width": feature_width,
            "num_classes": num_classes, "pooling": pooling, "eps": eps,
        }  # fmt: skip
        if size[0] % patch or size[1] % patch:
            raise ValueError(f"images of {size} pixels cannot be cut into patches of {patch}.")
        self.grid = (size[0] // patch, size[1] // patch)
        self.pooling: Pooling = pooling
        self.extra_tokens = 1 + distillation_token
        rates = drop_path if isinstance(drop_path, Sequence) else ramp(drop_path, depth)
        if len(rates) != depth:
            raise ValueError(f"{len(rates)} probabilities drop_path for {depth} blocks.")

        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        token = nn.Parameter(torch.zeros(1, 1, width)) if distillation_token else None
        self.register_parameter("dist_token", token)
        positions = sine_cosine_positions(width, self.grid, self.extra_tokens)
        self.pos_embed = nn.Parameter(positions[None], requires_grad=train_positions)
        self.patch_embed = PatchEmbed(size, patch, width, channels)
        self.blocks = nn.Sequential(*(
            Block(width, (number == depth - 1 and last_heads) or heads, mlp_ratio=mlp_ratio,
                  drop_path=rate, eps=eps, layer_scale=layer_scale, extra_tokens=self.extra_tokens,
                window=self.grid if relative_positions else None)
            for number, rate in enumerate(rates)
        ))  # fmt: skip
        self.norm, self.fc_norm, self.conv1x1 = (nn.Identity() for _ in range(3))
        seen = width
        if feature_width is not None:
            seen = feature_width
            self.conv1x1 = nn.Sequential(
                nn.LayerNorm(width, eps=eps), nn.Linear(width, feature_width), nn.GELU()
            )
        elif num_classes is not None and pooling == "mean":
            self.fc_norm = nn.LayerNorm(width, eps=eps)
        else:
            self.norm = nn.LayerNorm(width, eps=eps)
        self.head, self.head_dist = nn.Identity(), nn.Identity()
        if num_classes is not None:
            self.head = nn.Linear(seen, num_classes)
            if distillation_token:
                self.head_dist = nn.Linear(seen, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        kernel = self.patch_embed.proj.weight
        nn.init.xavier_uniform_(kernel.view(len(kernel), -1))
        nn.init.normal_(self.cls_token, std=0.02)
        if self.dist_token is not None:
            nn.init.normal_(self.dist_token, std=0.02)
        for head in (self.head, self.head_dist):
            if isinstance(head, nn.Linear):
                nn.init.trunc_normal_(head.weight, std=2e-5)

    def embed(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Tokens before the first block, CLS first: `(B, N, width)`.

        Args:
            images: `(B, channels, H, W)`, normalised.
            keep: Numbers of the patches that are seen, int64 `(B, kept)`, row by row from 0; none:
                all of them.
        """
        patches = self.patch_embed(images) + self.pos_embed[:, self.extra_tokens :]
        if keep is not None:
            patches = patches.gather(1, keep[:, :, None].expand(-1, -1, patches.shape[2]))
        extra: list[Tensor] = [self.cls_token]
        if self.dist_token is not None:
            extra.append(self.dist_token)
        first = torch.cat(extra, dim=1) + self.pos_embed[:, : self.extra_tokens]
        return torch.cat([first.expand(images.shape[0], -1, -1), patches], dim=1)

    def tokens(self, images: Tensor) -> Tensor:
        """Tokens after the last block, not normalised: `(B, N, width)`."""
        return self.blocks(self.embed(images))

    def _pooled(self, tokens: Tensor) -> Tensor:
        """Features of each classifier, `(B, classifiers, width)`."""
        if not isinstance(self.conv1x1, nn.Identity):
            return self.conv1x1(tokens[:, : self.extra_tokens])
        if self.pooling == "mean":
            return self.fc_norm(tokens[:, self.extra_tokens :].mean(1, keepdim=True))
        return self.norm(tokens[:, : self.extra_tokens])

    def forward(self, images: Tensor) -> Tensor:
        """Class scores `(B, num_classes)`, of two classifiers the mean; without classes, tokens
        normalised by `norm`, `(B, N, width)`. Images are `(B, channels, H, W)`, normalised.
        """
        tokens = self.tokens(images)
        if self.arguments["num_classes"] is None:
            return self.norm(tokens)
        seen = self._pooled(tokens)
        scores = [self.head(seen[:, 0])]
        if self.dist_token is not None and seen.shape[1] > 1:
            scores.append(self.head_dist(seen[:, 1]))
        return torch.stack(scores).mean(0)


def ramp(last: float, depth: int) -> list[float]:
    """Probabilities from 0 to `last` in equal steps, one for each block."""
    return [last * number / max(1, depth - 1) for number in range(depth)]


def sine_cosine_positions(width: int, grid: tuple[int, int], extra_tokens: int = 1) -> Tensor:
    """Fixed position embeddings of patches, row by row, `(extra_tokens + rows * columns, width)`.

    A quarter of the width each: sine and cosine of the column, sine and cosine of the row, with
    frequencies `10000^(-k / (width / 4))`. Rows of tokens that are no patches are zero.

    Raises:
        ValueError: 4 does not divide the width.
    """
    if width % 4:
        raise ValueError(f"a width of {width} cannot be divided by 4, as position embeddings need.")
    frequencies = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    y, x = torch.meshgrid(
        *(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij"
    )
    angles = [place.flatten()[:, None] * frequencies for place in (x, y)]
    patches = torch.cat([part for a in angles for part in (a.sin(), a.cos())], dim=1)
    return torch.cat([patches.new_zeros(extra_tokens, width), patches]).float()


def resized_positions(
    positions: Tensor, grid: tuple[int, int], new: tuple[int, int], extra_tokens: int = 1
) -> Tensor:
    """Position embeddings for another number of patches, by bicubic interpolation.

    Args:
        positions: `(1, extra_tokens + rows * columns, width)`.
        grid: (rows, columns) they are for.
        new: (rows, columns) they are to be for.
        extra_tokens: Tokens before the patches; theirs stay.
    """
    if grid == new:
        return positions
    extra, patches = positions[:, :extra_tokens], positions[:, extra_tokens:]
    table = patches.unflatten(1, grid).permute(0, 3, 1, 2)
    table = functional.interpolate(table, size=new, mode="bicubic", align_corners=False)
    return torch.cat([extra, table.flatten(2).transpose(1, 2)], dim=1)


def square_grid(patches: int) -> tuple[int, int]:
    """Rows and columns of so many patches of a square image.

    Raises:
        ValueError: They make no square.
    """
    side = math.isqrt(patches)
    if side * side != patches:
        raise ValueError(f"{patches} patches make no square.")
    return side, side
