"""ResNet-34: the classifier of the EST and EventDrop baselines."""

from __future__ import annotations

from modicum.vision.resnet import ResNet


class ResNet34(ResNet):
    """The network of 34 layers, for inputs of any number of channels.

    `in_channels` is 3 for images, 2 C for an event spike tensor of C bins.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(34, in_channels=in_channels, num_classes=num_classes)
        self.arguments = {"in_channels": in_channels, "num_classes": num_classes}
