"""Checkpoints of every layout load, into the right network, or say what they are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from modicum.errors import CheckpointError
from modicum.methods.vgnet.checkpoints import load_into, load_official
from modicum.methods.vgnet.model import BUILDERS, VGNet, vgnetg_1_0mp

SMALL: dict[str, Any] = {"channels": (16, 16, 32, 48, 64), "layers": (1, 3, 2, 2)}
IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def small(**arguments: Any) -> VGNet:
    return VGNet(**(SMALL | {"num_classes": 7} | arguments)).eval()


def same_output(one: VGNet, other: VGNet) -> bool:
    with torch.no_grad():
        return torch.equal(one.eval()(IMAGE), other.eval()(IMAGE))


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("revision", ["paper", "release2"])
def test_published_networks_are_recognised(name: str, revision: Any) -> None:
    network = BUILDERS[name](revision=revision, num_classes=11)
    activation = network.arguments["activation"]
    loaded = load_official(network.state_dict(), activation=activation)
    expected = network.arguments | {"dropout": loaded.arguments["dropout"]}
    assert loaded.arguments == expected


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"kernels": "edge"},
        {"kernels": "edge_gaussian", "revision": "release2"},
        {"downsampling": "depthwise"},
        {"downsampling": "maxpool"},
        {"squeeze_excitation": 0.25, "revision": "release2"},
        {"in_channels": 3, "num_classes": 2},
    ],
)
def test_files_load_with_their_weights(tmp_path: Path, arguments: dict[str, Any]) -> None:
    network = small(**arguments)
    torch.save(network.state_dict(), tmp_path / "a.pth")
    assert same_output(network, load_official(tmp_path / "a.pth"))
    safetensors.torch.save_file(network.state_dict(), tmp_path / "a.safetensors")
    assert same_output(network, load_official(tmp_path / "a.safetensors"))
    prefixed = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": prefixed}, tmp_path / "wrapped.pth")
    assert same_output(network, load_official(tmp_path / "wrapped.pth"))


def test_the_sigma_of_january_2022_becomes_a_kernel() -> None:
    state = small().state_dict()
    for stage in range(1, 5):
        del state[f"features.stage{stage}.0.downsample.weight"]
        state[f"features.stage{stage}.0.downsample.sigma"] = torch.tensor(1.1)
    loaded = load_official(state)
    kernel = loaded.state_dict()["features.stage3.0.downsample.weight"]
    side, corner = math.exp(-1 / 2.42), math.exp(-2 / 2.42)
    expected = torch.tensor([[corner, side, corner], [side, 1, side], [corner, side, corner]])
    torch.testing.assert_close(kernel, (expected / expected.sum()).expand(32, 1, 3, 3))
    assert loaded.arguments["downsampling"] == "gaussian"


@pytest.mark.parametrize("arguments", [{}, {"kernels": "edge"}])
def test_the_tail_of_november_2021_is_found(arguments: dict[str, Any]) -> None:
    network = small(**arguments)
    state = {
        name.replace("features.stage4.3.", "features.last."): value
        for name, value in network.state_dict().items()
    }
    assert any("features.last" in name for name in state)
    assert same_output(network, load_official(state))


def test_the_classifier_starts_anew_only_when_asked() -> None:
    network = small()
    state = network.state_dict()
    other = load_official(state, num_classes=3).eval()
    assert other(IMAGE).shape == (2, 3)
    with torch.no_grad():
        maps = zip(network.features(IMAGE), other.features(IMAGE), strict=True)
        assert all(torch.equal(a, b) for a, b in maps)
    with pytest.raises(CheckpointError, match=r"num_classes 7, expected 3.*num_classes=N"):
        load_into(small(num_classes=3), state)


def test_the_activation_is_an_argument() -> None:
    network = small(activation="silu")
    assert same_output(network, load_official(network.state_dict(), activation="silu"))
    assert not same_output(network, load_official(network.state_dict()))


def test_thumbnail_networks_start_from_a_checkpoint() -> None:
    loaded = load_official(small().state_dict(), thumbnail=True)
    assert loaded(torch.randn(1, 3, 16, 16)).shape == (1, 7)


@pytest.mark.parametrize("downsampling", ["gaussian", "maxpool"])
def test_thumbnail_mode_is_told_by_the_filter_of_stage_1(downsampling: Any) -> None:
    network = small(downsampling=downsampling, thumbnail=True)
    loaded = load_official(network.state_dict())
    assert loaded.arguments["thumbnail"]
    assert same_output(network, loaded)


@pytest.mark.parametrize(
    ("found", "wanted", "message"),
    [
        ({"downsampling": "depthwise"}, {}, "downsampling 'depthwise', expected 'gaussian'"),
        ({"kernels": "edge"}, {"kernels": "edge_gaussian"}, "kernels 'edge', expected 'edge_g"),
    ],
)
def test_fixed_filters_are_never_filled_with_others(
    found: dict[str, Any], wanted: dict[str, Any], message: str
) -> None:
    network = small(**wanted)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_into(network, small(**found).state_dict())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_other_revision_is_named() -> None:
    release2 = vgnetg_1_0mp(revision="release2").state_dict()
    with pytest.raises(CheckpointError) as caught:
        load_into(vgnetg_1_0mp(), release2, "weights.pth")
    assert "weights.pth" in str(caught.value)
    assert "revision 'release2', expected 'paper'" in str(caught.value)
    assert "vgnetg_1_0mp(revision='release2')" in str(caught.value)


def test_another_width_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"channels \[16, 16, 32, 48, 64\], expected \[28"):
        load_into(vgnetg_1_0mp(num_classes=7), small().state_dict())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"<!DOCTYPE html>", "cannot be read"),
        (torch.zeros(3), "holds a Tensor"),
        ({"a": 1}, "holds a dict"),
        ({"a": torch.zeros(3)}, "not a VGNet"),
    ],
)
def test_foreign_files_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "foreign.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_official(path)
    assert str(path) in str(caught.value)


def test_missing_and_truncated_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_official(tmp_path / "absent.pth")
    for name, save in (("a.pth", torch.save), ("a.safetensors", safetensors.torch.save_file)):
        path = tmp_path / name
        save(small().state_dict(), path)
        path.write_bytes(path.read_bytes()[:-50])
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_official(path)


def test_missing_tensors_are_never_dropped_silently() -> None:
    state: dict[str, Tensor] = small().state_dict()
    del state["features.stage3.1.conv1x1.2.running_var"]
    with pytest.raises(CheckpointError, match=r"1 missing \(features\.stage3"):
        load_official(state)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 1.0, 1 / 16, 0.3])
def test_the_ratio_of_squeeze_and_excitation_is_told_by_the_widths(ratio):
    small = {"channels": (16, 32, 64, 128, 256), "layers": (1, 2, 1, 2), "num_classes": 3}
    network = VGNet(**small, squeeze_excitation=ratio)
    loaded = load_official(network.state_dict())
    assert loaded.state_dict().keys() == network.state_dict().keys()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(loaded.eval()(x), network.eval()(x), rtol=0, atol=0)


def test_widths_of_no_single_ratio_are_refused():
    state = VGNet((16, 32, 64, 128, 256), (1, 1, 1, 1), squeeze_excitation=0.5).state_dict()
    name = "features.stage4.0.conv1x1.1.reduce.weight"
    state[name] = state[name][:8]
    with pytest.raises(CheckpointError, match="same share of the channels"):
        load_official(state)
