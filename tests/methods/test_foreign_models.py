"""Files of weights in which somebody changed what they say of themselves."""

from __future__ import annotations

import json
import math
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from colour_folders import write_photographs
from event_folders import write_folder
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from modicum.errors import CheckpointError, ConfigError, DataError
from modicum.events.pipeline import FramePipeline
from modicum.method import load_method
from modicum.methods.apbs import networks as apbs
from modicum.methods.apbs.still_images import ImagePipeline
from modicum.methods.event_augmentation.est import EstClassifier
from modicum.methods.event_augmentation.resnet import ResNet34
from modicum.methods.event_augmentation.voxels import VoxelPipeline
from modicum.spiking import small
from modicum.weights.saved import save_model

SENSOR = (34, 34, "jaer")
FRAMES = FramePipeline(*SENSOR, 2, "number", "max", None, "bilinear")
VALUES: list[Any] = [
    *(None, True, [], {}, "", "x", ["x"], {"x": 1}, [[[]]], 0, -1, 1.5, math.nan, math.inf),
    *(3, 5000, 10**6, 10**9, 2**63, 10**30, 10**400),
]
LARGE: list[Any] = [None, [], {}, "x", 10**9]
"""Values for files that take long to write."""


class Case(NamedTuple):
    """A network, what its file says of it, and what it is used on."""

    method: str
    make: Callable[[], nn.Module]
    kind: Mapping[str, Any]
    pipeline: Any
    write: Callable[..., Path] = write_folder


CASES = {
    "frames": Case("apbs", lambda: apbs.small(num_classes=3), {}, FRAMES),
    "images": Case(
        "apbs", lambda: apbs.light(num_classes=3, in_channels=3, size=16, time_steps=2), {},
        ImagePipeline(16, 3), write_photographs,
    ),
    "spiking": Case(
        "event-augmentation", lambda: small(num_classes=3), {"kind": "spiking"}, FRAMES
    ),
    "est": Case(
        "event-augmentation", lambda: EstClassifier(3, 2, size=32), {"kind": "est"},
        VoxelPipeline(*SENSOR, "est", 2, 32),
    ),
    "resnet34": Case(
        "event-augmentation", lambda: ResNet34(2, 3), {"kind": "resnet34"},
        VoxelPipeline(*SENSOR, "count", 2, 32),
    ),
}  # fmt: skip


def changes(values: Any, others: list[Any]) -> Iterator[Any]:
    """JSON with one of its values left out or replaced by others, at any depth."""
    named = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in list(named):
        yield {k: v for k, v in named if k != key} if isinstance(values, dict) else values[1:]
        inner = changes(value, others) if isinstance(value, (dict, list)) else ()
        for other in (*others, *inner):
            changed = values.copy()
            changed[key] = other
            yield changed


@pytest.mark.parametrize(
    "name",
    ["frames", *(pytest.param(n, marks=pytest.mark.slow)
                 for n in ("images", "spiking", "est", "resnet34"))],
)  # fmt: skip
def test_a_changed_file_is_refused_or_works(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    network: Any = case.make()
    data, path = case.write(tmp_path / "data", 2), tmp_path / "a.safetensors"
    source = f"images={data}" if name == "images" else str(data)
    classes = sorted(folder.name for folder in data.iterdir())
    notes = {"classes": classes, "pipeline": case.pipeline.to_notes(), "data": source,
             "layout": "class folders", "holdout": 0.1, "division": None,
             "sensor": [34, 34]}  # fmt: skip
    arguments = case.kind | network.arguments
    save_model(path, network, method=case.method, arguments=arguments, notes=notes)
    with safe_open(path, "pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        whole = file.metadata()
    predict = load_method(case.method).verb("predict")
    evaluate = load_method(case.method).verb("evaluate")
    files = (next(file for file in sorted(data.rglob("*")) if file.is_file()),)

    def use(part: str) -> None:
        predict(files, path, device="cpu", batch_size=1)
        if part == "modicum.notes":
            evaluate(path, data=source, device="cpu", workers=0, **more)

    more = {"brightness": False} if case.method == "event-augmentation" else {}
    use("modicum.notes")
    values = VALUES if path.stat().st_size < 2**24 else LARGE
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    used = refused = 0
    for part in ("modicum.arguments", "modicum.notes"):
        for changed in changes(json.loads(whole[part]), values):
            save_file(state, path, whole | {part: json.dumps(changed)})
            begin = time.process_time()
            try:
                use(part)
                used += 1
            except CheckpointError:
                refused += 1
            except (DataError, ConfigError):  # true of the data, as these notes have it
                notes_of_data = ("classes", "data", "holdout", "sensor", "pipeline")
                assert part == "modicum.notes"
                assert any(changed.get(key) != notes[key] for key in notes_of_data)
            assert time.process_time() - begin < 5, changed
    assert refused > 4 * used > 0
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 2**20  # KiB
    assert torch.get_default_device().type == "cpu"
