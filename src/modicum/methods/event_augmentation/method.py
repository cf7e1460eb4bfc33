"""The entry of the augmentations of events in the catalogue: their verbs and recipes."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from modicum.engine.random import generator
from modicum.engine.run import RunOptions
from modicum.events.datasets import SOURCES
from modicum.events.options import SMOKE
from modicum.events.survey import data
from modicum.method import Method, Preset
from modicum.methods.event_augmentation.claim import BASE, study
from modicum.methods.event_augmentation.est import EstClassifier
from modicum.methods.event_augmentation.inference import evaluate, export, predict
from modicum.methods.event_augmentation.resnet import ResNet34
from modicum.methods.event_augmentation.train import Config, train
from modicum.spiking.networks import SpikingNetwork


def network(kind: str, **arguments: Any) -> nn.Module:
    """The network of a file of weights."""
    builders: dict[str, Any] = {
        "est": EstClassifier,
        "resnet34": ResNet34,
        "spiking": SpikingNetwork,
    }
    return builders[kind](**arguments)


def example(network: nn.Module) -> tuple[Any, ...]:
    """Two samples for a network: frames `(2, 4, 2, H, W)`, images, or a batch of recordings."""
    random = generator("example")
    if isinstance(network, SpikingNetwork):
        return (torch.rand(2, 4, 2, *network.arguments["size"], generator=random),)
    if isinstance(network, ResNet34):
        return (torch.rand(2, network.arguments["in_channels"], 64, 64, generator=random),)
    from modicum.events import open_digits

    return (open_digits("test", 2).read(torch.arange(2).numpy()),)


SPIKING = Config(
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
RESNET = Config(
    data="n-caltech101",
    network="resnet34-est",
    modes=("time", "polarity", "x"),
    epochs=30,
    batch_size=4,
    learning_rate=1e-4,
    schedule="halving",
)

METHOD = Method(
    name="event-augmentation",
    config=Config,
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
        "n-cars": Preset(
            "the same on N-CARS.", dataclasses.replace(RESNET, data="n-cars"), RunOptions()
        ),
        "eventdrop": Preset(
            "the baseline EventDrop on N-Caltech101 by its code [C]: voxel grid, 200 epochs.",
            dataclasses.replace(
                RESNET, network="resnet34-voxels", augment="eventdrop", epochs=200, halve_after=100
            ),
            RunOptions(),
        ),
        "digits": Preset(
            "24 epochs of the small network on simulated digits, in a minute.", BASE, RunOptions()
        ),
        "smoke": Preset(
            "a few steps on simulated digits, to see that everything works.",
            dataclasses.replace(BASE, **SMOKE),
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
    datasets=SOURCES,
)
