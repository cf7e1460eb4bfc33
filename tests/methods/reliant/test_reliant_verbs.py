"""The command line of RELIANT on a table of people and on built-in data."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import modicum
from modicum.cli import main
from modicum.engine.run import Run
from modicum.methods import reliant
from modicum.methods.reliant.networks.distilled import Distilled
from modicum.options import replace

QUICK = ["--teacher.epochs", "60", "--epochs", "60", "--rounds", "3", "--hidden", "8"]


def run(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> Any:
    assert main([*map(str, words), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def write(path: Path, header: list[str], rows: list[list[Any]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with people, whom they know, and new people."""
    folder = tmp_path_factory.mktemp("people")
    random = np.random.default_rng(0)
    race = random.integers(0, 2, 240)
    income = random.normal(size=240) + race
    granted = (income + 0.3 * random.normal(size=240) > 0.5).astype(int)
    town = random.choice(["North", "South"], 240)
    rows = [
        [f"p{n}", round(income[n], 3), town[n], "ab"[race[n]], ["no", "yes"][granted[n]]]
        for n in range(240)
    ]
    write(folder / "people.csv", ["id", "income", "town", "race", "approve"], rows)
    pairs = [[f"p{a}", f"p{b}"] for a, b in random.integers(0, 240, (500, 2))]
    write(folder / "edges.csv", ["a", "b"], pairs)
    new = [[f"n{n}", round(float(random.normal()), 3), "North"] for n in range(5)]
    write(folder / "new.csv", ["id", "income", "town"], new)
    write(folder / "new_edges.csv", ["a", "b"], [["n0", "p3"], ["n1", "n2"], ["n3", "p7"]])
    return folder


