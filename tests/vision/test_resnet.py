"""ResNets have torchvision's names and sizes, and Transformers' numbers."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from modicum.vision.layers import FrozenBatchNorm2d, freeze_statistics
from modicum.vision.resnet import ResNet

COUNTS = {
    18: ((2, 2, 2, 2), 11_689_512),
    34: ((3, 4, 6, 3), 21_797_672),
    50: ((3, 4, 6, 3), 25_557_032),
    101: ((3, 4, 23, 3), 44_549_160),
    152: ((3, 8, 36, 3), 60_192_808),
}


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("depth", COUNTS)
def test_names_and_numbers_are_torchvisions(depth: Any) -> None:
    blocks, expected = COUNTS[depth]
    convolutions = 2 if depth < 50 else 3

    def normalisation(name: str) -> list[str]:
        kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        return [f"{name}.{kind}" for kind in kinds]

    names = ["conv1.weight", *normalisation("bn1")]
    for layer, count in enumerate(blocks, start=1):
        for block in range(count):
            prefix = f"layer{layer}.{block}"
            for number in range(1, convolutions + 1):
                names.append(f"{prefix}.conv{number}.weight")
                names += normalisation(f"{prefix}.bn{number}")
            if block == 0 and (layer > 1 or depth >= 50):
                names.append(f"{prefix}.downsample.0.weight")
                names += normalisation(f"{prefix}.downsample.1")
    with torch.device("meta"):
        network = ResNet(depth)
    assert list(network.state_dict()) == [*names, "fc.weight", "fc.bias"]
    assert parameters(network) == expected


def test_stages_of_fifty_layers_have_the_published_sizes() -> None:
    with torch.device("meta"):
        network = ResNet(50, num_classes=None)
        frozen = ResNet(50, num_classes=None, norm=FrozenBatchNorm2d)
    sizes = [parameters(network.get_submodule(f"layer{stage}")) for stage in (1, 2, 3, 4)]
    assert sizes == [215_808, 1_219_584, 7_098_368, 14_964_736]
    assert parameters(network) == 23_508_032
    assert parameters(frozen) == 23_454_912  # Mask2Former's, whose batch norms are constants


def their_names(network: ResNet) -> dict[str, str]:
    """Names of Transformers' `ResNetModel` for ours."""
    names: dict[str, str] = {}
    for name in network.state_dict():
        parts = name.split(".")
        kind = "convolution" if parts[-2].startswith("conv") else "normalization"
        if len(parts) == 2:
            place = "embedder.embedder"
        else:
            stage, block = int(parts[0][-1]) - 1, parts[1]
            place = f"encoder.stages.{stage}.layers.{block}."
            if parts[2] == "downsample":
                place += "shortcut"
                kind = ("convolution", "normalization")[int(parts[3])]
            else:
                place += f"layer.{int(parts[2][-1]) - 1}"
        names[name] = f"{place}.{kind}.{parts[-1]}"
    return names


@pytest.mark.parametrize("depth", [18, 50])
def test_maps_are_those_of_transformers(depth: Literal[18, 50]) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    network = ResNet(depth, num_classes=None).eval()
    state = network.state_dict()
    for tensor in state.values():
        if tensor.dim() == 1:  # statistics, scales and shifts that matter
            tensor.uniform_(0.5, 1.5)
    peer = transformers.ResNetModel(
        transformers.ResNetConfig(
            layer_type="basic" if depth == 18 else "bottleneck",
            depths=list(COUNTS[depth][0]),
            hidden_sizes=list(network.channels),
        )
    ).eval()
    peer.load_state_dict({theirs: state[ours] for ours, theirs in their_names(network).items()})
    x = torch.randn(2, 3, 64, 90)
    with torch.no_grad():
        maps = network.features(x)
        expected = peer(x, output_hidden_states=True).hidden_states[1:]
    for ours, theirs, channels, stride in zip(
        maps, expected, network.channels, network.strides, strict=True
    ):
        assert ours.shape == (2, channels, 64 // stride, -(-90 // stride))
        close(ours, theirs)


def test_scores_are_linear_in_the_means_of_the_last_map() -> None:
    torch.manual_seed(0)
    network = ResNet(18, num_classes=5, in_channels=2).eval()
    x = torch.randn(3, 2, 40, 33)
    with torch.no_grad():
        pooled = network.features(x)[-1].mean((2, 3))
        torch.testing.assert_close(network(x), network.fc(pooled))
        network.fc = nn.Identity()
        torch.testing.assert_close(network(x), pooled)


def test_a_block_without_weights_passes_its_input() -> None:
    block = ResNet(50, num_classes=None).eval().get_submodule("layer1.1")
    for number in (1, 2, 3):
        block.get_submodule(f"conv{number}").get_parameter("weight").data.zero_()
    x = torch.randn(1, 256, 5, 5)
    torch.testing.assert_close(block(x), x.relu())


def test_the_stem_for_small_images_keeps_their_size() -> None:
    network = ResNet(
        18, num_classes=None, thumbnail=True, norm=lambda channels: nn.GroupNorm(channels, channels)
    )
    assert network.strides == (1, 2, 4, 8)
    maps = network.features(torch.randn(2, 3, 32, 24))
    assert [tuple(x.shape[1:]) for x in maps] == [
        (64, 32, 24),
        (128, 16, 12),
        (256, 8, 6),
        (512, 4, 3),
    ]


def maps_of(network: ResNet, x: Tensor) -> Tensor:
    return torch.cat([x.flatten(1) for x in network.features(x)], 1)


def test_group_norm_does_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    network = ResNet(18, num_classes=None, norm=partial(nn.GroupNorm, 32))
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        close(maps_of(network, x)[1:2], maps_of(network, x[1:2]))


def test_frozen_batch_norm_is_the_evaluation_of_the_trained_one() -> None:
    torch.manual_seed(0)
    trained, frozen = (
        ResNet(18, num_classes=None, norm=norm) for norm in (nn.BatchNorm2d, FrozenBatchNorm2d)
    )
    x = torch.randn(2, 3, 32, 32)
    trained(x)  # statistics that are not the initial ones
    frozen.load_state_dict(trained.state_dict())
    state = {name: tensor.clone() for name, tensor in frozen.state_dict().items()}
    with torch.no_grad():
        close(maps_of(frozen.train(), x), maps_of(trained.eval(), x))
    assert all(torch.equal(tensor, state[name]) for name, tensor in frozen.state_dict().items())
    assert not any("bn" in name for name, _ in frozen.named_parameters())

    trained.train()
    freeze_statistics(trained)
    assert trained.get_submodule("layer1").training
    close(maps_of(trained, x), maps_of(frozen, x))
    maps_of(trained, x).sum().backward()
    assert trained.get_parameter("bn1.weight").grad is not None
    for name, tensor in trained.state_dict().items():
        if "running" in name:
            assert torch.equal(tensor, state[name]), name
