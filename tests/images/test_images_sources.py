from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from modicum.errors import ConfigError, DataError
from modicum.images import (
    FileImages,
    Loader,
    MemoryImages,
    available_splits,
    has_splits,
    open_images,
)


def test_class_folders_with_splits(make):
    make.tree("train", ["cat", "dog"], count=3)
    make.tree("Validation", ["cat", "dog"], count=2)
    make.tree("test", ["cat", "dog"], count=1)
    assert available_splits(make.root) == ("train", "val", "test")
    sets = {split: open_images(make.root, split) for split in ("train", "val", "test")}
    assert [len(images) for images in sets.values()] == [6, 4, 2]
    assert sets["train"].classes == ("cat", "dog")
    assert sets["train"].labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert sets["train"].names.tolist()[:2] == ["train/cat/0.png", "train/cat/1.png"]
    assert sets["val"].names.tolist()[0] == "Validation/cat/0.png"
    assert "Validation/" in sets["val"].layout


def test_one_split_beside_train_goes_by_both_names(make):
    make.tree("train", ["cat", "dog"], count=3)
    make.tree("test", ["cat", "dog"], count=2)
    assert available_splits(make.root) == ("train", "test")
    assert has_splits(make.root)
    val, test = open_images(make.root, "val"), open_images(make.root, "test")
    assert val.names.tolist() == test.names.tolist()
    assert len(open_images(make.root, "train")) == 6


def test_without_splits_a_share_of_each_class_is_held_out(make):
    make.tree("", ["cat", "dog"], count=20)
    assert available_splits(make.root) == ("train", "val")
    assert not has_splits(make.root)
    train, val = (open_images(make.root, split, holdout=0.2) for split in ("train", "val"))
    assert np.bincount(train.labels).tolist() == [16, 16]
    assert np.bincount(val.labels).tolist() == [4, 4]
    assert not set(train.names) & set(val.names)
    assert len(open_images(make.root, "train", holdout=0)) == 40
    with pytest.raises(ConfigError, match="holdout"):
        open_images(make.root, "val", holdout=0)
    for name in val.names:  # the pixels are those of the file
        (make.root / name).unlink()
    kept = open_images(make.root, "train", holdout=0)
    assert kept.names.tolist() == train.names.tolist()
    assert isinstance(kept, MemoryImages)
    assert isinstance(train, MemoryImages)
    assert torch.equal(kept.images, train.images)


def test_nested_folders_any_case_and_what_is_ignored(make):
    make.tree("", ["cat", "dog"], count=2)
    make.picture("cat/2020/may/a.PNG", seed=7)
    make.picture("cat/.hidden.png")
    make.picture(".thumbnails/b.png")
    make.picture("__MACOSX/c.png")
    (make.root / "dog" / "notes.txt").write_text("x")
    images = open_images(make.root, "train", holdout=0)
    assert images.classes == ("cat", "dog")
    assert "cat/2020/may/a.PNG" in images.names
    assert len(images) == 5


def test_a_class_may_be_called_train(make):
    make.tree("", ["bus", "car", "train"], count=2)
    assert open_images(make.root, "train", holdout=0).classes == ("bus", "car", "train")


def test_validation_alone(make):
    make.tree("val", ["cat", "dog"])
    assert len(open_images(make.root, "val")) == 8
    with pytest.raises(DataError, match="no train/ folder"):
        open_images(make.root, "train")


def test_classes_must_agree(make):
    make.tree("train", ["cat", "dog", "emu"])
    make.tree("val", ["cat", "dog", "fox"])
    with pytest.raises(DataError, match=r"only in train/: emu; only in val/: fox"):
        open_images(make.root, "train")


