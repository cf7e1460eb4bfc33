from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from modicum.data.digits import read_digits


def test_the_digits_are_those_of_scikit_learn() -> None:
    pixels, digits = read_digits()
    expected = load_digits()
    assert np.array_equal(pixels, expected.data)
    assert np.array_equal(digits, expected.target)
    assert pixels.dtype == np.float64
    assert digits.dtype == np.int64
