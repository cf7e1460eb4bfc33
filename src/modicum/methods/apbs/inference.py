"""Using a trained network: measure it, classify recordings or images, export it."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch
import tyro
from torch import Tensor

from modicum import events, images
from modicum.classification import Classifier, Logits, class_mapping, evaluation, likeliest
from modicum.data.sample_set import SampleSet
from modicum.engine.devices import Device
from modicum.engine.random import generator
from modicum.errors import DataError
from modicum.events.pipeline import MOST_NUMBERS, Bins, FramePipeline
from modicum.events.reading import SUFFIXES as RECORDINGS
from modicum.images.decode import SUFFIXES as PICTURES
from modicum.inference import conditions, input_files, latency, predict_files, predictions
from modicum.method import load_saved
from modicum.methods.apbs.still_images import ImagePipeline
from modicum.methods.apbs.train import Pipeline, Samples, loader_for
from modicum.options import check, check_arguments, whole_path
from modicum.spiking.networks import SpikingNetwork, read_out
from modicum.spiking.nir_export import export_nir
from modicum.spiking.onnx_export import write_spiking_onnx
from modicum.spiking.statistics import (
    PICOJOULES_PER_ACCUMULATE,
    PICOJOULES_PER_MULTIPLY_ACCUMULATE,
    count_spikes,
)
from modicum.weights.onnx import write_state_dict
from modicum.weights.saved import SavedModel

Trained: TypeAlias = Classifier[SpikingNetwork, Pipeline]


def load_classifier(
    run: str | os.PathLike[str] | SavedModel, weights: str = "last", device: Device = "cpu"
) -> Trained:
    """A classifier from a run folder or a `.safetensors` file. See `load_saved`."""
    saved = load_saved(run, weights, method="apbs")

    def pipeline_of(notes: Mapping[str, Any]) -> Pipeline:
        pipeline = (FramePipeline if "steps" in notes else ImagePipeline).from_notes(notes)
        channels = 2 if isinstance(pipeline, FramePipeline) else pipeline.channels
        taken: Any = saved.module.arguments
        if (
            taken["size"] != list(pipeline.input_size)
            or taken["in_channels"] != channels
            or (taken["time_steps"] is None) != isinstance(pipeline, FramePipeline)
        ):
            raise ValueError("its pipeline does not make what its network takes")
        check("time_steps", taken["time_steps"], Bins | None)
        if (taken["time_steps"] or 1) * channels * math.prod(taken["size"]) > MOST_NUMBERS:
            raise ValueError(f"more than {MOST_NUMBERS:,} numbers for a sample")
        return pipeline

    return Trained.of(saved, pipeline_of, device, logits_of)


def logits_of(network: SpikingNetwork) -> Logits:
    """Class scores: the network's, averaged over time."""
    return lambda inputs: read_out(network(inputs))


@check_arguments
@torch.no_grad()
def evaluate(
    run: Path,
    data: str | None = None,
    split: images.Split = "val",
    weights: Literal["last", "best"] = "last",
    batch_size: int = 64,
    workers: int | None = None,
    device: Device = "auto",
    skip_bad: bool = False,
) -> dict[str, Any]:
    """Measure a trained network on labelled recordings or images: accuracy, spikes, energy.

    Args:
        run: Run folder, or a .safetensors file of one.
        data: What `modicum train apbs --data` takes; none: what the network was trained on.
        split: Part of the data. A folder without parts is taken whole, or, if it is what the
            network was trained on, the part that was held out of training.
        weights: The network after the last step, or the one that scored best.
        batch_size: Samples at a time.
        workers: Processes that read files.
        device: Where to compute.
        skip_bad: Leave out unreadable files instead of stopping.

    Returns:
        Accuracies in percent, overall and of each class, with what its samples were taken for;
        firing rate of each layer, spikes and synaptic operations a sample; energy a sample,
        estimated with 0.9 pJ an accumulate and 4.6 pJ a multiply-accumulate (Horowitz, ISSCC 2014);
        parameters; latency of one sample.
    """
    classifier = load_classifier(run, weights, device)
    network = classifier.network
    source = data or classifier.notes["data"]
    samples = _open_unseen(classifier, source, split, skip_bad)
    mapping = class_mapping(samples.classes, classifier.classes, source)
    loader = loader_for(samples, classifier.pipeline, batch_size, workers=workers)
    with count_spikes(network) as counted:
        found = evaluation(
            lambda inputs: read_out(network(inputs)), loader, classifier.classes,
            device=classifier.device, mapping=mapping,
        )  # fmt: skip
    return {
        "data": samples.layout,
        "samples": len(samples),
        **found,
        "firing_rate_percent": {layer.name: 100 * layer.rate for layer in counted.layers},
        "spikes": counted.spikes_per_sample,
        "synaptic_operations": counted.operations_per_sample,
        "accumulates": counted.accumulates_per_sample,
        "multiply_accumulates": counted.multiply_accumulates_per_sample,
        "microjoules_estimated": 1e6 * counted.energy_per_sample,
        "estimated_with": f"{PICOJOULES_PER_ACCUMULATE} pJ an accumulate, "
        f"{PICOJOULES_PER_MULTIPLY_ACCUMULATE} pJ a multiply-accumulate: 32-bit floating point in "
        f"45 nm (Horowitz, ISSCC 2014); without memory",
        "parameters": sum(p.numel() for p in network.parameters()),
        "latency_ms": {
            **latency(network, example(classifier).to(classifier.device)),
            "of": f"1 sample, {conditions(classifier.device)}",
        },
    }


