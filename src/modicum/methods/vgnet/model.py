"""The VGNet family: small image classifiers whose spatial filters are mostly fixed.

Zhang, Shen, Luo, Cao, Pan, Wang and Feng, "Efficient CNN Architecture Design Guided by
Visualization", ICME 2022, arXiv:2207.10318. Two revisions of the authors' code are built:

- `paper` (December 2021) is the network of the abstract: ReLU, downsampling Gaussians whose sign
  alternates by channel, and a last 3x3 kernel bank shared by eight groups of channels.
- `release2` (November 2022): SiLU, positive Gaussians, a plain last 3x3, dropout.

State dicts have the authors' keys, so their checkpoints load.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from modicum.errors import ConfigError

Revision: TypeAlias = Literal["paper", "release2"]
Downsampling: TypeAlias = Literal["gaussian", "depthwise", "maxpool"]
Kernels: TypeAlias = Literal["learned", "edge", "edge_gaussian"]
Activation: TypeAlias = Literal["relu", "silu"]

SHARING_GROUPS = 8
"""Groups of channels that share the last 3x3 kernel bank of the `paper` revision."""

# Fixed kernels (specification of the authors' code; cross-correlation weights).

GAUSSIAN = torch.tensor(
    [[0.0811, 0.1226, 0.0811], [0.1226, 0.1853, 0.1226], [0.0811, 0.1226, 0.0811]]
)
"""Gaussian of sigma 1.1, rounded to four decimals as in the authors' code; its sum is 1.0001."""

EDGE = torch.tensor(
    [
        [[-1 / 2, -1, -1 / 2], [0, 0, 0], [1 / 2, 1, 1 / 2]],
        [[-1 / 2, 0, 1 / 2], [-1, 0, 1], [-1 / 2, 0, 1 / 2]],
        [[-1 / 12, -1 / 6, -1 / 12], [-1 / 6, 1, -1 / 6], [-1 / 12, -1 / 6, -1 / 12]],
        [[0, -1 / 4, 0], [-1 / 4, 1, -1 / 4], [0, -1 / 4, 0]],
    ]
)
"""Horizontal and vertical Sobel filters and two Laplacians: channel c uses kernel c mod 4."""

EDGE_GAUSSIAN = torch.cat(
    [
        EDGE,
        torch.tensor(
            [
                # Diagonal gradients, not of unit gain like the others: as in the authors' code.
                [[-1, -2 / 3, -1 / 3], [-2 / 3, 0, 2 / 3], [1 / 3, 2 / 3, 1]],
                [[-1 / 3, -2 / 3, -1], [2 / 3, 0, -2 / 3], [1, 2 / 3, 1 / 3]],
            ]
        ),
        GAUSSIAN[None],
        torch.tensor(
            [[[0.0277, 0.1110, 0.0277], [0.1110, 0.4452, 0.1110], [0.0277, 0.1110, 0.0277]]]
        ),
    ]
)
"""The edge filters, two diagonal gradients, and Gaussians of sigma 1.1 and 0.6: kernel c mod 8."""


def gaussian_kernels(channels: int, revision: Revision, sigma: float = 1.0) -> Tensor:
    """The downsampling filters of a stage, float32 `(channels, 1, 3, 3)`.

    Args:
        channels: Channels to filter.
        revision: `paper`: +K on even channels, -K on odd ones. `release2`: positive, sum 1.
        sigma: Width in pixels, for `release2` only.
    """
    if revision == "paper":
        return torch.stack([GAUSSIAN, -GAUSSIAN]).repeat(channels // 2, 1, 1)[:, None]
    axis = torch.exp(-torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64).square() / (2 * sigma**2))
    kernel = torch.outer(axis, axis)
    return (kernel / kernel.sum()).float().expand(channels, 1, 3, 3).clone()


