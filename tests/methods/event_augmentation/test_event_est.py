"""The learned EST layer: the authors' numbers, the kernel it starts from, and bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from modicum.errors import ConfigError, DataError
from modicum.events.container import EventBatch, Events
from modicum.events.representations import est
from modicum.methods.event_augmentation.est import (
    EstClassifier,
    QuantizationLayer,
    ValueLayer,
    crop_and_resize,
)

GOLDEN = Path(__file__).parents[4] / "shared/golden/event-augmentation/representations.safetensors"


def recording(length: int, seed: int) -> Events:
    random = np.random.default_rng(seed)
    return Events.of(
        np.sort(random.integers(0, 1000, length)),
        random.integers(0, 12, length),
        random.integers(0, 9, length),
        random.integers(0, 2, length),
        height=9,
        width=12,
    )


BATCH = EventBatch.of([recording(200, 0), recording(0, 1), recording(1, 2), recording(50, 3)])


def test_output_and_gradients_are_the_authors() -> None:
    if not GOLDEN.exists():
        pytest.skip(f"{GOLDEN.name} is absent; it holds a real recording, which is not kept here")
    golden = load_file(GOLDEN)
    columns = (golden[f"ev.{name}"].numpy() for name in "txyp")
    whole = Events.of(*columns, height=34, width=34)
    layer = QuantizationLayer(9)
    state = {name: value for name, value in golden.items() if name.startswith("est_state.")}
    layer.load_state_dict({name.removeprefix("est_state."): state[name] for name in state})
    made = layer(EventBatch.of([whole, whole[: len(whole) // 2]]))
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(made[:, :, ::2, ::2], golden["est_official_mlp_vox"], **close)
    sums = golden["est_official_mlp_vox_sum_per_channel"]
    torch.testing.assert_close(made.sum((-2, -1)), sums, **close)
    made.backward(golden["est_upstream_grad"])
    for name, weight in layer.named_parameters():
        expected = golden[f"est_grad.{name}"]
        torch.testing.assert_close(weight.grad, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bins", [2, 9])
def test_the_kernel_starts_as_the_trilinear_one(bins: int) -> None:
    torch.manual_seed(0)
    layer = QuantizationLayer(bins)
    assert sum(weight.numel() for weight in layer.parameters()) == 1021
    distance = torch.linspace(-1, 1, 1001)
    expected = (1 - (bins - 1) * distance.abs()).clamp_min(0)
    torch.testing.assert_close(layer.value_layer(distance), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(layer(BATCH), est(BATCH, bins), rtol=0, atol=1e-4)


def test_every_weight_is_learned_from_there() -> None:
    torch.manual_seed(0)
    layer = ValueLayer(9)
    start = [weight.detach().clone() for weight in layer.parameters()]
    optimizer = torch.optim.Adam(layer.parameters(), 3e-3)
    distance = torch.linspace(-1, 1, 501)
    target = torch.exp(-((distance / 0.2) ** 2))
    losses: list[float] = []
    for _ in range(100):
        loss = (layer(distance) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    for before, weight in zip(start, layer.parameters(), strict=True):
        assert (before != weight).float().mean() > 0.9


def test_recordings_do_not_mix_and_are_left_alone() -> None:
    torch.manual_seed(0)
    layer = QuantizationLayer(3)
    torch.nn.init.normal_(layer.value_layer.mlp[2].weight)
    before = BATCH.t.copy()
    made = layer(BATCH)
    assert made.shape == (4, 6, 9, 12)
    for number, events in enumerate(BATCH):
        torch.testing.assert_close(layer(EventBatch.of([events]))[0], made[number])
    assert np.array_equal(BATCH.t, before)
    assert made[1].abs().sum() == 0


def test_classifier_takes_sensors_of_any_size() -> None:
    torch.manual_seed(0)
    network = EstClassifier(5, bins=2, size=32).eval()
    with torch.no_grad():
        assert network(BATCH).shape == (4, 5)
        assert network(EventBatch.of([recording(20, 4).replace(height=64)])).shape == (1, 5)


def test_cropping_to_the_central_square() -> None:
    x = torch.arange(6 * 10.0).view(1, 1, 6, 10)
    assert torch.equal(crop_and_resize(x, 6), x[..., 2:8])
    assert torch.equal(crop_and_resize(x.mT, 3), x.mT[..., 2:8:2, ::2])
    odd = torch.arange(5 * 8.0).view(1, 1, 5, 8)
    assert torch.equal(crop_and_resize(odd, 5), odd[..., 2:7])
    assert crop_and_resize(x).shape == (1, 1, 224, 224)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="found 1 bins, expected 2 or more"):
        QuantizationLayer(1)
    with pytest.raises(DataError, match="a time of -1 us"):
        QuantizationLayer(2)(BATCH.replace(t=BATCH.t - BATCH.t.min() - 1))
