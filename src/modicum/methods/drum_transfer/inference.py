"""Using what a run left, or a model by name: continue grooves, measure it, export it."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Mapping, Sequence
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
from modicum.engine.weights import load_saved, save_model
from modicum.errors import ConfigError
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
from modicum.methods.drum_transfer.groove_files import groove_paths, numbered, read_groove
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
from modicum.methods.drum_transfer.train import Config, build_model

_log = logging.getLogger("modicum")

Split = Literal["train", "val", "test"]
Weights = Literal["best", "last"]
Format = Literal["mid", "txt", "png", "wav"]
USUAL_VELOCITY = 100
"""Of an instrument that the player has not hit."""


@dataclass(frozen=True)
class Drummer:
    """A model that continues grooves, and how the grooves that it knows are written."""

    model: nn.Module
    config: Config
    name: str
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
            return cls(found, config, Path(config.model).name, saved.path.parent)
        assert model is not None
        if model in baselines.BY_NAME:
            return cls(baselines.BY_NAME[model](), Config(model="ngram"), model)
        if model == "scratch":
            raise ConfigError("--model scratch: it knows nothing before it is trained. Train it.")
        config = Config(model=model)
        records = [
            record for g in config.open("generated").splits["train"] if (record := config.record(g))
        ]
        untrained = build_model(dataclasses.replace(config, full=True), records, seed=0)
        return cls(ready_to_write(untrained, device), config, Path(config.model).name)

    def complete(
        self,
        prompts: Sequence[str],
        notation: Notation,
        *,
        bars: int,
        samples: int = 1,
        temperature: float = 0.9,
        top_p: float = 1.0,
        constrained: bool = True,
        max_tokens: int | None = None,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[str]]:
        """Completions of prompts; see `generate.generate`, whose options these are."""
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
            prompts, notation, bars=bars, samples=samples, temperature=temperature, seed=seed
        )


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
    train: Sequence[Record],
    records: Sequence[Record],
    *,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Nats per line of a model and of the n-grams of section 6.4.

    Args:
        drummer: The model.
        train: What the n-grams are counted on.
        records: What all are measured on.
        quiet: No progress.

    Returns:
        A row each: `nats_per_line` of all lines, `without_padding` of those up to the last hit, and
        `nats_per_token`, of a network.
    """
    notation = drummer.notation
    rows: list[dict[str, Any]] = []
    if notation.layout == "steps":
        ngram = baselines.NGram.fit(train, notation)
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
    train: Sequence[Record],
    records: Sequence[Record],
    *,
    samples: int = 1,
    quiet: bool = False,
    **how: Any,
) -> dict[str, list[str]]:
    """Whole records: those of people, and those that the baselines and a model make of the prompts.

    Args:
        drummer: The model.
        train: What the n-gram is counted on.
        records: Whose prompts are continued.
        samples: Of the model.
        quiet: No progress.
        how: More of `Drummer.complete`'s.

    Returns:
        By name, `people` and the model's among them, the records in order; a model's `samples` of
        a record stand together.
    """
    notation, prompts = drummer.notation, [record.prompt for record in records]
    bars = [record.completion.count(SEPARATOR) + 1 for record in records]
    others = {
        "repeat": baselines.Repeat(),
        "random": baselines.Random(),
        "ngram": baselines.NGram.fit(train, notation),
    }
    others.pop(drummer.name, None)
    texts = {"people": [record.prompt + record.completion for record in records]}
    for name, model in others.items():
        baseline = dataclasses.replace(drummer, model=model, name=name)
        texts[name] = continued(baseline, prompts, bars, 1, how)
    with report_progress("write", quiet=quiet) as progress:
        written = continued(drummer, prompts, bars, samples, how | {"progress": progress})
    return texts | {drummer.name: written}


