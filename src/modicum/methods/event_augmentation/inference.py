"""Using a trained classifier of recordings: measure it under other light, classify, export."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
import tyro
from torch import Tensor, nn

from modicum import events
from modicum.classification import Classifier, class_mapping, evaluation, likeliest, on_device
from modicum.engine.devices import Device
from modicum.engine.random import generator
from modicum.events.pipeline import FramePipeline
from modicum.events.reading import SUFFIXES
from modicum.inference import conditions, input_files, latency, predict_files, predictions
from modicum.method import load_saved
from modicum.methods.event_augmentation.brightness import accuracy, variations
from modicum.methods.event_augmentation.est import EstClassifier, EstOfColumns
from modicum.methods.event_augmentation.train import Pipeline, logits_of
from modicum.methods.event_augmentation.voxels import VoxelPipeline
from modicum.options import check_arguments
from modicum.spiking.networks import SpikingNetwork
from modicum.spiking.onnx_export import write_spiking_onnx
from modicum.system.progress import Progress
from modicum.weights.onnx import write_onnx, write_state_dict
from modicum.weights.saved import SavedModel

Trained: TypeAlias = Classifier[nn.Module, Pipeline]


def load_classifier(
    run: str | os.PathLike[str] | SavedModel, weights: str = "last", device: Device = "cpu"
) -> Trained:
    """A classifier from a run folder or a `.safetensors` file. See `load_saved`."""
    saved = load_saved(run, weights, method="event-augmentation")

    def pipeline_of(notes: Mapping[str, Any]) -> Pipeline:
        pipeline = (FramePipeline if "steps" in notes else VoxelPipeline).from_notes(notes)
        check_fit(saved.module, pipeline)
        return pipeline

    return Trained.of(saved, pipeline_of, device, logits_of)


def check_fit(network: nn.Module, pipeline: Pipeline) -> None:
    """Raise a `ValueError` unless a pipeline makes what a network takes."""
    size = list(pipeline.input_size)
    if isinstance(network, SpikingNetwork):
        taken = [network.arguments[name] for name in ("size", "in_channels", "time_steps")]
        fits = isinstance(pipeline, FramePipeline) and taken == [size, 2, None]
    elif isinstance(network, EstClassifier):
        taken = [network.arguments["bins"], 2 * [network.arguments["size"]], "est"]
        fits = isinstance(pipeline, VoxelPipeline) and taken == [pipeline.bins, size, pipeline.kind]
    else:
        taken = getattr(network, "arguments", {}).get("in_channels")
        fits = (
            isinstance(pipeline, VoxelPipeline)
            and pipeline.kind != "est"
            and taken == pipeline.channels
        )
    if not fits:
        raise ValueError("its pipeline does not make what its network takes")


@check_arguments
@torch.no_grad()
def evaluate(
    run: Path,
    data: str | None = None,
    split: events.Split = "val",
    weights: Literal["last", "best"] = "last",
    batch_size: int = 64,
    workers: int | None = None,
    device: Device = "auto",
    skip_bad: bool = False,
    brightness: bool = True,
) -> dict[str, Any]:
    """Measure a trained classifier on labelled recordings, as they are and under other light.

    Args:
        run: Run folder, or a .safetensors file of one.
        data: What `modicum train event-augmentation --data` takes; none: what it was trained on.
        split: Part of the data. A folder without parts is taken whole, or, if it is what the
            network was trained on, the part that was held out of training.
        weights: The network after the last step, or the one that scored best.
        batch_size: Recordings at a time.
        workers: Processes that read files.
        device: Where to compute.
        skip_bad: Leave out unreadable files instead of stopping.
        brightness: Measure the shifted test sets as well.

    Returns:
        Accuracies in percent, overall and of each class, with what its recordings were taken for;
        parameters; latency of the network for one recording, which includes the representation
        where it is learned.
    """
    classifier = load_classifier(run, weights, device)
    pipeline = classifier.pipeline
    source = data or classifier.notes["data"]
    event_set = events.open_unseen(classifier.notes, source, split, skip_bad=skip_bad)
    mapping = class_mapping(event_set.classes, classifier.classes, source)
    loader = events.Loader(event_set, batch_size, representation=pipeline, workers=workers)
    result: dict[str, Any] = {"data": event_set.layout, "recordings": len(event_set)}
    result |= evaluation(
        logits_of(classifier.network),
        loader,
        classifier.classes,
        device=classifier.device,
        mapping=mapping,
    )
    if brightness:
        shifted = result["top1_under_other_light"] = dict[str, float]()
        others = variations(source, event_set, split)
        with Progress("other light", len(others)) as progress:
            for done, (name, variation) in enumerate(others.items(), start=1):
                shifted[name] = accuracy(
                    classifier.network, variation, pipeline, mapping=mapping, workers=workers
                )
                progress.advance(done, name)
    recording = example_recording(pipeline)
    inputs = on_device(pipeline(recording), classifier.device)
    return result | {
        "parameters": sum(p.numel() for p in classifier.network.parameters()),
        "latency_ms": {
            **latency(classifier.network, inputs),
            "of": f"1 recording of {len(recording):,} events, {conditions(classifier.device)}",
        },
    }


def example_recording(pipeline: Pipeline, count: int = 5000) -> events.EventBatch:
    """A made-up recording of a pipeline's sensor: events anywhere, over 300 ms."""
    random = generator("example")
    columns = (
        torch.randint(high, (count,), generator=random).numpy()
        for high in (300_000, pipeline.width, pipeline.height, 2)
    )
    size = {"height": pipeline.height, "width": pipeline.width}
    return events.EventBatch.of([events.Events.of(*columns, **size).sort()])


