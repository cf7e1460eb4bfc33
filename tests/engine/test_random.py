"""Randomness is a function of its keys, and is random."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from modicum.engine.random import fold_keys, generator, permutation, uniform


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=20), st.integers(1, 5))
def test_a_sample_keeps_its_numbers_in_any_batch(index: list[int], draws: int) -> None:
    together = uniform(index, draws, 7, 3, "flip")
    alone = np.concatenate([uniform([i], draws, 7, 3, "flip") for i in index])
    np.testing.assert_array_equal(together, alone)
    assert together.shape == (len(index), draws)
    assert ((together >= 0) & (together < 1)).all()


def test_numbers_are_uniform_and_independent() -> None:
    numbers = uniform(np.arange(20_000), 4, 0, 0, "test")
    for column in numbers.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    correlations = np.corrcoef(np.c_[numbers, np.roll(numbers, 1, axis=0)].T) - np.eye(8)
    assert np.abs(correlations).max() < 0.03


def test_every_key_matters() -> None:
    base = uniform([5], 1, 0, 0, "crop")
    for other in (uniform([6], 1, 0, 0, "crop"), uniform([5], 1, 1, 0, "crop")):
        assert base != other
    assert base != uniform([5], 1, 0, 1, "crop")
    assert base != uniform([5], 1, 0, 0, "flip")
    assert fold_keys(1, "2") != fold_keys("1", 2)


def test_permutations_and_generators_are_functions_of_their_keys() -> None:
    order = permutation(1000, 0, 1, "order")
    np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    np.testing.assert_array_equal(order, permutation(1000, 0, 1, "order"))
    assert (order != permutation(1000, 0, 2, "order")).any()
    assert generator(1, "a").initial_seed() == generator(1, "a").initial_seed()
    assert generator(1, "a").initial_seed() != generator(1, "b").initial_seed()


def test_the_numbers_never_change() -> None:
    """Results of old runs can be reproduced only while these stay as they are."""
    assert fold_keys(0, "order") == 14535328599173025945
    assert uniform([0, 1], 2, 0, "a").tolist() == [
        [0.045269325089923096, 0.948205636468883],
        [0.3973044339453129, 0.9204430852128129],
    ]
    assert permutation(6, 0).tolist() == [0, 1, 5, 4, 3, 2]
