"""The recipe of drum transfer and its presets."""

from __future__ import annotations

from modicum.engine.run import RunOptions
from modicum.method import Preset, Recipe
from modicum.methods.drum_transfer.train import Adaptation, Config, DecoderSize, train

SMALL = DecoderSize(width=64, layers=2, heads=4, mlp=128, dropout=0.0)

RECIPE = Recipe(
    config=Config,
    train=train,
    presets={
        "default": Preset(
            "four epochs of whole records, one at a time, as in the paper (the service's defaults, "
            "inferred); a small decoder from scratch unless --model says otherwise.",
            Config(),
            RunOptions(clip=1.0),
        ),
        "smollm2": Preset(
            "the paper's recipe on SmolLM2-135M with adapters.",
            Config(model="smollm2"),
            RunOptions(clip=1.0, precision="bf16"),
        ),
        "smollm2-full": Preset(
            "the same with all weights trained.",
            Config(model="smollm2", adaptation=Adaptation(full=True)),
            RunOptions(clip=1.0, precision="bf16"),
        ),
        "experiment": Preset(
            "does text help? (README, Results) 100 windows of 4 bars, SmolLM2-135M with adapters; "
            "beside it --random-weights, and --model scratch --window None --records 200.",
            Config(model="smollm2", records=100, window=4, epochs=1, final_rate=0.05),
            RunOptions(clip=1.0, precision="bf16"),
        ),
        "smoke": Preset(
            "a few steps of a tiny decoder on made-up grooves, to see that everything works.",
            Config(records=12, window=2, epochs=2, batch_size=2, size=SMALL),
            RunOptions(),
        ),
    },
)
