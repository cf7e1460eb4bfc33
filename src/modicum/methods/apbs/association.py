"""Synapses of one neuron that strengthen each other when they are active together.

Shen, Luo, Cao, Zhang, Xiao and Wang, "Modeling Associative Plasticity between Synapses to Enhance
Learning of Spiking Neural Networks", arXiv:2207.11670. The equations are inferred: only the
properties they must have are published (README, What it is).

A neuron with synapses `j`, inputs `s_j` and weights `w_j` receives

    I = sum_j w_j s_j * (1 + lambda / (c + eps) * sum_{k != j} |w_k| s_k)  +  b

so that each synapse is helped by the others in proportion to how active and how strong they are,
and none by itself. `c` is the usual amount of help, remembered per output channel (the cache). The
pair sum is exact and costs three convolutions (or products) instead of one:

    y = conv(s, W)    f = conv(s, |W|)    e = conv(s * s, W * |W|)
    a = sum_{j != k} w_j s_j |w_k| s_k = y * f - e
    I = y + lambda / (c + eps) * a + b

The layers below have the parameters of `nn.Conv2d` and `nn.Linear` and no others.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from modicum.engine.distributed import mean_over_processes
from modicum.errors import ConfigError, DataError
from modicum.spiking.layers import AdaptiveSynapses, scaled

Measure = Literal["magnitude", "product"]
Cache = Literal["rms", "mean", "none"]

EPSILON = 1e-6
_log = logging.getLogger("modicum")


class _Convolve(NamedTuple):
    """A convolution without its weights; as a function, `conv(x, weight, bias)`."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.conv2d(x, weight, bias, *self)

    def gradients(
        self, grad: Tensor, x: Tensor, weight: Tensor, of_x: bool, of_weight: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of input and weight, those that are asked for."""
        if not (of_x or of_weight):
            return None, None
        stride, padding, dilation, groups = self
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad, x, weight, None, stride, padding, dilation, False, [0, 0], groups,
            [of_x, of_weight, False],
        )  # fmt: skip
        return grad_x, grad_weight


class _Multiply(NamedTuple):
    """A linear map without its weights; as a function, `x @ weight.T + bias`."""

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.linear(x, weight, bias)

    def gradients(
        self, grad: Tensor, x: Tensor, weight: Tensor, of_x: bool, of_weight: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of input and weight, those that are asked for."""
        grad_weight = grad.flatten(0, -2).T @ x.flatten(0, -2) if of_weight else None
        return grad @ weight if of_x else None, grad_weight


class _Association(AdaptiveSynapses, nn.Module):
    """What both layers share: the cache, the three maps, and how weights are read."""

    weight: Tensor
    bias: Tensor | None
    cache: Tensor
    num_updates: Tensor

    def _prepare(
        self,
        synapses: _Convolve | _Multiply,
        association: float,
        measure: Measure,
        cache: Cache,
        exclude_self: bool,
        momentum: float,
    ) -> None:
        if not math.isfinite(association):
            raise ConfigError(f"association: expected a finite number, found {association}")
        for name, value, choices in (("measure", measure, Measure), ("cache", cache, Cache)):
            if value not in (known := get_args(choices)):
                raise ConfigError(f"{name}: expected one of {', '.join(known)}, found {value!r}")
        if not 0 < momentum <= 1:
            raise ConfigError(f"momentum: expected above 0 and at most 1, found {momentum}")
        self.synapses, self.association, self.momentum = synapses, association, momentum
        self.measure, self.cache_kind, self.exclude_self = measure, cache, exclude_self
        self.register_buffer("cache", self.weight.new_zeros(len(self.weight)))
        self.register_buffer("num_updates", self.weight.new_zeros((), dtype=torch.int64))
        self.channels = (-1, 1, 1) if isinstance(synapses, _Convolve) else (-1,)
        self._cache_checked = False
        if association != 0:
            self.operations_per_synapse = 1 + (measure == "magnitude") + exclude_self
            self.operations_per_output = 1

    def forward(self, input: Tensor) -> Tensor:
        """Currents `I` in the text above; in training mode, updates the cache.

        Takes and returns the shapes of the plain layer, batched.

        Computed in float32 or better, also inside autocast: `y * f - e` is a small difference of
        products of sums.

        Raises:
            DataError: The input is not batched.
        """
        self._refuse_unbatched(input)
        if self.association == 0:
            return super().forward(input)  # bit by bit the plain layer
        with torch.autocast(input.device.type, enabled=False):
            x, weight, bias = self._in_full_precision(input)
            inputs = (x, weight) if bias is None else (x, weight, bias)
            if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
                return _Associate.apply(x, weight, bias, self)  # type: ignore[no-untyped-call]
            if self.training:
                return _associate(x, weight, bias, self)[0]
            one = torch.ones_like(self.cache)
            return self._infer(x, one, torch.zeros_like(one) if bias is None else bias)

    def scaled(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """`scale * self(x) + shift`; without gradients, at no cost."""
        self._refuse_unbatched(x)
        if self.association == 0:
            return scaled(self, x, scale, shift)  # pyright: ignore[reportArgumentType]
        inputs = (x, self.weight, scale, shift)
        gradients = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
        if gradients or self.training:
            shape = self.channels
            return self(x) * scale.view(shape) + shift.view(shape)
        with torch.autocast(x.device.type, enabled=False):
            x, _, bias = self._in_full_precision(x)
            return self._infer(x, scale, shift if bias is None else shift + scale * bias)

    def pair_sum(self, x: Tensor) -> Tensor:
        """`a` of inputs `x`: the sum over pairs of synapses, which no cache divides.

        Zero where fewer than two synapses of a neuron are active, if `exclude_self`.
        """
        x, weight, _ = self._in_full_precision(x)
        partner, own = self.partners(weight)
        y = self.synapses(x, weight)
        a = y * (y if partner is weight else self.synapses(x, partner))
        return a - self.synapses(x * x, own) if self.exclude_self else a

    def partners(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """How strong each synapse is as a partner, and that times its weight: `|W|` and `W |W|`."""
        partner = weight.abs() if self.measure == "magnitude" else weight
        return partner, weight * partner

    def strength(self, f: Tensor, weight: Tensor) -> Tensor:
        """`lambda / (c + eps)`, `(outputs,)`, after the update of the cache with partners `f`."""
        if self.training and self.sequence_begins and self.cache_kind != "none" and f.numel():
            dims = [dim for dim in range(f.dim()) if dim != f.dim() - len(self.channels)]
            rms = self.cache_kind == "rms"
            now = mean_over_processes((f.square() if rms else f.abs()).mean(dims))
            now = now.sqrt() if rms else now
            # Without a branch on a number that may lie on a GPU: the first update replaces.
            momentum = torch.where(self.num_updates == 0, 1.0, self.momentum).to(self.cache.dtype)
            self.cache.lerp_(now.to(self.cache.dtype), momentum)
            self.num_updates.add_(1)
        return self.association / (self._scale(weight) + EPSILON)

    def _scale(self, weight: Tensor) -> Tensor:
        """`c`."""
        total = weight.detach().abs().flatten(1).sum(1)
        if self.cache_kind == "none":
            return total
        if not self.training and not self._cache_checked:
            self._cache_checked = True
            if self.num_updates == 0:
                _log.warning(
                    "%s: the cache was never filled, so associations are divided by the sum of "
                    "|W| instead (cache 'none'). Train the layer, or load weights that were "
                    "trained with association.",
                    type(self).__name__,
                )
        return torch.where(self.num_updates == 0, total, self.cache.to(weight.dtype))

    def _infer(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """`scale * (y + strength * a) + shift` as `y * f' + e'`, all constants in the weights."""
        weight = self.weight.detach().to(x.dtype)
        partner, own = self.partners(weight)
        strength = scale * self.association / (self._scale(weight) + EPSILON)
        rows = (-1, *([1] * (weight.dim() - 1)))
        y = self.synapses(x, weight)
        f = self.synapses(x, partner * strength.view(rows), scale.to(x.dtype))
        if not self.exclude_self:
            return torch.addcmul(shift.to(x.dtype).view(self.channels), y, f)
        own = own * -strength.view(rows)
        return self.synapses(x * x, own, shift.to(x.dtype)).addcmul_(y, f)

    def _refuse_unbatched(self, x: Tensor) -> None:
        convolution = isinstance(self.synapses, _Convolve)
        if x.dim() != 4 if convolution else x.dim() < 2:
            expected = "(batch, channels, height, width)" if convolution else "(batch, ..., inputs)"
            raise DataError(
                f"{type(self).__name__}: expected batched input {expected}, found shape "
                f"{tuple(x.shape)}. Give a single sample as x[None]."
            )

    def _in_full_precision(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        bias = None if self.bias is None else self.bias.to(dtype)
        return x.to(dtype), self.weight.to(dtype), bias

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # Weights of a plain layer have no cache. They load, and what the cache held of other
        # weights is forgotten.
        self._cache_checked = False
        empty = {"cache": torch.zeros_like(self.cache), "num_updates": torch.tensor(0)}
        if not any(f"{prefix}{name}" in state_dict for name in empty):
            state_dict = {**state_dict, **{f"{prefix}{name}": empty[name] for name in empty}}
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def extra_repr(self) -> str:
        """The arguments."""
        return (
            f"{super().extra_repr()}, association={self.association}, measure={self.measure}, "
            f"cache={self.cache_kind}, exclude_self={self.exclude_self}, momentum={self.momentum}"
        )


class AssociativeConv2d(_Association, nn.Conv2d):
    """A convolution whose synapses, the taps of its window, associate; see the text above.

    Takes and returns what `nn.Conv2d` does, batched, and has its parameters. Bit by bit equal to it
    with `association=0`.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, device,
            dtype: As of `nn.Conv2d`; `padding` in numbers, always with zeros. The bias does not
            associate.
        association: lambda; negative weakens instead, 0 switches the association off.
        measure: What makes a partner strong: `"magnitude"`, `|w|`; or `"product"`, `w`, with which
            two inhibitory inputs excite.
        cache: What the association is relative to: `"rms"` or `"mean"` of the partners' activity
            per output channel, running over training; or `"none"`, the sum of `|w|`. The mean is
            that of `|f|` (inferred), so that `c` cannot be negative. The mean of `f` is
            the same where no input is negative and the measure is `"magnitude"`.
        exclude_self: Whether a synapse is no partner of its own; False for the ablation.
        momentum: Of the running cache.

    Attributes:
        cache: `(out_channels,)`, a buffer.
        num_updates: How often the cache was updated, a buffer.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        association: float = 0.2,
        measure: Measure = "magnitude",
        cache: Cache = "rms",
        exclude_self: bool = True,
        momentum: float = 0.1,
    ) -> None:
        nn.Conv2d.__init__(
            self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            device=device, dtype=dtype,
        )  # fmt: skip
        if isinstance(self.padding, str):
            raise ConfigError(f"padding: expected numbers of pixels, found {padding!r}")
        synapses = _Convolve(self.stride, self.padding, self.dilation, self.groups)
        self._prepare(synapses, association, measure, cache, exclude_self, momentum)


class AssociativeLinear(_Association, nn.Linear):
    """A linear layer whose synapses associate; see `AssociativeConv2d`.

    Takes and returns what `nn.Linear` does, batched, and has its parameters.

    The arguments are those of `nn.Linear`, then those of `AssociativeConv2d`.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        association: float = 0.2,
        measure: Measure = "magnitude",
        cache: Cache = "rms",
        exclude_self: bool = True,
        momentum: float = 0.1,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias, device=device, dtype=dtype)
        self._prepare(_Multiply(), association, measure, cache, exclude_self, momentum)


def _associate(
    x: Tensor, weight: Tensor, bias: Tensor | None, layer: _Association
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The output, `y`, `1 + k f` and `k`, the strength `lambda / (c + eps)`, a channel's shape."""
    partner, own = layer.partners(weight)
    y = layer.synapses(x, weight)
    f = y if partner is weight else layer.synapses(x, partner)
    strength = layer.strength(f, weight)
    # y + strength * (y f - e) + b  =  y (1 + strength f) + (b - strength e); the second term is one
    # convolution, for the strength goes into its kernel.
    channels = layer.channels
    own = own * -strength.view(-1, *([1] * (weight.dim() - 1)))
    strength = strength.view(channels)
    if layer.exclude_self:
        out = layer.synapses(x * x, own, bias)
    else:
        out = torch.zeros_like(y) if bias is None else bias.view(channels).expand_as(y).clone()
    boost = (f * strength if partner is weight else f.mul_(strength)).add_(1)
    return out.addcmul_(y, boost), y, boost, strength


class _Associate(torch.autograd.Function):
    """`_associate` with a backward pass that makes no copies between the convolutions.

    With the gradient `g` of the output, and `k = lambda / (c + eps)`, through which none flows:

        dy = g * (1 + k f)    df = k * g * y    de = -k * g

    Where k is a factor of a whole channel it is multiplied into weights, which are fewer.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: _Association
    ) -> Tensor:
        """`_associate`, `(N, outputs, ...)`, keeping what the backward pass needs."""
        out, y, boost, strength = _associate(x, weight, bias, layer)
        ctx.layer = layer
        ctx.save_for_backward(x, weight, y, boost, strength)
        return out

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Any
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        """Gradients of input, weight and bias; see the class."""
        (grad,) = grads
        x, weight, y, boost, strength = ctx.saved_tensors
        layer: _Association = ctx.layer
        of_x, of_weight, of_bias, _ = ctx.needs_input_grad
        gradients = layer.synapses.gradients
        by_row = strength.view(-1, *([1] * (weight.dim() - 1)))
        partner, own = layer.partners(weight)
        product = partner is weight
        # product: f is y, and both terms together are g * (1 + 2 k y).
        through = (boost * 2).sub_(1).mul_(grad) if product else boost * grad
        grad_x, grad_weight = gradients(through, x, weight, of_x, of_weight)
        if not product:
            torch.mul(y, grad, out=through)
            more_x, more = gradients(through, x, partner * by_row, of_x, of_weight)
            if grad_x is not None and more_x is not None:
                grad_x.add_(more_x)
            if grad_weight is not None and more is not None:
                grad_weight.addcmul_(more, weight.sign() * by_row)
        if layer.exclude_self:
            more_x, more = gradients(grad, x * x, own * -by_row, of_x, of_weight)
            if grad_x is not None and more_x is not None:
                grad_x.addcmul_(x, more_x, value=2)
            if grad_weight is not None and more is not None:
                grad_weight.addcmul_(more, partner * by_row, value=-2)
        grad_bias = None
        if of_bias:
            channel = grad.dim() - len(layer.channels)
            grad_bias = grad.sum([dim for dim in range(grad.dim()) if dim != channel])
        return grad_x, grad_weight, grad_bias, None
