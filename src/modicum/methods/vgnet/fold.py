"""An equivalent network for inference: no normalisation, no concatenation, matrix products.

A convolution of VGNet is followed by an activation and then by BatchNorm: `y = s * act(W x) + t`,
where `s = weight / sqrt(var + eps)` and `t = bias - s * mean` are constants in eval mode. The usual
folding of a BatchNorm into the convolution before it is wrong here, because the activation lies
between. Four identities hold exactly:

1. *Backward through ReLU*, which is positively homogeneous. With `u = W x`,

       s * max(u, 0) + t = max(s * u + t, t)   in channels with s >= 0,
       s * max(u, 0) + t = min(s * u + t, t)   in channels with s < 0.

   The rows of `W` are multiplied by `s`, `t` becomes a bias, and ReLU and BatchNorm become one
   clamp. Nothing is divided by `s`, so scales may be tiny or zero. The result is the normalised map
   itself, so the zero padding of the next 3x3, a max-pooling and squeeze-and-excitation read what
   they read before. Folding forward, into the readers, would leave `t` to be added along the
   border, because the 3x3 pads with zeros after the BatchNorm.
2. *SiLU* is not homogeneous: `s * silu(u) + t` is computed, in one pass after the SiLU.
3. *Forward into a 1x1 convolution.* In VGNetE and F a BatchNorm follows the fixed 3x3, and a 1x1
   convolution, which has no padding, follows at once: `W (s * x + t) = (W * s) x + W t`.
4. *A product of parts.* `W cat(a, b) = W_a a + W_b b`: the two halves of a stage are never joined,
   the second product is added to the first in place.

Within a stage a map `(B, C, H, W)` is held as a matrix `(B * H * W, C)`, its pixels in rows: the
memory of a channels-last map. A 1x1 convolution is then a matrix product, for which BLAS needs less
time than a convolution does, and a channels-last 3x3 needs less than one on channels first.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from modicum.methods.vgnet.model import (
    SHARED_GROUPS,
    Downsample,
    FixedDepthwise,
    HalfIdentity,
    Pair,
    SharedDepthwise,
    SqueezeExcitation,
    VGNet,
    check_images,
)


def fold(net: VGNet) -> nn.Module:
    """A faster network for inference, which computes what `net` computes in eval mode.

    It takes any images that `net` takes, can be compiled, and can be exported to ONNX
    (`torch.onnx.export` with `dynamo=False`; the size of the images is then fixed).

    Args:
        net: Any VGNet, in any mode. It is left as it is, and shares no memory with the result.

    Returns:
        A network in eval mode with the device and dtype of `net`, whose parameters are frozen. To
        put it into training mode is a `RuntimeError`.
    """
    like = next(net.parameters())
    return FoldedVGNet(net).to(like.device, like.dtype).eval().requires_grad_(False)


class FoldedVGNet(nn.Module):
    """What `fold` makes of a VGNet."""

    def __init__(self, net: VGNet) -> None:
        super().__init__()
        features = net.features
        stages = (features.stage1, features.stage2, features.stage3, features.stage4)
        self.in_channels: int = net.arguments["in_channels"]
        self.minimum = net.minimum_size()
        self.stem = FoldedConvolution(features.stem)
        self.stages = nn.ModuleList(FoldedStage(stage) for stage in stages)
        *spatial, last = cast(nn.Sequential, features.stage4[-1])
        self.tail_filter, norm = fold_filter(nn.Sequential(*spatial))
        self.tail = FoldedConvolution(cast(nn.Sequential, last), norm)
        classifier = net.classifier
        if isinstance(classifier, nn.Sequential):
            classifier = classifier[-1]  # all but the dropout
        self.classifier = copy.deepcopy(classifier)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits `(B, num_classes)` of images `(B, in_channels, H, W)`, as `VGNet`'s."""
        check_images(x, self.in_channels, self.minimum)
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        for stage in self.stages:
            x = stage(x)
        x = self.tail(self.tail_filter(x))
        return self.classifier(x.mean((2, 3)))

    def train(self, mode: bool = True) -> FoldedVGNet:
        """Refuse training mode: there are no statistics left to train with."""
        if mode:
            raise RuntimeError(
                "a folded VGNet is for inference only: its normalisations have become constants. "
                "Train the VGNet it was made from, and fold that again."
            )
        return super().train(mode)


