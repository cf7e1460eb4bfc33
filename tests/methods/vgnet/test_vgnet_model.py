"""VGNet against the authors' code: counts, kernels, keys, outputs, gradients, statistics."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from modicum.errors import ConfigError
from modicum.methods.vgnet.model import (
    BUILDERS,
    FixedDepthwise,
    VGNet,
    count_multiply_adds,
    count_parameters,
    downsampling_kernels,
    edge_kernels,
    vgnetg_1_0mp,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "vgnet"
CASES: list[dict[str, Any]] = json.loads((GOLDEN / "cases.json").read_text())["cases"]
FULL: list[dict[str, Any]] = json.loads((GOLDEN / "full_models.json").read_text())
KEYS: dict[str, list[list[Any]]] = json.loads((GOLDEN / "official_keys.json").read_text())
REVISION = {"paper": "paper", "2022": "release2"}

MEGA_MULTIPLY_ADDS = {  # the authors' code, 1x3x224x224
    "vgnetg_1_0mp": 143.981,
    "vgnetg_1_0mp_silu": 143.981,
    "vgnetg_1_0mp_se": 145.086,
    "vgnetc_1_0mp": 143.981,
    "vgnetg_1_5mp": 190.754,
    "vgnetg_1_5mp_silu": 190.754,
    "vgnetg_1_5mp_se": 191.979,
    "vgnetc_1_5mp": 190.754,
    "vgnete_1_5mp": 192.485,
    "vgnetf_1_5mp": 192.485,
    "vgnetg_2_0mp": 304.043,
    "vgnetg_2_0mp_se": 305.641,
    "vgnetg_2_5mp": 402.861,
    "vgnetg_2_5mp_se": 404.806,
    "vgnetg_5_0mp": 607.079,
    "vgnetg_5_0mp_se": 609.943,
}


def network_of_case(case: dict[str, Any]) -> VGNet:
    config = case["config"]
    return VGNet(
        config["channels"],
        config["layers"],
        num_classes=config["ncls"],
        in_channels=config["in_ch"],
        downsampling={"blur": "gaussian", "dwconv": "depthwise"}[config["down"][0]],
        kernels={"random": "learned", "edge": "edge", "edge_gassian": "edge_gaussian"}[
            config["kernels"]
        ],
        activation=config["act"],
        squeeze_excitation=config["se"],
        revision=REVISION[config["rev"]],
        thumbnail=config["thumb"],
        dropout=config["dropout"],
    )


def random_statistics(network: nn.Module, seed: int) -> None:
    """The golden set's recipe of weights: a function of names and shapes alone."""
    fixed = {f"{n}.weight" for n, m in network.named_modules() if isinstance(m, FixedDepthwise)}
    state = network.state_dict()
    for name, tensor in state.items():
        if name in fixed or name.endswith("num_batches_tracked"):
            continue
        key = (zlib.crc32(name.encode()) + seed) % 2**32
        a = np.random.RandomState(key).standard_normal(tuple(tensor.shape))
        if name.endswith("running_mean"):
            a = 0.1 * a
        elif name.endswith("running_var"):
            a = 0.5 + np.abs(a)
        elif a.ndim >= 2:
            a = a * np.sqrt(1.5 / np.prod(a.shape[1:]))
        elif name.endswith("bias"):
            a = 0.1 * a
        else:
            a = 1 + 0.1 * a
        tensor.copy_(torch.from_numpy(a.astype(np.float32)))
    network.load_state_dict(state)


