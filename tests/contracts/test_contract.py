"""The promises every method of the catalogue keeps, whatever it is.

A new method is tested here by its line in the catalogue; nothing in this file names one but the toy
method of `tests/contracts/rooms/`. A recipe is trained five times: one smoke run serves every test
that only needs a run, one is killed and resumed, one has another seed, and two are in double
precision, by one process and by two.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import re
import shutil
import signal
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from smoke_runs import Smoke, main_in_double_precision, smoke

import modicum
from forked import Forked, together
from kills import logged
from modicum.catalogue import CATALOGUE, room
from modicum.claims import Study
from modicum.cli import main
from modicum.engine.run import RunOptions
from modicum.errors import ConfigError, ModicumError
from modicum.method import Method, Recipe, load_method, load_saved
from modicum.options import Options, from_json, to_json
from modicum.report import write_run_report

METHODS = [*CATALOGUE, "toy"]
RECIPES = [
    (name, recipe) for name in CATALOGUE for recipe in CATALOGUE[name].recipes or ["train"]
] + [("toy", "teacher"), ("toy", "student")]

of_methods = pytest.mark.parametrize("name", METHODS)
of_recipes = pytest.mark.parametrize(("name", "recipe"), RECIPES, ids=map("-".join, RECIPES))


@pytest.fixture
def method(name: str) -> Method:
    return load_method(name)


def folder_of(name: str) -> Path:
    return Path(inspect.getfile(importlib.import_module(f"modicum.methods.{room(name)}"))).parent


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def command(name: str, recipe: str) -> list[str]:
    return ["train", name, *([recipe] if len(load_method(name).recipes) > 1 else [])]


# Trainings


@of_recipes
def test_trains_on_built_in_data(
    name: str, recipe: str, smoke_run: Callable[[str, str], Smoke]
) -> None:
    folder = smoke_run(name, recipe).folder
    for file in ("config.json", "environment.json", "metrics.jsonl"):
        assert (folder / file).stat().st_size > 0, file
    assert any("loss" in key for line in logged(folder) for key in line)


@of_recipes
def test_what_was_taken_for_what_adds_up(
    name: str, recipe: str, smoke_run: Callable[[str, str], Smoke]
) -> None:
    """The confusions are those of a score that was logged, and the report has them."""
    folder = smoke_run(name, recipe).folder
    scores = [value for line in logged(folder) for key, value in line.items()
              if key == "top1" or key.endswith("val_accuracy")]  # fmt: skip
    assert (folder / "confusion.json").exists() == bool(scores)
    if scores:
        matrix = torch.tensor(json.loads((folder / "confusion.json").read_text())["matrix"])
        accuracy = 100 * float(matrix.trace() / matrix.sum())
        assert any(abs(accuracy - score) < 1e-3 for score in scores)
        assert 'id="classes"' in write_run_report(folder).read_text()


@of_recipes
def test_another_seed_gives_another_network(
    name: str, recipe: str, tmp_path: Path, smoke_run: Callable[[str, str], Smoke]
) -> None:
    other = smoke(name, recipe, tmp_path / "run", seed=1)
    assert not same(weights(smoke_run(name, recipe).folder), weights(other.folder))


@of_recipes
def test_stopped_at_any_moment_it_resumes_to_the_same_bits(
    name: str,
    recipe: str,
    tmp_path: Path,
    smoke_run: Callable[[str, str], Smoke],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    start = [*command(name, recipe), "--preset", "smoke", "--out", str(folder)]
    start += ["--checkpoint-every", "0", "--device", "cpu"]
    resume = ["train", name, "--resume", str(folder)]
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        before = set(folder.glob("checkpoints/*.pt"))
        log = tmp_path / f"{number.name}.txt"
        process = Forked(main, resume if before else start, log=log)
        # Wait until this attempt has trained, so that the signal strikes a run in full work.
        deadline = time.monotonic() + 120
        while process.exit_code is None and not set(folder.glob("checkpoints/*.pt")) - before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        if number == signal.SIGKILL:
            assert process.wait() == -number, "the smoke preset ended before it could be killed"
        else:
            assert process.wait() == 128 + number, process.said
            assert f"--resume {folder}" in process.said
            assert "Traceback" not in process.said
    assert main(resume) == 0, capsys.readouterr().err
    whole = smoke_run(name, recipe).folder
    assert same(weights(whole), weights(folder))
    assert logged(whole) == logged(folder)
    assert (folder / "report.html").stat().st_size > 0


@of_recipes
def test_two_processes_equal_one(name: str, recipe: str, tmp_path: Path) -> None:
    """In double precision: in single, rounding flips spikes, and training amplifies it."""
    words = [*command(name, recipe), "--preset", "smoke", "--device", "cpu"]
    one, two = tmp_path / "one", tmp_path / "two"
    alone = Forked(main_in_double_precision, [*words, "--out", str(one)], log=tmp_path / "log")
    together(main_in_double_precision, [*words, "--out", str(two)], folder=tmp_path)
    assert alone.wait() == 0, alone.said
    for folder, processes in ((one, "1"), (two, "2")):
        assert json.loads((folder / "environment.json").read_text())["processes"] == processes
    expected, found = weights(one), weights(two)
    assert expected.keys() == found.keys()
    assert torch.float32 not in {value.dtype for value in expected.values()}
    for key, value in expected.items():
        # The gradient of a bias before batch normalisation is rounding, which Adam divides by
        # little more than 1e-8.
        torch.testing.assert_close(found[key], value, rtol=1e-7, atol=1e-7, msg=key)
    for alone_logged, both_logged in zip(logged(one), logged(two), strict=True):
        assert both_logged == pytest.approx(alone_logged, rel=1e-7, abs=1e-7)
    if (one / "confusion.json").exists():
        assert (one / "confusion.json").read_text() == (two / "confusion.json").read_text()


# A finished run


@of_recipes
def test_saves_and_loads_the_same(
    name: str, recipe: str, smoke_run: Callable[[str, str], Smoke]
) -> None:
    run = smoke_run(name, recipe)
    opened = modicum.open(run.folder)
    network = opened.network
    assert not network.training
    arguments = load_method(name).load("example")(run.network)
    with torch.no_grad():
        torch.testing.assert_close(network(*arguments), run.network(*arguments), rtol=0, atol=0)
    saved = load_saved(run.folder / "model.safetensors", method=name)
    assert same(saved.module.state_dict(), weights(run.folder))
    assert same(modicum.load(run.folder).state_dict(), weights(run.folder))
    assert opened.saved.notes == saved.notes


@of_recipes
def test_a_finished_run_that_was_moved_resumes_to_its_end(
    name: str,
    recipe: str,
    tmp_path: Path,
    smoke_run: Callable[[str, str], Smoke],
    capsys: pytest.CaptureFixture[str],
) -> None:
    moved = shutil.copytree(smoke_run(name, recipe).folder, tmp_path / "moved")
    assert main(["train", "--resume", str(moved), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"] == str(moved)


@of_recipes
def test_a_damaged_model_file_is_an_error(
    name: str, recipe: str, tmp_path: Path, smoke_run: Callable[[str, str], Smoke]
) -> None:
    whole = (smoke_run(name, recipe).folder / "model.safetensors").read_bytes()
    damaged = tmp_path / "model.safetensors"
    damaged.write_bytes(whole[:-100])
    with pytest.raises(ModicumError, match="damaged"):
        modicum.load(damaged)


# The command line and what it reads


@of_methods
def test_refuses_bad_input_with_our_errors(
    method: Method, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "nothing here"
    train = command(method.name, next(iter(method.recipes)))
    for words in (
        [*train, "--no-such-option"],
        [*train, "--preset", "no such preset"],
        [*train, "--resume", missing],
        [*train, "--data", missing, "--out", tmp_path / "run"],
        ["evaluate", method.name, "--run", missing, "--data", missing],
        ["data", method.name, missing],
    ):
        try:
            code = main(list(map(str, words)))
        except SystemExit as stopped:
            code = stopped.code
        assert code in (1, 2), words
        captured = capsys.readouterr()
        # A table may break a long path over lines.
        said = "".join((captured.err + captured.out).split())
        assert any("".join(str(word).split()) in said for word in (missing, words[-1])), words
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(b"not weights")
    with pytest.raises(ModicumError, match=re.escape(str(foreign))):
        modicum.load(foreign)


def option_groups(kind: type[Any]) -> Iterator[type[Any]]:
    """A configuration class and the classes of the groups in it."""
    yield kind
    for field in dataclasses.fields(kind):
        default = field.default
        if dataclasses.is_dataclass(default) and not isinstance(default, type):
            yield from option_groups(type(default))


@of_recipes
def test_options_are_frozen_documented_and_round_trip(name: str, recipe: str) -> None:
    chosen = load_method(name).recipe(recipe)
    shared = {field.name for field in dataclasses.fields(RunOptions)} | {"out", "preset", "resume"}
    for kind in option_groups(chosen.config):
        assert issubclass(kind, Options)
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
        assert isinstance(tree, ast.ClassDef)
        own = [node for node in tree.body if isinstance(node, ast.AnnAssign)]
        assert len(own) <= 25, kind
        for field, follower in zip(tree.body, [*tree.body[1:], None], strict=True):
            if isinstance(field, ast.FunctionDef) and field.name == "__post_init__":
                assert field.end_lineno is not None
                assert field.end_lineno - field.lineno < 20, kind
            if isinstance(field, ast.AnnAssign) and "FLAT" not in ast.unparse(field.annotation):
                documented = isinstance(follower, ast.Expr) and isinstance(
                    follower.value, ast.Constant
                )
                assert documented, f"{ast.unparse(field)} has no docstring"
                assert not re.match(r"(Of|Its|The same)\b", str(follower.value.value)), kind
        assert not shared & {field.name for field in dataclasses.fields(kind)}
    for preset in chosen.presets.values():
        assert isinstance(preset.config, chosen.config)
        assert from_json(chosen.config, to_json(preset.config)) == preset.config
    first = dataclasses.fields(chosen.config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(chosen.presets["default"].config, first, None)


@of_methods
def test_a_room_offers_what_its_card_promises(method: Method, name: str) -> None:
    card = CATALOGUE[name]
    assert set(method.verbs) == {"data", "evaluate", "predict", "export", *card.verbs}
    assert len(method.recipes) == 1 or set(method.recipes) == set(card.recipes)
    for verb in method.verbs:
        function = method.verb(verb)
        assert inspect.getdoc(function)
        if verb in ("evaluate", "predict", "export"):
            assert "run" in inspect.signature(function).parameters
    for what in ("network", "example", "study"):
        assert callable(method.load(what))
    for recipe in method.recipes:
        assert isinstance(method.recipe(recipe), Recipe)
        assert {"default", "smoke"} <= set(method.recipe(recipe).presets)
    assert method.load("datasets")


@of_methods
def test_study_names_arms_and_claims_that_fit(method: Method) -> None:
    study = method.load("study")(None)
    assert isinstance(study, Study)
    assert study.method == method.name
    for claim in study.claims:
        assert claim.method in study.arms
        assert claim.baseline in study.arms
        assert claim.statement.endswith(".")
    stages = list(study.arms.values())
    while stages:
        stage = stages.pop()
        assert isinstance(stage.config, method.recipe(stage.recipe).config)
        stages += stage.inputs.values()


@of_methods
def test_unknown_methods_are_suggested(name: str) -> None:
    with pytest.raises(ConfigError, match=f"Did you mean '{name}'"):
        load_method(name + "x")


# What a reader finds


def sources(name: str) -> list[Path]:
    return sorted(folder_of(name).rglob("*.py"))


@of_methods
def test_public_functions_have_docstrings(name: str) -> None:
    for path in sources(name):
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), f"{path.name} has no docstring"
        classes = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name[0] != "_"]
        for node in [*tree.body, *(member for c in classes for member in c.body)]:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"


@of_methods
def test_forward_states_shapes(name: str) -> None:
    """Every public network says what shapes it takes and gives."""
    for path in sources(name):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                texts = [ast.get_docstring(node) or ""]
                forward = [n for n in node.body if getattr(n, "name", "") == "forward"]
                texts += [ast.get_docstring(n) or "" for n in forward]  # type: ignore[arg-type]
                if forward:
                    assert re.search(r"\([^)]*,[^)]*\)", " ".join(texts)), f"{node.name}: no shapes"


@of_methods
def test_readme_has_every_section(name: str) -> None:
    text = (folder_of(name) / "README.md").read_text()
    for section in ("What it is", "When to use it", "How to use it", "Results", "Deviations"):
        assert f"## {section}" in text, section
    assert "## Source" in text


@of_methods
def test_rooms_import_no_other_method(name: str) -> None:
    mine = f"modicum.methods.{room(name)}"
    for path in sources(name):
        for node in ast.walk(ast.parse(path.read_text())):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if module and module.startswith("modicum.methods"):
                assert f"{module}.".startswith(f"{mine}."), path
