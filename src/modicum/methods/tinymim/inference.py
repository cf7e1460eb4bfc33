"""Using a trained network: measure it, classify or segment files, restore patches, export it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import tyro
from torch import Tensor, nn

from modicum import images
from modicum.classification import Classifier, class_mapping, evaluation, likeliest
from modicum.engine.devices import Device, choose_device
from modicum.engine.random import generator
from modicum.errors import ConfigError, DataError
from modicum.images.decode import SUFFIXES
from modicum.inference import conditions, input_files, latency, predict_files, predictions
from modicum.method import load_saved
from modicum.methods.tinymim.networks.mae import MaskedAutoencoder, kept_patches
from modicum.methods.tinymim.networks.upernet import UPerNet
from modicum.methods.tinymim.networks.vit import VisionTransformer
from modicum.methods.tinymim.pictures import png_of, reconstruction_strip
from modicum.methods.tinymim.recipes.common import Pipeline
from modicum.methods.tinymim.robustness import measure_robustness, named_set
from modicum.methods.tinymim.segmentation import pictures
from modicum.methods.tinymim.segmentation.augment import WholeImages, pair_loader
from modicum.methods.tinymim.segmentation.data import open_pairs
from modicum.methods.tinymim.segmentation.metrics import segmentation_scores
from modicum.methods.tinymim.segmentation.sliding import (
    label_map_of,
    predicted_confusion,
    sliding_scores,
)
from modicum.options import check_arguments, whole_path
from modicum.system.files import atomic_write
from modicum.weights.onnx import write_onnx, write_state_dict
from modicum.weights.saved import SavedModel, believing_nothing

_SHOWN = 60
"""Images of a contact sheet: more are too small to look at."""

Weights: TypeAlias = Literal["last", "best"]


@dataclass(frozen=True)
class Pretrained:
    """A network that is no classifier: an autoencoder, an encoder, or a segmenter."""

    network: MaskedAutoencoder | VisionTransformer | UPerNet
    classes: tuple[str, ...]
    """Of a segmenter; others have none."""
    pipeline: Pipeline
    notes: dict[str, Any]
    """What `train` stored: where its data lay and how it was divided."""
    device: torch.device

    def described(self) -> dict[str, Any]:
        """What a program needs that uses the network without modicum, JSON-able."""
        named = {"method": "tinymim"} | ({"classes": list(self.classes)} if self.classes else {})
        return named | self.pipeline.described()


Model: TypeAlias = Classifier[VisionTransformer, Pipeline] | Pretrained


def load_model(
    run: str | os.PathLike[str] | SavedModel, weights: str = "last", device: Device = "cpu"
) -> Model:
    """A network from a run folder or a `.safetensors` file. See `load_saved`."""
    saved = load_saved(run, weights, method="tinymim")
    module = saved.module
    if isinstance(module, VisionTransformer) and module.arguments["num_classes"] is not None:
        return Classifier.of(saved, Pipeline.from_notes, device)
    assert isinstance(module, MaskedAutoencoder | VisionTransformer | UPerNet)
    with believing_nothing(saved.path):
        pipeline = Pipeline.from_notes(saved.notes["pipeline"])
        classes = tuple(map(str, saved.notes["classes"]))
        if isinstance(module, UPerNet) and len(classes) != module.arguments["classes"]:
            raise ValueError(f"{len(classes)} names for {module.arguments['classes']} classes")
    chosen = choose_device(device)
    return Pretrained(module.to(chosen), classes, pipeline, saved.notes, chosen)


@check_arguments
@torch.no_grad()
def evaluate(
    run: Path,
    data: str | None = None,
    split: images.Split | None = None,
    weights: Weights = "last",
    batch_size: int = 64,
    workers: int | None = None,
    device: Device = "auto",
    skip_bad: bool = False,
) -> dict[str, Any]:
    """Measure a network on held-out images: accuracy, mean IoU, or how well it restores patches.

    Args:
        run: Run folder, or a .safetensors file of one.
        data: Of a classifier images with labels, or imagenet-a=PATH, imagenet-r=PATH or
            imagenet-c=PATH as they are distributed; of a segmenter pairs of images and masks; of
            an autoencoder any images. None: what the network was trained on.
        split: Part of the data; none: val. A folder without parts is taken whole, or, if it is
            what the network was trained on, the part that was held out of training.
        weights: The network after the last step, or the one that scored best.
        batch_size: Images, of a segmenter windows, at a time.
        workers: Processes that decode images.
        device: Where to compute.
        skip_bad: Leave out unreadable images instead of stopping.

    Returns:
        Percentages: `top1`, `top5` and `classes`; or `mean_iou`, `mean_accuracy`, `pixel_accuracy`
        and `classes`; or the `reconstruction_error` of hidden patches, in units of their variance.
        Parameters; latency of one image.
    """
    model = load_model(run, weights, device)
    source = data or model.notes["data"]
    if isinstance(model, Classifier) and (named := named_set(source)):
        return measure_robustness(model, *named, batch_size=batch_size, workers=workers)
    part, holdout = _part(model, source, split)
    if isinstance(model, Classifier):
        found = _accuracy(model, source, part, holdout, batch_size, workers, skip_bad)
    elif isinstance(model.network, UPerNet):
        found = _mean_iou(model, source, part, holdout, batch_size, workers, skip_bad)
    elif isinstance(model.network, MaskedAutoencoder):
        found = _restoring(model, source, part, holdout, batch_size, workers, skip_bad)
    else:
        raise ConfigError(
            f"{run}: an encoder without a classifier has nothing to be measured by. Fine-tune it: "
            f"modicum train tinymim finetune --init {run}"
        )
    found["parameters"] = sum(p.numel() for p in model.network.parameters())
    if not isinstance(model.network, MaskedAutoencoder):  # which is called with patches as well
        image = _example(model).to(model.device)
        where = f"1 image of {image.shape[2]}x{image.shape[3]}, {conditions(model.device)}"
        found["latency_ms"] = latency(model.network, image) | {"of": where}
    return found


def _part(model: Model, source: str, split: images.Split | None) -> tuple[images.Split, float]:
    """The split, and the share that is held out where the data has no parts."""
    if whole_path(source) == model.notes["data"]:
        return split or "val", model.notes["holdout"]
    segmenter = isinstance(model, Pretrained) and isinstance(model.network, UPerNet)
    if segmenter or images.has_splits(source):
        return split or "val", 0.1
    if split not in (None, "train"):
        raise ConfigError(f"--split {split}: {source} has no parts; leave the option out.")
    return "train", 0.0


def _accuracy(
    model: Classifier[VisionTransformer, Pipeline], source: str, split: images.Split,
    holdout: float, batch_size: int, workers: int | None, skip_bad: bool,
) -> dict[str, Any]:  # fmt: skip
    image_set = images.open_images(source, split, holdout=holdout, skip_bad=skip_bad, quiet=False)
    mapping = class_mapping(image_set.classes, model.classes, source)
    _check_channels(image_set, model.pipeline, source)
    loader = images.Loader(
        image_set, batch_size, transform=model.pipeline.evaluation(), workers=workers
    )
    scores = evaluation(model.network, loader, model.classes, device=model.device, mapping=mapping)
    return {"images": len(image_set)} | scores


def _check_channels(image_set: images.ImageSet, pipeline: Pipeline, source: str) -> None:
    if (found := image_set.channels) != pipeline.channels:
        raise DataError(
            f"{source}: images with {found} channel{'s' * (found > 1)}; the network was trained on "
            f"images with {pipeline.channels}. Evaluate it on data like those it was trained on."
        )


def _mean_iou(
    model: Pretrained, source: str, split: images.Split, holdout: float, batch_size: int,
    workers: int | None, skip_bad: bool,
) -> dict[str, Any]:  # fmt: skip
    pairs = open_pairs(source, split, holdout=holdout, skip_bad=skip_bad, quiet=False)
    if tuple(pairs.classes) != model.classes:
        raise DataError(
            f"{source}: its classes are {', '.join(pairs.classes[:8])}, those of the network "
            f"{', '.join(model.classes[:8])}. Evaluate it on data like those it was trained on."
        )
    size, short_side = model.pipeline.size, model.pipeline.short_side
    loader = pair_loader(pairs, 1, WholeImages(short_side, 4 * short_side), workers=workers)
    counts = predicted_confusion(
        model.network, loader.epoch(0), len(model.classes), (size, size),
        normalise=model.pipeline.normalise(), device=model.device, batch_size=batch_size,
    )  # fmt: skip
    scores = segmentation_scores(counts)
    share = counts.sum(1).double() / counts.sum()
    return {
        "images": len(pairs),
        "mean_iou": scores.mean_iou,
        "mean_accuracy": scores.mean_accuracy,
        "pixel_accuracy": scores.pixel_accuracy,
        "classes": [
            {"class": name, "pixels_percent": 100 * float(part), "iou": float(iou),
             "accuracy": float(accuracy)}
            for name, part, iou, accuracy in zip(
                model.classes, share, scores.iou, scores.accuracy, strict=True
            )
        ],
    }  # fmt: skip


def _restoring(
    model: Pretrained, source: str, split: images.Split, holdout: float, batch_size: int,
    workers: int | None, skip_bad: bool,
) -> dict[str, Any]:  # fmt: skip
    """The error of three quarters of the patches, the same ones at every call."""
    network = model.network
    assert isinstance(network, MaskedAutoencoder)
    image_set = images.open_images(
        source, split, labelled=False, holdout=holdout, skip_bad=skip_bad, quiet=False
    )
    _check_channels(image_set, model.pipeline, source)
    loader = images.Loader(
        image_set, batch_size, transform=model.pipeline.evaluation(), workers=workers
    )
    patches, total = network.encoder.grid[0] * network.encoder.grid[1], 0.0
    for batch in loader.epoch(0):
        random = images.SampleRandom(0, 0, batch.index.numpy())
        keep = kept_patches(random, patches, 0.75).to(model.device)
        total += float(network.loss(batch.image.to(model.device), keep)) * len(keep)
    return {"images": len(image_set), "reconstruction_error": total / len(image_set)}


def _example(model: Model) -> Tensor:
    side = model.pipeline.size
    return torch.randn(1, model.pipeline.channels, side, side, generator=generator("example"))


@check_arguments
@torch.no_grad()
def predict(
    inputs: tyro.conf.Positional[tuple[Path, ...]],
    run: Path,
    out: Path | None = None,
    sheet: Path | None = None,
    top: int = 5,
    weights: Weights = "last",
    batch_size: int = 64,
    device: Device = "auto",
) -> dict[str, Any]:
    """Classify or segment image files, and all image files in folders, or restore their patches.

    A file that cannot be read is reported in its row and does not stop the others.

    Args:
        inputs: Image files and folders.
        run: Run folder, or a .safetensors file of one.
        out: Of a classifier a CSV file to write: file, classes and probabilities, likeliest first,
            error. Of a segmenter a folder, for a label map in colours and an overlay for each
            image; needed. Of an autoencoder a folder for images of which three quarters of the
            patches were restored; needed.
        sheet: PNG file to write: a contact sheet of the first images with what was found.
        top: Classes a file.
        weights: The network after the last step, or the one that scored best.
        batch_size: Images, of a segmenter windows, at a time.
        device: Where to compute.

    Returns:
        A record for each file, or with a table the first ten of them, and the files written.
    """
    model = load_model(run, weights, device)
    files = input_files(inputs, SUFFIXES, "image", in_memory=isinstance(model, Classifier))
    shown: list[tuple[Any, str]] = []
    if isinstance(model, Classifier):
        rows = predict_files(
            files, model.pipeline.read, lambda crops: _classified(model, crops, top, shown),
            batch_size,
        )  # fmt: skip
        result = predictions(rows, out)
    else:
        if out is None:
            raise ConfigError("give a folder for the images that are made: --out FOLDER")
        rows = _pictured(model, files, out, batch_size, shown)
        result = predictions(rows, None) | {"folder": str(out)}
    if sheet is not None:
        pixels, titles = zip(*shown, strict=True)
        with atomic_write(sheet) as file:
            file.write(images.contact_sheet(pixels, titles))
        result["sheet"] = str(sheet)
    return result


def _classified(
    model: Classifier[VisionTransformer, Pipeline], crops: list[Tensor], top: int,
    shown: list[tuple[Any, str]],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    batch = model.pipeline.batch(crops).to(model.device)
    records = likeliest(model.network(batch), model.classes, max(1, top))
    for crop, record in zip(crops, records, strict=True):
        title = f"{record['class_1']} {100 * record['probability_1']:.0f} %"
        if len(shown) < _SHOWN:
            shown.append((crop.permute(1, 2, 0).numpy(), title))
        yield record


def _pictured(
    model: Pretrained, files: list[Path], out: Path, batch_size: int,
    shown: list[tuple[Any, str]],
) -> list[dict[str, Any]]:  # fmt: skip
    """Pictures of what a segmenter or an autoencoder makes of files, each in `out`."""
    if isinstance(model.network, VisionTransformer):
        raise ConfigError(
            "an encoder without a classifier says nothing of images. Fine-tune it first: modicum "
            "train tinymim finetune --init RUN"
        )
    out.mkdir(parents=True, exist_ok=True)
    names = dict(zip(files, _names(files), strict=True))

    def draw(photos: list[tuple[Path, Any]]) -> Iterator[dict[str, Any]]:
        for path, photo in photos:
            if isinstance(model.network, UPerNet):
                record, written, picture = _segmented(model, photo, batch_size)
            else:
                record, written, picture = _restored(model, photo)
            for kind, content in written.items():
                with atomic_write(out / f"{names[path]}{kind}.png") as file:
                    file.write(content)
            if len(shown) < _SHOWN:
                shown.append((picture, names[path]))
            yield record | {"written": [f"{names[path]}{kind}.png" for kind in written]}

    return predict_files(files, lambda path: (path, images.decode_image(path)), draw, 8)


def _names(files: list[Path]) -> list[str]:
    """Names of files without their ends, numbered where several have the same."""
    seen: Counter[str] = Counter()
    names: list[str] = []
    for file in files:
        seen[file.stem] += 1
        names.append(file.stem + (f"_{seen[file.stem]}" if seen[file.stem] > 1 else ""))
    return names


def _segmented(
    model: Pretrained, photo: npt.NDArray[np.uint8], batch_size: int
) -> tuple[dict[str, Any], dict[str, bytes], npt.NDArray[np.uint8]]:
    """Shares of the classes; the label map and an overlay as PNG; the overlay."""
    size, short_side = model.pipeline.size, model.pipeline.short_side
    pixels = torch.from_numpy(photo).permute(2, 0, 1)
    resized = WholeImages(short_side, 4 * short_side).resized(pixels)
    prepared = model.pipeline.normalise()(resized[None]).to(model.device)[0]
    assert isinstance(model.network, UPerNet)
    (scores,) = sliding_scores(model.network, [prepared], (size, size), batch_size=batch_size)
    labels = label_map_of(scores, (photo.shape[0], photo.shape[1])).cpu()
    shares = torch.bincount(labels.flatten().long(), minlength=len(model.classes)) / labels.numel()
    order = shares.argsort(descending=True).tolist()
    percent = {model.classes[k]: round(100 * float(shares[k]), 2) for k in order if shares[k] > 0}
    overlay = pictures.overlay(photo, labels.numpy())
    written = {"_labels": pictures.label_png(labels.numpy()), "_overlay": png_of(overlay)}
    return {"pixels_percent": percent}, written, overlay


def _restored(
    model: Pretrained, photo: npt.NDArray[np.uint8]
) -> tuple[dict[str, Any], dict[str, bytes], npt.NDArray[np.uint8]]:
    """The error; the picture, what was seen of it and what was restored, side by side, as PNG."""
    network, pipeline = model.network, model.pipeline
    assert isinstance(network, MaskedAutoencoder)
    crop = pipeline.read(photo)
    image = pipeline.batch([crop]).to(model.device)
    patches = network.encoder.grid[0] * network.encoder.grid[1]
    random = images.SampleRandom(0, 0, np.zeros(1, np.int64))
    keep = kept_patches(random, patches, 0.75).to(model.device)
    error = float(network.loss(image, keep))
    drawn = reconstruction_strip(network, image, keep, pipeline)
    return {"reconstruction_error": error}, {"_restored": png_of(drawn)}, drawn


@check_arguments
def export(
    run: Path,
    to: Literal["onnx", "state-dict"] = "onnx",
    out: Path | None = None,
    weights: Weights = "last",
) -> dict[str, Any]:
    """Write a trained network for use without modicum.

    Args:
        run: Run folder, or a .safetensors file of one.
        to: onnx: an ONNX file (opset 17, any batch size) that takes normalised images and gives
            logits, those of every pixel, or tokens, compared with PyTorch before it is kept; its
            metadata hold classes and how images are prepared. state-dict: MAE's layout of keys,
            for torch.load, timm and the authors' code; of an autoencoder the encoder alone.
        out: File to write; none: model.onnx or model.pth in the run folder.
        weights: The network after the last step, or the one that scored best.
    """
    model = load_model(run, weights)
    folder = run if run.is_dir() else run.parent
    network: nn.Module = model.network
    if isinstance(network, MaskedAutoencoder):
        network = network.encoder
    if to == "state-dict":
        return write_state_dict(network, out or folder / "model.pth")
    scored = isinstance(model, Classifier) or isinstance(network, UPerNet)
    output = "logits" if scored else "tokens"
    image = _example(model).repeat(2, 1, 1, 1)
    image[1] = image[1].flip(-1)
    return write_onnx(
        network.eval(),
        {"image": image},
        out or folder / "model.onnx",
        outputs=[output],
        dynamic={"image": {0: "batch"}, output: {0: "batch"}},
        described=model.described(),
        trials=({"image": image[:1]}, {"image": image.repeat(2, 1, 1, 1)}),
    )
