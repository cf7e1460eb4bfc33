"""The verb `export`: a model for other programs, or records to fine-tune one elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from modicum.errors import ConfigError
from modicum.method import load_saved
from modicum.methods.drum_transfer.data.sources import Split
from modicum.methods.drum_transfer.model_folders import find_model
from modicum.methods.drum_transfer.models.language_models import LanguageModel
from modicum.methods.drum_transfer.models.remote import Form, write_jsonl
from modicum.methods.drum_transfer.saved_models import arguments_of, export_folder
from modicum.methods.drum_transfer.train import Config
from modicum.options import check_arguments
from modicum.weights.saved import save_model

_FORMS: Mapping[str, Form] = {"jsonl-legacy": "completions", "jsonl-chat": "chat"}


@check_arguments
def export(
    run: Path | None = None,
    to: Literal["safetensors", "transformers", "jsonl-legacy", "jsonl-chat"] = "safetensors",
    data: str | None = None,
    split: Split = "train",
    model: str | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Write a trained model for other programs, or records for fine-tuning somewhere else.

    Args:
        run: Run folder, or a .safetensors file of one. For jsonl it gives the data and how they are
            read and written: --notation, --bars, --cut, --meter-bars, --prompt-bars and the like of
            train. A baseline's will do, train --model ngram, and predict takes the same beside
            --server. None: as in the paper.
        to: safetensors: the model in one file, adapters merged, for modicum. transformers: a folder
            of Transformers, adapters merged and the vocabulary whole, which other programs read.
            jsonl-legacy: records as lines of prompt and completion. jsonl-chat: as lines of
            messages.
        data: For jsonl, what --data of train takes; None: the run's.
        split: For jsonl, which grooves, all of them whatever --records was.
        model: Where the pre-trained model lies that was trained: needed if adapters alone were
            stored, and for transformers if its vocabulary was restricted.
        out: File or folder to write; None: beside the run's weights, or records.jsonl.
    """
    if to in _FORMS:
        config = Config() if run is None else Config.of_run(run)
        if data is not None:
            config = dataclasses.replace(config, data=data)
        records = config.to_records(config.open()[split], split)
        path = out or Path("records.jsonl")
        number = write_jsonl(path, records, form=_FORMS[to])
        return {"written": str(path), "records": number, "data": config.data}
    if data is not None:
        raise ConfigError(f"--data: --to {to} writes a model, not records. Leave it out.")
    if run is None:
        raise ConfigError(f"--to {to}: give the trained run by --run.")
    if model is not None:
        find_model(model)
    saved = load_saved(run, "best", method="drum-transfer")
    network, folder = saved.module, saved.path.parent
    if to == "transformers":
        out = out or folder / "transformers"
        export_folder(network, out)
        return {"written": str(out)}
    if isinstance(network, LanguageModel):
        network.merge_lora()
    out = out or folder / "drummer.safetensors"
    arguments = arguments_of(network)
    save_model(out, network, method="drum-transfer", arguments=arguments, notes=saved.notes)
    return {"written": str(out), "bytes": out.stat().st_size}
