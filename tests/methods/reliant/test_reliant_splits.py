from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from modicum.errors import ConfigError, DataError
from modicum.methods.reliant.data.splits import Splits, read_splits, split_per_class


def test_splits_reproduce_the_shipped_files(shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("bail")
    labels = np.loadtxt(folder / "bail.csv", delimiter=",", skiprows=1)[:, 16].astype(int)
    shipped = read_splits(folder / "split")
    assert shipped is not None
    for made, published in zip(split_per_class(labels, 0.3, 0.2), shipped, strict=True):
        np.testing.assert_array_equal(made, published)
    assert [len(part) for part in shipped] == [5662, 3776, 9438]


def test_splits_have_the_published_sizes_of_dblp() -> None:
    labels = np.array([0] * (39_424 - 7_774) + [1] * 7_774)
    sizes = [len(part) for part in split_per_class(labels, 0.5, 0.25)]
    assert sizes == [19_712, 9_855, 9_857]


def test_splits_divide_every_labelled_node_once() -> None:
    labels = np.array([0, 1, -1, 2] * 25)
    splits = split_per_class(labels, 0.4, 0.2, seed=3)
    together = np.concatenate(splits)
    np.testing.assert_array_equal(np.sort(together), np.flatnonzero(labels >= 0))
    assert [np.bincount(labels[part]).tolist() for part in splits] == [[10] * 3, [5] * 3, [10] * 3]
    again = split_per_class(labels, 0.4, 0.2, seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(splits, again, strict=True))
    assert not np.array_equal(splits.train, split_per_class(labels, 0.4, 0.2, seed=4).train)


def test_splits_with_at_most_so_many() -> None:
    labels = np.array([0] * 300 + [1] * 700)
    limited = split_per_class(labels, 0.5, 0.25, at_most=200)
    whole = split_per_class(labels, 0.5, 0.25)
    assert [len(part) for part in limited] == [350, 250, 250]
    np.testing.assert_array_equal(limited.val, whole.val)
    np.testing.assert_array_equal(limited.test, whole.test)


@pytest.mark.parametrize(("train", "val"), [(0.0, 0.5), (1.0, 0.2), (0.5, 0.5), (0.5, -0.1)])
def test_splits_refuse_shares_that_leave_nothing(train: float, val: float) -> None:
    with pytest.raises(ConfigError):
        split_per_class([0, 1] * 10, train, val)


def test_splits_are_read_from_floats_and_refused_when_damaged(tmp_path: Path) -> None:
    assert read_splits(tmp_path) is None
    for name in Splits._fields:
        np.save(tmp_path / f"{name}_split.npy", np.array([1.0, 2.0]))
    splits = read_splits(tmp_path)
    assert splits is not None
    assert splits.val.dtype == np.int64
    np.save(tmp_path / "val_split.npy", np.array([1.5]))
    with pytest.raises(DataError, match=r"val_split.npy: expected whole numbers"):
        read_splits(tmp_path)
    np.save(tmp_path / "val_split.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"val_split.npy: no array"):
        read_splits(tmp_path)
    (tmp_path / "val_split.npy").unlink()
    with pytest.raises(DataError, match=r"val_split.npy: absent"):
        read_splits(tmp_path)


def test_an_npz_under_the_name_of_an_array(tmp_path: Path) -> None:
    for name in Splits._fields:
        with (tmp_path / f"{name}_split.npy").open("wb") as file:
            np.savez(file, a=np.array([1]))
    with pytest.raises(DataError, match=r"train_split.npy: expected one array"):
        read_splits(tmp_path)
    header = (b"\x93NUMPY\1\0" + (118).to_bytes(2, "little")) + (
        b"{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + b"\n"
    )
    (tmp_path / "train_split.npy").write_bytes(header)
    with pytest.raises(DataError, match="claims the shape"):
        read_splits(tmp_path)
