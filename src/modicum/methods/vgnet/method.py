"""What VGNet offers, by name."""

from __future__ import annotations

from modicum.method import Method

METHOD = Method(
    name="vgnet",
    recipes={"train": ".presets:RECIPE"},
    verbs={
        "data": ".survey:data",
        "evaluate": ".inference:evaluate",
        "predict": ".inference:predict",
        "export": ".inference:export",
    },
    network=".networks:network",
    example=".networks:example",
    model=".inference:load_classifier",
    study=".claim:study",
    datasets=".survey:DATASETS",
)
