"""VGNet: image classifiers of 1 to 5 million parameters, designed from visualised kernels.

What `train` left is used so:

    trained = modicum.open("runs/photos")
    trained.classes, trained.pipeline
    trained.probabilities("photos/red/0.jpg")  # (1, classes); also of images in memory
"""

from modicum.methods.vgnet.checkpoints import load_official
from modicum.methods.vgnet.fold import fold
from modicum.methods.vgnet.inference import evaluate, export, load_classifier, predict
from modicum.methods.vgnet.model import (
    BUILDERS,
    VGNet,
    count_multiply_adds,
    count_parameters,
    vgnetc_1_0mp,
    vgnetc_1_5mp,
    vgnete_1_5mp,
    vgnetf_1_5mp,
    vgnetg_1_0mp,
    vgnetg_1_0mp_se,
    vgnetg_1_0mp_silu,
    vgnetg_1_5mp,
    vgnetg_1_5mp_se,
    vgnetg_1_5mp_silu,
    vgnetg_2_0mp,
    vgnetg_2_0mp_se,
    vgnetg_2_5mp,
    vgnetg_2_5mp_se,
    vgnetg_5_0mp,
    vgnetg_5_0mp_se,
)
from modicum.methods.vgnet.train import Config, train

__all__ = [
    "BUILDERS",
    "Config",
    "VGNet",
    "count_multiply_adds",
    "count_parameters",
    "evaluate",
    "export",
    "fold",
    "load_classifier",
    "load_official",
    "predict",
    "train",
    "vgnetc_1_0mp",
    "vgnetc_1_5mp",
    "vgnete_1_5mp",
    "vgnetf_1_5mp",
    "vgnetg_1_0mp",
    "vgnetg_1_0mp_se",
    "vgnetg_1_0mp_silu",
    "vgnetg_1_5mp",
    "vgnetg_1_5mp_se",
    "vgnetg_1_5mp_silu",
    "vgnetg_2_0mp",
    "vgnetg_2_0mp_se",
    "vgnetg_2_5mp",
    "vgnetg_2_5mp_se",
    "vgnetg_5_0mp",
    "vgnetg_5_0mp_se",
]
