"""Toy: what a method is, as small as can be."""

from modicum.methods.toy.losses import nearest_loss
from modicum.methods.toy.networks import PointNetwork

__all__ = ["PointNetwork", "nearest_loss"]
