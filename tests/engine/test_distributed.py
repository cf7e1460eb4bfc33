"""Two processes compute what one does, to rounding: in double precision, so that it is seen."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from forked import together
from modicum.engine.distributed import mean_over_processes
from modicum.engine.random import generator, permutation
from modicum.engine.run import Run, RunOptions
from modicum.methods.apbs import AssociativeConv2d


def by_one_and_two(train: Callable[..., None], folder: Path, *arguments: Any) -> list[Any]:
    """What a function writes as one process, and as one of two."""
    for processes in ("one", "two"):
        (folder / processes).mkdir()
    train(folder / "one" / "run", *arguments)
    together(train, folder / "two" / "run", *arguments, folder=folder / "two")
    return [
        torch.load(folder / processes / "run" / "state.pt", weights_only=True)
        for processes in ("one", "two")
    ]


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

    def __init__(self, run: Run) -> None:
        self.run, self.batch_size = run, 8 // run.options.accumulate

    def __len__(self) -> int:
        return 24 // self.batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        order = torch.from_numpy(permutation(24, 0, epoch))
        for number in range(start, len(self)):
            whole = order[number * self.batch_size : (number + 1) * self.batch_size]
            index = whole.chunk(self.run.world)[self.run.rank]
            yield Batch(self.images[index], self.labels[index])


def train_images(folder: Path, accumulate: int) -> None:
    options = RunOptions(device="cpu", accumulate=accumulate, clip=0.5)
    with Run(folder, method="test", config=Config(), options=options, quiet=True) as run:
        network = nn.Sequential(
            nn.Conv2d(2, 8, 3),
            nn.ReLU(),
            nn.BatchNorm2d(8, momentum=None),
            nn.Conv2d(8, 8, 3),
            nn.BatchNorm2d(8, affine=False),
            nn.Flatten(),
            nn.Linear(128, 8),
            nn.BatchNorm1d(8),
            nn.Linear(8, 3),
        ).double()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        network, optimizer = run.prepare(network, optimizer)
        run.register(network=network, optimizer=optimizer)
        for batch in run.batches(Images(run), epochs=2):
            loss = nn.functional.cross_entropy(network(batch.image), batch.label)
            run.step(loss, optimizer)
            run.log(loss=loss)
            if run.epoch_ended:  # in the last step the statistics stay
                with run.calibrated(network, Images(run), lambda batch: network(batch.image)):
                    pass
        assert run.steps == 6
        if run.is_main_process:
            torch.save(run.unwrap(network).state_dict(), folder / "state.pt")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_equal_one_in_double_precision(tmp_path: Path, accumulate: int) -> None:
    one, two = by_one_and_two(train_images, tmp_path, accumulate)
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-9, atol=1e-9, msg=name)


class ValueBatch(NamedTuple):
    value: torch.Tensor


class Values:
    batch_size = 4
    values = torch.randn(5, 4, 3, generator=generator("values"), dtype=torch.float64)

    def __init__(self, run: Run) -> None:
        self.run = run

    def __len__(self) -> int:
        return 5

    def epoch(self, epoch: int, start: int = 0) -> Iterator[ValueBatch]:
        for values in self.values[start:]:
            yield ValueBatch(values.chunk(self.run.world)[self.run.rank])


def train_parts(folder: Path) -> None:
    options = RunOptions(device="cpu")
    with Run(folder, method="test", config=RunOptions(), options=options, quiet=True) as run:
        torch.manual_seed(run.rank)  # the first process's network is everyone's
        network = nn.ModuleDict(
            {
                "shared": nn.Linear(3, 3),
                "branch": nn.Linear(3, 1),
                "never": nn.Linear(3, 3),
                "frozen": nn.Linear(3, 3).requires_grad_(False),
            }
        ).double()
        network["never"].to(torch.float32)
        network.register_buffer("rank", torch.tensor(run.rank, dtype=torch.int16))
        # Weight decay moves what has a gradient of zero, and leaves alone what has none.
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.05, weight_decay=0.5)
        network, optimizer = run.prepare(network, optimizer)
        run.register(network=network, optimizer=optimizer)
        norms = []
        for batch in run.batches(Values(run), epochs=1):
            # Modules are called on their own, one of them twice, and the branch in some steps by
            # one process only, in others by none.
            hidden = network["shared"](network["shared"](network["frozen"](batch.value)))
            (penalty,) = torch.autograd.grad(
                hidden.square().mean(), network["shared"].weight, create_graph=True
            )
            loss = hidden.abs().mean()
            whole = Values.values[run.steps]
            if run.steps < 3 and (run.world == 1 or run.rank == run.steps % 2):
                taken = whole.chunk(2)[run.steps % 2]
                state = network["shared"](network["shared"](network["frozen"](taken)))
                loss = loss + network["branch"](state).square().mean() * run.world
            penalties = run.mean(penalty.detach()) - penalty.detach() + penalty
            loss = loss + 0.1 * (penalties * torch.ones_like(penalty)).sum()
            norms.append(run.step(loss, optimizer, clip=0.7))
        objects = run.gather([{"rank": run.rank, "item": i} for i in range(run.rank + 1)])
        if run.is_main_process:
            state = run.unwrap(network).state_dict()
            assert torch.equal(state["never.weight"], network["never"].weight)
            torch.save([state, torch.stack(norms), objects], folder / "state.pt")
        else:
            assert len(objects) == 3


def test_parameters_without_part_in_a_loss_train_like_in_one_process(tmp_path: Path) -> None:
    (one, one_norms, _), (two, two_norms, objects) = by_one_and_two(train_parts, tmp_path)
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-9, atol=1e-9, msg=name)
    torch.testing.assert_close(one_norms, two_norms, rtol=1e-9, atol=1e-9)
    assert objects == [{"rank": r, "item": i} for r in range(2) for i in range(r + 1)]


# Statistics that layers gather on their own


def gather_statistics(folder: Path) -> None:
    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    found = {"average": mean_over_processes(torch.tensor([rank, 4.0, -rank], dtype=torch.float64))}
    asked = torch.ones(2, requires_grad=True)
    assert not mean_over_processes(asked).requires_grad
    assert asked.tolist() == [1, 1]
    inputs = torch.randn(3, 8, 2, 6, 6, generator=generator("inputs"), dtype=torch.float64)
    for cache in ("rms", "mean"):
        layer = AssociativeConv2d(2, 4, 3, cache=cache).double()
        layer.load_state_dict(torch.load(f"{folder}/layer.pt", weights_only=True))
        outputs = [layer(batch.chunk(2)[rank]) for batch in inputs]
        layer(inputs[0].chunk(2)[rank]).sum().backward()
        found[cache] = layer.cache
        found[f"{cache} outputs"] = torch.stack(outputs).detach()
        found[f"{cache} updates"] = layer.num_updates
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_statistics_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    """Half a batch in each gives the cache, and so the outputs, of the whole batch in one."""
    torch.manual_seed(0)
    plain = AssociativeConv2d(2, 4, 3).double().state_dict()
    torch.save(plain, tmp_path / "layer.pt")
    together(gather_statistics, tmp_path, folder=tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))

    assert first["average"].tolist() == second["average"].tolist() == [0.5, 4, -0.5]
    alone = torch.ones(2, requires_grad=True)
    assert mean_over_processes(alone).tolist() == [1, 1]
    inputs = torch.randn(3, 8, 2, 6, 6, generator=generator("inputs"), dtype=torch.float64)
    for cache in ("rms", "mean"):
        layer = AssociativeConv2d(2, 4, 3, cache=cache).double()
        layer.load_state_dict(plain)
        expected = torch.stack([layer(batch) for batch in inputs]).detach()
        layer(inputs[0]).sum().backward()
        for member in (first, second):
            torch.testing.assert_close(member[cache], layer.cache, rtol=1e-12, atol=0)
            assert member[f"{cache} updates"] == 4
        outputs = torch.cat([first[f"{cache} outputs"], second[f"{cache} outputs"]], dim=1)
        torch.testing.assert_close(outputs, expected, rtol=1e-10, atol=1e-12)
