"""The recipe of the augmentations of events and its presets."""

from __future__ import annotations

from modicum.engine.run import RunOptions
from modicum.events.options import SMOKE
from modicum.method import Preset, Recipe
from modicum.methods.event_augmentation.claim import BASE
from modicum.methods.event_augmentation.train import Config, train
from modicum.options import replace

SPIKING = replace(
    Config(),
    data="cifar10-dvs",
    convention="dat2mat",
    network="vggsnn",
    modes=("time", "polarity", "x"),
    time_steps=10,
    size=48,
    epochs=150,
    batch_size=128,
    loss="tet",
)
RESNET = replace(
    Config(),
    data="n-caltech101",
    network="resnet34-est",
    modes=("time", "polarity", "x"),
    epochs=30,
    batch_size=4,
    learning_rate=1e-4,
    schedule="halving",
)

RECIPE = Recipe(
    config=Config,
    train=train,
    presets={
        "default": Preset(
            "60 epochs of a small spiking network, for small recordings.", Config(), RunOptions()
        ),
        "cifar10-dvs": Preset(
            "VGGSNN on CIFAR10-DVS by TET's recipe [C] with EventID; the paper's own is unknown.",
            SPIKING,
            RunOptions(precision="mixed"),
        ),
        "n-caltech101": Preset(
            "ResNet-34 on the learned event spike tensor by EST's recipe [C] with EventID.",
            RESNET,
            RunOptions(),
        ),
        "n-cars": Preset("the same on N-CARS.", replace(RESNET, data="n-cars"), RunOptions()),
        "eventdrop": Preset(
            "the baseline EventDrop on N-Caltech101 by its code [C]: voxel grid, 200 epochs.",
            replace(
                RESNET, network="resnet34-voxels", augment="eventdrop", epochs=200, halve_after=100
            ),
            RunOptions(),
        ),
        "digits": Preset(
            "24 epochs of the small network on simulated digits, in a minute.", BASE, RunOptions()
        ),
        "smoke": Preset(
            "a few steps on simulated digits, to see that everything works.",
            replace(BASE, **SMOKE),
            RunOptions(),
        ),
    },
)
