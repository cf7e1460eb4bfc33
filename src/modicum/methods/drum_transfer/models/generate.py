"""Completions of prompts, many at once.

Sampling as in the paper: temperature 0.9, until `END`. Under the grammar, which is the default,
every completion is valid; without it the model writes what it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from modicum.engine.random import uniform
from modicum.errors import CheckpointError, ConfigError, DataError
from modicum.methods.drum_transfer.models.grammar import Automaton, Grammar, UntilEnd
from modicum.methods.drum_transfer.options import Sampling
from modicum.methods.drum_transfer.text.notation import DRUMROLL, END, SEPARATOR, Notation
from modicum.options import refuse

if TYPE_CHECKING:
    from modicum.methods.drum_transfer.models.decoder import CausalModel
    from modicum.methods.drum_transfer.models.vocabulary import Vocabulary


@torch.inference_mode()
def generate(
    model: CausalModel,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    sampling: Sampling | None = None,
    *,
    notation: Notation = DRUMROLL,
    bars: int = 14,
    batch: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[str]]:
    """Let a model complete records: of each prompt the completions, through `END` unless cut.

    The noise of a sample is a function of seed, prompt number, sample number and step, so that what
    is written does not depend on the batch, but for rounding. Prompts of different lengths are
    padded on the left; a prompt is read once for all its samples; a finished row leaves the batch.

    Args:
        model: Used in eval mode and left as it was.
        prompts: Texts, or ids, that end in a separator; see `drumroll.to_prompt`.
        sampling: How to draw; None: as usual. Unless it is constrained to exactly `bars` bars, the
            model writes until the text `END`, or the vocabulary's own end, or `max_tokens`; these
            are, if None, the characters of `bars` bars, never too few for a valid completion.
        notation: How prompts and completions are written.
        bars: Bars to be written.
        batch: Most completions at a time.
        progress: Called with tokens written and the most there can be.

    Raises:
        ConfigError: There are no bars to be written, or prompt and completion may be longer than
            the model can see.
        DataError: A prompt does not end in a separator.
        CheckpointError: The model gives NaN.
    """
    sampling = sampling or Sampling()
    if batch < 1:
        raise refuse("batch", batch, "at least 1")
    vocabulary = model.vocabulary
    grammar = Grammar(notation, bars, vocabulary)
    encoded = [_encode(prompt, number, vocabulary) for number, prompt in enumerate(prompts)]
    limit = completion_limit(model, max(map(len, encoded), default=0), notation, bars, sampling)
    automaton = grammar if sampling.constrained else UntilEnd(vocabulary)
    pick = partial(choose, temperature=sampling.temperature, top_p=sampling.top_p)
    total = len(encoded) * sampling.samples
    texts: list[str] = []
    training = model.training
    model.eval()
    try:
        for first in range(0, total, batch):
            rows = np.arange(first, min(first + batch, total))
            noise = torch.from_numpy(completion_noise(rows, limit, sampling))
            read, owner = np.unique(rows // sampling.samples, return_inverse=True)
            written = torch.full(noise.shape, vocabulary.pad)
            chosen, owner = [encoded[prompt] for prompt in read], torch.from_numpy(owner)
            steps = _complete(model, chosen, owner, noise, automaton, pick, written)
            for step, running in enumerate(steps, 1):
                if progress:
                    done = (first + len(rows)) * limit - running * (limit - step)
                    progress(done, total * limit)
            texts += map(vocabulary.decode, written.tolist())
    finally:
        model.train(training)
    return by_prompt(["".join(text.partition(END)[:2]) for text in texts], sampling)


def completion_noise(
    rows: npt.NDArray[np.int64], draws: int, sampling: Sampling
) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), `(rows, draws)`, for completions, which are counted over all prompts."""
    number, sample = np.divmod(rows, sampling.samples)
    return uniform((number << 32) + sample, draws, sampling.seed, "completion")


def by_prompt(texts: Sequence[str], sampling: Sampling) -> list[list[str]]:
    """The completions of each prompt, which stand together in `texts`."""
    size = sampling.samples
    return [list(texts[first : first + size]) for first in range(0, len(texts), size)]


def completion_limit(
    model: CausalModel,
    prompt: int,
    notation: Notation,
    bars: int,
    sampling: Sampling,
    source: str = "the longest prompt",
) -> int:
    """The most tokens of a completion of so many bars, after a prompt of so many tokens.

    Raises:
        ConfigError: Prompt and completion may be longer than the model can see.
    """
    whole = Grammar.length(notation, bars)
    limit = sampling.max_tokens or whole
    if sampling.constrained:
        limit = min(limit, whole)
    if prompt + limit > model.context:
        raise ConfigError(
            f"{source}: a prompt of {prompt:,} tokens and a completion of up to {limit:,} are "
            f"{prompt + limit:,} tokens, but the model sees at most {model.context:,}. Give it a "
            f"shorter prompt (--prompt-bars), or let it write fewer bars (--bars) or tokens "
            f"(--max-tokens)."
        )
    return limit


