"""Files in NIR, run by the interpreter of the graph that was read back.

Networks and frames are of double precision, in which no spike flips by rounding. What differs is
that a file holds float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modicum.errors import CheckpointError, ConfigError, DataError
from modicum.spiking import LIF, SpikingLayer, SpikingNetwork, nir_export
from modicum.spiking.nir_export import compare, export_nir, run_graph, to_nir

nir = pytest.importorskip("nir")


def binary(*shape: int) -> Tensor:
    return (torch.rand(shape) < 0.3).double()


def trained(**options: Any) -> SpikingNetwork:
    """A network whose normalisations have something to fold."""
    torch.manual_seed(0)
    network = SpikingNetwork([4, "pool", 6, "pool"], **({"size": [13, 12]} | options)).double()
    for layer in network.features:
        if isinstance(layer, SpikingLayer):
            nn.init.uniform_(layer.norm.weight, 0.5, 1.5)
            nn.init.uniform_(layer.norm.bias, 0, 1)
    network(binary(6, 5, 2, *network.arguments["size"]))
    return network.eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"downsampling": "stride"},
        {"head": "average"},
        {"neuron": LIF.nda().arguments},
        {"neuron": LIF.spikingjelly().arguments},
    ],
    ids=["pool", "stride", "average", "nda", "spikingjelly"],
)
def test_the_file_that_is_read_back_fires_the_same_spikes(
    options: dict[str, Any], tmp_path: Path
) -> None:
    network = trained(**options)
    frames = binary(3, 8, 2, 13, 12)
    check = export_nir(network.train(), tmp_path / "network.nir", frames, dt=1e-3)
    assert network.training
    assert check.spikes > 100
    assert check.differing == check.share == 0
    assert check.logits < 1e-5
    graph = nir.read(tmp_path / "network.nir")
    assert graph.metadata["dt"] == 1e-3
    outputs = run_graph(graph, frames)
    assert outputs["output"].shape == (3, 8, 10)
    *_, last = (fired for name, fired in outputs.items() if name.endswith(".neuron"))
    assert last.sum() > 10  # else nothing would reach the logits


def upside_down(network: SpikingNetwork, *, dt: float = 1e-3) -> Any:
    """A graph of other weights."""
    graph = to_nir(network, dt=dt)
    kernel = graph.nodes["0.synapses"].weight
    graph.nodes["0.synapses"].weight = kernel[:, :, ::-1].copy()
    return graph


def test_a_graph_with_other_weights_is_told_apart() -> None:
    network = trained()
    check = compare(network, upside_down(network), binary(2, 5, 2, 13, 12))
    assert check.differing > 0
    assert check.share > 0.01


def test_a_sample_of_flipped_spikes_is_told_from_a_wrong_graph() -> None:
    network = trained()
    frames = binary(3, 5, 2, 13, 12)
    frames[:2] = 0  # of the kernel these samples see nothing
    check = compare(network, upside_down(network), frames)
    assert check.differing > 0
    assert check.share == 0


@pytest.mark.parametrize("before", [None, b"an older file"])
def test_a_file_that_fires_otherwise_is_not_kept(
    before: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "network.nir"
    if before is not None:
        path.write_bytes(before)
    network, frames = trained(), binary(3, 5, 2, 13, 12)
    with monkeypatch.context() as patch:
        patch.setattr(nir_export, "to_nir", upside_down)
        with pytest.raises(CheckpointError, match=r"at most 0\.001; nothing was written"):
            export_nir(network, path, frames)
    with pytest.raises(DataError, match="13x12"):
        export_nir(network, path, frames[..., 1:])
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before] * (before is not None)
    export_nir(network, path, frames)
    assert compare(network, nir.read(path), frames).differing == 0


def test_images_are_presented_at_every_step(tmp_path: Path) -> None:
    network = trained(time_steps=6, in_channels=2)
    images = torch.rand(3, 2, 13, 12, dtype=torch.float64)
    check = export_nir(network, tmp_path / "images.nir", images)
    assert check.spikes > 100
    assert check.differing == 0
    assert check.logits < 1e-5
    frames = images[:, None].expand(-1, 6, -1, -1, -1)
    again = export_nir(network, tmp_path / "frames.nir", frames)
    assert (again.spikes, again.differing) == (check.spikes, 0)
    with pytest.raises(DataError, match="time_steps=T"):
        export_nir(trained(), tmp_path / "none.nir", images)


def test_constants_of_the_neuron() -> None:
    network = trained(neuron={"decay": 0.75, "threshold": 0.5, "decay_input": True})
    neuron = to_nir(network, dt=0.01).nodes["0.neuron"]
    assert neuron.tau.shape == (4, 13, 12)
    np.testing.assert_allclose(neuron.tau, 0.04, rtol=1e-6)  # 1 - dt / tau = 0.75
    np.testing.assert_allclose(neuron.r, 1.0, rtol=1e-6)
    assert (neuron.v_threshold == 0.5).all()
    assert (to_nir(trained()).nodes["0.neuron"].r == 2.0).all()
    firing_at = to_nir(trained(neuron={"threshold": 0.5, "fires_at_threshold": True}))
    threshold = firing_at.nodes["0.neuron"].v_threshold
    assert (threshold == np.nextafter(np.float32(0.5), np.float32(0))).all()


def test_what_nir_cannot_express_is_refused() -> None:
    for neuron in (LIF.snntorch(), LIF.spikingjelly(reset="soft")):
        with pytest.raises(ConfigError, match="cannot be expressed in NIR"):
            to_nir(trained(neuron=neuron.arguments))
    with pytest.raises(ConfigError, match="dt"):
        to_nir(trained(), dt=0.0)


def test_graphs_that_are_not_interpreted() -> None:
    graph = to_nir(trained())
    graph.edges.append(("input", "output"))
    with pytest.raises(DataError, match="branches"):
        run_graph(graph, binary(1, 2, 2, 13, 12))
    chain = nir.NIRGraph.from_list(nir.Input(np.array([2])), nir.Threshold(np.ones(2)))
    with pytest.raises(DataError, match="Threshold"):
        run_graph(chain, torch.zeros(1, 1, 2))
