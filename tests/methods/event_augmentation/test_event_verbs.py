"""Training, evaluating, predicting and exporting classifiers of a person's own recordings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator
from contextlib import nullcontext
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from event_folders import CLASSES, SENSOR, recording, write_folder
from safetensors.torch import load_file
from torch import Tensor

from modicum import events
from modicum.cli import main
from modicum.engine.random import SampleRandom
from modicum.engine.run import Run, RunOptions
from modicum.errors import ConfigError, DataError
from modicum.events.pipeline import FramePipeline
from modicum.methods import event_augmentation
from modicum.methods.event_augmentation import brightness
from modicum.methods.event_augmentation.claim import ARMS, measure, study
from modicum.methods.event_augmentation.est import EstClassifier
from modicum.methods.event_augmentation.inference import example_recording, load_classifier
from modicum.methods.event_augmentation.method import METHOD
from modicum.methods.event_augmentation.resnet import ResNet34
from modicum.methods.event_augmentation.train import (
    Augment,
    Config,
    Network,
    arguments_of,
    augmentation,
    build_network,
    learning_rate,
    logits_of,
    pipeline_for,
)
from modicum.methods.event_augmentation.voxels import VoxelPipeline
from modicum.options import replace
from modicum.spiking import networks
from modicum.vision import resnet

Trainer = Callable[..., Path]


@pytest.fixture
def run_folder(run_of: Trainer) -> Path:
    """A small spiking network, which has learnt more than chance."""
    return run_of("event-augmentation")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of three recordings, of which two are for training: for large networks."""
    return write_folder(tmp_path_factory.mktemp("few"), 3)


@pytest.fixture
def scratch(tmp_path: Path) -> Generator[Path, None, None]:
    """A folder that is emptied at once: runs of large networks take hundreds of megabytes."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def on_classifier(run: Path, batch: events.EventBatch) -> Tensor:
    """What a trained network says of recordings."""
    classifier = load_classifier(run)
    with torch.no_grad():
        return logits_of(classifier.network)(classifier.pipeline(batch))


# Evaluating


def test_evaluate_uses_what_was_held_out(
    recordings: Path, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "event-augmentation", "--run", str(run_folder), "--json"]) == 0
    held_out = json.loads(capsys.readouterr().out)
    assert "split 'hash' (20 % of each class held out" in held_out["data"]
    assert held_out["recordings"] == 6
    assert held_out["top1"] > 60  # a third without having learnt
    assert sum(row["samples"] for row in held_out["classes"]) == 6
    assert held_out["parameters"] == 7_923
    assert held_out["latency_ms"]["median"] > 0
    trained = event_augmentation.evaluate(
        run_folder, str(recordings), "train", weights="best", workers=0, brightness=False
    )
    assert trained["recordings"] == 24
    assert trained["top1"] > 60
    assert "top1_under_other_light" not in trained


def test_other_light_is_what_operations_make(run_folder: Path, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "more" / "test", 4, CLASSES[1:])
    found = event_augmentation.evaluate(run_folder, str(root.parent), workers=0)
    assert found["recordings"] == 8
    assert found["top1"] > 60
    whole = events.open_recordings(root.parent, "test")
    index = np.arange(8)
    batch = whole.read(index)
    changed = {
        "log_negated": batch.replace(p=1 - batch.p),
        "reversed_motion": brightness.reverse_time(batch),
        "shifted": brightness.OPERATIONS["shifted"](batch, SampleRandom(0, 0, index)),
    }
    shifts = changed["shifted"]
    assert (shifts.lengths < batch.lengths).all()  # some events left the sensor
    expected = {
        name: 100 * float((on_classifier(run_folder, one).argmax(1) == whole.labels + 1).sum()) / 8
        for name, one in changed.items()
    }
    assert found["top1_under_other_light"] == expected


def test_a_shift_is_a_tenth_of_the_side_one_of_four_ways() -> None:
    one = events.Events.of([0], [12], [10], [1], height=SENSOR[0], width=SENSOR[1])
    index = np.arange(64)
    batch = events.EventBatch.of([one] * 64)
    moved = brightness.OPERATIONS["shifted"](batch, SampleRandom(0, 0, index))
    places = set(zip((moved.x - 12).tolist(), (moved.y - 10).tolist(), strict=True))
    assert places == {(-2, -2), (-2, 2), (2, -2), (2, 2)}


def test_digits_are_simulated_anew_under_other_light(
    few_digits: int, tmp_path: Path, train_by_command: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    uncached: Any = brightness._digits
    monkeypatch.setattr(brightness, "_digits", cache(uncached.__wrapped__))
    folder = train_by_command(
        "event-augmentation", tmp_path / "run", data="digits", train_share=0.5, modes="time"
    )
    found = event_augmentation.evaluate(folder, workers=0)
    assert found["recordings"] == few_digits
    assert found["data"] == "built-in digits, simulated (clean)"
    shifted = found["top1_under_other_light"]
    assert shifted.keys() == events.VARIATIONS.keys() - {"clean"}
    recordings = events.Recordings(train_share=0.5)
    assert 15 <= len(recordings.open("train")) <= 25
    measured = measure(replace(Config(), time_steps=4), load_classifier(folder).network)
    assert measured["clean"] == pytest.approx(found["top1"], abs=1e-4)
    assert {name: measured[name] for name in shifted} == shifted
    dark = brightness.variations("digits", recordings.open("train"), "train")["inverted"].recordings
    assert dark.names[0] == "digits/train/0"
    named = [shifted[name] for name in ("log_negated", "reversed_motion", "larger_motion")]
    assert measured["shifted_mean"] == pytest.approx(sum(named) / 3)


def test_evaluate_refuses_a_larger_sensor(run_folder: Path, tmp_path: Path) -> None:
    write_folder(tmp_path, 2, CLASSES)
    larger = events.Events.of([0, 5], [3, 200], [1, 150], [0, 1], height=180, width=240)
    events.write(tmp_path / "left" / "larger.npz", larger)
    with pytest.raises(DataError, match=r"larger\.npz.* outside the sensor of 20 rows and 24"):
        event_augmentation.evaluate(run_folder, str(tmp_path), "train", workers=0)


# Predicting


# Every network


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of few layers and channels: the published ones are built by the presets' test."""
    monkeypatch.setitem(resnet._LAYOUTS, 34, (resnet.BasicBlock, (1, 1, 1, 1)))
    monkeypatch.setattr(networks, "VGGSNN_LAYOUT", (8, 16, "pool", 32, "pool"))
    monkeypatch.setattr(networks, "NDA_VGG11_LAYOUT", (8, "pool", 16, 16, "pool", 32))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("network", get_args(Network))
