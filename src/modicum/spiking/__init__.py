"""Spiking neural networks: neurons, layers, networks, losses, statistics of spikes."""

from modicum.spiking.layers import SpikingLayer
from modicum.spiking.losses import mean_cross_entropy, tet_loss
from modicum.spiking.networks import (
    BUILDERS,
    SpikingNetwork,
    light,
    nda_vgg11,
    small,
    vggsnn,
    vggsnn_stride,
)
from modicum.spiking.neurons import LIF
from modicum.spiking.statistics import count_spikes

__all__ = [
    "BUILDERS",
    "LIF",
    "SpikingLayer",
    "SpikingNetwork",
    "count_spikes",
    "light",
    "mean_cross_entropy",
    "nda_vgg11",
    "small",
    "tet_loss",
    "vggsnn",
    "vggsnn_stride",
]
