from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.data.sample_set import SampleSet, held_out
from modicum.errors import ConfigError


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    share=st.floats(0.01, 0.99),
)
def test_held_out_share(counts, share):
    labels = np.repeat(np.arange(len(counts)), counts)
    names = [f"{label}/{number}" for number, label in enumerate(labels)]
    chosen = held_out(names, labels, share)
    for label, count in enumerate(counts):
        held = int(chosen[labels == label].sum())
        assert held == min(count - 1, max(1, round(share * count)))
    order = np.random.default_rng(0).permutation(len(names))
    again = held_out([names[number] for number in order], labels[order], share)
    assert (again == chosen[order]).all()


@dataclass(frozen=True, eq=False)
class Named(SampleSet):
    def picture(self, index: int) -> npt.NDArray[np.uint8]:
        raise NotImplementedError


def test_the_choice_is_that_of_always():
    """Results are compared across versions: these four have the smallest hashes."""
    names = np.array([f"{'ab'[number % 2]}/{number}.jpg" for number in range(20)])
    labelled = Named(("a", "b"), torch.arange(20) % 2, names, "")
    train, val = labelled.hold_out(0.2)
    assert val.names.tolist() == ["a/2.jpg", "b/3.jpg", "b/13.jpg", "a/16.jpg"]
    assert sorted([*train.names, *val.names]) == sorted(names)


def without_labels(count: int) -> Named:
    return Named((), torch.empty(count, 0), np.array([f"{n}.jpg" for n in range(count)]), "")


def test_a_share_of_all_is_held_out_without_labels():
    train, val = without_labels(20).hold_out(0.25)
    assert (len(train), len(val)) == (15, 5)
    assert train.labels.shape == (15, 0)
    scored = Named((), torch.linspace(0, 1, 20), without_labels(20).names, "")
    assert scored.hold_out(0.25)[1].names.tolist() == val.names.tolist()


@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_a_group_is_on_one_side(share):
    groups = np.arange(60) % 11
    train, val = without_labels(60).hold_out(share, groups)
    of_name = dict(zip(without_labels(60).names, groups, strict=True))
    held = {of_name[name] for name in val.names}
    assert len(held) == min(10, max(1, round(share * 11)))
    assert held.isdisjoint(of_name[name] for name in train.names)
    more = without_labels(71).hold_out(share, np.arange(71) % 11)[1]
    assert set(val.names) <= set(more.names)  # because of the groups' names alone


def test_groups_that_divide_nothing_are_refused():
    with pytest.raises(ConfigError, match="groups: 4 samples"):
        without_labels(4).hold_out(0.5, ["a"] * 4)
    with pytest.raises(ConfigError, match="found 3"):
        without_labels(4).hold_out(0.5, ["a", "b", "c"])
