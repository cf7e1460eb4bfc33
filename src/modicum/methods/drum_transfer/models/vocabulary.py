"""What a model's ids stand for: single characters, or the subwords of a tokenizer.

Every id has one piece of text, wherever it stands, so that a text is its pieces joined.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Annotated, Any

import torch
from torch import Tensor

from modicum.errors import ConfigError, DataError
from modicum.options import Ge, Interval, check_arguments


class Vocabulary(ABC):
    """Texts as ids and back."""

    alphabet: str
    """`Notation.alphabet`: every character that a record can hold, each once."""
    pieces: tuple[str, ...]
    """The text of each id; empty for ids without one, such as padding."""
    pad: int
    """An id to fill places with where there is no token."""
    eos: int | None = None
    """The id that ends a text beside the text `END`, if there is one."""
    kept: Tensor | None = None
    """`(size,)`, int64: the original id of each, where a tokenizer's vocabulary is restricted."""

    @property
    def size(self) -> int:
        """Number of ids."""
        return len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """The ids of a text.

        Raises:
            DataError: It holds a character that no record has.
        """
        if set(text) <= set(self.alphabet):
            return self._encode(text)
        place = next(place for place, found in enumerate(text) if found not in self.alphabet)
        line, column = text.count("\n", 0, place) + 1, place - text.rfind("\n", 0, place)
        raise DataError(
            f"text, line {line}, column {column}: found {text[place]!r}, expected one of "
            f"{self.alphabet!r}."
        )

    @abstractmethod
    def _encode(self, text: str) -> list[int]:
        """The ids of a text of the alphabet."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids."""
        return "".join(self.pieces[identity] for identity in ids)

    @abstractmethod
    def to_config(self) -> dict[str, Any]:
        """What `from_config` needs, JSON-able; a tokenizer's own files not included."""


def from_config(config: Mapping[str, Any], tokenizer: Any = None) -> Vocabulary:
    """The vocabulary that `Vocabulary.to_config` told of, `Subwords` with a Transformers tokenizer.

    Raises:
        ConfigError: There is no such kind of vocabulary, or the tokenizer does not fit.
    """
    options = dict(config)
    kind = options.pop("kind", None)
    if kind == "characters":
        return check_arguments(Characters)(**options)
    if kind == "subwords":
        return check_arguments(Subwords)(tokenizer, **options)
    raise ConfigError(f"vocabulary {str(kind)[:40]!r}: expected 'characters' or 'subwords'.")


class Characters(Vocabulary):
    """One id a character, in the order of the alphabet, and one more for padding.

    Args:
        alphabet: See `Vocabulary`.
        padding: Give padding an id of its own, the last. Without, places are filled with id 0, and
            `size` is that of the alphabet, as models of other programs have it.
    """

    def __init__(self, alphabet: str, *, padding: bool = True) -> None:
        self.alphabet = alphabet
        self.pieces = (*alphabet, "") if padding else tuple(alphabet)
        self.pad = len(alphabet) if padding else 0
        self._ids = {character: identity for identity, character in enumerate(alphabet)}

    def _encode(self, text: str) -> list[int]:
        return [self._ids[character] for character in text]

    def to_config(self) -> dict[str, Any]:
        """Kind, alphabet and whether padding has an id."""
        padding = self.size > len(self.alphabet)
        return {"kind": "characters", "alphabet": self.alphabet, "padding": padding}