@check_arguments
@torch.no_grad()
def predict(
    inputs: tyro.conf.Positional[tuple[Path, ...]],
    run: Path,
    out: Path | None = None,
    top: int = 5,
    weights: Literal["last", "best"] = "last",
    batch_size: int = 64,
    device: Device = "auto",
) -> dict[str, Any]:
    """Classify recordings, and all recordings in folders.

    A file that cannot be read is reported in its row and does not stop the others.

    Args:
        inputs: Recordings and folders.
        run: Run folder, or a .safetensors file of one.
        out: CSV file to write: file, classes and probabilities, likeliest first, error.
        top: Classes a file.
        weights: The network after the last step, or the one that scored best.
        batch_size: Files at a time.
        device: Where to compute.

    Returns:
        The predictions, or with `out` the first ten of them, and the files written.
    """
    classifier = load_classifier(run, weights, device)

    def classify(recordings: list[events.Events]) -> Iterator[dict[str, Any]]:
        inputs = on_device(classifier.pipeline.batch(recordings), classifier.device)
        return likeliest(classifier.logits(inputs), classifier.classes, max(1, top))

    files = input_files(inputs, set(SUFFIXES), "recording", in_memory=True)
    return predictions(predict_files(files, classifier.pipeline.read, classify, batch_size), out)


@check_arguments
def export(
    run: Path,
    to: Literal["onnx", "state-dict"] = "onnx",
    out: Path | None = None,
    weights: Literal["last", "best"] = "last",
) -> dict[str, Any]:
    """Write a trained network for use without modicum.

    Args:
        run: Run folder, or a .safetensors file of one.
        to: onnx: an ONNX file, compared with PyTorch before it is kept, that takes frames, or
            voxels, or, where the event spike tensor is learned, the columns t, x, y, p of one
            recording; its metadata hold classes and how the input is made. state-dict: for
            torch.load.
        out: File to write; none: model.onnx or model.pth in the run folder.
        weights: The network after the last step, or the one that scored best.
    """
    classifier = load_classifier(run, weights)
    network, pipeline = classifier.network, classifier.pipeline
    folder = run if run.is_dir() else run.parent
    if to == "state-dict":
        return write_state_dict(network, out or folder / "model.pth")
    out = out or folder / "model.onnx"
    described = classifier.described()
    if isinstance(network, EstClassifier):
        network = EstOfColumns(network, pipeline.height, pipeline.width).eval()
        trials = [_columns(example_recording(pipeline, count)) for count in (5000, 300)]
        dynamic = {name: {0: "events"} for name in trials[0]}
    else:
        recordings = [example_recording(pipeline, count)[0] for count in range(3000, 7000, 500)]
        inputs = pipeline(events.EventBatch.of(recordings))
        assert isinstance(inputs, Tensor)
        if isinstance(network, SpikingNetwork):
            return write_spiking_onnx(network, inputs, out, described)
        trials = [{"input": inputs[:2]}, {"input": inputs[2:3]}]
        dynamic = {"input": {0: "batch"}, "logits": {0: "batch"}}
    return write_onnx(
        network,
        trials[0],
        out,
        outputs=["logits"],
        dynamic=dynamic,
        described=described,
        trials=trials[1:],
    )


def _columns(recording: events.EventBatch) -> dict[str, Tensor]:
    """The columns of a recording as int64 tensors, as the exported network takes them."""
    return {name: torch.from_numpy(getattr(recording, name).astype("int64")) for name in "txyp"}
