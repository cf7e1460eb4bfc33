"""The folded VGNet against the network it was folded from."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_vgnet_model import random_statistics
from torch import Tensor, nn

from modicum.methods.vgnet.fold import fold
from modicum.methods.vgnet.model import BUILDERS, VGNet, vgnetg_1_0mp

SMALL: dict[str, Any] = {"channels": (16, 16, 32, 96, 32), "layers": (2, 3, 1, 2)}
"""Every kind of downsampling: halves that fit, wide growth, and a stage that shrinks."""

VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "release2": {"revision": "release2"},
    "paper_silu": {"activation": "silu"},
    "edge": {"kernels": "edge"},
    "edge_gaussian": {"kernels": "edge_gaussian", "activation": "silu"},
    "depthwise": {"downsampling": "depthwise"},
    "maxpool": {"downsampling": "maxpool"},
    "maxpool_edge": {"downsampling": "maxpool", "kernels": "edge"},
    "thumbnail": {"thumbnail": True, "in_channels": 1},
    "thumbnail_maxpool": {"thumbnail": True, "downsampling": "maxpool"},
    "se": {"squeeze_excitation": 0.25},
    "se_release2_edge": {"squeeze_excitation": 0.25, "revision": "release2", "kernels": "edge"},
    "one_block": {"layers": (1, 1, 1, 1)},
}


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def network_of(seed: int = 0, **arguments: Any) -> VGNet:
    network = VGNet(**SMALL | {"num_classes": 10} | arguments).eval()
    random_statistics(network, seed)
    return network


def images(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest, relative to the largest of `expected`."""
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("revision", ["paper", "release2"])
@pytest.mark.parametrize("name", BUILDERS)
def test_published_networks_compute_the_same(name: str, revision: str) -> None:
    network = BUILDERS[name](revision=revision).eval()
    random_statistics(network, 5)
    x = images(2, 3, 64, 64)
    assert difference(fold(network)(x), network(x)) < 1e-5


def test_the_size_of_imagenet() -> None:
    network = vgnetg_1_0mp().eval()
    random_statistics(network, 5)
    x = images(1, 3, 224, 224)
    assert difference(fold(network)(x), network(x)) < 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_folding_is_exact(variant: str) -> None:
    # In double precision, an identity that holds only nearly, or not at the border, would show.
    arguments = VARIANTS[variant]
    network = network_of(**arguments).double()
    folded = fold(network)
    x = images(2, arguments.get("in_channels", 3), 67, 62).double()
    assert difference(folded(x), network(x)) < 1e-12
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d | nn.Dropout)]


@settings(max_examples=15, deadline=None)
@given(
    batch=st.integers(1, 3),
    height=st.integers(8, 40),
    width=st.integers(8, 40),
    channels=st.lists(st.integers(1, 5).map(lambda n: 8 * n), min_size=5, max_size=5),
    layers=st.lists(st.integers(1, 3), min_size=4, max_size=4),
    revision=st.sampled_from(["paper", "release2"]),
)
def test_any_widths_depths_and_sizes(
    batch: int, height: int, width: int, channels: list[int], layers: list[int], revision: str
) -> None:
    network = network_of(
        channels=channels, layers=layers, revision=revision, thumbnail=True
    ).double()
    x = images(batch, 3, height, width).double()
    assert difference(fold(network)(x), network(x)) < 1e-12


@pytest.mark.parametrize("variant", ["paper", "release2", "edge", "maxpool", "se"])
def test_scales_may_be_negative_zero_and_tiny(variant: str) -> None:
    network = network_of(**VARIANTS[variant]).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight[::4] *= -1
            module.weight[1::8] = 0
            module.weight[2::8] = 1e-30
            module.weight[3::8] = -1e-30
    x = images(2, 3, 64, 64).double()
    assert difference(fold(network)(x), network(x)) < 1e-12


def test_one_folded_network_takes_any_batch_and_size() -> None:
    network = network_of()
    folded = fold(network)
    for size in ((1, 3, 32, 32), (5, 3, 33, 47), (2, 3, 128, 64), (1, 3, 32, 32)):
        x = images(*size)
        assert difference(folded(x), network(x)) < 1e-5
        last = x.contiguous(memory_format=torch.channels_last)
        assert difference(folded(last), network(x)) < 1e-5


@pytest.mark.parametrize("training", [False, True])
def test_the_network_is_left_as_it_is(training: bool) -> None:
    network = network_of(kernels="edge", squeeze_excitation=0.25, revision="release2")
    network.train(training)
    before = copy.deepcopy(network.state_dict())
    trainable = [parameter.requires_grad for parameter in network.parameters()]
    folded = fold(network)
    for tensor in (*folded.parameters(), *folded.buffers()):
        tensor.fill_(7.0)
    assert all(module.training is training for module in network.modules())
    assert [parameter.requires_grad for parameter in network.parameters()] == trainable
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_folded_network_cannot_be_trained() -> None:
    folded = fold(network_of())
    assert folded.eval() is folded
    assert not folded.training
    assert not [p for p in folded.parameters() if p.requires_grad]
    with pytest.raises(RuntimeError, match="for inference only"):
        folded.train()


def test_a_folded_network_refuses_what_the_network_refuses() -> None:
    folded = fold(network_of())
    with pytest.raises(ValueError, match=r"expected images of shape \(batch, 3"):
        folded(torch.zeros(1, 1, 64, 64))
    with pytest.raises(ValueError, match="at least 32x32 pixels"):
        folded(torch.zeros(1, 3, 64, 31))


def test_a_folded_network_can_be_moved_copied_and_loaded() -> None:
    network = network_of()
    x = images(2, 3, 64, 64)
    folded = fold(network)
    double = copy.deepcopy(folded).double()
    assert difference(double(x.double()), network(x).double()) < 1e-5
    again = fold(network_of(seed=1))
    assert difference(again(x), network(x)) > 0.1
    again.load_state_dict(folded.state_dict())
    assert torch.equal(again(x), folded(x))


@torch.inference_mode(False)
def test_gradients_reach_the_images() -> None:
    network, x = network_of(), images(2, 3, 64, 64).requires_grad_()
    (expected,) = torch.autograd.grad(network(x).square().sum(), x)
    (found,) = torch.autograd.grad(fold(network)(x).square().sum(), x)
    assert difference(found, expected) < 1e-5


@pytest.mark.parametrize("variant", ["paper", "edge_gaussian", "se_release2_edge", "maxpool"])
def test_onnx_runtime_computes_the_same(variant: str) -> None:
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    network = network_of(**VARIANTS[variant])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight[::4] *= -1
    file = io.BytesIO()
    with warnings.catch_warnings():
        # PyTorch announces that this exporter will go.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            fold(network),
            (images(2, 3, 64, 64),),
            file,
            opset_version=17,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            dynamo=False,
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        file.getvalue(), options, providers=["CPUExecutionProvider"]
    )
    for batch in (1, 2, 5):
        x = images(batch, 3, 64, 64)
        (found,) = session.run(None, {"image": x.numpy()})
        assert difference(torch.from_numpy(found), network(x)) < 1e-5


@pytest.mark.parametrize("variant", ["paper", "se_release2_edge"])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own, as it is imported
def test_a_folded_network_can_be_compiled(variant: str, backend: str) -> None:
    network = network_of(**VARIANTS[variant])
    compiled = torch.compile(fold(network), backend=backend, fullgraph=True)
    x = images(2, 3, 64, 64)
    assert difference(compiled(x), network(x)) < 1e-5
