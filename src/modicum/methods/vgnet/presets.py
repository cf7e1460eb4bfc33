"""The recipe of VGNet and its presets."""

from __future__ import annotations

from modicum.engine.run import RunOptions
from modicum.method import Preset, Recipe
from modicum.methods.vgnet.train import Config, train

DIGITS = Config(
    channels=(16, 16, 32, 64, 96),
    layers=(2, 2, 3, 2),
    epochs=8,
    batch_size=64,
    learning_rate=0.1,
    schedule="one_cycle",
    label_smoothing=0.0,
    augmentation="shift",
)
"""The small experiment of the digits: 32x32 thumbnail mode, SGD, one cycle."""

RECIPE = Recipe(
    config=Config,
    train=train,
    presets={
        "default": Preset(
            "30 epochs at 224 pixels for a few thousand photographs; the authors' ImageNet recipe "
            "(official code), its rate scaled to batch 64.",
            Config(),
        ),
        "imagenet": Preset(
            "the authors' 100 epochs on ImageNet-1k, batch 512, mixed precision (official code).",
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
            "the authors' 100 epochs on CIFAR, batch 1024, AutoAugment (official code); shift by 4 "
            "pixels, flip and 5 warm-up epochs are inferred.",
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
        ),
        "digits": Preset(
            "8 epochs of a narrow network on the built-in digits, in half a minute.", DIGITS
        ),
        "smoke": Preset(
            "two short epochs on the built-in digits, to see that everything works.",
            Config(
                channels=(8, 8, 16, 32, 32),
                layers=(1, 1, 1, 1),
                epochs=2,
                batch_size=200,
                # Small, so that steps do not amplify rounding: norms show what the last ones did.
                learning_rate=0.005,
                augmentation="shift",
            ),
        ),
    },
)
