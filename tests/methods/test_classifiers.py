"""What every classifier does with a person's own files, whatever it looks at."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from colour_folders import COLOURS, write_photographs
from event_folders import CLASSES, write_folder
from safetensors.torch import load_file

from modicum.cli import main
from modicum.errors import CheckpointError, ConfigError, DataError
from modicum.method import Verb, load_method
from modicum.options import replace

Trainer = Callable[..., Path]


@dataclass(frozen=True)
class Case:
    """A classifier and what it looks at."""

    method: str
    kind: str
    counted: str
    """What its samples are called in results."""
    classes: tuple[str, ...]
    write: Callable[..., Path]
    """Writes a folder of labelled samples."""
    files: str
    """Fixture of thirty samples."""

    def verb(self, name: str) -> Verb:
        return load_method(self.method).verb(name)


CASES = [
    Case("vgnet", "image", "images", tuple(COLOURS), write_photographs, "photographs"),
    Case("apbs", "recording", "samples", CLASSES, write_folder, "recordings"),
    Case("event-augmentation", "recording", "recordings", CLASSES, write_folder, "recordings"),
]


@pytest.fixture(params=CASES, ids=lambda case: case.method)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture
def data(case: Case, request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(case.files)


@pytest.fixture
def run(case: Case, run_of: Callable[[str], Path]) -> Path:
    return run_of(case.method)


def broken(data: Path, folder: Path, name: str = "broken") -> Path:
    """A copy of a file of a data set that ends too early."""
    file = sorted((data / sorted(p.name for p in data.iterdir())[-1]).iterdir())[0]
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / f"{name}{file.suffix}"
    copy.write_bytes(file.read_bytes()[:-102])
    return copy


# Evaluating


def test_evaluate_uses_what_was_held_out(
    case: Case, data: Path, run: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(data.parent)
    words = ["evaluate", case.method, "--run", str(run), "--data", data.name, "--workers", "0"]
    assert main([*words, "--json"]) == 0
    held_out = json.loads(capsys.readouterr().out)
    assert held_out[case.counted] == 6
    assert held_out["top1"] > 60  # a third without having learnt
    assert "top5" not in held_out  # of so few classes
    assert [row["class"] for row in held_out["classes"]] == sorted(case.classes)
    assert sum(row["samples"] for row in held_out["classes"]) == 6
    right = sum(row["taken_for"].get(row["class"], 0) for row in held_out["classes"])
    assert held_out["top1"] == pytest.approx(100 * right / 6)
    assert main(words) == 0
    assert "latency ms" in capsys.readouterr().out
    trained = case.verb("evaluate")(run=run, data=str(data), split="train", weights="best")
    assert trained[case.counted] == 24
    assert trained["top1"] > 60


def test_evaluate_takes_another_folder_whole_and_finds_classes_by_name(
    case: Case, run: Path, tmp_path: Path
) -> None:
    root = case.write(tmp_path / "more", 4, case.classes[1:])
    found = case.verb("evaluate")(run=run, data=str(root))
    assert found[case.counted] == 8
    assert found["top1"] > 60
    (root / case.classes[1]).rename(root / "unknown")
    first = case.classes[0]
    with pytest.raises(DataError, match=rf"not trained on the class unknown\. It knows: {first}"):
        case.verb("evaluate")(run=run, data=str(root))


def test_runs_of_other_methods_are_refused(
    case: Case, data: Path, run_of: Callable[[str], Path]
) -> None:
    other = next(each.method for each in CASES if each.method != case.method)
    with pytest.raises(CheckpointError, match=f"holds a network of the method '{other}'"):
        case.verb("evaluate")(run=run_of(other), data=str(data))


# Predicting


def test_predict_files_and_folders(
    case: Case, data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = tmp_path / "more"
    cut = broken(data, more)
    (more / "notes.txt").write_text("nothing to classify")
    first, *_, last = case.classes
    one = sorted((data / first).iterdir())[0]
    out = tmp_path / "predictions.csv"
    words = [one, data / last, more, "--run", run, "--out", out, "--batch-size", 4, "--json"]
    assert main(["predict", case.method, *map(str, words)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["files"], result["unreadable"], result["table"]) == (12, 1, str(out))
    assert len(result["predictions"]) == 10
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:3] == ["file", "class_1", "probability_1"]
    assert list(rows[0])[-1] == "error"
    files = [one, *sorted((data / last).iterdir()), cut]
    assert [row["file"] for row in rows] == list(map(str, files))
    assert [row["class_1"] for row in rows[1:11]].count(last) > 6
    for row in rows[:11]:
        assert sum(float(row[f"probability_{k}"]) for k in (1, 2, 3)) > 0.99999
        assert row["error"] == ""
    assert cut.name in rows[11]["error"]
    assert rows[11]["class_1"] == ""


def test_predict_says_what_is_missing(case: Case, run: Path, tmp_path: Path) -> None:
    predict = case.verb("predict")
    with pytest.raises(DataError, match="no such file or folder"):
        predict((tmp_path / "absent.npz",), run=run)
    with pytest.raises(DataError, match=f"no {case.kind} found"):
        predict((tmp_path,), run=run)
    (tmp_path / ("a.png" if case.kind == "image" else "a.bin")).write_bytes(b"123")
    with pytest.raises(DataError, match=r"a\.(png|bin)\b.*(it begins with|3 bytes left over)"):
        predict((tmp_path,), run=run)
    with pytest.raises(CheckpointError, match="no such run folder"):
        predict((tmp_path,), run=tmp_path / "no run")


# Exporting


def test_the_exported_state_dict_is_the_network(
    case: Case, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.pth"
    words = ["export", case.method, "--run", run, "--to", "state-dict", "--out", out, "--json"]
    assert main([*map(str, words)]) == 0
    assert json.loads(capsys.readouterr().out) == {"written": str(out)}
    state = torch.load(out, weights_only=True)
    trained = load_file(run / "model.safetensors")
    assert state.keys() == trained.keys()
    assert all(torch.equal(state[key], trained[key]) for key in state)


# Training


def test_unreadable_files_stop_training_before_it_begins(
    case: Case, tmp_path: Path, train_by_command: Trainer, capsys: pytest.CaptureFixture[str]
) -> None:
    root = case.write(tmp_path / "data", 4)
    place = broken(root, root / case.classes[0])
    with pytest.raises(AssertionError):
        train_by_command(case.method, tmp_path / "run", data=root)
    assert f"{case.classes[0]}/{place.name}" in capsys.readouterr().err
    assert not (tmp_path / "run" / "model.safetensors").exists()
    run = train_by_command(case.method, tmp_path / "skipping", "--skip-bad", data=root)
    assert (run / "model.safetensors").is_file()


def test_data_is_found_again_from_another_folder(
    case: Case, tmp_path: Path, train_by_command: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was started with a relative path goes on in, and is evaluated from, anywhere."""
    root = case.write(tmp_path / "work" / "mine", 5, case.classes[:2])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    run = train_by_command(case.method, tmp_path / "run", data="mine")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["train", "--resume", str(run)]) == 0
    assert case.verb("evaluate")(run=run, data=str(root))[case.counted] == 2


