"""Leaky integrate-and-fire neurons that are trained by surrogate gradients.

In discrete time, with input current `I_t`, membrane potential `m_t` and spikes `s_t` in {0, 1}
(`H` is the Heaviside step, `gain` is 1, or `1 - decay` with `decay_input`):

    m_t = decay * v_{t-1} + gain * I_t        (v_0 = 0)
    s_t = H(m_t - threshold)
    v_t = m_t * (1 - s_t)                     reset "hard", to zero
    v_t = m_t - threshold * s_t               reset "soft", by subtraction

With reset "next_step" the subtraction comes one step late, as in snnTorch:

    m_t = decay * m_{t-1} + gain * I_t - threshold * s_{t-1}

A resting potential `v_r` other than zero is the same neuron seen from `v_r`: measure potentials and
threshold from there.

Backward through time, with `u = m - threshold` and the surrogate `h(u)` in place of `H'(u)`, the
gradient of the membrane obeys one recursion for all variants,

    dL/dm_t = h_t * dL/ds_t + c_t * dL/dm_{t+1}

where `c_t` follows from the reset:

    hard       decay * (1 - s_t - m_t h_t)
    soft       decay * (1 - threshold * h_t)
    next_step  decay - threshold * h_t

(the terms with `h_t` are absent with `detach_reset`). `LIF` computes both recursions in one
autograd function that keeps `m` and `s` and nothing else, so no graph of T steps is built.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from modicum.errors import ConfigError, DataError

Reset = Literal["hard", "soft", "next_step"]
Surrogate = Literal["triangle", "rectangle", "atan", "fast_sigmoid"]


def triangle_(u: Tensor, width: float) -> float:
    """Triangle of half-width `width`: `max(0, width - |u|) / width^2` (TET)."""
    u.abs_().sub_(width).clamp_(max=0)
    return -1 / width**2


def rectangle_(u: Tensor, width: float) -> float:
    """Rectangle of full width `width`: `1[|u| < width / 2] / width` (NDA)."""
    u.abs_().lt_(width / 2)
    return 1 / width


def atan_(u: Tensor, sharpness: float) -> float:
    """Derivative of an arctangent: `a / 2 / (1 + (pi / 2 * a * u)^2)` (SpikingJelly)."""
    u.square_().mul_((math.pi / 2 * sharpness) ** 2).add_(1).reciprocal_()
    return sharpness / 2


def fast_sigmoid_(u: Tensor, sharpness: float) -> float:
    """Derivative of a fast sigmoid: `1 / (1 + a * |u|)^2` (snnTorch)."""
    u.abs_().mul_(sharpness).add_(1).square_().reciprocal_()
    return 1.0


# Each overwrites `u` with a multiple of the surrogate derivative and returns the missing factor,
# which the recursion takes along in a multiplication it does anyway. Second: the default parameter.
_SURROGATES: dict[str, tuple[Callable[[Tensor, float], float], float]] = {
    "triangle": (triangle_, 1.0),
    "rectangle": (rectangle_, 1.0),
    "atan": (atan_, 2.0),
    "fast_sigmoid": (fast_sigmoid_, 25.0),
}


class Dynamics(NamedTuple):
    """The constants of a neuron; see `LIF`."""

    decay: float
    gain: float
    threshold: float
    reset: str
    surrogate: str
    surrogate_scale: float
    fires_at_threshold: bool
    detach_reset: bool


class LIF(nn.Module):
    """A layer of leaky integrate-and-fire neurons without trainable parameters.

    The layer is stateless: every call starts from zero potential unless it is given a state. For
    inputs in half precision, the potential is kept in float32.

    Args:
        decay: Factor of the potential from step to step, in [0, 1); `1 - 1 / tau` for a time
            constant of `tau` steps.
        threshold: Potential at which a neuron fires, above 0.
        reset: What a spike does to the potential.
        surrogate: Stands for the derivative of the step function in the backward pass.
        surrogate_scale: Width of triangle (default 1) or rectangle (1), sharpness of arctangent (2)
            or fast sigmoid (25).
        fires_at_threshold: Whether a potential equal to the threshold fires.
        detach_reset: Let no gradient through the spike that resets.
        decay_input: Multiply the input by `1 - decay`, so that a constant input is approached.

    Attributes:
        arguments: The arguments, JSON-able.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self,
        *,
        decay: float = 0.5,
        threshold: float = 1.0,
        reset: Reset = "hard",
        surrogate: Surrogate = "triangle",
        surrogate_scale: float | None = None,
        fires_at_threshold: bool = False,
        detach_reset: bool = False,
        decay_input: bool = False,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("reset", reset, get_args(Reset)),
            ("surrogate", surrogate, get_args(Surrogate)),
        ):
            if value not in known:
                raise ConfigError(f"{name}: expected one of {', '.join(known)}, found {value!r}")
        if surrogate_scale is None:
            surrogate_scale = _SURROGATES[surrogate][1]
        if not 0 <= decay < 1:
            raise ConfigError(f"decay: expected at least 0 and below 1, found {decay}")
        for name, value in (("threshold", threshold), ("surrogate_scale", surrogate_scale)):
            if not 0 < value < math.inf:
                raise ConfigError(f"{name}: expected a finite number above 0, found {value}")
        constants: dict[str, Any] = {
            "decay": decay,
            "threshold": threshold,
            "reset": reset,
            "surrogate": surrogate,
            "surrogate_scale": surrogate_scale,
            "fires_at_threshold": fires_at_threshold,
            "detach_reset": detach_reset,
        }
        self.arguments: dict[str, Any] = constants | {"decay_input": decay_input}
        self.dynamics = Dynamics(gain=1 - decay if decay_input else 1.0, **constants)

    @classmethod
    def tet(cls) -> LIF:
        """The neuron of TET (Deng et al., ICLR 2022) and the default: hard reset, triangle."""
        return cls()

    @classmethod
    def nda(cls) -> LIF:
        """The neuron of NDA (Li et al., ECCV 2022): decay 0.25, threshold 0.5, rectangle."""
        return cls(decay=0.25, threshold=0.5, surrogate="rectangle", fires_at_threshold=True)

    @classmethod
    def spikingjelly(
        cls,
        *,
        tau: float = 2.0,
        threshold: float = 1.0,
        decay_input: bool = True,
        reset: Reset = "hard",
        detach_reset: bool = False,
    ) -> LIF:
        """The `LIFNode` of SpikingJelly with its arctangent surrogate.

        The time constant `tau` is in steps, above 1; with `decay_input`, the input is divided by
        it. The reset is `"hard"` (its `v_reset=0.`) or `"soft"` (its `v_reset=None`).
        """
        if not 1 < tau < math.inf:
            raise ConfigError(f"tau: expected a finite number of steps above 1, found {tau}")
        return cls(
            decay=1 - 1 / tau,
            threshold=threshold,
            reset=reset,
            surrogate="atan",
            fires_at_threshold=True,
            detach_reset=detach_reset,
            decay_input=decay_input,
        )

    @classmethod
    def snntorch(cls, *, beta: float = 0.5, threshold: float = 1.0) -> LIF:
        """The `Leaky` of snnTorch with decay `beta`: subtraction at the next step, fast sigmoid."""
        return cls(
            decay=beta,
            threshold=threshold,
            reset="next_step",
            surrogate="fast_sigmoid",
            detach_reset=True,
        )

    def forward(
        self, x: Tensor, state: Tensor | None = None, *, return_state: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Spikes of a sequence of input currents.

        Args:
            x: Currents `(T, B, ...)`, floating point.
            state: Potential `(B, ...)` to start from, as an earlier call returned it; None for 0.
                A `DataError` says what does not fit `x`.
            return_state: Return the potential after the last step as well.

        Returns:
            Spikes, 0 or 1, with the shape, dtype and memory layout of `x`; or `(spikes, state)`.
            The state has passed the reset of the last step, but for reset `"next_step"`.
        """
        if x.dim() < 2 or not x.is_floating_point():
            raise DataError(
                f"expected floating-point currents of shape (time, batch, ...), found shape "
                f"{tuple(x.shape)} of {x.dtype}"
            )
        if len(x) == 0:
            raise DataError("expected at least 1 time step, found a sequence of T=0")
        if state is not None and state.shape != x.shape[1:]:
            if state.dim() and len(state) != x.shape[1]:
                raise DataError(
                    f"state has batch {len(state)}, input {x.shape[1]}: reset or pass state=None"
                )
            raise DataError(
                f"state has shape {tuple(state.shape)}, input {tuple(x.shape[1:])} at each step: "
                f"pass the state of this layer, or state=None"
            )
        needs_gradient = x.requires_grad or (state is not None and state.requires_grad)
        if torch.onnx.is_in_onnx_export():
            spikes, after = _unrolled(x, state, self.dynamics)
        elif needs_gradient and torch.is_grad_enabled():
            spikes, after = _Scan.apply(x, state, self.dynamics)  # type: ignore[no-untyped-call]
        else:
            spikes, after, _ = _scan(x, state, self.dynamics, keep=False)
        return (spikes, after) if return_state else spikes

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One time step: `x` is `(B, ...)`, and so are the spikes and the state returned."""
        spikes, state = self.forward(x[None], state, return_state=True)
        return spikes[0], state

    def extra_repr(self) -> str:
        """The arguments."""
        return ", ".join(f"{name}={value}" for name, value in self.arguments.items())


def _scan(
    x: Tensor, state: Tensor | None, neuron: Dynamics, *, keep: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Spikes `(T, B, ...)`, last state `(B, ...)` and, if asked to keep it, `m` `(T, B, ...)`.

    A step is three passes over memory: the potential, the spikes, the reset. Comparisons write into
    floating point at once, because making a bool first and converting it takes eight times as long.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    frame = torch.empty_like(x[0], dtype=dtype)
    # The strides of a frame, so that channels-last stays channels-last, also if x is expanded.
    strides = (frame.numel(), *frame.stride())
    spikes = torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device)
    kept = torch.empty_strided(x.shape, strides, dtype=dtype, device=x.device) if keep else None
    membranes = [frame] * len(x) if kept is None else kept.unbind()
    fires = torch.ge if neuron.fires_at_threshold else torch.gt
    threshold, late = neuron.threshold, neuron.reset == "next_step"
    v = torch.zeros_like(frame) if state is None else state.to(dtype, copy=True)
    # The spikes that a late reset is still to follow.
    before = fires(state, threshold).to(dtype) if late and state is not None else None
    for current, m, s in zip(x.unbind(), membranes, spikes.unbind(), strict=True):
        if neuron.gain == 1:
            torch.add(current, v, alpha=neuron.decay, out=m)
        else:
            torch.lerp(v, current.to(dtype), neuron.gain, out=m)
        if before is not None:
            m.sub_(before, alpha=threshold)
        fires(m, threshold, out=s)
        if late:
            v, before = m, s
        elif neuron.reset == "hard":
            torch.addcmul(m, m, s.to(dtype), value=-1, out=v)
        else:
            torch.sub(m, s, alpha=threshold, out=v)
    # With a late reset `v` is a view of what is kept for the backward pass.
    return spikes, v.clone() if late else v, kept


def _unrolled(x: Tensor, state: Tensor | None, neuron: Dynamics) -> tuple[Tensor, Tensor]:
    """Spikes and last state as `_scan` has them, of operations that a tracer can follow."""
    fires = torch.ge if neuron.fires_at_threshold else torch.gt
    late = neuron.reset == "next_step"
    v = 0 * x[0] if state is None else state  # zeros, of whatever batch the export is used with
    before = fires(v, neuron.threshold).to(x.dtype)
    spikes: list[Tensor] = []
    for current in x.unbind():
        m = neuron.decay * v + neuron.gain * current
        if late:
            m = m - neuron.threshold * before
        before = fires(m, neuron.threshold).to(x.dtype)
        spikes.append(before)
        if neuron.reset == "hard":
            v = m * (1 - before)
        else:
            v = m if late else m - neuron.threshold * before
    return torch.stack(spikes), v


class _Scan(torch.autograd.Function):
    """`_scan` with the backward recursion in the text above."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, state: Tensor | None, neuron: Dynamics
    ) -> tuple[Tensor, Tensor]:
        spikes, after, membranes = _scan(x, state, neuron, keep=True)
        ctx.neuron = neuron
        ctx.state_dtype = None if state is None else state.dtype
        ctx.set_materialize_grads(False)
        late = neuron.reset == "next_step"
        ctx.save_for_backward(membranes, spikes, state if late else None)
        return spikes, after

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Any
    ) -> tuple[Tensor, Tensor | None, None]:
        grad_spikes, grad_after = grads
        membranes, spikes, state = ctx.saved_tensors
        neuron: Dynamics = ctx.neuron
        decay, gain, threshold = neuron.decay, neuron.gain, neuron.threshold
        through_reset = not neuron.detach_reset
        surrogate_, _ = _SURROGATES[neuron.surrogate]
        if grad_spikes is None:
            grad_spikes = torch.zeros_like(spikes)
        frame = torch.empty_like(membranes[0])
        strides = (frame.numel(), *frame.stride())
        grad = torch.empty_strided(spikes.shape, strides, dtype=spikes.dtype, device=spikes.device)
        h, c = frame, torch.empty_like(frame)
        # `g` is gain * dL/dm of the step after, or the gradient of the last state to begin with.
        # From it leads c = factor * (1 - s_t - m_t h_t), or c = factor - subtracted * h_t.
        g = None if grad_after is None else grad_after.to(frame.dtype) * gain
        decay_tensor = torch.tensor(decay, dtype=frame.dtype)  # torch.sub takes no first number
        factor, factor_tensor = 1.0, torch.ones_like(decay_tensor)
        subtracted = threshold if neuron.reset == "soft" else 0.0
        steps = (membranes, spikes, grad_spikes, grad)
        for m, s, grad_s, grad_x in zip(*(reversed(x.unbind()) for x in steps), strict=True):
            torch.sub(m, threshold, out=h)
            scale = surrogate_(h, neuron.surrogate_scale)
            now = grad_x if grad_x.dtype == frame.dtype else torch.empty_like(frame)
            if g is None:
                torch.mul(grad_s, h, out=now).mul_(scale * gain)
            else:
                if neuron.reset == "hard":
                    torch.sub(factor_tensor, s, alpha=factor, out=c)
                    if through_reset:
                        c.addcmul_(m, h, value=-factor * scale)
                    c.mul_(g)
                else:
                    torch.mul(g, factor, out=c)
                    if through_reset:
                        c.addcmul_(g, h, value=-subtracted * scale)
                torch.addcmul(c, grad_s.to(frame.dtype), h, value=scale * gain, out=now)
            if now is not grad_x:
                grad_x.copy_(now)
            g, factor, factor_tensor = now, decay, decay_tensor
            subtracted = decay * threshold if neuron.reset == "soft" else threshold
        grad_state = None
        if ctx.needs_input_grad[1] and g is not None:
            grad_state = g * (decay / gain)
            if state is not None and through_reset:
                torch.sub(state, threshold, out=h)
                scale = surrogate_(h, neuron.surrogate_scale)
                grad_state.addcmul_(g, h, value=-threshold * scale / gain)
            grad_state = grad_state.to(ctx.state_dtype)
        return grad, grad_state, None
