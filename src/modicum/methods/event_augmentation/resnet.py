"""ResNet-34: the classifier of the EST and EventDrop baselines.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, table 1. Modules
are named so that state dicts have the keys of torchvision's `resnet34`.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

_DEPTHS = (3, 4, 6, 3)
_WIDTHS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation, added to their input.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Of the first convolution. Where it or the width changes, the input is projected by
            a 1x1 convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, H, W)` to `(B, out_channels, ceil(H / stride), ceil(W / stride))`."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet34(nn.Module):
    """The network of 34 layers, for inputs of any number of channels.

    Args:
        in_channels: Channels of the input: 3 for images; 2 C for an event spike tensor of C bins.
        num_classes: Number of classes.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.arguments = {"in_channels": in_channels, "num_classes": num_classes}
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        previous = 64
        for number, (depth, width) in enumerate(zip(_DEPTHS, _WIDTHS, strict=True), start=1):
            first = BasicBlock(previous, width, stride=1 if number == 1 else 2)
            rest = [BasicBlock(width, width, stride=1) for _ in range(depth - 1)]
            self.add_module(f"layer{number}", nn.Sequential(first, *rest))
            previous = width
        self.fc = nn.Linear(previous, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, H, W)` to class scores `(B, num_classes)`; about 224 x 224 is usual."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.max_pool2d(x, 3, stride=2, padding=1)
        for number in range(1, len(_DEPTHS) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return self.fc(x.mean((-2, -1)))