def test_flat_validation_folder_as_in_imagenet(make):
    make.tree("train", ["n01", "n02"])
    make.picture("val/ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(DataError, match="ImageNet come flat"):
        open_images(make.root, "train")


def test_unlabelled_test_folder_is_no_split(make):
    make.tree("train", ["n01", "n02"])
    make.tree("val", ["n01", "n02"])
    make.picture("test/ILSVRC2012_test_00000001.JPEG")
    assert available_splits(make.root) == ("train", "val")


def test_empty_and_doubled_class_folders(make):
    make.tree("", ["cat", "dog"])
    (make.root / "emu").mkdir()
    with pytest.raises(DataError, match="emu holds no image"):
        open_images(make.root, "train")
    (make.root / "emu").rmdir()
    (make.root / "Cat").mkdir()
    if (make.root / "Cat").samefile(make.root / "cat"):
        pytest.skip("this file system does not tell cat from Cat")
    with pytest.raises(DataError, match="'Cat' and 'cat'"):
        open_images(make.root, "train")


@pytest.mark.parametrize("split", ["val", "train"])
def test_nothing_usable(make, tmp_path, split):
    with pytest.raises(DataError, match="no such folder"):
        open_images(make.root, split)
    make.picture("a.png")
    with pytest.raises(DataError, match="1 image lies directly in it"):
        open_images(make.root, split)
    with pytest.raises(DataError, match="expected a folder"):
        open_images(make.root / "a.png", split)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="there are no folders in it"):
        open_images(tmp_path / "empty", split)


def test_two_folders_for_one_split(make):
    make.tree("train", ["cat", "dog"])
    make.tree("val", ["cat", "dog"])
    make.tree("valid", ["cat", "dog"])
    with pytest.raises(DataError, match="could be the val split"):
        open_images(make.root, "train")


def test_unknown_split(make):
    with pytest.raises(ConfigError, match="'dev'"):
        open_images(make.root, "dev")


def test_links_out_of_the_folder_are_not_followed(make, tmp_path):
    make.tree("", ["cat", "dog"])
    secret = make.picture("../outside/secret.png")
    (make.root / "cat" / "link.png").symlink_to(secret)
    with pytest.raises(DataError, match=r"cat/link.png: the symbolic link leads out of"):
        open_images(make.root, "train")
    images = open_images(make.root, "train", holdout=0, skip_bad=True)
    assert len(images) == 8
    assert [name for name, _ in images.skipped] == ["cat/link.png"]
    (make.root / "cat" / "link.png").unlink()
    (make.root / "emu").symlink_to(secret.parent, target_is_directory=True)
    with pytest.raises(DataError, match="leads out of"):
        open_images(make.root, "train")


def test_links_within_the_folder_are_followed_but_not_in_circles(make):
    make.tree("", ["cat", "dog"])
    (make.root / "cat" / "again.png").symlink_to(make.root / "cat" / "0.png")
    assert len(open_images(make.root, "train", holdout=0)) == 9
    (make.root / "cat" / "up").symlink_to(make.root, target_is_directory=True)
    with pytest.raises(DataError, match="back to a folder above"):
        open_images(make.root, "train")
    (make.root / "cat" / "up").unlink()
    (make.root / "cat" / "gone.png").symlink_to(make.root / "none.png")
    with pytest.raises(DataError, match="leads nowhere"):
        open_images(make.root, "train")


@pytest.mark.parametrize("memory_limit", [0, 2**30])
def test_bad_files_are_named_or_left_out(make, memory_limit, caplog):
    make.tree("", ["cat", "dog"])
    (make.root / "dog" / "2.png").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match=r"1 of 8 files cannot be used\. dog/2\.png: "):
        open_images(make.root, "train", holdout=0, memory_limit=memory_limit)
    images = open_images(make.root, "train", holdout=0, skip_bad=True, memory_limit=memory_limit)
    assert isinstance(images, FileImages) == (memory_limit == 0)
    assert len(images) == 7
    assert "dog/2.png" not in images.names
    assert np.bincount(images.labels).tolist() == [4, 3]
    assert [name for name, _ in images.skipped] == ["dog/2.png"]
    assert "dog/2.png" in caplog.text


def test_a_class_left_without_images_is_an_error(make):
    make.tree("", ["cat", "dog"], count=1)
    (make.root / "dog" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match="no usable image is left of dog"):
        open_images(make.root, "train", holdout=0, skip_bad=True)


