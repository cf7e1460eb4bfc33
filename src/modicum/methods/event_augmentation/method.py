"""What the room of the augmentations of events offers, by name."""

from __future__ import annotations

from modicum.method import Method

METHOD = Method(
    name="event-augmentation",
    recipes={"train": ".presets:RECIPE"},
    verbs={
        "data": "modicum.events.verbs:data",
        "evaluate": ".inference:evaluate",
        "predict": ".inference:predict",
        "export": ".inference:export",
    },
    network=".networks:network",
    example=".networks:example",
    model=".inference:load_classifier",
    study=".claim:study",
    datasets="modicum.events.datasets:SOURCES",
    notes="modicum.events.options:Notes",
)
