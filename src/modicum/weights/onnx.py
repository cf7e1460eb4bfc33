"""Writing a network as ONNX, compared with PyTorch before the file is kept."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.jit import TracerWarning  # pyright: ignore[reportPrivateImportUsage]

from modicum.errors import CheckpointError, require
from modicum.system.environment import version
from modicum.system.files import atomic_write

TOLERANCE = 1e-3
"""Largest difference between ONNX Runtime and PyTorch, relative to an output's largest number."""

_OPSET = 17


def write_onnx(
    network: nn.Module,
    inputs: Mapping[str, Tensor],
    out: Path,
    *,
    outputs: Sequence[str],
    dynamic: Mapping[str, Mapping[int, str]],
    described: Mapping[str, Any],
    trials: Sequence[Mapping[str, Tensor]],
    reference: nn.Module | None = None,
    compare: Literal["largest", "median"] = "largest",
) -> dict[str, Any]:
    """Export a network, and keep the file if it computes the same.

    Args:
        network: In eval mode, on the CPU. It gives a tensor, or as many as `outputs` in a tuple or
            list, of which the first axis is that of samples, if they have one.
        inputs: What it is called with, by name, in order.
        out: File to write.
        outputs: Names of what it gives, in order.
        dynamic: Axes whose size may change, by input or output name, with a name for each axis.
        described: JSON-able values for the file's metadata, which also has modicum's `version`.
        trials: Other inputs to compare on.
        reference: What to compare with, if not the network itself.
        compare: The largest difference of all samples of all inputs, or their median, for networks
            in which a rounding may change a whole sample.

    Returns:
        `written`, `bytes` and `largest_relative_difference`, of the output that has the largest;
        it is a median if `compare` says so.

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
            opset_version=_OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: dict(axes) for name, axes in dynamic.items()},
            dynamo=False,
        )
    model = onnx.load_from_string(buffer.getvalue())
    for key, value in (dict(described) | {"version": version()}).items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    content = model.SerializeToString()

    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    relative: dict[str, list[Tensor]] = {name: [] for name in outputs}
    for trial in (inputs, *trials):
        with torch.inference_mode():
            given = (reference or network)(*trial.values())
        expected = [given] if isinstance(given, Tensor) else given
        found = session.run(list(outputs), {name: value.numpy() for name, value in trial.items()})
        for name, theirs, ours in zip(outputs, found, expected, strict=True):
            relative[name].append(_relative(torch.from_numpy(theirs), ours))
    share = 0.5 if compare == "median" else 1.0
    differences = torch.stack([torch.cat(parts).quantile(share) for parts in relative.values()])
    worst = float(differences.max())  # NaN, if any is
    if not worst <= TOLERANCE:
        raise CheckpointError(
            f"the ONNX network's {outputs[int(differences.argmax())]} differs from the PyTorch "
            f"one's by {worst:.2g} of the largest number, expected at most {TOLERANCE}; nothing "
            f"was written. Please report this, with the run's config.json."
        )
    with atomic_write(out) as file:
        file.write(content)
    return {"written": str(out), "bytes": len(content), "largest_relative_difference": worst}


def _relative(found: Tensor, expected: Tensor) -> Tensor:
    """Of each sample the largest difference, as a share of the largest number of all, `(B,)`."""
    if found.shape != expected.shape:
        return torch.tensor([torch.nan], dtype=torch.float64)  # which no median passes over
    if not expected.numel():
        return torch.zeros(1, dtype=torch.float64)
    found, expected = found.double(), expected.double()
    of_samples = (found - expected).abs().reshape(expected.shape[:1].numel(), -1).amax(1)
    return of_samples / expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)


def write_state_dict(network: nn.Module, out: Path) -> dict[str, Any]:
    """Write a network's weights for `torch.load`, atomically."""
    with atomic_write(out) as file:
        torch.save(network.state_dict(), file)
    return {"written": str(out)}
