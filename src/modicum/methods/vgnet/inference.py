"""Using a trained classifier: measure it, classify files, export it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
import tyro
from torch import Tensor, nn

from modicum import images
from modicum.classification import Classifier, class_mapping, evaluation, likeliest
from modicum.engine.devices import Device
from modicum.engine.random import generator
from modicum.errors import ConfigError, DataError
from modicum.images.decode import SUFFIXES
from modicum.inference import conditions, input_files, latency, predict_files, predictions
from modicum.method import load_saved
from modicum.methods.vgnet.fold import fold
from modicum.methods.vgnet.model import VGNet, count_multiply_adds, count_parameters
from modicum.methods.vgnet.train import Pipeline, resolved
from modicum.options import check_arguments
from modicum.system.files import atomic_write
from modicum.weights.onnx import write_onnx, write_state_dict
from modicum.weights.saved import SavedModel

Trained: TypeAlias = Classifier[nn.Module, Pipeline]


def load_classifier(
    run: str | os.PathLike[str] | SavedModel, weights: str = "last", device: Device = "cpu"
) -> Trained:
    """A classifier from a run folder or a `.safetensors` file. See `load_saved`."""
    return Trained.of(load_saved(run, weights, method="vgnet"), Pipeline.from_notes, device)


@check_arguments
@torch.no_grad()  # not inference_mode: threads of the caller could not fill tensors made in it
def evaluate(
    run: Path,
    data: str,
    split: images.Split | None = None,
    weights: Literal["last", "best"] = "last",
    batch_size: int = 64,
    workers: int | None = None,
    device: Device = "auto",
    skip_bad: bool = False,
) -> dict[str, Any]:
    """Measure a trained network on labelled images, and what it costs.

    Args:
        run: Run folder, or a .safetensors file of one.
        data: Images with labels: a folder a class, or any data set `modicum train vgnet` takes.
        split: Part of the data; none: val. A folder without parts is taken whole, or, if it is
            what the network was trained on, the part that was held out of training.
        weights: The network after the last step, or the one that scored best.
        batch_size: Images at a time.
        workers: Processes that decode images.
        device: Where to compute.
        skip_bad: Leave out unreadable images instead of stopping.

    Returns:
        Accuracies in percent, overall and of each class, with what its images were taken for;
        parameters, multiply-adds of one image, and latency of one image as it is and folded
        (milliseconds, minimum and median of 20).
    """
    classifier = load_classifier(run, weights, device)
    image_set = _evaluation_set(classifier, data, split, skip_bad)
    mapping = class_mapping(image_set.classes, classifier.classes, data)
    if (found := image_set.channels) != (known := classifier.pipeline.channels):
        raise DataError(
            f"{data}: images with {found} channel{'s' * (found > 1)}; the network was trained on "
            f"images with {known}. Evaluate it on data like those it was trained on."
        )
    loader = images.Loader(
        image_set, batch_size, transform=classifier.pipeline.evaluation(), workers=workers
    )
    scores = evaluation(
        classifier.network, loader, classifier.classes, device=classifier.device, mapping=mapping
    )
    return {"images": len(image_set)} | scores | cost(classifier)


def _evaluation_set(
    classifier: Trained, data: str, split: images.Split | None, skip_bad: bool
) -> images.ImageSet:
    part, holdout = split or "val", 0.1
    if not images.has_splits(data):
        if resolved(data) == classifier.notes["data"]:
            holdout = classifier.notes["holdout"]
        elif split in (None, "train"):
            part, holdout = "train", 0.0
        else:
            raise ConfigError(f"--split {split}: {data} has no parts; leave the option out.")
    return images.open_images(data, part, holdout=holdout, skip_bad=skip_bad, quiet=False)


def cost(classifier: Trained) -> dict[str, Any]:
    """Parameters, multiply-adds and latency of one image at the size the network was trained on."""
    network, size = classifier.network, classifier.pipeline.size
    image = torch.randn(1, classifier.pipeline.channels, size, size, device=classifier.device)
    trainable, stored = count_parameters(network)
    measured: dict[str, Any] = {"as_trained": latency(network, image)}
    if isinstance(network, VGNet):
        measured["folded"] = latency(fold(network), image)
    where = conditions(classifier.device)
    measured["of"] = f"1 image of {size}x{size}, contiguous, not compiled, {where}"
    return {
        "parameters": {"trainable": trainable, "stored": stored},
        "multiply_adds": count_multiply_adds(network, tuple(image.shape)),
        "latency_ms": measured,
    }


@check_arguments
@torch.no_grad()
def predict(
    inputs: tyro.conf.Positional[tuple[Path, ...]],
    run: Path,
    out: Path | None = None,
    sheet: Path | None = None,
    top: int = 5,
    weights: Literal["last", "best"] = "last",
    batch_size: int = 64,
    device: Device = "auto",
) -> dict[str, Any]:
    """Classify image files, and all image files in folders.

    A file that cannot be read is reported in its row and does not stop the others.

    Args:
        inputs: Image files and folders.
        run: Run folder, or a .safetensors file of one.
        out: CSV file to write: file, classes and probabilities, likeliest first, error.
        sheet: PNG file to write: a contact sheet of the first images with their classes.
        top: Classes a file.
        weights: The network after the last step, or the one that scored best.
        batch_size: Images at a time.
        device: Where to compute.

    Returns:
        The predictions, or with `out` the first ten of them, and the files written.
    """
    files = input_files(inputs, SUFFIXES, "image", in_memory=True)
    classifier = load_classifier(run, weights, device)
    network = classifier.network
    if isinstance(network, VGNet):
        network = fold(network)
    thumbnails: list[tuple[Tensor, str]] = []

    def classify(pixels: list[Tensor]) -> Iterator[dict[str, Any]]:
        batch = classifier.pipeline.batch(pixels).to(classifier.device)
        records = likeliest(network(batch), classifier.classes, max(1, top))
        for crop, record in zip(pixels, records, strict=True):
            if len(thumbnails) < 60:  # more are too small to look at
                title = f"{record['class_1']} {100 * record['probability_1']:.0f} %"
                thumbnails.append((crop, title))
            yield record

    rows = predict_files(files, classifier.pipeline.read, classify, batch_size)
    result = predictions(rows, out)
    if sheet is not None:
        pixels, titles = zip(*thumbnails, strict=True)
        with atomic_write(sheet) as file:
            file.write(images.contact_sheet(torch.stack(pixels), titles))
        result["sheet"] = str(sheet)
    return result


@check_arguments
def export(
    run: Path,
    to: Literal["onnx", "state-dict"] = "onnx",
    out: Path | None = None,
    weights: Literal["last", "best"] = "last",
    folded: bool = True,
) -> dict[str, Any]:
    """Write a trained network for use without modicum.

    Args:
        run: Run folder, or a .safetensors file of one.
        to: onnx: an ONNX file (opset 17, any batch size) that takes normalised images and gives
            logits, compared with PyTorch before it is kept; its metadata hold classes, mean,
            standard deviation and sizes. state-dict: the authors' layout of keys, for torch.load.
        out: File to write; none: model.onnx or model.pth in the run folder.
        weights: The network after the last step, or the one that scored best.
        folded: Fold the normalisations first; the ONNX network is then smaller and faster.
    """
    classifier = load_classifier(run, weights)
    folder = run if run.is_dir() else run.parent
    if to == "state-dict":
        out = out or folder / "model.pth"
        return write_state_dict(classifier.network, out)
    network, size = classifier.network, classifier.pipeline.size
    image = torch.randn(2, classifier.pipeline.channels, size, size, generator=generator("export"))
    return write_onnx(
        fold(network) if folded and isinstance(network, VGNet) else network,
        {"image": image},
        out or folder / "model.onnx",
        outputs=["logits"],
        dynamic={"image": {0: "batch"}, "logits": {0: "batch"}},
        described=classifier.described(),
        trials=({"image": image[:1]}, {"image": image.repeat(2, 1, 1, 1)}),
        reference=network,
    )