@pytest.fixture(scope="module")
def trained(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    words = [
        "train", "reliant", "distil", "--nodes", people / "people.csv", "--label", "approve",
        "--sensitive", "race", "--edges", people / "edges.csv", "--id-column", "id",
        "--positive-label", "yes", *QUICK, "--out", out,
    ]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    return out


def test_evaluate(trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = run(capsys, "evaluate", "reliant", "--run", trained, "--out", tmp_path)
    rows = {row["network"]: row for row in found["networks"]}
    assert set(rows) == {"teacher", "plain student", "RELIANT student"}
    for row in rows.values():
        assert 0 <= row["accuracy"] <= 1
        assert row["parameters"] > 0
        assert row["ms"] > 0
    assert len(found["gaps"]) == 6
    for row in found["gaps"]:
        assert row["low"] <= row["signed"] <= row["high"]
        assert row["absolute"] == abs(row["signed"])
    assert {row["group"] for row in found["groups"]} == {"a", "b"}
    details = json.loads(Path(found["details"]).read_text())
    assert details["reliant"]["accuracy_interval"][0] < details["reliant"]["accuracy"]
    for name, network in (("plain", "plain student"), ("reliant", "RELIANT student")):
        assert rows[network]["accuracy"] == pytest.approx(details[name]["accuracy"], abs=1e-3)
    assert set(found["agreement_with_teacher"]) == {"plain student", "RELIANT student"}
    assert found["absolute_gap_of_reliant_less_plain"]["sp"] <= 1
    for path in found["pictures"]:
        assert Path(path).read_bytes().startswith(b"\x89PNG")
    assert main(["evaluate", "reliant", "--run", str(trained), "--out", str(tmp_path)]) == 0
    assert "RELIANT student" in capsys.readouterr().out


def test_predict_everyone_and_new_people_without_their_group(
    trained: Path, people: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    table = tmp_path / "scores.csv"
    found = run(capsys, "predict", "reliant", "--run", trained, "--out", table)
    assert found["people"] == 240
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [f"p{n}" for n in range(240)]
    assert {row["decision"] for row in rows} <= {"no", "yes"}

    new = ["--nodes", people / "new.csv", "--edges", people / "new_edges.csv"]
    found = run(capsys, "predict", "reliant", "--run", trained, *new)
    assert [row["id"] for row in found["predictions"]] == [f"n{n}" for n in range(5)]
    for row in found["predictions"]:
        assert row["p_no"] + row["p_yes"] == pytest.approx(1, abs=1e-5)
    for role in ("plain", "teacher"):
        run(capsys, "predict", "reliant", "--run", trained, *new, "--network", role)


def test_predict_refuses(
    trained: Path, people: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bad = write(tmp_path / "bad.csv", ["id", "income"], [["n0", 1]])
    predict = ["predict", "reliant", "--run", trained]
    error = run(capsys, *predict, "--nodes", bad, "--edges", people / "new_edges.csv", code=1)
    assert "town" in error["message"]
    error = run(capsys, *predict, "--edges", people / "new_edges.csv", code=2)
    assert "--nodes" in error["message"]
    again = people / "people.csv"
    error = run(capsys, *predict, "--nodes", again, "--edges", people / "edges.csv", code=1)
    assert "already" in error["message"]


def test_a_table_that_changed_is_noticed(
    people: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(people, folder)
    out = tmp_path / "run"
    words = [
        "train", "reliant", "distil", "--nodes", folder / "people.csv", "--label", "approve",
        "--sensitive", "race", "--similarity", "0.9", "--drop", "id", "--objective", "none",
        "--teacher.epochs", "2", "--epochs", "2", "--out", out,
    ]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    capsys.readouterr()
    lines = (folder / "people.csv").read_text().splitlines()
    (folder / "people.csv").write_text("\n".join(lines[:-1]) + "\n")
    error = run(capsys, "evaluate", "reliant", "--run", out, code=1)
    assert "239 nodes" in error["message"]


def test_export_the_student_alone(
    trained: Path, people: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "student.safetensors"
    run(capsys, "export", "reliant", "--run", trained, "--out", file)
    alone, whole = modicum.load(file), modicum.load(trained)
    assert isinstance(alone, Distilled)
    assert isinstance(whole, Distilled)
    assert list(alone.networks) == ["reliant"]
    assert torch.equal(alone.mean_proxy, whole.mean_proxy)
    found = run(capsys, "predict", "reliant", "--run", file)
    assert found == run(capsys, "predict", "reliant", "--run", trained)
    error = run(capsys, "export", "reliant", "--run", trained, "--to", "onnx", code=2)
    assert "plp" in error["message"]
    run(
        capsys, "export", "reliant", "--run", trained, "--to", "state-dict", "--out", tmp_path / "a"
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "options",
    [["--student", "decoupled"], ["--framework", "akd", "--teacher.hidden", "8"]],
)
def test_export_onnx(
    options: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "run"
    quick = ["--teacher.epochs", "3", "--epochs", "3", "--hidden", "8"]
    assert main(["train", "reliant", "distil", *quick, *options, "--out", str(out)]) == 0
    capsys.readouterr()
    found = run(capsys, "export", "reliant", "--run", out, "--to", "onnx")
    assert found["largest_relative_difference"] < 1e-4
    assert (out / "student.onnx").is_file()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_the_onnx_file_says_is_enough_to_feed_it(people: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    table = {"label": "approve", "sensitive": "race", "id_column": "id"}
    config = replace(
        reliant.Config(
            people=reliant.People(
                nodes=people / "people.csv",
                table=reliant.Table(**table, edges=people / "edges.csv"),
            )
        ),
        student="decoupled", epochs=3, hidden=8, teacher=reliant.Teacher(epochs=3),
    )  # fmt: skip
    out = tmp_path / "run"
    with Run(out, method="reliant", recipe="distil", config=config, quiet=True) as training:
        reliant.train(config, training)
    trained = modicum.open(out)
    trained.export(to="onnx")

    session = onnxruntime.InferenceSession(out / "student.onnx")
    described = session.get_modelmeta().custom_metadata_map
    how = {name: json.loads(text) for name, text in described.items()}
    assert (how["method"], how["classes"]) == ("reliant", ["no", "yes"])
    with (people / "people.csv").open() as file:
        rows = list(csv.DictReader(file))
    made: dict[str, list[float]] = {}
    for column in how["encoding"]["columns"]:
        texts = [row[column["name"]] for row in rows]
        for value in column["values"]:
            made[f"{column['name']}={value}"] = [float(text == value) for text in texts]
        if not column["values"]:
            scaled = (np.array(texts, float) - column["mean"]) / column["deviation"]
            made[column["name"]] = scaled.tolist()
    features = np.array([made[name] for name in how["columns"]], np.float32).T
    with (people / "edges.csv").open() as file:
        pairs = np.array([[int(end[1:]) for end in row] for row in list(csv.reader(file))[1:]])
    both = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
    edges = both[both[:, 0] != both[:, 1]].T.copy()
    (logits,) = session.run(None, {"features": features, "edges": edges})
    expected = trained.probabilities(trained.model.open_graph())["reliant"]
    found = torch.from_numpy(logits).softmax(1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_pareto(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODICUM_CACHE", str(tmp_path / "cache"))
    words = ["pareto", "reliant", "--alphas", "0", "1000", "--seeds", "1", "--out", tmp_path / "p"]
    found = run(capsys, *words, "--epochs", "5", "--teacher-epochs", "5")
    assert [row["alpha"] for row in found["weights"]] == [0, 1000]
    assert any(row["on_front"] for row in found["weights"])
    assert Path(found["picture"]).read_bytes().startswith(b"\x89PNG")
    assert len(Path(found["table"]).read_text().splitlines()) == 3


def test_pareto_of_a_run(
    trained: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MODICUM_CACHE", str(tmp_path / "cache"))
    words = ["pareto", "reliant", "--run", trained, "--seeds", "1", "--out", tmp_path / "p"]
    quick = ["--epochs", "5", "--teacher-epochs", "5", "--alphas", "10"]
    found = run(capsys, *words, *quick)
    assert found["graph"] == "people.csv"
    assert [row["alpha"] for row in found["weights"]] == [10]
    assert main([*map(str, words), "--objective", "eo"]) != 0
    assert "--run" in capsys.readouterr().err


def test_a_teacher_from_a_file_has_a_row(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = np.random.default_rng(0).dirichlet([1, 1], 3000)
    np.savetxt(tmp_path / "output.txt", rows, fmt="%.4f", delimiter="\t")
    words = ["train", "reliant", "distil", "--soft-targets", tmp_path, *QUICK[2:], "--epochs", "3"]
    assert main([*map(str, words), "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    found = run(capsys, "evaluate", "reliant", "--run", tmp_path / "run", "--bootstrap", "10")
    teacher, student = found["networks"][:2]
    assert (teacher["network"], "ms" in teacher, "ms" in student) == ("teacher", False, True)
    assert "not what the networks were trained on" not in caplog.text


def test_data_that_changed_is_told(
    people: Path, trained: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    table = people / "people.csv"
    before = table.read_text()
    header, first, *rest = before.splitlines()
    name, _, *others = first.split(",")
    table.write_text("\n".join([header, ",".join([name, "9.9", *others]), *rest]) + "\n")
    try:
        assert main(["evaluate", "reliant", "--run", str(trained), "--bootstrap", "10",
                     "--out", str(tmp_path)]) == 0  # fmt: skip
    finally:
        table.write_text(before)
    assert "not what the networks were trained on" in caplog.text


def test_data(people: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = run(capsys, "data", "reliant", "blocks", "--picture", tmp_path / "a.png")
    assert found["nodes"] == 3000
    words = ["--label", "approve", "--sensitive", "race", "--edges", people / "edges.csv"]
    found = run(capsys, "data", "reliant", people / "people.csv", *words, "--id-column", "id")
    assert found["nodes"] == 240
    assert found["usable"]
