"""EventReverse and EventDrift: classifiers of event recordings that survive other light.

What `train` left is used so:

    trained = modicum.open("runs/events")
    trained.classes, trained.pipeline
    trained.probabilities("recordings/left/2.dat")  # (1, classes); also of `events.Events`
"""

from modicum.methods.event_augmentation.augment import (
    ESTF,
    Compose,
    Drifts,
    EventDrift,
    EventID,
    EventInvert,
    EventReverse,
)
from modicum.methods.event_augmentation.checkpoints import load_est, load_torchvision
from modicum.methods.event_augmentation.est import EstClassifier, QuantizationLayer
from modicum.methods.event_augmentation.event_drop import Drops, EstShiftFlip, EventDrop
from modicum.methods.event_augmentation.inference import evaluate, export, load_classifier, predict
from modicum.methods.event_augmentation.nda import NDA, TetFlipRoll
from modicum.methods.event_augmentation.resnet import ResNet34
from modicum.methods.event_augmentation.train import Config, train

__all__ = [
    "ESTF",
    "NDA",
    "Compose",
    "Config",
    "Drifts",
    "Drops",
    "EstClassifier",
    "EstShiftFlip",
    "EventDrift",
    "EventDrop",
    "EventID",
    "EventInvert",
    "EventReverse",
    "QuantizationLayer",
    "ResNet34",
    "TetFlipRoll",
    "evaluate",
    "export",
    "load_classifier",
    "load_est",
    "load_torchvision",
    "predict",
    "train",
]
