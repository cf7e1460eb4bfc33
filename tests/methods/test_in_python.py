"""A trained network in Python: paths as they come, samples in memory, classes and pipelines."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import modicum
from modicum import events
from modicum.catalogue import CATALOGUE, room
from modicum.errors import DataError
from modicum.methods import reliant, vgnet

CLASSIFIERS = ("vgnet", "apbs", "event-augmentation")
of_classifiers = pytest.mark.parametrize("method", CLASSIFIERS)
RunOf = Callable[[str], Path]


class Elsewhere:
    """A path that is neither text nor a `Path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


@pytest.fixture
def samples(method: str, photographs: Path, recordings: Path) -> list[Path]:
    folder = photographs if method == "vgnet" else recordings
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".txt")[::8]


@of_classifiers
def test_classes_and_pipeline_come_with_the_network(
    method: str, run_of: RunOf, samples: list[Path]
) -> None:
    trained = modicum.open(str(run_of(method)))
    folders = {path.parent.name for path in samples[0].parents[1].glob("*/*")}
    assert trained.classes == tuple(sorted(folders))
    assert trained.model.network is trained.network
    inputs = trained.pipeline.batch([trained.pipeline.read(str(path)) for path in samples])
    with torch.no_grad():
        scores = trained.network(inputs)
    expected = (scores.mean(1) if scores.ndim == 3 else scores).softmax(1)
    torch.testing.assert_close(trained.probabilities(samples), expected, rtol=1e-5, atol=1e-6)


@of_classifiers
def test_one_or_several_as_text_or_paths(
    method: str, run_of: RunOf, samples: list[Path], tmp_path: Path
) -> None:
    run = run_of(method)
    for whole in (run, str(run), Elsewhere(run), run / "model.safetensors"):
        trained = modicum.open(whole)
        assert trained.probabilities(samples[0]).shape == (1, len(trained.classes))
    expected = trained.probabilities(samples)
    for several in (tuple(samples), map(str, samples), [Elsewhere(path) for path in samples]):
        torch.testing.assert_close(trained.probabilities(several), expected)
    assert trained.probabilities([]).shape == (0, len(trained.classes))
    room_of = import_module(f"modicum.methods.{room(method)}")
    records = room_of.predict(samples[:1], run, top=1, device="cpu")["predictions"]
    for one in (samples[0], str(samples[0]), Elsewhere(samples[0]), iter(samples[:1])):
        assert trained.predict(one, top=1, device="cpu")["predictions"] == records
    assert room_of.predict(
        str(samples[0]), run=str(run), top=1, device="cpu", out=str(tmp_path / "a.csv")
    )
    assert (tmp_path / "a.csv").read_text().startswith("file,class_1")


def in_memory(path: Path) -> Iterator[Any]:
    """The sample of a file, in every form in which one has it."""
    if path.suffix in (".bin", ".npz", ".dat"):
        yield events.read(path)
        return
    with Image.open(path) as image:
        image.load()
        yield image
        pixels = np.array(image.convert("RGB"))
    yield pixels
    yield torch.from_numpy(pixels).permute(2, 0, 1)
    yield np.dstack([pixels, pixels[:, :, :1]])  # what lies below a transparent pixel counts


@of_classifiers
def test_samples_in_memory_are_those_of_files(
    method: str, run_of: RunOf, samples: list[Path]
) -> None:
    trained = modicum.open(run_of(method))
    path = samples[1]
    expected = trained.probabilities(path)
    (row,) = trained.predict(path, top=1, device="cpu")["predictions"]
    for sample in in_memory(path):
        torch.testing.assert_close(trained.probabilities(sample), expected)
        rows = trained.predict([path, sample], top=1, device="cpu")["predictions"]
        assert [found["file"] for found in rows] == [str(path), "sample 2"]
        assert {found["class_1"] for found in rows} == {row["class_1"]}


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8, 3)), np.zeros((2, 8, 8, 3), np.uint8), np.zeros((8, 8, 2), np.uint8), 3.5],
    ids=["fractions", "batch", "channels", "number"],
)
def test_what_is_no_image_is_refused(image: Any, run_of: RunOf) -> None:
    with pytest.raises(DataError, match="expected a Pillow image, or bytes"):
        modicum.open(run_of("vgnet")).probabilities([image])


def test_a_sample_that_cannot_be_used_does_not_stop_the_others(
    run_of: RunOf, photographs: Path
) -> None:
    good = next(photographs.glob("red/*"))
    found = modicum.open(run_of("vgnet")).predict([np.zeros((8, 8, 3)), good])
    assert found["unreadable"] == 1
    assert found["predictions"][1]["class_1"] == "red"


def test_events_of_a_larger_sensor_are_refused(run_of: RunOf) -> None:
    large = events.Events.of([0], [200], [200], [1], height=201, width=201)
    with pytest.raises(DataError, match="201 x 201"):
        modicum.open(run_of("apbs")).probabilities(large)


def test_options_take_paths_and_one_for_several() -> None:
    config = vgnet.Config(data=Path("photos"), init="a.pth")  # type: ignore[arg-type]
    assert (config.data, config.init) == ("photos", Path("a.pth"))
    assert reliant.Table(edges="b.csv").edges == Path("b.csv")  # type: ignore[arg-type]


# What is exported


def functions_of(package: str) -> Iterator[tuple[str, Any]]:
    """The functions, constructors and class methods that a package exports."""
    module = import_module(package)
    for name in module.__all__:
        exported = getattr(module, name)
        if inspect.isfunction(exported):
            yield name, exported
        elif inspect.isclass(exported):
            for key, member in vars(exported).items():
                if isinstance(member, classmethod) and key[0] != "_":
                    yield f"{name}.{key}", member.__func__


@pytest.mark.parametrize("name", [*CATALOGUE, "images", "events", "report"])
def test_what_takes_a_path_takes_text(name: str) -> None:
    package = f"modicum.{'methods.' * (name in CATALOGUE)}{room(name)}"
    seen = 0
    for where, function in functions_of(package):
        if where.split(".")[-1] == "decode":  # of one set, of its own files
            continue
        for parameter, hint in inspect.get_annotations(function).items():
            if parameter != "return" and re.search(r"\bPath(Like)?\b", str(hint)):
                seen += 1
                takes_text = re.search(r"\bstr\b", str(hint)) or hasattr(function, "__wrapped__")
                assert takes_text, f"{where}: {parameter}"
    assert seen
