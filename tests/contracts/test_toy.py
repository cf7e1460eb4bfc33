"""What only the toy method shows: recipes that follow each other, and what trains a stage anew."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from smoke_runs import Smoke

import modicum
from modicum import methods
from modicum.claims import Stage, Study, run_study
from modicum.claims.stages import code_digest, training_of
from modicum.cli import main
from modicum.method import load_method
from modicum.system.cache import cache_folder

SEEDS = (0, 1)


def of_toy(module: str) -> Any:
    return importlib.import_module(f"modicum.methods.toy.{module}")


# A study whose arms share a stage


@pytest.fixture(scope="module")
def studied_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studied-cache")


@pytest.fixture
def studied(studied_cache: Path, monkeypatch: pytest.MonkeyPatch, forked_workers: None) -> Study:
    """The toy's study, all of whose stages are in the cache."""
    monkeypatch.setenv("MODICUM_CACHE", str(studied_cache))
    study: Study = load_method("toy").load("study")(None)
    run_study(study, SEEDS, jobs=1)
    return study


def trained() -> dict[Path, int]:
    """The run folders of stages in the cache, and when each was trained."""
    weights = (cache_folder() / "claims").glob("*/model.safetensors")
    return {file.parent: file.stat().st_mtime_ns for file in weights}


def test_a_shared_teacher_is_trained_once_a_seed(studied: Study) -> None:
    described = {run: json.loads((run / "config.json").read_text()) for run in trained()}
    per_recipe = Counter(of["recipe"] for of in described.values())
    assert per_recipe == {"teacher": len(SEEDS), "student": len(studied.arms) * len(SEEDS)}
    for of in described.values():
        if of["recipe"] == "student":
            teacher = described[Path(of["config"]["teacher_run"])]
            assert teacher["recipe"] == "teacher"
            assert teacher["run"]["seed"] == of["run"]["seed"]


def test_what_is_said_and_shown_trains_nothing_anew(studied: Study) -> None:
    before = trained()
    (claim,) = studied.claims
    told = dataclasses.replace(
        studied,
        claims=[dataclasses.replace(claim, statement="Told anew.", threshold=100.0)],
        data="told anew",
        caveat="told anew",
        pictures=lambda runs: [],
    )
    (verdict,) = run_study(told, SEEDS, jobs=1).verdicts
    assert verdict.claim.statement == "Told anew."
    assert verdict.word == "does not hold"
    assert trained() == before


def test_a_changed_configuration_trains_anew(studied: Study) -> None:
    before = trained()
    stage = studied.arms["narrow student"]
    changed = dataclasses.replace(stage, config=dataclasses.replace(stage.config, width=3))
    run_study(
        dataclasses.replace(studied, arms=studied.arms | {"narrow student": changed}),
        SEEDS[:1],
        jobs=1,
    )
    after = trained()
    assert before.items() <= after.items()
    (added,) = after.keys() - before.keys()
    assert json.loads((added / "config.json").read_text())["config"]["width"] == 3


def test_a_changed_teacher_trains_its_students_anew(studied: Study) -> None:
    stage = studied.arms["wide student"]
    teacher = stage.inputs["teacher_run"]
    other = Stage(dataclasses.replace(teacher.config, width=17), teacher.recipe)
    changed = dataclasses.replace(stage, inputs={"teacher_run": other})
    keys = [training_of("toy", one, 0, studied.fingerprint).folder for one in (stage, changed)]
    assert keys[0] in trained()
    assert keys[1] not in trained()


def test_code_trains_anew_that_has_a_part_in_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(code_digest.cache_clear)
    room = tmp_path / "toy"
    shutil.copytree(Path(of_toy("train").__file__).parent, room)
    monkeypatch.setattr(methods, "__path__", [str(tmp_path), *methods.__path__])

    def digest() -> str:
        code_digest.cache_clear()
        return code_digest("modicum.methods.toy.train")

    before = digest()
    for unrelated in ("claim.py", "survey.py", "inference.py", "presets.py"):
        (room / unrelated).write_text('"""Changed."""\n')
    assert digest() == before
    for module in ("train.py", "losses.py", "data.py", "networks.py"):
        whole = (room / module).read_text()
        (room / module).write_text(whole + "# changed\n")
        assert digest() != before, module
        (room / module).write_text(whole)
    assert digest() == before
    networks = (room / "networks.py").read_text()
    for relative in ("from . import added", "from .added import X", "from ..toy.added import X"):
        (room / "networks.py").write_text(f"{networks}{relative}\n")
        (room / "added.py").write_text("X = 1\n")
        before = digest()
        (room / "added.py").write_text("X = 2\n")
        assert digest() != before, relative


