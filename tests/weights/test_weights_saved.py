"""A file of weights is the same, byte for byte, for the same network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file

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