def _open_unseen(classifier: Trained, data: str, split: images.Split, skip_bad: bool) -> SampleSet:
    """`events.open_unseen`, or the same of images."""
    source, notes = Samples(data, skip_bad=skip_bad), classifier.notes
    folder = source.image_folder
    if (folder is not None) != isinstance(classifier.pipeline, ImagePipeline):
        raise DataError(
            f"{data}: the network was trained on {notes['layout']}; recordings and images cannot "
            f"stand in for each other (images=FOLDER says that a folder holds images)."
        )
    if folder is None:
        return events.open_unseen(notes, data, split, skip_bad=skip_bad)
    if whole_path(data) == whole_path(notes["data"]):
        source = dataclasses.replace(source, holdout=notes["holdout"])
    elif not images.has_splits(folder):
        source, split = dataclasses.replace(source, holdout=0.0), "train"
    return source.samples(split, quiet=False)


def example(classifier: Trained, samples: int = 1) -> Tensor:
    """Made-up input of a classifier's shape: frames `(B, T, 2, H, W)` or images `(B, C, H, W)`."""
    pipeline = classifier.pipeline
    height, width = pipeline.input_size
    random = generator("example")
    if isinstance(pipeline, ImagePipeline):
        return torch.randn(samples, pipeline.channels, height, width, generator=random)
    frames = torch.rand(samples, pipeline.steps, 2, height, width, generator=random)
    return (frames > 0.9).float()


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
    """Classify files, and all files in folders: class, confidence, and the spikes it took.

    A file that cannot be read is reported in its row and does not stop the others.

    Args:
        inputs: Recordings and folders, or images and folders if the network was trained on images.
        run: Run folder, or a .safetensors file of one.
        out: CSV file to write: file, classes and probabilities, likeliest first, spikes, error.
        top: Classes a file.
        weights: The network after the last step, or the one that scored best.
        batch_size: Files at a time.
        device: Where to compute.

    Returns:
        The predictions, or with `out` the first ten of them, and the files written.
    """
    classifier = load_classifier(run, weights, device)
    network, pipeline = classifier.network, cast("Any", classifier.pipeline)

    def read(sample: Any) -> Tensor:  # frames are made in threads, as files are read
        return pipeline.batch([pipeline.read(sample)])[0]

    def classify(samples: list[Tensor]) -> Iterator[dict[str, Any]]:
        with count_spikes(network) as counted:
            logits = classifier.logits(torch.stack(samples).to(classifier.device))
        spikes = counted.spikes_of_each.tolist()
        records = likeliest(logits, classifier.classes, max(1, top))
        for record, fired in zip(records, spikes, strict=True):
            yield record | {"spikes": round(fired)}

    still = isinstance(pipeline, ImagePipeline)
    sought = (PICTURES, "image") if still else (set(RECORDINGS), "recording")
    files = input_files(inputs, *sought, in_memory=True)
    return predictions(predict_files(files, read, classify, batch_size), out)


@check_arguments
def export(
    run: Path,
    to: Literal["onnx", "nir", "state-dict"] = "onnx",
    out: Path | None = None,
    weights: Literal["last", "best"] = "last",
) -> dict[str, Any]:
    """Write a trained network for use without modicum.

    Args:
        run: Run folder, or a .safetensors file of one.
        to: onnx: an ONNX file (any batch size, the number of time steps it was trained with) that
            gives logits averaged over time, compared with PyTorch before it is kept; its metadata
            hold the classes and all that makes a recording or image its input. nir: the
            Neuromorphic Intermediate Representation, read back and compared before it is kept; it
            has no associating synapses, so the network must be plain (--association 0).
            state-dict: its weights for torch.load.
        out: File to write; none: model.onnx, model.nir or model.pth in the run folder.
        weights: The network after the last step, or the one that scored best.
    """
    classifier = load_classifier(run, weights)
    name = {"onnx": "model.onnx", "nir": "model.nir", "state-dict": "model.pth"}[to]
    out = out or (run if run.is_dir() else run.parent) / name
    if to == "state-dict":
        return write_state_dict(classifier.network, out)
    if to == "nir":
        check = export_nir(classifier.network, out, example(classifier, 8))
        return {"written": str(out), **check._asdict()}
    samples, described = example(classifier, 8), classifier.described()
    return write_spiking_onnx(classifier.network, samples, out, described)
