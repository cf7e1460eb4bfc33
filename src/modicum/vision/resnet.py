"""ResNet, with 18 to 152 layers.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, table 1, with the
stride of a bottleneck in its 3x3 convolution, as in torchvision. Parameters have torchvision's
names and order, so that its state dicts load strictly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from torch import Tensor, nn
from torch.nn import functional

Norm: TypeAlias = Callable[[int], nn.Module]
"""Builds a normalisation of so many channels."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, added to their input.

    Args:
        in_channels: Channels of the input.
        width: Channels of the output.
        stride: Stride of the first convolution. Where it or the channels change, the input is
            projected by a 1x1 convolution.
        norm: Builds the normalisation after each convolution.
    """

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = norm(width)
        self.downsample = _projection(in_channels, width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, H, W)` to `(B, width, ceil(H / stride), ceil(W / stride))`."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nn.Module):
    """A 3x3 convolution of `width` channels between two of 1x1, added to their input.

    The output has `4 * width` channels; the stride is that of the 3x3. See `BasicBlock`.
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = norm(4 * width)
        self.downsample = _projection(in_channels, 4 * width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, H, W)` to `(B, 4 * width, ceil(H / stride), ceil(W / stride))`."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.bn2(self.conv2(x)))
        return functional.relu(self.bn3(self.conv3(x)) + shortcut)


def _projection(
    in_channels: int, out_channels: int, stride: int, norm: Norm
) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    convolution = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(convolution, norm(out_channels))


_LAYOUTS: dict[int, tuple[type[BasicBlock | Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """A ResNet: a classifier, or the maps of its four stages.

    Convolutions are initialised as in the paper (section 3.4): normal, with the variance that keeps
    the gradients' size.

    Args:
        depth: Number of layers.
        num_classes: Number of classes; none: no classifier, `forward` returns the pooled features.
        in_channels: Channels of the input.
        norm: Builds the normalisation of a number of channels. `nn.BatchNorm2d`;
            `FrozenBatchNorm2d` for weights trained elsewhere and small batches;
            `partial(nn.GroupNorm, 32)` for small batches.
        thumbnail: The stem for images of about 32 pixels: a 3x3 convolution of stride 1 without
            pooling (section 4.2), so that the maps are four times as high and wide.

    Attributes:
        channels: Channels of the maps of `features`.
        strides: Pixels of the input between neighbours in each of these maps.
    """

    def __init__(
        self,
        depth: Literal[18, 34, 50, 101, 152],
        *,
        num_classes: int | None = 1000,
        in_channels: int = 3,
        norm: Norm = nn.BatchNorm2d,
        thumbnail: bool = False,
    ) -> None:
        super().__init__()
        block, counts = _LAYOUTS[depth]
        first = 1 if thumbnail else 4
        self.channels = tuple(block.expansion * width for width in (64, 128, 256, 512))
        self.strides = (first, 2 * first, 4 * first, 8 * first)
        self.thumbnail = thumbnail
        kernel, stride = (3, 1) if thumbnail else (7, 2)
        self.conv1 = nn.Conv2d(in_channels, 64, kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = norm(64)
        previous = 64
        for number, count in enumerate(counts, start=1):
            width = 32 * 2**number
            blocks = [block(previous, width, 1 if number == 1 else 2, norm)]
            previous = block.expansion * width
            blocks += [block(previous, width, 1, norm) for _ in range(count - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self.fc = nn.Identity() if num_classes is None else nn.Linear(previous, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The maps after the four stages.

        Args:
            x: `(B, in_channels, H, W)`.

        Returns:
            Four of `(B, channels[i], ceil(H / strides[i]), ceil(W / strides[i]))`.
        """
        x = functional.relu(self.bn1(self.conv1(x)))
        if not self.thumbnail:
            x = functional.max_pool2d(x, 3, stride=2, padding=1)
        first = self.get_submodule("layer1")(x)
        second = self.get_submodule("layer2")(first)
        third = self.get_submodule("layer3")(second)
        return first, second, third, self.get_submodule("layer4")(third)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, H, W)` to class scores `(B, num_classes)`.

        Without a classifier, to the means of the last map, `(B, channels[3])`.
        """
        return self.fc(self.features(x)[-1].mean((-2, -1)))
