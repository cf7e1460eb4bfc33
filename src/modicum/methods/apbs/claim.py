"""The paper's claims as arms with baselines, on simulated digits or on recordings of yours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from modicum import events
from modicum.claims import Claim, Picture, Stage, Study
from modicum.classification import accuracies, guessing
from modicum.errors import ConfigError
from modicum.events.pictures import frame_strip
from modicum.events.pipeline import FramePipeline
from modicum.method import load_saved
from modicum.methods.apbs.probe import probe_convolution
from modicum.methods.apbs.train import Config, Samples, loader_for, pipeline_for
from modicum.options import from_json, replace
from modicum.report import png
from modicum.spiking.layers import SpikingLayer
from modicum.spiking.networks import read_out
from modicum.spiking.statistics import count_spikes

BASE = replace(
    Config(),
    network="small",
    association=0.0,
    stcf=False,
    time_steps=8,
    split_by="equal",
    normalise="clip1",
    epochs=12,
    batch_size=50,
    learning_rate=2e-3,
    loss="mean",
    score_every=4,
)
"""The small experiment of the page's results."""

FEW = {"train_share": 1 / 6, "epochs": 60, "score_every": 20}
"""200 recordings for 60 epochs."""

PLAIN, APBS = "plain", "APBS"
PLAIN_FEW, STCF_FEW = "plain, few recordings", "STCF, few recordings"

# The threshold of the accuracy is the deviation of single runs at this size; the others are zero.
CLAIMS = (
    Claim(
        "fewer spikes",
        "Associating synapses make a network of the same parameters fire less (abstract of the "
        "second version).",
        method=APBS,
        baseline=PLAIN,
        metric="spikes",
        unit="spikes a recording",
        higher_is_better=False,
    ),
    Claim(
        "accuracy kept",
        "It is at most 2 points less accurate, the noise of one run at this size; the abstract "
        "claims more accurate.",
        method=APBS,
        baseline=PLAIN,
        metric="top1",
        threshold=-2.0,
    ),
    Claim(
        "STCF",
        "Spatio-temporal cropping makes a network trained on few recordings more accurate "
        "(abstract of the first version).",
        method=STCF_FEW,
        baseline=PLAIN_FEW,
        metric="top1",
    ),
)


def study(data: str | None = None) -> Study:
    """The claims on simulated digits, or on recordings of yours (`Samples.data`).

    Raises:
        ConfigError: They are still images.
    """
    if data is None:
        base = replace(BASE, train_share=0.5)
        few, fingerprint = replace(BASE, **FEW), ""
        about = (
            "Simulated recordings of scikit-learn's digits: 600 for training (200 where few are "
            "meant), 597 for testing."
        )
    else:
        if Samples(data).image_folder is not None:
            raise ConfigError(
                f"--data {data}: the claims are about recordings, not still images. Give "
                f"recordings, or leave the option out for simulated ones."
            )
        base = replace(BASE, data=data, holdout=0.4)
        few = replace(base, **(FEW | {"train_share": 1 / 2}))
        train_set, test_set = base.source.open("train"), base.source.open("val")
        about = (
            f"{test_set.layout}: {len(train_set):,} recordings for training (about half of them "
            f"where few are meant), {len(test_set):,} for testing."
        )
        fingerprint = events.fingerprint(train_set) + events.fingerprint(test_set)
    arms = {
        PLAIN: base,
        APBS: replace(base, association=0.2),
        PLAIN_FEW: few,
        STCF_FEW: replace(few, stcf=True),
    }
    return Study(
        method="apbs",
        data=about,
        arms={arm: Stage(config) for arm, config in arms.items()},
        claims=CLAIMS,
        skill="top1",
        shares=("top1",),
        measure=measure,
        pictures=pictures,
        caveat=(
            "A network of two convolutions, not the paper's. Its equations are not public: the "
            "association is inferred from what the abstracts demand of it. It adds three maps in "
            "place of one, so that fewer spikes do not mean less energy where energy is estimated "
            "by accumulates (microjoules: 0.9 pJ an accumulate, 4.6 pJ a multiply-accumulate, "
            "Horowitz, ISSCC 2014)."
        ),
        fingerprint=fingerprint,
    )


def measure(config: Config, network: nn.Module) -> Mapping[str, float]:
    """What the claims compare, on the test recordings: of an arm and its network in eval mode.

    Returns:
        `top1` in percent; `spikes`, `synaptic_operations` and the estimate `microjoules` a
        recording; the firing rate of each layer in percent (`rate_1`, `rate_2`); `parameters`;
        and what verdicts need, see `claims.Study`.
    """
    test_set = config.source.open("val")
    pipeline = pipeline_for(config, test_set)
    loader = loader_for(test_set, pipeline, 64, workers=0)
    with count_spikes(network) as counted:
        found = accuracies(lambda x: read_out(network(x)), loader, quiet=True)
    rates = {f"rate_{n}": 100 * layer.rate for n, layer in enumerate(counted.layers, start=1)}
    return {
        "tested": len(test_set),
        "by_chance": guessing(test_set.labels),
        **found,
        "spikes": counted.spikes_per_sample,
        **rates,
        "synaptic_operations": counted.operations_per_sample,
        "microjoules": 1e6 * counted.energy_per_sample,
        "parameters": sum(p.numel() for p in network.parameters()),
    }


