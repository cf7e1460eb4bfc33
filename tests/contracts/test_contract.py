"""The promises every method of the catalogue keeps, whatever it is.

A new method is tested here by its line in the catalogue; nothing in this file names one.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import modicum
from modicum.catalogue import CATALOGUE, room
from modicum.claims import Study
from modicum.engine.run import Run, RunOptions
from modicum.errors import ConfigError, ModicumError
from modicum.method import Method, Recipe, load_method, load_saved
from modicum.options import from_json, to_json

Command = Callable[..., subprocess.CompletedProcess[str]]
SOURCE = Path(modicum.__file__).parent

pytestmark = pytest.mark.parametrize("name", CATALOGUE)


@pytest.fixture
def method(name: str) -> Method:
    return load_method(name)


@pytest.fixture
def recipe(method: Method) -> Recipe:
    return method.recipe()


def smoke(method: Method, folder: Path, seed: int = 0) -> dict[str, torch.Tensor]:
    """Train a few steps on built-in data; the weights it leaves."""
    config = method.recipe().presets["smoke"].config
    options = RunOptions(seed=seed, device="cpu")
    with Run(folder, method=method.name, config=config, options=options, quiet=True) as run:
        method.recipe().train(config, run)
    return load_file(folder / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_trains_on_built_in_data_reproducibly(method: Method, tmp_path: Path) -> None:
    first = smoke(method, tmp_path / "a")
    assert same(first, smoke(method, tmp_path / "b"))
    assert not same(first, smoke(method, tmp_path / "c", seed=1))
    for name in ("config.json", "environment.json", "metrics.jsonl"):
        assert (tmp_path / "a" / name).stat().st_size > 0, name
    logged = [json.loads(x) for x in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert any("loss" in name for line in logged for name in line)


def test_resumes_exactly_after_kill_at_random_moments(
    method: Method, tmp_path: Path, modicum_command: Command
) -> None:
    whole = smoke(method, tmp_path / "whole")
    words = [sys.executable, "-m", "modicum", "train", method.name]
    folder = tmp_path / "killed"
    start = [*words, "--preset", "smoke", "--out", folder, "--checkpoint-every", "0"]
    start += ["--device", "cpu"]
    moments = random.Random(0)
    killed = 0
    for _ in range(4):
        command = start if not (folder / "config.json").exists() else [*words, "--resume", folder]
        process = subprocess.Popen(
            list(map(str, command)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        # Wait until this attempt has trained, so that the kill strikes a run in full work.
        before = set(folder.glob("checkpoints/*.pt"))
        deadline = time.monotonic() + 120
        while process.poll() is None and not set(folder.glob("checkpoints/*.pt")) - before:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(moments.random() * 0.4)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
        if process.returncode == 0:
            break
    assert killed, "the smoke preset ended before it could be killed"
    done = modicum_command("train", method.name, "--resume", folder)
    assert done.returncode == 0, done.stderr
    assert same(whole, load_file(folder / "model.safetensors"))
    assert (folder / "report.html").stat().st_size > 0

    def logged(run: Path) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]

    assert logged(tmp_path / "whole") == logged(folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_resumable_run(
    method: Method, tmp_path: Path, number: signal.Signals, modicum_command: Command
) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "modicum", "train", method.name, "--preset", "smoke"]
        + ["--out", str(folder), "--checkpoint-every", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and not list(folder.glob("checkpoints/*.pt")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number, stderr
    assert f"--resume {folder}" in stderr
    assert "Traceback" not in stderr
    assert modicum_command("train", "--resume", folder).returncode == 0


def test_two_processes_equal_one(method: Method, tmp_path: Path) -> None:
    one = smoke(method, tmp_path / "one")
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
        + ["-m", "modicum", "train", method.name]
        + ["--preset", "smoke", "--device", "cpu", "--out", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    described = json.loads((tmp_path / "two" / "environment.json").read_text())
    assert described["processes"] == "2"
    two = load_file(tmp_path / "two" / "model.safetensors")
    assert one.keys() == two.keys()
    # Training amplifies rounding, in single precision by thousands within these steps. That it is
    # nothing but rounding is tested in double precision in tests/engine/test_distributed.py.
    for key, value in one.items():
        difference = (value.double() - two[key].double()).norm()
        assert difference <= 0.02 * value.double().norm() + 1e-3, key


def test_saves_loads_and_predicts_the_same(method: Method, tmp_path: Path) -> None:
    recipe = method.recipe()
    config = recipe.presets["smoke"].config
    options = RunOptions(device="cpu")
    with Run(
        tmp_path / "run", method=method.name, config=config, options=options, quiet=True
    ) as run:
        trained = recipe.train(config, run).eval()
    network = modicum.load(tmp_path / "run")
    assert not network.training
    arguments = method.load("example")(trained)
    with torch.no_grad():
        torch.testing.assert_close(network(*arguments), trained(*arguments), rtol=0, atol=0)
    saved = load_saved(tmp_path / "run" / "model.safetensors", method=method.name)
    state = saved.module.state_dict()
    assert same(state, network.state_dict())
    assert same(state, load_file(tmp_path / "run" / "model.safetensors"))


def test_a_finished_run_that_was_moved_resumes_to_its_end(
    method: Method, tmp_path: Path, modicum_command: Command
) -> None:
    smoke(method, tmp_path / "before")
    (tmp_path / "before").rename(tmp_path / "after")
    done = modicum_command("train", "--resume", tmp_path / "after", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == str(tmp_path / "after")


def test_refuses_bad_input_with_our_errors(
    method: Method, tmp_path: Path, modicum_command: Command
) -> None:
    missing = tmp_path / "nothing here"
    for words in (
        ["train", method.name, "--no-such-option"],
        ["train", method.name, "--preset", "no such preset"],
        ["train", method.name, "--resume", missing],
        ["train", method.name, "--data", missing, "--out", tmp_path / "run"],
        ["evaluate", method.name, "--run", missing, "--data", missing],
        ["data", method.name, missing],
    ):
        done = modicum_command(*words)
        assert done.returncode in (1, 2), words
        assert "Traceback" not in done.stderr, words
        said = done.stderr + done.stdout
        # A table may break a long path over lines.
        said = "".join(said.split())
        assert any("".join(str(w).split()) in said for w in (missing, words[-1])), words
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(b"not weights")
    with pytest.raises(ModicumError, match=re.escape(str(foreign))):
        modicum.load(foreign)


def test_a_damaged_model_file_is_an_error(method: Method, tmp_path: Path) -> None:
    smoke(method, tmp_path / "run")
    file = tmp_path / "run" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModicumError, match="damaged"):
        modicum.load(tmp_path / "run")


def test_configuration_is_frozen_documented_and_round_trips(recipe: Recipe) -> None:
    assert dataclasses.is_dataclass(recipe.config)
    source = inspect.getsource(recipe.config)
    tree = ast.parse(inspect.cleandoc(source)).body[0]
    assert isinstance(tree, ast.ClassDef)
    for field, follower in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            documented = isinstance(follower, ast.Expr) and isinstance(follower.value, ast.Constant)
            assert documented, f"{ast.unparse(field)} has no docstring"
    for preset in recipe.presets.values():
        assert isinstance(preset.config, recipe.config)
        rebuilt = from_json(recipe.config, to_json(preset.config))
        assert rebuilt == preset.config
    first = dataclasses.fields(recipe.config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(recipe.presets["default"].config, first, None)


def test_study_names_arms_and_claims_that_fit(method: Method) -> None:
    study = method.load("study")(None)
    assert isinstance(study, Study)
    assert study.method == method.name
    for claim in study.claims:
        assert claim.method in study.arms
        assert claim.baseline in study.arms
        assert claim.statement.endswith(".")
    for stage in study.arms.values():
        assert isinstance(stage.config, method.recipe(stage.recipe).config)


def test_public_functions_have_docstrings(method: Method, name: str) -> None:
    for path in (SOURCE / "methods" / room(name)).rglob("*.py"):
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), f"{path.name} has no docstring"
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        for node in [*tree.body, *(member for c in classes for member in c.body)]:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"


def test_forward_states_shapes(method: Method, name: str) -> None:
    """Every public network says what shapes it takes and gives."""
    for path in (SOURCE / "methods" / room(name)).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                texts = [ast.get_docstring(node) or ""]
                forward = [n for n in node.body if getattr(n, "name", "") == "forward"]
                texts += [ast.get_docstring(n) or "" for n in forward]  # type: ignore[arg-type]
                if forward:
                    assert re.search(r"\([^)]*,[^)]*\)", " ".join(texts)), f"{node.name}: no shapes"


def test_readme_has_every_section(method: Method, name: str) -> None:
    text = (SOURCE / "methods" / room(name) / "README.md").read_text()
    for section in ("What it is", "When to use it", "How to use it", "Results", "Deviations"):
        assert f"## {section}" in text, section
    assert "## Source" in text


def imported(path: Path) -> set[str]:
    """Every name a file imports, whole."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_rooms_import_no_other_method_and_nothing_imports_a_room(name: str) -> None:
    mine = f"modicum.methods.{room(name)}"
    folder = SOURCE / "methods" / room(name)
    for path in SOURCE.rglob("*.py"):
        methods = {n for n in imported(path) if n.startswith("modicum.methods.")}
        if path.is_relative_to(folder):
            assert all(f"{n}.".startswith(f"{mine}.") for n in methods), path
        else:
            assert not any(f"{n}.".startswith(f"{mine}.") for n in methods), path


def test_options_of_methods_and_runs_do_not_clash(recipe: Recipe) -> None:
    shared = {field.name for field in dataclasses.fields(RunOptions)} | {"out", "preset", "resume"}
    assert not shared & {field.name for field in dataclasses.fields(recipe.config)}


def test_unknown_methods_are_suggested(name: str) -> None:
    with pytest.raises(ConfigError, match=f"Did you mean '{name}'"):
        load_method(name + "x")


def test_a_room_offers_what_its_card_promises(method: Method, name: str) -> None:
    card = CATALOGUE[name]
    assert set(method.verbs) == {"data", "evaluate", "predict", "export", *card.verbs}
    assert len(method.recipes) == 1 or set(method.recipes) == set(card.recipes)
    for verb in method.verbs:
        assert callable(method.verb(verb))
    for what in ("network", "example", "study"):
        assert callable(method.load(what))
    for recipe in method.recipes:
        assert {"default", "smoke"} <= set(method.recipe(recipe).presets)
    assert method.load("datasets")