def test_sizes_decide_between_memory_and_files(make):
    make.tree("", ["cat", "dog"])
    fits = 8 * 3 * 8 * 8
    assert isinstance(open_images(make.root, holdout=0, memory_limit=fits), MemoryImages)
    assert isinstance(open_images(make.root, holdout=0, memory_limit=fits - 1), FileImages)
    make.picture("dog/9.png", (8, 9))
    assert isinstance(open_images(make.root, holdout=0), FileImages)


def test_size_that_differs_where_it_was_not_looked_for(make):
    make.tree("", ["cat", "dog"], count=101)
    make.picture("dog/1.png", (8, 9))
    images = open_images(make.root, holdout=0)
    assert isinstance(images, FileImages)
    assert len(images) == 202


def write_cifar(root: Path, kind: str) -> np.ndarray:
    """The four distributions with few images; returns the training pixels."""
    rng = np.random.default_rng(0)
    fine = kind.startswith("cifar-100")
    classes = 100 if fine else 10
    names = [f"class{number}" for number in range(classes)]
    root.mkdir(parents=True)
    batches = ["train"] if fine else [f"data_batch_{number}" for number in range(1, 6)]
    pixels: dict[str, np.ndarray] = {}
    for name in [*batches, "test" if fine else "test_batch"]:
        data = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        labels = rng.integers(0, classes, 4).tolist()
        pixels[name] = data
        if kind.endswith(("py", "python")):
            entry = {b"data": data, b"filenames": [b"a.png", b"b.png", b"c.png", b"d.png"]}
            entry |= (
                {b"fine_labels": labels, b"coarse_labels": [0] * 4} if fine else {b"labels": labels}
            )
            (root / name).write_bytes(pickle.dumps(entry, protocol=2))
        else:
            head = [[3, label] if fine else [label] for label in labels]
            records = np.hstack([np.array(head, dtype=np.uint8), data])
            (root / f"{name}.bin").write_bytes(records.tobytes())
    if kind.endswith("py"):
        (root / "batches.meta").write_bytes(
            pickle.dumps({b"label_names": [n.encode() for n in names]})
        )
    elif kind.endswith("python"):
        (root / "meta").write_bytes(
            pickle.dumps({b"fine_label_names": [n.encode() for n in names]})
        )
    else:
        file = "fine_label_names.txt" if fine else "batches.meta.txt"
        (root / file).write_text("\n".join(names) + "\n\n")
    return np.concatenate([pixels[name] for name in batches]).reshape(-1, 3, 32, 32)


CIFAR = ["cifar-10-batches-py", "cifar-10-batches-bin", "cifar-100-python", "cifar-100-binary"]


@pytest.mark.parametrize("kind", CIFAR)
def test_cifar_batches(tmp_path, kind):
    pixels = write_cifar(tmp_path / kind, kind)
    for root in (tmp_path, tmp_path / kind):
        train = open_images(root, "train")
        assert isinstance(train, MemoryImages)
        assert (train.images.numpy() == pixels).all()
        assert train.labels.dtype == torch.int64
        assert len(train.classes) == (100 if "100" in kind else 10)
        assert len(set(train.names)) == len(train)
        assert len(open_images(root, "test")) == 4
        assert available_splits(root) == ("train", "test")


def test_cifar_binary_of_a_wrong_size_or_label(tmp_path):
    root = tmp_path / "cifar-10-batches-bin"
    write_cifar(root, root.name)
    content = (root / "data_batch_2.bin").read_bytes()
    (root / "data_batch_2.bin").write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"data_batch_2.bin: expected records of 3073 bytes"):
        open_images(root)
    (root / "data_batch_2.bin").write_bytes(b"\x0a" + content[1:])
    with pytest.raises(DataError, match="labels from 0 to 9"):
        open_images(root)
    (root / "data_batch_2.bin").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        open_images(root)


def test_labels_beyond_64_bits(tmp_path):
    root = tmp_path / "cifar-10-batches-py"
    write_cifar(root, root.name)
    batch = pickle.loads((root / "data_batch_1").read_bytes())
    (root / "data_batch_1").write_bytes(pickle.dumps(batch | {b"labels": [0, 1, 10**30, 2]}))
    with pytest.raises(DataError, match="labels from 0 to 9, found 0 to 1000"):
        open_images(root)
    empty = {b"data": batch[b"data"][:0], b"labels": []}
    (root / "data_batch_1").write_bytes(pickle.dumps(empty))
    with pytest.raises(DataError, match="expected images, found none"):
        open_images(root)


