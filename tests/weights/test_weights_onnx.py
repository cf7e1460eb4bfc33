"""A network is written as ONNX if what was written computes the same, and else not at all."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modicum.errors import CheckpointError
from modicum.weights.onnx import write_onnx, write_state_dict

onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def written(out: Path, module: nn.Module, samples: Tensor, **options: Any) -> dict[str, Any]:
    options = {"trials": [{"input": samples[:1]}]} | options
    return write_onnx(
        module,
        {"input": samples},
        out,
        outputs=["logits"],
        dynamic={"input": {0: "batch"}, "logits": {0: "batch"}},
        described={"classes": ["a", "b", "c"], "size": 4},
        **options,
    )


def test_what_is_written_computes_the_same(tmp_path: Path) -> None:
    module, samples, out = network(), torch.randn(5, 4), tmp_path / "model.onnx"
    result = written(out, module, samples)
    assert result["written"] == str(out)
    assert result["bytes"] == out.stat().st_size
    assert result["largest_relative_difference"] < 1e-5
    session = onnxruntime.InferenceSession(out)
    other = torch.randn(7, 4)
    (found,) = session.run(["logits"], {"input": other.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), module(other), rtol=1e-4, atol=1e-5)
    described = session.get_modelmeta().custom_metadata_map
    assert {key: json.loads(value) for key, value in described.items()} == {
        "classes": ["a", "b", "c"], "size": 4, "version": version("modicum")
    }  # fmt: skip


class Branching(nn.Module):
    """Does on negative inputs what tracing on positive ones does not see."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else 2 * x


@pytest.mark.parametrize("before", [None, b"an older file"])
def test_a_network_that_was_not_traced_whole_is_refused(
    tmp_path: Path, before: bytes | None
) -> None:
    out = tmp_path / "model.onnx"
    if before is not None:
        out.write_bytes(before)
    positive = torch.ones(2, 4)
    with pytest.raises(CheckpointError, match=r"differs .* by 0\.5 of the largest.*nothing was"):
        written(out, Branching().eval(), positive, trials=[{"input": -positive}])
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before] * (before is not None)


def test_the_reference_decides(tmp_path: Path) -> None:
    module, samples = network(), torch.randn(5, 4)
    with pytest.raises(CheckpointError, match="nothing was written"):
        written(tmp_path / "model.onnx", module, samples, reference=nn.Linear(4, 3))
    assert not list(tmp_path.iterdir())


def test_nan_is_refused_and_zero_is_not(tmp_path: Path) -> None:
    module, samples = nn.Linear(4, 3).eval(), torch.randn(5, 4)
    nn.init.zeros_(module.weight)
    nn.init.constant_(module.bias, float("nan"))
    with pytest.raises(CheckpointError, match=r"differs .* by nan"):
        written(tmp_path / "nan.onnx", module, samples)
    nn.init.zeros_(module.bias)
    assert written(tmp_path / "zero.onnx", module, samples)["largest_relative_difference"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["zero.onnx"]


def test_of_a_median_most_samples_must_agree(tmp_path: Path) -> None:
    class WithFlips(nn.Module):
        """The network but for the first samples of a batch of five."""

        def __init__(self, module: nn.Module, flipped: int) -> None:
            super().__init__()
            self.module, self.flipped = module, flipped

        def forward(self, x: Tensor) -> Tensor:
            made = self.module(x)
            if len(x) == 5:
                made[: self.flipped] += 1
            return made

    module, samples = network(), torch.randn(5, 4)
    two, three = WithFlips(module, 2), WithFlips(module, 3)
    result = written(tmp_path / "two.onnx", module, samples, reference=two, compare="median")
    assert result["largest_relative_difference"] < 1e-5
    for reference, compare in ((two, "largest"), (three, "median")):
        with pytest.raises(CheckpointError, match="nothing was written"):
            written(tmp_path / "no.onnx", module, samples, reference=reference, compare=compare)
    assert [path.name for path in tmp_path.iterdir()] == ["two.onnx"]


def test_a_flipped_sample_counts_no_more_in_a_trial_of_its_own(tmp_path: Path) -> None:
    class Flipped(nn.Module):
        """The network but for samples by themselves."""

        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Tensor) -> Tensor:
            return self.module(x) + float(len(x) == 1)

    module, samples, out = network(), torch.randn(5, 4), tmp_path / "model.onnx"
    with pytest.raises(CheckpointError, match="nothing was written"):
        written(out, module, samples, reference=Flipped(module))
    result = written(out, module, samples, reference=Flipped(module), compare="median")
    assert result["largest_relative_difference"] < 1e-5


class TwoOutputs(nn.Module):
    """Of a sample a number and, of all samples that are positive, the largest feature's index."""

    def __init__(self, wrong: float = 0.0) -> None:
        super().__init__()
        self.wrong = wrong

    def forward(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return 2 * x, (x * scale).sum(1) + self.wrong, x[x[:, 0] > 0].argmax(1)


def written_with_two(out: Path, wrong: float = 0.0, **options: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    x = torch.randn(5, 4)
    x[0, 0] = 1
    return write_onnx(
        TwoOutputs(),
        {"x": x, "scale": torch.tensor(3.0)},
        out,
        outputs=["doubled", "sums", "indices"],
        dynamic={
            "x": {0: "batch"}, "doubled": {0: "batch"}, "sums": {0: "batch"}, "indices": {0: "n"}
        },
        described={},
        trials=[{"x": x[:2], "scale": torch.tensor(0.5)}, {"x": -x.abs(), "scale": x[1, 2]}],
        reference=TwoOutputs(wrong),
        **options,
    )  # fmt: skip


def test_several_outputs_of_any_rank(tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    assert written_with_two(out)["largest_relative_difference"] < 1e-5
    session = onnxruntime.InferenceSession(out)
    assert [output.name for output in session.get_outputs()] == ["doubled", "sums", "indices"]
    x, scale = torch.randn(7, 4), torch.tensor(2.0)
    found = session.run(["sums", "doubled"], {"x": x.numpy(), "scale": scale.numpy()})
    torch.testing.assert_close(torch.from_numpy(found[0]), 2 * x.sum(1))
    torch.testing.assert_close(torch.from_numpy(found[1]), 2 * x)


@pytest.mark.parametrize("compare", ["largest", "median"])
def test_the_output_that_differs_is_named(tmp_path: Path, compare: str) -> None:
    with pytest.raises(CheckpointError, match=r"network's sums differs .* nothing was written"):
        written_with_two(tmp_path / "model.onnx", wrong=1.0, compare=compare)
    assert not list(tmp_path.iterdir())


def test_a_state_dict_is_for_torch_load(tmp_path: Path) -> None:
    module, out = network(), tmp_path / "model.pth"
    assert write_state_dict(module, out) == {"written": str(out)}
    state = torch.load(out, weights_only=True)
    assert state.keys() == module.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in module.state_dict().items())
