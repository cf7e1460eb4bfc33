"""The association: equations, gradients, properties the paper demands, cache, plain behaviour.

Numbers of the reference are compared in double precision, so that what remains is its own rounding
of float32, the same on every machine.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from modicum.errors import ConfigError, DataError
from modicum.methods.apbs.association import AssociativeConv2d, AssociativeLinear
from modicum.spiking.layers import SpikingLayer
from modicum.spiking.neurons import LIF

GOLDEN = Path(__file__).parents[2] / "golden" / "apbs"
VECTORS = load_file(GOLDEN / "association.safetensors")
CASES: dict[str, dict[str, Any]] = json.loads((GOLDEN / "association_cases.json").read_text())


def layer_of_case(name: str) -> AssociativeConv2d:
    case = CASES[name]
    layer = AssociativeConv2d(
        case["ci"],
        case["co"],
        case["k"],
        **case["kw"],
        association=case["lam"],
        measure=case["measure"],
    )
    with torch.no_grad():
        layer.weight.copy_(VECTORS[f"{name}.W"])
        assert layer.bias is not None
        layer.bias.copy_(VECTORS[f"{name}.b"])
    return layer.double()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_convolution_equals_the_reference(name: str, channels_last: bool) -> None:
    def golden(field: str) -> Tensor:
        return VECTORS[f"{name}.{field}"].double()

    def close(mine: Tensor | None, field: str, rtol: float = 0.0) -> None:
        torch.testing.assert_close(mine, golden(field), rtol=rtol, atol=1e-5)

    layer = layer_of_case(name)
    memory = torch.channels_last if channels_last else torch.contiguous_format
    x = golden("x1").clone(memory_format=memory).requires_grad_()
    close(layer.pair_sum(x), "assoc1")
    out = layer(x)
    close(out, "out_train1")
    close(layer.cache, "cache_after1")
    out.backward(golden("upstream1"))
    close(layer.weight.grad, "gradW1", rtol=1e-4)
    close(x.grad, "gradx1", rtol=1e-4)
    with torch.no_grad():  # training mode without gradients updates the cache as well
        close(layer(golden("x2")), "out_train2")
    close(layer.cache, "cache_after2")
    assert layer.num_updates == 2
    layer.eval()
    close(layer(golden("x1")), "out_eval_x1")
    with torch.no_grad():
        close(layer(golden("x1")), "out_eval_x1")
    close(layer.cache, "cache_after2")


def test_linear_equals_the_reference() -> None:
    layer = AssociativeLinear(11, 6, bias=False, association=0.25)
    layer.weight.data.copy_(VECTORS["linear_mag.W"])
    layer.double()
    golden = {name: vector.double() for name, vector in VECTORS.items()}
    x = golden["linear_mag.x"]
    torch.testing.assert_close(layer(x), golden["linear_mag.out_train1"], rtol=0, atol=1e-5)
    torch.testing.assert_close(layer.cache, golden["linear_mag.cache_after1"], rtol=0, atol=1e-5)
    exact = golden["linear_mag.assoc_bruteforce_f64"]
    torch.testing.assert_close(layer.pair_sum(x), exact, rtol=0, atol=1e-12)


def pair_sum_by_loops(x: Tensor, w: Tensor, magnitude: bool, exclude_self: bool) -> Tensor:
    out = torch.zeros(len(x), len(w), dtype=torch.float64)
    for b, i in torch.cartesian_prod(torch.arange(len(x)), torch.arange(len(w))).tolist():
        for j in range(x.shape[1]):
            for k in range(x.shape[1]):
                if j != k or not exclude_self:
                    partner = abs(w[i, k]) if magnitude else w[i, k]
                    out[b, i] += w[i, j] * x[b, j] * partner * x[b, k]
    return out


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("measure", ["magnitude", "product"])
def test_pair_sum_is_the_double_loop(measure: Any, exclude_self: bool) -> None:
    torch.manual_seed(0)
    layer = AssociativeLinear(5, 3, measure=measure, exclude_self=exclude_self).double()
    x = torch.randint(0, 3, (4, 5)).double() + 0.25  # analog: squares matter
    expected = pair_sum_by_loops(x, layer.weight.detach(), measure == "magnitude", exclude_self)
    torch.testing.assert_close(layer.pair_sum(x), expected, rtol=0, atol=1e-12)


def test_a_convolution_is_a_linear_layer_on_windows() -> None:
    torch.manual_seed(0)
    conv = AssociativeConv2d(3, 4, 3, stride=2, padding=1, dilation=2).double()
    linear = AssociativeLinear(27, 4).double()
    linear.weight.data = conv.weight.data.flatten(1)
    linear.bias = conv.bias
    x = torch.rand(2, 3, 9, 8, dtype=torch.float64)
    windows = nn.functional.unfold(x, 3, dilation=2, padding=1, stride=2).mT
    out = conv(x)
    torch.testing.assert_close(out.flatten(2).mT, linear(windows), rtol=0, atol=1e-12)
    torch.testing.assert_close(conv.cache, linear.cache, rtol=0, atol=1e-12)


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("cache", ["rms", "mean", "none"])
@pytest.mark.parametrize("measure", ["magnitude", "product"])
@pytest.mark.parametrize("kind", ["convolution", "groups", "linear"])
def test_gradients_by_finite_differences(
    kind: str, measure: Any, cache: Any, exclude_self: bool
) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"measure": measure, "cache": cache, "exclude_self": exclude_self}
    if kind == "linear":
        layer: Any = AssociativeLinear(4, 3, **options).double()
        x = torch.randn(2, 3, 4, dtype=torch.float64)
    else:
        groups = 2 if kind == "groups" else 1
        layer = AssociativeConv2d(2, 4, 3, stride=2, padding=1, groups=groups, **options).double()
        x = torch.randn(2, 2, 4, 5, dtype=torch.float64)
    layer(x)
    layer.eval()  # the cache is a constant to the gradient
    inputs = (x.requires_grad_(), layer.weight, layer.bias)

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    # `none` divides by the sum of |W|, through which no gradient flows: perturb the input only.
    if cache == "none":
        assert torch.autograd.gradcheck(lambda x: layer(x), inputs[:1], atol=1e-6, rtol=0)
    else:
        assert torch.autograd.gradcheck(function, inputs, atol=1e-6, rtol=0)


def test_only_what_needs_a_gradient_gets_one() -> None:
    layer = AssociativeConv2d(2, 3, 3)
    x = torch.rand(1, 2, 5, 5)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    layer.requires_grad_(False)
    x.requires_grad_()
    out = layer(x)
    out.sum().backward(retain_graph=True)
    first = x.grad
    assert first is not None
    x.grad = None
    out.sum().backward()  # nothing that was saved has been overwritten
    assert torch.equal(x.grad, first)


def response(layer: AssociativeLinear, *inputs: float) -> float:
    with torch.no_grad():
        return float(layer(torch.tensor([inputs])))


def test_association_needs_two_active_synapses() -> None:
    layer = AssociativeLinear(2, 1, bias=False, association=0.2, cache="none").eval()
    # Of these weights products and sums are exact.
    for weights in ([0.5, 0.75], [-0.5, -0.75], [0.5, -0.75]):
        layer.weight.data = torch.tensor([weights])
        assert layer.pair_sum(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])).eq(0).all()
        first, second = response(layer, 1, 0), response(layer, 0, 1)
        assert first == pytest.approx(weights[0], abs=1e-6)
        assert second == pytest.approx(weights[1], abs=1e-6)
        together = response(layer, 1, 1) - first - second
        if weights[0] > 0 > weights[1]:  # each keeps its sign and helps the other as much
            assert together == pytest.approx(0, abs=1e-6)
        else:
            assert together * weights[0] > 0.01
    layer.association = -0.2
    layer.weight.data = torch.tensor([[0.6, 0.9]])
    assert response(layer, 1, 1) < 1.5 - 0.01
    product = AssociativeLinear(2, 1, bias=False, measure="product", cache="none").eval()
    product.weight.data = torch.tensor([[-0.6, -0.9]])
    assert response(product, 1, 1) > -1.5 + 0.01  # two inhibitory inputs excite


def test_the_cache_none_bounds_the_association() -> None:
    torch.manual_seed(0)
    layer = AssociativeConv2d(3, 5, 3, association=1.0, cache="none", bias=False)
    x = (torch.rand(2, 3, 9, 9) < 0.5).float()
    f = nn.functional.conv2d(x, layer.weight.abs())
    assert (f / layer.weight.abs().sum((1, 2, 3)).view(-1, 1, 1)).max() < 1
    layer(x)
    assert layer.num_updates == 0


def test_without_association_the_layer_is_the_plain_one_bit_by_bit() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 5, 3, padding=1)
    layer = AssociativeConv2d(3, 5, 3, padding=1, association=0.0)
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(layer(x), plain(x))
    assert layer.num_updates == 0
    assert layer.operations_per_synapse == 1
    norm = nn.BatchNorm2d(5).eval()
    ours, theirs = SpikingLayer(layer, norm, LIF()), SpikingLayer(plain, norm, LIF())
    assert torch.equal(ours.currents(x), theirs.currents(x))


@pytest.mark.parametrize("measure", ["magnitude", "product"])
@pytest.mark.parametrize("exclude_self", [False, True])
def test_the_normalisation_folds_into_the_association(measure: Any, exclude_self: bool) -> None:
    torch.manual_seed(0)
    for bias in (False, True):
        layer = AssociativeConv2d(3, 5, 3, bias=bias, measure=measure, exclude_self=exclude_self)
        norm = nn.BatchNorm2d(5)
        spiking = SpikingLayer(layer, norm, LIF()).double()
        nn.init.uniform_(norm.weight, -1, 1)
        nn.init.uniform_(norm.bias, -1, 1)
        x = torch.rand(6, 3, 7, 7).double()
        spiking.currents(x)
        spiking.eval()
        expected = norm(layer(x))
        torch.testing.assert_close(spiking.currents(x), expected, rtol=0, atol=1e-12)
        with torch.no_grad():
            torch.testing.assert_close(spiking.currents(x), expected, rtol=0, atol=1e-12)


def test_evaluation_follows_every_change_of_the_weight() -> None:
    layer = AssociativeConv2d(2, 3, 3)
    x = torch.rand(1, 2, 6, 6)
    layer(x)
    layer.eval()
    for change in (lambda: layer.weight.mul_(2), lambda: layer.weight.data.mul_(2)):
        with torch.no_grad():
            before = layer(x)
            change()
            after = layer(x)
        assert not torch.allclose(after, before)
        torch.testing.assert_close(after, layer(x))  # as the pass that keeps gradients has it


@pytest.mark.parametrize("association", [0.0, 0.2])
@pytest.mark.parametrize("training", [True, False])
def test_input_without_a_batch_is_refused(association: float, training: bool) -> None:
    convolution = AssociativeConv2d(2, 3, 3, association=association).train(training)
    linear = AssociativeLinear(4, 3, association=association).train(training)
    for x in (torch.rand(2, 6, 6), torch.rand(1, 1, 2, 6, 6)):
        with pytest.raises(DataError, match=r"\(batch, channels, height, width\), found shape"):
            convolution(x)
    with pytest.raises(DataError, match=r"found shape \(4,\).* x\[None\]"):
        linear(torch.rand(4))
    with torch.no_grad(), pytest.raises(DataError, match="batched"):
        linear.scaled(torch.rand(4), torch.ones(3), torch.zeros(3))
    for layer, x in ((convolution, torch.rand(1, 2, 6, 6)), (linear, torch.rand(5, 2, 4))):
        layer(x).sum().backward()
        assert layer.weight.grad is not None


def test_the_cache_mean_is_of_magnitudes() -> None:
    layer = AssociativeConv2d(1, 1, 1, bias=False, cache="mean")
    torch.nn.init.constant_(layer.weight, -2)
    layer(torch.tensor([1.0, -3.0]).view(1, 1, 1, 2))
    assert layer.cache.tolist() == [4.0]  # the mean of f = 2, -6 would be -2


def test_only_the_first_step_of_a_sequence_updates_the_cache() -> None:
    layer = SpikingLayer(AssociativeConv2d(2, 3, 3), nn.BatchNorm2d(3), LIF())
    x = (torch.rand(4, 5, 2, 6, 6) < 0.3).float()
    state = None
    for frame in x:
        _, state = layer.step(frame, state)
    assert layer.synapses.num_updates == 1
    layer(x)
    assert layer.synapses.num_updates == 2


def test_a_sequence_that_is_joined_late_does_not_divide_by_an_empty_cache() -> None:
    layer = AssociativeConv2d(2, 3, 3)
    none = AssociativeConv2d(2, 3, 3, cache="none")
    none.load_state_dict(layer.state_dict())
    layer.sequence_begins = False
    x = torch.rand(1, 2, 4, 4)
    torch.testing.assert_close(layer(x), none(x))
    assert layer.num_updates == 0


def test_parameters_buffers_and_state_dict() -> None:
    plain, layer = nn.Conv2d(2, 3, 3), AssociativeConv2d(2, 3, 3)
    assert sum(p.numel() for p in layer.parameters()) == sum(p.numel() for p in plain.parameters())
    assert set(layer.state_dict()) - set(plain.state_dict()) == {"cache", "num_updates"}
    layer(torch.rand(1, 2, 4, 4))
    other = AssociativeConv2d(2, 3, 3)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.cache, layer.cache)
    assert other.num_updates == 1
    layer.load_state_dict(plain.state_dict())  # the cache of other weights is forgotten
    assert torch.equal(layer.weight, plain.weight)
    assert layer.num_updates == 0
    with pytest.raises(RuntimeError, match="Missing key"):
        layer.load_state_dict({"weight": plain.weight})


def test_an_empty_cache_warns_once_and_stands_back(caplog: pytest.LogCaptureFixture) -> None:
    layer = AssociativeConv2d(2, 3, 3).eval()
    none = AssociativeConv2d(2, 3, 3, cache="none").eval()
    none.load_state_dict(layer.state_dict())
    x = torch.rand(1, 2, 4, 4)
    with caplog.at_level(logging.WARNING):
        torch.testing.assert_close(layer(x), none(x))
        layer(x)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), none(x))
    assert [r.message for r in caplog.records if "never filled" in r.message] == [
        r.message for r in caplog.records
    ]
    assert len(caplog.records) == 1


def test_autocast_computes_in_float32() -> None:
    torch.manual_seed(0)
    layer = AssociativeConv2d(2, 3, 3)
    x = (torch.rand(2, 2, 5, 5) < 0.5).float()
    exact = layer(x)
    layer.num_updates.zero_()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x.bfloat16())
        assert torch.equal(out, exact)
        out.sum().backward()
    assert layer.weight.grad is not None
    with torch.inference_mode():
        assert layer.eval()(x).dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"association": float("nan")}, "finite"),
        ({"association": float("inf")}, "finite"),
        ({"measure": "sum"}, "magnitude, product"),
        ({"cache": "max"}, "rms, mean, none"),
        ({"momentum": 0.0}, "momentum"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    for build in (AssociativeLinear, lambda i, o, **k: AssociativeConv2d(i, o, 3, **k)):
        with pytest.raises(ConfigError, match=message):
            build(2, 3, **arguments)


def test_padding_must_be_numbers() -> None:
    with pytest.raises(ConfigError, match="padding"):
        AssociativeConv2d(2, 3, 3, padding="same")  # type: ignore[arg-type]
    assert "association=0.2" in repr(AssociativeConv2d(2, 3, 3))
