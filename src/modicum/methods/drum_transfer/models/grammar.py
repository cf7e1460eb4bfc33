"""What may be written next: automata over characters, lifted to the tokens of a vocabulary.

Under the grammar every completion is valid, whatever the model.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from modicum.errors import ConfigError
from modicum.methods.drum_transfer.models.vocabulary import Vocabulary
from modicum.methods.drum_transfer.text.notation import END, SEPARATOR, Notation
from modicum.options import refuse


class Automaton:
    """Follows a batch of completions token by token.

    Each row is in a state: a place in what is written and the number of bars still due after the
    present one, as `place + due * places`. The last place is the end.

    Args:
        after: `(places, V)`: the place after a token, -1 where it may not be written.
        separators: `(places, V)`: how many separators the token begins.
        due: Bars due at the start.
        circle: Places that may be left for those behind them only when no more bars are due.
    """

    def __init__(self, after: Tensor, separators: Tensor, due: int, circle: int) -> None:
        self._after, self._separators, self._due, self._circle = after, separators, due, circle
        self._places = len(after)

    def start(self, rows: int) -> Tensor:
        """The states before the first token, `(rows,)`, int64."""
        return torch.full((rows,), self._due * self._places)

    def allowed(self, state: Tensor) -> Tensor:
        """Which tokens may follow states `(B,)`; `(B, V)`, bool. Of a finished row: padding."""
        place, due = state % self._places, (state // self._places)[:, None]
        after, separators = self._after[place], self._separators[place]
        enough = torch.where(after < self._circle, separators <= due, separators == due)
        return (after >= 0) & enough

    def advance(self, state: Tensor, ids: Tensor) -> Tensor:
        """The states after one more token, one of those allowed; all `(B,)`, int64."""
        place, due = state % self._places, state // self._places
        return self._after[place, ids] + (due - self._separators[place, ids]) * self._places

    def finished(self, state: Tensor) -> Tensor:
        """Which rows have ended, of states `(B,)`; `(B,)`, bool."""
        return state == self._places - 1


class Grammar(Automaton):
    """Completions of a number of bars: a separator between any two, and `END` after the last.

    The places in a text go round a circle: those of a bar, then those of the separator, of whose
    first the way to `END` branches off. So the tables do not grow with the bars. A token may go
    over many places, also over the ends of bars.

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
        self.characters = self.length(notation, bars)
        bar, alphabet = notation.bar(), notation.alphabet
        branch, circle = len(bar), len(bar) + len(SEPARATOR)
        places = circle + len(END)
        # One row more than places: what has failed, place -1, stays there.
        step = np.full((places + 1, len(alphabet)), -1, np.int16)
        for place, characters in enumerate((*bar, *SEPARATOR)):
            for character in characters:
                step[place, alphabet.index(character)] = (place + 1) % circle
        for number, place in enumerate((branch, *range(circle, places - 1))):
            step[place, alphabet.index(END[number])] = circle + number
        # What each token does at each place, by following its characters.
        after = np.full((places, vocabulary.size), -1, np.int16)
        separators = np.zeros_like(after)
        for identity, piece in enumerate(vocabulary.pieces):
            if not piece or not set(piece) <= set(alphabet):
                continue
            place = np.arange(places)
            for character in piece:
                separators[:, identity] += (place == branch) & (character == SEPARATOR[0])
                place = step[place, alphabet.index(character)]
            after[:, identity] = place
        after[-1, vocabulary.pad] = places - 1
        super().__init__(torch.from_numpy(after), torch.from_numpy(separators), bars - 1, circle)

    @staticmethod
    def length(notation: Notation, bars: int) -> int:
        """Characters of a completion of so many bars, which are the most tokens it can have."""
        return bars * len(notation.bar()) + (bars - 1) * len(SEPARATOR) + len(END)


class UntilEnd(Automaton):
    """Anything, until the text `END` or the vocabulary's own end: what the paper does.

    A place is how many characters of `END` the text ends in. Tokens without a text are not written.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        after = torch.full((len(END) + 1, vocabulary.size), -1)
        for place in range(len(END)):
            for identity, piece in enumerate(vocabulary.pieces):
                if piece:
                    after[place, identity] = _matched(END[:place] + piece)
        if vocabulary.eos is not None:
            after[:-1, vocabulary.eos] = len(END)
        after[-1, vocabulary.pad] = len(END)
        super().__init__(after, torch.zeros_like(after), due=0, circle=len(after))


def _matched(text: str) -> int:
    """How many characters of `END` a text ends in; all of them if it has `END` anywhere."""
    if END in text:
        return len(END)
    return max(number for number in range(len(END)) if text.endswith(END[:number]))
