"""How sets of recordings that come without splits are divided, by rules with names.

Accuracies under different rules are not comparable, so the rule is a part of a set's description.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from modicum.data.sample_set import check_share, held_out
from modicum.engine.random import permutation

Division: TypeAlias = Literal["tet", "tebn", "random", "hash"]
"""Which share of each class is for testing:

- `"tet"`: the last in numeric order; of CIFAR10-DVS 900 to 999, as Deng et al. (TET) have it;
- `"tebn"`: the first; of CIFAR10-DVS 0 to 99, as Duan et al. (TEBN) have it, which is easier;
- `"random"`: chosen by a seed;
- `"hash"`: those whose names have the smallest hashes, see `EventSet.hold_out`.
"""


def divide(
    names: Sequence[str],
    labels: npt.NDArray[np.int64],
    share: float,
    division: Division,
    seed: int = 0,
) -> npt.NDArray[np.bool_]:
    """Which samples are for testing, (N,): a share of each class, above 0 and below 1.

    Every class keeps at least one sample for training and, if it has two, gives at least one away.
    `names` are in numeric order within each class; `seed` is for the rule `"random"`.
    """
    check_share(share)
    if division == "hash":
        return held_out(names, labels, share)
    chosen = np.zeros(len(names), dtype=np.bool_)
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        count = min(len(members) - 1, max(1, round(share * len(members))))
        if division == "tet":
            members = members[::-1]
        elif division == "random":
            members = members[permutation(len(members), seed, "division", label)]
        chosen[members[:count]] = True
    return chosen


def describe(share: float, division: Division, seed: int = 0) -> str:
    """The rule for people, with its name."""
    rule = {
        "tet": "the last in numeric order",
        "tebn": "the first in numeric order",
        "random": f"chosen with seed {seed}",
        "hash": "the smallest hashes of names",
    }[division]
    return f"split '{division}' ({100 * share:g} % of each class held out: {rule})"
