"""Training, evaluating, predicting and exporting a classifier on a person's own files."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from colour_folders import COLOURS
from PIL import Image
from safetensors.torch import load_file

from modicum import images
from modicum.engine.optimizers import parameter_groups
from modicum.engine.run import Run, RunOptions
from modicum.errors import CheckpointError, ConfigError, DataError
from modicum.methods import vgnet
from modicum.methods.vgnet.baseline import MobileNetV2, width_for
from modicum.methods.vgnet.claim import ARMS, CLAIMS, study
from modicum.methods.vgnet.inference import load_classifier
from modicum.methods.vgnet.method import METHOD
from modicum.methods.vgnet.metrics import shift_consistency, shifted
from modicum.methods.vgnet.model import FixedDepthwise, count_parameters
from modicum.methods.vgnet.train import (
    Config,
    build_network,
    learning_rate,
    pipeline_for,
)
from modicum.options import replace

SMALL: dict[str, Any] = {"channels": (8, 8, 16, 32, 32), "layers": (1, 1, 1, 1)}


@pytest.fixture
def run_folder(run_of: Callable[[str], Path]) -> Path:
    """A classifier of the colours, which has learnt more than chance."""
    return run_of("vgnet")


def test_evaluate_says_what_the_network_costs(photographs: Path, run_folder: Path) -> None:
    found = vgnet.evaluate(run_folder, str(photographs))
    assert found["parameters"]["trainable"] > 0
    assert found["multiply_adds"] > 1000
    for kind in ("as_trained", "folded"):
        assert 0 < found["latency_ms"][kind]["minimum"] <= found["latency_ms"][kind]["median"]


def test_images_of_one_size_are_held_in_memory_whoever_reads_them(
    run_folder: Path, tmp_path: Path
) -> None:
    for name, colour in COLOURS.items():
        (tmp_path / name).mkdir()
        for number in range(8):
            image = np.full((160, 160, 3), colour, np.uint8)  # large enough for threads
            Image.fromarray(image + np.uint8(number)).save(tmp_path / name / f"{number}.png")
    found = METHOD.verb("evaluate")(run=run_folder, data=str(tmp_path))
    assert (found["images"], found["top1"]) == (24, 100)
    with torch.inference_mode():
        image_set = images.open_images(tmp_path, holdout=0)
    assert isinstance(image_set, images.MemoryImages)
    assert image_set.read(np.array([0]), None, None)[0, :, 0, 0].tolist() == list(COLOURS["blue"])


def test_evaluate_refuses_grey_data(run_folder: Path) -> None:
    with pytest.raises(DataError, match="not trained on"):
        vgnet.evaluate(run_folder, "digits")


def test_predict_draws_a_sheet(photographs: Path, run_folder: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    result = vgnet.predict((photographs / "green",), run_folder, sheet=sheet)
    assert (result["files"], result["sheet"]) == (10, str(sheet))
    with Image.open(sheet) as picture:
        assert picture.size[0] > 100


def test_predictions_are_those_of_the_network(photographs: Path, run_folder: Path) -> None:
    classifier = load_classifier(run_folder)
    held_out = images.open_images(str(photographs), "val", holdout=0.2)
    loader = images.Loader(held_out, 8, transform=classifier.pipeline.evaluation(), workers=0)
    batch = next(loader.epoch(0))
    with torch.no_grad():
        expected = classifier.network(batch.image).softmax(1).max(1).values
    files = tuple(photographs / str(name) for name in held_out.names)
    found = vgnet.predict(files, run_folder, top=1)["predictions"]
    for row, probability in zip(found, expected.tolist(), strict=True):
        assert row["probability_1"] == pytest.approx(probability, abs=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("folded", [True, False])
def test_export_is_the_same_network(run_folder: Path, tmp_path: Path, folded: bool) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    out = tmp_path / "model.onnx"
    result = vgnet.export(run_folder, "onnx", out, folded=folded)
    assert result["largest_relative_difference"] < 1e-4
    session = onnxruntime.InferenceSession(out)
    image = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = load_classifier(run_folder).network(image)
    (found,) = session.run(None, {"image": image.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-4)
    described = session.get_modelmeta().custom_metadata_map
    assert json.loads(described["classes"]) == list(COLOURS)
    assert json.loads(described["size"]) == 32


def test_the_exported_state_dict_loads_as_an_official_file(
    run_folder: Path, tmp_path: Path
) -> None:
    vgnet.export(run_folder, "state-dict", tmp_path / "model.pth")
    # Thumbnail mode is not told by the keys.
    network = vgnet.load_official(tmp_path / "model.pth", thumbnail=True)
    state = network.state_dict()
    trained = load_file(run_folder / "model.safetensors")
    assert state.keys() == trained.keys()
    assert all(torch.equal(state[key], trained[key]) for key in state)


def test_training_starts_from_official_weights(photographs: Path, tmp_path: Path) -> None:
    pretrained = vgnet.VGNet(**SMALL, revision="release2", num_classes=1000)
    torch.save(pretrained.state_dict(), tmp_path / "official.pth")
    config = Config(data=str(photographs), init=tmp_path / "official.pth", **SMALL)
    network = build_network(config, classes=3, channels=3, size=224)
    assert isinstance(network, vgnet.VGNet)
    assert network.arguments["revision"] == "release2"
    assert network.arguments["num_classes"] == 3
    state = network.state_dict()
    for key, value in pretrained.state_dict().items():
        if not key.startswith("classifier"):
            assert torch.equal(state[key], value), key
    with pytest.raises(CheckpointError, match="of another network"):
        build_network(
            dataclasses.replace(config, channels=None, layers=None),
            classes=3,
            channels=3,
            size=224,
        )


@pytest.mark.parametrize("option", ["rand_augment", "random_erasing", "mixup", "cutmix"])
def test_distortions_train_and_resume_to_the_bit(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = replace(METHOD.recipe().presets["smoke"].config, data="digits")

    def train(folder: str, config: Config, resume: bool = False) -> dict[str, torch.Tensor]:
        options = RunOptions(device="cpu", checkpoint_every=0)
        described: dict[str, Any] = {"method": "vgnet", "config": config, "options": options}
        with Run(tmp_path / folder, **described, resume=resume, quiet=True) as run:
            return vgnet.train(config, run).state_dict()

    def stop(config: Config, step: int, *rest: int) -> float:
        if step == 8:  # in the middle of the second epoch
            raise KeyboardInterrupt
        return learning_rate(config, step, *rest)

    distorted = replace(plain, **{option: 1.0})
    whole = train("whole", distorted)
    with monkeypatch.context() as patch:
        patch.setattr(importlib.import_module("modicum.methods.vgnet.train"), "learning_rate", stop)
        with pytest.raises(KeyboardInterrupt):
            train("parts", distorted)
    resumed = train("parts", distorted, resume=True)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    undistorted = train("plain", plain)
    assert any(not torch.equal(undistorted[name], whole[name]) for name in whole)


def test_soft_targets_of_unmixed_images_are_their_labels() -> None:
    labels = torch.tensor([2, 0, 1])
    logits = torch.randn(3, 3, dtype=torch.float64)
    random = images.SampleRandom(0, 0, np.arange(3))
    mixed, targets = images.Distortions(mixup=1e-9)(torch.rand(3, 1, 4, 4), labels, 3, random)
    assert mixed.shape == (3, 1, 4, 4)
    # At this alpha one image of each pair is all there is.
    found = torch.nn.functional.cross_entropy(logits, targets.double(), label_smoothing=0.1)
    expected = torch.nn.functional.cross_entropy(logits, targets.argmax(1), label_smoothing=0.1)
    assert float(found) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "resnet50"}, "no model is called 'resnet50'"),
        ({"model": "mobilenetv2", "layers": (1, 1, 1, 1)}, "--channels with --layers"),
        ({"channels": (8, 8)}, "expected 5"),
    ],
)
def test_networks_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_network(Config(**changes), classes=3, channels=3, size=224)


def test_presets_are_the_recipes() -> None:
    imagenet = METHOD.recipe().presets["imagenet"].config
    # 1,281,167 images in batches of 512, the last not full: 2,502 steps an epoch.
    steps, total = 2502, 250200
    assert learning_rate(imagenet, 0, total, steps) == pytest.approx(0.2 / 12510)
    assert learning_rate(imagenet, 12509, total, steps) == pytest.approx(0.2)
    assert learning_rate(imagenet, total - 1, total, steps) == pytest.approx(1e-6)
    assert METHOD.recipe().presets["imagenet"].options.precision == "mixed"
    photographs = images.MemoryImages(
        ("a",), torch.zeros(1, dtype=torch.int64), np.array(["a"]), "", torch.zeros(
            (1, 3, 300, 300), dtype=torch.uint8
        )
    )  # fmt: skip
    pipeline = pipeline_for(imagenet, photographs)
    assert (pipeline.size, pipeline.short_side) == (224, 256)
    assert pipeline.mean == (0.485, 0.456, 0.406)
    assert [type(step).__name__ for step in pipeline.training("crop")] == [
        "RandomResizedCrop",
        "HorizontalFlip",
    ]
    cifar = METHOD.recipe().presets["cifar"].config
    assert (cifar.epochs, cifar.batch_size, cifar.learning_rate) == (100, 1024, 0.4)
    assert cifar.weight_decay == 5e-4


def test_only_weights_decay_and_fixed_kernels_are_left_out() -> None:
    network = vgnet.vgnetf_1_5mp()
    groups = parameter_groups(network, 1e-4)
    decaying = {id(p) for p in groups[0]["params"]}
    names = {name for name, p in network.named_parameters() if id(p) in decaying}
    expected = {
        f"{name}.weight"
        for name, module in network.named_modules()
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))
    }
    assert names == expected
    fixed = {id(m.weight) for m in network.modules() if isinstance(m, FixedDepthwise)}
    listed = {id(p) for group in groups for p in group["params"]}
    assert not fixed & listed
    assert len(listed) == sum(p.requires_grad for p in network.parameters())


def test_shifts_and_consistency() -> None:
    image = torch.arange(12.0).view(1, 1, 3, 4)
    assert shifted(image, 1, 0)[0, 0, 1].tolist() == [0, 1, 2, 3]
    assert shifted(image, 0, -1)[0, 0, 0].tolist() == [1, 2, 3, 3]

    class Corner(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([x[:, 0, 0, 0], torch.full((len(x),), 3.5)], dim=1)

    bright = torch.zeros(2, 1, 3, 3)
    bright[0, 0, 0, 0] = 9.0
    # Up and left move the bright pixel away; down and right repeat the border.
    assert shift_consistency(Corner(), bright).tolist() == [0.5, 1.0]


def test_the_baseline_has_the_published_size_and_can_be_matched() -> None:
    # 3,504,872 parameters: the paper's 3.4 M, as every implementation counts it.
    assert count_parameters(MobileNetV2(1.0, divisor=8))[0] == 3504872
    wanted = 43210
    width = width_for(wanted, num_classes=10, thumbnail=True)
    found = count_parameters(MobileNetV2(width, num_classes=10, thumbnail=True))[0]
    assert abs(found - wanted) < 0.03 * wanted


def test_study_arms_differ_in_what_the_claims_name(monkeypatch: pytest.MonkeyPatch) -> None:
    test_set = images.open_images("digits", "val").subset(np.arange(20))
    monkeypatch.setattr(images, "open_images", lambda data, split: test_set)
    digits = study(None)
    assert set(ARMS) < set(digits.arms)
    assert len(CLAIMS) == 5
    kernels = {
        arm: build_network(stage.config, classes=10, channels=1, size=32)
        for arm, stage in digits.arms.items()
    }
    counts = {arm: count_parameters(network)[0] for arm, network in kernels.items()}
    assert abs(counts["MobileNetV2 blocks"] / counts["G: fixed Gaussian"] - 1) < 0.03
    baseline = kernels["MobileNetV2 blocks"]
    assert isinstance(baseline, MobileNetV2)
    rebuilt = MobileNetV2(**json.loads(json.dumps(baseline.arguments)))
    rebuilt.load_state_dict(baseline.state_dict())
    # The maps shrink as VGNet's do.
    assert baseline.features(torch.zeros(1, 1, 32, 32)).shape[2:] == (4, 4)
    measured = {
        arm: digits.measure(digits.arms[arm].config, net.eval()) for arm, net in kernels.items()
    }
    learned = {arm: values["learned_3x3"] for arm, values in measured.items()}
    # Counted by hand for these widths, with the stem's 16 kernels.
    stem = 16 * 9
    assert learned["G: fixed Gaussian"] + stem == 1620
    assert learned["C: learned strided"] + stem == 2628
    assert learned["E: fixed edge"] == learned["F: fixed edge + Gaussian"] == 288 - stem
