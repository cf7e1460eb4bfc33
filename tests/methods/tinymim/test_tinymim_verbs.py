"""The chain of recipes by commands, and what is done with what they leave."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import modicum
from modicum.cli import main
from modicum.errors import ConfigError, DataError
from modicum.methods.tinymim.inference import evaluate, export, load_model, predict
from modicum.methods.tinymim.networks.mae import MaskedAutoencoder
from modicum.methods.tinymim.networks.upernet import UPerNet
from modicum.methods.tinymim.networks.vit import VisionTransformer
from modicum.methods.tinymim.robustness import ALEXNET


def train(folder: Path, recipe: str, *words: object) -> Path:
    command = ["train", "tinymim", recipe, "--preset", "smoke", "--device", "cpu"]
    assert main([*command, "--out", str(folder / recipe), *map(str, words)]) == 0
    return folder / recipe


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A teacher, a student of it, a classifier that starts from that, and a segmenter."""
    folder = tmp_path_factory.mktemp("runs")
    teacher = train(folder, "mae")
    student = train(folder, "distil", "--teacher", teacher, "--teacher-layer", 2)
    return {
        "mae": teacher,
        "distil": student,
        "finetune": train(folder, "finetune", "--init", student),
        "segment": train(folder, "segment"),
    }


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two photographs and a damaged file."""
    random = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number, size in enumerate([(70, 90), (40, 33)]):
        pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "photos" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nx")
    return tmp_path / "photos"


def test_every_recipe_starts_from_the_one_before(runs: dict[str, Path]) -> None:
    networks: dict[str, Any] = {name: modicum.load(run) for name, run in runs.items()}
    kinds = {"mae": MaskedAutoencoder, "distil": VisionTransformer, "finetune": VisionTransformer,
             "segment": UPerNet}  # fmt: skip
    for name, kind in kinds.items():
        assert type(networks[name]) is kind
    heads = [block.attn.num_heads for block in networks["distil"].blocks]
    assert heads == [3, 6]  # the last has the teacher's
    assert [block.attn.num_heads for block in networks["finetune"].blocks] == [3, 3]


def test_a_teacher_is_looked_at_once_where_that_is_enough(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    words = ["--teacher", runs["mae"], "--teacher-layer", 2, "--augmentation", "none"]
    again = train(tmp_path / "a", "distil", *words)
    once = train(tmp_path / "b", "distil", *words, "--remember-teacher")
    assert not list(once.glob("*.values"))
    first, second = (modicum.load(run).state_dict() for run in (again, once))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("words", "problem"), [
    ([], "distil needs a --teacher"),
    (["--teacher", "{mae}", "--size", 24], "takes images of 16 x 16 pixels .* Choose --size 16"),
    (["--teacher", "{mae}", "--teacher-layer", 9], "the teacher has layers 1 to 2"),
    (["--teacher", "{mae}", "--target", "qk+xx"], "expected one or several, each once, of qk"),
    (["--teacher", "{mae}", "--width", 28], "28 cannot be divided among"),
    (["--teacher", "{mae}", "--patch", 3], "cannot be cut into patches of 3"),
    (["--teacher", "{mae}", "--mim-weight", 1], "needs a --mask-ratio"),
    (["--teacher", "{mae}", "--remember-teacher"], "needs --augmentation none"),
])  # fmt: skip
def test_what_cannot_be_distilled_is_told(
    words: list[object], problem: str, runs: dict[str, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = [str(runs["mae"]) if word == "{mae}" else str(word) for word in words]
    command = ["train", "tinymim", "distil", "--preset", "digits" if words else "default"]
    command += ["--teacher-layer", "2"]
    assert main([*command, "--out", str(tmp_path / "run"), *given]) == 2
    assert re.search(problem, " ".join(capsys.readouterr().err.split()))


@pytest.mark.parametrize("options", [
    ["--target", "vv+kk", "--form", "mse"],
    ["--target", "block+cls", "--teacher-layer", "1"],
    ["--mask-ratio", "0.5", "--mim-weight", "1"],
    ["--mask-ratio", "0.5", "--mask-teacher"],
    ["--relation-heads", "4", "--reinit-last", "identity", "--teacher-precision", "bf16"],
])  # fmt: skip
def test_the_paper_s_comparisons_are_options(
    options: list[str], runs: dict[str, Path], tmp_path: Path
) -> None:
    run = train(tmp_path, "distil", "--teacher", runs["mae"], "--teacher-layer", 2, *options)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["val_loss"] for line in lines if "val_loss" in line]
    assert losses[-1] < losses[0]


def test_evaluate_measures_each_kind(runs: dict[str, Path]) -> None:
    found = evaluate(runs["finetune"], device="cpu")
    assert found["images"] == 597
    assert 0 <= found["top1"] <= found["top5"] <= 100
    assert sum(row["samples"] for row in found["classes"]) == 597
    assert found["latency_ms"]["median"] > 0
    restored = evaluate(runs["mae"], device="cpu")
    assert 0.5 < restored["reconstruction_error"] < 1.5  # of patches with a variance of 1
    segmented = evaluate(runs["segment"], device="cpu")
    assert 0 <= segmented["mean_iou"] <= segmented["pixel_accuracy"] <= 100
    assert [row["class"] for row in segmented["classes"]] == list(
        load_model(runs["segment"]).classes
    )
    with pytest.raises(ConfigError, match="has nothing to be measured by"):
        evaluate(runs["distil"])


def test_predict_classifies_segments_and_restores(
    runs: dict[str, Path], photographs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "masks"
    found = predict((photographs,), runs["segment"], out, tmp_path / "sheet.png", device="cpu")
    assert (found["files"], found["unreadable"]) == (3, 1)
    for name, size in (("0", (90, 70)), ("1", (33, 40))):
        for kind in ("labels", "overlay"):
            with Image.open(out / f"{name}_{kind}.png") as picture:
                assert picture.size == size
    with Image.open(out / "0_labels.png") as picture:
        assert picture.mode == "P"
        assert np.asarray(picture).max() < 4
    shares = found["predictions"][0]["pixels_percent"]
    assert sum(shares.values()) == pytest.approx(100, abs=0.1)
    with pytest.raises(ConfigError, match="give a folder for the images that are made"):
        predict((photographs,), runs["mae"])
    with pytest.raises(ConfigError, match="Fine-tune it first"):
        predict((photographs,), runs["distil"], out)


def digits(folder: Path) -> Path:
    """Pictures of two classes whose names the classifier of the digits knows."""
    for name in ("0", "1"):
        (folder / name).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(np.full((16, 16), 40 * number, np.uint8)).save(
                folder / name / f"{number}.png"
            )
    return folder


def test_sets_of_other_conditions_are_measured_by_name(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"folders of ImageNet-C are missing, .*gaussian_noise/1"):
        evaluate(runs["finetune"], f"imagenet-c={digits(tmp_path / 'c')}")
    assert len(ALEXNET) == 15


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_export_gives_the_same(runs: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    for name in ("finetune", "segment", "distil"):
        words = ["--run", str(runs[name]), "--out", str(tmp_path / f"{name}.onnx")]
        assert main(["export", "tinymim", *words]) == 0  # it compares before it writes
        assert (tmp_path / f"{name}.onnx").stat().st_size > 0
    state = export(runs["mae"], to="state-dict", out=tmp_path / "mae.pth")
    assert state
    from modicum.methods.tinymim import read_encoder

    again, autoencoder = read_encoder(tmp_path / "mae.pth", heads=6), modicum.load(runs["mae"])
    assert isinstance(autoencoder, MaskedAutoencoder)
    for key, tensor in autoencoder.encoder.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor)
