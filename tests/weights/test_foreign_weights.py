"""State dicts of other programs are read whole, without executing anything, or refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from modicum.errors import CheckpointError
from modicum.weights.saved import read_state

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
