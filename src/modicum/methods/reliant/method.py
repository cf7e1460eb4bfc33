"""What RELIANT offers, by name."""

from __future__ import annotations

from modicum.method import Method

METHOD = Method(
    name="reliant",
    recipes={"teacher": ".presets:TEACHER", "distil": ".presets:DISTIL"},
    verbs={
        "data": ".survey:data",
        "evaluate": ".inference:evaluate",
        "predict": ".inference:predict",
        "export": ".inference:export",
        "pareto": ".pareto:pareto",
    },
    network=".model:build",
    example=".model:example",
    study=".claim:study",
    datasets=".sources:DATASETS",
)