class FoldedConvolution(nn.Module):
    """A convolution, an activation and a BatchNorm: `s * act(W x) + t`.

    Args:
        layers: The three, or a sequence of those and `SqueezeExcitation`, which stays.
        norm: A BatchNorm whose output is the last channels of the input, to be folded forward; the
            convolution is then 1x1.

    Attributes:
        weight: `(outputs, inputs, k, k)`; before ReLU, multiplied by `s`.
        bias: `(outputs,)`; before ReLU, with `t` added.
        first, second: `(outputs,)`. Of ReLU, lower and upper bound of the clamp; of SiLU, `s` and
            `t`.
    """

    first: Tensor
    second: Tensor

    def __init__(self, layers: nn.Sequential, norm: nn.BatchNorm2d | None = None) -> None:
        super().__init__()
        attention = None
        if isinstance(layers[-1], SqueezeExcitation):
            attention = copy.deepcopy(layers[-1])
            layers = cast(nn.Sequential, layers[0])
        convolution = cast(nn.Conv2d, layers[0])
        # In double precision, so that the folded network is as exact as the original.
        weight = convolution.weight.detach().double()
        bias = weight.new_zeros(len(weight))
        if norm is not None:
            scale, shift = affine(norm)
            normalised = weight[:, -len(scale) :]
            bias = normalised[:, :, 0, 0] @ shift
            normalised = normalised * scale[:, None, None]
            weight = torch.cat((weight[:, : -len(scale)], normalised), 1)
        first, second = affine(cast(nn.BatchNorm2d, layers[2]))
        self.silu = isinstance(layers[1], nn.SiLU)
        if not self.silu:
            scale, shift, infinity = first, second, torch.full_like(first, torch.inf)
            weight = weight * scale[:, None, None, None]
            bias = bias * scale + shift
            first = torch.where(scale >= 0, shift, -infinity)
            second = torch.where(scale >= 0, infinity, shift)
        self.stride = convolution.stride[0]
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)
        self.register_buffer("first", first)
        self.register_buffer("second", second)
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        """`(B, inputs, H, W)`, channels last, to `(B, outputs, H', W')`, channels last."""
        kernel = self.weight.shape[2]
        if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
            y = traced(x, self.weight, self.bias, self.first, self.second, self.silu, self.stride)
        else:
            if kernel == 1:
                u = functional.linear(x.permute(0, 2, 3, 1), self.weight[:, :, 0, 0], self.bias)
            else:
                u = functional.conv2d(x, self.weight, self.bias, self.stride, kernel // 2)
                u = u.permute(0, 2, 3, 1)
            y = finish(u, self.first, self.second, self.silu).permute(0, 3, 1, 2)
        return y if self.attention is None else self.attention(y)


class FoldedStage(nn.Module):
    """A stage without its tail: downsampling, half-identity blocks, and the join of the halves.

    The blocks are equal in shape, and their weights are stacked: a look-up of an attribute and a
    call of a module take microseconds, a matrix product here 70 to 180. In the shapes below, N is
    the number of blocks and H the width of a half.

    Attributes:
        kernels: `(N, H, 1, 3, 3)`.
        older: `(N, H, H)`, inputs by outputs, what the identity half is multiplied by.
        newer: `(N, H, H)`, what the filtered half is multiplied by.
        bias, first, second: `(N, H)`, see `FoldedConvolution`.
    """

    kernels: Tensor
    older: Tensor
    newer: Tensor
    bias: Tensor
    first: Tensor
    second: Tensor

    def __init__(self, stage: nn.Sequential) -> None:
        super().__init__()
        begin = cast(Downsample, stage[0])
        self.kept = begin.kept
        self.uneven = begin.uneven
        self.downsample, _ = fold_filter(begin.downsample)
        self.conv1x1 = FoldedConvolution(begin.conv1x1)
        self.silu = self.conv1x1.silu
        kernels: list[Tensor] = []
        pointwise: list[FoldedConvolution] = []
        for block in stage:
            if isinstance(block, HalfIdentity):
                depthwise, norm = fold_filter(block.half3x3)
                kernels.append(cast(nn.Conv2d, depthwise).weight)
                pointwise.append(FoldedConvolution(block.conv1x1, norm))
        self.attention = nn.ModuleList(p.attention for p in pointwise if p.attention)
        self.blocks = len(kernels)
        if not kernels:
            return
        products = torch.stack([p.weight[:, :, 0, 0].t() for p in pointwise])
        older, newer = products.chunk(2, 1)
        for name, stacked in (
            ("kernels", torch.stack(kernels)),
            ("older", older),
            ("newer", newer),
            ("bias", torch.stack([p.bias for p in pointwise])),
            ("first", torch.stack([p.first for p in pointwise])),
            ("second", torch.stack([p.second for p in pointwise])),
        ):
            setattr(self, name, nn.Parameter(stacked.detach().contiguous()))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, inputs, H, W)` to `(B, outputs, H', W')`, channels last."""
        x = self.downsample(x)
        older, newer = x[:, -self.kept :], self.conv1x1(x)
        if self.uneven:
            joined = torch.cat((older, newer), 1) if self.kept else newer
            older, newer = joined.chunk(2, 1)
        if self.blocks:
            tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
            older, newer = (self.convolutions if tracing else self.products)(older, newer)
        return torch.cat((older, newer), 1)

    def products(self, older: Tensor, newer: Tensor) -> Pair:
        """The half-identity blocks, by matrix products."""
        batch, half, height, width = newer.shape
        shape = (batch, height, width, half)
        older, newer = rows(older), rows(newer)
        attention = list(self.attention)
        # Written out: with ten calls for a block, each call through a helper would be felt.
        stacks = (self.kernels, self.older, self.newer, self.bias, self.first, self.second)
        for kernel, by_older, by_newer, bias, first, second in zip(*map(torch.unbind, stacks)):
            filtered = functional.conv2d(image(newer, shape), kernel, None, 1, 1, 1, half)
            u = torch.addmm(bias, older, by_older)
            u.addmm_(rows(filtered), by_newer)
            u = finish(u, first, second, self.silu)
            if attention:
                u = rows(attention.pop(0)(image(u, shape)))
            older, newer = newer, u
        return image(older, shape), image(newer, shape)

    def convolutions(self, older: Tensor, newer: Tensor) -> Pair:
        """The same for an exported graph. See `traced`."""
        for n in range(self.blocks):
            filtered = functional.conv2d(newer, self.kernels[n], None, 1, 1, 1, newer.shape[1])
            weight = torch.cat((self.older[n], self.newer[n])).t()[:, :, None, None]
            x = torch.cat((older, filtered), 1)
            x = traced(x, weight, self.bias[n], self.first[n], self.second[n], self.silu)
            older, newer = newer, self.attention[n](x) if self.attention else x
        return older, newer


def rows(image: Tensor) -> Tensor:
    """A channels-last map `(B, C, H, W)` as `(B * H * W, C)`, which shares its memory."""
    return image.permute(0, 2, 3, 1).flatten(0, 2)


def image(rows: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """The map `(B, C, H, W)` of `rows`; its `shape` is given as `(B, H, W, C)`."""
    return rows.view(shape).permute(0, 3, 1, 2)


def finish(u: Tensor, first: Tensor, second: Tensor, silu: bool) -> Tensor:
    """Activation and normalisation of a convolution's output `(..., channels)`, which is lost."""
    if silu:
        return torch.addcmul(second, functional.silu(u, inplace=True), first)
    return u.clamp_(first, second)


def traced(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    first: Tensor,
    second: Tensor,
    silu: bool,
    stride: int = 1,
) -> Tensor:
    """A convolution with what follows it in the terms of an exported graph, channels first.

    ONNX Runtime fuses a convolution with a ReLU, but not with a clamp whose bounds differ between
    channels, and keeps a BatchNorm, but not an addition, in its blocked layout. So a clamp is
    written as `sign(s) * max(|s| u, 0) + t`.
    """
    if not silu:
        positive = second == torch.inf
        sign, shift = torch.where(positive, 1.0, -1.0), torch.where(positive, first, second)
        weight, bias = weight * sign[:, None, None, None], (bias - shift) * sign
        first, second = sign, shift
    x = functional.conv2d(x, weight, bias, stride, weight.shape[2] // 2)
    x = functional.silu(x) if silu else functional.relu(x)
    zero, one = torch.zeros_like(first), torch.ones_like(first)
    return functional.batch_norm(x, zero, one, first, second, eps=0.0)


def fold_filter(module: nn.Module) -> tuple[nn.Module, nn.BatchNorm2d | None]:
    """A 3x3 as a convolution or a max-pooling, and the BatchNorm that follows it, if one does."""
    norm = None
    if isinstance(module, nn.Sequential):
        norm = cast(nn.BatchNorm2d, module[1]) if len(module) > 1 else None
        module = module[0]
    if isinstance(module, nn.MaxPool2d):
        return copy.deepcopy(module), norm
    if isinstance(module, SharedDepthwise):  # its kernels written out for every group
        weight, stride = module.mux.weight.repeat(SHARED_GROUPS, 1, 1, 1), 1
    elif isinstance(module, FixedDepthwise):
        weight, stride = module.weight, module.stride
    else:
        convolution = cast(nn.Conv2d, module)
        weight, stride = convolution.weight, convolution.stride[0]
    width = len(weight)
    folded = nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False)
    folded.weight = nn.Parameter(weight.detach().clone())
    return folded, norm


def affine(norm: nn.BatchNorm2d) -> Pair:
    """Scale and shift of a BatchNorm in eval mode, float64, each `(channels,)`."""
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    scale = norm.weight.detach().double() / (variance.double() + norm.eps).sqrt()
    return scale, norm.bias.detach().double() - scale * mean.double()
