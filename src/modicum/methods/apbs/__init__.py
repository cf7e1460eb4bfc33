"""APBS: associative plasticity between synapses for spiking networks, with STCF.

What `train` left is used so:

    trained = modicum.open("runs/spikes")
    trained.classes, trained.pipeline
    trained.predict("recordings/left/2.dat")["predictions"]  # classes, and the spikes it took
"""

from modicum.methods.apbs.association import AssociativeConv2d, AssociativeLinear
from modicum.methods.apbs.checkpoints import load_official
from modicum.methods.apbs.inference import evaluate, export, load_classifier, predict
from modicum.methods.apbs.networks import (
    BUILDERS,
    associative,
    build,
    light,
    nda_vgg11,
    small,
    vggsnn,
    vggsnn_stride,
)
from modicum.methods.apbs.probe import probe_convolution, probe_potentiation
from modicum.methods.apbs.stcf import STCF, Crops
from modicum.methods.apbs.train import Config, train
from modicum.spiking import LIF, SpikingLayer, SpikingNetwork
from modicum.spiking.statistics import count_spikes

VGGSNN = vggsnn

__all__ = [
    "BUILDERS",
    "LIF",
    "STCF",
    "VGGSNN",
    "AssociativeConv2d",
    "AssociativeLinear",
    "Config",
    "Crops",
    "SpikingLayer",
    "SpikingNetwork",
    "associative",
    "build",
    "count_spikes",
    "evaluate",
    "export",
    "light",
    "load_classifier",
    "load_official",
    "nda_vgg11",
    "predict",
    "probe_convolution",
    "probe_potentiation",
    "small",
    "train",
    "vggsnn",
    "vggsnn_stride",
]
