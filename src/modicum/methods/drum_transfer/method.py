"""What drum transfer offers, by name."""

from __future__ import annotations

from modicum.method import Method

METHOD = Method(
    name="drum-transfer",
    recipes={"train": ".presets:RECIPE"},
    verbs={
        "data": ".verbs.survey:data",
        "evaluate": ".verbs.evaluate:evaluate",
        "predict": ".verbs.predict:predict",
        "export": ".verbs.export:export",
        "analyse": ".verbs.analyse:analyse",
        "listen": ".verbs.listen:listen",
    },
    network=".saved_models:build",
    example=".saved_models:example",
    model=".models.drummer:Drummer.load",
    study=".claim:study",
    datasets=".data.sources:DATASETS",
)
