"""A small vision transformer from a big masked-image-modelling teacher (TinyMIM, CVPR 2023).

The loss alone, of networks of your own or of files:

    import torch
    from modicum.methods import tinymim
    student = tinymim.vit_tiny(image_size=16, patch=4, channels=1, last_heads=6)
    teacher = tinymim.read_encoder("digits")  # a small one that comes along
    distillation = tinymim.RelationDistillation(teacher, student, teacher_layer=4)
    losses = distillation(torch.zeros(2, 1, 16, 16))  # "qk" and "vv", scalars
"""

from modicum.methods.tinymim.checkpoints import read_encoder
from modicum.methods.tinymim.distillation import RelationDistillation
from modicum.methods.tinymim.inference import evaluate, export, load_model, predict
from modicum.methods.tinymim.losses import relation_divergence, relation_logits, relations
from modicum.methods.tinymim.networks.builders import (
    BUILDERS,
    vit_base,
    vit_large,
    vit_small,
    vit_tiny,
    vit_tiny_star,
)
from modicum.methods.tinymim.networks.mae import MaskedAutoencoder
from modicum.methods.tinymim.networks.upernet import SegmentationEncoder, UPerNet
from modicum.methods.tinymim.networks.vit import VisionTransformer

__all__ = [
    "BUILDERS",
    "MaskedAutoencoder",
    "RelationDistillation",
    "SegmentationEncoder",
    "UPerNet",
    "VisionTransformer",
    "evaluate",
    "export",
    "load_model",
    "predict",
    "read_encoder",
    "relation_divergence",
    "relation_logits",
    "relations",
    "vit_base",
    "vit_large",
    "vit_small",
    "vit_tiny",
    "vit_tiny_star",
]
