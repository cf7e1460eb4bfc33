"""The authors' checkpoints, of every layout they published, into our networks.

A checkpoint is a plain state dict. Its keys and shapes tell the revision, widths, depths, gates and
filters; only ReLU and SiLU cannot be told apart. Layouts:

- `paper`: `classifier.weight`, `….mux.weight` or fixed kernels.
- `release2`: `classifier.1.weight`.
- January 2022: as `paper`, with one number `downsample.sigma` a stage in place of the kernels.
- November 2021: the last block is called `features.last`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modicum.errors import CheckpointError
from modicum.methods.vgnet.model import (
    BUILDERS,
    Activation,
    Downsampling,
    Kernels,
    VGNet,
    edge_kernels,
    normalised_gaussian,
    squeezed_width,
)
from modicum.weights.foreign import State, fill, read_state

_STAGES = range(1, 5)


def load_official(
    checkpoint: Path | str | State,
    *,
    activation: Activation | None = None,
    num_classes: int | None = None,
    thumbnail: bool | None = None,
) -> VGNet:
    """The network of a checkpoint, built after its keys and shapes, with its weights.

    Args:
        checkpoint: A `.pth` or `.safetensors` file, or a state dict.
        activation: The activation it was trained with; None: ReLU, or SiLU for `release2`. The
            files named `…_silu` need `"silu"`.
        num_classes: If it is not the checkpoint's number of classes, the classifier is initialised
            anew. None: the checkpoint's.
        thumbnail: Build the network for small images, whose first stage keeps its resolution; the
            filter of that stage starts from the checkpoint's. None: if the checkpoint is of such a
            network. That cannot be told with learned downsampling, where None means False.

    Raises:
        CheckpointError: The file is damaged, or not of a VGNet.
    """
    where, state = read_state(checkpoint)
    state = modern_layout(state, where)
    arguments: dict[str, Any] = describe(state, where)
    asked: dict[str, Any] = {"thumbnail": thumbnail, "activation": activation}
    arguments |= {option: value for option, value in asked.items() if value is not None}
    network = VGNet(**arguments)
    load_into(network, state, where)
    if num_classes is not None and num_classes != arguments["num_classes"]:
        arguments["num_classes"] = num_classes
        anew = VGNet(**arguments)
        anew.features = network.features
        return anew
    return network


def modern_layout(state: State, where: str) -> dict[str, Tensor]:
    """The same weights under the keys of `paper` or `release2`, whatever layout they came in."""
    stage4 = [int(m[1]) for name in state if (m := re.match(r"features\.stage4\.(\d+)\.", name))]
    modern: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith("features.last.") and stage4:
            # After the blocks comes the join, which has no weights, then the tail.
            name = f"features.stage4.{max(stage4) + 2}.{name.removeprefix('features.last.')}"
        if name.endswith(".downsample.sigma"):
            stage = name.removesuffix(".downsample.sigma")
            mixes = (f"{stage}.conv1x1.0.weight", f"{stage}.conv1x1.0.0.weight")
            channels = [state[mix].shape[1] for mix in mixes if mix in state]
            if not channels or tensor.numel() != 1:
                raise CheckpointError(
                    f"{where}: {name} should be one number beside {stage}.conv1x1; found shape "
                    f"{tuple(tensor.shape)}. The checkpoint is not of a VGNet, or is damaged."
                )
            name = f"{stage}.downsample.weight"
            tensor = normalised_gaussian(float(tensor)).expand(channels[0], 1, 3, 3).clone()
        modern[name] = tensor
    return modern


def describe(state: State, where: str = "the state dict") -> dict[str, Any]:
    """The arguments of `VGNet` a state dict in a modern layout was made by.

    Raises:
        CheckpointError: It is not of a VGNet.
    """
    try:
        revision = "release2" if "classifier.1.weight" in state else "paper"
        classifier = state["classifier.1.weight" if revision == "release2" else "classifier.weight"]
        stem = state["features.stem.0.weight"]
        squeeze_excitation = "features.stage1.0.conv1x1.1.reduce.weight" in state
        mix = "conv1x1.0.0.weight" if squeeze_excitation else "conv1x1.0.weight"
        layers = [
            1 + sum(f"features.stage{stage}.{block}.{mix}" in state for block in range(1, 100))
            for stage in _STAGES
        ]
        # A stage opens with a 1x1 convolution that reads all channels of the stage before.
        widths = [state[f"features.stage{stage}.0.{mix}"].shape[1] for stage in _STAGES]
        first, second = (state.get(f"features.stage{i}.0.downsample.weight") for i in (1, 2))
        return {
            "channels": [*widths, classifier.shape[1]],
            "layers": layers,
            "num_classes": classifier.shape[0],
            "in_channels": stem.shape[1],
            "downsampling": _downsampling(second),
            "kernels": _kernels(state, layers[3]),
            "activation": "silu" if revision == "release2" else "relu",
            "squeeze_excitation": _squeeze_ratio(state, where),
            "revision": revision,
            # In thumbnail mode the filter of stage 1 has stride 1 and is learned in any case.
            "thumbnail": _downsampling(first) != _downsampling(second),
        }
    except (KeyError, IndexError) as error:
        first = ", ".join(list(state)[:4]) or "nothing"
        raise CheckpointError(
            f"{where}: not a VGNet: it has no {error}. Its first keys are {first}; expected "
            f"features.stem.0.weight and so on, as the authors save them."
        ) from error


def _squeeze_ratio(state: State, where: str) -> float:
    """Told by the widths of all bottlenecks, which are rounded; the published ratio if it fits."""
    shapes = [tuple(t.shape[:2]) for name, t in state.items() if name.endswith(".reduce.weight")]
    if not shapes:
        return 0.0
    likely = [0.25, *(1 / 2**power for power in range(6)), *(w / c for w, c in shapes)]
    for ratio in likely:
        if all(squeezed_width(channels, ratio) == width for width, channels in shapes):
            return ratio
    found = ", ".join(f"{width} of {channels}" for width, channels in shapes[:4])
    raise CheckpointError(
        f"{where}: its squeeze-and-excitations are {found} channels wide, and so on; expected the "
        f"same share of the channels everywhere, rounded to a multiple of 8. The checkpoint is of "
        f"another network."
    )


def _downsampling(weight: Tensor | None) -> Downsampling:
    """Told by the filters of a stage; stage 2 is strided in thumbnail mode too."""
    if weight is None:
        return "maxpool"
    # A Gaussian of any sigma is the same for every channel but for its sign.
    same = torch.allclose(weight.abs(), weight[:1].abs().expand_as(weight), atol=1e-6)
    return "gaussian" if same and bool((weight[0] > 0).all()) else "depthwise"


def _kernels(state: State, last_depth: int) -> Kernels:
    """Told by the tail, where E and F have a normalisation, and every kernel of their bank."""
    tail = f"features.stage4.{last_depth + 1}"
    if f"{tail}.1.running_mean" not in state:
        return "learned"
    weight = state[f"{tail}.0.weight"][:, 0]
    for kernels in ("edge", "edge_gaussian"):
        bank = edge_kernels(kernels)
        repeated = bank.repeat(-(-len(weight) // len(bank)), 1, 1)[: len(weight)]
        if torch.allclose(weight, repeated, atol=1e-6):
            return kernels
    raise KeyError(f"known bank of fixed kernels in {tail}.0.weight")


def load_into(network: VGNet, state: State, where: str = "the state dict") -> None:
    """Fill a network, fixed kernels included, with weights of any layout that fit it wholly.

    Raises:
        CheckpointError: The weights are of another network; the message names what was found.
    """
    state = modern_layout(state, where)
    found, expected = describe(state, where), network.arguments
    differences = [
        f"{option} {found[option]!r}, expected {expected[option]!r}"
        for option in found
        if option not in ("activation", "thumbnail") and found[option] != expected[option]
    ]
    hint = f"It is of a network of {'; '.join(differences) or 'the same arguments'}."
    fitting = [name for name, builder in BUILDERS.items() if _fits(builder, found)]
    hint += f" It fits {fitting[0]}(revision={found['revision']!r})." if fitting else ""
    if found["num_classes"] != expected["num_classes"]:
        hint += " For other classes, load_official(…, num_classes=N) starts the classifier anew."
    # Learned filters, and those of E and F, have the shapes of other fixed ones.
    if found["kernels"] != expected["kernels"] or (
        found["downsampling"] != expected["downsampling"] == "gaussian"
    ):
        raise CheckpointError(f"{where}: the weights are of another network. {hint}")
    fill(network, state, where, hint=hint)


def _fits(builder: Any, found: Mapping[str, Any]) -> bool:
    arguments = builder(revision=found["revision"]).arguments
    options = ("channels", "layers", "downsampling", "kernels", "squeeze_excitation")
    return all(arguments[option] == found[option] for option in options)