def test_fixed_kernels_are_the_authors() -> None:
    golden = load_file(GOLDEN / "kernels.safetensors")
    for mine, name in (
        (downsampling_kernels("paper"), "gaussian_down_paper_2ch"),
        (downsampling_kernels("release2"), "gaussian_down_2022"),
        (edge_kernels("edge"), "edge4"),
        (edge_kernels("edge_gaussian"), "edge_gauss8"),
    ):
        torch.testing.assert_close(mine[:, None], golden[name], rtol=0, atol=1e-7)

    def filters(network: VGNet) -> tuple[Tensor, Tensor]:
        state = network.state_dict()
        key = "features.stage2.1.half3x3.0.weight"
        return state["features.stage2.0.downsample.weight"][:, 0], state[key][:, 0]

    down, half = filters(VGNet((16, 16, 32, 32, 32), (1, 2, 1, 1), kernels="edge"))
    assert torch.equal(down[1], -down[4])
    assert torch.equal(half, edge_kernels("edge").repeat(4, 1, 1))
    _, half = filters(VGNet((16, 16, 32, 32, 32), (1, 2, 1, 1), kernels="edge_gaussian"))
    assert torch.equal(half, edge_kernels("edge_gaussian").repeat(2, 1, 1))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_small_network_computes_what_the_authors_code_does(case: dict[str, Any]) -> None:
    """In double precision: what differs is the authors' rounding, the same on every machine."""
    golden = load_file(GOLDEN / f"{case['name']}.safetensors")
    golden = {k: v.double() if v.is_floating_point() else v for k, v in golden.items()}
    network = network_of_case(case).double()
    state = {k.removeprefix("sd."): v for k, v in golden.items() if k.startswith("sd.")}
    network.load_state_dict(state)
    assert count_parameters(network) == (case["params_trainable"], case["params_total"])

    network.eval()
    with torch.no_grad():
        maps = network.features(golden["x"])
        for number in range(1, 5):
            torch.testing.assert_close(
                maps[number], golden[f"eval.stage{number}"], rtol=0, atol=1e-5
            )
        torch.testing.assert_close(network(golden["x"]), golden["eval.logits"], rtol=0, atol=1e-5)

    network.train()
    logits = network(golden["x"])
    loss = nn.functional.cross_entropy(logits, golden["train.y"], label_smoothing=0.1)
    loss.backward()
    torch.testing.assert_close(logits, golden["train.logits"], rtol=0, atol=1e-4)
    torch.testing.assert_close(loss, golden["train.loss"].reshape(()), rtol=0, atol=1e-4)
    gradients = {n: p.grad for n, p in network.named_parameters() if p.requires_grad}
    norms = {k.removeprefix("gradnorm.") for k in golden if k.startswith("gradnorm.")}
    assert norms == set(gradients)
    for name, gradient in gradients.items():
        assert gradient is not None
        norm = golden[f"gradnorm.{name}"].reshape(())
        torch.testing.assert_close(gradient.norm(), norm, rtol=1e-3, atol=1e-6, msg=name)
        if f"grad.{name}" in golden:
            # A gradient is as exact as its norm: 1e-3 of it.
            torch.testing.assert_close(
                gradient, golden[f"grad.{name}"], rtol=0, atol=1e-3 * float(norm) + 1e-6
            )
    after = network.state_dict()
    for key in golden:
        if key.startswith("after."):
            name = key.removeprefix("after.")
            torch.testing.assert_close(after[name], golden[key], rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("full", FULL, ids=lambda full: f"{full['rev']}-{full['name']}")
def test_a_published_network_computes_what_the_authors_code_does(full: dict[str, Any]) -> None:
    network = BUILDERS[full["name"]](revision=REVISION[full["rev"]])
    assert count_parameters(network) == (full["params_trainable"], full["params_total"])
    fixed = [m.weight.numel() for m in network.modules() if isinstance(m, FixedDepthwise)]
    assert sum(fixed) == full["fixed_kernel_numel"]
    random_statistics(network, full["seed"])
    noise = np.random.RandomState(full["seed"] + 1).standard_normal(full["x_shape"])
    x = torch.from_numpy(noise.astype(np.float32))
    network.eval()
    with torch.no_grad():
        maps = network.features(x)._asdict()
        logits = network(x)
    for name, stage in maps.items():
        assert list(stage.shape) == full["stage_shapes"][name]
        assert stage.abs().mean().item() == pytest.approx(full["stage_absmean"][name], rel=1e-4)
        # The mean of signed numbers cancels: it is as exact as the mean of their sizes.
        assert stage.mean().item() == pytest.approx(
            full["stage_mean"][name], rel=1e-4, abs=1e-5 * full["stage_absmean"][name]
        )
    np.testing.assert_allclose(logits[0, :8], full["logits_first8"], rtol=0, atol=1e-4)
    assert logits.mean().item() == pytest.approx(full["logits_mean"], rel=1e-4, abs=1e-6)
    assert logits.std().item() == pytest.approx(full["logits_std"], rel=1e-4)
    assert logits.argmax(1).tolist() == full["argmax"]


@pytest.mark.parametrize("variant", KEYS)
def test_state_dicts_have_the_authors_keys_in_their_order(variant: str) -> None:
    revision, name = variant.split("/")
    state = BUILDERS[name](revision=REVISION[revision]).state_dict()
    assert [[key, list(value.shape)] for key, value in state.items()] == KEYS[variant]


@pytest.mark.parametrize("name", BUILDERS)
def test_multiply_adds_are_the_published(name: str) -> None:
    counted = count_multiply_adds(BUILDERS[name](), (1, 3, 224, 224))
    assert round(counted / 1e6, 3) == MEGA_MULTIPLY_ADDS[name]


def test_every_row_of_the_table_has_a_builder() -> None:
    assert set(BUILDERS) == set(MEGA_MULTIPLY_ADDS)
    published = {variant.split("/")[1] for variant in KEYS}
    assert published <= set(BUILDERS)


@pytest.mark.parametrize("revision", ["paper", "release2"])
def test_fixed_kernels_are_stored_but_never_learned(revision: Any) -> None:
    network = VGNet((16, 16, 32, 32, 64), (2, 2, 2, 2), kernels="edge_gaussian", revision=revision)
    before = {
        name: module.weight.clone()
        for name, module in network.named_modules()
        if isinstance(module, FixedDepthwise)
    }
    assert len(before) == 4 + 4 + 1
    # Weight decay would shrink them if an optimizer had them, even without a gradient.
    optimizer = torch.optim.SGD(
        [p for p in network.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1
    )
    network(torch.randn(2, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    state = network.state_dict()
    for name, weight in before.items():
        assert torch.equal(state[f"{name}.weight"], weight)


def test_a_network_is_rebuilt_from_its_arguments() -> None:
    network = vgnetg_1_0mp(num_classes=5, revision="release2", squeeze_excitation=0.25)
    arguments = json.loads(json.dumps(network.arguments))
    again = VGNet(**arguments)
    again.load_state_dict(network.state_dict())
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(network.eval()(x), again.eval()(x))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (224, 65)])
def test_any_size_from_32_works(height: int, width: int) -> None:
    network = VGNet((8, 16, 16, 32, 32), (1, 2, 1, 1), num_classes=3).eval()
    maps = network.features(torch.randn(1, 3, height, width))
    h, w = height, width
    for stage in maps:
        h, w = (h - 1) // 2 + 1, (w - 1) // 2 + 1
        assert stage.shape[2:] == (h, w)
    assert network(torch.randn(2, 3, height, width)).shape == (2, 3)


def test_thumbnail_mode_keeps_resolution_and_learns_the_first_filter() -> None:
    network = VGNet((8, 16, 16, 32, 32), (1, 1, 1, 1), in_channels=1, thumbnail=True)
    assert [m.shape[2] for m in network.features(torch.randn(2, 1, 32, 32))] == [32, 32, 16, 8, 4]
    first = network.features.stage1[0].downsample
    assert isinstance(first, nn.Conv2d)
    assert first.weight.requires_grad
    assert network(torch.randn(2, 1, 8, 8)).shape == (2, 1000)


def test_maxpool_downsampling() -> None:
    network = VGNet((8, 16, 16, 32, 32), (2, 1, 1, 1), downsampling="maxpool")
    sizes = [m.shape[2] for m in network.features(torch.randn(2, 3, 224, 224))]
    assert sizes == [112, 55, 27, 13, 6]
    assert not [m for m in network.modules() if isinstance(m, FixedDepthwise)]


def test_feature_maps_are_fresh() -> None:
    network = VGNet((8, 16, 16, 32, 32), (2, 2, 2, 2)).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps = network.features(x)
        copies = [m.clone() for m in maps]
        for stage in maps:
            stage.fill_(9.0)
        for stage, copy in zip(network.features(x), copies, strict=True):
            assert torch.equal(stage, copy)


def test_double_and_half_precision() -> None:
    network = VGNet((8, 16, 16, 32, 32), (1, 1, 1, 1))
    kernels = network.features.stage2[0].downsample.weight.clone()
    assert network.double()(torch.randn(2, 3, 32, 32, dtype=torch.float64)).dtype == torch.float64
    assert network.bfloat16().features.stage2[0].downsample.weight.dtype == torch.bfloat16
    saved = vgnetg_1_0mp().state_dict()["features.stage2.0.downsample.weight"]
    assert saved.dtype == torch.float32
    assert kernels.dtype == torch.float32


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(3, 64, 64), r"expected images of shape \(batch, 3"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "torch.uint8"),
        (torch.zeros(1, 1, 64, 64), r"expected images of shape \(batch, 3.*found \(1, 1"),
        (torch.zeros(1, 3, 64, 31), "at least 32x32 pixels, found 64x31"),
    ],
)
def test_bad_images_are_refused(x: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VGNet((8, 16, 16, 32, 32), (1, 1, 1, 1))(x)


def test_small_images_are_refused_in_thumbnail_mode() -> None:
    network = VGNet((8, 16, 16, 32, 32), (1, 1, 1, 1), thumbnail=True)
    with pytest.raises(ValueError, match="at least 8x8 pixels"):
        network(torch.zeros(1, 3, 7, 32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": (8, 16, 16, 32)}, "expected 5"),
        ({"layers": (1, 1, 1)}, "expected 4 numbers"),
        ({"layers": (1, 0, 1, 1)}, "at least 1, found"),
        ({"channels": (8, 15, 16, 32, 32)}, "stage 1 must be a positive multiple of 2 .* found 15"),
        ({"channels": (7, 16, 16, 32, 32)}, "stem must .* found 7"),
        ({"channels": (8, 16, 16, 32, 36)}, "stage 4 must be a multiple of 8.*found 36"),
        (
            {"channels": (8, 16, 12, 32, 32), "kernels": "edge"},
            "stage 2 must be a positive multiple of 8",
        ),
        ({"channels": (8, 16, 24, 32, 32), "kernels": "edge_gaussian"}, "multiple of 16"),
        ({"downsampling": "blur"}, "gaussian, depthwise, maxpool"),
        ({"kernels": "random"}, "learned, edge, edge_gaussian"),
        ({"activation": "gelu"}, "relu, silu"),
        ({"revision": "2022"}, "paper, release2"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VGNet(**{"channels": (8, 16, 16, 32, 32), "layers": (1, 1, 1, 1)} | arguments)
