"""What every classifier shares, whatever it looks at: top-k, classes by name, scores."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import Self

from modicum.data.loader import Loader
from modicum.data.sample_set import SampleSet
from modicum.engine.devices import Device, choose_device
from modicum.engine.run import Run
from modicum.errors import DataError
from modicum.mistakes import COUNTED_CLASSES, Answers, keep, of_classes
from modicum.options import check, fitting
from modicum.system.progress import Progress
from modicum.weights.saved import SavedModel, believing_nothing

_log = logging.getLogger("modicum")
_Network = TypeVar("_Network", bound=nn.Module)
_Pipeline = TypeVar("_Pipeline", bound="Pipeline")

ONE_IN_TWENTY = 1.645
"""Standard deviations that a normal variable exceeds with probability 0.05."""

Logits: TypeAlias = Callable[[Any], Tensor]
"""Class scores `(B, classes)` of the first field of a batch, which is on the network's device."""


class Pipeline(Protocol):
    """What makes of samples a network's input."""

    def read(self, sample: Any, /) -> Any:
        """One sample, from a file or from memory."""
        ...

    def batch(self, samples: Any, /) -> Any:
        """What the network takes of several of what `read` gives."""
        ...

    def described(self) -> dict[str, Any]:
        """What it does, JSON-able."""
        ...


@dataclass(frozen=True)
class Classifier(Generic[_Network, _Pipeline]):
    """A trained network with what its use needs."""

    method: str
    network: _Network
    classes: tuple[str, ...]
    pipeline: _Pipeline
    """What makes of a sample the network's input."""
    notes: dict[str, Any]
    """What `train` stored: where its data lay and how it was divided."""
    device: torch.device
    logits: Logits
    """Class scores of what `pipeline.batch` gives."""

    @classmethod
    def of(
        cls,
        saved: SavedModel,
        pipeline_of: Callable[[Mapping[str, Any]], _Pipeline],
        device: Device = "cpu",
        logits_of: Callable[[Any], Logits] = lambda network: network,
    ) -> Self:
        """A classifier that `modicum.method.load_saved` read, and its pipeline of its notes."""
        chosen = choose_device(device)
        network: Any = saved.module.to(chosen)
        with believing_nothing(saved.path):
            pipeline = pipeline_of(saved.notes["pipeline"])
            classes = saved.notes["classes"]
            check("classes", classes, Sequence[str])
            if len(classes) != network.arguments["num_classes"]:
                raise ValueError(
                    f"{len(classes)} names for {network.arguments['num_classes']} classes"
                )
        logits = logits_of(network)
        return cls(saved.method, network, tuple(classes), pipeline, saved.notes, chosen, logits)

    @torch.no_grad()
    def probabilities(self, samples: Any, batch_size: int = 64) -> Tensor:
        """Probabilities of the `classes`, float32 `(N, classes)` on the CPU.

        Args:
            samples: A sample or several, as files or in memory: all that `pipeline.read` takes.
            batch_size: Samples at a time.

        Raises:
            DataError: A sample cannot be used.
        """
        several = fitting(samples, tuple[Any, ...])
        parts = [torch.zeros(0, len(self.classes))]
        for first in range(0, len(several), batch_size):
            read = [self.pipeline.read(sample) for sample in several[first : first + batch_size]]
            inputs = on_device(self.pipeline.batch(read), self.device)
            parts.append(self.logits(inputs).float().softmax(1).cpu())
        return torch.cat(parts)

    def described(self) -> dict[str, Any]:
        """What a program needs that uses the network without modicum, JSON-able."""
        named = {"method": self.method, "classes": list(self.classes)}
        return named | self.pipeline.described()


def topk_correct(logits: Tensor, label: Tensor, ks: Sequence[int]) -> Tensor:
    """Whether a label is among the k likeliest classes, for several k: bool `(len(ks), B)`.

    Args:
        logits: `(B, classes)`.
        label: `(B,)`, int64.
        ks: One larger than the number of classes counts as all of them.
    """
    order = logits.topk(min(max(ks), logits.shape[1]), dim=1).indices
    hits = order == label[:, None]
    return torch.stack([hits[:, :k].any(1) for k in ks])