def choose(
    logits: Tensor, noise: Tensor, allowed: Tensor, *, temperature: float = 1.0, top_p: float = 1.0
) -> Tensor:
    """Draw a token for each row, `(B,)`, int64.

    Args:
        logits: `(B, V)`, infinite ones too.
        noise: `(B,)`, float64 in [0, 1). The token is where the probabilities, summed in the order
            of the ids, exceed it.
        allowed: `(B, V)`, bool: what may be drawn, at least one a row.
        temperature: What logits are divided by; 0 takes the largest, the first of equals.
        top_p: Draw from the fewest tokens whose probabilities sum to this.

    Raises:
        CheckpointError: A logit is NaN.
    """
    if torch.isnan(logits).any():
        raise CheckpointError(
            "the model gives NaN. Its weights are damaged, or too large for their precision: "
            "train it again, or try float32."
        )
    logits = logits.double().clamp(-1e300, 1e300)  # infinities among themselves are equals
    logits = logits - logits.masked_fill(~allowed, -torch.inf).amax(1, keepdim=True)
    if temperature == 0:
        return logits.masked_fill(~allowed, -torch.inf).argmax(1)
    odds = (logits / temperature).masked_fill(~allowed, -torch.inf).softmax(1)
    if top_p < 1:
        ordered, order = odds.sort(descending=True, stable=True)
        needless = ordered.cumsum(1) - ordered >= top_p
        odds = odds.scatter(1, order, ordered.masked_fill(needless, 0.0))
    cumulative = odds.cumsum(1)
    total = cumulative[:, -1]
    # Below the total also where the product is rounded up.
    place = torch.minimum(noise * total, total.nextafter(torch.zeros_like(total)))
    return (cumulative <= place[:, None]).sum(1)


def _complete(
    model: CausalModel,
    prompts: Sequence[Sequence[int]],
    owner: Tensor,
    noise: Tensor,
    automaton: Automaton,
    pick: Callable[[Tensor, Tensor, Tensor], Tensor],
    written: Tensor,
) -> Iterator[int]:
    """Write a batch of completions, a token of each at a time; after each, how many have not ended.

    `owner`, `(B,)`, int64, says which of the prompts, ids, each continues. Its tokens, drawn by a
    row of `noise`, `(B, limit)`, go to a row of `written`, `(B, limit)`, int64, full of padding.
    """
    device = next(model.parameters()).device
    ids, present = _pad_left(prompts, model.vocabulary.pad)
    present = None if present.all() else present
    cache = model.new_cache()

    def read(ids: Tensor) -> Tensor:
        """Logits after tokens that the model has not seen."""
        where = None if present is None else present.to(device)
        return model(ids.to(device), present=where, cache=cache, last_only=True)[:, -1].cpu()

    # Each prompt is read once; from there on a row is a completion.
    logits = read(ids)[owner]
    model.keep_rows(cache, owner.to(device))
    present = None if present is None else present[owner]
    row = torch.arange(len(owner))
    state = automaton.start(len(owner))
    unread = ids[owner, :0]
    for step in range(noise.shape[1]):
        allowed = automaton.allowed(state)
        if bool((allowed.sum(1) == 1).all()):
            chosen = allowed.int().argmax(1)  # no need to ask; the model reads it with the next
        else:
            if unread.shape[1]:
                if present is not None:
                    present = functional.pad(present, (0, unread.shape[1]), value=True)
                logits, unread = read(unread), unread[:, :0]
            chosen = pick(logits, noise[row, step], allowed)
        written[row, step] = chosen
        unread = torch.cat([unread, chosen[:, None]], 1)
        state = automaton.advance(state, chosen)
        if bool((ended := automaton.finished(state)).any()):
            going = (~ended).nonzero()[:, 0]
            row, state, unread = row[going], state[going], unread[going]
            present = None if present is None else present[going]
            if len(row):
                model.keep_rows(cache, going.to(device))
        yield len(row)
        if not len(row):
            return


def _encode(prompt: str | Sequence[int], number: int, vocabulary: Vocabulary) -> list[int]:
    """The ids of a prompt that ends in a separator."""
    text = prompt if isinstance(prompt, str) else vocabulary.decode(prompt)
    if not text.endswith("\n" + SEPARATOR):
        raise DataError(
            f"prompt {number + 1} of those to complete: ends in {text[-8:]!r}, expected a whole "
            f"bar and the line {SEPARATOR.strip()!r}."
        )
    return vocabulary.encode(prompt) if isinstance(prompt, str) else list(prompt)


def _pad_left(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ids with padding before them, `(B, T)`, and where there is a token, `(B, T)`, bool."""
    lengths = torch.tensor([len(row) for row in rows])
    present = torch.arange(int(lengths.max())) >= lengths.max() - lengths[:, None]
    ids = torch.full(present.shape, pad)
    ids[present] = torch.tensor([identity for row in rows for identity in row])
    return ids, present
