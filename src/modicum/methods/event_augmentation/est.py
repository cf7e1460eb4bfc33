"""The learned event spike tensor (EST) and its classifier.

Gehrig, Loquercio, Derpanis and Scaramuzza, "End-to-End Learning of Representations for
Asynchronous Event-Based Data", ICCV 2019. Events are spread over bins of time by a kernel that is
a small network, trained with the classifier. Modules are named so that state dicts have the keys of
the authors' checkpoints.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from modicum.errors import ConfigError
from modicum.events.container import EventBatch
from modicum.events.representations import refuse_negative_times
from modicum.methods.event_augmentation.resnet import ResNet34

HIDDEN = 30
"""Units in each of the two hidden layers of the value layer."""
_SLOPE = 0.1


class ValueLayer(nn.Module):
    """The kernel as a network 1-30-30-1 with LeakyReLU: 1,021 weights.

    Args:
        bins: Number of bins C; the kernel starts as `max(0, 1 - (C - 1) |u|)`.
    """

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.mlp = nn.ModuleList(
            [nn.Linear(1, HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 1)]
        )
        self._start_from_trilinear(bins)

    @torch.no_grad()
    def _start_from_trilinear(self, bins: int) -> None:
        """Set the weights so that the network computes the trilinear kernel.

        The authors fit the network by gradient descent. It can be had exactly: with `f` for
        LeakyReLU, `f(a) + f(-a) = (1 - slope) |a|`, and the kernel of half-width `w` is
        `(|u - w| - 2 |u| + |u + w|) / (2 w)`. Six units make these terms and one of the second
        layer adds them, which leaves it unchanged as it is never negative. The other units keep
        PyTorch's random weights on their way in and get 0 on their way out, so that they change
        nothing at first but learn from the first step on.
        """
        first, second, third = (layer for layer in self.mlp if isinstance(layer, nn.Linear))
        width = 1 / (bins - 1)
        sign = torch.tensor([1.0, -1.0]).repeat(3)
        corner = torch.tensor([-width, 0.0, width]).repeat_interleave(2)
        term = torch.tensor([1.0, -2.0, 1.0]).repeat_interleave(2)
        first.weight[:6, 0] = sign
        first.bias[:6] = -sign * corner
        second.weight[:, 6:] = 0.0
        second.weight[0, :6] = term / (2 * width * (1 - _SLOPE))
        second.bias[0] = 0.0
        third.weight[:] = 0.0
        third.weight[0, 0] = 1.0
        third.bias[:] = 0.0

    def forward(self, u: Tensor) -> Tensor:
        """The kernel at distances from a bin's centre, `(N,)` in units of the recording: `(N,)`."""
        first, second, third = self.mlp
        hidden = functional.leaky_relu_(first(u[:, None]), _SLOPE)
        hidden = functional.leaky_relu_(second(hidden), _SLOPE)
        return third(hidden)[:, 0]


class QuantizationLayer(nn.Module):
    """From events to the event spike tensor of 2 bins or more for each polarity.

    It is differentiable in the kernel's weights.
    """

    def __init__(self, bins: int) -> None:
        super().__init__()
        if bins < 2:
            raise ConfigError(f"QuantizationLayer: found {bins} bins, expected 2 or more.")
        self.bins = bins
        self.value_layer = ValueLayer(bins)

    def forward(self, events: EventBatch) -> Tensor:
        """Add `s * kernel(s - i / (C - 1))` of each event to bin i, with its time `s = t / max t`.

        The events of B recordings may be in any order; times count from 0 (a `DataError` below) and
        unlike in the authors' code stay as they are. The result is `(B, 2C, H, W)` on the weights'
        device: C bins of OFF events, then C of ON.
        """
        refuse_negative_times(events)
        weight = next(self.value_layer.parameters())
        area = events.height * events.width
        sample = events.sample
        largest = np.zeros(events.size, np.int64)
        np.maximum.at(largest, sample, events.t)
        relative = events.t / np.maximum(largest, 1)[sample]
        pixel = events.y.astype(np.int64) * events.width + events.x
        cell = (2 * sample + events.p) * (self.bins * area) + pixel

        time = torch.from_numpy(relative).to(weight)
        cells = torch.from_numpy(cell).to(weight.device)
        sums = weight.new_zeros(events.size * 2 * self.bins * area)
        for number in range(self.bins):  # one at a time: all would need C times the memory
            values = time * self.value_layer(time - number / (self.bins - 1))
            sums = sums.index_add(0, cells + number * area, values)
        return sums.view(events.size, 2 * self.bins, events.height, events.width)


class EstClassifier(nn.Module):
    """The learned event spike tensor, then ResNet-34.

    `bins` is their number for each polarity, 9 in the paper; `size` are the pixels a side that the
    classifier sees.
    """

    def __init__(self, num_classes: int, bins: int = 9, *, size: int = 224) -> None:
        super().__init__()
        self.arguments = {"num_classes": num_classes, "bins": bins, "size": size}
        self.size = size
        self.quantization_layer = QuantizationLayer(bins)
        self.classifier = ResNet34(2 * bins, num_classes)

    def forward(self, events: EventBatch) -> Tensor:
        """Class scores `(B, num_classes)` of B recordings, whatever the sensor's size."""
        return self.classifier(crop_and_resize(self.quantization_layer(events), self.size))


class EstOfColumns(nn.Module):
    """An `EstClassifier` for one recording given as columns, of operations that ONNX knows."""

    def __init__(self, network: EstClassifier, height: int, width: int) -> None:
        super().__init__()
        self.network, self.height, self.width = network, height, width

    def forward(self, t: Tensor, x: Tensor, y: Tensor, p: Tensor) -> Tensor:
        """Columns of at least one event, int64 `(N,)` each, to class scores `(1, num_classes)`."""
        layer = self.network.quantization_layer
        area = self.height * self.width
        time = (t.double() / t.max().double().clamp(min=1)).float()
        cell = p * (layer.bins * area) + y * self.width + x
        sums = torch.zeros(2 * layer.bins * area, device=time.device)
        for number in range(layer.bins):
            values = time * layer.value_layer(time - number / (layer.bins - 1))
            sums = sums.scatter_add(0, cell + number * area, values)
        voxels = sums.view(1, 2 * layer.bins, self.height, self.width)
        return self.network.classifier(crop_and_resize(voxels, self.network.size))


def crop_and_resize(x: Tensor, size: int = 224) -> Tensor:
    """Cut the central square of `(B, C, H, W)` out and resize it by taking nearest neighbours.

    For a short side of an odd length, the authors' code cuts a rectangle with one row or column
    less; this keeps the square.
    """
    height, width = x.shape[-2:]
    side = min(height, width)
    top, left = height // 2 - side // 2, width // 2 - side // 2
    return functional.interpolate(x[..., top : top + side, left : left + side], (size, size))