def class_mapping(found: Sequence[str], known: Sequence[str], data: object) -> Tensor:
    """The network's number of each class `found` in a data set, int64 `(len(found),)`.

    Raises:
        DataError: The data set, which lies at `data`, has a class the network does not know.
    """
    unknown = [name for name in found if name not in known]
    if unknown:
        raise DataError(
            f"{data}: the network was not trained on the class{'es' * (len(unknown) > 1)} "
            f"{', '.join(unknown[:8])}. It knows: {', '.join(known[:20])}. Rename the folders, or "
            f"remove those that do not belong."
        )
    return torch.tensor([known.index(name) for name in found])


def likeliest(logits: Tensor, classes: Sequence[str], top: int) -> Iterator[dict[str, Any]]:
    """One record a row of logits `(B, classes)`: class_1, probability_1, class_2 and so on."""
    best = logits.float().softmax(1).topk(min(top, len(classes)))
    for probabilities, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        record: dict[str, Any] = {}
        for rank, (p, i) in enumerate(zip(probabilities, indices, strict=True), start=1):
            record |= {f"class_{rank}": classes[i], f"probability_{rank}": round(p, 6)}
        yield record


class _Tally:
    """Sums over samples: how many are right among the k likeliest, and the cross entropy."""

    def __init__(self, ks: Sequence[int]) -> None:
        # Exact up to 16 million; there are GPUs without doubles.
        self.ks, self.sums = ks, torch.zeros(len(ks) + 1)
        self.answers: list[Answers] = []

    def add(self, logits: Tensor, label: Tensor, sample: Tensor) -> None:
        """Count the samples of a batch."""
        found = logits.float().cpu()
        self.sums[:-1] += topk_correct(found, label, self.ks).sum(1)
        self.sums[-1] += functional.cross_entropy(found, label, reduction="sum")
        self.answers.append(Answers.of(found, label, sample))

    def tops(self, sums: Tensor, samples: int, classes: int) -> dict[str, float]:
        """Accuracies in percent, of those k that fewer than all classes can miss."""
        shares = zip(self.ks, (sums[:-1] / samples).tolist(), strict=True)
        return {f"top{k}": 100 * share for k, share in shares if k == 1 or k < classes}


def accuracies(
    logits: Logits,
    loader: Loader[Any],
    *,
    ks: Sequence[int] = (1,),
    device: torch.device | str = "cpu",
    mapping: Tensor | None = None,
    quiet: bool = False,
) -> dict[str, float]:
    """Top-k accuracies in percent: `top1` and so on, but for k that is not below the classes.

    Args:
        logits: Called with the first field of each batch.
        loader: Labelled samples, each once.
        ks: Several k.
        device: Where the first field goes, if it is a tensor.
        mapping: What `class_mapping` gave; none: the samples' classes are the network's.
        quiet: Show no progress.
    """
    tally, classes = _counted(logits, loader, ks, device, mapping, quiet=quiet)
    return tally.tops(tally.sums, loader.samples, classes)


def evaluation(
    logits: Logits,
    loader: Loader[Any],
    classes: Sequence[str],
    *,
    device: torch.device | str,
    mapping: Tensor,
) -> dict[str, Any]:
    """What `evaluate` prints of accuracy: `top1`, `top5`, and see `modicum.mistakes.of_classes`.

    Args:
        logits: As the others, see `accuracies`.
        loader: Labelled samples.
        classes: Names of the network's classes.
        device: Where the network is.
        mapping: What `class_mapping` gave.
    """
    tally, _ = _counted(logits, loader, (1, 5), device, mapping)
    tops: dict[str, Any] = tally.tops(tally.sums, loader.samples, len(classes))
    if len(classes) > COUNTED_CLASSES:
        return tops
    matrix = Answers.joined(tally.answers).confusion(len(classes)).tolist()
    return tops | of_classes(classes, matrix)


@torch.no_grad()
def _counted(
    logits: Logits,
    loader: Loader[Any],
    ks: Sequence[int],
    device: torch.device | str,
    mapping: Tensor | None,
    *,
    quiet: bool = False,
) -> tuple[_Tally, int]:
    """All samples of a loader, and the number of the network's classes."""
    tally, seen, classes = _Tally(ks), 0, 0
    with Progress("evaluate", loader.samples, quiet=quiet) as progress:
        for batch in loader.epoch(0):
            label = batch.label if mapping is None else mapping[batch.label]
            found = logits(on_device(batch[0], device))
            tally.add(found, label, batch.index)
            seen, classes = seen + len(label), found.shape[1]
            progress.advance(seen)
    return tally, classes