def test_a_run_goes_on_with_the_same_data_only(
    case: Case, tmp_path: Path, train_by_command: Trainer, capsys: pytest.CaptureFixture[str]
) -> None:
    root = case.write(tmp_path / "data", 5)
    run = train_by_command(case.method, tmp_path / "run", data=root)

    def resume(*words: str) -> tuple[int, str]:
        code = main(["train", "--resume", str(run), *words])
        return code, capsys.readouterr().err

    first, *others = case.classes
    last = root / others[-1]
    last.rename(root / "zebra")
    code, said = resume()
    assert code == 1
    names = ", ".join(others[:-1])
    assert f"classes: {first}, {names}, {last.name} then, {first}, {names}, zebra now" in said
    (root / "zebra").rename(last)
    case.write(tmp_path / "more", 5, case.classes[:1])
    (tmp_path / "more" / first).rename(root / "another")
    code, said = resume()
    assert code == 1
    assert f"classes: {', '.join(case.classes)} then, another, " in said
    (root / "another").rename(tmp_path / "out of the way")
    file = sorted(last.iterdir())[0]
    file.rename(tmp_path / file.name)
    code, said = resume()
    assert code == 1
    assert f"{last.name} 4 then, {last.name} 3 now" in said
    file.write_bytes((tmp_path / file.name).read_bytes() + b"\0" * 40)
    code, said = resume()
    assert code == 1
    (tmp_path / file.name).replace(file)
    assert resume()[0] == 0

    root.rename(tmp_path / "moved")
    code, said = resume()
    assert code == 1
    assert f"modicum train --resume {run} --data PATH" in said
    assert resume("--data", str(tmp_path / "more"))[0] == 1
    assert resume("--data", str(tmp_path / "moved"))[0] == 0
    assert resume()[0] == 0  # where it lies is remembered
    code, said = resume("--epochs", "9")
    assert code == 2
    assert "remove --epochs 9" in said
    assert "a new run" in said


@pytest.mark.parametrize(
    ("option", "value"),
    [("epochs", 0), ("batch_size", 0), ("learning_rate", 0.0), ("weight_decay", -1.0), ("size", 7)],
)
def test_options_out_of_range(case: Case, option: str, value: float) -> None:
    config = load_method(case.method).recipe().config
    with pytest.raises(ConfigError, match=f"--{option.replace('_', '-')} {value}: must be"):
        replace(config(), **{option: value})
