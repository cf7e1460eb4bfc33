"""The recipe of APBS and its presets."""

from __future__ import annotations

from modicum.engine.run import RunOptions
from modicum.events.options import SMOKE
from modicum.method import Preset, Recipe
from modicum.methods.apbs.claim import BASE
from modicum.methods.apbs.train import Config, train
from modicum.options import replace

TET = replace(
    Config(),
    data="cifar10-dvs",
    convention="dat2mat",
    network="vggsnn",
    time_steps=10,
    size=48,
    flip=True,
    epochs=150,
    batch_size=128,
    learning_rate=1e-3,
    loss="tet",
)
"""The recipe of TET's code. Its own augmentation, a flip and a roll by 5 pixels, is STCF here."""

RECIPE = Recipe(
    config=Config,
    train=train,
    presets={
        "default": Preset(
            "60 epochs of the light network, for a few thousand recordings of your own.", Config()
        ),
        "tet": Preset(
            "the recipe of TET's code on CIFAR10-DVS [C], with association and STCF; the paper's "
            "own schedule is unknown.",
            TET,
            RunOptions(precision="mixed"),
        ),
        "nda": Preset(
            "VGG-11 by the schedule of NDA's code [C], 200 epochs, batch 256, weight decay; with "
            "association and STCF in place of NDA's augmentation.",
            replace(
                TET,
                network="nda_vgg11",
                normalise="none",
                resize="nearest",
                epochs=200,
                batch_size=256,
                weight_decay=1e-4,
                loss="mean",
            ),
            RunOptions(precision="mixed"),
        ),
        "cifar10": Preset(
            "still images by direct coding, each presented 4 times; TET's schedule.",
            replace(
                TET, data="cifar10=cifar-10-batches-py", convention="jaer", time_steps=4, size=32
            ),
            RunOptions(precision="mixed"),
        ),
        "digits": Preset(
            "12 epochs of the small network on simulated digits, in a minute.",
            replace(BASE, association=0.2, stcf=True),
        ),
        "smoke": Preset(
            "a few steps on simulated digits, to see that everything works.",
            replace(BASE, association=0.2, stcf=True, **SMOKE),
        ),
    },
)
