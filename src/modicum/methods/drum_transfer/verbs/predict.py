"""The verb `predict`: grooves of people, continued."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import tyro

from modicum.engine.devices import Device
from modicum.errors import ConfigError, DataError
from modicum.inference import none_of
from modicum.methods.drum_transfer.metrics.structure import structure
from modicum.methods.drum_transfer.models.decoder import CausalModel
from modicum.methods.drum_transfer.models.drummer import Drummer, Weights, continued
from modicum.methods.drum_transfer.models.generate import completion_limit
from modicum.methods.drum_transfer.models.remote import continue_groove
from modicum.methods.drum_transfer.models.server import Server, ServerError
from modicum.methods.drum_transfer.options import ModelReading, Sampling
from modicum.methods.drum_transfer.rendering.pictures import step_grid
from modicum.methods.drum_transfer.rendering.synthesis import render as play
from modicum.methods.drum_transfer.rendering.synthesis import write_wav
from modicum.methods.drum_transfer.text import drumroll
from modicum.methods.drum_transfer.text.drumroll import Hits, Record, to_hits
from modicum.methods.drum_transfer.text.files import groove_paths, numbered, read_groove
from modicum.methods.drum_transfer.text.kit import LOUD, SOFT, PitchMap, writing_tables
from modicum.methods.drum_transfer.text.midi import write_midi
from modicum.methods.drum_transfer.text.notation import INSTRUMENTS, SEPARATOR, Groove, Notation
from modicum.methods.drum_transfer.text.tablature import to_tablature
from modicum.methods.drum_transfer.train import Config
from modicum.options import FLAT, Ge, Options, check_arguments
from modicum.system.files import atomic_write, ready_folder, to_json, write_text
from modicum.system.progress import Progress, report_progress

_log = logging.getLogger("modicum")

Format = Literal["mid", "txt", "png", "wav"]
USUAL_VELOCITY = 100
"""Of an instrument that the player has not hit."""
TEMPOS: Mapping[Format, tuple[float, float]] = {"mid": (4.0, 1000.0), "wav": (10.0, 1000.0)}
"""Quarter notes a minute of the slowest and the fastest groove that is written as such."""


@dataclass(frozen=True)
class Continuing(Options):
    """What is taken of each file, and how much is written after it."""

    bars: Annotated[int, Ge(1)] = 14
    """Bars to write after the given ones."""
    prompt_bars: Annotated[int, Ge(1)] | None = 2
    """Bars to begin with; None: the whole file."""
    tempo: float | None = None
    """Quarter notes a minute; None: the file's."""
    channel: int | None = None
    """MIDI channel of the drums, counted from 0; None: that of training, usually 9."""
    pitch_map: PitchMap | None = None
    """What MIDI pitches are: --pitch-map 33 snare 31 none; none leaves one out. None: as in
    training."""

    def reading(self, config: Config) -> ModelReading:
        """How to read files for a model."""
        given = {"channel": self.channel, "pitch_map": self.pitch_map}
        given = {name: value for name, value in given.items() if value is not None}
        return dataclasses.replace(config.corpus, **given)


@dataclass(frozen=True)
class OnServer(Options):
    """A model on a server, in place of one here."""

    server: str | None = None
    """In place of a model here: what a server that speaks OpenAI's protocol calls its model. The
    key is read from OPENAI_API_KEY."""
    chat: bool = False
    """The server's model is one for chats."""
    base_url: str = ""
    """Address of the server up to /v1; empty: OPENAI_BASE_URL, or OpenAI's."""


