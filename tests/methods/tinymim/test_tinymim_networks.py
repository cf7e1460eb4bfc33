"""Vision transformers against the authors' code: counts, positions, outputs at another size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from modicum.errors import ConfigError
from modicum.images import MemoryImages
from modicum.methods.tinymim.networks.builders import (
    vit_base,
    vit_large,
    vit_small,
    vit_tiny,
    vit_tiny_star,
)
from modicum.methods.tinymim.networks.mae import MaskedAutoencoder, images_of, patches_of
from modicum.methods.tinymim.networks.vit import (
    VisionTransformer,
    ramp,
    resized_positions,
    sine_cosine_positions,
)
from modicum.methods.tinymim.recipes.common import Fitting
from modicum.methods.tinymim.recipes.finetune import few_labels, groups_of

GOLDEN = Path(__file__).parents[2] / "golden" / "tinymim"
CASES: dict[str, Any] = json.loads((GOLDEN / "cases.json").read_text())
COUNTS: dict[str, dict[str, int]] = CASES["param_counts"]


def counted(network: VisionTransformer) -> tuple[int, int]:
    sizes = [(p.numel(), p.requires_grad) for p in network.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained)


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
def test_parameters_are_as_many_as_published(size: str) -> None:
    build = {"tiny": vit_tiny, "small": vit_small, "base": vit_base, "large": vit_large}[size]
    with torch.device("meta"):
        encoder = build()
        if size != "large":
            classifiers = [build(num_classes=1000, train_positions=True, pooling=pooling)
                           for pooling in ("mean", "cls")]  # fmt: skip
            for network, name in zip(classifiers, ("gp", "cls"), strict=True):
                total = COUNTS[f"vit_{size}_patch16_{name}"]["total"]
                assert counted(network) == (total, total)
            known = COUNTS[f"tinymim_vit_{size}_patch16"]
            assert counted(encoder) == (known["total"], known["trainable"])
            assert len(encoder.state_dict()) == known["keys"]
        else:
            assert counted(encoder)[0] == COUNTS["mae_vit_large"]["total"]


def test_the_tiny_star_is_of_published_size() -> None:
    with torch.device("meta"):
        assert counted(vit_tiny_star(train_positions=True)) == (5_771_840, 5_771_840)
        names = set(vit_tiny_star(num_classes=10).state_dict())
    assert {"dist_token", "conv1x1.0.weight", "conv1x1.1.bias", "head_dist.weight"} <= names
    assert not any(name.startswith(("norm.", "fc_norm.")) for name in names)


def test_positions_are_sines_and_cosines_of_column_then_row() -> None:
    golden = load_file(GOLDEN / "pos_embed.safetensors")
    for name, rows in (("32x3", None), ("48x4", None), ("192x14_rows0_1_15_196", [0, 1, 15, 196])):
        width, side = map(int, name.split("_")[0].split("x"))
        found = sine_cosine_positions(width, (side, side))
        expected = golden[name]
        torch.testing.assert_close(found if rows is None else found[rows], expected,
                                   rtol=0, atol=1e-6)  # fmt: skip
    wide = sine_cosine_positions(8, (2, 3), extra_tokens=2)
    assert wide.shape == (8, 8)
    assert not wide[:2].any()
    torch.testing.assert_close(wide[2:5, 4:], sine_cosine_positions(8, (3, 3))[1:4, 4:])
    with pytest.raises(ValueError, match="30 cannot be divided by 4"):
        sine_cosine_positions(30, (2, 2))


@pytest.mark.parametrize("case", CASES["finetune"], ids=["mean", "cls"])
def test_classifiers_at_another_size_are_those_of_the_authors(case: dict[str, Any]) -> None:
    golden = load_file(GOLDEN / f"finetune_{'gp' if case['global_pool'] else 'cls'}.safetensors")
    state = {n.removeprefix("pre."): v for n, v in golden.items() if n.startswith("pre.")}
    mean = case["global_pool"]
    network = VisionTransformer(
        case["dim"], 12, case["heads"], mlp_ratio=2, patch=case["patch"],
        image_size=2 * case["img"], num_classes=case["num_classes"],
        pooling="mean" if mean else "cls",
    ).eval()  # fmt: skip
    grid = (case["img"] // case["patch"],) * 2
    state["pos_embed"] = resized_positions(state["pos_embed"], grid, network.grid)
    torch.testing.assert_close(state["pos_embed"], golden["interp_pos_embed"], rtol=0, atol=2e-6)
    head = {n: v for n, v in golden.items() if n.startswith(("head.", "fc_norm."))}
    found = network.load_state_dict(state, strict=False)
    assert set(found.missing_keys) == set(case["missing"])
    assert set(found.unexpected_keys) == set(case["unexpected"])
    network.load_state_dict(head, strict=False)
    with torch.no_grad():
        logits = network(golden["x"])
    torch.testing.assert_close(logits, golden["logits"], rtol=0, atol=2e-5)


def test_a_picture_may_be_longer_than_high() -> None:
    network = VisionTransformer(12, 2, 3, image_size=(8, 16), patch=4, num_classes=3)
    assert network.grid == (2, 4)
    assert network(torch.zeros(2, 3, 8, 16)).shape == (2, 3)
    with pytest.raises(ValueError, match=r"images of \(16, 8\) pixels; the network takes \(8, 16"):
        network(torch.zeros(2, 3, 16, 8))


def test_seen_patches_are_those_named() -> None:
    network = VisionTransformer(12, 2, 3, image_size=8, patch=4)
    images = torch.randn(2, 3, 8, 8)
    keep = torch.tensor([[3, 0], [1, 2]])
    every, some = network.embed(images), network.embed(images, keep)
    assert some.shape == (2, 3, 12)
    torch.testing.assert_close(some[:, 0], every[:, 0])
    for row in range(2):
        torch.testing.assert_close(some[row, 1:], every[row, 1 + keep[row]])


def test_sizes_that_do_not_go_together_are_refused() -> None:
    for problem, arguments in {
        "cannot be cut into patches of 5": {"image_size": 8, "patch": 5},
        "12 cannot be divided among 5 heads": {"heads": 5},
        "12 cannot be divided among 7 heads": {"last_heads": 7},
        "3 probabilities drop_path for 2 blocks": {"drop_path": [0.1] * 3},
    }.items():
        with pytest.raises(ValueError, match=problem):
            VisionTransformer(**{"width": 12, "depth": 2, "heads": 3, **arguments})


def test_drop_path_grows_in_equal_steps_or_is_given() -> None:
    assert ramp(0.2, 3) == pytest.approx([0, 0.1, 0.2])
    network = VisionTransformer(12, 3, 3, image_size=8, patch=4, drop_path=0.2)
    assert [b.drop_path.probability for b in network.blocks] == pytest.approx([0, 0.1, 0.2])
    constant = VisionTransformer(12, 3, 3, image_size=8, patch=4, drop_path=[0.1, 0.1, 0])
    assert [b.drop_path.probability for b in constant.blocks] == [0.1, 0.1, 0]


def test_a_network_has_the_arguments_it_is_rebuilt_from() -> None:
    first = vit_tiny_star(depth=2, image_size=32, num_classes=4, last_heads=4)
    again = VisionTransformer(**first.arguments)
    again.load_state_dict(first.state_dict())
    assert again.arguments == first.arguments == json.loads(json.dumps(first.arguments))
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(first.eval()(images), again.eval()(images))


# Recipes' parts


def test_rates_and_decay_of_every_layer_are_those_of_the_authors() -> None:
    for case in CASES["finetune"]:
        network = VisionTransformer(
            case["dim"], 12, case["heads"], mlp_ratio=2, patch=case["patch"],
            image_size=2 * case["img"], num_classes=case["num_classes"], train_positions=True,
            pooling="mean" if case["global_pool"] else "cls",
        )  # fmt: skip
        groups = groups_of(network, 0.05, case["layer_decay"])
        names = {parameter: name for name, parameter in network.named_parameters()}
        found = {names[p]: (g["scale"], g["weight_decay"]) for g in groups for p in g["params"]}
        assert found.keys() == case["groups"].keys()
        for name, (scale, decay) in case["groups"].items():
            assert found[name] == pytest.approx((scale, decay), abs=1e-9), name


@pytest.mark.parametrize("name", ["pretrain_base", "finetune_base"])
def test_learning_rates_are_those_of_the_authors(name: str) -> None:
    case = CASES["lr_schedule"][name]
    rule, per_epoch = case["args"], 10
    fitting = Fitting(
        learning_rate=rule["lr"], minimum_learning_rate=rule["min_lr"],
        warmup_epochs=rule["warmup_epochs"],
    )  # fmt: skip
    for epoch, rate in case["lr"].items():
        step = round(float(epoch) * per_epoch)
        assert fitting.rate(step, rule["epochs"], per_epoch, 256) == pytest.approx(rate, rel=1e-9)


def test_few_labels_are_as_many_of_each_class_as_can_be() -> None:
    labels = torch.tensor([0] * 30 + [1] * 30 + [2] * 3)
    names = np.array([f"{number}.png" for number in range(63)])
    pixels = torch.zeros(63, 1, 4, 4, dtype=torch.uint8)
    whole = MemoryImages(("a", "b", "c"), labels, names, "made here", images=pixels)
    some = few_labels(whole, 21, seed=0)
    assert torch.bincount(some.labels).tolist() == [9, 9, 3]
    assert few_labels(whole, 21, seed=0).names.tolist() == some.names.tolist()
    assert few_labels(whole, 21, seed=1).names.tolist() != some.names.tolist()
    for count in (2, 64):
        with pytest.raises(ConfigError, match=f"--labels {count}: expected at least one of each"):
            few_labels(whole, count, seed=0)


def test_the_decoder_is_that_of_mae() -> None:
    """111,907,840 parameters with ViT-B, as ViTMAE-base of Transformers has before fine-tuning."""
    with torch.device("meta"):
        encoder = vit_base()
        whole = MaskedAutoencoder(encoder.arguments)
    assert sum(p.numel() for p in whole.decoder.parameters()) == 26_109_184
    assert sum(p.numel() for p in whole.parameters()) == 111_907_840


def test_patches_are_cut_and_laid_together_again() -> None:
    images = torch.arange(2 * 3 * 8 * 12.0).view(2, 3, 8, 12)
    patches = patches_of(images, 4)
    assert patches.shape == (2, 6, 48)
    torch.testing.assert_close(patches[0, 4].view(4, 4, 3), images[0, :, 4:, 4:8].permute(1, 2, 0))
    torch.testing.assert_close(images_of(patches, 4, (2, 3)), images)


def test_only_hidden_patches_count_and_the_seen_ones_stay() -> None:
    torch.manual_seed(0)
    network = MaskedAutoencoder(
        VisionTransformer(12, 2, 3, image_size=8, patch=4).arguments, decoder_width=8,
        decoder_depth=1, decoder_heads=2,
    ).eval()  # fmt: skip
    images, keep = torch.randn(2, 3, 8, 8), torch.tensor([[2, 0], [1, 3]])
    restored = network.reconstruction(images, keep)
    for row in range(2):
        cut, whole = patches_of(restored[row : row + 1], 4)[0], patches_of(images, 4)[row]
        torch.testing.assert_close(cut[keep[row]], whole[keep[row]])
    out = network(images, keep)
    error = torch.stack([(out[0, [1, 3]] - _aim(images, 0, [1, 3])).square().mean(),
                         (out[1, [0, 2]] - _aim(images, 1, [0, 2])).square().mean()])  # fmt: skip
    torch.testing.assert_close(network.loss(images, keep), error.mean())


def _aim(images: torch.Tensor, row: int, patches: list[int]) -> torch.Tensor:
    hidden = patches_of(images, 4)[row, patches]
    variance, mean = torch.var_mean(hidden, dim=1, keepdim=True)
    return (hidden - mean) / (variance + 1e-6).sqrt()
