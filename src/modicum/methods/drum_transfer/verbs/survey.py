"""The verb `data`: what grooves there are, and what a model would learn of them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import tyro

from modicum.errors import DataError
from modicum.methods.drum_transfer.data.sources import SPLITS, Collection, load_grooves
from modicum.methods.drum_transfer.options import Corpus
from modicum.methods.drum_transfer.text import drumroll
from modicum.methods.drum_transfer.text.notation import Groove
from modicum.options import FLAT
from modicum.system.terminal import counted

_MOST_LISTED = 20
_MOST_SILENT = 0.1
"""Share of silent bars above which a model learns to fall silent."""


def data(
    path: tyro.conf.Positional[str], corpus: Annotated[Corpus, FLAT] = Corpus()
) -> dict[str, Any]:
    """Say what grooves there are: splits, styles, tempos, meters, silence, duplicates.

    Args:
        path: `groove=PATH`, the Groove MIDI Dataset as archive or folder; a folder of MIDI files
            of your own; or `generated`.
        corpus: How files are read, and which.
    """
    try:
        collection = load_grooves(path, corpus)
    except DataError as error:
        return {"source": path, "usable": False, "problems": [str(error)], "warnings": []}
    return {"source": path} | describe(collection, keep_pickups=corpus.keep_pickups)


def describe(collection: Collection, *, keep_pickups: bool = False) -> dict[str, Any]:
    """What a collection of grooves holds.

    Returns:
        Plain values, ready for JSON. `usable`: there are records to train on and to validate with.
        `dropped`: by the reason, how many files, and some of them. `splits`: the `grooves` of each,
        those that give `records`, and of the grooves, leading silence left out, the bars, silent
        and distinct ones, `lines` with different values, and hits a bar that is not silent.
        `tempo`: quarter notes a minute. `duplicates`: `grooves` whose text is also that of another,
        `across_splits` those whose other is in another split, and some of the latter.
    """
    grooves = [groove for of_split in collection.values() for groove in of_split]
    meters = {groove.name: "{}/{}".format(*groove.meter) for groove in grooves}
    # The first word of `jazz/swing`: there are dozens of the others.
    styles = {name: style.partition("/")[0] for name, style in collection.styles.items()}
    tempo = np.array([groove.tempo for groove in grooves])
    slowest, median, fastest = map(float, (tempo.min(), np.median(tempo), tempo.max()))
    heard = {
        split: [drumroll.without_leading_silence(g, keep_pickups=keep_pickups) for g in of_split]
        for split, of_split in collection.items()
    }
    splits = [_split(name, collection[name], heard[name], keep_pickups) for name in SPLITS]
    problems = [
        f"the {row['split']} split has no record. A record needs more than 8 bars from the first "
        f"that begins with a hit: add grooves that are longer, or have less silence before."
        for row in splits
        if row["split"] != "test" and not row["records"]
    ]
    duplicates = _duplicates(heard)
    return {
        "usable": not problems,
        "files": collection.files,
        "grooves": len(grooves),
        "splits": splits,
        "styles": _by_split(collection, "style", styles),
        "meters": _by_split(collection, "meter", meters),
        "tempo": {"min": slowest, "median": median, "max": fastest},
        "duplicates": duplicates,
        "dropped": [
            {"why": why, "files": len(names), "such_as": names[:3]}
            for why, names in collection.dropped.items()
        ],
        "problems": problems,
        "warnings": _warnings(splits, duplicates["across_splits"], grooves),
    }


def _split(
    name: str, grooves: Sequence[Groove], heard: Sequence[Groove], keep_pickups: bool
) -> dict[str, Any]:
    """A row on a split, of whose grooves `heard` are without leading silence."""
    silent = [drumroll.silent_bars(groove) for groove in heard]
    texts = [
        bar
        for groove, quiet in zip(heard, silent, strict=True)
        for bar, is_silent in zip(drumroll.bars(groove.text, groove.notation), quiet, strict=True)
        if not is_silent
    ]
    hits = sum(int((drumroll.to_hits(g.text, g.notation) > 0).sum()) for g in heard)
    records = [drumroll.to_record(groove, keep_pickups=keep_pickups) for groove in grooves]
    total = sum(map(len, silent))
    return {
        "split": name,
        "grooves": len(grooves),
        "records": sum(record is not None for record in records),
        "bars": total,
        "silent_bars": total - len(texts),
        "distinct_bars": len(set(texts)),
        "lines": len({line for groove in heard for line in groove.text.splitlines()}),
        "hits_per_bar": hits / len(texts) if texts else math.nan,
    }


def _by_split(collection: Collection, name: str, values: Mapping[str, str]) -> list[dict[str, Any]]:
    """How many grooves of each value are in each split, the most frequent first."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for split, grooves in collection.items():
        for groove in grooves:
            if groove.name in values:
                counts[values[groove.name]][split] += 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1].total(), item[0]))
    return [{name: value} | {split: of[split] for split in SPLITS} for value, of in ordered]


def _duplicates(heard: Mapping[str, Sequence[Groove]]) -> dict[str, Any]:
    """Grooves with the same text, leading silence left out."""
    same: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for split, grooves in heard.items():
        for groove in grooves:
            same[groove.text].append((split, groove.name))
    groups = [group for text, group in same.items() if text and len(group) > 1]
    across = [group for group in groups if len({split for split, _ in group}) > 1]
    listed = [
        {"groove": name, "split": split, "same_as": twin, "other_split": other}
        for (split, name), *others in across
        for other, twin in others
        if other != split
    ]
    return {
        "grooves": sum(map(len, groups)),
        "across_splits": sum(map(len, across)),
        "such_as": listed[:_MOST_LISTED],
    }


def _warnings(
    splits: Sequence[Mapping[str, Any]], across: int, grooves: Sequence[Groove]
) -> list[str]:
    warnings: list[str] = []
    train, _, test = splits
    if train["silent_bars"] > _MOST_SILENT * train["bars"]:
        share = 100 * train["silent_bars"] / train["bars"]
        warnings.append(
            f"{share:.0f} % of the bars to train on are silent, so that a model learns to fall "
            f"silent. --no-pad leaves out silence at the end."
        )
    if across:
        warnings.append(
            f"{counted(across, 'groove is', 'grooves are')} in more than one split, so that a "
            f"model is tested on what it was trained on. Remove copies."
        )
    if not test["grooves"]:
        warnings.append("the test split is empty: nothing can be measured.")
    # Of those whose bars do not follow the meter the notation is that of 4/4.
    other = [g for g in grooves if g.meter[0] != g.notation.beats_per_bar]
    if other:
        found = ", ".join(sorted({"{}/{}".format(*groove.meter) for groove in other}))
        warnings.append(
            f"some grooves are in {found}. Without --meter-bars their bars are those of 4/4, "
            f"{other[0].notation.steps_per_bar} steps, as in the official code, and do not follow "
            f"the meter."
        )
    return warnings
