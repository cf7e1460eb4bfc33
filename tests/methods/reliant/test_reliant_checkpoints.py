"""Files of the authors' scripts: teachers' outputs, and state dicts against reference logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from modicum.errors import CheckpointError, DataError
from modicum.methods.reliant.checkpoints import (
    check_probabilities,
    load_official,
    read_akd_teacher,
    read_cpf_teacher,
    soft_targets,
)
from modicum.methods.reliant.graphs.graph import Graph
from modicum.methods.reliant.networks.discriminators import Adversary, LogitDiscriminator
from modicum.methods.reliant.networks.students import PLP, SGCStudent
from modicum.methods.reliant.networks.teachers import APPNP, GCN, GraphSAGE

GOLDEN = Path(__file__).parents[2] / "golden" / "reliant"
GRAPH = load_file(GOLDEN / "graph.safetensors")
TEACHERS = load_file(GOLDEN / "teachers.safetensors")
PLP_FORWARD = load_file(GOLDEN / "plp_forward.safetensors")
AKD = load_file(GOLDEN / "akd_sp.safetensors")

N, C, H = 5, 3, 4
LOGITS = torch.randn(N, C, generator=torch.Generator().manual_seed(0))
EMBEDDING = torch.randn(N, H, generator=torch.Generator().manual_seed(1))


def part(golden: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in golden.items() if k.startswith(prefix)}


def golden_graph() -> Graph:
    return Graph.build(
        features=GRAPH["x"],
        edges=torch.stack([GRAPH["edge_src"], GRAPH["edge_dst"]]),
        labels=GRAPH["y"],
        sensitive=GRAPH["sens"],
        **{split: GRAPH[f"idx_{split}"] for split in ("train", "val", "test")},
    )


def logits_of(network: nn.Module, features: Tensor = GRAPH["x"]) -> Tensor:
    with torch.no_grad():
        return network.eval()(golden_graph(), features)


def write_cpf(folder: Path, probabilities: Tensor) -> Path:
    """What CPF's script writes of a teacher."""
    folder.mkdir()
    np.savetxt(folder / "output.txt", probabilities.numpy(), fmt="%.4f", delimiter="\t")
    np.savetxt(folder / "preds.txt", probabilities.argmax(1).numpy(), fmt="%d")
    np.savetxt(folder / "labels.txt", np.zeros(len(probabilities)), fmt="%d")
    (folder / "test_acc.txt").write_text("0.9225\n")
    return folder


def write_akd(path: Path, **changes: object) -> Path:
    """What GraphAKD's script saves of a teacher."""
    content: dict[str, object] = {
        "logits": LOGITS.log_softmax(1),
        "embedding": EMBEDDING,
        "parity": 0.0618,
        "equality": 0.0193,
    }
    content |= changes
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return path


def test_the_folder_of_cpf(tmp_path: Path) -> None:
    folder = write_cpf(tmp_path / "cascade_random_42_20", LOGITS.softmax(1))
    written = (LOGITS.softmax(1) * 1e4).round() / 1e4
    for path in (folder, folder / "output.txt"):
        probabilities, logarithms, embedding = soft_targets(path, N, C)
        assert probabilities.dtype == logarithms.dtype == torch.float32
        torch.testing.assert_close(probabilities, written, rtol=0, atol=1e-7)
        torch.testing.assert_close(logarithms, written.log())
        assert embedding is None
        assert torch.equal(read_cpf_teacher(path, N, C), probabilities)


def test_a_probability_rounded_to_zero_has_a_finite_logarithm(tmp_path: Path) -> None:
    folder = write_cpf(tmp_path / "teacher", torch.tensor([[1.0, 0.0], [0.00004, 0.99996]]))
    probabilities, logarithms, _ = soft_targets(folder, 2, 2)
    assert probabilities.tolist() == [[1, 0], [0, 1]]
    assert logarithms[0, 1].item() == pytest.approx(math.log(0.5e-4))


