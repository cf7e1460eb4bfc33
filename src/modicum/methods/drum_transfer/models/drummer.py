"""Models that continue grooves: what a run left, or one by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from modicum.engine.devices import Device, choose_device
from modicum.errors import CheckpointError, ConfigError
from modicum.method import load_saved
from modicum.methods.drum_transfer.model_folders import find_model
from modicum.methods.drum_transfer.models import baselines
from modicum.methods.drum_transfer.models.decoder import CausalModel
from modicum.methods.drum_transfer.models.generate import generate
from modicum.methods.drum_transfer.models.language_models import LanguageModel
from modicum.methods.drum_transfer.options import Sampling
from modicum.methods.drum_transfer.text.drumroll import Record
from modicum.methods.drum_transfer.text.files import numbered
from modicum.methods.drum_transfer.text.notation import SEPARATOR, Notation
from modicum.methods.drum_transfer.train import BUILT_IN, Adaptation, Config, build_model
from modicum.weights.saved import SavedModel, believing_nothing

Weights = Literal["best", "last"]
PEOPLE = "people"
"""What those are called whom a model is compared with."""
_TAKEN = ("measure", "excluded", "what", PEOPLE, *baselines.BY_NAME, *baselines.YARDSTICKS)
"""Columns and rows of tables beside which the model's stands."""


@dataclass(frozen=True)
class Drummer:
    """A model that continues grooves, and how the grooves that it knows are written."""

    model: nn.Module
    config: Config
    """`config.corpus` says how to read grooves that it is to continue."""
    name: str
    """None that anything it is compared with has, unless it is that baseline."""

    @classmethod
    def load(
        cls,
        run: str | os.PathLike[str] | SavedModel | None,
        model: str | None = None,
        weights: Weights = "best",
        device: Device = "auto",
    ) -> Drummer:
        """A trained run, or a model by name that has not been trained here.

        Args:
            run: A run folder, or a `.safetensors` file of one.
            model: In place of a run: `ngram`, which is counted on the built-in grooves at once;
                `repeat` or `random`; or a pre-trained model as `Config.model` has it, untrained on
                drums. Beside one, where the model lies whose adapters alone were stored.
            weights: Those of the best epoch or of the last, of a run folder.
            device: Where to compute.

        Raises:
            ConfigError: Neither is given, or both where they cannot be; there is no such model.
            CheckpointError: The run cannot be read.
        """
        if model is None if run is None else model in BUILT_IN:
            raise ConfigError("give --run with a trained run, or --model with a model by name.")
        if run is not None:
            if model is not None:
                find_model(model)
            saved = load_saved(run, weights, method="drum-transfer")
            config = Config.of_notes(saved.notes, saved.path)
            network = saved.module
            known = getattr(getattr(network, "vocabulary", None), "alphabet", None)
            if known is not None and not set(config.notation.alphabet) <= set(known):
                raise CheckpointError(
                    f"{saved.path}: its network cannot write the notation "
                    f"{config.corpus.notation} that it is said to know. Take an unchanged copy."
                )
            if isinstance(network, CausalModel):
                network = ready_to_write(network, device)
                with believing_nothing(saved.path), torch.no_grad():  # one token tells
                    token = torch.zeros(1, 1, dtype=torch.int64)
                    network(token.to(choose_device(device)), cache=network.new_cache())
            return cls(network, config, _name_of(config))
        assert model is not None
        if model in baselines.BY_NAME:
            return cls(baselines.BY_NAME[model](), Config(model=model), model)
        if model == "scratch":
            raise ConfigError("--model scratch: it knows nothing before it is trained. Train it.")
        config = Config(model=model)
        records = config.to_records(config.open("generated")["train"], "train")
        untrained = build_model(replace(config, adaptation=Adaptation(full=True)), records)
        return cls(ready_to_write(untrained, device), config, _name_of(config))

    def complete(
        self,
        prompts: Sequence[str],
        notation: Notation,
        sampling: Sampling | None = None,
        *,
        bars: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[str]]:
        """Completions of prompts; see `generate.generate`, whose options these are.

        A baseline writes whole bars, whatever `constrained` and `max_tokens` are.

        Raises:
            ConfigError: See there; or the notation is another than the model's, but for the beats
                of a bar.
        """
        if notation.of_any_meter() != self.config.notation:
            raise ConfigError(
                f"the model writes the notation {self.config.corpus.notation!r}, and the prompts "
                f"are in another. Read them as `Drummer.config.corpus` says."
            )
        if isinstance(self.model, CausalModel):
            return generate(
                self.model, prompts, sampling, notation=notation, bars=bars, progress=progress
            )
        assert isinstance(self.model, baselines.Baseline)
        return self.model.complete(prompts, notation, sampling, bars=bars)

    def check_sampling(self, sampling: Sampling) -> None:
        """Raise a `ConfigError` for options that a baseline would pass over in silence."""
        if not isinstance(self.model, baselines.Baseline):
            return
        unused = {"constrained": "--no-constrained", "max_tokens": "--max-tokens"}
        if not isinstance(self.model, baselines.NGram):
            unused |= {"temperature": "--temperature", "top_p": "--top-p"}
        usual = Sampling()
        if given := [o for name, o in unused.items() if vars(sampling)[name] != vars(usual)[name]]:
            raise ConfigError(
                f"{', '.join(given)}: the baseline {self.name} has no such option. Leave it out."
            )


def _name_of(config: Config) -> str:
    """What a model is called in tables and names of files."""
    if config.model in BUILT_IN:
        return config.model
    return numbered((*_TAKEN, Path(config.model).name or "model"))[-1]


def ready_to_write(model: CausalModel, device: Device = "auto") -> CausalModel:
    """A model as it writes fastest: adapters merged, and in bfloat16 where the processor has that.

    A small decoder stays in float32: there is nothing to gain.
    """
    place = choose_device(device)
    if isinstance(model, LanguageModel):
        model.merge_lora()
        if place.type == "cuda" or torch.cpu.get_capabilities().get("avx512_bf16", False):
            model.cast(torch.bfloat16)
    return model.to(place).eval()


def continued(
    drummer: Drummer,
    records: Sequence[Record],
    sampling: Sampling | None = None,
    *,
    bars: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """The prompts of records with completions of so many bars; those of a record stand together.

    None is as many bars as the completion of the record has.
    """
    # A model is asked at once for all that have the same notation and bars.
    groups: dict[tuple[Notation, int], list[int]] = {}
    for number, record in enumerate(records):
        wanted = bars or record.completion.count(SEPARATOR) + 1
        groups.setdefault((record.notation, wanted), []).append(number)
    texts: dict[int, list[str]] = {}
    for (notation, wanted), chosen in groups.items():

        def report(done: int, total: int, past: int = len(texts), some: int = len(chosen)) -> None:
            if progress is not None:
                progress(round(100 * (past + some * done / total)), 100 * len(records))

        prompts = [records[number].prompt for number in chosen]
        found = drummer.complete(prompts, notation, sampling, bars=wanted, progress=report)
        for number, prompt, completions in zip(chosen, prompts, found, strict=True):
            texts[number] = [prompt + text for text in completions]
    return [text for number in range(len(records)) for text in texts[number]]
