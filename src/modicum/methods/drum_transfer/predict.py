"""The verb `predict`: grooves of people, continued."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import tyro

from modicum.engine.devices import Device
from modicum.errors import ConfigError, DataError
from modicum.methods.drum_transfer.decoder import CausalModel
from modicum.methods.drum_transfer.drummer import TEMPERATURE, Drummer, Weights, continued
from modicum.methods.drum_transfer.drumroll import (
    Hits,
    Record,
    to_hits,
    to_prompt,
    to_text,
    without_leading_silence,
    without_separators,
)
from modicum.methods.drum_transfer.generate import check_sampling, completion_limit
from modicum.methods.drum_transfer.groove_files import (
    PitchMap,
    groove_paths,
    numbered,
    read_groove,
)
from modicum.methods.drum_transfer.kit import LOUD, SOFT, writing_tables
from modicum.methods.drum_transfer.midi import Reading, write_midi
from modicum.methods.drum_transfer.notation import INSTRUMENTS, SEPARATOR, Groove
from modicum.methods.drum_transfer.pictures import step_grid
from modicum.methods.drum_transfer.remote import Server, ServerError, continue_groove
from modicum.methods.drum_transfer.structure import structure
from modicum.methods.drum_transfer.synthesis import render as play
from modicum.methods.drum_transfer.synthesis import write_wav
from modicum.methods.drum_transfer.tablature import to_tablature
from modicum.methods.drum_transfer.train import Config
from modicum.options import from_json
from modicum.system.files import atomic_write, ready_folder, to_json, write_text
from modicum.system.progress import Progress, report_progress
from modicum.weights.saved import read_notes

_log = logging.getLogger("modicum")

Format = Literal["mid", "txt", "png", "wav"]
USUAL_VELOCITY = 100
"""Of an instrument that the player has not hit."""
TEMPOS: Mapping[Format, tuple[float, float]] = {"mid": (4.0, 1000.0), "wav": (10.0, 1000.0)}
"""Quarter notes a minute of the slowest and the fastest groove that is written as such."""


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
        run: Run folder, or a .safetensors file of one. Beside --server it says how grooves are
            written, by its --notation, --meter-bars, --keep-pickups, --channel and --pitch-map, and
            is used for nothing else; without it they are drumrolls of 16-line bars, as the paper's.
        weights: Of a run folder, those of the best epoch or of the last.
        model: In place of --run: ngram, which needs no training; repeat or random; or a pre-trained
            model as --model of train has it, untrained on drums.
        server: In place of a model here: what a server that speaks OpenAI's protocol calls its
            model. The key is read from OPENAI_API_KEY.
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
    _check_place(
        server is not None,
        here={"--model": model, "--device": device != "auto"}
        | ({} if run is not None else {"--weights": weights != "best"}),
        there={"--chat": chat, "--base-url": base_url},
    )
    _check_output(formats, tempo, soundfont)
    ready_folder(out)
    if server is None:
        writer = Drummer.load(run, model, weights, device)
        writer.check_sampling(
            temperature=temperature, top_p=top_p, constrained=constrained, max_tokens=max_tokens
        )
        config = writer.config
    else:
        writer = Server(server, form="chat" if chat else "completions", base_url=base_url)
        config = Config()
        if run is not None:
            notes = read_notes(run, weights, method="drum-transfer")
            config = from_json(Config, notes["config"])
    reading = dataclasses.replace(config.reading(), bars=None, pad=False)
    if channel is not None:
        reading = dataclasses.replace(reading, channel=channel)
    if pitch_map is not None:
        reading = dataclasses.replace(reading, pitch_map=dict(pitch_map))
    paths = groove_paths(files)
    sources = dict(zip(numbered(path.stem for path in paths), paths, strict=True))
    errors: dict[str, DataError] = {}
    grooves = _read_grooves(
        sources, reading, errors, keep_pickups=config.keep_pickups, tempo=tempo, formats=formats
    )
    records = _to_records(grooves, errors, prompt_bars=prompt_bars)
    how: dict[str, Any] = {
        "bars": bars,
        "samples": samples,
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": max_tokens,
        "seed": seed,
    }
    with report_progress("write") as progress:
        if isinstance(writer, Server):
            written = _by_server(writer, records, errors, progress, **how)
        else:
            how["constrained"] = constrained
            written = _by_model(writer, records, errors, progress, sources=sources, **how)
    if not written:
        raise _nothing_written(errors)
    rows: list[dict[str, Any]] = []
    with Progress("render", len(written)) as progress:
        for done, sample in enumerate(written, 1):
            name = f"{sample.groove}_{sample.number}"
            if sample.error:
                rows.append({"name": name, "error": sample.error})
            else:
                given = records[sample.groove].prompt.count(SEPARATOR)
                continuation = _continuation(
                    grooves[sample.groove], name, sample.text, given, reading.loud
                )
                rows.append(_render(continuation, out, formats, given, soundfont))
            progress.advance(done)
    rows += [{"name": name, "error": str(error)} for name, error in errors.items()]
    result: dict[str, Any] = {
        "model": server or (writer.name if isinstance(writer, Drummer) else ""),
        "grooves": len({sample.groove for sample in written}),
        "unusable": len(errors),
        "usable": not errors,
    }
    write_text(out / "predictions.json", to_json(result | {"samples": rows}) + "\n")
    return result | {"folder": str(out), "samples": rows}


def _check_place(on_server: bool, here: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    """Refuse options of models here where a server is asked, and those of servers elsewhere.

    Args:
        on_server: Whether one is asked.
        here: Options of models here, true where they are given.
        there: Those of servers.
    """
    if misplaced := [name for name, given in (here if on_server else there).items() if given]:
        place = "it is in place of a model here" if on_server else "there is none"
        raise ConfigError(f"--server: {place}; leave out {', '.join(misplaced)}.")


def _check_output(formats: Sequence[Format], tempo: float | None, soundfont: Path | None) -> None:
    """Refuse what cannot be written, before anything is generated."""
    if not formats:
        raise ConfigError(f"--formats: choose at least one of {', '.join(get_args(Format))}.")
    slowest, fastest = _tempos(formats)
    if tempo is not None and not slowest <= tempo <= fastest:
        raise ConfigError(f"--tempo {tempo:g}: must be {slowest:g} to {fastest:g}.")
    if soundfont is not None:
        if "wav" not in formats:
            raise ConfigError("--soundfont: it is for wav. Add wav to --formats, or leave it out.")
        # One that cannot be played is refused.
        play(Groove("a hit", "-----o\n"), soundfont=soundfont)


def _tempos(formats: Sequence[Format]) -> tuple[float, float]:
    return TEMPOS["wav" if "wav" in formats else "mid"]


def _read_grooves(
    sources: Mapping[str, Path],
    reading: Reading,
    errors: dict[str, DataError],
    *,
    keep_pickups: bool,
    tempo: float | None,
    formats: Sequence[Format],
) -> dict[str, Groove]:
    """The grooves of files, from the first bar that begins with a hit on, by name.

    Args:
        sources: Files by name.
        reading: How.
        errors: Gets those of files that cannot be used.
        keep_pickups: See `without_leading_silence`.
        tempo: Of all; None: each has its own.
        formats: What will be written, which must be possible at their tempo.
    """
    slowest, fastest = _tempos(formats)
    grooves: dict[str, Groove] = {}
    for name, path in sources.items():
        with _kept(errors, name):
            groove = without_leading_silence(
                read_groove(path, reading, name=name), keep_pickups=keep_pickups
            )
            # 110, not 109.99990833, of a file's 545455 us
            pace = round(groove.tempo, 3) if tempo is None else tempo
            if not slowest <= pace <= fastest:
                raise DataError(
                    f"{path}: its tempo is {pace:g}; expected {slowest:g} to {fastest:g} quarter "
                    f"notes a minute. Give another, --tempo 120."
                )
            grooves[name] = dataclasses.replace(groove, tempo=pace)
    odd = [name for name, g in grooves.items() if g.meter[0] != g.notation.beats_per_bar]
    if odd:
        _log.warning(
            "%s: not in 4/4, but the model's bars have 16 lines, as the paper's, so bar lines will "
            "not be where they should. A model trained with --meter-bars follows the meter.",
            ", ".join(odd),
        )
    return grooves


def _to_records(
    grooves: Mapping[str, Groove], errors: dict[str, DataError], *, prompt_bars: int | None
) -> dict[str, Record]:
    """Records without completions, of the grooves that have enough bars."""
    records: dict[str, Record] = {}
    for name, groove in grooves.items():
        with _kept(errors, name):
            records[name] = Record(to_prompt(groove, prompt_bars), "", name, groove.notation)
    return records


class _Sample(NamedTuple):
    """A continuation of a groove."""

    groove: str
    """Its name."""
    number: int
    """From 1."""
    text: str
    """Of a record, the prompt included."""
    error: str = ""
    """Why there is no text."""


def _by_model(
    drummer: Drummer,
    records: Mapping[str, Record],
    errors: dict[str, DataError],
    progress: Callable[[int, int], None],
    *,
    sources: Mapping[str, Path],
    bars: int,
    samples: int,
    constrained: bool,
    max_tokens: int | None,
    **how: Any,
) -> list[_Sample]:
    """What a model here writes of the prompts that are not too long for it."""
    if isinstance(drummer.model, CausalModel):
        records = _fitting(
            drummer.model,
            records,
            errors,
            sources=sources,
            bars=bars,
            constrained=constrained,
            max_tokens=max_tokens,
        )
    texts = continued(
        drummer,
        list(records.values()),
        bars=bars,
        samples=samples,
        constrained=constrained,
        max_tokens=max_tokens,
        progress=progress,
        **how,
    )
    numbers = [(name, number) for name in records for number in range(1, samples + 1)]
    return [
        _Sample(name, number, text) for (name, number), text in zip(numbers, texts, strict=True)
    ]


def _fitting(
    model: CausalModel,
    records: Mapping[str, Record],
    errors: dict[str, DataError],
    *,
    sources: Mapping[str, Path],
    bars: int,
    constrained: bool,
    max_tokens: int | None,
) -> dict[str, Record]:
    """The records that a model can see to their ends."""
    found: dict[str, Record] = {}
    for name, record in records.items():
        with _kept(errors, name):
            try:
                completion_limit(
                    model,
                    len(model.vocabulary.encode(record.prompt)),
                    record.notation,
                    bars,
                    constrained=constrained,
                    max_tokens=max_tokens,
                    source=str(sources[name]),
                )
            except ConfigError as error:  # for others the options may do
                raise DataError(str(error)) from error
            found[name] = record
    return found


def _by_server(
    server: Server,
    records: Mapping[str, Record],
    errors: dict[str, DataError],
    progress: Callable[[int, int], None],
    *,
    bars: int,
    samples: int,
    temperature: float,
    top_p: float,
    max_tokens: int | None,
    seed: int,
) -> list[_Sample]:
    """The same of a model on a server. Once it fails, it is not asked for the others."""
    options = ({"top_p": top_p} if top_p != 1 else {}) | ({"seed": seed} if seed else {})
    written: list[_Sample] = []
    for done, (name, record) in enumerate(records.items(), 1):
        with _kept(errors, name):
            answers = continue_groove(
                server,
                record,
                groove_bars=bars + record.prompt.count(SEPARATOR),
                samples=samples,
                repair="pad",
                temperature=temperature,
                max_tokens=max_tokens or 1000,
                options=options,
            )
            written += [
                _Sample(name, number, answer.text, answer.error)
                for number, answer in enumerate(answers, 1)
            ]
        progress(done, len(records))
        if isinstance(failed := errors.get(name), ServerError):
            errors |= dict.fromkeys(list(records)[done:], failed)
            break
    return written


def _nothing_written(errors: Mapping[str, DataError]) -> DataError:
    """The error where no file could be continued, which is the server's if that has failed."""
    for error in errors.values():
        if isinstance(error, ServerError):
            return error
    first = next(iter(errors.values()))
    return DataError(f"none of the {len(errors)} files can be continued. The first: {first}")