class Subwords(Vocabulary):
    """The tokens of a Transformers tokenizer: all of them, or only those that records need.

    Restricted, a network needs only the kept rows of its embedding and output matrices; its
    probabilities are those of the whole vocabulary, renormalised. What has no kept token is written
    as single characters, so any record can be encoded.

    Args:
        tokenizer: One of Transformers.
        alphabet: See `Vocabulary`.
        texts: What to restrict the vocabulary to: the tokens of these texts, of the single
            characters, and of the edges of a text. Prompts and completions, which are encoded
            apart, are texts of their own.
        restrict: False keeps the whole vocabulary.
        kept: The original ids to keep, where that was settled before; then no texts are needed.
        rows: Rows of the network's output, where they may be more than the tokenizer has ids.

    Raises:
        ConfigError: The tokenizer cannot represent newlines, or another character, exactly.
    """

    def __init__(
        self,
        tokenizer: Any,
        alphabet: str,
        texts: Iterable[str] = (),
        *,
        restrict: bool = True,
        kept: Sequence[Annotated[int, Ge(0)]] | None = None,
        rows: Annotated[int, Interval(ge=0, le=1 << 24)] | None = None,
    ) -> None:
        if tokenizer is None:
            raise ConfigError("a vocabulary of subwords: expected the tokenizer of its model.")
        self.tokenizer = tokenizer
        self.alphabet = alphabet
        self._rows = rows
        # Some tokenizers put a blank before a text, and take one away from what they decode: what
        # follows a newline they neither add to nor take from.
        self._newline = self._tokens("\n")
        singles = {character: self._single(character) for character in alphabet}
        plain = all(self._tokens(character) == [token] for character, token in singles.items())
        self._before = "" if plain else "\n"
        if not restrict:
            ids = list(range(len(tokenizer)))
        elif kept is not None:
            ids = list(kept)
        else:
            edges = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
            occurring = chain.from_iterable(map(self._continue, texts))
            ids = sorted({*singles.values(), *occurring, *edges} - {None})
        self.kept = torch.tensor(ids) if restrict else None
        surplus = 0 if restrict else (rows or 0) - len(ids)
        self.pieces = (*self._pieces(ids), *[""] * surplus)
        self._new = {original: identity for identity, original in enumerate(ids)}
        if missing := set(singles.values()) - set(self._new):
            lacking = ", ".join(map(str, sorted(missing)))
            raise ConfigError(
                f"{self._name}: the kept ids lack {lacking}, which stand for single characters. "
                f"The vocabulary was kept for another tokenizer; use that one."
            )
        self._singles = {character: self._new[old] for character, old in singles.items()}
        self.eos = self._new.get(tokenizer.eos_token_id)
        self.pad = self._new.get(tokenizer.pad_token_id, self.eos or 0)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for token in self._continue(text):
            kept = token in self._new
            ids += [self._new[token]] if kept else self._spell(self._pieces([token])[0])
        # A tokenizer that changes what it is given, such as double blanks, is not asked.
        return ids if self.decode(ids) == text else self._spell(text)

    def to_config(self) -> dict[str, Any]:
        """Kind, alphabet, kept ids and rows."""
        kept = None if self.kept is None else self.kept.tolist()
        restriction = {"restrict": kept is not None, "kept": kept, "rows": self._rows}
        return {"kind": "subwords", "alphabet": self.alphabet, **restriction}

    @property
    def _name(self) -> str:
        return f"tokenizer {getattr(self.tokenizer, 'name_or_path', '') or 'without a name'}"

    def _tokens(self, text: str) -> list[int]:
        """Original ids of a text that follows nothing."""
        return list(self.tokenizer.encode(text, add_special_tokens=False, verbose=False))

    def _continue(self, text: str) -> list[int]:
        """Original ids of a text that follows another."""
        return self._tokens(self._before + text)[len(self._newline) if self._before else 0 :]

    def _pieces(self, originals: Sequence[int]) -> list[str]:
        """What each original id adds to a text that ends in a newline."""
        added = self.tokenizer.added_tokens_decoder
        special = {token for token in added if added[token].special}
        lines = [[*self._newline, token] for token in originals]
        texts: list[str] = self.tokenizer.batch_decode(
            lines, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return [
            "" if token in special else text.removeprefix("\n")
            for token, text in zip(originals, texts, strict=True)
        ]

    def _single(self, character: str) -> int:
        """The original id of a single character."""
        found = "nothing"
        for text in (character, "\n" + character):
            for token in self._tokens(text)[-1:]:
                [found] = self._pieces([token])
                if found == character and token != self.tokenizer.unk_token_id:
                    return token
        raise ConfigError(
            f"{self._name}: cannot write the character {character!r} as one token (it becomes "
            f"{found!r}), so no record can be written with it. Use a model whose tokenizer keeps "
            f"newlines and punctuation, such as one with byte-level BPE."
        )

    def _spell(self, text: str) -> list[int]:
        return [self._singles[character] for character in text if character in self._singles]
