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
   they read before. (Folding forward, into the readers, would leave `t` to be added along the
   border, because the 3x3 pads with zeros after the BatchNorm.)
2. *SiLU* is not homogeneous: `s * silu(u) + t` is computed, in one pass after the SiLU.
3. *Forward into a 1x1 convolution.* In VGNetE and F a BatchNorm follows the fixed 3x3, and a 1x1
   convolution, which has no padding, follows at once: `W (s * x + t) = (W * s) x + W t`.
4. *A product of parts.* `W cat(a, b) = W_a a + W_b b`: the two halves of a stage are never joined,
   the second product is added to the first in place.

Within a stage a map `(B, C, H, W)` is held as a matrix `(B * H * W, C)`, its pixels in rows, in the
memory of a channels-last map. A 1x1 convolution is then a matrix product, for which BLAS needs less
time than a convolution does, and a 3x3 is faster on channels last as well.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple, cast

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
    (`torch.onnx.export` with `dynamo=False`).

    Args:
        net: Any VGNet, in any mode. It is left as it is, and shares no memory with the result.

    Returns:
        A network in eval mode with the device and dtype of `net`, whose parameters are frozen. To
        put it into training mode is a `RuntimeError`.
    """
    like = next(net.parameters())
    return FoldedVGNet(net).eval().requires_grad_(False).to(like.device, like.dtype)


class FoldedVGNet(nn.Module):
    """What `fold` makes of a VGNet."""

    def __init__(self, net: VGNet) -> None:
        super().__init__()
        features = net.features
        self.in_channels: int = net.arguments["in_channels"]
        self.minimum = net.minimum_size()
        stages = (features.stage1, features.stage2, features.stage3, features.stage4)
        self.stages = nn.Sequential(FoldedConvolution(features.stem), *map(FoldedStage, stages))
        *spatial, last = cast(nn.Sequential, features.stage4[-1])
        self.tail_filter, norm = fold_filter(nn.Sequential(*spatial))
        self.tail = FoldedConvolution(cast(nn.Sequential, last), norm)
        classifier = net.classifier
        dropout = isinstance(classifier, nn.Sequential)
        self.classifier = copy.deepcopy(classifier[-1] if dropout else classifier)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits `(B, num_classes)` of images `(B, in_channels, H, W)`, as `VGNet`'s."""
        check_images(x, self.in_channels, self.minimum)
        if not torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.tail(self.tail_filter(self.stages(x)))
        return self.classifier(x.mean((2, 3)))

    def train(self, mode: bool = True) -> FoldedVGNet:
        """Refuse training mode: there are no statistics left to train with."""
        if mode:
            raise RuntimeError(
                "a folded VGNet is for inference only: its normalisations have become constants. "
                "Train the VGNet it was made from, and fold that again."
            )
        return super().train(mode)


class Constants(NamedTuple):
    """What a convolution, an activation and a BatchNorm come to: `s * act(W x) + t`.

    Attributes:
        weight: Of a 1x1 `(inputs, outputs)`, else `(outputs, inputs, k, k)`; before ReLU,
            multiplied by `s`.
        bias: `(outputs,)`; before ReLU, with `t` added.
        first, second: `(outputs,)`. Of ReLU, lower and upper bound of the clamp, the upper None
            where no `s` is negative, as is usual; of SiLU, `s` and `t`.
        attention: `SqueezeExcitation` of the result, or None.
    """

    weight: Tensor
    bias: Tensor
    first: Tensor
    second: Tensor | None
    attention: SqueezeExcitation | None


