"""Published weights into our networks: the EST authors' checkpoints and torchvision's ResNet-34."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from modicum.errors import CheckpointError
from modicum.methods.event_augmentation.est import EstClassifier
from modicum.methods.event_augmentation.resnet import ResNet34
from modicum.weights.foreign import State, fill, read_state


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
    fill(network, state, where)
    return network


def load_torchvision(
    network: ResNet34,
    checkpoint: Path | str | State,
    *,
    fresh: Collection[Literal["conv1", "fc"]] = (),
) -> None:
    """Fill a ResNet-34 in place with weights of torchvision's, such as those trained on ImageNet.

    Args:
        network: Filled in place.
        checkpoint: A file of a state dict, or a state dict; a `CheckpointError` if it is damaged or
            does not fit.
        fresh: Layers that keep the weights they have if the file's do not fit, because events have
            other channels than images (`"conv1"`) or the classes are others (`"fc"`).
    """
    where, state = read_state(checkpoint)
    hint = "For other input channels, give fresh=('conv1',); for other classes, fresh=('fc',)."
    fill(network, state, where, fresh=[f"{layer}." for layer in fresh], hint=hint)
