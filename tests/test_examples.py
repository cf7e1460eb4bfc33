"""The Python of the documentation runs as it stands there."""

from __future__ import annotations

import ast
import csv
import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

import modicum
from modicum import events
from modicum.catalogue import CATALOGUE, room
from modicum.methods.event_augmentation.voxels import VoxelPipeline

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "methods"))
from colour_folders import write_photographs  # noqa: E402
from event_folders import SENSOR, recording, write_folder  # noqa: E402

ORIENTATION = 0x0112


def run_page(name: str) -> dict[str, Any]:
    """Run the Python of a page, piece by piece, in one module; what is left there."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    module = ModuleType("example")
    for found in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        tree = ast.parse(found[1])
        ast.increment_lineno(tree, text[: found.start(1)].count("\n"))
        exec(compile(tree, name, "exec"), module.__dict__)
    return module.__dict__


def write_people(path: Path, rows: int, *, known: bool) -> None:
    random = np.random.default_rng(rows)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["age", "income", "city", *(["group", "repaid"] if known else [])])
        for _ in range(rows):
            income = random.normal(30, 5)
            row = [random.integers(20, 70), round(income, 2), random.choice(["a", "b"])]
            repaid = ["no", "yes"][int(income + random.normal(0, 3) > 30)]
            table.writerow(row + ([random.choice(["x", "y"]), repaid] if known else []))


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the notebook's page left, run in a folder with a person's data, which is `folder`."""
    pytest.importorskip("mido", reason="grooves need the extra 'music'")
    from modicum.methods.drum_transfer import made_up_grooves, write_midi

    folder = tmp_path_factory.mktemp("notebook")
    write_photographs(folder / "photos", 10)
    write_folder(folder / "recordings", 10)
    write_people(folder / "people.csv", 120, known=True)
    write_people(folder / "applicants.csv", 5, known=False)
    write_midi(made_up_grooves([1])[0], folder / "groove.mid")
    with pytest.MonkeyPatch.context() as patch, mpl.rc_context({"backend": "agg"}):
        patch.chdir(folder)
        patch.setenv("MODICUM_CACHE", str(folder / "cache"))
        yield run_page("notebook.md") | {"folder": folder}
        plt.close("all")


def test_the_notebook_does_what_it_says(notebook: dict[str, Any]) -> None:
    folder = notebook["folder"]
    assert modicum.open(folder / "runs/photos").classes == ("blue", "green", "red")
    assert notebook["best"]
    assert set(notebook["best"]) <= {"blue", "green", "red"}
    assert {"loss", "top1"} <= {name for line in notebook["lines"] for name in line}
    assert all(len(axis.lines[0].get_xdata()) for axis in notebook["figure"].axes)
    assert (folder / "runs/photos/report.html").stat().st_size > 1000
    assert notebook["frames"].shape == (4, 2, *SENSOR)
    assert notebook["counted"].energy_per_sample > 0
    assert {path.suffix for path in (folder / "continued").glob("groove_1.*")} == {
        ".mid",
        ".txt",
        ".wav",
    }
    assert notebook["text"]


@pytest.mark.parametrize("package", ["", *(f".methods.{room(name)}" for name in CATALOGUE)])
def test_the_example_of_a_package_runs(notebook: dict[str, Any], package: str) -> None:
    text = inspect.getdoc(import_module(f"modicum{package}")) or ""
    code = [line[4:] for line in text.splitlines() if line.startswith("    ")]
    assert 3 <= len(code) <= 6
    exec("\n".join(code), {"modicum": modicum})


SIZES = ((300, 207), (21, 19), (30, 400))
"""Height and width of photographs: turned upright, enlarged, and of a panorama the middle."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("number", range(len(SIZES)))
def test_what_is_exported_is_used_without_modicum(
    notebook: dict[str, Any], number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    height, width = SIZES[number]
    noise = np.random.default_rng(number).integers(
        0, 256, (height // 3 + 1, width // 3 + 1, 3), np.uint8
    )
    exif = Image.Exif()
    exif[ORIENTATION] = 6 if number == 0 else 1
    Image.fromarray(noise).resize((width, height)).save("photo.jpg", exif=exif)
    events.write("recording.npz", recording(number, 99, count=(300, 3, 1)[number]))
    photos, spiking = modicum.open("runs/photos"), modicum.open("runs/events")
    photos.export()
    spiking.export()
    left = run_page("onnx.md")

    expected = photos.probabilities("photo.jpg").numpy()
    np.testing.assert_allclose(left["probabilities"], expected, rtol=0, atol=1e-4)
    assert photos.classes[int(expected.argmax())] in capsys.readouterr().out
    columns = [left[name] for name in "txyp"]
    for split_by in ("number", "time", "equal"):
        for normalise in ("max", "clip1", "none"):
            pipeline = dataclasses.replace(spiking.pipeline, split_by=split_by, normalise=normalise)
            frames = pipeline.batch([pipeline.read("recording.npz")])
            how = json.loads(json.dumps(pipeline.described()))
            made = left["make_frames"](*columns, how)
            np.testing.assert_allclose(made, frames.numpy(), rtol=1e-6)
    apart: list[float] = []
    for label in range(5):
        one = recording(label % 3, 50 + label)
        frames = spiking.pipeline.batch([one])
        (scores,) = left["session"].run(None, {"input": frames.numpy()})
        with torch.no_grad():
            expected = spiking.network(frames).mean(1).numpy()
        apart.append(float(np.abs(scores - expected).max()))
    assert np.median(apart) < 1e-4  # in some a spike may flip by rounding
    assert left["scores"].shape == (1, 3)


def test_every_name_of_the_metadata_is_explained(notebook: dict[str, Any]) -> None:
    table = (ROOT / "docs/onnx.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    explained = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    voxels = VoxelPipeline(20, 24, "jaer", "count", 9, 32).described().keys()
    classifiers = [modicum.open(run).model for run in ("runs/photos", "runs/events", "runs/spikes")]
    assert voxels | set().union(*(c.described() for c in classifiers)) <= explained
