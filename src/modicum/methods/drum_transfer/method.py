"""The entry of drum transfer in the catalogue: its verbs and recipes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from modicum.engine.run import RunOptions
from modicum.method import Method, Preset
from modicum.methods.drum_transfer.claim import study
from modicum.methods.drum_transfer.decoder import CausalModel
from modicum.methods.drum_transfer.evaluate import evaluate
from modicum.methods.drum_transfer.export import export
from modicum.methods.drum_transfer.predict import predict
from modicum.methods.drum_transfer.saved_models import build
from modicum.methods.drum_transfer.sources import DOWNLOAD
from modicum.methods.drum_transfer.survey import data
from modicum.methods.drum_transfer.train import Config, train


def example(network: nn.Module) -> tuple[Tensor]:
    """Some tokens, `(2, 12)`."""
    assert isinstance(network, CausalModel)
    return (torch.arange(24).reshape(2, 12) % network.vocabulary.size,)


SMALL: dict[str, Any] = {"width": 64, "layers": 2, "heads": 4, "mlp": 128, "dropout": 0.0}

METHOD = Method(
    name="drum-transfer",
    config=Config,
    presets={
        "default": Preset(
            "four epochs of whole records, one at a time, as in the paper (the service's defaults, "
            "inferred); a small decoder from scratch unless --model says otherwise.",
            Config(),
            RunOptions(clip=1.0),
        ),
        "smollm2": Preset(
            "the paper's recipe on SmolLM2-135M with adapters (specification, section 5).",
            Config(model="smollm2"),
            RunOptions(clip=1.0, precision="bf16"),
        ),
        "smollm2-full": Preset(
            "the same with all weights trained.",
            Config(model="smollm2", full=True),
            RunOptions(clip=1.0, precision="bf16"),
        ),
        "experiment": Preset(
            "arm A of the specification's section 8: 100 windows of 4 bars, SmolLM2-135M with "
            "adapters. --random-weights is arm B; --model scratch --window None --records 200 is "
            "arm C.",
            Config(model="smollm2", records=100, window=4, epochs=1, final_rate=0.05),
            RunOptions(clip=1.0, precision="bf16"),
        ),
        "smoke": Preset(
            "a few steps of a tiny decoder on made-up grooves, to see that everything works.",
            Config(records=12, window=2, epochs=2, batch_size=2, **SMALL),
            RunOptions(),
        ),
    },
    train=train,
    network=build,
    data=data,
    evaluate=evaluate,
    predict=predict,
    export=export,
    study=study,
    example=example,
    datasets={
        "groove": DOWNLOAD,
        "generated": "built in: made-up grooves of several styles, with fills, by rule",
    },
)
