"""Published weights into our networks: the EST authors' checkpoints and torchvision's ResNet-34."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from torch import nn

from modicum.errors import CheckpointError
from modicum.methods.event_augmentation.est import EstClassifier
from modicum.methods.event_augmentation.resnet import ResNet34
from modicum.weights.saved import State, read_state


def load_est(checkpoint: Path | str | State) -> EstClassifier:
    """The network of an EST checkpoint, built after its shapes, with its weights.

    Args:
        checkpoint: A file that the authors' code wrote, `{"state_dict": …, "min_val_loss": …,
            "iteration": …}`, a file of a plain state dict, or a state dict.

    Raises:
        CheckpointError: The file is damaged, or not of an EST classifier.
    """
    where, state = read_state(checkpoint)
    try:
        channels = state["classifier.conv1.weight"].shape[1]
        num_classes = state["classifier.fc.weight"].shape[0]
    except (KeyError, IndexError) as error:
        first = ", ".join(list(state)[:4]) or "nothing"
        raise CheckpointError(
            f"{where}: not an EST classifier: it has no {error}. Its first keys are {first}; "
            f"expected quantization_layer.value_layer.mlp.0.weight, classifier.conv1.weight and "
            f"so on, as the authors save them."
        ) from error
    if channels % 2 or channels < 4:
        raise CheckpointError(
            f"{where}: classifier.conv1.weight takes {channels} channels; expected an even number "
            f"of 4 or more, bins of OFF and bins of ON events."
        )
    network = EstClassifier(num_classes, channels // 2)
    _fill(network, state, where)
    return network


def load_torchvision(
    network: ResNet34,
    checkpoint: Path | str | State,
    *,
    keep: Collection[Literal["conv1", "fc"]] = (),
) -> None:
    """Fill a ResNet-34 with weights of torchvision's, such as those trained on ImageNet.

    Args:
        network: Filled in place.
        checkpoint: A file of a state dict, or a state dict.
        keep: Layers that keep the weights they have, because events have other channels than
            images (`"conv1"`) or the classes are others (`"fc"`).

    Raises:
        CheckpointError: The file is damaged, or the weights do not fit.
    """
    where, state = read_state(checkpoint)
    weights = dict(state)
    mine = network.state_dict()
    for layer, axis, what in (("conv1", 1, "input channels"), ("fc", 0, "classes")):
        name = f"{layer}.weight"
        if layer in keep:
            weights |= {key: mine[key] for key in mine if key.startswith(f"{layer}.")}
        elif name in weights and weights[name].shape[axis] != mine[name].shape[axis]:
            raise CheckpointError(
                f"{where}: {name} is for {weights[name].shape[axis]} {what}, this network has "
                f"{mine[name].shape[axis]}. To load the other layers and train this one from its "
                f"initial weights, give keep=({layer!r},)."
            )
    _fill(network, weights, where)


def _fill(network: nn.Module, state: State, where: str) -> None:
    """Load a state dict that must fit wholly.

    Raises:
        CheckpointError: It does not.
    """
    mine = network.state_dict()
    missing = [name for name in mine if name not in state]
    unknown = [name for name in state if name not in mine]
    misshapen = [
        f"{name} {tuple(state[name].shape)}, expected {tuple(mine[name].shape)}"
        for name in mine
        if name in state and state[name].shape != mine[name].shape
    ]
    kinds = {"missing": missing, "unknown": unknown, "of another shape": misshapen}
    found = [f"{len(names)} {kind} ({names[0]})" for kind, names in kinds.items() if names]
    if found:
        raise CheckpointError(
            f"{where}: the weights are of another network than {type(network).__name__}: "
            f"{'; '.join(found)}. In brackets is the first of each."
        )
    network.load_state_dict(dict(state))