def test_every_network_is_trained_used_and_exported(
    network: str, few: Path, scratch: Path, train_by_command: Trainer
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    run = train_by_command(
        "event-augmentation", scratch / "run", data=few, network=network, bins=3, time_steps=2,
        size=32 if network.startswith("resnet34") else 16, batch_size=6, augment="eventdrop",
    )  # fmt: skip
    classifier = load_classifier(run)
    inputs: Any = classifier.pipeline(events.EventBatch.of([recording(1, 2)]))
    with torch.no_grad():
        expected = logits_of(classifier.network)(inputs)
    assert expected.shape == (1, 3)
    (found,) = event_augmentation.predict((few / "middle" / "2.dat",), run)["predictions"]
    assert found["probability_1"] == pytest.approx(float(expected.softmax(1).max()), abs=1e-5)

    result = event_augmentation.export(run)
    assert result["written"] == str(run / "model.onnx")
    assert result["largest_relative_difference"] < 1e-3
    session = onnxruntime.InferenceSession(run / "model.onnx")
    if isinstance(inputs, Tensor):
        batch = events.EventBatch.of([recording(1, number) for number in range(5)])
        given = {"input": classifier.pipeline(batch).numpy()}
        expected = on_classifier(run, batch)
    else:
        given = {name: getattr(inputs, name).astype(np.int64) for name in "txyp"}
    (logits,) = session.run(None, given)
    apart = (torch.from_numpy(logits) - expected).abs().amax(1) / expected.abs().max()
    assert apart.median() < 1e-3  # of one recording a spike may flip by rounding
    described = session.get_modelmeta().custom_metadata_map
    values = {name: json.loads(text) for name, text in described.items()}
    assert values == classifier.described() | {"version": version("modicum")}
    assert values.items() >= classifier.pipeline.to_notes().items()

    event_augmentation.export(run, "state-dict", scratch / "model.pth")
    state = torch.load(scratch / "model.pth", weights_only=True)
    trained = classifier.network.state_dict()
    assert state.keys() == trained.keys()
    assert all(torch.equal(state[key], trained[key]) for key in state)


@pytest.mark.usefixtures("narrow")
def test_every_network_has_an_example() -> None:
    for network in (EstClassifier(3, 2, size=32), ResNet34(5, 3)):
        rebuilt = METHOD.load("network")(**json.loads(json.dumps(arguments_of(network))))
        rebuilt.load_state_dict(network.state_dict())
        arguments = METHOD.load("example")(rebuilt)
        with torch.no_grad():
            assert torch.equal(rebuilt.eval()(*arguments), network.eval()(*arguments))


# Augmentations


@pytest.fixture(scope="module")
def unaugmented(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Weights after an epoch without augmentation."""
    return weights_with("none", recordings, tmp_path_factory.mktemp("unaugmented") / "run")


def weights_with(
    augment: Any, recordings: Path, folder: Path, cutmix: float = 0.0
) -> dict[str, Tensor]:
    config = replace(
        Config(),
        data=str(recordings),
        augment=augment,
        cutmix=cutmix,
        time_steps=4,
        epochs=1,
        batch_size=24,
        holdout=0.2,
    )
    options = RunOptions(device="cpu", workers=0)
    with Run(
        folder, method="event-augmentation", config=config, options=options, quiet=True
    ) as run:
        event_augmentation.train(config, run)
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("augment", [name for name in get_args(Augment) if name != "none"])
def test_every_augmentation_changes_training(
    augment: str, recordings: Path, tmp_path: Path, unaugmented: dict[str, Tensor]
) -> None:
    found = weights_with(augment, recordings, tmp_path / "run")
    name = "features.0.norm.running_mean"
    assert not torch.equal(found[name], unaugmented[name])
    assert found[name].isfinite().all()


def test_cutmix_mixes_frames_and_labels(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The statistics of batch normalisation are those of what was trained on, unless taken anew.
    monkeypatch.setattr(Run, "calibrated", lambda *_: nullcontext())
    plain = weights_with("none", recordings, tmp_path / "plain")
    found = weights_with("none", recordings, tmp_path / "run", cutmix=1.0)
    name = "features.0.norm.running_mean"
    assert not torch.equal(found[name], plain[name])
    assert found[name].isfinite().all()
    with pytest.raises(ConfigError, match=r"--cutmix 0\.5 changes frames"):
        Config(network="resnet34-est", cutmix=0.5)


def test_options_reach_the_operators() -> None:
    config = Config(modes=("x",), drift_modes=("time",), max_shift=0.2, max_dt=0.3)
    for name in ("eventid", "estf"):
        both = augmentation(replace(config, augment=name))
        assert both.reverse.modes == ("x",)
        assert (both.drift.modes, both.drift.max_shift, both.drift.max_dt) == (("time",), 0.2, 0.3)
    assert augmentation(replace(config, augment="reverse")) == both.reverse
    assert augmentation(replace(config, augment="drift")) == both.drift
    assert augmentation(replace(config, augment="none")) is None


# Training


def test_data_is_found_again_from_another_folder(
    tmp_path: Path, train_by_command: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was started with a relative path goes on in, and is evaluated from, anywhere."""
    lines: list[str] = []
    (tmp_path / "work" / "digits").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for number in range(8):
        events.write(tmp_path / "work" / "digits" / f"{number}.bin", recording(number % 2, number))
        lines.append(f"{number}\t{number % 2}\n")
    (tmp_path / "work" / "digits" / "labels.tsv").write_text("".join(lines))
    monkeypatch.chdir(tmp_path / "work")
    folder = train_by_command("event-augmentation", tmp_path / "run", data="n-mnist=digits")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["train", "--resume", str(folder)]) == 0
    assert event_augmentation.evaluate(folder, workers=0)["recordings"] == 2
    config = json.loads((folder / "config.json").read_text())["config"]
    assert config["recordings"]["data"] == f"n-mnist={(tmp_path / 'work' / 'digits').resolve()}"
    assert load_classifier(folder).classes == tuple("0123456789")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("bins", 1),
        ("max_shift", 1.0),
        ("max_dt", -0.1),
        ("cutmix", 1.5),
        ("halve_after", -1),
    ],
)
def test_options_out_of_range(option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"--{option.replace('_', '-')} {value}: must be"):
        replace(Config(), **{option: value})


