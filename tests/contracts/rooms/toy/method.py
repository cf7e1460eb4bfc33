"""What the toy method offers, by name."""

from __future__ import annotations

from modicum.method import Method

METHOD = Method(
    name="toy",
    recipes={"teacher": ".presets:TEACHER", "student": ".presets:STUDENT"},
    verbs={
        "data": ".survey:data",
        "evaluate": ".inference:evaluate",
        "predict": ".inference:predict",
        "export": ".inference:export",
    },
    network=".networks:PointNetwork",
    example=".networks:example",
    model="modicum.method:load_saved",
    study=".claim:study",
    datasets=".survey:DATASETS",
)
