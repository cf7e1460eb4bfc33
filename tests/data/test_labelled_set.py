from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.data.labelled_set import held_out


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
