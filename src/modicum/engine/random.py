"""Randomness as a function of (seed, epoch, index), never of history.

Every random number a run uses is computed from a key: the run's seed, what the number is for, and
where in the data it is used. Nothing advances a hidden state, so data order and augmentation of a
sample depend neither on workers, nor on the number of processes, nor on whether a run was resumed.

The numbers come from the SplitMix64 finaliser (Steele, Lea and Flood, "Fast splittable pseudorandom
number generators", OOPSLA 2014) applied to a chained key. It is vectorised over samples in NumPy's
wrapping 64-bit integers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

Key: TypeAlias = int | str

_GOLDEN_RATIO = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def _mix(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
    return bits ^ (bits >> np.uint64(31))


def fold_keys(*keys: Key) -> int:
    """One 64-bit number for a sequence of integers and strings, the same in every process."""
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def generator(*keys: Key) -> torch.Generator:
    """A CPU `torch.Generator` whose state is a function of `keys` alone."""
    return torch.Generator().manual_seed(fold_keys(*keys) >> 1)


def permutation(length: int, *keys: Key) -> npt.NDArray[np.int64]:
    """A permutation of `range(length)`, shape `(length,)`, that is a function of `keys` alone."""
    return np.random.Generator(np.random.Philox(key=fold_keys(*keys))).permutation(length)


def uniform(index: npt.ArrayLike, draws: int, *keys: Key) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) that belong to samples, whatever batch the samples are in.

    Args:
        index: Index of each sample in its data set, shape `(batch,)`, integers of at least 0.
        draws: How many numbers each sample needs.
        keys: What the numbers are for, usually `(seed, epoch, "name of the augmentation")`.

    Returns:
        Shape `(batch, draws)`, float64. Row `i` depends on `keys` and `index[i]` only.
    """
    samples: npt.NDArray[np.uint64] = np.asarray(index, dtype=np.uint64)[:, None]
    columns: npt.NDArray[np.uint64] = np.arange(1, draws + 1, dtype=np.uint64)[None, :]
    base = np.uint64(fold_keys(*keys))
    with np.errstate(over="ignore"):  # 64-bit arithmetic is meant to wrap
        bits = _mix(_mix(base + samples * _GOLDEN_RATIO) + columns * _GOLDEN_RATIO)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


@dataclass(frozen=True)
class SampleRandom:
    """The random numbers of a batch of samples: functions of (seed, epoch, sample) alone."""

    seed: int
    epoch: int
    index: npt.NDArray[np.int64]
    """Index of each sample in its data set, shape (B,)."""

    def uniform(self, draws: int, name: str) -> npt.NDArray[np.float64]:
        """Numbers in [0, 1) of shape `(B, draws)`; `name` says what for. See `uniform`."""
        return uniform(self.index, draws, self.seed, self.epoch, name)

    def normal(self, draws: int, name: str) -> npt.NDArray[np.float64]:
        """Standard normal numbers of shape `(B, draws)`; `name` says what for."""
        centred = torch.from_numpy(self.uniform(draws, name) * 2 - 1).clamp_(min=2.0**-53 - 1)
        return (torch.erfinv(centred) * 2**0.5).numpy()