def test_options_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="--augment nda changes frames"):
        Config(network="resnet34-count", augment="nda")
    with pytest.raises(ConfigError, match="--init: there are weights for resnet34"):
        Config(init=Path("resnet34.pth"))
    with pytest.raises(ConfigError, match="EventReverse: modes is"):
        augmentation(Config(modes=()))


def test_learning_rates_fall_as_configured() -> None:
    cosine = replace(Config(), epochs=4, learning_rate=0.8)
    rates = [learning_rate(cosine, step, 5) for step in range(20)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0)
    halved = replace(cosine, schedule="halving")
    found = [learning_rate(halved, step, 5) for step in (0, 49, 50, 99, 100)]
    assert found == [0.8, 0.8, 0.4, 0.4, 0.2]
    later = replace(halved, halve_after=3)
    assert [learning_rate(later, step, 5) for step in (0, 64, 65)] == [0.8, 0.8, 0.4]


# Pipelines and presets


def sensor(height: int, width: int) -> events.MemoryRecordings:
    """A set of one recording."""
    one = events.Events.of([], [], [], [], height=height, width=width)
    label = torch.zeros(1, dtype=torch.int64)
    return events.MemoryRecordings(("a",), label, np.array(["a"]), "", height, width, (one,))


@pytest.mark.parametrize(
    ("preset", "size", "classes", "parameters"),
    [
        ("default", (34, 34), 10, 30_970),
        ("cifar10-dvs", (128, 128), 10, 9_271_498),
        ("n-caltech101", (180, 240), 101, 21_384_546),
        ("n-cars", (100, 120), 2, 21_333_759),
        ("eventdrop", (180, 240), 101, 21_355_301),
        ("digits", (34, 34), 10, 30_970),
        ("smoke", (34, 34), 10, 30_970),
    ],
)
def test_presets_build_the_published_networks(
    preset: str, size: tuple[int, int], classes: int, parameters: int
) -> None:
    config = METHOD.recipe().presets[preset].config
    pipeline = pipeline_for(config, sensor(*size))
    network = build_network(config, pipeline, classes)
    assert sum(p.numel() for p in network.parameters()) == parameters
    made = pipeline(events.EventBatch.of([recording(0)]))
    if config.network == "resnet34-est":
        assert isinstance(made, events.EventBatch)
        assert (made.height, made.width) == size
    elif config.network == "resnet34-voxels":
        assert made.shape == (1, 9, 224, 224)
    else:
        side = (48, 48) if config.network == "vggsnn" else size
        assert made.shape == (1, config.framing.time_steps, 2, *side)


