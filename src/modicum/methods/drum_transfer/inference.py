"""Using what a run left, or a model by name: continue grooves, measure it, export it."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import tyro
from torch import nn

from modicum.engine.devices import Device, choose_device
from modicum.engine.files import atomic_write, to_json, write_text
from modicum.engine.progress import Progress, report_progress
from modicum.engine.run import config_from_json
from modicum.engine.weights import load_saved, read_notes, save_model
from modicum.errors import ConfigError, DataError
from modicum.methods.drum_transfer import baselines
from modicum.methods.drum_transfer.decoder import CausalModel
from modicum.methods.drum_transfer.drumroll import (
    Hits,
    Record,
    to_hits,
    to_prompt,
    to_text,
    without_leading_silence,
    without_separators,
)
from modicum.methods.drum_transfer.extensions import notation_named
from modicum.methods.drum_transfer.generate import check_sampling, generate
from modicum.methods.drum_transfer.groove_files import (
    PitchMap,
    groove_paths,
    numbered,
    read_groove,
)
from modicum.methods.drum_transfer.language_models import LanguageModel
from modicum.methods.drum_transfer.losses import CompletionNats, completion_nats
from modicum.methods.drum_transfer.measures import Reference, score, score_styles, score_table
from modicum.methods.drum_transfer.midi import write_midi
from modicum.methods.drum_transfer.notation import INSTRUMENTS, SEPARATOR, Groove, Notation
from modicum.methods.drum_transfer.pictures import comparison_sheet, step_grid
from modicum.methods.drum_transfer.remote import Server, continue_groove, write_jsonl
from modicum.methods.drum_transfer.saved_models import arguments_of, export_folder
from modicum.methods.drum_transfer.structure import Clusterer, structure
from modicum.methods.drum_transfer.synthesis import write_wav
from modicum.methods.drum_transfer.tablature import to_tablature
from modicum.methods.drum_transfer.train import BUILT_IN, Config, build_model

_log = logging.getLogger("modicum")

Split = Literal["train", "val", "test"]
Weights = Literal["best", "last"]
Format = Literal["mid", "txt", "png", "wav"]
USUAL_VELOCITY = 100
"""Of an instrument that the player has not hit."""
TEMPERATURE = 0.9
"""Of sampling, as in the paper."""
TEMPOS: Mapping[Format, tuple[float, float]] = {"mid": (4.0, 1000.0), "wav": (10.0, 1000.0)}
"""Quarter notes a minute of the slowest and the fastest groove that is written as such."""
PEOPLE = "people"
_TAKEN = ("measure", "excluded", "what", PEOPLE, *baselines.BY_NAME, *baselines.YARDSTICKS)
"""Columns and rows beside which the model's stands."""


