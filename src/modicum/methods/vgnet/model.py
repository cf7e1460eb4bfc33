"""VGNet: image classifiers of 1 to 5 million parameters with half-identity blocks.

Zhang, Shen, Luo, Cao, Pan, Wang and Feng, "Efficient CNN Architecture Design Guided by
Visualization", ICME 2022, arXiv:2207.10318. Submodules are named so that state dicts have the keys
of the authors' two code revisions: `paper` (December 2021) and `release2` (November 2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from modicum.errors import ConfigError

Revision = Literal["paper", "release2"]
Downsampling = Literal["gaussian", "depthwise", "maxpool"]
Kernels = Literal["learned", "edge", "edge_gaussian"]
Activation = Literal["relu", "silu"]

Pair: TypeAlias = tuple[Tensor, Tensor]
"""The state between blocks: older features, which the next block takes as they are, and newer."""

SHARED_GROUPS = 8
"""Channel groups of the last 3x3 of `paper` that share one kernel bank (t in the paper)."""

# The constants are the authors', rounded as theirs are: the Gaussian of `paper` (sigma 1.1) sums to
# 1.0001, and the diagonal gradients are not scaled to the gain of the other edge detectors.
_GAUSSIAN_PAPER = [[0.0811, 0.1226, 0.0811], [0.1226, 0.1853, 0.1226], [0.0811, 0.1226, 0.0811]]
_GAUSSIAN_NARROW = [[0.0277, 0.1110, 0.0277], [0.1110, 0.4452, 0.1110], [0.0277, 0.1110, 0.0277]]
_EDGES = [
    [[-1 / 2, -1, -1 / 2], [0, 0, 0], [1 / 2, 1, 1 / 2]],
    [[-1 / 2, 0, 1 / 2], [-1, 0, 1], [-1 / 2, 0, 1 / 2]],
    [[-1 / 12, -1 / 6, -1 / 12], [-1 / 6, 1, -1 / 6], [-1 / 12, -1 / 6, -1 / 12]],
    [[0, -1 / 4, 0], [-1 / 4, 1, -1 / 4], [0, -1 / 4, 0]],
]
_DIAGONALS = [
    [[-1, -2 / 3, -1 / 3], [-2 / 3, 0, 2 / 3], [1 / 3, 2 / 3, 1]],
    [[-1 / 3, -2 / 3, -1], [2 / 3, 0, -2 / 3], [1, 2 / 3, 1 / 3]],
]


def normalised_gaussian(sigma: float) -> Tensor:
    """A 3x3 Gaussian of sigma pixels with sum 1, float32, shape `(3, 3)`."""
    row = torch.exp(-(torch.arange(-1, 2, dtype=torch.float64) ** 2) / (2 * sigma**2))
    kernel = torch.outer(row, row)
    return (kernel / kernel.sum()).float()


def downsampling_kernels(revision: Revision) -> Tensor:
    """The fixed low-pass filters of downsampling, float32, shape `(kernels, 3, 3)`.

    Channel `c` is filtered by kernel `c mod kernels`. The sign of `paper` alternates: it is not
    cosmetic, because the identity stream carries it through the following blocks.
    """
    if revision == "release2":
        return normalised_gaussian(1.0)[None]
    return torch.tensor(_GAUSSIAN_PAPER) * torch.tensor([1, -1]).view(2, 1, 1)


def edge_kernels(kernels: Kernels) -> Tensor:
    """The fixed filters in place of learned ones, float32, `(4, 3, 3)` (edge) or `(8, 3, 3)`.

    Channel `c` is filtered by kernel `c mod 4` or `c mod 8`.
    """
    more = [*_DIAGONALS, _GAUSSIAN_PAPER, _GAUSSIAN_NARROW]
    return torch.tensor([*_EDGES, *more] if kernels == "edge_gaussian" else _EDGES)


class FixedDepthwise(nn.Module):
    """A 3x3 depthwise convolution, zero-padded by 1, with given filters that are never trained.

    Channel `c` is filtered by kernel `c mod K` of `(K, 3, 3)`, of which `channels` is a multiple.
    The revision `paper` holds the filters in a frozen parameter, so its published parameter counts
    include them; `release2` in a buffer. The key in the state dict is the same.
    """

    weight: Tensor

    def __init__(self, kernels: Tensor, channels: int, stride: int, *, as_parameter: bool) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride
        weight = kernels.repeat(channels // len(kernels), 1, 1)[:, None]
        if as_parameter:
            # Frozen, so that an optimizer over trainable parameters and weight decay leave it out.
            self.weight = nn.Parameter(weight, requires_grad=False)
        else:
            self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, H, W)` to `(B, channels, ceil(H / stride), ceil(W / stride))`."""
        # Detached, so that unfreezing a whole network for fine-tuning does not train the filters.
        weight = self.weight.detach()
        return functional.conv2d(x, weight, None, self.stride, 1, groups=self.channels)

    def extra_repr(self) -> str:
        """The size, as other convolutions show it."""
        return f"{len(self.weight)}, kernel_size=(3, 3), stride={self.stride}"