@contextmanager
def _kept(errors: dict[str, DataError], name: str) -> Generator[None]:
    """Tell of what is wrong with one groove, and go on with the others."""
    try:
        yield
    except DataError as error:
        _log.warning("%s", error)
        errors[name] = error


def _continuation(groove: Groove, name: str, text: str, given: int, loud: int) -> Groove:
    """A groove in place of the one it continues, of which it has the first `given` bars."""
    notation = groove.notation
    hits = to_hits(without_separators(text), notation, repair="pad", source=name)
    return dataclasses.replace(
        groove,
        name=name,
        text=to_text(hits, notation),
        velocities=_velocities(groove, hits, given * notation.steps_per_bar, loud),
    )


def _velocities(groove: Groove, hits: Hits, given: int, loud: int) -> npt.NDArray[np.uint8] | None:
    """Velocities of a continuation: the player's own of the given steps, and after them the mean of
    what the player gave the instrument at that step of a bar, or anywhere; of letters that are loud
    or soft no less, or less, than `loud`.
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
    plain = writing_tables(groove.notation).velocity[np.arange(len(INSTRUMENTS)), hits]
    velocities[plain == LOUD] = velocities[plain == LOUD].clip(min=loud)
    velocities[plain == SOFT] = velocities[plain == SOFT].clip(max=loud - 1)
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