def continued(
    drummer: Drummer,
    prompts: Sequence[str],
    bars: Sequence[int],
    samples: int,
    how: Mapping[str, Any],
) -> list[str]:
    """Prompts with their completions.

    Args:
        drummer: Who writes.
        prompts: As of `Drummer.complete`.
        bars: Of each, the bars to write.
        samples: Completions of each, which stand together.
        how: More of `Drummer.complete`'s options.
    """
    texts: list[list[str]] = [[] for _ in prompts]
    how = dict(how)
    progress = how.pop("progress", None)
    finished = 0
    for number in dict.fromkeys(bars):
        chosen = [n for n, wanted in enumerate(bars) if wanted == number]

        def report(done: int, total: int, before: int = finished, some: int = len(chosen)) -> None:
            assert progress is not None
            progress(round(100 * (before + some * done / total)), 100 * len(prompts))

        found = drummer.complete(
            [prompts[n] for n in chosen],
            drummer.notation,
            bars=number,
            samples=samples,
            progress=report if progress is not None else None,
            **how,
        )
        finished += len(chosen)
        for n, completions in zip(chosen, found, strict=True):
            texts[n] = [prompts[n] + completion for completion in completions]
    return [text for of_prompt in texts for text in of_prompt]


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
    temperature: float = 0.9,
    top_p: float = 1.0,
    constrained: bool = True,
    max_tokens: int | None = None,
    seed: int = 0,
    tempo: float | None = None,
    channel: int | None = None,
    chat: bool = False,
    base_url: str = "",
    soundfont: Path | None = None,
    device: Device = "auto",
) -> dict[str, Any]:
    """Continue grooves of yours: MIDI that plays in a DAW, a tab, a step grid, sound.

    The first bars of each file are kept, and as many are written after them as is asked for, at
    the file's tempo.

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
        prompt_bars: Bars to begin with; none: the whole file.
        out: Folder for NAME_1.mid, NAME_1.txt, … and predictions.json.
        formats: mid, txt (a tab), png (a step grid), wav.
        temperature: The higher, the more unlikely things are written; 0: the likeliest alone.
        top_p: Draw from the likeliest tokens alone, whose probabilities sum to this.
        constrained: Let the model write nothing but whole bars of whole lines. --no-constrained is
            the paper's way; what comes is then repaired by silence where it is malformed.
        max_tokens: Most tokens of a continuation; none: as many as it can need, of a server 1000.
        seed: Of what is drawn.
        tempo: Quarter notes a minute; none: the file's.
        channel: MIDI channel of the drums, counted from 0; none: that of training, usually 9.
        chat: The server's model is one for chats.
        base_url: Address of the server up to /v1; empty: OPENAI_BASE_URL, or OpenAI's.
        soundfont: An .sf2 file for wav; none: a small built-in drum kit.
        device: Where to compute.
    """
    if server is not None and (run is not None or model is not None):
        raise ConfigError("--server: it is in place of --run and --model; leave these out.")
    check_sampling(
        bars=bars, samples=samples, temperature=temperature, top_p=top_p, max_tokens=max_tokens
    )
    drummer = None if server is not None else Drummer.load(run, model, weights, device)
    config = Config() if drummer is None else drummer.config
    reading = dataclasses.replace(config.reading(), bars=None, pad=False)
    if channel is not None:
        reading = dataclasses.replace(reading, channel=channel)
    paths = groove_paths(files)
    names = numbered(path.stem for path in paths)
    grooves = [
        without_leading_silence(
            read_groove(path, reading, name=name), keep_pickups=config.keep_pickups
        )
        for path, name in zip(paths, names, strict=True)
    ]
    prompts = [to_prompt(groove, prompt_bars) for groove in grooves]
    odd = [g.name for g in grooves if g.meter[0] != g.notation.beats_per_bar]
    if odd:
        _log.warning(
            "%s: not in 4/4, but the model's bars have 16 lines, as the paper's, so bar lines will "
            "not be where they should. A model trained with --meter-bars follows the meter.",
            ", ".join(odd),
        )
    how: dict[str, Any] = {"samples": samples, "temperature": temperature}
    if drummer is None:
        assert server is not None
        writer = Server(server, form="chat" if chat else "completions", base_url=base_url)
        texts = [
            [
                answer.text
                for answer in continue_groove(
                    writer,
                    Record(prompt, "", groove.name),
                    notation=groove.notation,
                    groove_bars=bars + prompt.count(SEPARATOR),
                    repair="pad",
                    max_tokens=max_tokens or 1000,
                    **how,
                )
            ]
            for groove, prompt in zip(grooves, prompts, strict=True)
        ]
    else:
        how |= {"top_p": top_p, "constrained": constrained, "max_tokens": max_tokens, "seed": seed}
        texts = [[] for _ in grooves]
        for notation in dict.fromkeys(groove.notation for groove in grooves):
            chosen = [n for n, groove in enumerate(grooves) if groove.notation == notation]
            with report_progress("write") as report:
                found = drummer.complete(
                    [prompts[n] for n in chosen], notation, bars=bars, progress=report, **how
                )
            for n, completions in zip(chosen, found, strict=True):
                texts[n] = [without_separators(prompts[n] + text) for text in completions]
    rows: list[dict[str, Any]] = []
    jobs = [
        (groove, prompt.count(SEPARATOR), number, text)
        for groove, prompt, of_groove in zip(grooves, prompts, texts, strict=True)
        for number, text in enumerate(of_groove, 1)
    ]
    with Progress("render", len(jobs)) as progress:
        for done, (groove, given, number, text) in enumerate(jobs, 1):
            name = f"{groove.name}_{number}"
            hits = to_hits(text, groove.notation, repair="pad", source=name)
            step = groove.notation.steps_per_bar
            written = dataclasses.replace(
                groove,
                name=name,
                text=to_text(hits, groove.notation),
                tempo=tempo
                or round(groove.tempo, 3),  # 110, not 109.99990833, of a file's 545455 us
                velocities=_velocities(groove, hits, given * step),
            )
            rows.append(_render(written, out, formats, given, soundfont))
            progress.advance(done)
    result: dict[str, Any] = {
        "model": server or (drummer.name if drummer else ""),
        "grooves": len(grooves),
    }
    write_text(out / "predictions.json", to_json(result | {"samples": rows}) + "\n")
    return result | {"folder": str(out), "samples": rows}


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
    temperature: float = 0.9,
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
        data: What --data of train takes; none: the run's.
        split: Which grooves.
        write: Let it continue the grooves and measure what it writes; otherwise the loss alone.
        samples: Continuations of each groove.
        temperature: The paper's is 0.9.
        top_p: Draw from the likeliest tokens alone, whose probabilities sum to this.
        constrained: Whole bars alone; --no-constrained is the paper's way.
        max_tokens: Most tokens of a continuation; the paper's is 1000; none: as many as needed.
        official: Bar strings of the paper's script, whose lines end in two newlines.
        clusterer: exact, or sklearn as in the paper's script.
        styles: Also a table for each style.
        seed: Of what is drawn.
        out: Folder for evaluation.json, the grooves written (a .txt each) and a picture; none: the
            run folder.
        device: Where to compute.
    """
    drummer = Drummer.load(run, model, weights, device)
    config, notation = drummer.config, drummer.notation
    if data is not None:
        config = dataclasses.replace(config, data=data)
    collection = config.open()
    chosen = [
        (groove, record)
        for groove in collection.splits[split]
        if (record := config.record(groove)) is not None
    ]
    records = [record for _, record in chosen] or config.to_records([], split)
    train = config.to_records(collection.splits["train"], "train")
    losses = losses_beside_yardsticks(drummer, train, records)
    result: dict[str, Any] = {
        "data": config.data,
        "measured_on": f"{len(records)} records of the {split} split",
        "loss": losses,
    }
    folder = out or drummer.folder or Path("evaluation")
    if write:
        texts = write_beside_baselines(
            drummer,
            train,
            records,
            samples=samples,
            temperature=temperature,
            top_p=top_p,
            constrained=constrained,
            max_tokens=max_tokens,
            seed=seed,
        )
        whole = [without_separators(r.prompt + r.completion) for r in records]
        reference = Reference.read([r.prompt + r.completion for r in train], notation)
        options: dict[str, Any] = {
            "notation": notation,
            "reference": reference,
            "records": True,
            "given_bars": config.prompt_bars,
            "groove_bars": config.bars,
            "official": official,
            "clusterer": clusterer,
        }
        copies = {name: len(of_name) // len(whole) for name, of_name in texts.items()}
        result["measures"] = score_table(
            {
                name: score(of_name, expected=np.repeat(whole, copies[name]).tolist(), **options)
                for name, of_name in texts.items()
            }
        )
        if styles:
            known = [collection.styles.get(g.name, "unknown") for g, _ in chosen]
            result["styles"] = {
                drummer.name: score_table(
                    score_styles(
                        texts[drummer.name],
                        np.repeat(known, samples).tolist(),
                        expected=np.repeat(whole, samples).tolist(),
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
                to_text(to_hits(without_separators(of_name[0]), notation, repair="pad"), notation),
                notation=notation,
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
        out: File or folder to write; none: beside the run's weights, or records.jsonl.
    """
    if to in ("jsonl-legacy", "jsonl-chat"):
        config = Config() if run is None else Drummer.load(run).config
        if data is not None:
            config = dataclasses.replace(config, data=data)
        records = config.to_records(config.open().splits[split], split)
        path = out or Path("records.jsonl")
        form = "completions" if to == "jsonl-legacy" else "chat"
        number = write_jsonl(path, records, form=form, notation=notation_named(config.notation))
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