class FoldedConvolution(nn.Module):
    """A convolution, an activation and a BatchNorm, held as `Constants`.

    Args:
        layers: The three, or a sequence of those and `SqueezeExcitation`, which stays.
        norm: A BatchNorm whose output is the last channels of the input, to be folded forward; the
            convolution is then 1x1.
    """

    first: Tensor
    second: Tensor | None

    def __init__(self, layers: nn.Sequential, norm: nn.BatchNorm2d | None = None) -> None:
        super().__init__()
        self.attention: SqueezeExcitation | None = None
        last = layers[-1]
        if isinstance(last, SqueezeExcitation):
            self.attention = copy.deepcopy(last)
            layers = cast(nn.Sequential, layers[0])
        convolution = cast(nn.Conv2d, layers[0])
        # In double precision, so that the folded network is as exact as the original.
        weight = convolution.weight.detach().double()
        bias = weight.new_zeros(len(weight))
        if norm is not None:
            scale, shift = affine(norm)
            as_it_is, normalised = weight.split((weight.shape[1] - len(scale), len(scale)), 1)
            bias = normalised[:, :, 0, 0] @ shift
            weight = torch.cat((as_it_is, normalised * scale[:, None, None]), 1)
        first, second = affine(cast(nn.BatchNorm2d, layers[2]))
        self.silu = isinstance(layers[1], nn.SiLU)
        if not self.silu:
            scale, shift, negative = first, second, first < 0
            weight = weight * scale[:, None, None, None]
            bias = bias * scale + shift
            first = shift.masked_fill(negative, -torch.inf)
            second = shift.masked_fill(~negative, torch.inf) if negative.any() else None
        if weight.shape[2] == 1:
            weight = weight[:, :, 0, 0].t().contiguous()
        self.stride = convolution.stride[0]
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)
        self.register_buffer("first", first)
        self.register_buffer("second", second)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, inputs, H, W)`, channels last, to `(B, outputs, H', W')`, channels last."""
        if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
            return self.traced(x)
        if self.weight.dim() == 4:
            u = functional.conv2d(x, self.weight, self.bias, self.stride, 1).permute(0, 2, 3, 1)
        else:
            u = functional.linear(x.permute(0, 2, 3, 1), self.weight.t(), self.bias)
        y = finish(u, self.first, self.second, self.silu).permute(0, 3, 1, 2)
        return self.attention(y) if self.attention else y

    def constants(self) -> Constants:
        """Everything in one, without gradients."""
        weight, bias = self.weight.detach(), self.bias.detach()
        return Constants(weight, bias, self.first, self.second, self.attention)

    def traced(self, x: Tensor) -> Tensor:
        """The same in the terms of an exported graph, channels first.

        ONNX Runtime fuses a convolution with a ReLU, but not with a clamp whose bounds differ
        between channels, and keeps a BatchNorm, but not an addition, in its blocked layout. So the
        clamp is written as `sign(s) * max(|s| u, 0) + t`.
        """
        weight, bias, first, second, attention = self.constants()
        if weight.dim() == 2:
            weight = weight.t()[:, :, None, None]
        zero, one = torch.zeros_like(first), torch.ones_like(first)
        if self.silu:
            scale, shift = first, second
        else:
            scale, shift = one, first
            if second is not None:
                scale = torch.where(second < torch.inf, -one, one)
                shift = torch.where(second < torch.inf, second, first)
            weight, bias = weight * scale[:, None, None, None], (bias - shift) * scale
        x = functional.conv2d(x, weight, bias, self.stride, weight.shape[2] // 2)
        x = functional.silu(x) if self.silu else functional.relu(x)
        y = functional.batch_norm(x, zero, one, scale, shift, eps=0.0)
        return attention(y) if attention else y


class FoldedStage(nn.Module):
    """A stage without its tail: downsampling, half-identity blocks, and the join of the halves."""

    def __init__(self, stage: nn.Sequential) -> None:
        super().__init__()
        begin = cast(Downsample, stage[0])
        self.kept = begin.kept
        self.uneven = begin.uneven
        self.downsample, _ = fold_filter(begin.downsample)
        self.begin = FoldedConvolution(begin.conv1x1)
        self.silu = self.begin.silu
        self.filters = nn.ModuleList()
        self.convolutions = nn.ModuleList()
        for block in stage:
            if isinstance(block, HalfIdentity):
                half3x3, norm = fold_filter(block.half3x3)
                self.filters.append(half3x3)
                self.convolutions.append(FoldedConvolution(block.conv1x1, norm))
        self.gather()

    def gather(self) -> None:
        """Look the parameters up that `forward` needs."""
        self.begin_constants = self.begin.constants()
        # For each block: 3x3 kernels, weights of the older and of the newer half, and the rest.
        self.blocks: list[tuple[Tensor, Tensor, Tensor, Constants]] = []
        for half3x3, module in zip(self.filters, self.convolutions, strict=True):
            kernels = cast(nn.Conv2d, half3x3).weight.detach()
            constants = cast(FoldedConvolution, module).constants()
            by_older, by_newer = constants.weight.chunk(2)
            self.blocks.append((kernels, by_older, by_newer, constants))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FoldedStage:
        # `to` and its like come here, and may replace parameters.
        super()._apply(fn, recurse)
        self.gather()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """`(B, inputs, H, W)` to `(B, outputs, H', W')`, channels last.

        Parameters are gathered beforehand and steps written out, because a block takes 150
        microseconds where maps are small, and look-ups and calls of modules would add a tenth.
        """
        x = self.downsample(x)
        if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
            return self.traced(x)
        batch, _, height, width = x.shape
        silu = self.silu
        pixels = rows(x)
        weight, bias, first, second, attention = self.begin_constants
        older = pixels[:, -self.kept :]
        newer = finish(torch.addmm(bias, pixels, weight), first, second, silu)
        if attention is not None:
            newer = attend(attention, newer, batch)
        if self.uneven:
            older, newer = (torch.cat((older, newer), 1) if self.kept else newer).chunk(2, 1)
        half = newer.shape[1]
        for kernels, by_older, by_newer, (_, bias, first, second, attention) in self.blocks:
            image = newer.view(batch, height, width, half).permute(0, 3, 1, 2)
            filtered = functional.conv2d(image, kernels, None, 1, 1, 1, half)
            u = torch.addmm(bias, older, by_older)
            u.addmm_(rows(filtered), by_newer)
            u = finish(u, first, second, silu)
            if attention is not None:
                u = attend(attention, u, batch)
            older, newer = newer, u
        joined = torch.cat((older, newer), 1)
        return joined.view(batch, height, width, 2 * half).permute(0, 3, 1, 2)

    def traced(self, x: Tensor) -> Tensor:
        """The rest of `forward` for an exported graph, channels first."""
        older, newer = x[:, -self.kept :], self.begin(x)
        if self.uneven:
            older, newer = (torch.cat((older, newer), 1) if self.kept else newer).chunk(2, 1)
        for half3x3, conv1x1 in zip(self.filters, self.convolutions, strict=True):
            older, newer = newer, conv1x1(torch.cat((older, half3x3(newer)), 1))
        return torch.cat((older, newer), 1)


def rows(image: Tensor) -> Tensor:
    """A channels-last map `(B, C, H, W)` as a matrix `(B * H * W, C)` in the same memory."""
    return image.permute(0, 2, 3, 1).flatten(0, 2)


def finish(u: Tensor, first: Tensor, second: Tensor | None, silu: bool) -> Tensor:
    """Activation and normalisation of a convolution's output `(..., channels)`, which is lost."""
    if silu:
        return torch.addcmul(cast(Tensor, second), functional.silu(u, inplace=True), first)
    return u.clamp_min_(first) if second is None else u.clamp_(first, second)


def attend(attention: SqueezeExcitation, u: Tensor, batch: int) -> Tensor:
    """`SqueezeExcitation` on a matrix `(batch * H * W, C)`, which is overwritten."""
    pixels = u.view(batch, -1, u.shape[1])
    reduce, expand = attention.reduce, attention.expand
    hidden = functional.linear(pixels.mean(1), reduce.weight.flatten(1), reduce.bias)
    gate = functional.linear(attention.act(hidden), expand.weight.flatten(1), expand.bias)
    return pixels.mul_(gate.sigmoid_()[:, None]).view_as(u)


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