@dataclass(frozen=True)
class Drummer:
    """A model that continues grooves, and how the grooves that it knows are written."""

    model: nn.Module
    config: Config
    name: str
    """None that anything it is compared with has, unless it is that baseline."""
    folder: Path | None = None
    """Of its run."""

    @property
    def notation(self) -> Notation:
        """Of its texts."""
        return notation_named(self.config.notation)

    @classmethod
    def load(
        cls,
        run: Path | None,
        model: str | None = None,
        weights: Weights = "best",
        device: Device = "auto",
    ) -> Drummer:
        """A trained run, or a model by name that has not been trained here.

        Args:
            run: A run folder, or a `.safetensors` file of one.
            model: `ngram`, which is counted on the built-in grooves at once; `repeat` or `random`;
                or a pre-trained model as `Config.model` has it, untrained on drums.
            weights: Of a run folder, those of the best epoch or of the last.
            device: Where to compute.

        Raises:
            ConfigError: None or both are given, or there is no such model.
            CheckpointError: The run cannot be read.
        """
        if (run is None) == (model is None):
            raise ConfigError("give --run with a trained run, or --model with a model by name.")
        if run is not None:
            saved = load_saved(run, weights, method="drum-transfer")
            config = config_from_json(Config, saved.notes["config"])
            found = saved.module
            if isinstance(found, CausalModel):
                found = ready_to_write(found, device)
            return cls(found, config, _name_of(config), saved.path.parent)
        assert model is not None
        if model in baselines.BY_NAME:
            return cls(baselines.BY_NAME[model](), Config(model=model), model)
        if model == "scratch":
            raise ConfigError("--model scratch: it knows nothing before it is trained. Train it.")
        config = Config(model=model)
        records = config.to_records(config.open("generated")["train"], "train")
        untrained = build_model(dataclasses.replace(config, full=True), records, seed=0)
        return cls(ready_to_write(untrained, device), config, _name_of(config))

    def complete(
        self,
        prompts: Sequence[str],
        notation: Notation,
        *,
        bars: int,
        samples: int = 1,
        temperature: float = TEMPERATURE,
        top_p: float = 1.0,
        constrained: bool = True,
        max_tokens: int | None = None,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[str]]:
        """Completions of prompts; see `generate.generate`, whose options these are.

        A baseline writes whole bars, whatever `constrained` and `max_tokens` are.
        """
        if isinstance(self.model, CausalModel):
            return generate(
                self.model,
                prompts,
                notation=notation,
                bars=bars,
                samples=samples,
                temperature=temperature,
                top_p=top_p,
                constrained=constrained,
                max_tokens=max_tokens,
                seed=seed,
                progress=progress,
            )
        assert isinstance(self.model, baselines.Baseline)
        return self.model.complete(
            prompts,
            notation,
            bars=bars,
            samples=samples,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
        )

    def check_sampling(
        self, *, temperature: float, top_p: float, constrained: bool, max_tokens: int | None
    ) -> None:
        """Refuse options that a baseline would pass over in silence.

        Raises:
            ConfigError: One is other than usual, and it is a baseline that has no use for it.
        """
        if not isinstance(self.model, baselines.Baseline):
            return
        unused = {"--no-constrained": not constrained, "--max-tokens": max_tokens is not None}
        if not isinstance(self.model, baselines.NGram):
            unused |= {"--temperature": temperature != TEMPERATURE, "--top-p": top_p != 1}
        if given := [option for option, is_given in unused.items() if is_given]:
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


