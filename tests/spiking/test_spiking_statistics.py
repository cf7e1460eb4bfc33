"""Counts of spikes and operations against counting by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modicum.errors import ConfigError, DataError
from modicum.spiking import SpikingLayer, SpikingNetwork, count_spikes
from modicum.spiking.statistics import fan_out


def binary(*shape: int) -> Tensor:
    return (torch.rand(shape) < 0.3).float()


def spikes_of(network: SpikingNetwork, x: Tensor) -> list[Tensor]:
    kept: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda m, i, o: kept.append(o.detach()))
        for layer in network.features
        if isinstance(layer, SpikingLayer)
    ]
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    return kept


def reached(conv: nn.Conv2d, place: tuple[int, int], size: int) -> int:
    """Outputs that depend on one input pixel, by trying."""
    x = torch.zeros(1, conv.in_channels, size, size)
    x[0, 0, place[0], place[1]] = 1
    ones = torch.ones_like(conv.weight)
    out = nn.functional.conv2d(x, ones, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    return int(out.count_nonzero())


@pytest.mark.parametrize(
    "options",
    [{"padding": 1}, {"stride": 2, "padding": 1}, {"dilation": 2}, {"groups": 2, "stride": 3}],
)
def test_fan_out_of_every_pixel(options: dict[str, Any]) -> None:
    conv = nn.Conv2d(2, 4, 3, **options)
    mine = fan_out(conv, torch.zeros(1, 2, 8, 8))
    for row in range(8):
        for column in range(8):
            assert mine[row, column] == reached(conv, (row, column), 8)


@pytest.mark.parametrize("downsampling", ["stride", "average"])
@pytest.mark.parametrize("head", ["flatten", "average"])
def test_counts_are_those_of_the_spikes(downsampling: Any, head: Any) -> None:
    torch.manual_seed(0)
    layout = [4, "pool", 6, "pool"]
    network = SpikingNetwork(layout, size=10, downsampling=downsampling, head=head)
    network(binary(4, 3, 2, 10, 10))
    network.eval()
    x = binary(5, 3, 2, 10, 10)
    first, second = spikes_of(network, x)
    with count_spikes(network) as counted, torch.no_grad():
        network(x[:2])
        network(x[2:])
    network(x)  # after the context nothing is counted
    assert counted.samples == 5
    assert [layer.name for layer in counted.layers] == [
        name for name, layer in network.named_modules() if isinstance(layer, SpikingLayer)
    ]
    for layer, spikes in zip(counted.layers, (first, second), strict=True):
        assert layer.rate == pytest.approx(spikes.mean().item())
        assert layer.spikes_per_sample == pytest.approx(spikes.sum().item() / 5)
    assert counted.spikes_per_sample == pytest.approx((first.sum() + second.sum()).item() / 5)

    # A spike of the first layer reaches the windows of its pixel, or of the pixel of its pool.
    conv = [layer for layer in network.features if isinstance(layer, SpikingLayer)][1].synapses
    pool = 2 if downsampling == "average" else 1
    size = first.shape[-1] // pool
    expected = 0.0
    for _, _, _, row, column in first.nonzero().tolist():
        if row // pool < size and column // pool < size:  # the pool drops an odd border
            expected += reached(conv, (row // pool, column // pool), size)
    size = second.shape[-1] // pool * pool
    expected += 10 * second[..., :size, :size].sum().item()
    assert counted.operations_per_sample == pytest.approx(expected / 5)
    assert counted.accumulates_per_sample == counted.operations_per_sample
    side = first.shape[-1]
    assert counted.multiply_accumulates_per_sample == 3 * 4 * side**2 * 2 * 9
    assert counted.energy_per_sample == pytest.approx(
        0.9e-12 * expected / 5 + 4.6e-12 * 3 * 4 * side**2 * 2 * 9
    )


def test_a_static_image_is_multiplied_once() -> None:
    torch.manual_seed(0)
    network = SpikingNetwork([4], size=6, in_channels=1, time_steps=7)
    with count_spikes(network) as counted:
        network(torch.randn(2, 1, 6, 6))
    assert counted.multiply_accumulates_per_sample == 4 * 36 * 9
    assert counted.layers[0].rate * 7 * 4 * 36 == pytest.approx(counted.spikes_per_sample)


def test_bad_use() -> None:
    network = SpikingNetwork([4], size=6)
    with count_spikes(network) as counted:
        pass
    for name in ("layers", "operations_per_sample", "energy_per_sample"):
        with pytest.raises(DataError, match="nothing was counted"):
            getattr(counted, name)
    with pytest.raises(ConfigError, match="Linear"), count_spikes(nn.Linear(1, 1)):
        pass
