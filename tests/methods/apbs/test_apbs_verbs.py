"""Training, evaluating, predicting and exporting spiking networks on a person's own files."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from event_folders import CLASSES, recording, write_folder
from safetensors.torch import load_file

from modicum import events, images
from modicum.cli import main
from modicum.engine.run import Run, RunOptions
from modicum.errors import ConfigError, DataError
from modicum.methods import apbs
from modicum.methods.apbs.claim import potentiation, study
from modicum.methods.apbs.inference import example, load_classifier
from modicum.methods.apbs.method import METHOD
from modicum.methods.apbs.stcf import STCF
from modicum.methods.apbs.still_images import ImagePipeline
from modicum.methods.apbs.train import (
    Config,
    Samples,
    augmentation,
    build_network,
    pipeline_for,
)
from modicum.options import replace

Trainer = Callable[..., Path]


@pytest.fixture(scope="module")
def plain(
    recordings: Path, tmp_path_factory: pytest.TempPathFactory, train_by_command: Trainer
) -> Path:
    """A network without association, of recordings divided by another rule."""
    folder = tmp_path_factory.mktemp("runs") / "plain"
    return train_by_command(
        "apbs", folder, "--no-stcf", data=recordings, association=0, division="tet", loss="mean"
    )


@pytest.fixture(scope="module")
def image_run(
    photographs: Path, tmp_path_factory: pytest.TempPathFactory, train_by_command: Trainer
) -> Path:
    """A plain network of the colours."""
    folder = tmp_path_factory.mktemp("runs") / "images"
    options = {"association": 0, "size": 12, "epochs": 16, "learning_rate": 0.02}
    return train_by_command("apbs", folder, data=f"images={photographs}", **options)


@pytest.fixture
def run_folder(run_of: Trainer) -> Path:
    """A network that associates, which has learnt more than chance."""
    return run_of("apbs")


# Evaluating


def test_evaluate_uses_what_was_held_out(
    recordings: Path, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "apbs", "--run", str(run_folder), "--json"]) == 0
    held_out = json.loads(capsys.readouterr().out)
    assert "split 'hash' (20 % of each class held out" in held_out["data"]
    assert held_out["samples"] == 6
    assert held_out["top1"] > 60  # a third without having learnt
    assert sum(row["samples"] for row in held_out["classes"]) == 6
    assert held_out["firing_rate_percent"].keys() == {"features.0", "features.1"}
    assert 0 < held_out["spikes"] < held_out["synaptic_operations"] < held_out["accumulates"]
    picojoules = 0.9 * held_out["accumulates"] + 4.6 * held_out["multiply_accumulates"]
    assert held_out["microjoules_estimated"] == pytest.approx(1e-6 * picojoules)
    assert held_out["latency_ms"]["median"] > 0
    trained = apbs.evaluate(run_folder, str(recordings), "train", weights="best", workers=0)
    assert trained["samples"] == 24
    assert trained["top1"] > 60


def test_evaluate_divides_as_training_did(
    recordings: Path, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recordings.parent)
    for data in (None, str(recordings), recordings.name):
        found = apbs.evaluate(plain, data, workers=0)
        assert "split 'tet' (20 %" in found["data"]
        assert found["samples"] == 6


def test_recordings_and_images_do_not_stand_in_for_each_other(
    recordings: Path, photographs: Path, run_folder: Path, image_run: Path
) -> None:
    with pytest.raises(DataError, match="trained on recordings"):
        apbs.evaluate(run_folder, f"images={photographs}", workers=0)
    with pytest.raises(DataError, match="cannot stand in for each other"):
        apbs.evaluate(image_run, str(recordings), workers=0)


# Predicting


def test_predictions_are_those_of_the_network(recordings: Path, run_folder: Path) -> None:
    classifier = load_classifier(run_folder)
    held_out = events.open_recordings(recordings, "val", holdout=0.2)
    files = tuple(recordings / str(name) for name in held_out.names)
    found = apbs.predict(files, run_folder, top=1, batch_size=4)["predictions"]
    same = 0
    for row, number in zip(found, range(len(files)), strict=True):
        frames = classifier.pipeline(held_out.read(np.array([number])))
        with torch.no_grad(), apbs.count_spikes(classifier.network) as counted:
            probability = classifier.network(frames).mean(1).softmax(1).max()
        same += row["probability_1"] == pytest.approx(float(probability), abs=1e-5) and (
            row["spikes"] == counted.spikes_per_sample
        )
        assert "class_2" not in row
    assert same > len(files) / 2  # in a batch a spike may flip by rounding


def test_a_recording_without_events_is_classified(run_folder: Path, tmp_path: Path) -> None:
    events.write(tmp_path / "empty.npz", recording(0)[:0])
    (found,) = apbs.predict((tmp_path / "empty.npz",), run_folder)["predictions"]
    assert found["class_1"] in CLASSES


# Exporting


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["run_folder", "plain", "image_run"])
def test_the_onnx_network_is_the_same(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    run: Path = request.getfixturevalue(name)
    result = apbs.export(run, "onnx", tmp_path / "model.onnx")
    assert result["largest_relative_difference"] < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    classifier = load_classifier(run)
    samples = example(classifier, 5).flip(0)
    with torch.no_grad():
        expected = classifier.network(samples).mean(1)
    (found,) = session.run(None, {"input": samples.numpy()})
    apart = (torch.from_numpy(found) - expected).abs().amax(1) / expected.abs().max()
    assert apart.median() < 1e-4  # in some a spike may flip by rounding
    described = session.get_modelmeta().custom_metadata_map
    values = {name: json.loads(text) for name, text in described.items()}
    assert values == classifier.described() | {"version": version("modicum")}


@pytest.mark.parametrize("name", ["plain", "image_run"])
def test_nir_takes_plain_networks(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("nir", reason="NIR is not installed")
    result = apbs.export(request.getfixturevalue(name), "nir", tmp_path / "model.nir")
    assert 0 <= result["differing"] < 0.05 * result["spikes"]  # some may flip by rounding
    assert (tmp_path / "model.nir").stat().st_size > 1000


def test_nir_refuses_association(run_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("nir", reason="NIR is not installed")
    with pytest.raises(ConfigError, match="cannot be expressed in NIR"):
        apbs.export(run_folder, "nir", tmp_path / "model.nir")
    assert not list(tmp_path.iterdir())


# Training


def test_association_of_zero_trains_the_plain_network(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(
        Config(), data=str(recordings), network="small", association=0.0, time_steps=3, epochs=1,
        batch_size=8, stcf=False,
    )  # fmt: skip

    def weights(name: str) -> dict[str, torch.Tensor]:
        options = RunOptions(device="cpu", workers=0)
        with Run(tmp_path / name, method="apbs", config=config, options=options, quiet=True) as run:
            apbs.train(config, run)
        return load_file(tmp_path / name / "model.safetensors")

    zero = weights("zero")
    training = importlib.import_module("modicum.methods.apbs.train")
    monkeypatch.setattr(
        training,
        "build_network",
        lambda config, pipeline, classes: apbs.small(
            association=None, size=pipeline.input_size, num_classes=classes
        ),
    )
    plain = weights("plain")
    assert set(zero) - set(plain) == {
        f"features.{layer}.synapses.{name}" for layer in (0, 1) for name in ("cache", "num_updates")
    }
    assert all(torch.equal(zero[key], plain[key]) for key in plain)


def test_the_command_line_reaches_the_network(
    recordings: Path, tmp_path: Path, train_by_command: Trainer
) -> None:
    words = ["--associate-classifier", "--flip", "--flip-time"]
    options = {"neuron": "snntorch", "measure": "product", "cache": "mean", "network": "light"}
    folder = train_by_command(
        "apbs", tmp_path / "run", *words, data=recordings, size=16, sensor="30 40", split_by="time",
        normalise="clip1", resize="nearest", **options,
    )  # fmt: skip
    network = load_classifier(folder, "best").network
    synapses = network.features[0].synapses
    assert (synapses.measure, synapses.cache_kind) == ("product", "mean")
    assert isinstance(network.classifier, apbs.AssociativeLinear)
    assert network.arguments["neuron"] == apbs.LIF.snntorch().arguments
    assert network.arguments["size"] == [16, 16]
    pipeline = load_classifier(folder).pipeline
    assert (pipeline.steps, pipeline.split_by, pipeline.normalise) == (4, "time", "clip1")
    assert (pipeline.height, pipeline.width) == (30, 40)
    assert apbs.evaluate(folder, workers=0)["samples"] == 6


def test_the_smoke_preset_on_few_digits(
    tmp_path: Path, few_digits: int, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--preset", "smoke", "--train-share", "0.5", "--batch-size", "5", "--epochs", "1"]
    words += ["--device", "cpu", "--out", str(tmp_path / "run")]
    assert main(["train", "apbs", *words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert 0 <= result["top1"] <= 100
    assert result["run"] == str(tmp_path / "run")
    source = Samples(train_share=0.5)
    some = source.samples("train")
    assert 15 <= len(some) <= 25
    assert set(some.names) < {f"digits/train/{number}" for number in range(few_digits)}
    assert len(source.samples("val")) == few_digits


def test_options_that_do_not_fit() -> None:
    for name, value in (("flip_time", True), ("division", "tet"), ("sensor", (3, 3))):
        options: dict[str, Any] = {name: value}
        option = name.replace("_", "-")
        with pytest.raises(ConfigError, match=f"--{option}: still images have none"):
            replace(Config(), data="images=x", **options)
    with pytest.raises(ConfigError, match="--association nan: must be a finite number"):
        Config(association=float("nan"))
    for changes, message in (
        ({"network": "resnet"}, "--network resnet: must be one of vggsnn"),
        ({"neuron": "izhikevich"}, "--neuron izhikevich: must be one of tet"),
        ({"cache": "max"}, "--cache max: must be one of rms"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(Config(), **changes)


def test_augmentation_of_training_recordings() -> None:
    assert augmentation(Config()) == STCF(0.5, 0.5, 0.0, 0.0)
    assert augmentation(Config(stcf=False, flip=True)) == STCF(0.0, 0.0, 0.5, 0.0)
    assert augmentation(Config(stcf=False, flip_time=True)) == STCF(0.0, 0.0, 0.0, 0.5)
    assert augmentation(Config(stcf=False)) is None


# Data named before its path


def test_data_is_found_again_from_another_folder(
    tmp_path: Path, train_by_command: Trainer, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was started with a relative path goes on in, and is evaluated from, anywhere."""
    (tmp_path / "work").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for part, count in (("train", 4), ("test", 2)):
        root = write_folder(tmp_path / "work" / "cars" / f"n-cars_{part}", count, CLASSES[:2])
        for old, new in zip(CLASSES, ("background", "cars"), strict=False):
            (root / old).rename(root / new)
    (tmp_path / "work" / "pictures").symlink_to(photographs)
    for name, kind, held_out in (("cars", "N-Cars", 4), ("pictures", "images", 6)):
        monkeypatch.chdir(tmp_path / "work")
        folder = train_by_command("apbs", tmp_path / name, data=f"{kind}={name}", size=16)
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert main(["train", "--resume", str(folder)]) == 0
        assert apbs.evaluate(folder, workers=0)["samples"] == held_out
        config = json.loads((folder / "config.json").read_text())["config"]
        assert config["source"]["data"] == f"{kind}={(tmp_path / 'work' / name).resolve()}"


