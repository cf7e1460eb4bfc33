"""VGNet's entry in the catalogue: its verbs and recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from modicum import images
from modicum.engine.random import generator
from modicum.engine.run import RunOptions
from modicum.method import Method, Preset
from modicum.methods.vgnet.baseline import MobileNetV2
from modicum.methods.vgnet.claim import DIGITS, study
from modicum.methods.vgnet.inference import evaluate, export, predict
from modicum.methods.vgnet.model import VGNet
from modicum.methods.vgnet.train import Config, train
from modicum.system.files import atomic_write
from modicum.system.progress import report_progress


def network(**arguments: Any) -> nn.Module:
    """The network of a file of weights: a VGNet, or the baseline, which alone has a width."""
    return MobileNetV2(**arguments) if "width" in arguments else VGNet(**arguments)


def example(network: nn.Module) -> tuple[Tensor, ...]:
    """A batch of two images for a network, `(2, in_channels, 64, 64)`."""
    arguments: Any = network.arguments
    return (torch.randn(2, arguments["in_channels"], 64, 64, generator=generator("example")),)


def data(path: tyro.conf.Positional[str], sheet: Path | None = None) -> dict[str, Any]:
    """Say what an image folder holds: layout, classes, sizes, unreadable files.

    Args:
        path: A folder a class, with or without train/ and val/; CIFAR or tiny-imagenet as
            distributed; or `digits`.
        sheet: PNG file to write: a contact sheet with images of every class.
    """
    with report_progress("look at images") as progress:
        found = images.survey(path, progress=progress)
    if sheet is None or not found["usable"]:
        return found
    with atomic_write(sheet) as file:
        file.write(sample_sheet(images.open_images(path)))
    return found | {"sheet": str(sheet)}


def sample_sheet(image_set: images.ImageSet, shown: int = 60) -> bytes:
    """A contact sheet (PNG) of about `shown` images: the first ones of every class in turn."""
    labels = image_set.labels.numpy()
    rank = np.zeros(len(labels), dtype=np.int64)
    for label in range(len(image_set.classes)):
        members = np.flatnonzero(labels == label)
        rank[members] = np.arange(len(members))
    chosen = np.lexsort((labels, rank))[:shown]
    crop = images.ResizeCentreCrop(128, 128)
    pixels = image_set.read(chosen, crop, images.SampleRandom(0, 0, chosen))
    return images.contact_sheet(pixels, [image_set.classes[label] for label in labels[chosen]])


METHOD = Method(
    name="vgnet",
    config=Config,
    presets={
        "default": Preset(
            "30 epochs at 224 pixels for a few thousand photographs; [C] scaled to batch 64.",
            Config(),
            RunOptions(),
        ),
        "imagenet": Preset(
            "the authors' 100 epochs on ImageNet-1k, batch 512, mixed precision [C].",
            Config(
                data="imagenet",
                size=224,
                short_side=256,
                epochs=100,
                batch_size=512,
                learning_rate=0.2,
                warmup_epochs=5,
                minimum_learning_rate=1e-6,
                weight_decay=1e-4,
                label_smoothing=0.1,
                augmentation="crop",
            ),
            RunOptions(precision="mixed"),
        ),
        "cifar": Preset(
            "the authors' 100 epochs on CIFAR, batch 1024, AutoAugment [C]; shift by 4 pixels, "
            "flip and 5 warm-up epochs are inferred.",
            Config(
                data="cifar-10-batches-py",
                size=32,
                epochs=100,
                batch_size=1024,
                learning_rate=0.4,
                warmup_epochs=5,
                weight_decay=5e-4,
                label_smoothing=0.1,
                augmentation="autoaugment",
            ),
            RunOptions(),
        ),
        "digits": Preset(
            "8 epochs of a narrow network on the built-in digits, in half a minute.",
            DIGITS,
            RunOptions(),
        ),
        "smoke": Preset(
            "two short epochs on the built-in digits, to see that everything works.",
            Config(
                channels=(8, 8, 16, 32, 32),
                layers=(1, 1, 1, 1),
                epochs=2,
                batch_size=200,
                augmentation="shift",
            ),
            RunOptions(),
        ),
    },
    train=train,
    network=network,
    data=data,
    evaluate=evaluate,
    predict=predict,
    export=export,
    study=study,
    example=example,
    extras={"export": ("onnxruntime", "deploy")},
    datasets={
        "digits": "built in: 1,797 handwritten digits of scikit-learn, 8x8",
        "imagenet": "ILSVRC2012, registration at image-net.org: train/<wnid>/*.JPEG and "
        "val/<wnid>/*.JPEG (sort the official flat val/ into folders)",
        "cifar": "CIFAR-10 and CIFAR-100, cs.toronto.edu/~kriz/cifar.html: the unpacked python or "
        "binary version",
        "tiny-imagenet": "tiny-imagenet-200, cs231n.stanford.edu: the unpacked folder",
        "your own": "a folder a class, with or without train/ and val/ above them",
    },
)
