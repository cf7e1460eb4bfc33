"""Semantic segmentation: a vision transformer with four maps, and UPerNet on them.

Xiao et al., "Unified Perceptual Parsing for Scene Understanding", ECCV 2018, as it stands on BEiT
and TinyMIM encoders. Parameters of the heads have the names of Transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from modicum.methods.tinymim.networks.vit import Size, VisionTransformer


class SegmentationEncoder(VisionTransformer):
    """A vision transformer whose tokens after four blocks become maps of strides 4, 8, 16 and 32.

    For a patch of 16 pixels. Beside the trained position embeddings, every block has relative
    position biases and layer scale. There is no final LayerNorm. With `feature_width`, as
    TinyMIM*-T has it, the maps are four times as wide, and the last passes that layer first.

    Args:
        width: Of the tokens.
        depth: Blocks.
        heads: Of every block.
        taps: Blocks after which a map is taken, counted from 1; none: 4, 6, 8 and 12 of 12.
        mlp_ratio: Hidden width of MLPs by that of the tokens.
        image_size: In pixels; it is that of the crops, and of the windows of prediction.
        channels: Of images.
        drop_path: Of the last block, from 0 in the first on in equal steps.
        distillation_token: See `VisionTransformer`.
        feature_width: See `VisionTransformer`.

    Raises:
        ValueError: See `VisionTransformer`; or there are not four taps in order.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        taps: Sequence[int] | None = None,
        mlp_ratio: float = 4.0,
        image_size: Size = 512,
        channels: int = 3,
        drop_path: float = 0.0,
        distillation_token: bool = False,
        feature_width: int | None = None,
    ) -> None:
        super().__init__(
            width, depth, heads, mlp_ratio=mlp_ratio, image_size=image_size, channels=channels,
            drop_path=drop_path, train_positions=True, relative_positions=True, layer_scale=True,
            distillation_token=distillation_token, feature_width=feature_width,
        )  # fmt: skip
        self.norm = nn.Identity()
        self.taps = tuple(taps or (round(depth * part / 12) for part in (4, 6, 8, 12)))
        if len(self.taps) != 4 or list(self.taps) != sorted({*self.taps} & {*range(1, depth + 1)}):
            raise ValueError(f"taps {self.taps}: expected four blocks in order, of 1 to {depth}.")
        starred = feature_width is not None
        self.map_width = 4 * width if starred else width
        middle = 2 * width if starred else width
        self.fpn1 = nn.Sequential(
            nn.ConvTranspose2d(width, middle, 2, 2), nn.BatchNorm2d(middle), nn.GELU(),
            nn.ConvTranspose2d(middle, self.map_width, 2, 2),
        )  # fmt: skip
        self.fpn2 = nn.Sequential(nn.ConvTranspose2d(width, self.map_width, 2, 2))
        self.fpn3, self.fpn4 = nn.Sequential(), nn.Sequential(nn.MaxPool2d(2, 2))
        if feature_width is not None:
            self.fpn3 = nn.Sequential(nn.Conv2d(width, self.map_width, 1))
            self.fpn4 = nn.Sequential(nn.Conv2d(feature_width, self.map_width, 3, 2, padding=1))

    def forward(self, images: Tensor) -> list[Tensor]:  # pyright: ignore
        """Maps `(B, map_width, H / s, W / s)` of strides 4, 8, 16 and 32, of `(B, 3, H, W)`."""
        x, maps = self.embed(images), list[Tensor]()
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            if number in self.taps:
                patches = x[:, self.extra_tokens :]
                if len(maps) == 3:
                    patches = self.conv1x1(patches)
                maps.append(patches.transpose(1, 2).unflatten(2, self.grid))
        necks = (self.fpn1, self.fpn2, self.fpn3, self.fpn4)
        return [neck(one) for neck, one in zip(necks, maps, strict=True)]