# Still images


def test_a_share_of_the_images_is_trained_on(photographs: Path) -> None:
    source = Samples(f"images={photographs}", holdout=0.25, train_share=0.5)
    assert len(source.samples("train")) == 12
    assert len(source.samples("val")) == 6


def test_images_are_classified(photographs: Path, image_run: Path, tmp_path: Path) -> None:
    held_out = apbs.evaluate(image_run, workers=0)
    assert held_out["samples"] == 6
    assert held_out["top1"] > 60
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    found = apbs.predict((photographs / "green", tmp_path), image_run)
    assert (found["files"], found["unreadable"]) == (11, 1)
    classes = [row.get("class_1") for row in found["predictions"]]
    assert classes[:10].count("green") > 6
    assert classes[10] is None
    assert all(row["spikes"] > 0 for row in found["predictions"][:10])
    assert "bad.png" in found["predictions"][10]["error"]


def test_cifar_batches_are_read(tmp_path: Path, train_by_command: Trainer) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    names = [f"class_{number}" for number in range(10)]
    (folder / "batches.meta.txt").write_text("\n".join(names) + "\n")
    random = np.random.default_rng(0)
    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]:
        rows = random.integers(0, 256, (2, 3073), dtype=np.uint8)
        rows[:, 0] = random.integers(0, 10, 2)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    run = train_by_command("apbs", tmp_path / "run", "--flip", data=f"cifar10={folder}")
    classifier = load_classifier(run)
    assert classifier.classes == tuple(names)
    assert classifier.pipeline == ImagePipeline(32, 3)
    assert classifier.network.arguments["time_steps"] == 4
    found = apbs.evaluate(run, workers=0)
    assert (found["samples"], found["data"]) == (2, "CIFAR-10 binary batches")