class SharedDepthwise(nn.Module):
    """A 3x3 depthwise convolution whose kernels are shared by 8 contiguous groups of channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        bank = channels // SHARED_GROUPS
        self.mux = nn.Conv2d(bank, bank, 3, padding=1, groups=bank, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, H, W)` to the same shape."""
        groups = self.mux(x.unflatten(1, (SHARED_GROUPS, -1)).flatten(0, 1))
        return groups.unflatten(0, (-1, SHARED_GROUPS)).flatten(1, 2)


class SqueezeExcitation(nn.Module):
    """Channel attention of Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018.

    `ratio` is the bottleneck's width relative to `channels`, before rounding to a multiple of 8.
    """

    def __init__(self, channels: int, ratio: float, activation: Activation) -> None:
        super().__init__()
        width = squeezed_width(channels, ratio)
        self.reduce = nn.Conv2d(channels, width, 1)
        self.act = make_activation(activation)
        self.expand = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, H, W)` to the same shape."""
        pooled = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.expand(self.act(self.reduce(pooled))))


def squeezed_width(channels: int, ratio: float) -> int:
    """Width of the bottleneck of `SqueezeExcitation`: a multiple of 8, not much below the ratio."""
    wanted = int(channels * ratio)
    width = max(8, (wanted + 4) // 8 * 8)
    return width + 8 if width < 0.9 * wanted else width


def make_activation(name: Activation) -> nn.Module:
    """An activation that may overwrite its input, which here is always a convolution's output."""
    return nn.SiLU(inplace=True) if name == "silu" else nn.ReLU(inplace=True)


def _convolution(
    inputs: int, outputs: int, activation: Activation, kernel: int = 1, stride: int = 1
) -> nn.Sequential:
    # BatchNorm comes after the activation. It is not a slip: checkpoints depend on it.
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        make_activation(activation),
        nn.BatchNorm2d(outputs),
    )


class Downsample(nn.Module):
    """Filter and subsample, then compute the channels that are missing: the first block of a stage.

    `downsample` filters the inputs, and `pointwise(inputs, outputs)` makes the layer that computes
    the new channels from what it gives.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        downsample: nn.Module,
        pointwise: Callable[[int, int], nn.Sequential],
    ) -> None:
        super().__init__()
        self.kept = 0 if inputs > outputs else min(outputs // 2, inputs)
        """The last so many filtered channels pass unchanged."""
        self.uneven = outputs > 2 * inputs or inputs > outputs
        """Whether kept and new channels must be joined to be halved."""
        self.downsample = downsample
        self.conv1x1 = pointwise(inputs, outputs - self.kept)

    def forward(self, x: Tensor) -> Pair:
        """`(B, inputs, H, W)` to two halves of `(B, outputs / 2, H', W')`."""
        x = self.downsample(x)
        new = self.conv1x1(x)
        if self.kept:
            kept = x[:, -self.kept :]
            if not self.uneven:
                return kept, new
            new = torch.cat((kept, new), 1)
        first, second = new.chunk(2, 1)
        return first, second


class HalfIdentity(nn.Module):
    """Filter one half of the channels, take the other as it is, and compute a new half from both.

    The newer half becomes the one the next block takes as it is.
    """

    def __init__(self, half3x3: nn.Module, conv1x1: nn.Sequential) -> None:
        super().__init__()
        self.half3x3 = half3x3
        self.conv1x1 = conv1x1

    def forward(self, state: Pair) -> Pair:
        """Two halves of `(B, C / 2, H, W)` to two of the same shape."""
        older, newer = state
        return newer, self.conv1x1(torch.cat((older, self.half3x3(newer)), 1))


class Concatenate(nn.Module):
    """The two halves as one map: the last but the tail of a stage."""

    def forward(self, state: Pair) -> Tensor:
        """Two halves of `(B, C / 2, H, W)` to `(B, C, H, W)`."""
        return torch.cat(state, 1)


class FeatureMaps(NamedTuple):
    """What the stages see: each `(B, channels[i], H_i, W_i)`.

    For a 224x224 image the maps are 112, 56, 28, 14 and 7 pixels wide; in thumbnail mode the first
    two keep the size of the image. `stage4` includes the tail.
    """

    stem: Tensor
    stage1: Tensor
    stage2: Tensor
    stage3: Tensor
    stage4: Tensor


class Features(nn.Module):
    """Stem and four stages. Called on images, returns the maps of all of them."""

    def __init__(self, stem: nn.Sequential, stages: Sequence[nn.Sequential]) -> None:
        super().__init__()
        self.stem = stem
        self.stage1, self.stage2, self.stage3, self.stage4 = stages

    def forward(self, x: Tensor) -> FeatureMaps:
        """Maps of images `(B, in_channels, H, W)`; no map shares memory with another."""
        stem = self.stem(x)
        stage1 = self.stage1(stem)
        stage2 = self.stage2(stage1)
        stage3 = self.stage3(stage2)
        return FeatureMaps(stem, stage1, stage2, stage3, self.stage4(stage3))


class VGNet(nn.Module):
    """A VGNet for images `(B, in_channels, H, W)`, floating point.

    `BUILDERS` has the published ones. Not every combination was published, but all that are
    accepted are well defined: blocks, kernels and downsampling are independent of the revision,
    which decides the default activation, the Gaussian, the last 3x3 and dropout.

    Args:
        channels: Widths of stem and stages 1 to 4, even numbers.
        layers: Blocks in each stage, downsampling included, at least 1.
        num_classes: Classes.
        in_channels: Channels of the images.
        downsampling: A fixed Gaussian (VGNetG, E and F), a learned depthwise convolution (C), or
            max-pooling without padding. A stage of stride 1 has a learned one in any case.
        kernels: 3x3 filters of stride 1: learned (G and C), fixed edge detectors (E), or those
            and Gaussians (F).
        activation: `"relu"` in `paper` and `"silu"` in `release2` if not given.
        squeeze_excitation: Ratio of squeeze-and-excitation after every 1x1 of a block; 0 for none,
            0.25 in the published `_se` networks.
        squeeze_activation: Activation inside squeeze-and-excitation; the revision's default
            activation if not given, whatever `activation` is, as in the authors' code.
        revision: The authors' code of December 2021 or November 2022.
        thumbnail: Stem and stage 1 keep the resolution; for images below 128 pixels.
        dropout: Before the classifier; 0.2 in `release2` if not given. `paper` has none.

    Attributes:
        arguments: The arguments, JSON-able; `VGNet(**net.arguments)` is the same architecture.
        features: Called on images, returns the maps of stem and stages (`FeatureMaps`).

    Raises:
        ConfigError: An argument is out of range, or the widths do not go with the kernels.
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
        squeeze_activation: Activation | None = None,
        revision: Revision = "paper",
        thumbnail: bool = False,
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        usual: Activation = "silu" if revision == "release2" else "relu"
        activation, squeeze_activation = activation or usual, squeeze_activation or usual
        if dropout is None:
            dropout = 0.2 if revision == "release2" else 0.0
        self.arguments: dict[str, Any] = {
            "channels": list(channels),
            "layers": list(layers),
            "num_classes": num_classes,
            "in_channels": in_channels,
            "downsampling": downsampling,
            "kernels": kernels,
            "activation": activation,
            "squeeze_excitation": squeeze_excitation,
            "squeeze_activation": squeeze_activation,
            "revision": revision,
            "thumbnail": thumbnail,
            "dropout": dropout,
        }
        _check_arguments(self.arguments)
        frozen = revision == "paper"

        def learned(width: int, stride: int = 1) -> nn.Module:
            return nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False)

        def fixed(width: int) -> tuple[nn.Module, nn.Module]:
            filters = FixedDepthwise(edge_kernels(kernels), width, 1, as_parameter=frozen)
            return filters, nn.BatchNorm2d(width)

        def downsample(width: int, stride: int) -> nn.Module:
            if stride == 1 or downsampling == "depthwise":
                return learned(width, stride)
            if downsampling == "maxpool":
                return nn.MaxPool2d(3, stride)
            gaussian = downsampling_kernels(revision)
            return FixedDepthwise(gaussian, width, stride, as_parameter=frozen)

        def half3x3(width: int) -> nn.Module:
            return learned(width) if kernels == "learned" else nn.Sequential(*fixed(width))

        def pointwise(inputs: int, outputs: int) -> nn.Sequential:
            layers = _convolution(inputs, outputs, activation)
            if squeeze_excitation == 0:
                return layers
            attention = SqueezeExcitation(outputs, squeeze_excitation, squeeze_activation)
            return nn.Sequential(layers, attention)

        def tail(width: int) -> nn.Sequential:
            last = _convolution(width, width, activation)
            if kernels != "learned":
                return nn.Sequential(*fixed(width), last)
            shared = revision == "paper"
            return nn.Sequential(SharedDepthwise(width) if shared else learned(width), last)

        stages: list[nn.Sequential] = []
        for stage in range(1, 5):
            inputs, outputs = channels[stage - 1 : stage + 1]
            stride = 1 if thumbnail and stage == 1 else 2
            begin = Downsample(inputs, outputs, downsample(inputs, stride), pointwise)
            half = outputs // 2
            blocks = [
                HalfIdentity(half3x3(half), pointwise(outputs, half))
                for _ in range(layers[stage - 1] - 1)
            ]
            end = (Concatenate(), tail(outputs)) if stage == 4 else (Concatenate(),)
            stages.append(nn.Sequential(begin, *blocks, *end))

        stem = _convolution(in_channels, channels[0], activation, 3, 1 if thumbnail else 2)
        self.features = Features(stem, stages)
        linear = nn.Linear(channels[4], num_classes)
        self.classifier: nn.Module = linear
        if revision == "release2":
            self.classifier = nn.Sequential(nn.Dropout(dropout), linear)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits `(B, num_classes)` of images `(B, in_channels, H, W)`, floating point.

        Raises:
            ValueError: They are not, or are smaller than `minimum_size()`.
        """
        check_images(x, self.arguments["in_channels"], self.minimum_size())
        return self.classifier(self.features(x).stage4.mean((2, 3)))

    def minimum_size(self) -> int:
        """The least height and width of an image, in pixels."""
        # Without padding, as max-pooling is, maps shrink faster: 3 pixels are needed to make 1.
        sizes = (61, 15) if self.arguments["downsampling"] == "maxpool" else (32, 8)
        return sizes[self.arguments["thumbnail"]]


def check_images(x: Tensor, in_channels: int, minimum: int) -> None:
    """Raise a `ValueError` unless `x` is `(B, in_channels, H, W)`, floating point, large enough."""
    if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return  # sizes are tensors then, and a comparison would be recorded as a constant
    if x.dim() != 4 or x.shape[1] != in_channels:
        expected = f"(batch, {in_channels}, height, width)"
        raise ValueError(f"expected images of shape {expected}, found {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"expected images of a floating-point dtype, found {x.dtype}")
    if min(x.shape[2:]) < minimum:
        found = f"{x.shape[2]}x{x.shape[3]}"
        raise ValueError(f"expected images of at least {minimum}x{minimum} pixels, found {found}")


_CHOICES = {
    "downsampling": get_args(Downsampling),
    "kernels": get_args(Kernels),
    "activation": get_args(Activation),
    "squeeze_activation": get_args(Activation),
    "revision": get_args(Revision),
}


def _check_arguments(given: Mapping[str, Any]) -> None:
    for name, known in _CHOICES.items():
        if given[name] not in known:
            raise ConfigError(f"{name}: expected one of {', '.join(known)}, found {given[name]!r}")
    channels, layers, kernels = given["channels"], given["layers"], given["kernels"]
    paper = given["revision"] == "paper"
    dropout, ratio = given["dropout"], given["squeeze_excitation"]
    if len(channels) != 5:
        raise ConfigError(f"channels: expected 5 (stem, stages 1 to 4), found {channels}")
    if len(layers) != 4 or min(layers) < 1:
        raise ConfigError(f"layers: expected 4 numbers of at least 1, found {layers}")
    for name in ("num_classes", "in_channels"):
        if given[name] < 1:
            raise ConfigError(f"{name}: expected at least 1, found {given[name]}")
    divisor = {"learned": 2, "edge": 8, "edge_gaussian": 16}[kernels]
    places = ("stem", "stage 1", "stage 2", "stage 3", "stage 4")
    for place, width in zip(places, channels, strict=True):
        # The stem has no block to halve, but the sign of the Gaussian alternates over its channels.
        needed = 2 if place == "stem" else divisor
        if width < needed or width % needed:
            raise ConfigError(
                f"channels: the width of {place} must be a positive multiple of {needed} with "
                f"kernels={kernels!r}, found {width}"
            )
    if paper and kernels == "learned" and channels[4] % SHARED_GROUPS:
        raise ConfigError(
            f"channels: the width of stage 4 must be a multiple of {SHARED_GROUPS}, because the "
            f"last 3x3 is shared by so many groups in the revision 'paper'; found {channels[4]}"
        )
    if not 0 <= ratio <= 1:
        raise ConfigError(f"squeeze_excitation: expected 0 to 1, found {ratio}")
    if not 0 <= dropout < 1 or (dropout > 0 and paper):
        raise ConfigError(
            f"dropout: expected at least 0 and below 1, and 0 in the revision 'paper', which has "
            f"none; found {dropout}"
        )


def count_parameters(network: nn.Module) -> tuple[int, int]:
    """Parameters of a network: trainable, and all that are stored as parameters.

    Fixed filters count among the stored ones in the revision `paper`, where they are frozen
    parameters, and not at all in `release2`, where they are buffers; so do the published numbers.
    """
    parameters = list(network.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)


@torch.no_grad()
def count_multiply_adds(network: nn.Module, size: Sequence[int]) -> int:
    """Multiply-adds of one forward pass of `(B, C, H, W)` in eval mode, counted as fvcore does.

    A multiplication with an addition counts one; a BatchNorm counts two for every number, average
    pooling one for every number pooled, activations and products with channel weights none.
    """
    example = next(network.parameters())
    training = {module: module.training for module in network.modules()}
    # The counter counts a multiply-add of convolutions and matrix products as two operations.
    norm, pool = _operations_an_element(4), _operations_an_element(2)
    aten = torch.ops.aten
    norms = (
        aten.native_batch_norm,
        aten._native_batch_norm_legit_no_training,
        aten.cudnn_batch_norm,
    )
    counts = dict.fromkeys(norms, norm) | dict.fromkeys(
        (aten.mean, aten._adaptive_avg_pool2d), pool
    )
    counter = FlopCounterMode(display=False, custom_mapping=counts)
    try:
        network.eval()
        with counter:
            network(torch.zeros(*size, device=example.device, dtype=example.dtype))
    finally:
        for module, mode in training.items():
            module.training = mode
    return counter.get_total_flops() // 2


def _operations_an_element(operations: int) -> Callable[..., int]:
    def count(input_shape: Sequence[int], *_: object, **__: object) -> int:
        return operations * math.prod(input_shape)

    return count


# The published networks: functions of the arguments of `VGNet`, which win over theirs.

_1_0MP: dict[str, Any] = {"channels": (28, 56, 112, 224, 368), "layers": (4, 7, 13, 2)}
_1_5MP: dict[str, Any] = {"channels": (32, 64, 128, 256, 512), "layers": (3, 7, 14, 2)}
_2_0MP: dict[str, Any] = {"channels": (32, 72, 168, 376, 512), "layers": (3, 6, 13, 2)}
_2_5MP: dict[str, Any] = {"channels": (32, 80, 192, 400, 544), "layers": (3, 6, 16, 2)}
_5_0MP: dict[str, Any] = {"channels": (32, 88, 216, 456, 856), "layers": (4, 7, 15, 5)}
_SE: dict[str, Any] = {"squeeze_excitation": 0.25}


# Parameters, multiply-adds and accuracies: README.
vgnetg_1_0mp = partial(VGNet, **_1_0MP)
vgnetg_1_0mp_se = partial(VGNet, **_1_0MP, **_SE)
vgnetg_1_0mp_silu = partial(VGNet, **_1_0MP, activation="silu")
vgnetc_1_0mp = partial(VGNet, **_1_0MP, downsampling="depthwise", revision="release2")
vgnetg_1_5mp = partial(VGNet, **_1_5MP)
vgnetg_1_5mp_se = partial(VGNet, **_1_5MP, **_SE)
vgnetg_1_5mp_silu = partial(VGNet, **_1_5MP, activation="silu")
vgnetc_1_5mp = partial(VGNet, **_1_5MP, downsampling="depthwise")
vgnete_1_5mp = partial(VGNet, **_1_5MP, kernels="edge")
vgnetf_1_5mp = partial(VGNet, **_1_5MP, kernels="edge_gaussian")
vgnetg_2_0mp = partial(VGNet, **_2_0MP)
vgnetg_2_0mp_se = partial(VGNet, **_2_0MP, **_SE)
vgnetg_2_5mp = partial(VGNet, **_2_5MP)
vgnetg_2_5mp_se = partial(VGNet, **_2_5MP, **_SE)
vgnetg_5_0mp = partial(VGNet, **_5_0MP)
vgnetg_5_0mp_se = partial(VGNet, **_5_0MP, **_SE)

BUILDERS: Mapping[str, Callable[..., VGNet]] = {
    name: builder for name, builder in globals().items() if isinstance(builder, partial)
}
"""The published networks by name. Each takes the arguments of `VGNet`, all optional."""
