"""What every set of samples has: labels or none, names, and ways to take a part of it."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import Self

from modicum.errors import ConfigError
from modicum.system.files import file_digest
from modicum.system.threads import in_threads


class BadFile(NamedTuple):
    """A file that cannot be used."""

    name: str
    """Path below the set's folder."""
    reason: str


@dataclass(frozen=True, eq=False)
class SampleSet(ABC):
    """Samples of one split, with labels or without."""

    classes: tuple[str, ...]
    """Name of each class; a label is an index into it. None where labels are not classes."""
    labels: Tensor
    """(N,), int64 for classes; (N,0) in a set without labels."""
    names: npt.NDArray[np.str_]
    """What identifies each sample, (N,): the file's path below the set's folder, with slashes."""
    layout: str
    """How the data was recognised and divided, for people."""
    skipped: tuple[BadFile, ...] = dataclasses.field(default=(), kw_only=True)
    """Unusable files that were left out on request."""
    read_from: Path | None = dataclasses.field(default=None, kw_only=True)
    """Of files that are held in memory, the folder that `names` are below."""
    made_up: bool = dataclasses.field(default=False, kw_only=True)
    """Whether the samples are computed, perhaps with other rounding on another machine."""

    def __post_init__(self) -> None:
        if not len(self.labels) == len(self.names):
            raise ValueError(
                f"expected one label for each of {len(self.names)} names, found {len(self.labels)}"
            )

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def picture(self, index: int) -> npt.NDArray[np.uint8]:
        """A sample for people to look at: `(height, width, 3)` or `(height, width)`.

        Raises:
            DataError: Its file cannot be decoded.
        """

    def values(self, number: int) -> bytes:
        """All numbers of a sample, if it is held in memory."""
        raise NotImplementedError

    def subset(self, index: npt.NDArray[np.int64]) -> Self:
        """The samples at `index`, in that order, as a set of the same kind."""
        keep = torch.from_numpy(index)
        return dataclasses.replace(self, labels=self.labels[keep], names=self.names[index])

    def hold_out(
        self, share: float, groups: Sequence[object] | npt.NDArray[Any] | None = None
    ) -> tuple[Self, Self]:
        """Split off a share for validation: (training, held-out).

        A share of each class is held out, of a set without classes a share of all; with groups, a
        share of the groups. A sample is held out because of its name alone, or of its group's
        (those with the smallest hashes are), so that the split is the same everywhere and hardly
        changes when samples are added. Every class keeps at least one sample for training and, if
        it has two, gives at least one away.

        Args:
            share: Above 0 and below 1.
            groups: What each sample belongs to, (N,), such as a patient, a scene or a reference
                picture; named by `str`. The samples of a group end up on one side.

        Raises:
            ConfigError: `share` is not between 0 and 1, or there are not as many groups as samples
                or less than two different ones.
        """
        check_share(share)
        if groups is not None:
            chosen = _held_out_groups([str(group) for group in groups], len(self), share)
        else:
            chosen = self.held_out(share)
        return self.subset(np.flatnonzero(~chosen)), self.subset(np.flatnonzero(chosen))

    def held_out(self, share: float) -> npt.NDArray[np.bool_]:
        """Which samples `hold_out` holds out where there are no groups, (N,)."""
        divided = self.classes and self.labels.ndim == 1
        labels = self.labels.numpy() if divided else np.zeros(len(self), np.int64)
        return held_out([str(name) for name in self.names], labels, share)


READ_BYTES = 1 << 30
"""Files of a set that are read to tell whether it changed; of larger sets the sizes must do."""

NAMED_SAMPLES = 10_000
"""Samples of which each has a digest of its own, so that it is named when it has changed."""


def describe(**splits: SampleSet) -> dict[str, Any]:
    """What tells data sets apart, for `Run.register_data`, wherever they lie.

    Args:
        **splits: By name, such as `train`.

    Returns:
        Classes; samples of each split, by class where labels are classes; and digests of names,
        labels and contents. Of files above `READ_BYTES` in all only the sizes count, of samples
        that are made up nothing but names and labels.
    """
    digests, described = dict[str, str](), dict[str, Any]()
    for split, samples in splits.items():
        names = list(map(str, samples.names))
        digest = hashlib.sha256()
        digest.update(repr((samples.classes, names)).encode(errors="surrogateescape"))
        digest.update(samples.labels.numpy().tobytes())
        digests[f"names and labels of {split}"] = digest.hexdigest()
        digests |= _digests_of_samples(samples, split)
        described[split] = len(names)
        if samples.classes and samples.labels.ndim == 1:
            described["classes"] = list(samples.classes)
            counts = torch.bincount(samples.labels, minlength=len(samples.classes)).tolist()
            described[split] = dict(zip(samples.classes, counts, strict=True))
    return described | {"digest": digests}


def _digests_of_samples(samples: SampleSet, split: str) -> dict[str, str]:
    folder: Path | None = getattr(samples, "root", samples.read_from)
    if folder is not None:
        names = list(dict.fromkeys(map(str, getattr(samples, "files", samples.names))))
        sizes = in_threads(lambda name: (folder / name).stat().st_size, names)
        if sum(sizes) <= READ_BYTES:
            return digests_of(split, names, in_threads(lambda x: file_digest(folder / x), names))
        return digests_of(split, names, map(str, sizes))
    if samples.made_up:
        return {}
    hashes = (hashlib.sha256(samples.values(n)).hexdigest() for n in range(len(samples)))
    return digests_of(split, map(str, samples.names), hashes)


def digests_of(split: str, names: Iterable[str], hashes: Iterable[str]) -> dict[str, str]:
    """A digest for each sample of a split, of many samples for each folder in their names."""
    names = list(names)
    found: dict[str, Any] = {}
    for name, of_sample in zip(names, hashes, strict=True):
        place = name if len(names) <= NAMED_SAMPLES else name.rpartition("/")[0] or "samples"
        found.setdefault(f"{place} ({split})", hashlib.sha256()).update(of_sample.encode())
    return {name: digest.hexdigest()[:8] for name, digest in found.items()}


def check_share(share: float) -> None:
    """Raise a `ConfigError` where a share to hold out is not between 0 and 1."""
    if not 0.0 < share < 1.0:
        raise ConfigError(
            f"holdout: a share of the samples is needed, above 0 and below 1, found {share}."
        )


def held_out(
    names: Sequence[str], labels: npt.NDArray[np.int64], share: float
) -> npt.NDArray[np.bool_]:
    """Which of the named samples `SampleSet.hold_out` holds out of each class, (N,)."""
    hashes = [hashlib.blake2b(name.encode(errors="surrogateescape")).digest() for name in names]
    order = sorted(range(len(names)), key=lambda sample: (labels[sample], hashes[sample]))
    chosen = np.zeros(len(names), dtype=np.bool_)
    counts = np.bincount(labels)
    for start, count in zip(np.cumsum(counts) - counts, counts, strict=True):
        wanted = min(count - 1, max(1, round(share * count)))
        chosen[order[start : start + max(wanted, 0)]] = True
    return chosen


def _held_out_groups(groups: Sequence[str], samples: int, share: float) -> npt.NDArray[np.bool_]:
    names, group = np.unique(np.array(groups, np.str_), return_inverse=True)
    if len(group) != samples or len(names) < 2:
        raise ConfigError(
            f"groups: {samples} samples need a group each, at least two different ones; found "
            f"{len(group)} with {len(names)} different ones."
        )
    return held_out(names.tolist(), np.zeros(len(names), np.int64), share)[group]