def losses_beside_yardsticks(
    drummer: Drummer,
    ngram: baselines.NGram,
    records: Sequence[Record],
    *,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Nats per line of a model and of the n-grams of section 6.4.

    Args:
        drummer: The model.
        ngram: Of which the yardsticks are the orders.
        records: What all are measured on.
        quiet: No progress.

    Returns:
        A row each: `nats_per_line` of all lines, `without_padding` of those up to the last hit, and
        `nats_per_token`, of a network.
    """
    notation = drummer.notation
    rows: list[dict[str, Any]] = []
    if notation.layout == "steps":
        rows += [
            _loss_row(name, ngram.nats(records, order))
            for order, name in enumerate(baselines.YARDSTICKS)
        ]
    if isinstance(drummer.model, CausalModel):
        with report_progress("measure", quiet=quiet) as progress:
            nats = completion_nats(drummer.model, records, notation=notation, progress=progress)
        rows.append(_loss_row(drummer.name, nats) | {"nats_per_token": nats.per_token})
    elif isinstance(drummer.model, baselines.NGram) and drummer.folder is not None:
        rows.append(_loss_row(drummer.name, drummer.model.nats(records)))
    return rows


def _loss_row(name: str, nats: CompletionNats) -> dict[str, Any]:
    return {
        "model": name,
        "nats_per_line": nats.per_line,
        "without_padding": nats.per_sounding_line,
    }


def write_beside_baselines(
    drummer: Drummer,
    ngram: baselines.NGram,
    records: Sequence[Record],
    *,
    samples: int = 1,
    quiet: bool = False,
    **how: Any,
) -> dict[str, list[str]]:
    """Whole records: those of people, and those that the baselines and a model make of the prompts.

    Args:
        drummer: The model.
        ngram: The baseline of that name.
        records: Whose prompts are continued.
        samples: Of the model.
        quiet: No progress.
        how: More of `Drummer.complete`'s.

    Returns:
        By name, `people` and the model's among them, the records in order; a model's `samples` of
        a record stand together.
    """
    others = {"repeat": baselines.Repeat(), "random": baselines.Random(), "ngram": ngram}
    others.pop(drummer.name, None)
    texts = {PEOPLE: [record.prompt + record.completion for record in records]}
    for name, model in others.items():
        baseline = dataclasses.replace(drummer, model=model, name=name)
        texts[name] = continued(baseline, records, **how)
    with report_progress("write", quiet=quiet) as progress:
        written = continued(drummer, records, samples=samples, progress=progress, **how)
    return texts | {drummer.name: written}


def continued(
    drummer: Drummer,
    records: Sequence[Record],
    *,
    bars: int | None = None,
    samples: int = 1,
    progress: Callable[[int, int], None] | None = None,
    **how: Any,
) -> list[str]:
    """The prompts of records with completions.

    Args:
        drummer: Who writes.
        records: Whose prompts are continued, in their notations.
        bars: Bars to write; None: as many as the completion of the record has.
        samples: Completions of each, which stand together.
        progress: Called with what is done and how much there is.
        how: More of `Drummer.complete`'s options.
    """
    # A model is asked at once for all that have the same notation and bars.
    groups: dict[tuple[Notation, int], list[int]] = {}
    for number, record in enumerate(records):
        wanted = bars or record.completion.count(SEPARATOR) + 1
        groups.setdefault((record.notation, wanted), []).append(number)
    texts: list[list[str]] = [[] for _ in records]
    finished = 0
    for (notation, wanted), chosen in groups.items():

        def report(done: int, total: int, before: int = finished, some: int = len(chosen)) -> None:
            assert progress is not None
            progress(round(100 * (before + some * done / total)), 100 * len(records))

        found = drummer.complete(
            [records[number].prompt for number in chosen],
            notation,
            bars=wanted,
            samples=samples,
            progress=report if progress is not None else None,
            **how,
        )
        finished += len(chosen)
        for number, completions in zip(chosen, found, strict=True):
            texts[number] = [records[number].prompt + text for text in completions]
    return [text for of_record in texts for text in of_record]


def predict(
    files: tyro.conf.Positional[tuple[Path, ...]],
    run: Path | None = None,
    model: str | None = None,
    weights: Weights = "best",
    server: str | None = None,
    bars: int = 14,
    samples: int = 4,
    prompt_bars: int | None = 2,
    out: Path = Path("out"),
    formats: tuple[Format, ...] = ("mid", "txt", "png", "wav"),
    temperature: float = TEMPERATURE,
    top_p: float = 1.0,
    constrained: bool = True,
    max_tokens: int | None = None,
    seed: int = 0,
    tempo: float | None = None,
    channel: int | None = None,
    pitch_map: PitchMap | None = None,
    chat: bool = False,
    base_url: str = "",
    soundfont: Path | None = None,
    device: Device = "auto",
) -> dict[str, Any]:
    """Continue grooves of yours: MIDI that plays in a DAW, a tab, a step grid, sound.

    The first bars of each file are kept, and as many are written after them as is asked for, at
    the file's tempo. A file that cannot be used is told of, in the exit code too, and does not stop
    the others.

    Args:
        files: MIDI files, drum tabs or drumroll lines (.tab, .txt), or folders of them.
        run: Run folder, or a .safetensors file of one.
        weights: Of a run folder, those of the best epoch or of the last.
        model: In place of --run: ngram, which needs no training; repeat or random; or a pre-trained
            model as --model of train has it, untrained on drums.
        server: In place of these: what a server that speaks OpenAI's protocol calls its model. The
            key is read from OPENAI_API_KEY.
        bars: Bars to write after the given ones.
        samples: Continuations of each file.
        prompt_bars: Bars to begin with; None: the whole file.
        out: Folder for NAME_1.mid, NAME_1.txt, … and predictions.json.
        formats: mid, txt (a tab), png (a step grid), wav.
        temperature: The higher, the more unlikely things are written; 0: the likeliest alone.
        top_p: Draw from the likeliest tokens alone, whose probabilities sum to this.
        constrained: Let the model write nothing but whole bars of whole lines. --no-constrained is
            the paper's way, and that of every server; what comes is then repaired by silence where
            it is malformed.
        max_tokens: Most tokens of a continuation; None: as many as it can need, of a server 1000.
        seed: Of what is drawn. A server is sent one other than 0.
        tempo: Quarter notes a minute; None: the file's.
        channel: MIDI channel of the drums, counted from 0; None: that of training, usually 9.
        pitch_map: What MIDI pitches are: --pitch-map 33 snare 31 none; none leaves one out. None:
            as in training.
        chat: The server's model is one for chats.
        base_url: Address of the server up to /v1; empty: OPENAI_BASE_URL, or OpenAI's.
        soundfont: An .sf2 file for wav; None: a small built-in drum kit.
        device: Where to compute.
    """
    check_sampling(
        bars=bars, samples=samples, temperature=temperature, top_p=top_p, max_tokens=max_tokens
    )
    slowest, fastest = TEMPOS["wav" if "wav" in formats else "mid"]
    if tempo is not None and not slowest <= tempo <= fastest:
        raise ConfigError(f"--tempo {tempo:g}: must be {slowest:g} to {fastest:g}.")
    here = {
        "--run": run is not None,
        "--model": model is not None,
        "--weights": weights != "best",
        "--device": device != "auto",
    }
    there = {"--chat": chat, "--base-url": bool(base_url)}
    misplaced = [name for name, given in (here if server is not None else there).items() if given]
    if misplaced:
        place = "it is in place of a model here" if server is not None else "there is none"
        raise ConfigError(f"--server: {place}; leave out {', '.join(misplaced)}.")
    drummer = None
    if server is None:
        drummer = Drummer.load(run, model, weights, device)
        drummer.check_sampling(
            temperature=temperature, top_p=top_p, constrained=constrained, max_tokens=max_tokens
        )
    config = Config() if drummer is None else drummer.config
    reading = dataclasses.replace(config.reading(), bars=None, pad=False)
    if channel is not None:
        reading = dataclasses.replace(reading, channel=channel)
    if pitch_map is not None:
        reading = dataclasses.replace(reading, pitch_map=dict(pitch_map))
    paths = groove_paths(files)
    names = numbered(path.stem for path in paths)
    errors: dict[str, DataError] = {}
    grooves: dict[str, Groove] = {}
    records: dict[str, Record] = {}
    for path, name in zip(paths, names, strict=True):
        with _kept(errors, name):
            groove = without_leading_silence(
                read_groove(path, reading, name=name), keep_pickups=config.keep_pickups
            )
            record = Record(to_prompt(groove, prompt_bars), "", name, groove.notation)
            if tempo is None and not slowest <= groove.tempo <= fastest:
                raise DataError(
                    f"{path}: its tempo is {groove.tempo:g}; expected {slowest:g} to {fastest:g} "
                    f"quarter notes a minute. Give another, --tempo 120."
                )
            grooves[name], records[name] = groove, record
    odd = [name for name, g in grooves.items() if g.meter[0] != g.notation.beats_per_bar]
    if odd:
        _log.warning(
            "%s: not in 4/4, but the model's bars have 16 lines, as the paper's, so bar lines will "
            "not be where they should. A model trained with --meter-bars follows the meter.",
            ", ".join(odd),
        )
    texts: dict[str, list[str]] = {}
    with report_progress("write") as report:
        if drummer is not None:
            whole = continued(
                drummer,
                list(records.values()),
                bars=bars,
                samples=samples,
                progress=report,
                temperature=temperature,
                top_p=top_p,
                constrained=constrained,
                max_tokens=max_tokens,
                seed=seed,
            )
            for number, name in enumerate(records):
                texts[name] = whole[number * samples : (number + 1) * samples]
        elif records:
            assert server is not None
            writer = Server(server, form="chat" if chat else "completions", base_url=base_url)
            asked = {"top_p": top_p} if top_p != 1 else {}
            asked |= {"seed": seed} if seed else {}
            for done, (name, record) in enumerate(records.items(), 1):
                with _kept(errors, name):
                    answers = continue_groove(
                        writer,
                        record,
                        groove_bars=bars + record.prompt.count(SEPARATOR),
                        samples=samples,
                        repair="pad",
                        temperature=temperature,
                        max_tokens=max_tokens or 1000,
                        options=asked,
                    )
                    texts[name] = [answer.text for answer in answers]
                report(done, len(records))
    if not texts:
        first = next(iter(errors.values()))
        raise DataError(f"none of the {len(paths)} files can be continued. The first: {first}")
    jobs = [(name, number, text) for name in texts for number, text in enumerate(texts[name], 1)]
    rows: list[dict[str, Any]] = []
    with Progress("render", len(jobs)) as progress:
        for done, (source, number, text) in enumerate(jobs, 1):
            groove, name = grooves[source], f"{source}_{number}"
            notation, given = groove.notation, records[source].prompt.count(SEPARATOR)
            hits = to_hits(without_separators(text), notation, repair="pad", source=name)
            written = dataclasses.replace(
                groove,
                name=name,
                text=to_text(hits, notation),
                # 110, not 109.99990833, of a file's 545455 us
                tempo=round(groove.tempo, 3) if tempo is None else tempo,
                velocities=_velocities(groove, hits, given * notation.steps_per_bar),
            )
            rows.append(_render(written, out, formats, given, soundfont))
            progress.advance(done)
    rows += [{"name": name, "error": str(error)} for name, error in errors.items()]
    result: dict[str, Any] = {
        "model": server or (drummer.name if drummer else ""),
        "grooves": len(texts),
        "unusable": len(errors),
        "usable": not errors,
    }
    write_text(out / "predictions.json", to_json(result | {"samples": rows}) + "\n")
    return result | {"folder": str(out), "samples": rows}


@contextmanager
def _kept(errors: dict[str, DataError], name: str) -> Generator[None]:
    """Tell of what is wrong with one groove, and go on with the others."""
    try:
        yield
    except DataError as error:
        _log.warning("%s", error)
        errors[name] = error


def _plain(name: str) -> str:
    """A name, which may come from somebody's table, as that of a file in no other folder."""
    return re.sub(r"[^\w.@+-]+", "_", name).lstrip(".") or "groove"


def _velocities(groove: Groove, hits: Hits, given: int) -> npt.NDArray[np.uint8] | None:
    """Velocities of a continuation: the player's own of the given steps, and after them the mean of
    what the player gave the instrument at that step of a bar, or anywhere.
    """
    if groove.velocities is None:
        return None
    known = groove.velocities[:given].astype(np.float64)
    size = groove.notation.steps_per_bar
    played = known.reshape(-1, size, len(INSTRUMENTS))
    count = (played > 0).sum(0)
    overall = known.sum(0) / np.maximum((known > 0).sum(0), 1)
    overall[overall == 0] = USUAL_VELOCITY
    of_step = np.where(count > 0, played.sum(0) / np.maximum(count, 1), overall)
    bars = -(-len(hits) // size)
    velocities = np.tile(of_step, (bars, 1))[: len(hits)].round()
    velocities[:given] = known
    return np.where(hits > 0, velocities, 0).astype(np.uint8)


def _render(
    groove: Groove, out: Path, formats: Sequence[Format], given: int, soundfont: Path | None
) -> dict[str, Any]:
    """Write a continuation in every format; its row of the result."""
    found = structure(groove.text, notation=groove.notation, most_bars=None)
    files = {kind: out / f"{groove.name}.{kind}" for kind in dict.fromkeys(formats)}
    for kind, path in files.items():
        if kind == "mid":
            write_midi(groove, path)
        elif kind == "txt":
            write_text(path, to_tablature(groove))
        elif kind == "wav":
            write_wav(path, groove, soundfont=soundfont)
        else:
            with atomic_write(path) as file:
                file.write(step_grid(groove, given_bars=given, fills=found.fills))
    return {
        "name": groove.name,
        "bars": len(groove.text) // len(groove.notation.bar()),
        "tempo": groove.tempo,
        "stability": float(found.stability.mean()) if len(found.stability) else None,
        "fills": [bar + 1 for bar in found.fills],
        "files": [str(path) for path in files.values()],
    }


def evaluate(
    run: Path | None = None,
    model: str | None = None,
    weights: Weights = "best",
    data: str | None = None,
    split: Split = "test",
    write: bool = True,
    samples: int = 1,
    temperature: float = TEMPERATURE,
    top_p: float = 1.0,
    constrained: bool = True,
    max_tokens: int | None = None,
    official: bool = False,
    clusterer: Clusterer = "exact",
    styles: bool = False,
    seed: int = 0,
    out: Path | None = None,
    device: Device = "auto",
) -> dict[str, Any]:
    """Measure a model: its loss beside yardsticks, and what it writes beside people and baselines.

    Nats per line is the cross entropy of all tokens of the completions, divided by their lines: it
    does not depend on how the text is cut into tokens, nats per token does. A model above the
    n-gram of two lines, counted on the training split, has learnt nothing worth a network.

    Args:
        run: Run folder, or a .safetensors file of one; the best epoch of it.
        model: In place of --run, a model by name; see predict.
        weights: Of a run folder, those of the best epoch or of the last.
        data: What --data of train takes; None: the run's.
        split: Which grooves.
        write: Let it continue the grooves and measure what it writes; otherwise the loss alone.
        samples: Continuations of each groove.
        temperature: The paper's is 0.9.
        top_p: Draw from the likeliest tokens alone, whose probabilities sum to this.
        constrained: Whole bars alone; --no-constrained is the paper's way.
        max_tokens: Most tokens of a continuation; the paper's is 1000; None: as many as needed.
        official: Bar strings of the paper's script, whose lines end in two newlines.
        clusterer: exact, or sklearn as in the paper's script.
        styles: Also a table for each style.
        seed: Of what is drawn.
        out: Folder for evaluation.json, the grooves written (a .txt each) and a picture; None: the
            run folder.
        device: Where to compute.
    """
    drummer = Drummer.load(run, model, weights, device)
    drummer.check_sampling(
        temperature=temperature, top_p=top_p, constrained=constrained, max_tokens=max_tokens
    )
    config = drummer.config
    if data is not None:
        config = dataclasses.replace(config, data=data)
    collection = config.open()
    chosen = [
        (groove, record)
        for groove in collection[split]
        if (record := config.record(groove)) is not None
    ]
    records = [record for _, record in chosen] or config.to_records([], split)
    train = config.to_records(collection["train"], "train")
    ngram = baselines.NGram.fit(train)
    losses = losses_beside_yardsticks(drummer, ngram, records)
    result: dict[str, Any] = {
        "data": config.data,
        "measured_on": f"{len(records)} records of the {split} split",
        "loss": losses,
    }
    folder = out or drummer.folder or Path("evaluation")
    if write:
        texts = write_beside_baselines(
            drummer,
            ngram,
            records,
            samples=samples,
            temperature=temperature,
            top_p=top_p,
            constrained=constrained,
            max_tokens=max_tokens,
            seed=seed,
        )
        whole = [without_separators(r.prompt + r.completion) for r in records]
        notations = [record.notation for record in records]
        options: dict[str, Any] = {
            "reference": Reference.read(
                [r.prompt + r.completion for r in train], [r.notation for r in train]
            ),
            "records": True,
            "given_bars": config.prompt_bars,
            "groove_bars": config.bars,
            "official": official,
            "clusterer": clusterer,
        }
        copies = {name: len(of_name) // len(whole) for name, of_name in texts.items()}

        def of_each(values: Sequence[Any], name: str) -> list[Any]:
            """Something of each record, for each text."""
            return [value for value in values for _ in range(copies[name])]

        result["measures"] = score_table(
            {
                name: score(
                    of_name,
                    notation=of_each(notations, name),
                    expected=of_each(whole, name),
                    **options,
                )
                for name, of_name in texts.items()
            }
        )
        if styles:
            known = [collection.styles.get(g.name, "unknown") for g, _ in chosen]
            result["styles"] = {
                drummer.name: score_table(
                    score_styles(
                        texts[drummer.name],
                        of_each(known, drummer.name),
                        notation=of_each(notations, drummer.name),
                        expected=of_each(whole, drummer.name),
                        **options,
                    )
                )
            }
        for name, of_name in texts.items():
            for number, text in enumerate(of_name):
                record, copy = divmod(number, copies[name])
                suffix = f"_{copy + 1}" if copies[name] > 1 else ""
                file = folder / "written" / name / f"{_plain(records[record].name)}{suffix}.txt"
                write_text(file, without_separators(text))
        shown = {
            name: Groove(
                name,
                to_text(
                    to_hits(without_separators(of_name[0]), notations[0], repair="pad"),
                    notations[0],
                ),
                notation=notations[0],
            )
            for name, of_name in texts.items()
        }
        with atomic_write(folder / "written.png") as file:
            file.write(comparison_sheet(shown, given_bars=config.prompt_bars))
        result["picture"] = str(folder / "written.png")
        result["written"] = str(folder / "written")
    write_text(folder / "evaluation.json", to_json(result) + "\n")
    return result | {"details": str(folder / "evaluation.json")}


def export(
    run: Path | None = None,
    to: Literal["safetensors", "transformers", "jsonl-legacy", "jsonl-chat"] = "safetensors",
    data: str | None = None,
    split: Split = "train",
    out: Path | None = None,
) -> dict[str, Any]:
    """Write a trained model for other programs, or records for fine-tuning somewhere else.

    Args:
        run: Run folder, or a .safetensors file of one; for jsonl it gives the data and its options,
            and may be left out.
        to: safetensors: the model in one file, adapters merged, for modicum. transformers: a folder
            of Transformers, adapters merged and the vocabulary whole, which other programs read.
            jsonl-legacy: records as lines of prompt and completion. jsonl-chat: as lines of
            messages.
        data: For jsonl, what --data of train takes.
        split: For jsonl, which grooves.
        out: File or folder to write; None: beside the run's weights, or records.jsonl.
    """
    if to in ("jsonl-legacy", "jsonl-chat"):
        config = Config()
        if run is not None:
            notes = read_notes(run, "best", method="drum-transfer")
            config = config_from_json(Config, notes["config"])
        if data is not None:
            config = dataclasses.replace(config, data=data)
        records = config.to_records(config.open()[split], split)
        path = out or Path("records.jsonl")
        form = "completions" if to == "jsonl-legacy" else "chat"
        number = write_jsonl(path, records, form=form)
        return {"written": str(path), "records": number, "data": config.data}
    if run is None:
        raise ConfigError(f"--to {to}: give the trained run by --run.")
    saved = load_saved(run, "best", method="drum-transfer")
    model, folder = saved.module, saved.path.parent
    if to == "transformers":
        out = out or folder / "transformers"
        export_folder(model, out)
        return {"written": str(out)}
    if isinstance(model, LanguageModel):
        model.merge_lora()
    out = out or folder / "drummer.safetensors"
    save_model(
        out,
        model,
        method="drum-transfer",
        arguments=arguments_of(model),
        notes=saved.notes,
    )
    return {"written": str(out), "bytes": out.stat().st_size}
