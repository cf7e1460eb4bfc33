"""Every trainable parameter is in one group, with the decay and the rate its recipe means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modicum.engine.optimizers import (
    layer_decay,
    norms_and_embeddings,
    parameter_groups,
    vectors,
)
from modicum.engine.run import Run
from modicum.errors import ConfigError


@dataclass(frozen=True)
class Config:
    data: str = "none"


class Transformer(nn.Module):
    """The parameters of a vision transformer of so many blocks."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 6))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 6))
        self.patch_embed = nn.Conv2d(3, 6, 2)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"norm1": nn.LayerNorm(6), "attn": nn.Linear(6, 6)}) for _ in range(depth)
        )
        self.head = nn.Linear(6, 3)


def options(network: nn.Module, groups: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Scale and decay of every parameter that is in a group."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found = [
        (names[id(parameter)], (group["scale"], group["weight_decay"]))
        for group in groups
        for parameter in group["params"]
    ]
    assert len(dict(found)) == len(found), "a parameter is in two groups"
    return dict(found)


def test_vectors_do_not_decay_and_frozen_parameters_are_in_no_group() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.PReLU())
    network[2].weight.requires_grad_(False)
    groups = parameter_groups(network, 0.1)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert options(network, groups) == {
        "0.weight": (1.0, 0.1),
        **dict.fromkeys(["0.bias", "1.weight", "1.bias", "2.bias", "3.weight"], (1.0, 0.0)),
    }
    assert {decay for _, decay in options(network, parameter_groups(network, 0.0)).values()} == {0}
    assert len(parameter_groups(network, 0.0)) == 1


def test_layer_decay_is_that_of_masked_autoencoders() -> None:
    """Scales of TinyMIM's fine-tuning at decay 0.65 and 12 blocks, by the authors' code."""
    network = Transformer(12)
    layers = [("cls_token", "pos_embed", "patch_embed"), *(f"blocks.{i}" for i in range(12))]
    groups = parameter_groups(
        network,
        0.05,
        no_decay=vectors(network) | {"cls_token", "pos_embed"},
        scale=layer_decay(layers, 0.65),
    )
    found = options(network, groups)
    assert len(found) == len(list(network.parameters()))
    for name, scale, decay in (
        ("cls_token", 0.0036972059, 0.0),
        ("pos_embed", 0.0036972059, 0.0),
        ("patch_embed.weight", 0.0036972059, 0.05),
        ("patch_embed.bias", 0.0036972059, 0.0),
        ("blocks.0.norm1.weight", 0.0056880091, 0.0),
        ("blocks.1.attn.weight", 0.0087507832, 0.05),  # blocks.1 is not blocks.10
        ("blocks.3.attn.weight", 0.0207119128, 0.05),
        ("blocks.10.attn.weight", 0.4225, 0.05),
        ("blocks.11.attn.bias", 0.65, 0.0),
        ("head.weight", 1.0, 0.05),
        ("head.bias", 1.0, 0.0),
    ):
        assert found[name] == (pytest.approx(scale, rel=1e-7), decay), name
    assert len(groups) == 2 * 14


def test_rate_and_decay_of_modules_by_their_names() -> None:
    """CMT's: everything decays, the image backbone five times as much at a hundredth the rate."""
    network = nn.ModuleDict(
        {name: nn.Linear(2, 2) for name in ("img_backbone", "img_backbone_2", "img_neck", "head")}
    )
    groups = parameter_groups(
        network,
        0.01,
        no_decay=(),
        scale={"img_backbone": 0.01, "img_neck": 0.1, "img_neck.bias": 0.2},
        decay_scale={"img_backbone": 5},
    )
    assert options(network, groups) == {
        **dict.fromkeys(["img_backbone.weight", "img_backbone.bias"], (0.01, 0.05)),
        **dict.fromkeys(["img_backbone_2.weight", "img_backbone_2.bias"], (1.0, 0.01)),
        "img_neck.weight": (0.1, 0.01),
        "img_neck.bias": (0.2, 0.01),  # the longest name counts
        **dict.fromkeys(["head.weight", "head.bias"], (1.0, 0.01)),
    }


def test_norms_and_embeddings_may_be_what_does_not_decay() -> None:
    """Mask2Former's: biases of other layers decay."""
    network = nn.ModuleDict(
        {
            "projection": nn.Sequential(nn.Conv2d(2, 4, 1), nn.GroupNorm(2, 4)),
            "norm": nn.LayerNorm(4),
            "query": nn.Embedding(3, 4),
            "batch_norm": nn.BatchNorm1d(4),
        }
    )
    found = options(
        network, parameter_groups(network, 0.05, no_decay=norms_and_embeddings(network))
    )
    assert {name for name, (_, decay) in found.items() if decay} == {
        "projection.0.weight",
        "projection.0.bias",
    }
    assert norms_and_embeddings(nn.LayerNorm(2)) == {"weight", "bias"}


def test_a_shared_parameter_is_in_one_group() -> None:
    network = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    network["b"].weight = network["a"].weight
    groups = parameter_groups(network, 0.1, scale={"b.bias": 0.5})
    assert sorted(options(network, groups)) == ["a.bias", "a.weight", "b.bias"]


@pytest.mark.parametrize(
    "given", [{"scale": {"block": 0.1}}, {"decay_scale": {"blocks.1": 1}}, {"no_decay": ["heads"]}]
)
def test_names_of_nothing_are_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"called (block|blocks\.1|heads)\. .* cls_token, pos"):
        parameter_groups(Transformer(1), 0.1, **given)


def test_a_run_sets_the_rate_of_every_group(tmp_path: Path) -> None:
    network = nn.ModuleDict({"slow": nn.Linear(1, 1, bias=False), "fast": nn.Linear(1, 1)})
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(parameter_groups(network, 0.0, scale={"slow": 0.25}), lr=1.0)
    with Run(tmp_path, method="test", config=Config(), quiet=True) as run:
        network, optimizer = run.prepare(network, optimizer)
        for _ in run.iterations(1):
            loss = torch.stack([parameter.sum() for parameter in network.parameters()]).sum()
            run.step(loss, optimizer, learning_rate=0.5)
    for name, value in network.state_dict().items():
        moved = (before[name] - value).item()
        assert moved == pytest.approx(0.125 if name.startswith("slow") else 0.5)
