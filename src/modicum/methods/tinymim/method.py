"""What TinyMIM offers, by name."""

from __future__ import annotations

from modicum.method import Method

METHOD = Method(
    name="tinymim",
    recipes={
        "mae": ".presets:MAE",
        "distil": ".presets:DISTIL",
        "finetune": ".presets:FINETUNE",
        "segment": ".presets:SEGMENT",
    },
    verbs={
        "data": ".survey:data",
        "evaluate": ".inference:evaluate",
        "predict": ".inference:predict",
        "export": ".inference:export",
    },
    network=".networks.all:network",
    model=".inference:load_model",
    example=".networks.all:example",
    study=".claim:study",
    datasets=".survey:DATASETS",
)
