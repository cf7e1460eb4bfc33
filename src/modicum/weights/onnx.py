"""Writing a network as ONNX, compared with PyTorch before the file is kept."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit import TracerWarning  # pyright: ignore[reportPrivateImportUsage]

from modicum.errors import CheckpointError, require
from modicum.system.files import atomic_write

TOLERANCE = 1e-3
"""Largest difference between ONNX Runtime and PyTorch, relative to the largest output."""


def write_onnx(
    network: nn.Module,
    inputs: Mapping[str, Tensor],
    out: Path,
    *,
    dynamic: Mapping[str, Mapping[int, str]],
    described: Mapping[str, Any],
    trials: Sequence[Mapping[str, Tensor]],
    reference: nn.Module | None = None,
    spiking: bool = False,
    opset: int = 17,
) -> dict[str, Any]:
    """Export a network that gives logits, and keep the file if it computes the same.

    Args:
        network: In eval mode, on the CPU.
        inputs: What it is called with, by name; the order counts.
        out: File to write.
        dynamic: Axes whose size may change, by input or output name, with a name for each axis.
            The output is called `logits`.
        described: JSON-able values for the file's metadata.
        trials: Other inputs to compare on.
        reference: What to compare with, if not the network itself.
        spiking: Compare the median over the samples of all inputs rather than the largest
            difference: a spike may flip by rounding, and that is seen in a sample's logits.
        opset: ONNX operator set.

    Returns:
        `written`, `bytes` and `largest_relative_difference`, which is the median if `spiking`.

    Raises:
        CheckpointError: It computes something else; nothing is written.
        MissingExtraError: ONNX or ONNX Runtime is not installed.
    """
    onnx = require("onnx", "deploy", "ONNX export")
    runtime = require("onnxruntime", "deploy", "ONNX export")
    buffer: Any = io.BytesIO()  # the exporter takes one, whatever its signature says
    with warnings.catch_warnings(), torch.no_grad():
        # Sizes that are fixed are meant to be; that nothing else was is seen in the comparison.
        warnings.simplefilter("ignore", TracerWarning)
        torch.onnx.export(
            network,
            tuple(inputs.values()),
            buffer,
            opset_version=opset,
            input_names=list(inputs),
            output_names=["logits"],
            dynamic_axes={name: dict(axes) for name, axes in dynamic.items()},
            dynamo=False,
        )
    model = onnx.load_from_string(buffer.getvalue())
    for key, value in described.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    content = model.SerializeToString()

    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    relative: list[Tensor] = []
    for trial in (inputs, *trials):
        with torch.inference_mode():
            expected = (reference or network)(*trial.values())
        (found,) = session.run(None, {name: value.numpy() for name, value in trial.items()})
        of_samples = (torch.from_numpy(found) - expected).abs().flatten(1).amax(1)
        largest = expected.abs().max()
        relative.append(of_samples / largest.clamp(min=torch.finfo(largest.dtype).tiny))
    differences = torch.cat(relative)
    worst = float(differences.quantile(0.5) if spiking else differences.max())  # NaN, if any is
    if not worst <= TOLERANCE:
        raise CheckpointError(
            f"the ONNX network differs from the PyTorch one by {worst:.2g} of the largest logit, "
            f"expected at most {TOLERANCE}; nothing was written. Please report this, with the "
            f"run's config.json."
        )
    with atomic_write(out) as file:
        file.write(content)
    return {"written": str(out), "bytes": len(content), "largest_relative_difference": worst}


def write_state_dict(network: nn.Module, out: Path) -> dict[str, Any]:
    """Write a network's weights for `torch.load`, atomically."""
    with atomic_write(out) as file:
        torch.save(network.state_dict(), file)
    return {"written": str(out)}
