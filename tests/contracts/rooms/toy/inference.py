"""Using a trained network: measure it, let points stand for clouds, export it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

from modicum.inference import input_files, predict_files, predictions
from modicum.method import load_saved
from modicum.methods.toy.data import moments_of, open_clouds, read
from modicum.methods.toy.metrics import measure
from modicum.weights.onnx import write_state_dict

Weights = Literal["last", "best"]


def evaluate(run: Path, data: str | None = None, weights: Weights = "last") -> dict[str, Any]:
    """Measure a network on clouds.

    Args:
        run: Run folder, or a .safetensors file of one.
        data: What `modicum train toy teacher --data` takes; none: what it was trained on.
        weights: The network after the last step, or the one that scored best.
    """
    saved = load_saved(run, weights, method="toy")
    clouds = open_clouds(data or saved.notes["data"], "val")
    return {"clouds": len(clouds.points)} | measure(saved.module, clouds)


@torch.inference_mode()
def predict(
    inputs: tyro.conf.Positional[tuple[Path, ...]], run: Path, out: Path | None = None
) -> dict[str, Any]:
    """Four points that stand for the cloud of each file.

    Args:
        inputs: Files .npy of the shape (n, 2), and folders of them.
        run: Run folder, or a .safetensors file of one.
        out: CSV file to write.
    """
    network = load_saved(run, method="toy").module

    def stand_in(clouds: list[Tensor]) -> list[dict[str, Any]]:
        found = network(torch.stack([moments_of(points) for points in clouds]))
        return [{"points": points} for points in found.tolist()]

    files = input_files(inputs, {".npy"}, "cloud")
    return predictions(predict_files(files, read, stand_in, batch_size=64), out)


def export(run: Path, out: Path) -> dict[str, Any]:
    """Write the weights for `torch.load`.

    Args:
        run: Run folder, or a .safetensors file of one.
        out: File to write.
    """
    return write_state_dict(load_saved(run, method="toy").module, out)
