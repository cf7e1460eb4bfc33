"""Convolutional spiking networks and the published ones by name.

A network is `SpikingLayer`s and average pooling, then a linear classifier without spikes, whose
outputs at all time steps are the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict, get_args

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from modicum.errors import ConfigError, DataError
from modicum.options import check_arguments
from modicum.spiking.layers import AveragePool, SpikingLayer, one_step
from modicum.spiking.neurons import LIF

Downsampling = Literal["average", "stride"]
Head = Literal["flatten", "average"]
Layout: TypeAlias = Sequence[int | Literal["pool"]]
State: TypeAlias = list[Tensor]
"""The state of a network between time steps: that of each layer of neurons in turn."""


class SpikingNetwork(nn.Module):
    """A network for sequences of frames `(B, T, in_channels, H, W)`, or for static images.

    Args:
        layout: Output channels of each 3x3 convolution (padding 1, with bias), which batch
            normalisation and neurons follow, and `"pool"` wherever height and width are halved.
        size: Height and width of a frame in pixels, or one number for both.
        num_classes: Classes.
        in_channels: Channels of a frame: 2 polarities.
        downsampling: What halves: 2x2 average pooling (rounding down), or stride 2 in the
            convolution before (rounding up).
        head: Flatten the last maps, or average them over the frame, before the classifier.
        neuron: The arguments of `LIF`; None for those of TET.
        norm_weight: Initial weight of the batch normalisations; 0.5 for the threshold-dependent
            one of NDA.
        zero_bias: Start from zero biases rather than PyTorch's.
        time_steps: For static images: time steps each image is presented for (direct coding).
        convolution: Makes the convolutions: `nn.Conv2d` or one that takes the same arguments.
        linear: Makes the classifier: `nn.Linear` or one that takes the same arguments.

    Attributes:
        arguments: The arguments but the last two, JSON-able; `SpikingNetwork(**net.arguments)` is
            the same architecture with plain synapses.
        features: `SpikingLayer` and `AveragePool` in turn.
        classifier: The linear layer. It reads the last maps pixel by pixel, all channels of one
            after all of another, as they lie in memory.

    Raises:
        ConfigError: An argument is out of range, or the frame is too small for the layout.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        size: int | Sequence[int],
        num_classes: int = 10,
        in_channels: int = 2,
        downsampling: Downsampling = "average",
        head: Head = "flatten",
        neuron: Mapping[str, Any] | None = None,
        norm_weight: float = 1.0,
        zero_bias: bool = False,
        time_steps: int | None = None,
        convolution: Callable[..., nn.Conv2d] = nn.Conv2d,
        linear: Callable[..., nn.Linear] = nn.Linear,
    ) -> None:
        super().__init__()
        height, width = (size, size) if isinstance(size, int) else size
        self.arguments: dict[str, Any] = {
            "layout": list(layout),
            "size": [height, width],
            "num_classes": num_classes,
            "in_channels": in_channels,
            "downsampling": downsampling,
            "head": head,
            "neuron": check_arguments(LIF)(**(neuron or {})).arguments,
            "norm_weight": norm_weight,
            "zero_bias": zero_bias,
            "time_steps": time_steps,
        }
        _check_arguments(**self.arguments)
        layers: list[nn.Module] = []
        channels = in_channels
        for here, after in zip(layout, [*layout[1:], None], strict=True):
            if here == "pool":
                if downsampling == "average":
                    layers.append(AveragePool(2))
                    height, width = height // 2, width // 2
                continue
            stride = 2 if downsampling == "stride" and after == "pool" else 1
            synapses = convolution(channels, here, 3, stride=stride, padding=1)
            norm = nn.BatchNorm2d(here)
            nn.init.kaiming_normal_(synapses.weight, mode="fan_out", nonlinearity="relu")
            nn.init.constant_(norm.weight, norm_weight)
            if zero_bias and synapses.bias is not None:
                nn.init.zeros_(synapses.bias)
            layers.append(SpikingLayer(synapses, norm, LIF(**self.arguments["neuron"])))
            channels = here
            height, width = -(-height // stride), -(-width // stride)
        if min(height, width) < 1:
            raise ConfigError(
                f"size: frames of {self.arguments['size']} pixels are too small for "
                f"{sum(item == 'pool' for item in layout)} halvings"
            )
        if head == "average":
            layers.append(AveragePool(0))
            height = width = 1
        self.features = nn.Sequential(*layers)
        self.classifier = linear(channels * height * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, T, num_classes)` at every time step; their mean (`read_out`) classifies.

        Frames are held channels-last inside, which is the faster layout on CPUs for convolution
        and normalisation alike.

        Args:
            x: Frames `(B, T, in_channels, H, W)`, or images `(B, in_channels, H, W)` if the network
                was built with `time_steps`; floating point, of the network's size. A `DataError`
                says what else was found.
        """
        images = x.dim() == 4 and self.arguments["time_steps"] is not None
        self._check(x, "(batch, time, channels, height, width)", 4 if images else 5)
        if images:
            x = x.contiguous(memory_format=torch.channels_last)
            x = self.features[1:](self.features[0](x, self.arguments["time_steps"]))
        else:
            if x.shape[1] == 0:
                raise DataError(f"expected at least 1 time step, found T=0 in {tuple(x.shape)}")
            # Time first and channels last in a single copy.
            x = x.permute(1, 0, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
            x = self.features(x)
        return self.classifier(_pixels(x)).transpose(0, 1)

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One time step, for streams. In eval mode, as many steps give what `forward` gives.

        Args:
            x: Frame `(B, in_channels, H, W)`.
            state: What the step before returned, of this batch and network (else a `DataError`);
                None at the beginning of a sequence.

        Returns:
            Logits `(B, num_classes)` and the state for the next step.
        """
        self._check(x, "(batch, channels, height, width)", 4)
        x = x.contiguous(memory_format=torch.channels_last)
        layers = [layer for layer in self.features if isinstance(layer, SpikingLayer)]
        if state is not None and len(state) != len(layers):
            raise DataError(
                f"state is of {len(state)} layers, the network has {len(layers)}: pass what the "
                f"step before returned, or state=None"
            )
        before = iter(state or [None] * len(layers))
        after: State = []
        for layer in self.features:
            if isinstance(layer, SpikingLayer):
                x, potential = layer.step(x, next(before))
                after.append(potential)
            else:
                x = layer(x[None])[0]
        with one_step(self.classifier, begins=state is None):
            return self.classifier(_pixels(x)), after

    def _check(self, x: Tensor, shape: str, rank: int) -> None:
        channels, size = self.arguments["in_channels"], self.arguments["size"]
        if x.dim() != rank:
            hint = "; for static images, build the network with time_steps=T" * (x.dim() == 4)
            raise DataError(f"expected frames of shape {shape}, found {tuple(x.shape)}{hint}")
        if not x.is_floating_point():
            raise DataError(f"expected frames of a floating-point dtype, found {x.dtype}")
        if x.shape[-3] != channels or list(x.shape[-2:]) != size:
            raise DataError(
                f"expected frames of {channels} channels and {size[0]}x{size[1]} pixels, found "
                f"{x.shape[-3]} channels and {x.shape[-2]}x{x.shape[-1]} pixels"
            )


def read_out(logits: Tensor) -> Tensor:
    """Class scores `(B, K)`: the mean over time of logits `(B, T, K)`."""
    return logits.mean(1)


def _pixels(x: Tensor) -> Tensor:
    """Maps `(..., C, H, W)` as `(..., H * W * C)`, without a copy if they are channels-last."""
    channel = x.dim() - 3  # counted from the front, as ONNX wants it
    return x.movedim(channel, x.dim() - 1).flatten(channel)


def _check_arguments(
    *,
    layout: list[Any],
    size: list[int],
    num_classes: int,
    in_channels: int,
    time_steps: int | None,
    **others: Any,
) -> None:
    for name, known in (("downsampling", get_args(Downsampling)), ("head", get_args(Head))):
        if others[name] not in known:
            raise ConfigError(f"{name}: expected one of {', '.join(known)}, found {others[name]!r}")
    if not layout or any(
        item == "pool" if place == 0 else item == layout[place - 1] == "pool"
        for place, item in enumerate(layout)
    ):
        raise ConfigError(
            f"layout: expected numbers of channels, each followed by 'pool' or not, found {layout}"
        )
    for name, value in (
        *(("layout", item) for item in layout if item != "pool"),
        *(("size", pixels) for pixels in size),
        ("num_classes", num_classes),
        ("in_channels", in_channels),
        ("time_steps", 1 if time_steps is None else time_steps),
    ):
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name}: expected whole numbers of at least 1, found {value!r}")


class Architecture(TypedDict, total=False):
    """The arguments of `SpikingNetwork`: given to a builder below, they replace its own."""

    layout: Layout
    size: int | Sequence[int]
    num_classes: int
    in_channels: int
    downsampling: Downsampling
    head: Head
    neuron: Mapping[str, Any] | None
    norm_weight: float
    zero_bias: bool
    time_steps: int | None
    convolution: Callable[..., nn.Conv2d]
    linear: Callable[..., nn.Linear]


VGGSNN_LAYOUT: Layout = (64, 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")
NDA_VGG11_LAYOUT: Layout = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, 512, 512)


def vggsnn(**options: Unpack[Architecture]) -> SpikingNetwork:
    """VGGSNN of TET for frames of 48x48: 9,271,498 parameters."""
    return _build(options, layout=VGGSNN_LAYOUT, size=48)


def vggsnn_stride(**options: Unpack[Architecture]) -> SpikingNetwork:
    """VGGSNN of TET without pooling, with strides instead: as many parameters."""
    return _build(options, layout=VGGSNN_LAYOUT, size=48, downsampling="stride")


def nda_vgg11(**options: Unpack[Architecture]) -> SpikingNetwork:
    """VGG-11 of NDA with its neurons, 48x48: 9,230,538 parameters (9,277,221 with 101 classes)."""
    return _build(
        options,
        layout=NDA_VGG11_LAYOUT,
        size=48,
        head="average",
        neuron=LIF.nda().arguments,
        norm_weight=0.5,
        zero_bias=True,
    )


def light(**options: Unpack[Architecture]) -> SpikingNetwork:
    """Four convolutions, 48x48: 412,138 parameters. Inferred: the paper's lightweight network."""
    return _build(options, layout=(32, "pool", 64, "pool", 128, "pool", 256, "pool"), size=48)


def small(**options: Unpack[Architecture]) -> SpikingNetwork:
    """Two convolutions of stride 2, 34x34 (N-MNIST): for experiments of minutes on a CPU."""
    return _build(options, layout=(16, "pool", 32, "pool"), size=34, downsampling="stride")


def _build(options: Architecture, **own: Unpack[Architecture]) -> SpikingNetwork:
    arguments: dict[str, Any] = {**own, **options}
    return SpikingNetwork(**arguments)


BUILDERS: dict[str, Callable[..., SpikingNetwork]] = {
    builder.__name__: builder for builder in (vggsnn, vggsnn_stride, nda_vgg11, light, small)
}
"""The networks by name. Each takes the arguments of `SpikingNetwork`, all optional."""
