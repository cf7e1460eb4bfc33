from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from modicum.engine.random import SampleRandom
from modicum.errors import ConfigError, DataError
from modicum.events import Batch, EventBatch, EventSet, Loader, MemoryRecordings, open_recordings
from modicum.events.representations import frames

# Newer Pythons warn that PyTorch's workers fork from a process with threads.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]

COUNT = 23


def shift(events: EventBatch, random: SampleRandom) -> EventBatch:
    """Move each recording to the right by 0 to 3 pixels of its own."""
    pixels = (4 * random.uniform(1, "shift")[:, 0]).astype(np.int16)
    return events.replace(x=(events.x + pixels[events.sample]) % np.int16(events.width))


def brighten(made: torch.Tensor, random: SampleRandom) -> torch.Tensor:
    factor = torch.from_numpy(1 + random.uniform(1, "brighten")).float()
    return made * factor[..., None, None, None]


RECIPE = {
    "augment": (shift,),
    "representation": partial(frames, steps=3),
    "frame_augment": (brighten,),
}


@pytest.fixture
def in_files(tmp_path: Path) -> EventSet:
    """23 recordings of 6 to 28 events of 34 x 34 pixels, two classes."""
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        length = 6 + number
        records = np.zeros((length, 5), np.uint8)
        records[:, :2] = rng.integers(0, 30, (length, 2))
        records[:, 2] = rng.integers(0, 2, length) << 7
        records[:, 4] = np.sort(rng.integers(0, 255, length))
        path = tmp_path / "data" / "ab"[number % 2] / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(records.tobytes())
    return open_recordings(tmp_path / "data", holdout=0, sensor=(34, 34), memory_limit=0)


@pytest.fixture
def in_memory(in_files: EventSet) -> EventSet:
    return open_recordings(in_files.path(0).parents[1], holdout=0, sensor=(34, 34))


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_same_batches_whatever_the_workers_and_the_storage(in_files, in_memory):
    assert isinstance(in_memory, MemoryRecordings)
    options = {"shuffle": True, "seed": 7, **RECIPE}
    loaders = [
        Loader(in_files, 4, workers=0, **options),
        Loader(in_files, 4, workers=2, **options),
        Loader(in_memory, 4, **options),
    ]
    assert loaders[2].workers == 0
    for epoch in (0, 1):
        plain, others, memory = (list(loader.epoch(epoch)) for loader in loaders)
        assert len(plain) == len(others) == len(memory) == 6
        assert all(map(same, plain, others))
        assert all(map(same, plain, memory))
    assert plain[0].input.shape == (4, 3, 2, 34, 34)
    assert plain[0].label.dtype == plain[0].index.dtype == torch.int64


def test_batches_are_those_of_their_samples(in_memory):
    for batch in Loader(in_memory, 5, shuffle=True, seed=3, **RECIPE).epoch(2):
        assert torch.equal(batch.label, in_memory.labels[batch.index])
        for row, sample in enumerate(batch.index.tolist()):
            index = np.array([sample])
            random = SampleRandom(3, 2, index)
            alone = frames(shift(in_memory.read(index), random), 3)
            assert torch.equal(batch.input[row], brighten(alone, random)[0])


def test_epochs_differ_and_are_repeated(in_memory):
    loader = Loader(in_memory, COUNT, seed=3, **RECIPE)
    first, second, again = (next(loader.epoch(epoch)) for epoch in (0, 1, 0))
    assert same(first, again)
    assert torch.equal(first.index, second.index)
    assert not torch.equal(first.input, second.input)


def test_shares_of_processes_and_resuming(in_memory):
    options = {"shuffle": True, "seed": 5, **RECIPE}
    alone = list(Loader(in_memory, 8, **options).epoch(1))
    parts = [
        list(Loader(in_memory, 8, rank=rank, world=4, **options).epoch(1, start=1))
        for rank in range(4)
    ]
    for number, batch in enumerate(alone[1:]):
        joined = Batch(
            *(torch.cat(tensors) for tensors in zip(*(p[number] for p in parts), strict=True))
        )
        assert same(joined, batch)
    assert all(len(part) == 2 for part in parts)


def test_an_empty_share_is_a_batch_of_none(in_memory):
    few = in_memory.subset(np.arange(5))
    shares = [
        list(Loader(few, 4, rank=rank, world=4, **RECIPE).epoch(0))[1].input for rank in range(4)
    ]
    assert [len(share) for share in shares] == [1, 0, 0, 0]
    assert shares[1].shape == (0, 3, 2, 34, 34)


@pytest.mark.parametrize("workers", [0, 2])
def test_without_a_representation_batches_hold_the_recordings(in_files, workers):
    loader = Loader(in_files, 4, augment=(shift,), workers=workers)
    batch = next(loader.epoch(0))
    assert isinstance(batch.input, EventBatch)
    assert batch.input.size == 4
    expected = shift(in_files.read(np.arange(4)), SampleRandom(0, 0, np.arange(4)))
    for name in ("t", "x", "y", "p", "starts"):
        assert np.array_equal(getattr(batch.input, name), getattr(expected, name))
    with pytest.raises(ConfigError, match="no frames without a representation"):
        Loader(in_files, 4, frame_augment=(brighten,))


@pytest.mark.parametrize("workers", [0, 2])
def test_file_that_turned_bad_is_named(in_files, workers):
    in_files.path(5).write_bytes(b"nonsense")
    loader = Loader(in_files, 4, workers=workers, **RECIPE)
    with pytest.raises(DataError) as caught:
        list(loader.epoch(0))
    assert str(caught.value).startswith(str(in_files.path(5)))


def test_real_recordings(shared_data):
    recordings = open_recordings(f"n-mnist={shared_data('nmnist-small')}", holdout=0.5)
    loader = Loader(recordings, 50, shuffle=True, representation=partial(frames, steps=8, clip=1))
    batches = list(loader.epoch(0))
    assert sum(len(batch.label) for batch in batches) == len(recordings)
    assert batches[0].input.shape == (50, 8, 2, 34, 34)
    assert set(batches[0].input.unique().tolist()) == {0, 1}