def test_still_images_are_augmented_in_space_only() -> None:
    pipeline = ImagePipeline(32, 3)
    assert ImagePipeline.from_notes(json.loads(json.dumps(pipeline.to_notes()))) == pipeline

    def names(steps: Any) -> list[str]:
        return [type(step).__name__ for step in steps]

    whole = names(pipeline.evaluation())
    assert whole == ["ResizeCentreCrop", "Normalise"]
    moved, mirrored = "RandomShift", "HorizontalFlip"
    everything = names(pipeline.training(STCF()))
    assert everything == [whole[0], moved, mirrored, whole[1]]
    assert names(pipeline.training(STCF(crop_space=0))) == [whole[0], mirrored, whole[1]]
    assert names(pipeline.training(STCF(flip=0))) == [whole[0], moved, whole[1]]
    grey = ImagePipeline(8, 1).normalise()(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
    assert grey.flatten().tolist() == [-1, 1]


# Presets


def sensor(side: int) -> events.MemoryRecordings:
    """A set of one recording, of a square sensor."""
    one = events.Events.of([], [], [], [], height=side, width=side)
    label = torch.zeros(1, dtype=torch.int64)
    return events.MemoryRecordings(("a",), label, np.array(["a"]), "", side, side, (one,))


@pytest.mark.parametrize(
    ("preset", "side", "parameters", "size"),
    [
        ("default", 128, 412_138, 48),
        ("tet", 128, 9_271_498, 48),
        ("nda", 128, 9_230_538, 48),
        ("digits", 34, 30_970, 34),
        ("smoke", 34, 30_970, 34),
    ],
)
def test_presets_build_the_published_networks(
    preset: str, side: int, parameters: int, size: int
) -> None:
    config = METHOD.recipe().presets[preset].config
    pipeline = pipeline_for(config, sensor(side))
    assert pipeline.input_size == (size, size)
    network = build_network(config, pipeline, 10)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert isinstance(network.features[0].synapses, apbs.AssociativeConv2d)
    (frames,) = METHOD.load("example")(network)
    assert frames.shape == (2, 4, 2, size, size)


def test_recipes_are_those_of_the_codes() -> None:
    tet, nda = METHOD.recipe().presets["tet"], METHOD.recipe().presets["nda"]
    fitting, framing = tet.config.fitting, tet.config.framing
    assert (fitting.epochs, fitting.batch_size, fitting.learning_rate) == (150, 128, 1e-3)
    assert (tet.config.loss, framing.normalise, framing.time_steps) == ("tet", "max", 10)
    fitting = nda.config.fitting
    assert (fitting.epochs, fitting.batch_size, fitting.weight_decay) == (200, 256, 1e-4)
    assert (nda.config.loss, nda.config.framing.resize) == ("mean", "nearest")
    assert tet.options.precision == nda.options.precision == "mixed"
    cifar = METHOD.recipe().presets["cifar10"].config
    picture = images.MemoryImages(
        ("a",), torch.zeros(1, dtype=torch.int64), np.array(["a"]), "",
        torch.zeros((1, 3, 32, 32), dtype=torch.uint8),
    )  # fmt: skip
    network = build_network(cifar, pipeline_for(cifar, picture), 10)
    assert network.arguments["time_steps"] == cifar.framing.time_steps == 4
    # A channel more than 48 x 48 frames, and a classifier of 2 x 2 rather than 3 x 3 pixels.
    expected = 9_271_498 + 9 * 64 - (9 - 4) * 512 * 10
    assert sum(p.numel() for p in network.parameters()) == expected
    assert METHOD.load("example")(network)[0].shape == (2, 3, 32, 32)


# The claims on recordings of one's own


def test_the_claims_are_checked_on_a_folder(tmp_path: Path, try_study: Trainer) -> None:
    root = write_folder(tmp_path / "few", 5, CLASSES[:2])
    found = study(str(root))
    assert list(found.arms) == ["plain", "APBS", "plain, few recordings", "STCF, few recordings"]
    assert "6 recordings for training" in found.data
    assert "4 for testing" in found.data
    configs = {arm: stage.config for arm, stage in found.arms.items()}
    assert [c.source.data for c in configs.values()] == [str(root)] * 4
    changes = {
        arm: {f.name for f in dataclasses.fields(c) if getattr(c, f.name) != getattr(base, f.name)}
        for arm, base, c in (
            ("APBS", configs["plain"], configs["APBS"]),
            ("STCF", configs["plain, few recordings"], configs["STCF, few recordings"]),
        )
    }
    assert changes == {"APBS": {"association"}, "STCF": {"stcf"}}
    measured, pictures = try_study(found, epochs=1, batch_size=2, score_every=1)
    for metrics in measured.values():
        assert metrics.keys() == {
            *("tested", "by_chance", "top1", "spikes", "rate_1", "rate_2"),
            *("synaptic_operations", "microjoules", "parameters"),
        }
    assert len({metrics["parameters"] for metrics in measured.values()}) == 1
    assert len(pictures) == 4
    assert "in 0 of 32 neurons of plain (+0.0 % in the mean)" in pictures[2].caption
    for picture in pictures:
        assert picture.png.startswith(b"\x89PNG")
    events.write(root / CLASSES[0] / "more.npz", recording(0, 99))
    assert study(str(root)).fingerprint != found.fingerprint


def test_the_caption_says_where_nothing_is_potentiated(run_folder: Path, plain: Path) -> None:
    for run, expected in ((run_folder, "in 32 of 32"), (plain, "in 0 of 32")):
        picture = potentiation({"APBS": [run], "plain": [plain]})
        assert f"That is so {expected} neurons of APBS" in picture.caption
        assert picture.png.startswith(b"\x89PNG")


def test_there_are_no_claims_about_images(photographs: Path) -> None:
    with pytest.raises(ConfigError, match="about recordings"):
        study(f"images={photographs}")
