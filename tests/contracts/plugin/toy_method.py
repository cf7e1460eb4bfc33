"""The line of the toy method in the catalogue, and where its room is."""

from __future__ import annotations

from pathlib import Path


def install() -> None:
    """Put the toy method into the catalogue of this process."""
    from modicum import catalogue, methods

    rooms = str(Path(__file__).parents[1] / "rooms")
    if rooms not in methods.__path__:
        methods.__path__.append(rooms)
    catalogue.CATALOGUE["toy"] = catalogue.Card(
        scarce="everything",
        title="Toy: what a method is, as small as can be",
        paper="none",
        recipes={
            "teacher": "a regression on points",
            "student": "a smaller one that learns from a teacher's run",
        },
    )