def pictures(runs: Mapping[str, Sequence[Path]]) -> Sequence[Picture]:
    """What the neurons of the plain and the associating network do with one recording."""
    config = from_json(Config, json.loads((runs[APBS][0] / "config.json").read_text())["config"])
    test_set = config.source.open("val")
    one = test_set.read(np.zeros(1, dtype=np.int64))
    pipeline = pipeline_for(config, test_set)
    assert isinstance(pipeline, FramePipeline)
    frames = pipeline(one)
    return [
        _raster(runs, frames),
        _rates(runs),
        potentiation(runs),
        Picture(
            "The recording",
            f"The first test recording, {test_set.names[0]}, in eight parts of equal time.",
            frame_strip(one[0]),
        ),
    ]


@torch.no_grad()
def _raster(runs: Mapping[str, Sequence[Path]], frames: Tensor, shown: int = 60) -> Picture:
    """Spikes of the first neurons of the last spiking layer, against time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    grid = figure.subplots(1, 2, sharey=True)
    for axes, arm in zip(grid, (PLAIN, APBS), strict=True):
        fired = _spikes(load_saved(runs[arm][0]).module, frames)[:, 0].flatten(1)
        active = fired.any(0).nonzero().flatten()[:shown]
        step, neuron = fired[:, active].nonzero().T
        axes.plot(step, neuron, "|", markersize=3)
        axes.set(title=f"{arm}: {int(fired.sum()):,} spikes", xlabel="time step")
    grid[0].set_ylabel(f"neuron (first {shown} that fire)")
    return Picture(
        "Spikes of the second layer",
        "One recording, the first seed of each arm. Every mark is a spike.",
        png(figure),
    )


def _spikes(network: nn.Module, frames: Tensor) -> Tensor:
    """Of the last spiking layer, `(T, B, ...)`."""
    kept: list[Tensor] = []
    hook = _last_layer(network).register_forward_hook(lambda *called: kept.append(called[-1]))
    network(frames)
    hook.remove()
    return kept[0]


def _last_layer(network: nn.Module) -> SpikingLayer:
    return [layer for layer in network.modules() if isinstance(layer, SpikingLayer)][-1]


def _rates(runs: Mapping[str, Sequence[Path]]) -> Picture:
    """Firing rate of each layer, every seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    for place, (arm, of_arm) in enumerate(runs.items()):
        found = [json.loads((run / "result.json").read_text())["metrics"] for run in of_arm]
        for layer in (1, 2):
            values = [metrics[f"rate_{layer}"] for metrics in found]
            x = np.full(len(values), layer + (place - 1.5) * 0.15)
            axes.plot(x, values, f"C{place}o", markersize=4, label=arm if layer == 1 else None)
    axes.set(xticks=[1, 2], xticklabels=["layer 1", "layer 2"], ylim=(0, None), xlim=(0.5, 2.5))
    axes.set_ylabel("firing rate, percent")
    axes.legend(fontsize=8, frameon=False)
    return Picture(
        "Firing rates",
        "Share of neurons that fire in a time step, mean over the test recordings; a dot a seed.",
        png(figure),
    )


def potentiation(runs: Mapping[str, Sequence[Path]]) -> Picture:
    """What the neurons of the last spiking layer make of two synapses, alone and together."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    found: dict[str, str] = {}
    rounding = 1e-3  # of a weight: less is no change
    for place, arm in enumerate((PLAIN, APBS)):
        synapses = _last_layer(load_saved(runs[arm][0]).module).synapses
        assert isinstance(synapses, nn.Conv2d)
        alone_1, alone_2, together = probe_convolution(synapses)
        for x, share in enumerate((alone_1, alone_2, together)):
            beside = x + 0.3 * (place - 0.5) + np.linspace(-0.1, 0.1, len(share))
            label = arm if x == 0 else None
            axes.plot(beside, 100 * share, f"C{place}o", markersize=3, label=label)
        alone = torch.maximum(alone_1.abs(), alone_2.abs())
        shown = int(((alone < rounding) & (together > rounding)).sum())
        change = round(100 * float(together.mean()), 1) + 0.0  # no minus before a zero
        found[arm] = f"in {shown} of {len(together)} neurons of {arm} ({change:+} % in the mean)"
    axes.set(xticks=[0, 1, 2], xticklabels=["I alone", "II alone", "II, beside I"])
    axes.set_ylabel("response above the\nweight, percent")
    axes.legend(fontsize=8, frameon=False)
    return Picture(
        "Potentiation of one synapse by another",
        f"The two strongest excitatory synapses of each neuron of the second layer, I and II, are "
        f"stimulated alone and together; a dot a neuron, the first seed of each arm. Associating "
        f"synapses should strengthen the response to II beside I and leave those to either alone. "
        f"That is so {found[APBS]} and {found[PLAIN]}. The response is the current before the "
        f"normalisation, which training adapts.",
        png(figure),
    )