@pytest.mark.parametrize("old", [False, True])
def test_the_file_of_graphakd(old: bool, tmp_path: Path) -> None:
    path = write_akd(tmp_path / "teacher.pth.tar")
    if old:
        content = torch.load(path)
        torch.save(content, path, _use_new_zipfile_serialization=False)
    probabilities, logarithms, embedding = soft_targets(path, N, C)
    torch.testing.assert_close(probabilities, LOGITS.softmax(1))
    assert torch.equal(logarithms, LOGITS.log_softmax(1))
    assert embedding is not None
    assert torch.equal(embedding, EMBEDDING)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"found the shape \(0, 1\), expected \(5, 3\)"),
        ("0.5\t0.5\n" * 5, r"found the shape \(5, 2\), expected \(5, 3\)"),
        ("0.2\t0.3\t0.5\n" * 4, r"found the shape \(4, 3\), expected \(5, 3\)"),
        ("0.2\t0.3\t0.5\n" * 4 + "0.5\t0.5\n", "cannot be read as a table of numbers"),
        ("0.2\t0.3\tno\n" * 5, "could not convert string 'no'"),
        ("0.2\t0.3\t0.5\n" * 4 + "0.2\t0.3\t0.4\n", "node 4 sum to 0.9000"),
        ("0.2\t0.3\tnan\n" * 5, "class 2 of node 0 is nan"),
    ],
)
def test_a_bad_output_of_cpf_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "output.txt"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        soft_targets(tmp_path, N, C)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding": None}, "holds the keys logits, parity, equality; expected a dict with"),
        ({"logits": 3.0}, "expected a dict with the tensors 'logits'"),
        ({"logits": LOGITS[:, :2]}, r"'logits' has the shape \(5, 2\), expected \(5, 3\)"),
        ({"embedding": EMBEDDING[1:]}, r"'embedding' has the shape \(4, 4\), expected \(5, H\)"),
        ({"logits": LOGITS}, "exp of 'logits': the probabilities of node 0 sum to"),
        ({"embedding": EMBEDDING / 0}, "'embedding' of node 0 is not finite"),
    ],
)
def test_a_bad_file_of_graphakd_is_refused(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = write_akd(tmp_path / "teacher.pt", **changes)
    with pytest.raises(DataError, match=message):
        soft_targets(path, N, C)


def test_files_that_are_neither(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"output.txt: no such file"):
        soft_targets(tmp_path, N, C)
    with pytest.raises(DataError, match="no such file"):
        soft_targets(tmp_path / "absent.pt", N, C)
    whole = write_akd(tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"cut.pt: cannot be read as tensors"):
        soft_targets(tmp_path / "cut.pt", N, C)
    torch.save([LOGITS], tmp_path / "list.pt")
    with pytest.raises(DataError, match="holds a list"):
        read_akd_teacher(tmp_path / "list.pt", N, C)
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    with pytest.raises(DataError, match="cannot be read as a table of numbers"):
        soft_targets(tmp_path / "image.png", N, C)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    torch.save({"logits": LOGITS, "embedding": Trap(tmp_path / "sprung")}, tmp_path / "hostile.pt")
    with pytest.raises(CheckpointError, match="never loaded"):
        soft_targets(tmp_path / "hostile.pt", N, C)
    assert not (tmp_path / "sprung").exists()


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_what_are_no_probabilities() -> None:
    good = LOGITS.softmax(1)
    assert torch.equal(check_probabilities(good.double().numpy(), N, C, "mine"), good)
    rounded = (good * 1e4).round() / 1e4
    assert torch.equal(check_probabilities(rounded, N, C, "mine"), rounded)
    for wrong, message in (
        (good[:, 0], r"mine: found the shape \(5,\), expected \(5, 3\)"),
        (good.T, r"found the shape \(3, 5\)"),
        (good / 0, "class 0 of node 0 is inf; expected finite"),
        (good.log(), "logits or logarithms: give probabilities"),
        (LOGITS.abs() + 1, "If these are logits"),
        (good * 1.01, "node 0 sum to 1.0100"),
    ):
        with pytest.raises(DataError, match=message):
            check_probabilities(wrong, N, C, "mine")


@pytest.mark.parametrize(("name", "network"), [("gcn", GCN), ("sage", GraphSAGE)])
def test_a_teacher_of_the_authors(name: str, network: type[nn.Module], tmp_path: Path) -> None:
    teacher = network(6, 2, hidden=8)
    torch.save(part(TEACHERS, f"{name}.sd."), tmp_path / "teacher.pth")
    load_official(teacher, tmp_path / "teacher.pth")
    torch.testing.assert_close(logits_of(teacher), TEACHERS[f"{name}.logits"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
@pytest.mark.parametrize(("name", "attention"), [("ind", "features"), ("tra", "nodes")])
def test_a_student_of_cpf(name: str, attention: str, layers: int) -> None:
    student = PLP(6, 2, 48, rounds=4, mlp_layers=layers, hidden=8, attention=attention)
    golden = part(PLP_FORWARD, f"{name}.mlp{layers}.")
    state = part(golden, "sd.")
    load_official(student, state)
    torch.testing.assert_close(logits_of(student), golden["logits"], rtol=0, atol=1e-5)
    # All of theirs but alpha, one unused number a node.
    ours = sum(tensor.numel() for tensor in student.state_dict().values())
    assert ours == sum(tensor.numel() for tensor in state.values()) - 48


def test_a_student_of_graphakd() -> None:
    student = SGCStudent(8, 2, hidden=8)
    for step in ("step1", "step5"):
        load_official(student, part(AKD, f"{step}.student."))
        proxy = AKD[f"{step}.proxy"].mean(0).expand(48, -1)
        logits = logits_of(student, torch.cat([GRAPH["x"], proxy], 1))
        torch.testing.assert_close(logits, AKD[f"{step}.logits"], rtol=0, atol=1e-5)


def test_the_discriminators_of_graphakd() -> None:
    adversary = Adversary(2, 8)
    for ours, theirs in (("logit", "D_logit"), ("edge", "D_local"), ("whole", "D_global")):
        load_official(adversary.get_submodule(ours), part(AKD, f"step5.{theirs}."))
    z = AKD["teacher_logprob"]
    lin, bias, lin2 = (AKD[f"step5.D_logit.{n}"] for n in ("lin.weight", "lin.bias", "lin2.weight"))
    torch.testing.assert_close(adversary.logit(z), (z + z @ lin.T + bias).relu() @ lin2.T)
    for ours, theirs in ((adversary.edge, "D_local"), (adversary.whole, "D_global")):
        assert torch.equal(ours.weights, AKD[f"step5.{theirs}.d"] * AKD[f"step5.{theirs}.scale"])
    with pytest.raises(CheckpointError, match=r"3 missing.*2 unknown"):
        load_official(LogitDiscriminator(2), part(AKD, "step5.D_local."))


def test_state_dicts_that_do_not_fit() -> None:
    gcn, sage = part(TEACHERS, "gcn.sd."), part(TEACHERS, "sage.sd.")
    plp = part(PLP_FORWARD, "ind.mlp2.sd.")
    teacher = GCN(6, 2, hidden=8)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    for network, state, message in (
        (teacher, sage, r"5 unknown \(layers.0.fc_neigh.weight, layers.1"),
        (teacher, gcn | {"head.weight": LOGITS}, r"1 unknown \(head.weight\)"),
        (teacher, {k: v for k, v in gcn.items() if k != "layers.1.bias"}, r"1 .*layers.1.bias\)"),
        (teacher, gcn | {"layers.3.bias": LOGITS}, r"1 unknown \(layers.3.bias\)"),
        (teacher, gcn | {"layers.0.weight": torch.zeros(7, 8)},
         r"layers.0.weight \(8, 7\), expected \(8, 6\)"),
        (GraphSAGE(6, 2, hidden=8, layers=3), sage, "2 unknown .*sizes it was trained with"),
        (PLP(6, 2, 47, rounds=4, hidden=8), plp, r"lr_alpha \(48, 1\), expected \(47, 1\)"),
        (PLP(6, 2, 48, mlp_layers=1), plp, r"2 unknown \(plp_layer.mlp.linears.1.bias, .*; 2 of"),
        (PLP(6, 2, 48, hidden=8, attention="nodes"), plp, r" \(1, 6\), expected \(48, 1\)"),
        (APPNP(6, 2), gcn, "APPNP: no state dict of the authors' fills it"),
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match=message):
            load_official(network, state)
    after = teacher.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_file_that_is_no_state_dict(tmp_path: Path) -> None:
    write_cpf(tmp_path / "teacher", LOGITS.softmax(1))
    with pytest.raises(CheckpointError, match="cannot be read as tensors"):
        load_official(GCN(6, 2), tmp_path / "teacher" / "output.txt")
