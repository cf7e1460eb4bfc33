from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.data.loader import Loader, WorkerError
from modicum.engine.random import SampleRandom
from modicum.errors import ConfigError, DataError

# Newer Pythons warn that PyTorch's workers fork from a process with threads.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]

SAMPLES = 23


class Numbers(NamedTuple):
    noise: torch.Tensor
    index: torch.Tensor  # pyright: ignore[reportIncompatibleMethodOverride]


def numbers(random: SampleRandom) -> Numbers:
    """A batch of nothing but the samples' indices and random numbers."""
    return Numbers(torch.from_numpy(random.uniform(2, "noise")), torch.from_numpy(random.index))


def unreadable(random: SampleRandom) -> Numbers:
    if 13 in random.index:
        raise DataError("13.bin: it is broken")
    return numbers(random)


def same(one: Numbers, other: Numbers) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_same_batches_with_no_and_three_workers():
    loaders = [Loader(SAMPLES, 4, numbers, shuffle=True, workers=n, seed=7) for n in (0, 3)]
    for epoch in (0, 1):  # the workers are used again
        batches = [list(loader.epoch(epoch)) for loader in loaders]
        assert len(batches[0]) == len(batches[1]) == len(loaders[0]) == 6
        assert all(map(same, *batches))


def test_workers_survive_an_abandoned_epoch():
    loader = Loader(SAMPLES, 4, numbers, shuffle=True, workers=2)
    abandoned = loader.epoch(0)
    next(abandoned)
    plain = Loader(SAMPLES, 4, numbers, shuffle=True, workers=0)
    assert all(map(same, loader.epoch(3), plain.epoch(3)))
    with pytest.raises(RuntimeError, match="another epoch"):
        next(abandoned)


@settings(max_examples=50, deadline=None)
@given(
    share=st.integers(1, 5),
    world=st.integers(1, 4),
    epoch=st.integers(0, 3),
    start=st.integers(0, 5),
    drop_last=st.booleans(),
)
def test_shares_of_all_processes_are_the_batches_of_one(share, world, epoch, start, drop_last):
    options = {"shuffle": True, "drop_last": drop_last, "seed": 3, "workers": 0}
    alone = list(Loader(SAMPLES, share * world, numbers, **options).epoch(epoch))
    loaders = [
        Loader(SAMPLES, share * world, numbers, rank=rank, world=world, **options)
        for rank in range(world)
    ]
    parts = [list(loader.epoch(epoch, start)) for loader in loaders]
    for number, batch in enumerate(alone[start:]):
        joined = Numbers(
            *(torch.cat(tensors) for tensors in zip(*(p[number] for p in parts), strict=True))
        )
        assert same(joined, batch)
        if drop_last:
            assert all(len(part[number].index) == share for part in parts)
    assert all(len(part) == max(0, len(alone) - start) for part in parts)


def test_every_sample_once_an_epoch_and_order_changes():
    loader = Loader(SAMPLES, 5, numbers, shuffle=True, workers=0)
    orders = [torch.cat([batch.index for batch in loader.epoch(epoch)]) for epoch in (0, 1)]
    assert all(sorted(order.tolist()) == list(range(SAMPLES)) for order in orders)
    assert not torch.equal(*orders)
    plain = Loader(SAMPLES, 5, numbers, workers=0)
    assert torch.cat([batch.index for batch in plain.epoch(4)]).tolist() == list(range(SAMPLES))
    assert [len(batch.index) for batch in plain.epoch(0)] == [5, 5, 5, 5, 3]
    assert len(Loader(SAMPLES, 5, numbers, drop_last=True)) == 4


def test_resuming_does_not_make_what_was_done():
    made: list[int] = []

    def counted(random: SampleRandom) -> Numbers:
        made.extend(random.index.tolist())
        return numbers(random)

    loader = Loader(SAMPLES, 4, counted, shuffle=True, workers=0)
    whole = list(loader.epoch(2))
    made.clear()
    rest = list(loader.epoch(2, start=4))
    assert len(made) == SAMPLES - 16
    assert all(map(same, rest, whole[4:]))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_data_comes_as_it_is(workers):
    loader = Loader(SAMPLES, 4, unreadable, workers=workers)
    drawn = loader.epoch(0)
    assert [next(drawn).index[0].item() for _ in range(3)] == [0, 4, 8]
    with pytest.raises(DataError) as caught:
        next(drawn)
    assert str(caught.value) == "13.bin: it is broken"


def deadly(random: SampleRandom) -> Numbers:
    if 13 in random.index:
        os.kill(os.getpid(), signal.SIGKILL)
    return numbers(random)


def test_a_killed_worker_ends_the_epoch_where_its_batch_is_waited_for():
    before = signal.getsignal(signal.SIGCHLD)
    loader = Loader(SAMPLES, 4, deadly, workers=2)
    with pytest.raises(WorkerError, match=r"was ended by SIGKILL.*--workers 0"):
        list(loader.epoch(0))
    assert signal.getsignal(signal.SIGCHLD) is before


def out_of_room(tensor: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("unable to allocate shared memory(shm) for file\nand more")


def test_a_batch_there_is_no_room_for_ends_the_epoch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.Tensor, "share_memory_", out_of_room)
    with pytest.raises(WorkerError, match=r"unable to allocate shared memory\(shm\) for file\."):
        list(Loader(SAMPLES, 4, numbers, workers=2).epoch(0))


PROGRAM = """
    import resource
    import numpy, torch
    from modicum.data.loader import Loader

    def make(random):
        return torch.zeros(len(random.index), 100_000)

    loader = Loader(64, 2, make, workers=2)
    drawn = loader.epoch(0)
    next(drawn)
    {then}
"""


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("raise ValueError('a mistake')", "ValueError: a mistake"),
        (
            "resource.setrlimit(resource.RLIMIT_FSIZE, (9999, 9999))\n"
            "    list(Loader(64, 2, make, workers=2).epoch(0))",
            "has no room for one",
        ),
    ],
)
def test_a_program_that_fails_ends_though_workers_live(then: str, said: str):
    """Workers do not obey the signal that Python's exit sends them and then waits for."""
    program = textwrap.dedent(PROGRAM.format(then=then))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert said in done.stderr


def test_random_numbers_are_those_of_seed_epoch_and_sample():
    batch = next(Loader(SAMPLES, 4, numbers, seed=5, shuffle=True, workers=0).epoch(2))
    expected = SampleRandom(5, 2, batch.index.numpy()).uniform(2, "noise")
    assert np.array_equal(batch.noise.numpy(), expected)


def test_options_that_make_no_sense():
    with pytest.raises(ConfigError, match=r"6 samples .* multiple of 4"):
        Loader(SAMPLES, 6, numbers, world=4)
    with pytest.raises(ConfigError, match="rank: found 4, expected 0 to 3"):
        Loader(SAMPLES, 8, numbers, world=4, rank=4)
    with pytest.raises(ConfigError, match="at most 23"):
        Loader(SAMPLES, 24, numbers, drop_last=True)
    with pytest.raises(ConfigError, match="workers: found -1"):
        Loader(SAMPLES, 4, numbers, workers=-1)