def test_links_in_circles_and_pipes(make):
    make.tree("", ["cat", "dog"])
    (make.root / "round").symlink_to("round")
    (make.root / "cat" / "round.png").symlink_to("round.png")
    os.mkfifo(make.root / "dog" / "pipe.png")
    with pytest.raises(DataError, match=r"cat/round.png: the symbolic link leads nowhere"):
        open_images(make.root)
    images = open_images(make.root, holdout=0, skip_bad=True)
    assert [name for name, _ in images.skipped] == ["cat/round.png", "dog/pipe.png"]


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings: CIFAR's own files are of that kind."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_string(self, value: bytes) -> None:
        self.write(b"T" + struct.pack("<i", len(value)) + value)

    dispatch[bytes] = save_string


def test_cifar_as_python_2_wrote_it(tmp_path):
    root = tmp_path / "cifar-10-batches-py"
    pixels = write_cifar(root, root.name)
    for path in root.iterdir():
        content = pickle.loads(path.read_bytes())
        with path.open("wb") as file:
            Python2Pickler(file, protocol=2).dump(content)
        assert b"_codecs" not in path.read_bytes()
    train = open_images(root)
    assert isinstance(train, MemoryImages)
    assert (train.images.numpy() == pixels).all()


class Attack:
    def __reduce__(self):
        return (os.system, ("touch /tmp/modicum-was-here",))


def test_pickles_cannot_run_code(tmp_path):
    root = tmp_path / "cifar-10-batches-py"
    write_cifar(root, root.name)
    for content in (Attack(), {b"data": Attack()}, {b"data": np.array([Attack()], dtype=object)}):
        (root / "data_batch_3").write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(DataError, match=r"data_batch_3: .*not read"):
            open_images(root)
    assert not Path("/tmp/modicum-was-here").exists()


def test_pickles_of_the_wrong_kind(tmp_path):
    root = tmp_path / "cifar-10-batches-py"
    write_cifar(root, root.name)
    good = pickle.loads((root / "data_batch_1").read_bytes())
    wrong = {
        "expected a pickled dict": [1, 2],
        "uint8 array": good | {b"data": good[b"data"].astype(np.int64)},
        "one whole number for each": good | {b"labels": [1, 2]},
        "labels from 0 to 9": good | {b"labels": [1, 2, 3, 10]},
    }
    for words, content in wrong.items():
        (root / "data_batch_1").write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(DataError, match=words):
            open_images(root)
    (root / "data_batch_1").write_bytes(b"\x80\x02garbage")
    with pytest.raises(DataError, match="damaged"):
        open_images(root)


def write_tiny_imagenet(make) -> None:
    for number, code in enumerate(["n02", "n01", "n03"]):
        for image in range(3):
            make.picture(f"train/{code}/images/{code}_{image}.JPEG", seed=10 * number + image)
        (make.root / "train" / code / f"{code}_boxes.txt").write_text("")
    lines = []
    for number, code in enumerate(["n03", "n01", "n02", "n01"]):
        make.picture(f"val/images/val_{number}.JPEG", seed=50 + number)
        lines.append(f"val_{number}.JPEG\t{code}\t0\t0\t7\t7\n")
    make.picture("test/images/test_0.JPEG")
    (make.root / "val" / "val_annotations.txt").write_text("".join(lines))
    (make.root / "wnids.txt").write_text("n02\nn01\nn03\n")
    (make.root / "words.txt").write_text(
        "n01\tcrane, a bird\nn02\tgoldfish, Carassius auratus\nn03\tcrane\nn99\tunused\n"
    )


def test_tiny_imagenet(make):
    write_tiny_imagenet(make)
    train, val = open_images(make.root, "train"), open_images(make.root, "val")
    assert train.classes == val.classes == ("crane (n01)", "goldfish", "crane (n03)")
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert val.labels.tolist() == [2, 0, 1, 0]
    assert val.names.tolist()[0] == "val/images/val_0.JPEG"
    assert available_splits(make.root) == ("train", "val")


