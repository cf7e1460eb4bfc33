"""Networks of associative synapses, and the experiment the method is modelled on."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from modicum.errors import ConfigError
from modicum.methods.apbs import networks
from modicum.methods.apbs.association import EPSILON, AssociativeConv2d, AssociativeLinear
from modicum.methods.apbs.networks import BUILDERS, NEURONS, build, network
from modicum.methods.apbs.probe import probe_convolution, probe_potentiation
from modicum.spiking import count_spikes
from modicum.spiking import networks as plain


def binary(*shape: int) -> Tensor:
    return (torch.rand(shape) < 0.3).float()


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("associate_classifier", [False, True])
def test_association_adds_no_parameter(name: str, associate_classifier: bool) -> None:
    without = plain.BUILDERS[name]()
    with_it = build(name, associate_classifier=associate_classifier)
    assert {k: v.shape for k, v in with_it.named_parameters()} == {
        k: v.shape for k, v in without.named_parameters()
    }
    kinds = [type(module) for module in with_it.modules()]
    assert kinds.count(AssociativeConv2d) == sum(i != "pool" for i in without.arguments["layout"])
    assert kinds.count(AssociativeLinear) == associate_classifier


def test_arguments_rebuild_the_network() -> None:
    torch.manual_seed(0)
    first = networks.small(size=12, association=0.3, cache="mean", associate_classifier=True)
    x = binary(2, 3, 2, 12, 12)
    first(x)
    again = network(**json.loads(json.dumps(first.arguments)))
    again.load_state_dict(first.state_dict())
    assert again.arguments == first.arguments
    assert torch.equal(first.eval()(x), again.eval()(x))


def test_none_gives_plain_layers_and_zero_their_numbers() -> None:
    torch.manual_seed(0)
    none = networks.small(size=12, association=None)
    zero = networks.small(size=12, association=0.0)
    assert not any(isinstance(module, AssociativeConv2d) for module in none.modules())
    zero.load_state_dict(none.state_dict())
    x = binary(2, 3, 2, 12, 12)
    assert torch.equal(none(x), zero(x))
    assert torch.equal(none.eval()(x), zero.eval()(x))


def test_in_eval_mode_steps_give_what_the_sequence_gives() -> None:
    torch.manual_seed(0)
    net = networks.small(size=12, associate_classifier=True).double()
    net(binary(4, 5, 2, 12, 12).double())
    net.eval()
    x = binary(2, 5, 2, 12, 12).double()
    state, logits = None, []
    with torch.no_grad():
        for t in range(5):
            out, state = net.step(x[:, t], state)
            logits.append(out)
        torch.testing.assert_close(torch.stack(logits, 1), net(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(torch.stack(logits, 1), net(x), rtol=0, atol=1e-10)


def test_in_training_only_the_first_step_updates_caches() -> None:
    torch.manual_seed(0)
    net = networks.small(size=12, associate_classifier=True)
    x = binary(2, 5, 2, 12, 12)
    synapses = [m for m in net.modules() if isinstance(m, AssociativeConv2d | AssociativeLinear)]
    assert len(synapses) == 3
    for sequence in (1, 2):
        state = None
        for t in range(5):
            _, state = net.step(x[:, t], state)
            if t == 0:
                caches = [layer.cache.clone() for layer in synapses]
        assert all(layer.num_updates == sequence for layer in synapses)
        for layer, cache in zip(synapses, caches, strict=True):
            assert torch.equal(layer.cache, cache)
    net(x)
    assert all(layer.num_updates == 3 for layer in synapses)


def test_operations_of_association_are_counted() -> None:
    torch.manual_seed(0)
    net = networks.small(size=12)
    with count_spikes(net) as counted:
        net(binary(2, 4, 2, 12, 12))
    assert counted.accumulates_per_sample < 3 * counted.operations_per_sample
    assert counted.accumulates_per_sample > counted.operations_per_sample
    first, second = 4 * 16 * 36, 4 * 32 * 9  # outputs of both layers
    assert counted.multiply_accumulates_per_sample == 3 * first * 18 + first + second


@pytest.mark.parametrize("neuron", NEURONS)
def test_a_network_trains_with_every_neuron(neuron: str) -> None:
    torch.manual_seed(0)
    net = build("small", neuron=neuron, size=(12, 12), num_classes=3)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    x, labels = binary(8, 4, 2, 12, 12), torch.arange(8) % 3
    losses = []
    for _ in range(15):
        loss = torch.nn.functional.cross_entropy(net(x).mean(1), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_unknown_names() -> None:
    with pytest.raises(ConfigError, match="vggsnn_stride"):
        build("resnet")
    with pytest.raises(ConfigError, match="snntorch"):
        build("small", neuron="izhikevich")


def test_only_joint_stimulation_strengthens_the_response() -> None:
    probe = probe_potentiation()
    for alone in (probe.first, probe.second):
        assert alone.associative_current == pytest.approx(alone.current, abs=1e-5)
        assert alone.spikes == alone.associative_spikes == 0
    assert probe.together.associative_current > probe.together.current + 0.05
    assert (probe.together.spikes, probe.together.associative_spikes) == (10, 20)
    assert probe.enhancement == pytest.approx(0.2, abs=1e-3)
    assert probe_potentiation(association=0.0).enhancement == pytest.approx(0, abs=1e-5)
    assert probe_potentiation(association=-0.2).enhancement < -0.1


@pytest.mark.parametrize(("stride", "padding", "kernel"), [(2, 1, 3), (1, (0, 2), (3, 5))])
def test_a_trained_layer_strengthens_the_joint_response_only(
    stride: int, padding: Any, kernel: Any
) -> None:
    torch.manual_seed(0)
    layer = AssociativeConv2d(4, 6, kernel, stride, padding, association=0.2).double()
    layer(binary(8, 4, 12, 12).double())
    found = probe_convolution(layer.eval())
    for alone in (found.first, found.second):
        assert alone.abs().max() < 1e-12
    # lambda / (c + eps) * (w_1 |w_2| + w_2 |w_1|), of w_2.
    partner = layer.weight.detach().flatten(1).max(1).values
    torch.testing.assert_close(found.together, 2 * 0.2 * partner / (layer.cache + EPSILON))
    layer.association = -0.2
    assert (probe_convolution(layer).together < -0.01).all()
    layer.association = 0.0
    assert probe_convolution(layer).together.abs().max() < 1e-12


def test_association_is_not_exported_to_nir() -> None:
    pytest.importorskip("nir")
    from modicum.spiking.nir_export import compare, to_nir

    with pytest.raises(ConfigError, match="association=0"):
        to_nir(networks.small(size=12))
    net = networks.small(size=12, association=None)
    net.classifier = AssociativeLinear(288, 10)
    with pytest.raises(ConfigError, match="AssociativeLinear"):
        to_nir(net)
    torch.manual_seed(0)
    zero = networks.small(size=12, association=0.0).double()  # in which no spike flips by rounding
    zero(binary(2, 4, 2, 12, 12).double())
    assert compare(zero, to_nir(zero), binary(2, 4, 2, 12, 12).double()).differing == 0