@check_arguments
def predict(
    files: tyro.conf.Positional[tuple[Path, ...]],
    run: Path | None = None,
    model: str | None = None,
    weights: Weights = "best",
    remote: Annotated[OnServer, FLAT] = OnServer(),
    continuing: Annotated[Continuing, FLAT] = Continuing(),
    sampling: Annotated[Sampling, FLAT] = Sampling(samples=4),
    out: Path = Path("out"),
    formats: tuple[Format, ...] = ("mid", "txt", "png", "wav"),
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
        model: In place of --run: ngram, which needs no training; repeat or random; or a pre-trained
            model as --model of train has it, untrained on drums. Beside --run, where the model lies
            that its adapters are of, if these alone were stored.
        weights: Of a run folder, those of the best epoch or of the last.
        remote: A model on a server.
        continuing: What is taken of each file, and how much is written after it.
        sampling: How continuations are drawn.
        out: Folder for NAME_1.mid, NAME_1.txt, … and predictions.json.
        formats: mid, txt (a tab), png (a step grid), wav.
        soundfont: An .sf2 file for wav; None: a small built-in drum kit.
        device: Where to compute.
    """
    here = {"--model": model, "--weights": run is None and weights != "best"}
    _check_place(
        remote.server is not None,
        here | {"--device": device != "auto"},
        {"--chat": remote.chat, "--base-url": remote.base_url},
    )
    slowest, fastest = _check_output(formats, continuing.tempo, soundfont)
    ready_folder(out)
    if remote.server is None:
        writer = Drummer.load(run, model, weights, device)
        writer.check_sampling(sampling)
        config, called = writer.config, writer.name
    else:
        form = "chat" if remote.chat else "completions"
        writer, called = Server(remote.server, form, remote.base_url), remote.server
        config = Config() if run is None else Config.of_run(run, weights)
    reading = continuing.reading(config)
    paths = groove_paths(files)
    errors: dict[str, DataError] = {}
    grooves: dict[str, Groove] = {}
    records: dict[str, Record] = {}
    for name, path in zip(numbered(path.stem for path in paths), paths, strict=True):
        with _kept(errors, name):
            groove = read_groove(path, reading, name=name)
            groove = drumroll.without_leading_silence(groove, keep_pickups=reading.keep_pickups)
            # 110, not 109.99990833, of a file's 545455 us
            tempo = round(groove.tempo, 3) if continuing.tempo is None else continuing.tempo
            if not slowest <= tempo <= fastest:
                raise DataError(
                    f"{path}: its tempo is {tempo:g}; expected {slowest:g} to {fastest:g} quarter "
                    f"notes a minute. Give another, --tempo 120."
                )
            prompt = drumroll.to_prompt(groove, continuing.prompt_bars)
            if isinstance(writer, Drummer):
                _check_length(writer, prompt, groove.notation, continuing.bars, sampling, path)
            grooves[name] = dataclasses.replace(groove, tempo=tempo)
            records[name] = Record(prompt, "", name, groove.notation)
    if odd := [n for n, g in grooves.items() if g.meter[0] != g.notation.beats_per_bar]:
        _log.warning(
            "%s: not in 4/4, but the model's bars have 16 lines, as the paper's, so bar lines will "
            "not be where they should. A model trained with --meter-bars follows the meter.",
            ", ".join(odd),
        )
    with report_progress("write") as progress:
        if isinstance(writer, Server):
            written = _by_server(writer, records, continuing.bars, sampling, progress, errors)
        else:
            some, bars = list(records.values()), continuing.bars
            texts = iter(continued(writer, some, sampling, bars=bars, progress=progress))
            numbers = range(1, sampling.samples + 1)
            written = [_Sample(name, number, next(texts)) for name in records for number in numbers]
    if not written:
        for error in errors.values():
            if isinstance(error, ServerError):
                raise error
        raise none_of([*errors.values()], "continued")
    for error in dict.fromkeys(map(str, errors.values())):
        _log.warning("%s", error)
    rows: list[dict[str, Any]] = []
    with Progress("render", len(written)) as progress:
        for done, sample in enumerate(written, 1):
            name = f"{sample.groove}_{sample.number}"
            given, groove = records[sample.groove].prompt.count(SEPARATOR), grooves[sample.groove]
            if sample.error:
                rows.append({"name": name, "error": sample.error})
            else:
                continuation = _continuation(groove, name, sample.text, given, reading.loud)
                rows.append(_render(continuation, out, formats, given, soundfont))
            progress.advance(done)
    rows += [{"name": name, "error": str(error)} for name, error in errors.items()]
    result: dict[str, Any] = {
        "model": called,
        "grooves": len({sample.groove for sample in written}),
        "unusable": len(errors),
        "failed_samples": sum(bool(sample.error) for sample in written),
        "usable": not errors,
    }
    write_text(out / "predictions.json", to_json(result | {"samples": rows}) + "\n")
    return result | {"folder": str(out), "samples": rows}


def _check_place(on_server: bool, here: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    """Refuse options of models here where a server is asked, and those of servers elsewhere."""
    if misplaced := [name for name, given in (here if on_server else there).items() if given]:
        place = "it is in place of a model here" if on_server else "there is none"
        raise ConfigError(f"--server: {place}; leave out {', '.join(misplaced)}.")


def _check_output(
    formats: Sequence[Format], tempo: float | None, soundfont: Path | None
) -> tuple[float, float]:
    """Refuse what cannot be written, before anything is generated; which tempos can be."""
    if not formats:
        raise ConfigError(f"--formats: choose at least one of {', '.join(get_args(Format))}.")
    slowest, fastest = TEMPOS["wav" if "wav" in formats else "mid"]
    if tempo is not None and not slowest <= tempo <= fastest:
        raise ConfigError(f"--tempo {tempo:g}: must be {slowest:g} to {fastest:g}.")
    if soundfont is not None:
        if "wav" not in formats:
            raise ConfigError("--soundfont: it is for wav. Add wav to --formats, or leave it out.")
        # One that cannot be played is refused.
        play(Groove("a hit", "-----o\n"), soundfont=soundfont)
    return slowest, fastest


def _check_length(
    drummer: Drummer, prompt: str, notation: Notation, bars: int, sampling: Sampling, path: Path
) -> None:
    """Refuse a prompt after which the model cannot see to the end."""
    if isinstance(drummer.model, CausalModel):
        tokens = len(drummer.model.vocabulary.encode(prompt))
        try:
            completion_limit(drummer.model, tokens, notation, bars, sampling, source=str(path))
        except ConfigError as error:  # for others the options may do
            raise DataError(str(error)) from error


class _Sample(NamedTuple):
    """A continuation of a groove: its text, prompt included, or why there is none."""

    groove: str
    number: int
    text: str
    error: str = ""


def _by_server(
    server: Server,
    records: Mapping[str, Record],
    bars: int,
    sampling: Sampling,
    progress: Callable[[int, int], None],
    errors: dict[str, DataError],
) -> list[_Sample]:
    """What a model on a server writes. Once it fails, it is not asked for the others."""
    written: list[_Sample] = []
    for done, (name, record) in enumerate(records.items(), 1):
        groove_bars = bars + record.prompt.count(SEPARATOR)
        with _kept(errors, name):
            options: Any = {"groove_bars": groove_bars, "repair": "pad"}
            answers = continue_groove(server, record, sampling, **options)
            written += [_Sample(name, n, a.text, a.error) for n, a in enumerate(answers, 1)]
        progress(done, len(records))
        if isinstance(failed := errors.get(name), ServerError):
            errors |= dict.fromkeys(list(records)[done:], failed)
            break
    return written


@contextmanager
def _kept(errors: dict[str, DataError], name: str) -> Generator[None]:
    """Keep what is wrong with one groove, and go on with the others."""
    try:
        yield
    except DataError as error:
        errors[name] = error


def _continuation(groove: Groove, name: str, text: str, given: int, loud: int) -> Groove:
    """A groove in place of the one it continues, of which it has the first `given` bars."""
    notation = groove.notation
    hits = to_hits(drumroll.without_separators(text), notation, repair="pad", source=name)
    velocities = _velocities(groove, hits, given * notation.steps_per_bar, loud)
    text = drumroll.to_text(hits, notation)
    return dataclasses.replace(groove, name=name, text=text, velocities=velocities)


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
