"""What classifiers share: top-k, classes by name, scores."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from modicum.classification import (
    accuracies,
    class_mapping,
    likeliest,
    score,
    topk_correct,
    warn_at_chance,
)
from modicum.data.loader import Loader
from modicum.engine.random import SampleRandom
from modicum.engine.run import Run, RunOptions
from modicum.errors import DataError


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
    assert found == {"top1": 100, "top5": 100}


def test_scores_of_a_run(tmp_path: Any) -> None:
    options = RunOptions(device="cpu")
    with Run(tmp_path / "run", method="any", config=None, options=options, quiet=True) as run:
        found = score(LOGITS.__getitem__, batches(), run)
    expected = float(nn.functional.cross_entropy(LOGITS, LABELS))
    assert found == {"top1": 50, "val_loss": pytest.approx(expected)}


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