class ConvNormAct(nn.Module):
    """A convolution that keeps the size, batch normalisation and ReLU."""

    def __init__(self, in_channels: int, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=False)
        self.batch_norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, H, W)` to `(B, channels, H, W)`."""
        return functional.relu(self.batch_norm(self.conv(x)))


class AveragePool(nn.Module):
    """Means of parts of a map, as `nn.AdaptiveAvgPool2d`, of which ONNX knows no general form.

    Part i of n of a side of s pixels is `floor(i s / n)` to `ceil((i + 1) s / n)`.
    """

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to `(B, C, parts, parts)`."""
        rows, columns = (self._weights(int(side), x) for side in x.shape[2:])
        return rows @ x @ columns.T

    def _weights(self, side: int, x: Tensor) -> Tensor:
        weights = torch.zeros(self.parts, side)
        for part in range(self.parts):
            first, last = part * side // self.parts, -(-(part + 1) * side // self.parts)
            weights[part, first:last] = 1 / (last - first)
        return weights.to(x)


class UPerHead(nn.Module):
    """Pyramid pooling of the last map, then a feature pyramid down to the first.

    Args:
        in_channels: Of the four maps.
        channels: Of the head.
        classes: To tell apart.
        scales: Sides of the pooled maps.
        dropout: Before the classifier, of whole channels.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        classes: int,
        *,
        scales: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        *lower, last = in_channels
        self.psp_modules = nn.ModuleList(
            nn.Sequential(AveragePool(scale), ConvNormAct(last, channels, 1)) for scale in scales
        )
        self.bottleneck = ConvNormAct(last + len(scales) * channels, channels, 3)
        self.lateral_convs = nn.ModuleList(ConvNormAct(c, channels, 1) for c in lower)
        self.fpn_convs = nn.ModuleList(ConvNormAct(channels, channels, 3) for _ in lower)
        self.fpn_bottleneck = ConvNormAct(len(in_channels) * channels, channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Class scores at the size of the first map, `(B, classes, H / 4, W / 4)`."""
        *lower, last = maps
        pooled = [_resized(pool(last), last) for pool in self.psp_modules]
        laterals = [conv(one) for conv, one in zip(self.lateral_convs, lower, strict=True)]
        laterals.append(self.bottleneck(torch.cat([last, *pooled], dim=1)))
        for level in range(len(laterals) - 1, 0, -1):
            laterals[level - 1] = laterals[level - 1] + _resized(
                laterals[level], laterals[level - 1]
            )
        levels = [conv(one) for conv, one in zip(self.fpn_convs, laterals[:-1], strict=True)]
        levels = [_resized(one, levels[0]) for one in (*levels, laterals[-1])]
        return self.classifier(self.dropout(self.fpn_bottleneck(torch.cat(levels, dim=1))))


class FCNHead(nn.Module):
    """One 3x3 convolution and a classifier, for an auxiliary loss on a map."""

    def __init__(self, in_channels: int, channels: int, classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvNormAct(in_channels, channels, 3))
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, H, W)` to class scores `(B, classes, H, W)`."""
        return self.classifier(self.dropout(self.convs(x)))


class Segmented(NamedTuple):
    """Class scores of every pixel, `(B, classes, H, W)`, of both heads."""

    logits: Tensor
    auxiliary: Tensor


class UPerNet(nn.Module):
    """An encoder, UPerNet's head on its maps, and in training an auxiliary head on the third.

    Args:
        encoder: Arguments of `SegmentationEncoder`.
        classes: To tell apart.
        channels: Of the head.
        auxiliary_channels: Of the auxiliary head.
        dropout: Of whole channels, before the classifiers of both heads.
    """

    def __init__(
        self,
        encoder: dict[str, Any],
        classes: int,
        *,
        channels: int = 768,
        auxiliary_channels: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.backbone = SegmentationEncoder(**encoder)
        width = self.backbone.map_width
        self.decode_head = UPerHead([width] * 4, channels, classes, dropout=dropout)
        self.auxiliary_head = FCNHead(width, auxiliary_channels, classes, dropout)
        self.arguments = {
            "encoder": encoder, "classes": classes, "channels": channels,
            "auxiliary_channels": auxiliary_channels, "dropout": dropout,
        }  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of every pixel, `(B, classes, H, W)`, of images of the encoder's size."""
        return _resized(self.decode_head(self.backbone(images)), images)

    def both(self, images: Tensor) -> Segmented:
        """What training compares with labels."""
        maps = self.backbone(images)
        heads = (self.decode_head(maps), self.auxiliary_head(maps[2]))
        return Segmented(*(_resized(scores, images) for scores in heads))


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)
