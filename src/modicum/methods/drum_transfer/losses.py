"""The loss that a model is trained by, and the nats that it is judged by (README, The loss)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from modicum.methods.drum_transfer.models.decoder import CausalModel
from modicum.methods.drum_transfer.models.vocabulary import Vocabulary
from modicum.methods.drum_transfer.text.drumroll import Record
from modicum.methods.drum_transfer.text.notation import END, SEPARATOR, Notation

PROMPT_WEIGHT = 0.01
"""Weight of prompt tokens in the loss: the default of the service that the paper trained on."""
_MOST_LOGITS = 1 << 26
"""Of a batch that is measured: 256 MB in float32."""


@dataclass(frozen=True)
class Batch:
    """Records as tokens, padded on the right."""

    ids: Tensor
    """`(B, T)`, int64."""
    weights: Tensor
    """`(B, T)`, float32: what each token counts as a target. 0 for padding."""
    index: Tensor | None = None
    """`(B,)`, int64: numbers of the grooves, for messages."""


def encode_record(
    record: Record, vocabulary: Vocabulary, *, prompt_weight: float = PROMPT_WEIGHT
) -> tuple[list[int], list[float]]:
    """Ids and weights of a record: those of the prompt, then those of the completion, 1 each.

    The two are encoded apart, so that no token is half of each.
    """
    prompt, completion = vocabulary.encode(record.prompt), vocabulary.encode(record.completion)
    return prompt + completion, [prompt_weight] * len(prompt) + [1.0] * len(completion)


def collate(
    encoded: Sequence[tuple[list[int], list[float]]], pad: int, index: Tensor | None = None
) -> Batch:
    """A batch of what `encode_record` gives; `pad` is the vocabulary's."""
    ids, weights = ([torch.tensor(one) for one in rows] for rows in zip(*encoded, strict=True))
    padded = pad_sequence(ids, batch_first=True, padding_value=pad)
    return Batch(padded, pad_sequence(weights, batch_first=True), index)


def token_nats(logits: Tensor, ids: Tensor) -> Tensor:
    """Minus the log-probability of each token given those before it, in float32.

    Args:
        logits: `(B, T, V)`, any float: at each place those of the next token.
        ids: `(B, T)`, int64.

    Returns:
        `(B, T - 1)`, float32: of the tokens from the second on; the first is not predicted.
    """
    predicted, targets = logits[:, :-1].float(), ids[:, 1:]
    # Flat, because a soft-max over a dimension other than the last sums up with less care.
    nats = functional.cross_entropy(predicted.flatten(0, 1), targets.flatten(), reduction="none")
    return nats.view(targets.shape)


def record_loss(logits: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of `token_nats` over a batch, a scalar (README, The loss).

    A batch is averaged by its total weight, not record by record. The normalisation is inferred:
    the service that the paper trained on did not publish its own.

    Args:
        logits: `(B, T, V)`: at each place those of the next token.
        ids: `(B, T)`, int64.
        weights: `(B, T)`: of each token as a target. That of the first is not used.
    """
    weights = weights[:, 1:]
    return (weights * token_nats(logits, ids)).sum() / weights.sum()


@dataclass(frozen=True)
class CompletionNats:
    """How well a model predicts the completions of records; every array has one number a record.

    The sounding part of a completion ends with its last hit, in the layout `rows` with the bar of
    that: silence pads performances shorter than their record, and is easy to predict.
    """

    nats: npt.NDArray[np.float64]
    """Sum over the completion's tokens, those of `END` included."""
    tokens: npt.NDArray[np.int64]
    lines: npt.NDArray[np.int64]
    """Lines of the grid, separators and `END` not counted."""
    sounding_nats: npt.NDArray[np.float64]
    """Sum over the tokens that begin in the sounding part."""
    sounding_lines: npt.NDArray[np.int64]

    @property
    def per_line(self) -> float:
        """Nats a line of the grid: comparable between vocabularies that can write the same."""
        return float(self.nats.sum() / self.lines.sum())

    @property
    def per_token(self) -> float:
        """Nats a token: not comparable between vocabularies."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def per_sounding_line(self) -> float:
        """Nats a line without the silence at the end; not a number where all is silent."""
        lines = int(self.sounding_lines.sum())
        return float(self.sounding_nats.sum() / lines) if lines else math.nan


@torch.inference_mode()
def completion_nats(
    model: CausalModel,
    records: Sequence[Record],
    *,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> CompletionNats:
    """Nats of the completions of records, given their prompts.

    The model is used in eval mode, on its device and in its precision.

    Args:
        model: Any.
        records: At least one.
        batch_size: Records at once, fewer where the vocabulary is large. Records of similar length
            go together.
        progress: Called with (records done, records in all).

    Raises:
        ConfigError: A record is longer than what the model sees.
    """
    device, vocabulary = next(model.parameters()).device, model.vocabulary
    encoded = [encode_record(record, vocabulary, prompt_weight=0) for record in records]
    for record, (ids, _) in zip(records, encoded, strict=True):
        model.check_length(len(ids), record.name)
    order = sorted(range(len(records)), key=lambda index: len(encoded[index][0]))
    by_record: dict[int, npt.NDArray[np.float64]] = {}
    training = model.training
    model.eval()
    try:
        while len(by_record) < len(order):
            chosen = order[len(by_record) :][:batch_size]
            longest = len(encoded[chosen[-1]][0])  # decides how many fit
            chosen = chosen[: max(1, _MOST_LOGITS // (longest * vocabulary.size))]
            batch = collate([encoded[index] for index in chosen], vocabulary.pad)
            ids = batch.ids.to(device)
            nats = token_nats(model(ids), ids).double().cpu()
            for row, index in enumerate(chosen):
                by_record[index] = nats[row][batch.weights[row, 1:] > 0].numpy()
            if progress is not None:
                progress(len(by_record), len(records))
    finally:
        model.train(training)
    columns: list[tuple[float, int, int, float, int]] = []
    for index, record in enumerate(records):
        nats = by_record[index]
        lines, sounding_lines, sounding_characters = _extent(record.completion, record.notation)
        written = encoded[index][0][-len(nats) :]
        begins = [0, *accumulate(len(vocabulary.pieces[token]) for token in written)][:-1]
        sounding = np.array(begins) < sounding_characters
        columns.append((nats.sum(), len(nats), lines, nats[sounding].sum(), sounding_lines))
    return CompletionNats(*map(np.array, zip(*columns, strict=True)))


def _extent(completion: str, notation: Notation) -> tuple[int, int, int]:
    """Lines of the grid, those of the sounding part, and its characters."""
    silent = {characters[0] for characters in notation.columns} | {"|", "\n"}
    rows = notation.layout == "rows"
    lines = characters = sounding_lines = sounding_characters = 0
    hit = False
    for line in completion.splitlines(keepends=True):
        between = line in (SEPARATOR, END)
        if hit and between:
            sounding_lines, sounding_characters, hit = lines, characters, False
        characters += len(line)
        if not between:
            lines += 1
            hit |= not silent.issuperset(line[len("K: ") :] if rows else line)
            if hit and not rows:
                sounding_lines, sounding_characters, hit = lines, characters, False
    return lines, sounding_lines, sounding_characters
