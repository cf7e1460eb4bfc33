"""What may be written next: automata over characters, lifted to the tokens of a vocabulary.

Under the grammar every completion is valid, whatever the model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from modicum.errors import ConfigError
from modicum.methods.drum_transfer.models.vocabulary import Vocabulary
from modicum.methods.drum_transfer.text.notation import END, SEPARATOR, Notation
from modicum.options import refuse


class Automaton(ABC):
    """Follows a batch of completions token by token; each row is in a state, which is a number."""

    @abstractmethod
    def start(self, rows: int) -> Tensor:
        """The states before the first token, `(rows,)`, int64."""

    @abstractmethod
    def allowed(self, state: Tensor) -> Tensor:
        """Which tokens may follow states `(B,)`; `(B, V)`, bool. Of a finished row: padding."""

    @abstractmethod
    def advance(self, state: Tensor, ids: Tensor) -> Tensor:
        """The states after one more token, one of those allowed; all `(B,)`, int64."""

    @abstractmethod
    def finished(self, state: Tensor) -> Tensor:
        """Which rows have ended, of states `(B,)`; `(B,)`, bool."""


class Grammar(Automaton):
    """Completions of a number of bars: a separator between any two, and `END` after the last.

    The places in a text go round a circle: those of a bar, then those of the separator, of whose
    first the way to `END` branches off. A state is such a place and the number of bars still due
    after the present one, as `place + due * places`: the tables do not grow with the bars. A token
    may go over many places, also over the ends of bars.

    Args:
        notation: How a bar is written.
        bars: How many are to be written, at least 1.
        vocabulary: It must have each character as a token of its own, so that no state is without
            a way to the end.

    Raises:
        ConfigError: No bars are to be written, or the vocabulary lacks a character.
    """

    def __init__(self, notation: Notation, bars: int, vocabulary: Vocabulary) -> None:
        if bars < 1:
            raise refuse("bars", bars, "at least 1")
        if missing := set(notation.alphabet) - set(vocabulary.pieces):
            raise ConfigError(
                f"the model's vocabulary has no token for {''.join(sorted(missing))!r}, so it "
                f"cannot write this notation. Use the notation that it was trained with."
            )
        bar = notation.bar()
        self.bars = bars
        self.characters = completion_characters(notation, bars)
        """Characters of a completion: the most tokens it can take."""
        self._circle = len(bar) + len(SEPARATOR)
        self._places = self._circle + len(END)
        self._next, self._separators = self._tables(notation, vocabulary)

    def _tables(self, notation: Notation, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
        """What each token does at each place, by following its characters.

        Returns:
            Two of `(places, V)`, int16: the place after the token, -1 where it does not fit; and
            how many separators it begins.
        """
        bar, alphabet = notation.bar(), notation.alphabet
        # One row more than places: what has failed, place -1, stays there.
        step = np.full((self._places + 1, len(alphabet)), -1, np.int16)
        for place, characters in enumerate((*bar, *SEPARATOR)):
            for character in characters:
                step[place, alphabet.index(character)] = (place + 1) % self._circle
        branch = len(bar)
        before_end = (branch, *range(self._circle, self._places - 1))
        for number, (place, character) in enumerate(zip(before_end, END, strict=True)):
            step[place, alphabet.index(character)] = self._circle + number

        after = np.full((self._places, vocabulary.size), -1, np.int16)
        separators = np.zeros_like(after)
        for identity, piece in enumerate(vocabulary.pieces):
            if not piece or not set(piece) <= set(alphabet):
                continue
            place = np.arange(self._places)
            for character in piece:
                separators[:, identity] += (place == branch) & (character == SEPARATOR[0])
                place = step[place, alphabet.index(character)]
            after[:, identity] = place
        after[-1, vocabulary.pad] = self._places - 1
        return torch.from_numpy(after), torch.from_numpy(separators)

    def start(self, rows: int) -> Tensor:
        """The first place of the first bar."""
        return torch.full((rows,), (self.bars - 1) * self._places)

    def allowed(self, state: Tensor) -> Tensor:
        """Which tokens may follow; see `Automaton.allowed`."""
        place, due = state % self._places, (state // self._places)[:, None]
        after, separators = self._next[place], self._separators[place]
        # `END` has begun where the circle has been left.
        enough = torch.where(after < self._circle, separators <= due, separators == due)
        return (after >= 0) & enough

    def advance(self, state: Tensor, ids: Tensor) -> Tensor:
        """The states after one more token; see `Automaton.advance`."""
        place, due = state % self._places, state // self._places
        return self._next[place, ids] + (due - self._separators[place, ids]) * self._places

    def finished(self, state: Tensor) -> Tensor:
        """Which rows have written `END`."""
        return state == self._places - 1


def completion_characters(notation: Notation, bars: int) -> int:
    """Characters of a completion of so many bars, which are the most tokens it can have.

    Args:
        notation: Of the completion.
        bars: At least 1.
    """
    return bars * len(notation.bar()) + (bars - 1) * len(SEPARATOR) + len(END)


class UntilEnd(Automaton):
    """Anything, until the text `END` or the vocabulary's own end: what the paper does.

    A state is how many characters of `END` the text ends in. Tokens without a text are not written.

    Args:
        vocabulary: What the ids stand for.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._next = torch.tensor(
            [[_matched(END[:state] + piece) for piece in vocabulary.pieces] for state in range(3)]
            + [[len(END)] * vocabulary.size]
        )
        written = torch.tensor([bool(piece) for piece in vocabulary.pieces])
        if vocabulary.eos is not None:
            self._next[:, vocabulary.eos] = len(END)
            written[vocabulary.eos] = True
        padding = torch.arange(vocabulary.size) == vocabulary.pad
        self._allowed = torch.stack([written] * len(END) + [padding])

    def start(self, rows: int) -> Tensor:
        """Nothing of `END` is written."""
        return torch.zeros(rows, dtype=torch.int64)

    def allowed(self, state: Tensor) -> Tensor:
        """Which tokens may follow; see `Automaton.allowed`."""
        return self._allowed[state]

    def advance(self, state: Tensor, ids: Tensor) -> Tensor:
        """The states after one more token; see `Automaton.advance`."""
        return self._next[state, ids]

    def finished(self, state: Tensor) -> Tensor:
        """Which rows have written `END`, or the vocabulary's own end."""
        return state == len(END)


def _matched(text: str) -> int:
    """How many characters of `END` a text ends in; all of them if it has `END` anywhere."""
    if END in text:
        return len(END)
    return max(number for number in range(len(END)) if text.endswith(END[:number]))
