"""The EST classifier has the published size; checkpoints load wholly or say why not."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from modicum.errors import CheckpointError
from modicum.events.container import EventBatch, Events
from modicum.methods.event_augmentation.checkpoints import load_est, load_torchvision
from modicum.methods.event_augmentation.est import EstClassifier
from modicum.methods.event_augmentation.resnet import ResNet34
from modicum.methods.event_augmentation.train import Config, build_network
from modicum.methods.event_augmentation.voxels import VoxelPipeline

EVENTS = EventBatch.of([Events.of([1, 500, 900], [3, 9, 20], [7, 7, 8], [0, 1, 1])])


@pytest.mark.parametrize(("classes", "expected"), [(101, 21_384_546), (2, 21_333_759)])
def test_number_of_parameters(classes: int, expected: int) -> None:
    network = EstClassifier(classes)
    assert sum(weight.numel() for weight in network.parameters()) == expected


def test_est_checkpoints_load(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = EstClassifier(7, bins=4).eval()
    torch.nn.init.normal_(network.quantization_layer.value_layer.mlp[2].weight)
    state = network.state_dict()
    assert sorted(name for name in state if not name.startswith("classifier.")) == [
        f"quantization_layer.value_layer.mlp.{number}.{kind}"
        for number in range(3)
        for kind in ("bias", "weight")
    ]
    file = tmp_path / "model_best.pth"
    torch.save({"state_dict": state, "min_val_loss": 0.5, "iteration": 3}, file)
    loaded = load_est(file)
    assert loaded.arguments == network.arguments
    with torch.no_grad():
        assert torch.equal(loaded.eval()(EVENTS), network(EVENTS))
    torch.save({f"module.{name}": value for name, value in state.items()}, file)
    assert torch.equal(load_est(str(file)).classifier.fc.weight, network.classifier.fc.weight)


def test_est_checkpoints_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    state = EstClassifier(2, bins=2).state_dict()
    value = "quantization_layer.value_layer.mlp.1.weight"

    def refused(message: str, checkpoint: Any) -> None:
        with pytest.raises(CheckpointError, match=message):
            load_est(checkpoint)

    refused("1 missing", {name: state[name] for name in state if name != value})
    refused(r"1 unknown \(extra\)", state | {"extra": torch.zeros(1)})
    refused(r"mlp.1.weight \(5, 5\), expected \(30, 30\)", state | {value: torch.zeros(5, 5)})
    refused("takes 5 channels", state | {"classifier.conv1.weight": torch.zeros(64, 5, 7, 7)})
    refused("not an EST classifier", {"conv1.weight": torch.zeros(64, 3, 7, 7)})
    for message, content in {
        "holds a list": [1, 2],
        "holds a dict": {"epoch": 3},
        "objects other than tensors": {"state_dict": {}, "arguments": Path()},
    }.items():
        torch.save(content, tmp_path / "a.pth")
        refused(message, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(b"nonsense")
    refused("cannot be read", tmp_path / "b.pth")
    refused("no such file", tmp_path / "absent.pth")


def weights(in_channels: int, classes: int, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return ResNet34(in_channels, classes).state_dict()


def test_torchvision_weights_load_but_for_the_layers_kept(tmp_path: Path) -> None:
    imagenet = weights(3, 10, 1)
    torch.save(imagenet, tmp_path / "resnet34.pth")
    network = ResNet34(3, 10)
    load_torchvision(network, tmp_path / "resnet34.pth")
    assert all(torch.equal(network.state_dict()[name], imagenet[name]) for name in imagenet)

    network = ResNet34(18, 4)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"conv1.weight \(64, 3, 7, 7\), expected \(64, 18"):
        load_torchvision(network, imagenet)
    with pytest.raises(CheckpointError, match=r"fc.weight \(10, 512\), .*fresh=\('fc'"):
        load_torchvision(network, imagenet, fresh=["conv1"])
    partial = {name: value for name, value in imagenet.items() if name != "layer1.0.conv1.weight"}
    with pytest.raises(CheckpointError, match=r"1 missing \(layer1.0.conv1.weight\)"):
        load_torchvision(network, partial, fresh=("conv1", "fc"))
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    load_torchvision(network, imagenet, fresh=("conv1", "fc"))
    for name, value in network.state_dict().items():
        kept = name.startswith(("conv1.", "fc."))
        assert torch.equal(value, (before if kept else imagenet)[name])


def saved(state: dict[str, Tensor], kind: str, folder: Path) -> Path:
    """A file of weights as EST's authors or torchvision write it, or as safetensors."""
    path = folder / ("weights.safetensors" if kind == "safetensors" else f"{kind}.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if kind == "est" else state, path)
    return path


@pytest.mark.parametrize("network", ["resnet34-est", "resnet34-voxels"])
@pytest.mark.parametrize("kind", ["est", "torchvision", "safetensors"])
@pytest.mark.parametrize("same", [True, False])
def test_training_starts_from_published_weights(
    network: Any, kind: str, same: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    of_est, is_est = kind != "torchvision", network == "resnet34-est"
    channels = 4 if same or of_est else 3  # two bins for each polarity, or colours
    file = EstClassifier(3 if same else 5, bins=2)
    file.classifier = ResNet34(channels, 3 if same else 5)
    torch.nn.init.normal_(file.quantization_layer.value_layer.mlp[2].weight)
    state = file.state_dict() if of_est else file.classifier.state_dict()
    bins = 2 if same else 3
    if not is_est:
        bins *= 2  # a voxel grid has both polarities in each
    config = Config(network=network, bins=bins, size=32, init=saved(state, kind, tmp_path))
    pipeline = VoxelPipeline(20, 24, "jaer", network.removeprefix("resnet34-"), bins, 32)
    with caplog.at_level(logging.INFO, "modicum"):
        torch.manual_seed(1)
        built = build_network(config, pipeline, 3)
        torch.manual_seed(1)
        fresh = build_network(dataclasses.replace(config, init=None), pipeline, 3)

    anew = ["quantization_layer"] * (is_est and not of_est) + ["conv1", "fc"] * (not same)
    told = [f"classifier.{layer}" if is_est and "_" not in layer else layer for layer in anew]
    assert f"start anew: {', '.join(told) or 'none'}." in caplog.text
    theirs, own = file.state_dict(), fresh.state_dict()
    for name, tensor in built.state_dict().items():
        layer = name.removeprefix("classifier.").split(".")[0]
        full = name if is_est else f"classifier.{name}"
        assert torch.equal(tensor, own[name] if layer in anew else theirs[full]), name


def test_training_starts_from_no_other_file(tmp_path: Path) -> None:
    pipeline = VoxelPipeline(20, 24, "jaer", "est", 2, 32)

    def refused(state: dict[str, Tensor], message: str) -> None:
        file = saved(state, "torchvision", tmp_path)
        config = Config(network="resnet34-est", bins=2, size=32, init=file)
        with pytest.raises(CheckpointError, match=f"torchvision.pth.*{message}"):
            build_network(config, pipeline, 3)

    whole = weights(3, 10, 0)
    refused({"a": torch.zeros(1)}, "215 missing.*1 unknown")
    part = {name: whole[name] for name in whole if name != "bn1.weight"}
    refused(part, r"1 missing \(classifier.bn1.weight\)")
    refused({f"classifier.{name}": whole[name] for name in whole}, "takes 3 channels")


def test_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    # Two classes: events at the top, events at the bottom.
    recordings = [
        Events.of(
            np.arange(60), random.integers(0, 16, 60), random.integers(0, 8, 60) + 8 * (n % 2),
            random.integers(0, 2, 60), height=16, width=16,
        )
        for n in range(8)
    ]  # fmt: skip
    batch, labels = EventBatch.of(recordings), torch.arange(8) % 2
    network = EstClassifier(2, bins=2, size=32)
    optimizer = torch.optim.Adam(network.parameters(), 3e-4)
    losses: list[float] = []
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(network(batch), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
