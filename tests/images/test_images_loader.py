from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.errors import ConfigError, DataError
from modicum.images import (
    AutoAugmentCifar10,
    Batch,
    FileImages,
    HorizontalFlip,
    ImageSet,
    Loader,
    MemoryImages,
    Normalise,
    RandomResizedCrop,
    ResizeCentreCrop,
    SampleRandom,
    open_images,
)

RECIPE = (
    RandomResizedCrop(16),
    HorizontalFlip(),
    AutoAugmentCifar10(),
    Normalise((0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),
)

# Newer Pythons warn that PyTorch's workers fork from a process with threads.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


def in_memory(count: int = 23) -> MemoryImages:
    rng = np.random.default_rng(0)
    return MemoryImages(
        ("a", "b"),
        torch.arange(count) % 2,
        np.array([str(number) for number in range(count)]),
        "made up",
        torch.from_numpy(rng.integers(0, 256, (count, 3, 20, 24), dtype=np.uint8)),
    )


@pytest.fixture
def in_files(make) -> ImageSet:
    for number in range(23):
        make.picture(f"{'ab'[number % 2]}/{number}.jpg", (20 + number, 24), seed=number)
    return open_images(make.root, "train", holdout=0)


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_same_batches_with_no_and_three_workers(in_files):
    assert isinstance(in_files, FileImages)
    loaders = [
        Loader(in_files, 4, transform=RECIPE, shuffle=True, workers=workers, seed=7)
        for workers in (0, 3)
    ]
    for epoch in (0, 1):  # the workers are used again
        batches = [list(loader.epoch(epoch)) for loader in loaders]
        assert len(batches[0]) == len(batches[1]) == len(loaders[0]) == 6
        assert all(map(same, *batches))
    assert batches[0][0].image.dtype == torch.float32
    assert batches[0][0].image.shape == (4, 3, 16, 16)
    assert batches[0][0].label.dtype == batches[0][0].index.dtype == torch.int64


@settings(max_examples=30, deadline=None)
@given(
    share=st.integers(1, 5),
    world=st.integers(1, 4),
    epoch=st.integers(0, 3),
    start=st.integers(0, 5),
    drop_last=st.booleans(),
)
def test_shares_of_all_processes_are_the_batches_of_one(share, world, epoch, start, drop_last):
    options = {"transform": RECIPE, "shuffle": True, "drop_last": drop_last, "seed": 3}
    alone = list(Loader(in_memory(), share * world, **options).epoch(epoch))
    parts = [
        list(
            Loader(in_memory(), share * world, rank=rank, world=world, **options).epoch(
                epoch, start
            )
        )
        for rank in range(world)
    ]
    for number, batch in enumerate(alone[start:]):
        joined = Batch(
            *(torch.cat(tensors) for tensors in zip(*(p[number] for p in parts), strict=True))
        )
        assert same(joined, batch)
        if drop_last:
            assert all(len(part[number].label) == share for part in parts)
    assert all(len(part) == max(0, len(alone) - start) for part in parts)


def test_labels_and_pixels_are_those_of_the_index():
    images = in_memory()
    for batch in Loader(images, 5, shuffle=True).epoch(0):
        assert batch.image.dtype == torch.uint8
        assert torch.equal(batch.image, images.images[batch.index])
        assert torch.equal(batch.label, images.labels[batch.index])


def test_resuming_does_not_read_what_was_done(in_files, monkeypatch):
    read: list[int] = []
    original = FileImages.read

    def counted(self, index, crop, random):
        read.extend(index.tolist())
        return original(self, index, crop, random)

    monkeypatch.setattr(FileImages, "read", counted)
    loader = Loader(in_files, 4, transform=RECIPE, shuffle=True, workers=0)
    whole = list(loader.epoch(2))
    read.clear()
    rest = list(loader.epoch(2, start=4))
    assert len(read) == 23 - 16
    assert all(map(same, rest, whole[4:]))


def test_files_and_memory_agree(make):
    make.tree("", ["a", "b"], count=6, size=(40, 30))
    memory = open_images(make.root, "train", holdout=0)
    files = open_images(make.root, "train", holdout=0, memory_limit=0)
    assert isinstance(memory, MemoryImages)
    assert isinstance(files, FileImages)
    assert memory.names.tolist() == files.names.tolist()
    for crop in (RandomResizedCrop(16), ResizeCentreCrop(24, 16)):
        a, b = (
            next(Loader(images, 12, transform=(crop,), workers=0).epoch(0)).image
            for images in (memory, files)
        )
        assert torch.equal(a, b)


@pytest.mark.parametrize("workers", [0, 2])
def test_file_that_turned_bad_is_named(in_files, workers):
    in_files.path(5).write_bytes(b"nonsense")
    loader = Loader(in_files, 4, transform=RECIPE, workers=workers)
    with pytest.raises(DataError, match="not an image") as caught:
        list(loader.epoch(0))
    assert str(caught.value).startswith(str(in_files.path(5)))


def test_sizes_that_differ_need_a_crop(in_files):
    with pytest.raises(DataError, match="RandomResizedCrop"):
        list(Loader(in_files, 4, workers=0).epoch(0))


def test_options_that_make_no_sense():
    images = in_memory()
    with pytest.raises(ConfigError, match="multiple of 4"):
        Loader(images, 6, world=4)


def test_image_set_checks_its_parts():
    images = in_memory()
    with pytest.raises(ValueError, match="22"):
        dataclasses.replace(images, labels=images.labels[:22])
    with pytest.raises(ValueError, match="uint8"):
        dataclasses.replace(images, images=images.images.float())
    with pytest.raises(ConfigError, match="holdout"):
        images.hold_out(1.0)


def test_subset_keeps_pixels_labels_and_names_together():
    images = in_memory()
    part = images.subset(np.array([4, 1]))
    assert part.names.tolist() == ["4", "1"]
    assert part.labels.tolist() == [0, 1]
    random = SampleRandom(0, 0, np.array([0, 1]))
    assert torch.equal(part.read(np.array([0, 1]), None, random), images.images[[4, 1]])
