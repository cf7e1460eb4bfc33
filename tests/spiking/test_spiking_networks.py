"""Networks: counts, shapes, direct coding, steps, folding, bad input.

The comparison with the reference's weights is in the tests of APBS, whose room reads them.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from modicum.errors import ConfigError, DataError
from modicum.spiking import (
    BUILDERS,
    SpikingLayer,
    SpikingNetwork,
    light,
    nda_vgg11,
    small,
    vggsnn,
    vggsnn_stride,
)

TINY: dict[str, Any] = {"layout": [4, "pool", 6, "pool"], "size": 16}


def binary(*shape: int, rate: float = 0.2) -> torch.Tensor:
    return (torch.rand(shape) < rate).float()


def settled(network: SpikingNetwork, *shape: int) -> SpikingNetwork:
    """In eval mode, after statistics of a batch."""
    network(binary(*shape))
    return network.eval()


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        (vggsnn(), 9_271_498),
        (vggsnn_stride(), 9_271_498),
        (nda_vgg11(), 9_230_538),
        (nda_vgg11(num_classes=101), 9_277_221),
        (light(), 412_138),
        (small(), 30_970),
    ],
)
def test_parameter_counts(network: SpikingNetwork, parameters: int) -> None:
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("name", BUILDERS)
def test_arguments_rebuild_the_network(name: str) -> None:
    torch.manual_seed(0)
    width = {"layout": [4, "pool", 4, "pool"], "size": [18, 17]}
    network = settled(BUILDERS[name](**width, num_classes=3), 2, 3, 2, 18, 17)
    again = SpikingNetwork(**json.loads(json.dumps(network.arguments))).eval()
    again.load_state_dict(network.state_dict())
    x = binary(2, 3, 2, 18, 17)
    assert torch.equal(network(x), again(x))
    assert network(x).shape == (2, 3, 3)
    assert again.arguments == network.arguments


def test_nda_starts_as_its_authors_do() -> None:
    torch.manual_seed(0)
    layers = [layer for layer in nda_vgg11().features if isinstance(layer, SpikingLayer)]
    for layer in layers:
        assert layer.norm.weight.eq(0.5).all()
        assert layer.synapses.bias.eq(0).all()
        outputs = layer.synapses.out_channels
        assert layer.synapses.weight.std().item() == pytest.approx(
            (2 / 9 / outputs) ** 0.5, rel=0.1
        )
        assert layer.neuron.dynamics.threshold == 0.5
    assert vggsnn().features[0].neuron.dynamics.threshold == 1.0


def test_an_image_is_presented_at_every_step() -> None:
    torch.manual_seed(0)
    network = SpikingNetwork(**TINY, in_channels=3, time_steps=4)
    frames = SpikingNetwork(**TINY, in_channels=3)
    frames.load_state_dict(network.state_dict())
    x = torch.randn(5, 3, 16, 16)
    repeated = x[:, None].expand(-1, 4, -1, -1, -1)
    mine, theirs = network(x), frames(repeated)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    mine.square().sum().backward()
    theirs.square().sum().backward()
    for a, b in zip(network.parameters(), frames.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)
    frames.load_state_dict(network.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(x), frames.eval()(repeated), rtol=0, atol=1e-5)
    assert network(repeated).shape == (5, 4, 10)


@pytest.mark.parametrize("builder", [small, light], ids=["stride", "pool"])
def test_steps_give_what_the_sequence_gives(builder: Any) -> None:
    torch.manual_seed(0)
    network = builder(size=24).double()
    network(binary(4, 6, 2, 24, 24).double())
    network.eval()
    x = binary(3, 6, 2, 24, 24).double()
    state, logits = None, []
    with torch.no_grad():
        for t in range(6):
            out, state = network.step(x[:, t], state)
            logits.append(out)
        torch.testing.assert_close(torch.stack(logits, 1), network(x), rtol=0, atol=1e-10)
        with pytest.raises(DataError, match="state has batch 3, input 2: reset or pass state=None"):
            network.step(x[:2, 0], state)
        with pytest.raises(DataError, match="state is of 1 layers"):
            network.step(x[:, 0], state[:1])


@pytest.mark.parametrize("head", ["flatten", "average"])
def test_eval_mode_folds_the_normalisation(head: Any) -> None:
    torch.manual_seed(0)
    network = SpikingNetwork(**TINY, head=head).double()
    for layer in network.features:
        if isinstance(layer, SpikingLayer):
            nn.init.uniform_(layer.norm.weight, 0.5, 1.5)
            nn.init.uniform_(layer.norm.bias, -0.2, 0.2)
    network(binary(4, 5, 2, 16, 16).double())
    network.eval()
    first = network.features[0]
    x = binary(8, 2, 16, 16).double()
    expected = first.norm(first.synapses(x))
    torch.testing.assert_close(first.currents(x), expected, rtol=0, atol=1e-12)
    network(binary(2, 3, 2, 16, 16).double()).sum().backward()
    assert first.norm.weight.grad is not None  # folding keeps gradients


def test_statistics_pool_over_time() -> None:
    torch.manual_seed(0)
    network = SpikingNetwork(**TINY)
    x = binary(3, 5, 2, 16, 16)
    network(x)
    first = network.features[0]
    currents = first.synapses(x.flatten(0, 1))
    torch.testing.assert_close(
        first.norm.running_mean, 0.1 * currents.mean((0, 2, 3)), rtol=1e-4, atol=1e-6
    )


def test_half_precision_runs() -> None:
    torch.manual_seed(0)
    network = SpikingNetwork(**TINY)
    with torch.autocast("cpu", torch.bfloat16):
        loss = network(binary(2, 3, 2, 16, 16)).square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 0, 2, 16, 16), "T=0"),
        (torch.zeros(2, 3, 16, 16), "time_steps=T"),
        (torch.zeros(2, 16, 16), r"\(batch, time, channels, height, width\)"),
        (torch.zeros(2, 3, 3, 16, 16), "2 channels and 16x16 pixels, found 3 channels"),
        (torch.zeros(2, 3, 2, 16, 15), "found 2 channels and 16x15"),
        (torch.zeros(2, 3, 2, 16, 16, dtype=torch.uint8), "uint8"),
    ],
)
def test_bad_frames(x: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        SpikingNetwork(**TINY)(x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": []}, "layout"),
        ({"layout": ["pool", 4]}, "layout"),
        ({"layout": [4, "pool", "pool"]}, "layout"),
        ({"layout": [4, "max"]}, "layout"),
        ({"layout": [0]}, "layout"),
        ({"size": 3}, "too small for 2 halvings"),
        ({"size": 0}, "size"),
        ({"num_classes": 0}, "num_classes"),
        ({"in_channels": 0}, "in_channels"),
        ({"time_steps": 0}, "time_steps"),
        ({"downsampling": "max"}, "average, stride"),
        ({"head": "max"}, "flatten, average"),
        ({"neuron": {"decay": 1.0}}, "decay"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SpikingNetwork(**(TINY | arguments))
