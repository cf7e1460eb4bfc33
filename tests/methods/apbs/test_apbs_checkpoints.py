"""TET and NDA checkpoints: keys, counts, and the reference's logits, losses and gradients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from modicum.errors import CheckpointError
from modicum.methods.apbs.checkpoints import load_official
from modicum.spiking import SpikingLayer, mean_cross_entropy, tet_loss

GOLDEN = Path(__file__).parents[2] / "golden" / "apbs"
NARROW = load_file(GOLDEN / "narrow_vggsnn.safetensors")
ARCHITECTURES: dict[str, Any] = json.loads((GOLDEN / "architectures.json").read_text())


def golden(prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in NARROW.items() if k.startswith(prefix)}


def pixel_by_pixel(weight: Tensor, channels: int) -> Tensor:
    """Columns of a classifier that reads maps channel by channel, in the order of ours."""
    return weight.reshape(len(weight), channels, -1).permute(0, 2, 1).flatten(1)


def official(name: str) -> dict[str, Tensor]:
    """A state dict with the keys and shapes of the authors' network."""
    torch.manual_seed(0)
    shapes: dict[str, list[int]] = ARCHITECTURES[name]["state_dict"]
    state = {key: 0.1 * torch.randn(shape) for key, shape in shapes.items()}
    for key in state:
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
        elif key.endswith("running_var"):
            state[key] = state[key].abs() + 0.5
    return state


def close(mine: Tensor | None, theirs: Tensor, *, rtol: float = 0.0, atol: float = 1e-5) -> None:
    """To the rounding of the reference, which is of float32."""
    torch.testing.assert_close(mine, theirs.double(), rtol=rtol, atol=atol)


def test_the_reference_network() -> None:
    """In double precision, in which no spike flips by rounding."""
    network = load_official(golden("state.")).double()
    assert network.arguments["size"] == [32, 32]
    x, labels = NARROW["x_BTCHW"].double(), NARROW["labels"]
    logits = network(x)
    close(logits, NARROW["train_logits_BTK"])
    loss = tet_loss(logits, labels)
    close(loss[None], NARROW["tet_loss"])
    close(mean_cross_entropy(logits, labels)[None], NARROW["sdt_loss"])
    loss.backward()
    gradients = golden("grad.")
    layers = [layer for layer in network.features if isinstance(layer, SpikingLayer)]
    for n, layer in zip((0, 1, 3, 4, 6, 7, 9, 10), layers, strict=True):
        for i, module in enumerate((layer.synapses, layer.norm)):
            for part, parameter in module.named_parameters():
                theirs = gradients.pop(f"features.{n}.fwd.module.{i}.{part}")
                if i == 0 and part == "bias":
                    # The normalisation takes every bias away: its gradient is rounding alone.
                    assert theirs.abs().max() < 1e-5
                    assert parameter.grad.abs().max() < 1e-12
                    continue
                close(parameter.grad, theirs, rtol=1e-3, atol=1e-6)
        for part in ("running_mean", "running_var"):
            theirs = NARROW[f"after_step.features.{n}.fwd.module.1.{part}"]
            close(getattr(layer.norm, part), theirs, rtol=1e-4, atol=1e-6)
    for part, parameter in network.classifier.named_parameters():
        theirs = gradients.pop(f"classifier.module.{part}")
        if part == "weight":
            theirs = pixel_by_pixel(theirs, 10)
        close(parameter.grad, theirs, rtol=1e-3, atol=1e-6)
    assert not gradients
    with torch.no_grad():
        close(network.eval()(x), NARROW["eval_logits_BTK"])


@pytest.mark.parametrize("association", [0.0, 0.2])
def test_a_plain_checkpoint_fills_an_associative_network(association: float) -> None:
    plain = load_official(golden("state."))
    network = load_official(golden("state."), association=association)
    count = sum(p.numel() for p in plain.parameters())
    assert sum(p.numel() for p in network.parameters()) == count
    extra = set(network.state_dict()) - set(plain.state_dict())
    assert {name.rpartition(".")[2] for name in extra} == {"cache", "num_updates"}
    x = NARROW["x_BTCHW"]
    same = torch.equal(network(x), plain(x))
    assert same == (association == 0)
    if association == 0:
        assert torch.equal(network.eval()(x), plain.eval()(x))


@pytest.mark.parametrize(
    "name", [name for name in ARCHITECTURES if isinstance(ARCHITECTURES[name], dict)]
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_keys_load(name: str, prefix: str, tmp_path: Path) -> None:
    state = official(name)
    if prefix:
        path = tmp_path / "checkpoint.pth"
        torch.save({f"{prefix}{key}": tensor for key, tensor in state.items()}, path)
    else:
        path = tmp_path / "checkpoint.safetensors"
        save_file(state, path)
    network = load_official(path)
    assert sum(p.numel() for p in network.parameters()) == ARCHITECTURES[name]["params"]
    assert len(network.state_dict()) == len(state)
    # Every tensor has arrived, and the convolutions in their order.
    theirs = sum(float(tensor.double().sum()) for tensor in state.values())
    mine = sum(float(tensor.double().sum()) for tensor in network.state_dict().values())
    assert mine == pytest.approx(theirs)
    convolutions = [tensor for tensor in state.values() if tensor.dim() == 4]
    layers = [layer for layer in network.features if isinstance(layer, SpikingLayer)]
    for layer, weight in zip(layers, convolutions, strict=True):
        assert torch.equal(layer.synapses.weight, weight)
    nda = name.startswith("NDA")
    assert network.arguments["head"] == ("average" if nda else "flatten")
    assert network.arguments["neuron"]["threshold"] == (0.5 if nda else 1.0)
    assert network.arguments["size"] == [48, 48]


def test_vggsnn_without_pooling() -> None:
    state = official("VGGSNN_48x48_10cls")
    order = dict(zip((0, 1, 3, 4, 6, 7, 9, 10), range(8), strict=True))
    strided = {
        f"features.{order[int(key.split('.')[1])]}.{key.split('.', 2)[2]}"
        if key.startswith("features")
        else key: tensor
        for key, tensor in state.items()
    }
    network = load_official(strided)
    assert network.arguments["downsampling"] == "stride"
    assert sum(p.numel() for p in network.parameters()) == 9_271_498


def test_what_does_not_fit_is_refused() -> None:
    state = golden("state.")
    with pytest.raises(CheckpointError, match="neither of TET's VGGSNN nor of NDA's VGG-11"):
        load_official({"conv1.weight": torch.zeros(3)})
    missing = {key: state[key] for key in state if key != "features.3.fwd.module.0.bias"}
    with pytest.raises(CheckpointError, match=r"VGGSNN of TET.*1 missing \(features.3.syn"):
        load_official(missing)
    with pytest.raises(CheckpointError, match=r"1 unknown \(features.99.weight\)"):
        load_official(state | {"features.99.weight": torch.zeros(2)})
    misshapen = state | {"features.0.fwd.module.1.bias": torch.zeros(5)}
    with pytest.raises(CheckpointError, match=r"module.1.bias \(5,\), expected \(4,\)"):
        load_official(misshapen)
    with pytest.raises(CheckpointError, match=r"classifier.module.weight \(.*size=\(height"):
        load_official(state, size=48)


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_official(tmp_path / "absent.pth")
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="damaged"):
        load_official(bad)
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        load_official(tmp_path / "list.pth")
    torch.save({"state_dict": golden("state.")}, tmp_path / "wrapped.pth")
    assert load_official(tmp_path / "wrapped.pth").arguments["size"] == [32, 32]
