"""What drum transfer offers, by name."""

from __future__ import annotations

from modicum.method import Method

METHOD = Method(
    name="drum-transfer",
    recipes={"train": ".presets:RECIPE"},
    verbs={
        "data": ".survey:data",
        "evaluate": ".evaluate:evaluate",
        "predict": ".predict:predict",
        "export": ".export:export",
        "analyse": ".analyse:analyse",
        "listen": ".listen:listen",
    },
    network=".saved_models:build",
    example=".saved_models:example",
    study=".claim:study",
    datasets=".sources:DATASETS",
)
