"""A file of weights is the same, byte for byte, for the same network."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from typing_extensions import TypedDict

from modicum.errors import CheckpointError
from modicum.options import Ge, check_arguments
from modicum.weights.saved import SavedModel, read_model

WRITE = """
import sys
import torch
from pathlib import Path
from modicum.weights.saved import save_model

torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).double()
notes = {"classes": ["é", '"'], "size": 4}
for name in sys.argv[1:]:
    save_model(Path(name), network, method="m", arguments={"b": 1, "a": 2}, notes=notes)
"""


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.safetensors" for number in range(8)]
    for some in (files[:4], files[4:]):  # the order of metadata changes within a process too
        subprocess.run([sys.executable, "-c", WRITE, *map(str, some)], check=True)
    assert len({file.read_bytes() for file in files}) == 1
    with safetensors.safe_open(files[0], "pt") as opened:
        metadata = opened.metadata()
    assert metadata["modicum.method"] == "m"
    assert metadata["modicum.arguments"] == '{"b": 1, "a": 2}'
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).double()
    state = load_file(files[0])
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())


class Tower(nn.Module):
    """As many layers of a width as a file says."""

    def __init__(
        self, width: Annotated[int, Ge(1)], depth: int = 1, widths: Sequence[int | None] = ()
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))


class Notes(TypedDict):
    """Of a tower."""

    classes: tuple[str, ...]
    size: tuple[int, int] | None
    kind: Literal["a", "b"]


def build(method: str, arguments: dict[str, Any]) -> nn.Module:
    return check_arguments(Tower)(**arguments)


ARGUMENTS = {"width": 3, "depth": 2, "widths": [4, None]}
NOTES = {"classes": ["é"], "size": [3, 4], "kind": "a"}


def read(path: Path, arguments: Any = ARGUMENTS, notes: Any = NOTES) -> SavedModel:
    content: Any = {"modicum.method": "m"}
    content |= {"modicum.arguments": json.dumps(arguments), "modicum.notes": json.dumps(notes)}
    save_file(Tower(3, 2).state_dict(), path / "a.safetensors", content)
    return read_model(path / "a.safetensors", build, notes_of=lambda method: Notes)


def test_a_file_gives_back_network_and_notes(tmp_path: Path) -> None:
    saved = read(tmp_path)
    assert saved.notes == NOTES
    assert {value.device.type for value in saved.module.state_dict().values()} == {"cpu"}


FOREIGN: list[Any] = [None, True, [], {}, "x", "9", -1, 2**62, 10**30, 10**400, 1.5, [[[]]]]


@pytest.mark.parametrize("name", [*ARGUMENTS, *NOTES, "arguments", "notes"])
@pytest.mark.parametrize("value", FOREIGN, ids=range(len(FOREIGN)))
def test_what_a_file_says_is_used_or_refused(name: str, value: Any, tmp_path: Path) -> None:
    whole: dict[str, Any] = {"arguments": ARGUMENTS, "notes": NOTES}
    if name in whole:
        whole[name] = value
    else:
        whole = {key: known | {name: value} if name in known else known
                 for key, known in whole.items()}  # fmt: skip
    fine = (name, value) in [("depth", 2), ("widths", []), ("classes", []), ("size", None)]
    if fine:
        assert read(tmp_path, **whole).path == tmp_path / "a.safetensors"
        return
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path, **whole)
    assert str(caught.value).startswith(f"{tmp_path / 'a.safetensors'}: ")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("arguments", "notes", "message"),
    [
        ({"width": "3"}, {}, "width 3: must be a whole number"),
        ({"width": None}, {}, "width None: must be a whole number"),
        ({"width": 0}, {}, "width 0: must be at least 1"),
        ({"width": 10**6}, {}, "larger than the 4 tensors of 24 numbers in the file"),
        ({"depth": 10**9}, {}, "larger than the 4 tensors of 24 numbers in the file"),
        ({"depth": 3}, {}, r"2 missing \(layers.2.weight, layers.2.bias\)"),
        ({"widths": [1, "x"]}, {}, "widths x: must be a whole number"),
        ({}, {"kind": "c"}, "kind c: must be one of a, b"),
        ({}, {"size": [3]}, "size 3: must be 2 values"),
        ({}, {"classes": {}}, "classes .values by name.: must be a list"),
        ({}, {"classes": [7]}, "classes 7: must be text"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    arguments: dict[str, Any], notes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path, ARGUMENTS | arguments, NOTES | notes)
    with pytest.raises(CheckpointError, match="kind is absent"):
        read(tmp_path, notes={"classes": [], "size": None})
