"""State dicts of other programs are read whole, without executing anything, or refused."""

from __future__ import annotations

import argparse
import json
import logging
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from modicum.errors import CheckpointError
from modicum.weights.foreign import fill, read_state

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}
PREFIXED = {f"module.{name}": tensor for name, tensor in STATE.items()}


@pytest.mark.parametrize(
    "content",
    [STATE, PREFIXED, {"state_dict": PREFIXED, "epoch": 3}, {"model": STATE}],
    ids=["plain", "prefixed", "state_dict", "model"],
)
def test_wrappings(content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    for checkpoint, expected in (
        (path, str(path)),
        (str(path), str(path)),
        (content, "the state dict"),
    ):
        where, state = read_state(checkpoint)
        assert where == expected
        assert state.keys() == STATE.keys()
        assert all(torch.equal(state[name], STATE[name]) for name in STATE)


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_file(PREFIXED, path)
    _, state = read_state(path)
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"<!DOCTYPE html>", "cannot be read"),
        (b"t", "cannot be read"),  # a pickle that takes from an empty stack
        (b"X", "cannot be read"),  # a pickle that ends within a number
        ([1, 2], "holds a list"),
        (torch.zeros(3), "holds a Tensor"),
        ({"epoch": 3}, "holds a dict"),
        ({"state_dict": {"a": torch.ones(1), "b": 2}}, "holds a dict"),
    ],
)
def test_what_is_no_state_dict_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "foreign.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_state(path)
    assert str(path) in str(caught.value)


def test_missing_and_truncated_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        read_state(tmp_path / "absent.pth")
    for name, save in (("a.pth", torch.save), ("a.safetensors", save_file)):
        path = tmp_path / name
        save(STATE, path)
        path.write_bytes(path.read_bytes()[:-5])
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_state(path)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "executed"),))

    torch.save({"a": Hostile()}, tmp_path / "hostile.pth")
    with pytest.raises(CheckpointError, match="never loaded"):
        read_state(tmp_path / "hostile.pth")
    assert not (tmp_path / "executed").exists()


def test_the_object_a_file_asks_for_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": STATE, "folder": Path()}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"asks for pathlib\.\w+\)\. .*never loaded"):
        read_state(tmp_path / "a.pth")


@pytest.mark.parametrize("old", [False, True])
def test_options_of_argparse_are_admitted(tmp_path: Path, old: bool) -> None:
    """As MAE's authors save them."""
    content = {"model": STATE, "args": argparse.Namespace(lr=1e-3)}
    path = tmp_path / "a.pth.tar"
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    _, state = read_state(path)
    assert_same(state)


def assert_same(state: dict[str, Tensor]) -> None:
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)