def fixed_kernels(channels: int, kernels: Kernels) -> Tensor:
    """The stride-1 filters of E (`edge`) and F (`edge_gaussian`), float32 `(channels, 1, 3, 3)`."""
    bank = EDGE if kernels == "edge" else EDGE_GAUSSIAN
    return bank.repeat(channels // len(bank), 1, 1)[:, None].clone()


# Blocks

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    # In place: a convolution does not need its output to compute its gradient.
    "relu": lambda: nn.ReLU(inplace=True),
    "silu": lambda: nn.SiLU(inplace=True),
}


class FixedFilter(nn.Module):
    """A depthwise 3x3 convolution with a zero border whose kernels are not learned.

    In the `paper` revision they are a frozen parameter, which the published counts of all
    parameters include; in `release2` a buffer. Either way they are in the state dict, follow the
    module's dtype and device, and no optimizer sees them: they require no gradient.
    """

    weight: Tensor

    def __init__(self, weight: Tensor, stride: int = 1, *, as_parameter: bool = True) -> None:
        super().__init__()
        self.stride = stride
        if as_parameter:
            self.weight = nn.Parameter(weight, requires_grad=False)
        else:
            self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to `(B, C, H / stride, W / stride)`, rounded up."""
        return functional.conv2d(x, self.weight, None, self.stride, 1, groups=len(self.weight))


class SharedFilter(nn.Module):
    """A learned depthwise 3x3 convolution whose kernels several groups of channels share."""

    def __init__(self, channels: int, groups: int = SHARING_GROUPS) -> None:
        super().__init__()
        self.groups = groups
        # Holds the kernels under the authors' key; it is never called itself.
        self.mux = nn.Conv2d(
            channels // groups,
            channels // groups,
            3,
            padding=1,
            groups=channels // groups,
            bias=False,
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to the same shape; each C / groups channels meet the same kernels."""
        weight = self.mux.weight.repeat(self.groups, 1, 1, 1)
        return functional.conv2d(x, weight, None, 1, 1, groups=len(weight))


class SqueezeExcitation(nn.Module):
    """Weights channels by a gate computed from their means (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int, ratio: float, activation: Activation) -> None:
        super().__init__()
        reduced = _multiple_of_8(int(channels * ratio))
        self.reduce = nn.Conv2d(channels, reduced, 1)
        self.act = _ACTIVATIONS[activation]()
        self.expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to the same shape."""
        gate = functional.adaptive_avg_pool2d(x, 1)
        return x * self.expand(self.act(self.reduce(gate))).sigmoid()


def _multiple_of_8(value: int) -> int:
    """The nearest multiple of 8 that is not below nine tenths of the value."""
    rounded = max(8, (value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


def _pointwise(
    inputs: int, outputs: int, activation: Activation, squeeze_excitation: float = 0.0
) -> nn.Sequential:
    """1x1 convolution, activation, batch normalisation, in this order; then squeeze-excitation."""
    layers = nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, bias=False),
        _ACTIVATIONS[activation](),
        nn.BatchNorm2d(outputs),
    )
    if squeeze_excitation:
        gate = SqueezeExcitation(outputs, squeeze_excitation, activation)
        return nn.Sequential(layers, gate)
    return layers


def _depthwise(channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)


