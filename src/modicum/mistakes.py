"""What a classifier takes samples for: accuracy of each class, confusions, its surest mistakes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from modicum.data.sample_set import SampleSet
from modicum.system.files import atomic_write, write_text
from modicum.system.terminal import ByName

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self

SHOWN = 16
"""Mistakes that are listed and drawn: the surest."""
MOST_CLASSES = 30
"""Of a table for the eye; of more classes those with the most mistakes are shown."""

COUNTED_CLASSES = 2000
"""Of more classes confusions are neither counted nor written: their matrix would take gigabytes."""


class Answers(NamedTuple):
    """A network's answers on labelled samples, a row a sample."""

    sample: Tensor
    """Its number in the set, int64 (N,)."""
    label: Tensor
    """Its class, int64 (N,)."""
    taken_for: Tensor
    """The likeliest class by the network, int64 (N,)."""
    probability: Tensor
    """Of that class, float32 (N,)."""

    @classmethod
    def of(cls, logits: Tensor, label: Tensor, sample: Tensor) -> Self:
        """Answers of class scores (N,classes) on the CPU."""
        best = logits.softmax(1).max(1)
        return cls(sample, label, best.indices, best.values)

    @classmethod
    def joined(cls, parts: Sequence[Answers]) -> Self:
        """All of several."""
        return cls(*map(torch.cat, zip(*parts, strict=True)))

    def confusion(self, classes: int) -> Tensor:
        """How many samples of each class (rows) were taken for each: int64 (classes,classes)."""
        pairs = self.label * classes + self.taken_for
        return torch.bincount(pairs, minlength=classes**2).view(classes, classes)

    def surest_mistakes(self, most: int = SHOWN) -> list[int]:
        """Rows whose class was not seen, those of the highest probability first."""
        wrong = (self.label != self.taken_for).nonzero()[:, 0]
        order = self.probability[wrong].argsort(descending=True, stable=True)
        return wrong[order][:most].tolist()


def of_classes(classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Confusions as a verb returns them: a record for each class that has samples.

    Args:
        classes: Their names.
        matrix: How many samples of each class (rows) were taken for each.

    Returns:
        `classes`, in their order; of more than 30 `worst_classes`, those with the most mistakes:
        name, samples, accuracy in percent, and how many samples were `taken_for` which class.
    """
    records: list[dict[str, Any]] = []
    for place, (name, counts) in enumerate(zip(classes, matrix, strict=True)):
        if total := sum(counts):
            taken = ByName((c, n) for c, n in zip(classes, counts, strict=True) if n)
            record = {"class": name, "samples": total, "accuracy": 100 * counts[place] / total}
            records.append(record | {"taken_for": taken})
    if len(records) <= MOST_CLASSES:
        return {"classes": records}
    records.sort(key=lambda record: record["samples"] * (record["accuracy"] - 100))
    return {"worst_classes": records[:MOST_CLASSES]}


def write_confusion(
    folder: Path,
    classes: Sequence[str],
    matrix: Sequence[Sequence[int]],
    mistakes: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write `confusion.json` into a run folder.

    Args:
        folder: A run folder.
        classes: Their names.
        matrix: How many samples of each class (rows) were taken for each.
        mistakes: Of single samples: `sample`, `class`, `taken_for`, `probability`.
    """
    found = {"classes": classes, "matrix": matrix, "mistakes": mistakes}
    write_text(folder / "confusion.json", json.dumps(found) + "\n")


def keep(folder: Path, answers: Answers, samples: SampleSet) -> None:
    """Leave the confusions and the surest mistakes in a run folder, for its report.

    `confusion.json` is that of `write_confusion`; `pictures/mistakes.png` shows the mistakes.

    Args:
        folder: A run folder.
        answers: Of the run's network.
        samples: What they are about.
    """
    names = samples.classes
    if len(names) > COUNTED_CLASSES:
        return
    matrix, surest = answers.confusion(len(names)).tolist(), answers.surest_mistakes()
    mistakes = [
        {
            "sample": str(samples.names[answers.sample[row]]),
            "class": names[answers.label[row]],
            "taken_for": names[answers.taken_for[row]],
            "probability": round(float(answers.probability[row]), 4),
        }
        for row in surest
    ]
    write_confusion(folder, names, matrix, mistakes)
    if not mistakes:
        return
    from modicum.images.sheet import contact_sheet

    pictures = [samples.picture(int(answers.sample[row])) for row in surest]
    titles = [
        f"{each['class']}\nas {each['taken_for']}, {100 * each['probability']:.0f} %"
        for each in mistakes
    ]
    (folder / "pictures").mkdir(exist_ok=True)
    caption = "The surest mistakes on held-out samples: their class, and what they were taken for."
    write_text(folder / "pictures" / "mistakes.txt", caption + "\n")
    with atomic_write(folder / "pictures" / "mistakes.png") as file:
        file.write(contact_sheet(pictures, titles))
