"""Segmentation networks against the authors' encoder and Transformers' heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modicum.methods.tinymim.networks.upernet import (
    AveragePool,
    FCNHead,
    SegmentationEncoder,
    UPerHead,
    UPerNet,
)
from modicum.methods.tinymim.networks.vit import relative_position_index

GOLDEN = Path(__file__).parents[2] / "golden" / "tinymim"


def test_the_encoder_is_that_of_the_authors() -> None:
    golden = load_file(GOLDEN / "seg_backbone.safetensors")
    state = {n[3:]: value for n, value in golden.items() if n.startswith("sd.")}
    index = relative_position_index((3, 3))
    assert torch.equal(index, state["blocks.0.attn.relative_position_index"])
    for block in range(12):
        state[f"blocks.{block}.attn.relative_position_index"] = index
    encoder = SegmentationEncoder(24, 12, 3, mlp_ratio=2, image_size=48).eval()
    encoder.load_state_dict(state)
    with torch.no_grad():
        maps = encoder(golden["x"])
    for number, found in enumerate(maps):
        torch.testing.assert_close(found, golden[f"out{number}"], rtol=0, atol=1e-5)


def test_the_heads_are_those_of_transformers() -> None:
    golden = load_file(GOLDEN / "upernet.safetensors")
    heads = {"head": UPerHead([6] * 4, 8, 5).eval(), "aux": FCNHead(6, 4, 5).eval()}
    for name, head in heads.items():
        prefix = f"{name}."
        head.load_state_dict(
            {n.removeprefix(prefix): v for n, v in golden.items() if n.startswith(prefix)}
        )
    maps = [golden[f"f{number}"] for number in range(4)]
    with torch.no_grad():
        found = heads["head"](maps), heads["aux"](maps[2])
    for scores, expected in zip(found, ("logits", "aux_logits"), strict=True):
        torch.testing.assert_close(scores, golden[expected], rtol=0, atol=1e-5)


def test_relative_positions_have_entries_of_their_own_for_both_tokens() -> None:
    index = relative_position_index((2, 3), extra_tokens=2)
    assert index.shape == (8, 8)
    assert sorted(index[2:, 2:].unique()) == list(range(15))
    assert index[0].tolist() == [17, 17] + [15] * 6
    assert index[1].tolist() == [20, 20] + [18] * 6
    assert index[2].tolist()[:2] == [16, 19]


@pytest.mark.parametrize("starred", [False, True])
def test_every_pixel_has_scores(starred: bool) -> None:
    encoder = {"width": 12, "depth": 4, "heads": 3, "image_size": [32, 64]}
    if starred:
        encoder |= {"distillation_token": True, "feature_width": 20}
    network = UPerNet(encoder, 5, channels=8, auxiliary_channels=4)
    images = torch.randn(2, 3, 32, 64)
    both = network.both(images)
    assert both.logits.shape == both.auxiliary.shape == (2, 5, 32, 64)
    network.eval()
    again = UPerNet(**network.arguments).eval()
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(again(images), network(images))
    assert network.backbone.map_width == (48 if starred else 12)
    sum(scores.square().mean() for scores in both).backward()  # type: ignore[union-attr]
    unused = [name for name, p in network.named_parameters() if p.grad is None]
    assert unused == []


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_means_of_parts_are_those_of_pytorch(parts: int) -> None:
    x = torch.randn(2, 3, 16, 5)
    expected = torch.nn.functional.adaptive_avg_pool2d(x, parts)
    torch.testing.assert_close(AveragePool(parts)(x), expected)


def test_taps_are_four_blocks_in_order() -> None:
    assert SegmentationEncoder(12, 12, 3, image_size=32).taps == (4, 6, 8, 12)
    for taps in ((1, 2, 3), (2, 1, 3, 4), (1, 2, 3, 5)):
        with pytest.raises(ValueError, match="expected four blocks in order, of 1 to 4"):
            SegmentationEncoder(12, 4, 3, image_size=32, taps=taps)
