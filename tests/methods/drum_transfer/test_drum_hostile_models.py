"""Files of weights of which a field was changed: a CheckpointError, or a network that works."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
from tiny_language_models import COMPLETION, PROMPT, write_model

from modicum.errors import CheckpointError, ConfigError, DataError
from modicum.method import load_saved
from modicum.methods.drum_transfer import model_folders
from modicum.methods.drum_transfer.models.baselines import NGram, Random, Repeat
from modicum.methods.drum_transfer.models.decoder import Decoder
from modicum.methods.drum_transfer.models.drummer import Drummer
from modicum.methods.drum_transfer.models.language_models import Lora, load_language_model
from modicum.methods.drum_transfer.models.vocabulary import Characters
from modicum.methods.drum_transfer.options import Sampling
from modicum.methods.drum_transfer.saved_models import arguments_of
from modicum.methods.drum_transfer.text.drumroll import Record
from modicum.methods.drum_transfer.text.notation import DRUMROLL
from modicum.methods.drum_transfer.train import Config
from modicum.options import to_json
from modicum.weights.saved import save_model

RECORD = Record(PROMPT, COMPLETION, "made up")
VALUES: tuple[Any, ...] = (None, [], {"a": 1}, "1", 10**30, 10**9, -1, 0.5)
ABSENT = object()


def models(folder: Path) -> dict[str, Any]:
    base = str(write_model(folder / "base"))
    whole = load_language_model(base, texts=[PROMPT, COMPLETION])
    adapted, alone = (load_language_model(base, texts=[PROMPT, COMPLETION]) for _ in range(2))
    adapted.add_lora(Lora(rank=2))
    alone.add_lora(Lora(rank=2, store_base=False))
    shape: dict[str, Any] = {"width": 16, "layers": 1, "heads": 2, "mlp": 8, "context": 300}
    return {
        "decoder": Decoder(Characters(DRUMROLL.alphabet), **shape),
        "ngram": NGram.fit([RECORD]), "repeat": Repeat(), "random": Random(),
        "language model": whole, "adapted": adapted, "adapters": alone,
    }  # fmt: skip


def changed(values: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Places in nested values, each with what may stand there instead."""
    if isinstance(values, (dict, list)):
        items = values.items() if isinstance(values, dict) else enumerate(values[:2])
        for key, value in items:
            yield from ((((*place, key)), other) for other in (*VALUES, ABSENT))
            yield from changed(value, (*place, key))


def put(values: Any, place: tuple[Any, ...], value: Any) -> None:
    for key in place[:-1]:
        values = values[key]
    if value is ABSENT:
        del values[place[-1]]
    else:
        values[place[-1]] = value


@pytest.mark.parametrize(
    "name",
    ["decoder", "ngram", "repeat", "random",
     *(pytest.param(n, marks=pytest.mark.slow) for n in ("language model", "adapted", "adapters"))],
)  # fmt: skip
def test_no_field_of_a_saved_model_is_believed(name: str, tmp_path: Path) -> None:
    model = models(tmp_path)[name]
    model_name = name if name in ("ngram", "repeat", "random") else "scratch"
    about: dict[str, Any] = {
        "arguments": json.loads(json.dumps(arguments_of(model))),
        "notes": {"config": to_json(Config(model=model_name)), "records": 3},
    }
    if name != "decoder":  # read alike for all
        about["notes"]["config"] = {}
    state, file = dict(model.state_dict()), tmp_path / "model.safetensors"
    save_model(file, model, method="drum-transfer", arguments=about["arguments"], notes={})
    with safetensors.safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    sampling, harm, worked = Sampling(max_tokens=8), list[str](), 0
    for place, value in [((), None), *changed(about)]:
        other = copy.deepcopy(about)
        if place:
            put(other, place, value)
        told = {f"modicum.{key}": json.dumps(part) for key, part in other.items()}
        safetensors.torch.save_file(state, file, metadata | told)
        try:
            drummer = Drummer.load(file, device="cpu")
            drummer.complete([PROMPT], drummer.config.notation, sampling, bars=1)
            worked += 1
        except CheckpointError:
            pass
        except (ConfigError, DataError):
            worked += 1  # what is loaded says what it cannot do
        except Exception as error:  # counted
            harm.append(f"{place} {value}: {type(error).__name__}: {error}"[:300])
    assert not harm, "\n".join(harm)
    assert worked


def test_a_base_is_opened_only_where_the_user_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, file = models(tmp_path)["adapters"], tmp_path / "model.safetensors"
    notes = {"config": to_json(Config())}
    save_model(file, model, method="drum-transfer", arguments=arguments_of(model), notes=notes)
    monkeypatch.setattr(model_folders, "_named", set())
    opened: list[str] = []
    find = model_folders._find

    def seen(source: str) -> Any:
        opened.append(source)
        return find(source)

    monkeypatch.setattr(model_folders, "_find", seen)
    with pytest.raises(CheckpointError, match=r"base\. As files .* name it by --model"):
        load_saved(file)
    assert not opened
    (tmp_path / "base").rename(tmp_path / "moved")
    write_model(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match="name it by --model"):
        Drummer.load(file, str(tmp_path / "other"))
    assert isinstance(Drummer.load(file, str(tmp_path / "moved")).model.origin.source, str)
    assert {Path(source).name for source in opened} == {"other", "moved"}