class Downsample(nn.Module):
    """Opens a stage: filters, halves the resolution, and starts the two streams of the stage.

    `(B, inputs, H, W)` to a pair of `(B, outputs / 2, H / 2, W / 2)`. New features, made by a 1x1
    convolution, are joined by `kept` filtered input channels, the last ones.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        downsample: nn.Module,
        activation: Activation,
        squeeze_excitation: float,
    ) -> None:
        super().__init__()
        self.kept = 0 if inputs > outputs else min(outputs // 2, inputs)
        # Where the streams would be unequal, the channels are joined and split anew.
        self.split_anew = outputs > 2 * inputs or inputs > outputs
        self.downsample = downsample
        self.conv1x1 = _pointwise(inputs, outputs - self.kept, activation, squeeze_excitation)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        x = self.downsample(x)
        new, kept = self.conv1x1(x), x[:, x.shape[1] - self.kept :]
        if self.split_anew:
            first, second = torch.cat([kept, new], dim=1).chunk(2, dim=1)
            return first, second
        return kept, new


class HalfIdentity(nn.Module):
    """Filters one stream by depthwise 3x3 kernels, leaves the other as it is, and mixes the two.

    Two streams of `(B, channels / 2, H, W)` to two of the same shape. The streams change roles:
    the newest features are the identity half of the next block.
    """

    def __init__(
        self, channels: int, half3x3: nn.Module, activation: Activation, squeeze_excitation: float
    ) -> None:
        super().__init__()
        self.half3x3 = half3x3
        self.conv1x1 = _pointwise(channels, channels // 2, activation, squeeze_excitation)

    def forward(self, streams: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """See the class."""
        identity, filtered = streams
        mixed = self.conv1x1(torch.cat([identity, self.half3x3(filtered)], dim=1))
        return filtered, mixed


class Join(nn.Module):
    """Ends a stage: two streams of `(B, channels / 2, H, W)` to one of `(B, channels, H, W)`."""

    def forward(self, streams: tuple[Tensor, Tensor]) -> Tensor:
        """See the class; a new tensor of shape `(B, channels, H, W)`."""
        return torch.cat(streams, dim=1)


class Features(nn.Module):
    """The stem and four stages; the last ends with a 3x3 filter and a 1x1 convolution."""

    def __init__(self, stem: nn.Module, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stem = stem
        self.stage1, self.stage2, self.stage3, self.stage4 = stages

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The maps of the stem and the stages, new tensors.

        Images `(B, in_channels, H, W)` to five maps; at 224 pixels 112, 56, 28, 14 and 7 wide.
        """
        stem = self.stem(x)
        stage1 = self.stage1(stem)
        stage2 = self.stage2(stage1)
        stage3 = self.stage3(stage2)
        return stem, stage1, stage2, stage3, self.stage4(stage3)


# The network