def validate(
    logits: Logits,
    loader: Loader[Any],
    run: Run,
    samples: SampleSet,
    *,
    epochs: int,
    ks: Sequence[int] = (1,),
    smoothing: float = 0.0,
) -> None:
    """Score a network in training, in a step that ends an epoch; the best by `top1` is kept.

    It warns where the network is no better than guessing, and after the last step leaves in the run
    folder what was taken for what.

    Args:
        logits: As in `accuracies`; the network is in eval mode.
        loader: Of `samples`, each once over all processes.
        run: Its processes share the work.
        samples: Held out of training.
        epochs: Of the run.
        ks: Several k.
        smoothing: Of the labels in the loss that the run logs.
    """
    scores, answers = score(logits, loader, run, len(samples.classes), ks=ks)
    run.score(scores, best="top1")
    warn_at_chance(run, samples.labels, samples.classes, epochs, smoothing=smoothing)
    if run.is_last_step:
        parts = run.gather(answers)
        if run.is_main_process:
            keep(run.folder, Answers.joined(parts), samples)


@torch.no_grad()
def score(
    logits: Logits, loader: Loader[Any], run: Run, classes: int, *, ks: Sequence[int] = (1,)
) -> tuple[dict[str, float], list[Answers]]:
    """Top-k accuracies in percent and mean cross entropy, shared among the processes of a run.

    Returns:
        `top1` and so on, and `val_loss`; and the answers of this process.
    """
    tally = _Tally(ks)
    for batch in loader.epoch(0):
        if len(batch.label):
            tally.add(logits(on_device(batch[0], run.device)), batch.label, batch.index.cpu())
    sums = run.sum(tally.sums).cpu()
    loss = float(sums[-1]) / loader.samples
    return tally.tops(sums, loader.samples, classes) | {"val_loss": loss}, tally.answers


def guessing(labels: npt.ArrayLike) -> float:
    """The accuracy in percent that guesses exceed on one test set in twenty.

    Guessing is the most frequent class every time, `p` of the samples. The number of hits of other
    guesses that are as good is binomial, to which the normal is close enough here.

    Args:
        labels: `(samples,)`, the classes of the test samples.
    """
    _, counts = np.unique(labels, return_counts=True)
    p = counts.max() / counts.sum()
    return 100 * min(p + ONE_IN_TWENTY * math.sqrt(p * (1 - p) / counts.sum()), 1.0)


def warn_at_chance(
    run: Run, labels: Tensor, classes: Sequence[str], epochs: int, *, smoothing: float = 0.0
) -> None:
    """Warn, half way and at the end, where no `top1` so far is above chance but the loss is low.

    Args:
        run: Its best score is `top1`, in percent, and it logs `loss`, a cross entropy.
        labels: Of the validation samples, `(N,)`.
        classes: Their names.
        epochs: Of the run.
        smoothing: Of the labels in the loss.
    """
    if run.epoch + 1 not in (epochs // 2, epochs):
        return
    share = float(torch.bincount(labels, minlength=len(classes)).max()) / len(labels)
    of_guesses, others = math.log(len(classes)), smoothing / len(classes)
    right = 1 - smoothing + others
    least = -right * math.log(right)
    if smoothing:
        least -= (len(classes) - 1) * others * math.log(others)
    loss = run.recent("loss")
    if run.best_score <= guessing(labels) and loss < (least + of_guesses) / 2 and not run.quiet:
        _log.warning(
            "the training loss is low (%.2f; guessing gives %.2f), but no validation score is "
            "above chance: the best is %.1f %%, naming the largest class gives %.1f %%. The "
            "network learns its samples by heart: are the labels right, and are the validation "
            "samples of the same kind? More samples or more augmentation may help.",
            *(loss, of_guesses, run.best_score, 100 * share),
        )


def on_device(inputs: Any, device: torch.device | str) -> Any:
    """A tensor on a device; what is none, such as recordings, stays where it is."""
    return inputs.to(device) if isinstance(inputs, Tensor) else inputs
