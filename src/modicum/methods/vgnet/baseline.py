"""MobileNetV2, the baseline of the parameter-efficiency claim.

Sandler, Howard, Zhu, Zhmoginov and Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
CVPR 2018, Table 2. The widths are multiplied and rounded to a multiple of `divisor`; the paper's
divisor is 8, and 1 lets a narrow network come close to a given number of parameters. Unlike the
paper's, the last convolution narrows with the others, so that narrow networks stay balanced.

For the claim the blocks are put into the stages of the VGNet they are compared with: as deep, and
with widths in the same proportions. The paper's 17 blocks, narrowed to a hundred thousand
parameters, would be a few channels wide and a baseline of straw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

Stage: TypeAlias = tuple[int, int, int, int]
"""Expansion, channels, blocks, stride of the first block."""

STAGES: tuple[Stage, ...] = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Table 2 of the paper, between the stem of 32 channels and the last convolution of 1280."""


def stages_like(channels: Sequence[int], layers: Sequence[int]) -> dict[str, Any]:
    """Arguments of a `MobileNetV2` as deep and in its widths as a VGNet of these arguments."""
    return {
        "stem": channels[0],
        "stages": [(6, c, n, 2) for c, n in zip(channels[1:], layers, strict=True)],
        "last": 4 * channels[-1],  # the paper's proportion: 320 to 1280
    }


def _conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True
) -> nn.Sequential:
    filters = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(filters, nn.BatchNorm2d(outputs), *([nn.ReLU6()] if act else []))


class InvertedResidual(nn.Module):
    """Expand by a 1x1 convolution, filter by a depthwise 3x3, project; add where shapes fit."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            *([_conv_bn(inputs, hidden, 1)] if expansion > 1 else []),
            _conv_bn(hidden, hidden, 3, stride, groups=hidden),
            _conv_bn(hidden, outputs, 1, act=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, inputs, H, W)` to `(B, outputs, H/stride, W/stride)`."""
        return x + self.layers(x) if self.residual else self.layers(x)


class MobileNetV2(nn.Module):
    """The network for images of shape `(B, in_channels, H, W)`, float32.

    Args:
        width: Multiplier of every number of channels.
        stem: Channels of the first convolution, before multiplication.
        stages: The blocks between.
        last: Channels of the last convolution.
        num_classes: Classes.
        in_channels: Channels of the images.
        thumbnail: Stride 1 in the stem and the first strided stage, as VGNet's thumbnail mode.
        divisor: Widths are rounded to a multiple of it.
    """

    def __init__(
        self,
        width: float = 1.0,
        *,
        stem: int = 32,
        stages: Sequence[Stage] = STAGES,
        last: int = 1280,
        num_classes: int = 1000,
        in_channels: int = 3,
        thumbnail: bool = False,
        divisor: int = 1,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "width": width,
            "stem": stem,
            "stages": [list(stage) for stage in stages],
            "last": last,
            "num_classes": num_classes,
            "in_channels": in_channels,
            "thumbnail": thumbnail,
            "divisor": divisor,
        }

        def scaled(channels: int) -> int:
            return max(divisor, round(channels * width / divisor) * divisor)

        channels = scaled(stem)
        strided = [stage for stage, (_, _, _, stride) in enumerate(stages) if stride > 1]
        layers: list[nn.Module] = [_conv_bn(in_channels, channels, 3, 1 if thumbnail else 2)]
        for stage, (expansion, outputs, blocks, stride) in enumerate(stages):
            for block in range(blocks):
                keeps = block > 0 or (thumbnail and stage == strided[0])
                first = 1 if keeps else stride
                layers.append(InvertedResidual(channels, scaled(outputs), first, expansion))
                channels = scaled(outputs)
        layers.append(_conv_bn(channels, scaled(last), 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(scaled(last), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits, `(B, num_classes)`."""
        return self.classifier(self.features(x).mean((2, 3)))


def width_for(parameters: int, **arguments: Any) -> float:
    """The width at which `MobileNetV2(width, **arguments)` has closest to so many parameters."""

    def count(width: float) -> int:
        return sum(p.numel() for p in MobileNetV2(width, **arguments).parameters())

    low, high = 0.01, 4.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if count(middle) < parameters else (low, middle)
    return min((low, high), key=lambda width: abs(count(width) - parameters))