def test_arrays(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in STATE.items()}
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    detectron2 = {"model": arrays, "__author__": "A", "matching_heuristics": True}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(detectron2))
    swapped = {name: array.astype(">f4") for name, array in arrays.items()}
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(swapped))
    torch.save(STATE, tmp_path / "c.pkl")  # which a pickle of arrays is not
    for name in ("a.npz", "a.pkl", "b.pkl", "c.pkl"):
        assert_same(read_state(tmp_path / name)[1])
    np.savez(tmp_path / "b.npz", a=np.array([{}], dtype=object))
    (tmp_path / "d.pkl").write_bytes(pickle.dumps({"model": {"a": np.array(["text"])}}))
    (tmp_path / "e.pkl").write_bytes(pickle.dumps({"model": Path()}))
    for name, message in (
        ("b.npz", "cannot be read"),
        ("d.pkl", "holds a dict with a ndarray as 'a'"),
        ("e.pkl", r"asks for (pathlib|copyreg)\."),
    ):
        with pytest.raises(CheckpointError, match=message) as caught:
            read_state(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_only_a_prefix_of_all_names_is_taken_away() -> None:
    state = {"module.a": STATE["a.weight"], "b": STATE["a.bias"]}
    assert read_state(state)[1].keys() == state.keys()


def test_a_dict_that_holds_itself_is_refused(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match="dict with a dict as 'model'"):
        read_state(tmp_path / "a.pkl")


def test_no_more_is_claimed_than_the_file_holds(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(10**9)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a claims the shape \(1000000000,\)"):
        read_state(tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", b"")
    content = (tmp_path / "a.npz").read_bytes()
    size = content.rindex(b"PK\x01\x02") + 24  # where the directory has the unpacked size
    huge = (2**32 - 2).to_bytes(4, "little")
    (tmp_path / "a.npz").write_bytes(content[:size] + huge + content[size + 4 :])
    with pytest.raises(CheckpointError, match=r"unpacks to 4\.0 GiB"):
        read_state(tmp_path / "a.npz")


def write_shards(folder: Path, names: list[Any], suffix: str) -> None:
    folder.mkdir()
    stem = "model.safetensors" if suffix == "safetensors" else "pytorch_model.bin"
    index = {"metadata": {}, "weight_map": dict(zip(STATE, names, strict=True))}
    (folder / f"{stem}.index.json").write_text(json.dumps(index))
    for (tensor, value), name in zip(STATE.items(), names, strict=True):
        if isinstance(name, str):
            (save_file if suffix == "safetensors" else torch.save)({tensor: value}, folder / name)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_folders(tmp_path: Path, suffix: str) -> None:
    write_shards(tmp_path / "many", [f"1-of-2.{suffix}", f"2-of-2.{suffix}"], suffix)
    assert read_state(tmp_path / "many")[0] == str(tmp_path / "many")
    assert_same(read_state(tmp_path / "many")[1])
    (tmp_path / "one").mkdir()
    torch.save(STATE, tmp_path / "one" / "pytorch_model.bin")
    assert_same(read_state(tmp_path / "one")[1])
    (tmp_path / "many" / f"2-of-2.{suffix}").unlink()
    with pytest.raises(CheckpointError, match=rf"2-of-2\.{suffix}: no such file"):
        read_state(tmp_path / "many")


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    for number, name in enumerate(("../outside.bin", str(tmp_path / "outside.bin"), 3, ["a"])):
        folder = tmp_path / str(number)
        write_shards(folder, ["a.bin", name], "bin")
        assert isinstance(name, str) == (tmp_path / "outside.bin").exists()
        (tmp_path / "outside.bin").unlink(missing_ok=True)
        with pytest.raises(CheckpointError, match=r"bin\.index\.json: cannot be read"):
            read_state(folder)
    for content in ("{", "[]", '{"weight_map": 3}'):
        (tmp_path / "0" / "pytorch_model.bin.index.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"index\.json: cannot be read"):
            read_state(tmp_path / "0")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty: no weights"):
        read_state(tmp_path / "empty")


class Network(nn.Module):
    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.a = nn.Linear(3, 2)
        self.fc = nn.Linear(2, classes)


def state_of(classes: int = 2) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return Network(classes).state_dict()


def test_filling() -> None:
    network, state = Network(), state_of()
    fill(network, state)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_all_that_does_not_fit_is_told_at_once() -> None:
    network = Network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = state_of(5) | {"extra": torch.ones(1)}
    del state["a.bias"]
    with pytest.raises(CheckpointError) as caught:
        fill(network, state, "a.pth", hint="Give classes=5.")
    assert str(caught.value) == (
        "a.pth: the weights are of another network than this Network: 1 missing (a.bias); "
        "1 unknown (extra); 2 of another shape (fc.weight (5, 2), expected (2, 2), fc.bias (5,), "
        "expected (2,)). Give classes=5."
    )
    many = {f"extra.{number}": torch.ones(1) for number in range(9)}
    with pytest.raises(CheckpointError, match=r"9 unknown \(extra\.0, .*extra\.3, …\)"):
        fill(network, state_of() | many)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_what_may_start_anew_does_so_whole_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    wide = state_of(5)
    for state in (
        {name: wide[name] for name in wide if not name.startswith("fc.")},
        wide | {"fc.extra": torch.ones(1)},
        wide | {"fc.bias": torch.ones(2)},  # the weight does not fit
    ):
        network = Network()
        before = {name: value.clone() for name, value in network.state_dict().items()}
        caplog.clear()
        with caplog.at_level(logging.INFO, "modicum"):
            fill(network, state, "a.pth", fresh=("fc.",))
        assert "a.pth: loaded; start anew: fc." in caplog.text
        for name, value in network.state_dict().items():
            assert torch.equal(value, (before if name.startswith("fc.") else state)[name])
    with pytest.raises(CheckpointError, match=r"\d missing \(a\.weight"):
        fill(Network(), {"fc.weight": wide["fc.weight"]}, fresh=("fc.",))
    network, state = Network(), state_of()
    fill(network, state, fresh=("fc.",))  # which fits
    assert torch.equal(network.fc.weight, state["fc.weight"])


def test_renaming() -> None:
    network, state = Network(), state_of()
    theirs = {f"backbone.{name.replace('.', '/')}": value for name, value in state.items()}
    table = {r"backbone\.(\w+)/(\w+)": r"\1.\2", r"optimizer\..*": None}
    for rename in (table, lambda name: name.removeprefix("backbone.").replace("/", ".")):
        fill(network, theirs, rename=rename)
        assert torch.equal(network.fc.weight, state["fc.weight"])
    fill(network, theirs | {"optimizer.step": torch.ones(1)}, rename=table)
    wrong = theirs | {"fc.weight": torch.ones(1), "backbone.fc/bias": torch.ones(7)}
    with pytest.raises(CheckpointError) as caught:
        fill(network, wrong, rename=table)  # told by their names
    assert "1 unknown (fc.weight); 1 of another shape (backbone.fc/bias (7,)" in str(caught.value)
    with pytest.raises(CheckpointError, match=r"1 unknown \(backbone\.fc/bias\)"):
        fill(network, theirs | {"fc.bias": torch.ones(2)}, rename=table | {"fc.bias": "fc.bias"})
