"""What classifiers share: top-k, classes by name, scores."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from modicum.classification import (
    accuracies,
    class_mapping,
    evaluation,
    likeliest,
    score,
    topk_correct,
    validate,
    warn_at_chance,
)
from modicum.data.loader import Loader
from modicum.engine.random import SampleRandom
from modicum.engine.run import Run, RunOptions
from modicum.errors import DataError
from modicum.images import MemoryImages
from modicum.mistakes import Answers, of_classes


def test_topk() -> None:
    logits = torch.tensor([[0.1, 0.9, 0.5], [0.8, 0.1, 0.5], [0.1, 0.2, 0.9]])
    hits = topk_correct(logits, torch.tensor([1, 2, 0]), (1, 2, 5))
    assert hits.tolist() == [[True, False, False], [True, True, False], [True, True, True]]


def test_classes_are_mapped_by_name() -> None:
    assert class_mapping(("cat", "ant"), ("ant", "bee", "cat"), "x").tolist() == [2, 0]
    with pytest.raises(DataError, match=r"^x: .* on the class dog\. It knows: ant, bee"):
        class_mapping(("ant", "dog"), ("ant", "bee"), "x")
    with pytest.raises(DataError, match="on the classes dog, eel"):
        class_mapping(("dog", "ant", "eel"), ("ant", "bee"), "x")


def test_likeliest_classes() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    first, second = likeliest(logits, ("a", "b", "c"), 2)
    assert list(first) == ["class_1", "probability_1", "class_2", "probability_2"]
    assert (first["class_1"], first["class_2"], second["class_1"]) == ("b", "c", "a")
    found = (first["probability_1"], first["probability_2"], second["probability_1"])
    assert found == pytest.approx((0.665241, 0.244728, 0.909443), abs=2e-6)  # of 6 decimals
    (all_of_them,) = likeliest(logits[:1], ("a", "b", "c"), 5)
    assert [all_of_them[f"class_{k}"] for k in (1, 2, 3)] == ["b", "c", "a"]
    assert len(all_of_them) == 6


# Scores

LOGITS = torch.tensor([[0.1, 0.9, 0.5], [0.8, 0.1, 0.5], [0.1, 0.2, 0.9], [5.0, 4.0, 3.0]])
LABELS = torch.tensor([1, 2, 0, 0])


class Batch(NamedTuple):
    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    label: Tensor


def batches(samples: int = 4) -> Loader[Batch]:
    """Samples whose input is their number."""

    def make(random: SampleRandom) -> Batch:
        index = torch.from_numpy(random.index)
        return Batch(index, LABELS[index])

    return Loader(samples, 3, make, workers=0)


def test_accuracies_are_of_all_samples_and_map_classes() -> None:
    assert accuracies(LOGITS.__getitem__, batches(), ks=(1, 2)) == {"top1": 50, "top2": 75}
    mapping = torch.tensor([2, 1, 0])
    found = accuracies(LOGITS.__getitem__, batches(3), mapping=mapping)
    assert found == {"top1": 100}  # the five likeliest of three are always right


def test_scores_of_a_run(tmp_path: Any) -> None:
    options = RunOptions(device="cpu")
    with Run(tmp_path / "run", method="any", config=None, options=options, quiet=True) as run:
        found, answers = score(LOGITS.__getitem__, batches(), run, 3)
    assert Answers.joined(answers).confusion(3).tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 0]]
    expected = float(nn.functional.cross_entropy(LOGITS, LABELS))
    assert found == {"top1": 50, "val_loss": pytest.approx(expected)}


def test_evaluation_says_what_each_class_is_taken_for() -> None:
    names, same = ("ant", "bee", "cat"), torch.arange(3)
    found = evaluation(LOGITS.__getitem__, batches(), names, device="cpu", mapping=same)
    assert found == {
        "top1": 50,
        "classes": [
            {"class": "ant", "samples": 2, "accuracy": 50, "taken_for": {"ant": 1, "cat": 1}},
            {"class": "bee", "samples": 1, "accuracy": 100, "taken_for": {"bee": 1}},
            {"class": "cat", "samples": 1, "accuracy": 0, "taken_for": {"ant": 1}},
        ],
    }


def test_of_many_classes_the_worst_are_said() -> None:
    names = [f"c{number}" for number in range(40)]
    matrix = torch.eye(40, dtype=torch.int64) * 10
    matrix[39], matrix[38] = 0, 0
    matrix[39, 3], matrix[20, 19] = 5, 1
    worst = of_classes(names, matrix.tolist())["worst_classes"]
    assert [row["class"] for row in worst[:3]] == ["c39", "c20", "c0"]
    assert len(worst) == 30
    assert "c38" not in [row["class"] for row in worst]  # without samples


def test_a_run_ends_with_what_was_taken_for_what(tmp_path: Any) -> None:
    """Of the last network, the surest mistakes first; as pictures as well."""
    pixels = torch.zeros(4, 1, 5, 7, dtype=torch.uint8)
    names = np.array([f"{number}.png" for number in range(4)])
    held_out = MemoryImages(("ant", "bee", "cat"), LABELS, names, "made here", images=pixels)
    options, folder = RunOptions(device="cpu"), tmp_path / "run"
    with Run(folder, method="any", config=None, options=options, quiet=True) as run:
        for _ in run.batches(batches(), epochs=2):
            if run.epoch_ended:
                assert not (folder / "confusion.json").exists()
                sign = 1 if run.epoch else -1
                validate(lambda x, sign=sign: sign * LOGITS[x], batches(), run, held_out, epochs=2)
    found = json.loads((folder / "confusion.json").read_text())
    assert found["classes"] == ["ant", "bee", "cat"]
    assert found["matrix"] == [[1, 0, 1], [0, 1, 0], [1, 0, 0]]
    wrong = [(row["sample"], row["class"], row["taken_for"]) for row in found["mistakes"]]
    assert wrong == [("2.png", "ant", "cat"), ("1.png", "cat", "ant")]
    expected = LOGITS[2].softmax(0).max()
    assert found["mistakes"][0]["probability"] == pytest.approx(float(expected), abs=1e-4)
    with Image.open(folder / "pictures" / "mistakes.png") as picture:
        assert picture.size[0] > 2 * 128
    assert run.best == {"metric": "top1", "value": 50, "step": 4}


# Of 20 samples in 4 classes, guesses have more than 41 % right once in twenty times. Guessing has a
# loss of 1.39; with smoothing of 0.2 no loss is below 0.59 (natural logarithms).
@pytest.mark.parametrize(
    ("epoch", "best", "loss", "smoothing", "warns"),
    [
        (29, 40.0, 0.1, 0.0, True),
        (14, 25.0, 0.1, 0.0, True),
        (29, 40.0, 0.65, 0.2, True),
        (28, 25.0, 0.1, 0.0, False),  # not half way, nor the end
        (29, 45.0, 0.1, 0.0, False),  # above chance
        (29, 25.0, 1.2, 0.0, False),  # nothing is learned yet
        (29, 25.0, 1.1, 0.2, False),
        (29, math.nan, 0.1, 0.0, False),  # nothing is scored yet
    ],
)
def test_a_score_at_chance_is_warned_of_where_the_loss_is_low(
    epoch: int,
    best: float,
    loss: float,
    smoothing: float,
    warns: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    labels, classes = torch.arange(20) % 4, ("a", "b", "c", "d")
    run: Any = SimpleNamespace(
        epoch=epoch, best_score=best, recent={"loss": loss}.__getitem__, quiet=False
    )
    warn_at_chance(run, labels, classes, 30, smoothing=smoothing)
    assert bool(caplog.records) == warns
    if warns:
        assert f"the best is {best:.1f} %, naming the largest class gives 25.0 %" in caplog.text
    run.quiet = True
    caplog.clear()
    warn_at_chance(run, labels, classes, 30, smoothing=smoothing)
    assert not caplog.records


def test_of_very_many_classes_no_confusions_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modicum.classification.COUNTED_CLASSES", 2)
    names, same = ("ant", "bee", "cat"), torch.arange(3)
    found = evaluation(LOGITS.__getitem__, batches(), names, device="cpu", mapping=same)
    assert found == {"top1": 50}
