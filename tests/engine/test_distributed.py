"""Two processes compute what one does, to rounding: in double precision, so that it is seen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PROGRAM = '''
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from modicum.engine.random import generator, permutation
from modicum.engine.run import Run, RunOptions


@dataclass(frozen=True)
class Config:
    epochs: int = 2


class Batch(NamedTuple):
    image: torch.Tensor
    label: torch.Tensor


class Images:
    """24 images an epoch in 3 batches, of which a process gets its share of every micro-batch."""

    images = torch.randn(24, 2, 8, 8, generator=generator("images"), dtype=torch.float64)
    labels = torch.randint(3, (24,), generator=generator("labels"))

    def __init__(self, run):
        self.run, self.size = run, 8 // run.options.accumulate

    def __len__(self):
        return 24 // self.size

    def epoch(self, epoch, start=0):
        order = torch.from_numpy(permutation(24, 0, epoch))
        for number in range(start, len(self)):
            whole = order[number * self.size : (number + 1) * self.size]
            index = whole.chunk(self.run.world)[self.run.rank]
            yield Batch(self.images[index], self.labels[index])


folder, accumulate = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
options = RunOptions(device="cpu", accumulate=accumulate, clip=0.5)
with Run(folder, method="test", config=Config(), options=options, quiet=True) as run:
    network = nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.ReLU(), nn.BatchNorm2d(8, momentum=None), nn.Conv2d(8, 8, 3),
        nn.BatchNorm2d(8, affine=False), nn.Flatten(), nn.Linear(128, 8), nn.BatchNorm1d(8),
        nn.Linear(8, 3),
    ).double()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    network, optimizer = run.prepare(network, optimizer)
    run.keep(network=network, optimizer=optimizer)
    for batch in run.batches(Images(run), 2):
        loss = nn.functional.cross_entropy(network(batch.image), batch.label)
        run.step(loss, optimizer)
        run.log(loss=loss)
    assert run.steps == 6
    if run.is_main:
        torch.save(run.unwrap(network).state_dict(), folder / "state.pt")
'''


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_equal_one_in_double_precision(tmp_path: Path, accumulate: int) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def train(processes: int) -> dict[str, torch.Tensor]:
        folder = tmp_path / str(processes)
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
        done = subprocess.run(
            [sys.executable, *launcher, str(processes), program, folder, str(accumulate)],
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return torch.load(folder / "state.pt", weights_only=True)

    one, two = train(1), train(2)
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-9, atol=1e-9, msg=name)
