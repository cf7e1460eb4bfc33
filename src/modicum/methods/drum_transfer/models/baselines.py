"""What any model must be compared with: repetition, chance, and an n-gram of lines.

The n-gram of every order is a yardstick of loss (README, Results).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from math import prod
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from modicum.errors import ConfigError, DataError
from modicum.methods.drum_transfer.data.sources import load_grooves
from modicum.methods.drum_transfer.losses import CompletionNats
from modicum.methods.drum_transfer.models.generate import by_prompt, choose, completion_noise
from modicum.methods.drum_transfer.options import Sampling
from modicum.methods.drum_transfer.text.drumroll import (
    Hits,
    Record,
    line_numbers,
    to_hits,
    to_record,
    to_text,
    without_separators,
)
from modicum.methods.drum_transfer.text.drumroll import bars as bars_of
from modicum.methods.drum_transfer.text.notation import DRUMROLL, END, SEPARATOR, Notation
from modicum.options import Ge, Gt, refuse

YARDSTICKS = (
    "uniform",
    "unigram",
    "position in the bar",
    "position and previous line",
    "line a bar before",
    "line a bar before and previous line",
)
"""What an `NGram` of order 0 to 5 knows of a line; each backs off to the one before it."""
_ORDERS = len(YARDSTICKS) - 1


class Baseline(nn.Module, ABC):
    """Something that completes prompts without being a language model."""

    notation = DRUMROLL
    """How it writes where nothing else is said."""

    @property
    def arguments(self) -> dict[str, Any]:
        """What it is built with, JSON-able."""
        return {}

    def complete(
        self,
        prompts: Sequence[str],
        notation: Notation | None = None,
        sampling: Sampling | None = None,
        *,
        bars: int = 14,
    ) -> list[list[str]]:
        """Completions, through `END`, of each prompt, as `generate.generate` gives them.

        Only the n-gram has a temperature and `top_p`.

        Raises:
            ConfigError: No bars are to be written, or an n-gram was counted in another notation.
            DataError: A prompt is not whole bars.
        """
        if bars < 1:
            raise refuse("bars", bars, "at least 1")
        notation, sampling = notation or self.notation, sampling or Sampling()
        found = self._continue(prompts, notation, sampling, bars * notation.steps_per_bar)
        texts = [bars_of(to_text(hits, notation), notation) for hits in found]
        return by_prompt([SEPARATOR.join(text) + END for text in texts], sampling)

    @abstractmethod
    def _continue(
        self, prompts: Sequence[str], notation: Notation, sampling: Sampling, steps: int
    ) -> Sequence[Hits]:
        """What is hit, `(steps, 6)` each, in the completions, those of a prompt together."""


class Repeat(Baseline):
    """The last bar of the prompt, over and over. Nothing is drawn."""

    def _continue(
        self, prompts: Sequence[str], notation: Notation, sampling: Sampling, steps: int
    ) -> Sequence[Hits]:
        size = notation.steps_per_bar
        last = [_hits_of(prompt, notation)[-size:] for prompt in prompts]
        return [np.tile(hits, (steps // size, 1)) for hits in last for _ in range(sampling.samples)]


class Random(Baseline):
    """Every cell is drawn by itself, its characters all as likely: in a drumroll a fair coin.

    Prompts are not looked at.
    """

    def _continue(
        self, prompts: Sequence[str], notation: Notation, sampling: Sampling, steps: int
    ) -> Sequence[Hits]:
        sizes = notation.sizes
        rows = np.arange(len(prompts) * sampling.samples)
        noise = completion_noise(rows, steps * len(sizes), sampling)
        return list((noise.reshape(-1, steps, len(sizes)) * sizes).astype(np.int8))


class NGram(Baseline):
    """Counts of lines after what stood before them, backing off to less.

    The probability of a line after a context of order k is ::

        p_k = (count of both + weight * p_(k-1)) / (count of the context + weight)

    with the same probability of all lines at order 0. `YARDSTICKS` tells the contexts. Bars may be
    of several lengths, those of each record its own. A position is one in a bar of that length, so
    that in a bar of a length never seen it is as likely as anywhere; the line a bar before is one
    whatever the length.

    Args:
        notation: That of the texts but for the beats of a bar, or its fields. In the layout `rows`
            a step is what is a line else.
        pairs: How many pairs of context and line were counted.
        weight: See above.
    """

    def __init__(
        self,
        notation: Notation | Mapping[str, Any],
        pairs: Annotated[int, Ge(0)],
        weight: Annotated[float, Gt(0)] = 4.0,
    ) -> None:
        super().__init__()
        if not isinstance(notation, Notation):
            notation = Notation.of_fields(notation)
        self.notation = notation.of_any_meter()
        self.weight = weight
        self.kinds = prod(notation.sizes)
        """How many different lines there can be: 64 in a drumroll."""
        self.pairs: Tensor
        """`(pairs,)`, int64, in order: number of the context times `kinds`, plus the line's."""
        self.counts: Tensor
        """`(pairs,)`, int64: how often the pair occurs."""
        self.register_buffer("pairs", torch.zeros(pairs, dtype=torch.int64))
        self.register_buffer("counts", torch.zeros(pairs, dtype=torch.int64))

    @classmethod
    def fit(cls, records: Sequence[Record], *, weight: float = 4.0) -> NGram:
        """Count the lines of whole records, those of the prompts included.

        Raises:
            ConfigError: Their notations differ in more than the beats of a bar.
            DataError: There is no record, or one is malformed.
        """
        if not records:
            raise DataError("an n-gram: found no records to count lines in; expected at least one.")
        model = cls(records[0].notation, 0, weight)
        pairs: list[Tensor] = []
        for record in records:
            lines = model._lines_of(record)
            contexts = model._contexts_of(lines, record.notation.steps_per_bar)
            pairs.append((contexts * model.kinds + lines).flatten())
        model.pairs, model.counts = torch.cat(pairs).unique(return_counts=True)
        return model

    @classmethod
    def of_made_up_grooves(cls) -> NGram:
        """Counted on the grooves that are built in, in a moment."""
        records = map(to_record, load_grooves("generated")["train"])
        return cls.fit([record for record in records if record is not None])

    @property
    def arguments(self) -> dict[str, Any]:
        """What it is built with, JSON-able; the counts are its state."""
        notation = asdict(self.notation)
        return {"notation": notation, "pairs": len(self.pairs), "weight": self.weight}

    def nats(self, records: Sequence[Record], order: int = _ORDERS) -> CompletionNats:
        """How well contexts up to an order, 0 to 5, predict the completions of records.

        A line counts as a token. `YARDSTICKS` tells the contexts.

        Raises:
            ConfigError: A record is in another notation than those that were counted.
            DataError: A record is malformed.
        """
        columns = zip(*(self._nats_of(record, order) for record in records), strict=True)
        return CompletionNats(*map(np.array, columns))

    def _continue(
        self, prompts: Sequence[str], notation: Notation, sampling: Sampling, steps: int
    ) -> Sequence[Hits]:
        self._check(notation)
        if not prompts:
            return []
        size, rows = notation.steps_per_bar, np.arange(len(prompts) * sampling.samples)
        noise = torch.from_numpy(completion_noise(rows, steps, sampling))
        pick = partial(choose, temperature=sampling.temperature, top_p=sampling.top_p)
        last = [line_numbers(_hits_of(prompt, notation)[-size:], notation) for prompt in prompts]
        lines = torch.from_numpy(np.stack(last)).repeat_interleave(sampling.samples, 0)
        lines = functional.pad(lines, (0, steps))
        any_line = torch.ones(len(lines), self.kinds, dtype=torch.bool)
        for step in range(steps):
            bar_before, previous = lines[:, step], lines[:, step + size - 1]
            position = torch.full_like(previous, step % size)
            odds = self._distribution(self._contexts(position, previous, bar_before, size))
            lines[:, step + size] = pick(odds.log(), noise[:, step], any_line)
        return list(np.stack(np.unravel_index(lines[:, size:].numpy(), notation.sizes), -1))

    def _nats_of(self, record: Record, order: int) -> tuple[float, int, int, float, int]:
        """The numbers of `CompletionNats` of a record."""
        steps, height = record.notation.steps_per_bar, record.notation.lines_per_bar
        given = record.prompt.count(SEPARATOR) * steps
        lines = self._lines_of(record)
        nats = -self._odds(self._contexts_of(lines, steps)[:order], lines).log()[given:]
        # In the layout `rows` the end of the sound is that of a bar, and lines are not steps.
        last = max((lines[given:] > 0).nonzero().flatten().tolist(), default=-1) + 1
        if self.notation.layout == "rows":
            last = -(-last // steps) * steps
        count, sounding = len(nats), float(nats[:last].sum())
        return float(nats.sum()), count, count * height // steps, sounding, last * height // steps

    def _lines_of(self, record: Record) -> Tensor:
        """`line_numbers` of a record, `(T,)`, int64."""
        self._check(record.notation)
        text = without_separators(record.prompt + record.completion)
        hits = to_hits(text, record.notation, source=record.name)
        return torch.from_numpy(line_numbers(hits, record.notation))

    def _check(self, notation: Notation) -> None:
        if notation.of_any_meter() != self.notation:
            raise ConfigError(
                "an n-gram: the grooves are in another notation than those that were counted. "
                "Count grooves in this notation, or read these in the other."
            )

    def _contexts_of(self, lines: Tensor, size: int) -> Tensor:
        """The contexts `(5, T)` of a groove's lines `(T,)`, in bars of `size` steps.

        Before its beginning there is a line of its own kind.
        """
        past = functional.pad(lines, (size, 0), value=self.kinds)
        position = torch.arange(len(lines)) % size
        return self._contexts(position, past[size - 1 : -1], past[:-size], size)

    def _contexts(
        self, position: Tensor, previous: Tensor, bar_before: Tensor, size: int
    ) -> Tensor:
        """A number for each context of the orders 1 to 5, no two alike, `(5, N)`, int64.

        A context is the step in its bar, of `size` steps, the line before, and that a bar before;
        all `(N,)`, int64.
        """
        kinds = self.kinds + 1
        position = position + size * (size - 1) // 2  # after those of all shorter bars
        contexts = (
            torch.zeros_like(position),
            position,
            position * kinds + previous,
            bar_before,
            bar_before * kinds + previous,
        )
        return torch.stack([_ORDERS * context + order for order, context in enumerate(contexts)])

    def _odds(self, contexts: Tensor, lines: Tensor) -> Tensor:
        """The probability, float64, of lines `(N,)` after contexts `(order, N)`."""
        odds = torch.full(lines.shape, 1 / self.kinds, dtype=torch.float64)
        for context in contexts:
            pair = context * self.kinds + lines
            count, _, _ = self._found(pair, pair + 1)
            total, _, _ = self._found(context * self.kinds, (context + 1) * self.kinds)
            odds = (count + self.weight * odds) / (total + self.weight)
        return odds

    def _distribution(self, contexts: Tensor) -> Tensor:
        """The probability of every line after contexts `(5, N)`; `(N, kinds)`, float64."""
        number = contexts.shape[1]
        odds = torch.full((number, self.kinds), 1 / self.kinds, dtype=torch.float64)
        for context in contexts:
            total, first, last = self._found(context * self.kinds, (context + 1) * self.kinds)
            # The entries of all contexts, one after the other, and which context each is of.
            row = torch.arange(number).repeat_interleave(last - first)
            entry = torch.arange(len(row)) + (last - (last - first).cumsum(0))[row]
            odds *= self.weight
            odds[row, self.pairs[entry] % self.kinds] += self.counts[entry]
            odds /= total[:, None] + self.weight
        return odds

    def _found(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How often pairs from `low` to `high` occur, and where they begin and end; each `(N,)`."""
        first, last = torch.searchsorted(self.pairs, low), torch.searchsorted(self.pairs, high)
        before = functional.pad(self.counts.cumsum(0), (1, 0))
        return before[last] - before[first], first, last


BY_NAME: Mapping[str, Callable[[], Baseline]] = {
    "ngram": NGram.of_made_up_grooves,
    "repeat": Repeat,
    "random": Random,
}
"""Baselines that need no training of one's own."""


def _hits_of(prompt: str, notation: Notation) -> Hits:
    """What is hit in a prompt, which must be whole bars."""
    hits = to_hits(without_separators(prompt), notation, source="prompt")
    if not len(hits) or len(hits) % notation.steps_per_bar:
        raise DataError(
            f"prompt: found {len(hits)} steps; expected a multiple of {notation.steps_per_bar}, at "
            f"least one whole bar. See `drumroll.to_prompt`."
        )
    return hits
