"""A spiking network as ONNX, its time steps unrolled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from modicum.spiking.networks import SpikingNetwork, read_out
from modicum.weights.onnx import write_onnx


class MeanOverTime(nn.Module):
    """A network with its read-out: `(B, T, C, H, W)` or `(B, C, H, W)` to `(B, num_classes)`."""

    def __init__(self, network: SpikingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return read_out(self.network(x))


def write_spiking_onnx(
    network: SpikingNetwork, samples: Tensor, out: Path, described: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a network with its read-out, for any batch size and the number of steps of `samples`.

    The network is in eval mode, on the CPU, and compared on the samples `(B, ...)`; for the rest
    see `modicum.weights.onnx.write_onnx`.
    """
    return write_onnx(
        MeanOverTime(network).eval(),
        {"input": samples},
        out,
        outputs=["logits"],
        dynamic={"input": {0: "batch"}, "logits": {0: "batch"}},
        described=described,
        trials=({"input": samples[:1]}, {"input": samples.flip(0).repeat_interleave(2, 0)}),
        compare="median",  # a spike may flip by rounding, which is seen in a sample's logits
    )
