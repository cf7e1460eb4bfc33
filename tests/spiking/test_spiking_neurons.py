"""Neurons against the reference code bases, and the fused backward pass against plain autograd."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from modicum.errors import ConfigError, DataError
from modicum.spiking.neurons import LIF

GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "apbs" / "neurons.safetensors")
PRESETS = {
    "tet": LIF.tet(),
    "nda": LIF.nda(),
    "sj_lif_decayinput_atan_detach": LIF.spikingjelly(detach_reset=True),
    "sj_lif_nodecay_atan_nodetach": LIF.spikingjelly(decay_input=False),
    "sj_lif_soft_reset": LIF.spikingjelly(decay_input=False, reset="soft", detach_reset=True),
    "snntorch_leaky_subtract": LIF.snntorch(),
}
VARIANTS: list[dict[str, Any]] = [
    {
        "reset": reset,
        "surrogate": surrogate,
        "detach_reset": detach,
        "decay_input": decay_input,
        "fires_at_threshold": decay_input,
        "decay": decay,
        "threshold": 0.7,
    }
    for reset, surrogate, detach, (decay_input, decay) in product(
        ("hard", "soft", "next_step"),
        ("triangle", "rectangle", "atan", "fast_sigmoid"),
        (False, True),
        ((False, 0.6), (True, 0.3), (False, 0.0)),
    )
]


def surrogate_of(u: Tensor, name: str, scale: float) -> Tensor:
    """The recursions of `modicum.spiking.neurons`, written out."""
    if name == "triangle":
        return (scale - u.abs()).clamp(min=0) / scale**2
    if name == "rectangle":
        return (u.abs() < scale / 2).to(u.dtype) / scale
    if name == "atan":
        return scale / 2 / (1 + (math.pi / 2 * scale * u) ** 2)
    return 1 / (1 + scale * u.abs()) ** 2


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, inclusive: bool, name: str, scale: float) -> Tensor:
        ctx.save_for_backward(u)
        ctx.surrogate = name, scale
        return (u >= 0 if inclusive else u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return grad * surrogate_of(ctx.saved_tensors[0], *ctx.surrogate), None, None, None


def plain(lif: LIF, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Step by step, with a graph of all steps."""
    d = lif.dynamics
    v = torch.zeros_like(x[0]) if state is None else state

    def fire(m: Tensor) -> tuple[Tensor, Tensor]:
        s = Spike.apply(m - d.threshold, d.fires_at_threshold, d.surrogate, d.surrogate_scale)
        return s, s.detach() if d.detach_reset else s

    spikes: list[Tensor] = []
    late = torch.zeros_like(v) if state is None else fire(v)[1]
    for current in x:
        m = d.decay * v + d.gain * current
        if d.reset == "next_step":
            m = m - d.threshold * late
        s, resetting = fire(m)
        spikes.append(s)
        if d.reset == "hard":
            v = m * (1 - resetting)
        elif d.reset == "soft":
            v = m - d.threshold * resetting
        else:
            v, late = m, resetting
    return torch.stack(spikes), v


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_the_references(name: str) -> None:
    golden = {key: value.double() for key, value in GOLDEN.items()}  # of float32
    x = golden["x_TBN"].requires_grad_()
    spikes = PRESETS[name](x)
    spikes.backward(golden["upstream_grad_TBN"])
    assert torch.equal(spikes, golden[f"{name}.spikes"])
    torch.testing.assert_close(x.grad, golden[f"{name}.grad_x"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", PRESETS)
def test_steps_equal_the_sequence_and_so_do_their_gradients(name: str) -> None:
    lif = PRESETS[name]
    x = GOLDEN["x_TBN"].double().requires_grad_()
    y = GOLDEN["x_TBN"].double().requires_grad_()
    whole, last = lif(x, return_state=True)
    state, steps = None, []
    for current in y:
        spikes, state = lif.step(current, state)
        steps.append(spikes)
    assert torch.equal(torch.stack(steps), whole)
    assert torch.equal(state, last)
    upstream = GOLDEN["upstream_grad_TBN"].double()
    ((whole * upstream).sum() + last.sum()).backward()
    ((torch.stack(steps) * upstream).sum() + state.sum()).backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("arguments", VARIANTS, ids=lambda a: "-".join(map(str, a.values())))
def test_fused_gradients_equal_autograd(arguments: dict[str, Any], with_state: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    lif = LIF(**arguments)
    x = (torch.randn(7, 3, 5, generator=generator, dtype=torch.float64) + 0.4).requires_grad_()
    first = torch.randn(3, 5, generator=generator, dtype=torch.float64).requires_grad_()
    upstream = torch.randn(7, 3, 5, generator=generator, dtype=torch.float64)
    upstream_state = torch.randn(3, 5, generator=generator, dtype=torch.float64)

    def gradients(outputs: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        loss = (outputs[0] * upstream).sum()
        if not with_state:
            return torch.autograd.grad(loss, [x])
        return torch.autograd.grad(loss + (outputs[1] * upstream_state).sum(), [x, first])

    state = first if with_state else None
    mine, theirs = lif(x, state, return_state=True), plain(lif, x, state)
    assert torch.equal(mine[0], theirs[0])
    assert 0.05 < mine[0].mean() < 0.95
    torch.testing.assert_close(mine[1], theirs[1], rtol=0, atol=1e-12)
    for a, b in zip(gradients(mine), gradients(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_a_layer_forgets_the_sequence_before() -> None:
    lif = LIF.tet()
    x = GOLDEN["x_TBN"]
    assert torch.equal(lif(x), lif(x))


def test_without_gradients_the_spikes_are_the_same() -> None:
    x = GOLDEN["x_TBN"].clone()
    for lif in PRESETS.values():
        with torch.no_grad():
            spikes, state = lif(x, return_state=True)
        again, state_again = lif(x.clone().requires_grad_(), return_state=True)
        assert torch.equal(spikes, again)
        assert torch.equal(state, state_again)
    assert torch.equal(x, GOLDEN["x_TBN"])


def test_the_memory_layout_of_a_frame_is_kept() -> None:
    x = torch.randn(4 * 3, 2, 5, 6).to(memory_format=torch.channels_last).unflatten(0, (4, 3))
    x.requires_grad_()
    spikes = LIF.tet()(x)
    assert spikes[0].is_contiguous(memory_format=torch.channels_last)
    spikes.sum().backward()
    expanded = LIF.tet()(x[:1].expand(4, -1, -1, -1, -1))
    assert expanded[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(spikes, LIF.tet()(x.contiguous()))


@pytest.mark.parametrize("lif", PRESETS.values(), ids=PRESETS)
def test_half_precision_keeps_the_potential_in_float32(lif: LIF) -> None:
    x = GOLDEN["x_TBN"].bfloat16().requires_grad_()
    exact = x.detach().float().requires_grad_()
    spikes, state = lif(x, return_state=True)
    assert spikes.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    assert torch.equal(spikes.float(), lif(exact))
    spikes.backward(GOLDEN["upstream_grad_TBN"].bfloat16())
    lif(exact).backward(GOLDEN["upstream_grad_TBN"].bfloat16().float())
    torch.testing.assert_close(x.grad, exact.grad.bfloat16(), rtol=1e-2, atol=1e-6)


def test_a_state_of_another_sequence_is_refused() -> None:
    lif = LIF.tet()
    _, state = lif.step(torch.zeros(16, 3))
    with pytest.raises(DataError, match="state has batch 16, input 8: reset or pass state=None"):
        lif.step(torch.zeros(8, 3), state)
    with pytest.raises(DataError, match=r"state has shape \(16, 3\), input \(16, 4\)"):
        lif.step(torch.zeros(16, 4), state)
    with pytest.raises(DataError, match="T=0"):
        lif(torch.zeros(0, 2, 3))
    with pytest.raises(DataError, match=r"\(time, batch, ...\)"):
        lif(torch.zeros(3))
    with pytest.raises(DataError, match="int64"):
        lif(torch.zeros(3, 2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": 1.0}, "decay"),
        ({"decay": -0.1}, "decay"),
        ({"decay": math.nan}, "decay"),
        ({"threshold": 0.0}, "threshold"),
        ({"threshold": math.inf}, "threshold"),
        ({"surrogate_scale": -1.0}, "surrogate_scale"),
        ({"reset": "sudden"}, "hard, soft, next_step"),
        ({"surrogate": "step"}, "triangle"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LIF(**arguments)


def test_a_time_constant_of_a_step_or_less_is_refused() -> None:
    with pytest.raises(ConfigError, match="tau"):
        LIF.spikingjelly(tau=1.0)


def test_arguments_rebuild_the_neuron() -> None:
    for lif in PRESETS.values():
        again = LIF(**lif.arguments)
        assert again.dynamics == lif.dynamics
        assert "decay" in repr(again)
