from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.data import sample_set
from modicum.data.sample_set import SampleSet, describe, held_out
from modicum.errors import ConfigError
from modicum.images.image_set import MemoryImages


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


def of_memory(pixels: torch.Tensor) -> MemoryImages:
    names = np.array([f"part/{number}" for number in range(len(pixels))])
    return MemoryImages(("a",), torch.zeros(len(pixels), dtype=torch.int64), names, "", pixels)


def changed(before: dict[str, Any], now: dict[str, Any]) -> set[str]:
    assert {**before, "digest": 0} == {**now, "digest": 0}
    return {name for name, digest in now["digest"].items() if before["digest"][name] != digest}


def test_a_changed_sample_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.zeros(5, 3, 4, 4, dtype=torch.uint8)
    other = pixels.clone()
    other[3, 2, 1, 0] = 1
    before, now = (describe(train=of_memory(one)) for one in (pixels, other))
    assert changed(before, now) == {"part/3 (train)"}
    monkeypatch.setattr(sample_set, "NAMED_SAMPLES", 4)
    before, now = (describe(train=of_memory(one)) for one in (pixels, other))
    assert changed(before, now) == {"part (train)"}
    one, two = (dataclasses.replace(of_memory(x), made_up=True) for x in (pixels, other))
    assert describe(train=one) == describe(train=two)


def test_a_changed_file_is_named_and_of_large_sets_a_changed_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(name: str, *contents: bytes) -> dict[str, Any]:
        (tmp_path / name).mkdir()
        for number, content in enumerate(contents):
            (tmp_path / name / str(number)).write_bytes(content)
        names = np.array(["0", "1"])
        return describe(all=Named((), torch.empty(2, 0), names, "", read_from=tmp_path / name))

    before = written("a", b"one", b"two")
    assert before == written("moved", b"one", b"two")
    assert changed(before, written("b", b"one", b"tow")) == {"1 (all)"}
    monkeypatch.setattr(sample_set, "READ_BYTES", 5)
    before = written("c", b"one", b"two")
    assert before == written("d", b"one", b"tow")
    assert changed(before, written("e", b"four", b"two")) == {"0 (all)"}