# A recipe that starts from the run of another


def test_a_student_learns_from_the_teacher_it_is_given(
    tmp_path: Path, smoke_run: Callable[[str, str], Smoke], capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, alone = smoke_run("toy", "teacher"), smoke_run("toy", "student")
    words = ["train", "toy", "student", "--preset", "smoke", "--device", "cpu"]
    words += ["--teacher-run", str(teacher.folder), "--out", str(tmp_path / "run")]
    assert main(words) == 0, capsys.readouterr().err
    taught = modicum.load(tmp_path / "run")
    differ = [
        name
        for name, value in load_file(alone.folder / "model.safetensors").items()
        if not torch.equal(value, taught.state_dict()[name])
    ]
    assert differ == ["body.0.bias", "body.0.weight", "body.2.bias", "body.2.weight"]
    moments = of_toy("data").open_clouds("points", "val").moments
    with torch.no_grad():
        far, near = (
            (network(moments) - teacher.network(moments)).square().mean()
            for network in (alone.network, taught)
        )
    assert near < far


def test_a_student_of_what_is_no_teacher_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "nothing here"
    words = ["train", "toy", "student", "--teacher-run", str(missing), "--out", str(tmp_path / "r")]
    assert main(words) == 1
    assert str(missing) in capsys.readouterr().err


# Processes


def test_accelerate_launches_as_many_processes_as_it_is_asked_for(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
        + ["-m", "modicum", "train", "toy", "teacher", "--preset", "smoke", "--device", "cpu"]
        + ["--out", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    described = json.loads((tmp_path / "two" / "environment.json").read_text())
    assert described["processes"] == "2"


# What the contract's tests take for granted of it


def test_targets_are_ragged_and_a_parameter_takes_no_part() -> None:
    clouds = of_toy("data").open_clouds("points", "train")
    assert len({len(points) for points in clouds.points[:8]}) > 1
    network = of_toy("networks").PointNetwork(4)
    of_toy("losses").nearest_loss(network(clouds.moments), clouds.points).backward()
    used = {name: parameter.grad is not None for name, parameter in network.named_parameters()}
    assert {name for name, takes_part in used.items() if not takes_part} == {
        "unused.weight",
        "unused.bias",
    }


def test_nearest_loss_is_the_mean_over_clouds_of_their_means() -> None:
    nearest_loss = of_toy("losses").nearest_loss
    predicted = torch.randn(3, 4, 2, dtype=torch.float64)
    targets = [torch.randn(n, 2, dtype=torch.float64) for n in (1, 5, 2)]
    expected = [
        min(float(((p - q) ** 2).sum()) for q in predicted[i])
        for i, points in enumerate(targets)
        for p in points
    ]
    means = [np.mean(expected[:1]), np.mean(expected[1:6]), np.mean(expected[6:])]
    torch.testing.assert_close(
        nearest_loss(predicted, targets), torch.tensor(np.mean(means), dtype=torch.float64)
    )


def test_verbs_on_files(
    tmp_path: Path, smoke_run: Callable[[str, str], Smoke], capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: object) -> dict[str, Any]:
        assert main([*map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    folder, run = tmp_path / "clouds", smoke_run("toy", "teacher").folder
    folder.mkdir()
    for number in range(8):
        np.save(
            folder / f"{number}.npy", np.random.default_rng(number).normal(size=(number + 1, 2))
        )
    assert said("data", "toy", folder) == {
        "source": str(folder),
        "usable": True,
        "clouds": 8,
        "points": 36,
    }
    assert said("evaluate", "toy", "--run", run)["clouds"] == 64
    assert said("evaluate", "toy", "--run", run, "--data", folder)["clouds"] == 2
    row = said("predict", "toy", folder, "--run", run)["predictions"][0]
    assert np.shape(row["points"]) == (4, 2)
    said("export", "toy", "--run", run, "--out", tmp_path / "model.pth")
    state = torch.load(tmp_path / "model.pth", weights_only=True)
    assert state.keys() == load_file(run / "model.safetensors").keys()
    (folder / "0.npy").write_bytes(b"no array")
    assert main(["data", "toy", str(folder), "--json"]) == 1
    assert "0.npy" in json.loads(capsys.readouterr().out)["problems"][0]
