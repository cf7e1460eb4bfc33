"""The verb `evaluate`: a model beside yardsticks, baselines and people."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from modicum.engine.devices import Device
from modicum.errors import ConfigError, DataError
from modicum.methods.drum_transfer.data.sources import Split
from modicum.methods.drum_transfer.losses import completion_nats
from modicum.methods.drum_transfer.metrics.measures import Reference, Score, score, score_table
from modicum.methods.drum_transfer.metrics.structure import Clusterer
from modicum.methods.drum_transfer.models import baselines
from modicum.methods.drum_transfer.models.decoder import CausalModel
from modicum.methods.drum_transfer.models.drummer import PEOPLE, Drummer, Weights, continued
from modicum.methods.drum_transfer.options import Sampling
from modicum.methods.drum_transfer.rendering.pictures import comparison_sheet
from modicum.methods.drum_transfer.rendering.synthesis import render, to_wav
from modicum.methods.drum_transfer.text.drumroll import Record, to_hits, to_text, without_separators
from modicum.methods.drum_transfer.text.files import numbered
from modicum.methods.drum_transfer.text.notation import Groove
from modicum.methods.drum_transfer.text.tablature import to_tablature
from modicum.options import FLAT, check_arguments
from modicum.report import write_run_report
from modicum.system.files import atomic_write, ready_folder, to_json, write_text
from modicum.system.progress import report_progress
from modicum.weights.saved import find_model


@check_arguments
def evaluate(
    run: Path | None = None,
    model: str | None = None,
    weights: Weights = "best",
    data: str | None = None,
    split: Split = "test",
    write: bool = True,
    sampling: Annotated[Sampling, FLAT] = Sampling(),
    official: bool = False,
    clusterer: Clusterer = "exact",
    styles: bool = False,
    out: Path | None = None,
    device: Device = "auto",
) -> dict[str, Any]:
    """Measure a model: its loss beside yardsticks, and what it writes beside people and baselines.

    Nats per line is the cross entropy of all tokens of the completions, divided by their lines: it
    does not depend on how the text is cut into tokens, nats per token does. A model above the
    n-gram of two lines, counted on the training split, has learnt nothing worth a network.

    Args:
        run: Run folder, or a .safetensors file of one.
        model: In place of --run, a model by name, or beside it; see predict.
        weights: Of a run folder, those of the best epoch or of the last.
        data: What --data of train takes; None: the run's.
        split: Which grooves.
        write: Let it continue the grooves and measure what it writes; otherwise the loss alone.
        sampling: How completions are drawn.
        official: Bar strings of the paper's script, whose lines end in two newlines.
        clusterer: exact, or sklearn as in the paper's script.
        styles: Also a table for each style.
        out: Folder for evaluation.json, a picture, and `written`, emptied before, with the grooves:
            a .txt each as it came, and a .tab, which has tempo and meter. None: the run folder,
            whose report then shows and plays what was written.
        device: Where to compute.
    """
    folder = out or (Path("evaluation") if run is None else find_model(run, weights).parent)
    ready_folder(folder)
    if write:
        _check_replaced(folder / "written")
    drummer = Drummer.load(run, model, weights, device)
    if model == "ngram":  # beside that of the training split
        drummer = dataclasses.replace(drummer, name="ngram of built-in grooves")
    drummer.check_sampling(sampling)
    config = drummer.config
    if data is not None:
        config = dataclasses.replace(config, data=data)
    collection = config.open()
    grooves = [g for g in collection[split] if config.record(g) is not None]
    records = config.to_records(collection[split], split)
    train = config.to_records(collection["train"], "train")
    ngram = baselines.NGram.fit(train)
    result: dict[str, Any] = {"data": config.data, "split": split, "records": len(records)}
    result["loss"] = losses_beside_yardsticks(drummer, ngram, records)
    if write:
        texts = write_beside_baselines(drummer, ngram, records, sampling)
        styled = [collection.styles.get(g.name, "unknown") for g in grooves] if styles else []
        played = [record.prompt + record.completion for record in train]
        result |= _measures(
            drummer.name,
            texts,
            records,
            styled,
            reference=Reference.read(played, [record.notation for record in train]),
            given_bars=config.prompt_bars,
            groove_bars=config.corpus.bars,
            official=official,
            clusterer=clusterer,
        )
        _keep(texts, grooves, folder)
        first = {name: _in_place_of(grooves[0], name, some[0]) for name, some in texts.items()}
        with atomic_write(folder / "written.png") as file:
            file.write(comparison_sheet(first, given_bars=config.prompt_bars))
        result["picture"] = str(folder / "written.png")
        if (folder / "config.json").is_file():
            _put_in_report(folder, first[drummer.name])
        result["written"] = str(folder / "written")
    write_text(folder / "evaluation.json", to_json(result) + "\n")
    return result | {"details": str(folder / "evaluation.json")}


def _measures(
    model: str,
    texts: Mapping[str, Sequence[str]],
    records: Sequence[Record],
    styles: Sequence[str],
    **options: Any,
) -> dict[str, Any]:
    """The table of all that wrote, and if the records have `styles`, that of the model by style.

    `texts` are by name, those of each record standing together; `options` more of `measures.score`.
    """

    def scored(name: str, style: str | None = None) -> dict[str, Score]:
        """Of all texts of a name, or those of a style."""
        some, copies = texts[name], len(texts[name]) // len(records)
        chosen = [n for n in range(len(some)) if style is None or styles[n // copies] == style]
        of = [records[number // copies] for number in chosen]
        return score(
            [some[number] for number in chosen],
            notation=[record.notation for record in of],
            expected=[without_separators(record.prompt + record.completion) for record in of],
            records=True,
            **options,
        )

    tables: dict[str, Any] = {"measures": score_table({name: scored(name) for name in texts})}
    if styles:
        by_style = {style: scored(model, style) for style, _ in Counter(styles).most_common()}
        rows = score_table({"all": scored(model)} | by_style)
        for row in rows:
            del row["what"]  # told in the other table; here is no room
        tables["styles"] = {model: rows}
    return tables


def _written(folder: Path) -> list[Path]:
    """Files that an evaluation before may have written in `folder`."""
    return [file for file in folder.glob("*/*") if file.suffix in (".txt", ".tab")]


def _check_replaced(folder: Path) -> None:
    """Refuse a folder that holds anything but what an evaluation has written there."""
    links = [path for path in (folder, *folder.rglob("*")) if path.is_symlink()]
    files = {path for path in folder.rglob("*") if not path.is_dir()}
    ours = not files or (folder.parent / "evaluation.json").is_file()
    strange = links or sorted(files - set(_written(folder))) or ([] if ours else sorted(files))
    if strange:
        raise ConfigError(
            f"{folder}: holds {strange[0].name}, which no evaluation has written there. The folder "
            f"is emptied for what the model writes: move what is in it, or give another --out."
        )


def _keep(texts: Mapping[str, Sequence[str]], grooves: Sequence[Groove], folder: Path) -> None:
    """Write every text to files, in place of those of an evaluation before."""
    written = folder / "written"
    for of_before in _written(written):
        of_before.unlink()
    # A name may come from somebody's table; as a file it lies in no other folder.
    plain = (re.sub(r"[^\w.@+-]+", "_", groove.name).lstrip(".") or "groove" for groove in grooves)
    names = numbered(plain)
    for who, some in texts.items():
        copies = len(some) // len(grooves)
        for number, text in enumerate(some):
            place, copy = divmod(number, copies)
            name = names[place] + (f"_{copy + 1}" if copies > 1 else "")
            tab = to_tablature(_in_place_of(grooves[place], name, text))
            write_text(written / who / f"{name}.txt", without_separators(text))
            write_text(written / who / f"{name}.tab", tab)


def _put_in_report(run: Path, groove: Groove) -> None:
    """Add what was written to the report of a run: the picture, and the sound of a groove in it."""
    pictures = run / "pictures"
    with atomic_write(pictures / "written.png") as file:
        file.write((run / "written.png").read_bytes())
    with suppress(DataError):  # of hours, or at a tempo that nobody plays
        sound = to_wav(render(groove, channels=1))
        with atomic_write(pictures / "written.wav") as file:
            file.write(sound)
    caption = f"The first groove, as people and models went on. The sound is that of {groove.name}."
    write_text(pictures / "written.txt", caption)
    write_run_report(run)


def _in_place_of(groove: Groove, name: str, text: str) -> Groove:
    """What was written of a groove, silent where it is malformed, at its tempo."""
    hits = to_hits(without_separators(text), groove.notation, repair="pad")
    text, tempo = to_text(hits, groove.notation), round(groove.tempo, 3)
    return dataclasses.replace(groove, name=name, text=text, tempo=tempo, velocities=None)


def losses_beside_yardsticks(
    drummer: Drummer, ngram: baselines.NGram, records: Sequence[Record]
) -> list[dict[str, Any]]:
    """Nats per line of a model and of the n-grams of every order, the yardsticks.

    Returns:
        A row each: `nats_per_line` of all lines, `without_padding` of those up to the last hit, and
        `nats_per_token`, of a network.
    """
    measured = {name: ngram.nats(records, n) for n, name in enumerate(baselines.YARDSTICKS)}
    model, of_network = drummer.model, dict[str, float]()
    if isinstance(model, CausalModel):
        with report_progress("measure") as progress:
            nats = completion_nats(model, records, progress=progress)
        measured[drummer.name], of_network = nats, {"nats_per_token": nats.per_token}
    elif isinstance(model, baselines.NGram):
        measured[drummer.name] = model.nats(records)
    rows: list[dict[str, Any]] = [
        {"model": name, "nats_per_line": of.per_line, "without_padding": of.per_sounding_line}
        for name, of in measured.items()
    ]
    rows[-1] |= of_network
    return rows


def write_beside_baselines(
    drummer: Drummer,
    ngram: baselines.NGram,
    records: Sequence[Record],
    sampling: Sampling = Sampling(),
) -> dict[str, list[str]]:
    """Whole records: those of people, and those that the baselines and a model make of the prompts.

    Returns:
        By name, `people` and the model's among them, the records in order; a model's samples of a
        record stand together. Baselines write one sample of each.
    """
    others = {"repeat": baselines.Repeat(), "random": baselines.Random(), "ngram": ngram}
    others.pop(drummer.name, None)
    texts = {PEOPLE: [record.prompt + record.completion for record in records]}
    one = dataclasses.replace(sampling, samples=1)
    for name, model in others.items():
        baseline = dataclasses.replace(drummer, model=model, name=name)
        texts[name] = continued(baseline, records, one)
    with report_progress("write") as progress:
        texts[drummer.name] = continued(drummer, records, sampling, progress=progress)
    return texts
