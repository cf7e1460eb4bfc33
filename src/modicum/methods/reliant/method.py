"""What RELIANT offers, by name."""

from __future__ import annotations

from modicum.method import Method

METHOD = Method(
    name="reliant",
    recipes={"teacher": ".presets:TEACHER", "distil": ".presets:DISTIL"},
    verbs={
        "data": ".data.survey:data",
        "evaluate": ".inference:evaluate",
        "predict": ".inference:predict",
        "export": ".inference:export",
        "pareto": ".pareto:pareto",
    },
    network=".networks.distilled:build",
    example=".networks.distilled:example",
    model=".inference:Trained.load",
    study=".claim:study",
    datasets=".data.sources:DATASETS",
)