class VGNet(nn.Module):
    """A VGNet of any width and depth. The published ones are built by `BUILDERS`.

    Takes images `(B, in_channels, H, W)`, float, H and W of at least 32 pixels (8 in thumbnail
    mode), and gives class logits `(B, num_classes)`. `net.features(x)` gives the maps of the stem
    and the four stages.

    Args:
        channels: Widths of the stem and the four stages.
        layers: Blocks in each of the four stages, the opening one included.
        num_classes: Classes.
        in_channels: Channels of the images.
        downsampling: Filter that opens a stage: fixed `gaussian` (G, E, F), learned `depthwise`
            (C), or 3x3 `maxpool` without a border.
        kernels: 3x3 filters within the stages: `learned`, or fixed `edge` (E) or `edge_gaussian`
            (F) detectors followed by a batch normalisation.
        activation: `relu` or `silu`; None: the revision's, ReLU in `paper`, SiLU in `release2`.
        squeeze_excitation: Width of the squeeze-excitation gates relative to what they gate; 0 for
            none. The published `_se` networks have 0.25.
        revision: Code revision of the authors, see the module's text.
        thumbnail: Stem and first stage keep the resolution, for images below 128 pixels.
        dropout: Share of the pooled features dropped in training; None: the revision's, none in
            `paper`, 0.2 in `release2`.

    Raises:
        ConfigError: The widths or depths do not fit the kernels, or an option is unknown.
    """

    def __init__(
        self,
        channels: Sequence[int],
        layers: Sequence[int],
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        downsampling: Downsampling = "gaussian",
        kernels: Kernels = "learned",
        activation: Activation | None = None,
        squeeze_excitation: float = 0.0,
        revision: Revision = "paper",
        thumbnail: bool = False,
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        if activation is None:
            activation = "relu" if revision == "paper" else "silu"
        if dropout is None:
            dropout = 0.0 if revision == "paper" else 0.2
        self.arguments: dict[str, Any] = {
            "channels": list(channels),
            "layers": list(layers),
            "num_classes": num_classes,
            "in_channels": in_channels,
            "downsampling": downsampling,
            "kernels": kernels,
            "activation": activation,
            "squeeze_excitation": squeeze_excitation,
            "revision": revision,
            "thumbnail": thumbnail,
            "dropout": dropout,
        }
        """What `VGNet(**arguments)` builds this network from, JSON-able."""
        _check_arguments(**self.arguments)
        self.in_channels = in_channels
        self.smallest = 8 if thumbnail else 32

        stem = nn.Sequential(
            nn.Conv2d(in_channels, channels[0], 3, 1 if thumbnail else 2, padding=1, bias=False),
            _ACTIVATIONS[activation](),
            nn.BatchNorm2d(channels[0]),
        )
        stages: list[nn.Module] = []
        for stage, depth in enumerate(layers, start=1):
            inputs, outputs = channels[stage - 1], channels[stage]
            stride = 1 if thumbnail and stage == 1 else 2
            opening = _downsampling_filter(inputs, stride, downsampling, revision)
            blocks: list[nn.Module] = [
                Downsample(inputs, outputs, opening, activation, squeeze_excitation)
            ]
            for _ in range(depth - 1):
                half3x3 = _stage_filter(outputs // 2, kernels, revision)
                blocks.append(HalfIdentity(outputs, half3x3, activation, squeeze_excitation))
            blocks.append(Join())
            if stage == len(layers):
                blocks.append(_tail(outputs, kernels, activation, revision))
            stages.append(nn.Sequential(*blocks))
        self.features = Features(stem, stages)
        linear = nn.Linear(channels[-1], num_classes)
        self.classifier: nn.Module = (
            linear if revision == "paper" else nn.Sequential(nn.Dropout(dropout), linear)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Class logits `(B, num_classes)` of images `(B, in_channels, H, W)`."""
        self.check_input(x)
        return self.classifier(self.features(x)[-1].mean((2, 3)))

    def check_input(self, x: Tensor) -> None:
        """Raise a `ValueError` that says what is wrong with a batch of images."""
        if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]  # sizes are symbols then
            return
        shape = tuple(x.shape)
        if x.dim() != 4 or not x.is_floating_point():
            raise ValueError(
                f"expected a float tensor of shape (batch, {self.in_channels}, height, width), "
                f"found {x.dtype} of shape {shape}"
            )
        if shape[1] != self.in_channels:
            raise ValueError(
                f"expected images with {self.in_channels} channels, found {shape[1]}: shape {shape}"
            )
        if min(shape[2:]) < self.smallest:
            mode = " in thumbnail mode" if self.arguments["thumbnail"] else ""
            raise ValueError(
                f"expected height and width of at least {self.smallest} pixels{mode}, found {shape}"
            )


def _downsampling_filter(
    channels: int, stride: int, downsampling: Downsampling, revision: Revision
) -> nn.Module:
    if stride == 1 or downsampling == "depthwise":
        return _depthwise(channels, stride)
    if downsampling == "maxpool":
        return nn.MaxPool2d(3, 2)
    weight = gaussian_kernels(channels, revision)
    return FixedFilter(weight, stride, as_parameter=revision == "paper")


def _stage_filter(channels: int, kernels: Kernels, revision: Revision) -> nn.Module:
    """The 3x3 filter of a stage; fixed filters are followed by a batch normalisation."""
    if kernels == "learned":
        return _depthwise(channels)
    fixed = FixedFilter(fixed_kernels(channels, kernels), as_parameter=revision == "paper")
    return nn.Sequential(fixed, nn.BatchNorm2d(channels))


def _tail(
    channels: int, kernels: Kernels, activation: Activation, revision: Revision
) -> nn.Sequential:
    """The last 3x3 filter, over all channels, and the last 1x1 convolution."""
    last = _pointwise(channels, channels, activation)
    if kernels == "learned":
        return nn.Sequential(
            SharedFilter(channels) if revision == "paper" else _depthwise(channels), last
        )
    return nn.Sequential(*_stage_filter(channels, kernels, revision).children(), last)


def _check_arguments(**arguments: Any) -> None:
    channels, layers = arguments["channels"], arguments["layers"]
    kernels, revision = arguments["kernels"], arguments["revision"]
    for option, known in (
        ("downsampling", Downsampling),
        ("kernels", Kernels),
        ("activation", Activation),
        ("revision", Revision),
    ):
        if arguments[option] not in get_args(known):
            raise ConfigError(
                f"{option}: found {arguments[option]!r}, expected one of "
                f"{', '.join(get_args(known))}."
            )
    if len(channels) != 5 or len(layers) != 4:
        raise ConfigError(
            f"expected 5 widths (stem and four stages) and 4 depths, found channels {channels} and "
            f"layers {layers}."
        )
    if min(layers) < 1:
        raise ConfigError(f"layers: every stage needs at least 1 block, found {layers}.")
    names = ["stem", *(f"stage {i}" for i in range(1, 5))]
    for place, width in enumerate(channels):
        divisor, reason = 2, "a stage's two streams are halves of it"
        if place > 0 and kernels != "learned":
            divisor = 2 * len(EDGE if kernels == "edge" else EDGE_GAUSSIAN)
            reason = f"its halves take the kernels of {kernels!r} in turn"
        if place == 4 and kernels == "learned" and revision == "paper":
            divisor, reason = SHARING_GROUPS, "so many groups of it share the last 3x3 kernels"
        if width < 1 or width % divisor:
            raise ConfigError(
                f"channels of {names[place]}: found {width}, expected a multiple of {divisor}, "
                f"since {reason}."
            )


# The published networks

_SIZES = {
    "1.0MP": ((28, 56, 112, 224, 368), (4, 7, 13, 2)),
    "1.5MP": ((32, 64, 128, 256, 512), (3, 7, 14, 2)),
    "2.0MP": ((32, 72, 168, 376, 512), (3, 6, 13, 2)),
    "2.5MP": ((32, 80, 192, 400, 544), (3, 6, 16, 2)),
    "5.0MP": ((32, 88, 216, 456, 856), (4, 7, 15, 5)),
}
"""Widths and depths, the same in both revisions."""


def _vgnet(size: str, chosen: dict[str, Any], **published: Any) -> VGNet:
    channels, layers = _SIZES[size]
    arguments: dict[str, Any] = {"channels": channels, "layers": layers, **published, **chosen}
    return VGNet(**arguments)


def vgnetg_1_0mp(**arguments: Any) -> VGNet:
    """G-1.0MP: 997,358 trainable parameters; 67.7 % top-1 on ImageNet (paper, abstract).

    Args:
        arguments: Arguments of `VGNet`, in place of the published ones. The same holds for the
            other builders.
    """
    return _vgnet("1.0MP", arguments)


def vgnetg_1_0mp_silu(**arguments: Any) -> VGNet:
    """G-1.0MP with SiLU in the `paper` revision."""
    return _vgnet("1.0MP", arguments, activation="silu")


def vgnetg_1_0mp_se(**arguments: Any) -> VGNet:
    """G-1.0MP with squeeze-excitation: 1,143,190 trainable; 69.2 % top-1 (paper, abstract)."""
    return _vgnet("1.0MP", arguments, squeeze_excitation=0.25)


def vgnetc_1_0mp(**arguments: Any) -> VGNet:
    """C-1.0MP, learned strided downsampling; published in `release2` only, and built so."""
    return _vgnet("1.0MP", arguments, downsampling="depthwise", revision="release2")


def vgnetg_1_5mp(**arguments: Any) -> VGNet:
    """G-1.5MP: 1,502,024 trainable parameters."""
    return _vgnet("1.5MP", arguments)


def vgnetg_1_5mp_silu(**arguments: Any) -> VGNet:
    """G-1.5MP with SiLU in the `paper` revision."""
    return _vgnet("1.5MP", arguments, activation="silu")


def vgnetg_1_5mp_se(**arguments: Any) -> VGNet:
    """G-1.5MP with squeeze-excitation."""
    return _vgnet("1.5MP", arguments, squeeze_excitation=0.25)


def vgnetc_1_5mp(**arguments: Any) -> VGNet:
    """C-1.5MP, learned strided downsampling; published in `paper` only."""
    return _vgnet("1.5MP", arguments, downsampling="depthwise")


def vgnete_1_5mp(**arguments: Any) -> VGNet:
    """E-1.5MP, fixed edge detectors; published in `paper` only."""
    return _vgnet("1.5MP", arguments, kernels="edge")


def vgnetf_1_5mp(**arguments: Any) -> VGNet:
    """F-1.5MP, fixed edge detectors and Gaussians; published in `paper` only."""
    return _vgnet("1.5MP", arguments, kernels="edge_gaussian")


def vgnetg_2_0mp(**arguments: Any) -> VGNet:
    """G-2.0MP: 2,006,380 trainable parameters."""
    return _vgnet("2.0MP", arguments)


def vgnetg_2_0mp_se(**arguments: Any) -> VGNet:
    """G-2.0MP with squeeze-excitation."""
    return _vgnet("2.0MP", arguments, squeeze_excitation=0.25)


def vgnetg_2_5mp(**arguments: Any) -> VGNet:
    """G-2.5MP: 2,492,756 trainable parameters."""
    return _vgnet("2.5MP", arguments)


def vgnetg_2_5mp_se(**arguments: Any) -> VGNet:
    """G-2.5MP with squeeze-excitation."""
    return _vgnet("2.5MP", arguments, squeeze_excitation=0.25)


def vgnetg_5_0mp(**arguments: Any) -> VGNet:
    """G-5.0MP: 4,990,239 trainable parameters."""
    return _vgnet("5.0MP", arguments)


def vgnetg_5_0mp_se(**arguments: Any) -> VGNet:
    """G-5.0MP with squeeze-excitation."""
    return _vgnet("5.0MP", arguments, squeeze_excitation=0.25)


BUILDERS: dict[str, Callable[..., VGNet]] = {
    builder.__name__: builder
    for builder in (
        vgnetg_1_0mp, vgnetg_1_0mp_silu, vgnetg_1_0mp_se, vgnetc_1_0mp,
        vgnetg_1_5mp, vgnetg_1_5mp_silu, vgnetg_1_5mp_se, vgnetc_1_5mp, vgnete_1_5mp, vgnetf_1_5mp,
        vgnetg_2_0mp, vgnetg_2_0mp_se, vgnetg_2_5mp, vgnetg_2_5mp_se, vgnetg_5_0mp, vgnetg_5_0mp_se,
    )
}  # fmt: skip
"""The published networks by name."""


# What a network costs


def count_parameters(network: nn.Module) -> tuple[int, int]:
    """Numbers of (trainable, stored) parameters.

    Stored ones include the fixed kernels of the `paper` revision, as the authors count; those of
    `release2` are buffers and are in neither.
    """
    counts = [(p.numel(), p.requires_grad) for p in network.parameters()]
    return sum(n for n, trainable in counts if trainable), sum(n for n, _ in counts)


def count_multiply_adds(network: nn.Module, shape: Sequence[int]) -> int:
    """Multiply-adds of a forward pass, counted as fvcore 0.1.5 does, whose numbers are published.

    Convolutions and linear layers count one for each multiply-add, a batch normalisation two and a
    global average one for each number they read; activations and gates do not count.

    Args:
        network: Put into eval mode for the pass, and back.
        shape: Of the input, `(batch, channels, height, width)`.
    """
    counted = _MultiplyAdds()
    training = network.training
    example = next(network.parameters())
    try:
        network.eval()
        with torch.no_grad(), counted:
            network(torch.zeros(tuple(shape), dtype=example.dtype, device=example.device))
    finally:
        network.train(training)
    return counted.total


class _MultiplyAdds(TorchFunctionMode):
    """Adds up the operations of the functions called under it."""

    total = 0

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.conv2d, functional.conv2d, functional.linear):
            self.total += result.numel() * args[1][0].numel()
        elif func is functional.batch_norm:
            self.total += 2 * args[0].numel()
        elif func in (Tensor.mean, functional.adaptive_avg_pool2d):
            self.total += args[0].numel()
        return result
