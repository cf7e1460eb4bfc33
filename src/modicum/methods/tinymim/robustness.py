"""Test sets of ImageNet under other conditions, by name, and their official measures.

ImageNet-A (Hendrycks et al., "Natural Adversarial Examples", CVPR 2021) and ImageNet-R (Hendrycks
et al., "The Many Faces of Robustness", ICCV 2021) have 200 of the 1000 classes, among which alone
predictions are chosen. ImageNet-C (Hendrycks and Dietterich, ICLR 2019) has folders
`corruption/severity/class`; its mean corruption error divides by that of AlexNet.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from modicum import images
from modicum.classification import Classifier, accuracies
from modicum.errors import DataError
from modicum.methods.tinymim.networks.vit import VisionTransformer
from modicum.methods.tinymim.recipes.common import Pipeline
from modicum.system.progress import Progress

Kind: TypeAlias = Literal["imagenet-a", "imagenet-r", "imagenet-c"]

ALEXNET = {
    "gaussian_noise": 88.6, "shot_noise": 89.4, "impulse_noise": 92.3, "defocus_blur": 82.0,
    "glass_blur": 82.6, "motion_blur": 78.6, "zoom_blur": 79.8, "snow": 86.7, "frost": 82.7,
    "fog": 81.9, "brightness": 56.5, "contrast": 85.3, "elastic_transform": 64.6,
    "pixelate": 71.8, "jpeg_compression": 60.7,
}  # fmt: skip
"""Errors of AlexNet in percent, means over severities (Hendrycks and Dietterich, table 1)."""
_SEVERITIES = ("1", "2", "3", "4", "5")


def named_set(source: str) -> tuple[Kind, Path] | None:
    """The kind and folder of `imagenet-a=PATH` and the like; None for other data."""
    kind, _, path = source.partition("=")
    if path and kind in ("imagenet-a", "imagenet-r", "imagenet-c"):
        return kind, Path(path)
    return None


def measure_robustness(
    model: Classifier[VisionTransformer, Pipeline], kind: Kind, root: Path, *,
    batch_size: int, workers: int | None,
) -> dict[str, Any]:  # fmt: skip
    """Accuracy on ImageNet-A or -R, or errors by corruption on ImageNet-C, in percent.

    Raises:
        DataError: A folder is missing, or has classes that the network does not know.
    """

    def accuracy(folder: Path) -> tuple[float, int]:
        image_set = images.open_images(folder, "train", holdout=0.0)
        unknown = sorted(set(image_set.classes) - set(model.classes))
        if unknown:
            raise DataError(
                f"{folder}: the network does not know the classes {', '.join(unknown[:5])}. "
                f"Expected folders with the names of its classes, such as {model.classes[0]}."
            )
        chosen = torch.tensor([model.classes.index(name) for name in image_set.classes])

        def logits(inputs: Tensor) -> Tensor:
            return model.network(inputs)[:, chosen.to(model.device)]

        loader = images.Loader(
            image_set, batch_size, transform=model.pipeline.evaluation(), workers=workers
        )
        found = accuracies(logits, loader, device=model.device, quiet=kind == "imagenet-c")
        return found["top1"], len(image_set)

    if kind != "imagenet-c":
        top1, count = accuracy(root)
        return {"data": kind, "images": count, "top1": top1}
    missing = [
        f"{name}/{severity}"
        for name in ALEXNET
        for severity in _SEVERITIES
        if not (root / name / severity).is_dir()
    ]
    if missing:
        raise DataError(
            f"{root}: {len(missing)} folders of ImageNet-C are missing, the first of them "
            f"{missing[0]}. Expected corruption/severity/class, with severities 1 to 5."
        )
    rows: list[dict[str, Any]] = []
    with Progress("corruptions", len(ALEXNET)) as progress:
        for done, (name, known) in enumerate(ALEXNET.items(), start=1):
            errors = [100 - accuracy(root / name / severity)[0] for severity in _SEVERITIES]
            mean = math.fsum(errors) / len(errors)
            rows.append({
                "corruption": name, "error_percent": mean, "of_alexnet_percent": 100 * mean / known,
            })  # fmt: skip
            progress.advance(done, name)
    mean_error = math.fsum(row["of_alexnet_percent"] for row in rows) / len(rows)
    return {"data": kind, "mean_corruption_error_percent": mean_error, "corruptions": rows}