def test_recipes_are_those_of_the_codes() -> None:
    est = METHOD.recipe().presets["n-caltech101"].config
    assert (est.fitting.epochs, est.fitting.batch_size, est.fitting.learning_rate) == (30, 4, 1e-4)
    assert (est.schedule, est.bins) == ("halving", 9)
    tet = METHOD.recipe().presets["cifar10-dvs"].config
    fitting = tet.fitting
    assert (fitting.epochs, fitting.batch_size, fitting.learning_rate) == (150, 128, 1e-3)
    assert tet.loss == "tet"
    assert METHOD.recipe().presets["eventdrop"].config.augment == "eventdrop"
    assert "x" not in METHOD.recipe().presets["digits"].config.modes


def test_voxels_count_time_from_the_first_event() -> None:
    one = recording(1)
    late = one.replace(t=one.t + 1_000_000)
    batch = events.EventBatch.of([one, late])
    for kind, channels in (("voxels", 3), ("count", 2), ("frame", 1)):
        pipeline = VoxelPipeline(*SENSOR, "jaer", kind, 3, 16)
        made = pipeline(batch)
        assert isinstance(made, Tensor)
        assert made.shape == (2, channels, 16, 16)
        assert pipeline.channels == channels
        assert torch.equal(made[0], made[1])
    made = VoxelPipeline(*SENSOR, "jaer", "est", 3, 16)(batch)
    assert isinstance(made, events.EventBatch)
    assert [one.t[0] for one in made] == [0, 0]
    with pytest.raises(DataError, match="20"):
        VoxelPipeline(19, 24, "jaer", "count", 3, 16)(batch)


def test_the_made_up_recording_is_of_the_sensor() -> None:
    pipeline = FramePipeline(5, 7, "jaer", 2, "number", "max", None, "bilinear")
    batch = example_recording(pipeline, 1000)
    assert (len(batch), batch.height, batch.width) == (1000, 5, 7)
    assert batch[0].is_sorted
    assert (int(batch.y.max()), int(batch.x.max())) == (4, 6)


# The claims on recordings of one's own


def test_the_claims_are_checked_on_a_folder(tmp_path: Path, try_study: Trainer) -> None:
    root = write_folder(tmp_path / "few", 5, CLASSES[:2])
    found = study(str(root))
    assert list(found.arms) == ["no augmentation", "EventDrop", "EventReverse + EventDrift"]
    assert "6 recordings for training, 4 for testing" in found.data
    assert "cannot be simulated from recordings" in found.caveat
    configs = {arm: stage.config for arm, stage in found.arms.items()}
    base = configs["no augmentation"]
    for arm, config in configs.items():
        assert replace(config, augment="none") == base
        assert config.augment == ARMS[arm]
    measured, pictures = try_study(found, epochs=1, batch_size=6, score_every=1)
    for metrics in measured.values():
        known = {"tested", "by_chance", "clean", "shifted_mean"}
        assert metrics.keys() == known | set(brightness.OPERATIONS)
        changed = [metrics[name] for name in brightness.OPERATIONS]
        assert metrics["shifted_mean"] == pytest.approx(sum(changed) / 3)
    assert len(pictures) == 4
    for picture in pictures:
        assert picture.png.startswith(b"\x89PNG")
    assert "left/" in pictures[1].caption
    events.write(root / CLASSES[0] / "more.npz", recording(0, 99))
    assert study(str(root)).fingerprint != found.fingerprint
