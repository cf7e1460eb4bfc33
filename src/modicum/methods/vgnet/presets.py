"""The recipe of VGNet and its presets."""

from __future__ import annotations

import numpy as np

from modicum import images
from modicum.engine.run import RunOptions
from modicum.method import Preset, Recipe
from modicum.methods.vgnet.claim import DIGITS
from modicum.methods.vgnet.train import Config, train


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


RECIPE = Recipe(
    config=Config,
    train=train,
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
)
