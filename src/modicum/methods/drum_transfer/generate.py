"""Completions of prompts, many at once.

Sampling as in the paper (specification, section 4.1): temperature 0.9, until `END`. Under the
grammar (section 6.6), which is the default, every completion is valid; without it the model writes
what it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from modicum.engine.random import uniform
from modicum.errors import CheckpointError, ConfigError, DataError
from modicum.methods.drum_transfer.grammar import (
    Automaton,
    Grammar,
    UntilEnd,
    completion_characters,
)
from modicum.methods.drum_transfer.notation import DRUMROLL, END, SEPARATOR, Notation

if TYPE_CHECKING:
    from modicum.methods.drum_transfer.decoder import CausalModel
    from modicum.methods.drum_transfer.vocabulary import Vocabulary


@torch.inference_mode()
def generate(
    model: CausalModel,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    *,
    notation: Notation = DRUMROLL,
    bars: int = 14,
    samples: int = 1,
    temperature: float = 0.9,
    top_p: float = 1.0,
    constrained: bool = True,
    max_tokens: int | None = None,
    batch: int = 64,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[str]]:
    """Let a model complete records.

    The noise of a sample is a function of seed, prompt number, sample number and step, so that what
    is written does not depend on the batch, but for rounding. Prompts of different lengths are
    padded on the left; a prompt is read once for all its samples; a finished row leaves the batch.

    Args:
        model: Any causal model. It is evaluated in eval mode and left as it was.
        prompts: Texts, or ids, that end in a separator; see `drumroll.to_prompt`.
        notation: That of the prompts.
        bars: Bars to be written.
        samples: Completions of each prompt.
        temperature: What logits are divided by; 0 takes the likeliest token.
        top_p: Draw from the fewest tokens whose probabilities sum to this, at most 1.
        constrained: Write only what the notation allows, exactly `bars` bars. If not, write until
            the text `END`, or the vocabulary's own end, or `max_tokens`.
        max_tokens: Most tokens of a completion, which is cut there. None: as many as the characters
            of `bars` bars, which is never too few for a valid completion. The paper's is 1,000.
        batch: Most completions at a time.
        seed: Of the noise.
        progress: Called with tokens written and the most there can be.

    Returns:
        For each prompt its completions, through `END` unless they were cut.

    Raises:
        ConfigError: An option is out of range, or prompt and completion may be longer than the
            model can see.
        DataError: A prompt does not end in a separator.
        CheckpointError: The model gives NaN.
    """
    check_sampling(
        bars=bars,
        samples=samples,
        temperature=temperature,
        top_p=top_p,
        batch=batch,
        max_tokens=max_tokens,
    )
    vocabulary = model.vocabulary
    grammar = Grammar(notation, bars, vocabulary)
    encoded = [_encode(prompt, number, vocabulary) for number, prompt in enumerate(prompts)]
    limit = completion_limit(
        model,
        max(map(len, encoded), default=0),
        notation,
        bars,
        constrained=constrained,
        max_tokens=max_tokens,
    )
    automaton = grammar if constrained else UntilEnd(vocabulary)
    pick = partial(choose, temperature=temperature, top_p=top_p)
    total = len(encoded) * samples
    texts: list[str] = []
    training = model.training
    model.eval()
    try:
        for first in range(0, total, batch):
            rows = np.arange(first, min(first + batch, total))
            number, sample = np.divmod(rows, samples)
            noise = torch.from_numpy(uniform((number << 32) + sample, limit, seed, "completion"))
            read, owner = np.unique(number, return_inverse=True)
            written = torch.full(noise.shape, vocabulary.pad)
            steps = _complete(
                model,
                [encoded[prompt] for prompt in read],
                torch.from_numpy(owner),
                noise,
                automaton,
                pick,
                written,
            )
            for step, running in enumerate(steps, 1):
                if progress:
                    done = (first + len(rows)) * limit - running * (limit - step)
                    progress(done, total * limit)
            texts += map(vocabulary.decode, written.tolist())
    finally:
        model.train(training)
    texts = ["".join(text.partition(END)[:2]) for text in texts]
    return [texts[first : first + samples] for first in range(0, total, samples)]


def completion_limit(
    model: CausalModel,
    prompt: int,
    notation: Notation,
    bars: int,
    *,
    constrained: bool = True,
    max_tokens: int | None = None,
    source: str = "the longest prompt",
) -> int:
    """The most tokens of a completion, which the model must be able to see beside the prompt.

    Args:
        model: Any causal model.
        prompt: Tokens of the prompt.
        notation: Of the completion.
        bars: Of the completion.
        constrained: See `generate`.
        max_tokens: See `generate`.
        source: What the prompt is, for messages.

    Raises:
        ConfigError: Prompt and completion may be longer than the model can see.
    """
    whole = completion_characters(notation, bars)
    limit = max_tokens or whole
    if constrained:
        limit = min(limit, whole)
    if prompt + limit > model.context:
        raise ConfigError(
            f"{source}: a prompt of {prompt:,} tokens and a completion of up to {limit:,} are "
            f"{prompt + limit:,} tokens, but the model sees at most {model.context:,}. Give it a "
            f"shorter prompt (--prompt-bars), or let it write fewer bars (--bars) or tokens "
            f"(--max-tokens)."
        )
    return limit


def check_sampling(
    *,
    bars: int = 1,
    samples: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    batch: int = 1,
    max_tokens: int | None = None,
) -> None:
    """Refuse options that make no sense; they are those of `generate`.

    Raises:
        ConfigError: One is out of range.
    """
    for name, value, fine, expected in (
        ("bars", bars, bars >= 1, "at least 1"),
        ("samples", samples, samples >= 1, "at least 1"),
        ("temperature", temperature, temperature >= 0, "at least 0"),
        ("top-p", top_p, 0 < top_p <= 1, "above 0 and at most 1"),
        ("batch", batch, batch >= 1, "at least 1"),
        ("max-tokens", max_tokens, max_tokens is None or max_tokens >= 1, "at least 1"),
    ):
        if not fine:
            raise ConfigError(f"--{name} {value}: must be {expected}.")


def choose(
    logits: Tensor,
    noise: Tensor,
    allowed: Tensor,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> Tensor:
    """Draw a token for each row.

    Args:
        logits: `(B, V)`, of any size, infinite too.
        noise: `(B,)`, float64 in [0, 1). The token is where the probabilities, summed in the order
            of the ids, exceed it.
        allowed: `(B, V)`, bool: what may be drawn, at least one a row.
        temperature: What logits are divided by; 0 takes the largest, the first of equals.
        top_p: Draw from the fewest tokens whose probabilities sum to this.

    Returns:
        `(B,)`, int64.

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
    """Write a batch of completions, a token of each at a time.

    Args:
        model: In eval mode.
        prompts: Ids.
        owner: `(B,)`, int64: the prompt of each completion.
        noise: `(B, limit)`, float64.
        automaton: What may be written.
        pick: Draws tokens, given logits, noise and what is allowed.
        written: `(B, limit)`, int64, full of padding: where the tokens go.

    Yields:
        The number of completions that have not ended.
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
    """Rows of ids with padding before them.

    Returns:
        `(B, T)`, int64, and where there is a token, `(B, T)`, bool.
    """
    lengths = torch.tensor([len(row) for row in rows])
    present = torch.arange(int(lengths.max())) >= lengths.max() - lengths[:, None]
    ids = torch.full(present.shape, pad)
    ids[present] = torch.tensor([identity for row in rows for identity in row])
    return ids, present