def test_tiny_imagenet_annotations_that_do_not_fit(make):
    write_tiny_imagenet(make)
    file = make.root / "val" / "val_annotations.txt"
    good = file.read_text()
    for line in (
        "val_9.JPEG\tn01\t0\n",
        "val_0.JPEG\tn77\t0\n",
        "../../../etc/passwd\tn01\n",
        "?\n",
    ):
        file.write_text(good + line)
        with pytest.raises(DataError, match="line 5"):
            open_images(make.root, "val")
    shutil.rmtree(make.root / "train" / "n03")
    with pytest.raises(DataError, match=r"only in wnids.txt: n03"):
        open_images(make.root, "train")


def test_tiny_imagenet_sorted_by_its_owner(make):
    write_tiny_imagenet(make)
    shutil.rmtree(make.root / "val")
    for code in ("n01", "n02", "n03"):
        make.picture(f"val/{code}/images/a.JPEG")
    val = open_images(make.root, "val")
    assert val.labels.tolist() == [0, 1, 2]
    assert val.classes[1] == "goldfish"


def test_digits():
    assert has_splits("digits")
    train, test = open_images("digits", "train"), open_images("digits", "test")
    assert (len(train), len(test)) == (1200, 597)
    assert isinstance(train, MemoryImages)
    assert train.images.shape == (1200, 1, 32, 32)
    assert train.images.max() == 255
    assert train.channels == 1
    assert len({*train.names, *test.names}) == 1797
    assert np.bincount(test.labels).min() > 40
    assert open_images("digits", "train").names.tolist() == train.names.tolist()
    assert json.dumps([str(name) for name in train.names[:2]])


def test_the_shared_cifar_subset(shared_data):
    root = shared_data("cifar10-subset")
    train, test = open_images(root, "train"), open_images(root, "test")
    assert np.bincount(train.labels).tolist() == [1000] * 10
    assert np.bincount(test.labels).tolist() == [200] * 10
    assert isinstance(test, MemoryImages)
    assert test.images.shape == (2000, 3, 32, 32)


def test_photographs_without_labels_lie_anywhere(make):
    for number, name in enumerate(("a.png", "b.jpg", "2024/c.png", "2024/summer/d.png")):
        make.picture(name, seed=number)
    with pytest.raises(DataError, match="expected one folder for each class"):
        open_images(make.root / "2024" / "summer")
    found = open_images(make.root, labelled=False, holdout=0)
    assert found.names.tolist() == ["2024/c.png", "2024/summer/d.png", "a.png", "b.jpg"]
    assert found.classes == ()
    assert found.labels.shape == (4, 0)
    train, val = (open_images(make.root, s, labelled=False, holdout=0.5) for s in ("train", "val"))
    assert sorted([*train.names, *val.names]) == sorted(found.names)
    assert (len(train), len(val)) == (2, 2)
    batch = next(Loader(found, 4).epoch(0))
    assert batch.image.shape == (4, 3, 8, 8)
    assert batch.label.shape == (4, 0)


def test_splits_without_labels(make):
    make.picture("train/a.png")
    make.picture("train/more/b.png", seed=1)
    make.picture("val/c.png", seed=2)
    found = {s: open_images(make.root, s, labelled=False).names for s in ("train", "val", "test")}
    assert found["train"].tolist() == ["train/a.png", "train/more/b.png"]
    assert found["val"].tolist() == found["test"].tolist() == ["val/c.png"]


def test_labels_that_are_there_can_be_left_out(make):
    digits = open_images("digits", "test", labelled=False)
    assert (digits.classes, digits.labels.shape) == ((), (597, 0))
    make.tree("", ["a", "b"])
    assert open_images(make.root, labelled=False, holdout=0).labels.shape == (8, 0)
    (make.root / "a" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match="the file is empty"):
        open_images(make.root, labelled=False)
    left = open_images(make.root, labelled=False, holdout=0, skip_bad=True)
    assert len(left) == 7
    assert left.skipped[0].name == "a/0.png"


def test_no_image_at_all(make):
    make.root.mkdir()
    with pytest.raises(DataError, match="no image below"):
        open_images(make.root, labelled=False)
