from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from modicum.errors import ConfigError, DataError
from modicum.events import (
    Events,
    FileRecordings,
    MemoryRecordings,
    fingerprint,
    open_digits,
    open_recordings,
)
from modicum.events.layouts import DATA_SETS, OBJECTS, in_numeric_order

TIMES = (10, 20, 35)


class Writer:
    """Writes small recordings of three events, whose first x is `mark`, below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str, content: bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def atis(self, name: str, mark: int = 1) -> Path:
        events = [(mark, 2, 1, TIMES[0]), (3, 4, 0, TIMES[1]), (5, 6, 1, TIMES[2])]
        return self.write(
            name, b"".join(struct.pack(">BBBH", x, y, p << 7, t) for x, y, p, t in events)
        )

    def prophesee(self, name: str, mark: int = 1) -> Path:
        records = [struct.pack("<II", t, mark | 2 << 14 | 1 << 28) for t in TIMES]
        return self.write(name, b"% a header\n" + bytes([0, 8]) + b"".join(records))

    def aedat2(self, name: str, mark: int = 1) -> Path:
        # raw column `mark`, raw row 2; upright by jAER's convention: x = 127 - 2, y = 127 - mark
        records = [struct.pack(">II", mark << 1 | 2 << 8, t) for t in TIMES]
        return self.write(name, b"#!AER-DAT2.0\r\n" + b"".join(records))

    def npy(self, name: str, mark: int = 1) -> Path:
        path = self.write(name, b"")
        np.save(path, np.array([[mark, 2, t, -1] for t in TIMES], dtype=np.float64))
        return path

    def aedat3(self, name: str, times: Sequence[int]) -> Path:
        events = b"".join(struct.pack("<II", 3 | 2 << 2 | 1 << 17, t) for t in times)
        head = struct.pack("<hhiiiiii", 1, 0, 8, 4, 0, len(times), len(times), len(times))
        return self.write(name, b"#!AER-DAT3.1\r\n#!END-HEADER\r\n" + head + events)


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    return Writer(tmp_path / "data")


# N-MNIST


def n_mnist(write: Writer, numbers: Sequence[int] = (1, 2, 10)) -> str:
    for part in ("Train", "Test"):
        for digit in range(10):
            for number in numbers[: None if part == "Train" else 1]:
                write.atis(f"{part}/{digit}/{number}.bin", mark=digit)
    return f"n-mnist={write.root}"


def test_n_mnist_as_distributed(write):
    source = n_mnist(write)
    train, test = open_recordings(source), open_recordings(source, "test")
    assert (len(train), len(test)) == (30, 10)
    assert (train.height, train.width) == (34, 34)
    assert train.classes == tuple("0123456789")
    assert train.names.tolist()[:3] == ["Train/0/1.bin", "Train/0/2.bin", "Train/0/10.bin"]
    assert train.layout == "N-MNIST, class folders in Train/ and Test/, 30 of 60,000 recordings"
    batch = train.read(np.array([29, 3]))
    assert batch.size == 2
    assert batch[0].x.tolist() == [9, 3, 5]
    assert batch[1].x.tolist() == [1, 3, 5]
    assert batch[0].t.tolist() == list(TIMES)
    assert train.labels[[29, 3]].tolist() == [9, 1]
    assert train.labels.dtype == torch.int64
    assert len(open_recordings(source, "val")) == 10
    with pytest.raises(ConfigError, match="comes divided"):
        open_recordings(source, division="tet")


def flat_n_mnist(write: Writer, count: int = 40) -> str:
    lines = ["#sample #class"]
    for number in range(1, count + 1):
        write.atis(f"{number:05d}.bin", mark=number % 20)
        lines.append(f"{number}\t{number % 2}")
    write.write("labels.tsv", "\r\n".join(lines).encode())
    return f"n-mnist={write.root}"


def test_flat_n_mnist_is_divided_by_a_rule(write):
    source = flat_n_mnist(write)
    train, test = (open_recordings(source, split, holdout=0.25) for split in ("train", "test"))
    assert (len(train), len(test)) == (30, 10)
    assert not set(train.names) & set(test.names)
    assert "split 'hash' (25 % of each class held out" in train.layout
    for recordings in (train, test):
        numbers = [int(name[:5]) for name in recordings.names]
        assert recordings.labels.tolist() == [number % 2 for number in numbers]
        events = recordings.read(np.arange(len(numbers)))
        assert [int(one.x[0]) for one in events] == [number % 20 for number in numbers]
    everything = open_recordings(source, holdout=0)
    assert len(everything) == 40
    with pytest.raises(ConfigError, match="holdout"):
        open_recordings(source, "test", holdout=0)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("1\t0\n2\t1\n3\t1", "listed but not there: 3"),
        ("1\t0", "there but not listed: 2"),
        ("1\t0\n2\tcat", "line 2: expected the number of a file and a digit"),
        ("1\t0\n2\t10", "line 2"),
    ],
)
def test_a_list_that_does_not_fit_the_files(write, lines, message):
    flat_n_mnist(write, 2)
    write.write("labels.tsv", lines.encode())
    with pytest.raises(DataError, match=message):
        open_recordings(f"n-mnist={write.root}")


def test_real_n_mnist(shared_data):
    source = f"n-mnist={shared_data('nmnist-small')}"
    train, test = (open_recordings(source, split, holdout=0.3) for split in ("train", "test"))
    assert len(train) + len(test) == 600
    assert set(train.labels.tolist()) == set(test.labels.tolist()) == set(range(10))
    batch = test.read(np.arange(len(test)))
    assert (batch.height, batch.width) == (34, 34)
    assert (batch.lengths > 500).all()
    assert 200_000 < np.median([one.duration for one in batch]) < 400_000


# The others


def test_n_cars_as_distributed_and_as_packed(write, tmp_path):
    for part, count in (("train", 3), ("test", 2)):
        for name in ("cars", "background"):
            for number in range(count):
                write.prophesee(f"n-cars_{part}/{name}/obj_{number:06d}_td.dat", mark=number)
    cars = open_recordings(f"n-cars={write.root}", "test")
    assert cars.classes == ("background", "cars")
    assert (cars.height, cars.width, len(cars)) == (100, 120, 4)
    assert cars.read(np.array([3])).x.tolist() == [1, 1, 1]
    pack = Writer(tmp_path / "pack")
    for part in ("training", "validation", "testing"):
        for name in ("cars", "background"):
            pack.npy(f"{part}/{name}/a_1.npy", mark=7)
    for split in ("train", "val", "test"):
        packed = open_recordings(f"n-cars={pack.root}", split)
        assert len(packed) == 2
        assert packed.read(np.array([0])).p.tolist() == [0, 0, 0]


def test_n_caltech101_leaves_the_uncropped_faces_out(write):
    names = [f"class{number:03d}" for number in range(99)]
    for name in [*names, "BACKGROUND_Google", "Faces_easy", "Faces"]:
        for number in range(2):
            write.atis(f"{name}/image_{number:04d}.bin")
    source = f"n-caltech101={write.root}"
    train = open_recordings(source)
    assert len(train.classes) == 101
    assert "BACKGROUND_Google" in train.classes
    assert "Faces" not in train.classes
    assert (train.height, train.width, len(train)) == (180, 240, 101)
    assert "202 of 8,709" in train.layout
    write.atis("surplus/image_0001.bin")
    with pytest.raises(DataError, match="found 102"):
        open_recordings(source)


def cifar10_dvs(write: Writer, numbers: Sequence[int]) -> str:
    for name in OBJECTS:
        for number in numbers:
            write.aedat2(f"{name}/cifar10_{name}_{number}.aedat", mark=number % 100)
    return f"cifar10-dvs={write.root}"


def test_divisions_of_cifar10_dvs(write):
    source = cifar10_dvs(write, range(20))

    def numbers(split: str, division: str | None, seed: int = 0) -> list[int]:
        found = open_recordings(source, split, division=division, division_seed=seed)
        names = [name for name in found.names.tolist() if name.startswith("frog/")]
        return [int(name.rsplit("_")[-1].split(".")[0]) for name in names]

    assert numbers("test", None) == numbers("test", "tet") == [18, 19]
    assert numbers("train", "tet") == list(range(18))
    assert numbers("test", "tebn") == [0, 1]
    assert numbers("train", "tebn") == list(range(2, 20))
    chosen = [numbers("test", "random", seed) for seed in range(4)]
    assert numbers("test", "random", 3) == chosen[3]
    assert len({tuple(found) for found in chosen}) > 1
    assert all(
        sorted(found + numbers("train", "random", seed)) == list(range(20))
        for seed, found in enumerate(chosen)
    )
    train = open_recordings(source)
    assert train.layout == (
        "CIFAR10-DVS, class folders without splits, 200 of 10,000 recordings, jaer coordinates, "
        "split 'tet' (10 % of each class held out: the last in numeric order)"
    )
    with pytest.raises(ConfigError, match="tet, tebn, random, hash"):
        open_recordings(source, division="first")


def test_conventions_of_aedat(write):
    source = cifar10_dvs(write, range(2))
    upright = open_recordings(source).read(np.array([0]))
    assert (upright.x[0], upright.y[0], upright.p[0]) == (125, 127, 1)
    other = open_recordings(source, convention="dat2mat")
    assert "dat2mat coordinates" in other.layout
    turned = other.read(np.array([0]))
    assert (turned.x[0], turned.y[0]) == (127, 2)
    files = open_recordings(source, convention="dat2mat", memory_limit=0)
    assert files.read(np.array([0])).x[0] == 127
    assert fingerprint(files) != fingerprint(open_recordings(source, memory_limit=0))


def mnist_dvs(write: Writer, scales: Sequence[str], count: int = 10) -> Path:
    for digit in range(10):
        for scale in scales:
            for number in range(1, count + 1):
                folder = f"grabbed_data{digit}/scale{scale}"
                write.aedat2(f"{folder}/mnist_{digit}_scale{scale}_{number:04d}.aedat", number)
    return write.root


def test_mnist_dvs_one_scale_at_a_time(write):
    root = mnist_dvs(write, ["4", "16"])
    with pytest.raises(DataError, match=r"scales 4, 16.* mnist-dvs-scale4="):
        open_recordings(f"mnist-dvs={root}")
    test = open_recordings(f"mnist-dvs-scale16={root}", "test")
    assert test.classes == tuple("0123456789")
    assert test.names.tolist()[3] == "grabbed_data3/scale16/mnist_3_scale16_0010.aedat"
    assert test.labels.tolist() == list(range(10))
    assert len(open_recordings(f"mnist-dvs-scale4={root}")) == 90
    with pytest.raises(DataError, match="grabbed_data0/scale8/"):
        open_recordings(f"mnist-dvs-scale8={root}")


def test_mnist_dvs_with_a_single_scale(write):
    root = mnist_dvs(write, ["04"], count=2)
    assert len(open_recordings(f"mnist-dvs={root}")) == 10
    assert len(open_recordings(f"mnist-dvs-scale4={root}", "test")) == 10


def dvs_gesture(write: Writer, lists: bool = True) -> str:
    table = "class,startTime_usec,endTime_usec\n2,100,200\n11,150,300\n2,300,301\n"
    for user in (3, 23, 24):
        write.aedat3(f"user{user:02d}_led.aedat", [100, 150, 199, 200, 299, 300])
        write.write(f"user{user:02d}_led_labels.csv", table.encode())
    if lists:
        write.write("trials_to_train.txt", b"user03_led.aedat\nuser23_led.aedat\n\n")
        write.write("trials_to_test.txt", b"user24_led.aedat\n")
    return f"dvs-gesture={write.root}"


@pytest.mark.parametrize("memory_limit", [0, 2**30])
@pytest.mark.parametrize("lists", [True, False])
def test_dvs_gesture_is_cut_by_its_labels(write, lists, memory_limit):
    source = dvs_gesture(write, lists)
    train, test = (
        open_recordings(source, split, memory_limit=memory_limit) for split in ("train", "test")
    )
    assert isinstance(train, MemoryRecordings if memory_limit else FileRecordings)
    assert (len(train), len(test)) == (6, 3)
    assert train.labels.tolist() == [1, 1, 1, 1, 10, 10]
    assert train.classes[1] == "right hand wave"
    assert train.names.tolist()[:3] == [
        "user03_led.aedat@100",
        "user03_led.aedat@300",
        "user23_led.aedat@100",
    ]
    # Ends are left out, intervals may overlap, and times count from the start of the cut.
    batch = train.read(np.array([4, 0, 1]))
    assert [one.t.tolist() for one in batch] == [[0, 49, 50, 149], [0, 50, 99], [0]]
    again = train.subset(np.array([4, 0])).read(np.array([1]))
    assert again.t.tolist() == [0, 50, 99]
    assert "6 of 1,176 recordings" in train.layout


@pytest.mark.parametrize("memory_limit", [0, 2**30])
def test_dvs_gesture_without_a_damaged_file(write, memory_limit):
    source = dvs_gesture(write)
    write.write("user03_led.aedat", b"#!AER-DAT3.9\r\n")
    with pytest.raises(DataError, match=r"1 of 2 files .*user03_led.aedat: .*3\.9"):
        open_recordings(source, memory_limit=memory_limit)
    left = open_recordings(source, skip_bad=True, memory_limit=memory_limit)
    assert left.names.tolist() == [f"user23_led.aedat@{start}" for start in (100, 300, 150)]
    assert [one.t.tolist() for one in left.read(np.arange(3))] == [
        [0, 50, 99],
        [0],
        [0, 49, 50, 149],
    ]


@pytest.mark.parametrize("line", ["12,1,2", "0,1,2", "1,5,5", "1,2", "a,b,c"])
def test_dvs_gesture_with_labels_that_make_no_sense(write, line):
    source = dvs_gesture(write)
    write.write("user03_led_labels.csv", f"class,startTime_usec,endTime_usec\n{line}".encode())
    with pytest.raises(DataError, match=r"user03_led_labels.csv, line 2: .*later end"):
        open_recordings(source)


def test_dvs_gesture_with_files_missing(write):
    source = dvs_gesture(write)
    (write.root / "user03_led_labels.csv").unlink()
    with pytest.raises(DataError, match=r"user03_led_labels.csv: cannot be read"):
        open_recordings(source)
    (write.root / "user23_led.aedat").unlink()
    write.write("trials_to_train.txt", b"../user23_led.aedat\n")
    with pytest.raises(DataError, match="not beside it"):
        open_recordings(source)


# One's own


def test_class_folders_with_and_without_splits(write):
    for name in ("fan", "bell"):
        for number in (1, 2, 10):
            write.atis(f"train/{name}/{number}.bin", mark=30)
        write.prophesee(f"test/{name}/1.dat", mark=4)
    train, test = open_recordings(write.root), open_recordings(str(write.root), "test")
    assert train.classes == ("bell", "fan")
    assert train.names.tolist()[:3] == ["train/bell/1.bin", "train/bell/2.bin", "train/bell/10.bin"]
    # The size that some file of any split needs.
    assert (train.height, train.width) == (test.height, test.width) == (7, 31)
    larger = open_recordings(write.root, sensor=(40, 50))
    assert (larger.height, larger.width) == (40, 50)
    assert larger.read(np.array([0])).width == 50
    alone = open_recordings(write.root / "train", "val", holdout=0.4)
    assert len(alone) == 2
    with pytest.raises(DataError, match="outside the sensor"):
        open_recordings(write.root, sensor=(40, 20))


def test_the_sensor_is_as_large_as_any_file_needs(write):
    paths = sorted(write.atis(f"fan/{number}.bin", mark=20) for number in range(120))
    looked_at = set(np.linspace(0, 119, 100).astype(int).tolist())
    unseen = min(set(range(120)) - looked_at)
    name = paths[unseen].relative_to(write.root).as_posix()
    write.atis(name, mark=200)
    options = {"holdout": 0}
    assert open_recordings(write.root, **options).width == 201
    # Of a set too large for memory some files are looked at; the size can be given.
    files = open_recordings(write.root, memory_limit=0, **options)
    assert files.width == 21
    index = np.flatnonzero(files.names == name)
    with pytest.raises(
        DataError,
        match=r"of 7 rows and 21 columns .* needs 7 rows and 201 columns at least.*"
        r"sensor=\(height, width\) in Python and --sensor HEIGHT WIDTH",
    ):
        files.read(index)
    files = open_recordings(write.root, memory_limit=0, sensor=(7, 201), **options)
    assert files.read(index).x.tolist() == [200, 3, 5]


def test_progress_is_seen_in_small_sets_too(write):
    seen = []
    open_recordings(n_mnist(write), progress=lambda *done: seen.append(done))
    assert len(seen) >= 4
    assert seen == sorted(seen)
    assert seen[-1] == (30, 30)


def test_memory_and_files_agree(write):
    source = n_mnist(write)
    memory, files = open_recordings(source), open_recordings(source, memory_limit=0)
    assert isinstance(memory, MemoryRecordings)
    assert isinstance(files, FileRecordings)
    assert memory.names.tolist() == files.names.tolist()
    index = np.array([7, 0, 7])
    for name in ("t", "x", "y", "p", "starts"):
        one, other = (getattr(found.read(index), name) for found in (memory, files))
        assert np.array_equal(one, other)
        assert one.dtype == other.dtype
    for found in (memory, files):
        none = found.read(np.array([], dtype=np.int64))
        assert (none.size, len(none), none.height) == (0, 0, 34)
        rest, held = found.hold_out(0.3)
        assert (len(rest), len(held)) == (20, 10)
        assert rest.read(np.array([19])).x[0] == 9
    assert files.hold_out(0.3)[1].names.tolist() == memory.hold_out(0.3)[1].names.tolist()


@pytest.mark.parametrize("memory_limit", [0, 2**30])
def test_bad_files_are_named_or_left_out(write, memory_limit, caplog):
    source = n_mnist(write)
    write.write("Train/3/2.bin", b"1234567")
    write.write("Train/4/2.bin", b"")
    options = {"memory_limit": memory_limit}
    with pytest.raises(DataError, match=r"2 of 30 files .*Train/3/2.bin: .*7 bytes.* is empty"):
        open_recordings(source, **options)
    found = open_recordings(source, skip_bad=True, **options)
    assert len(found) == 28
    assert [name for name, _ in found.skipped] == ["Train/3/2.bin", "Train/4/2.bin"]
    assert "2 of 30 files left out" in caplog.text
    assert found.read(np.array([27])).x[0] == 9
    for number in (1, 10):
        (write.root / f"Train/4/{number}.bin").write_bytes(b"")
    with pytest.raises(DataError, match="no usable recording is left of 4"):
        open_recordings(source, skip_bad=True, **options)


def test_headers_of_large_sets_are_looked_at(write):
    source = cifar10_dvs(write, range(2))
    write.write("frog/cifar10_frog_0.aedat", b"#!AER-DAT3.9\r\n12345678")
    with pytest.raises(DataError, match=r"1 of 10 files .*cifar10_frog_0.aedat: .*3\.9"):
        open_recordings(source, memory_limit=0)


def test_a_file_that_turned_bad_is_named(write):
    files = open_recordings(n_mnist(write), memory_limit=0)
    (write.root / "Train/0/1.bin").write_bytes(b"1234567")
    with pytest.raises(DataError, match=r"Train/0/1.bin"):
        files.read(np.array([0]))
    (write.root / "Train/0/1.bin").unlink()
    with pytest.raises(DataError, match=r"Train/0/1.bin"):
        files.read(np.array([0]))


def test_recordings_are_sorted_by_time(write):
    events = [(1, 1, 40), (2, 2, 10), (3, 3, 20)]
    content = b"".join(struct.pack(">BBBH", x, y, 0, t) for x, y, t in events)
    for memory_limit in (0, 2**30):
        source = n_mnist(write)
        write.write("Train/0/1.bin", content)
        batch = open_recordings(source, memory_limit=memory_limit).read(np.array([0]))
        assert batch.t.tolist() == [10, 20, 40]
        assert batch.x.tolist() == [2, 3, 1]


def test_what_is_not_there(write, tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        open_recordings(f"n-mnist={write.root}")
    with pytest.raises(ConfigError, match=r"no data set 'nmnist'; known are n-mnist"):
        open_recordings(f"nmnist={write.root}")
    path = write.atis("a.bin")
    with pytest.raises(DataError, match="expected a folder of recordings"):
        open_recordings(path)
    with pytest.raises(DataError, match="1 recording lies directly in it"):
        open_recordings(write.root)
    with pytest.raises(ConfigError, match="'dev'"):
        open_recordings(write.root, "dev")
    for name in ("n-mnist", "n-cars", "cifar10-dvs", "n-caltech101"):
        other = Writer(tmp_path / name)
        other.atis("cats/a.bin")
        with pytest.raises(DataError, match=r"found .*cats"):
            open_recordings(f"{name}={other.root}")
    with pytest.raises(DataError, match="no recording of the train split"):
        open_recordings(f"dvs-gesture={write.root}")
    with pytest.raises(DataError, match="grabbed_data0/scale4/"):
        open_recordings(f"mnist-dvs={write.root}")
    with pytest.raises(ConfigError, match=r"\(34, 34\); leave it out"):
        open_recordings(n_mnist(Writer(tmp_path / "digits")), sensor=(30, 30))


def test_numeric_order():
    names = ["a/10.bin", "a/9.bin", "a/b.bin", "a/009.bin", "a/1_2.bin", "a/1_10.bin"]
    assert sorted(names, key=in_numeric_order) == [
        *("a/1_2.bin", "a/1_10.bin", "a/9.bin", "a/009.bin", "a/10.bin", "a/b.bin")
    ]


def test_known_sensor_sizes():
    assert {name: known.sensor for name, known in DATA_SETS.items()} == {
        "n-mnist": (34, 34),
        "n-caltech101": (180, 240),
        "n-cars": (100, 120),
        "cifar10-dvs": (128, 128),
        "mnist-dvs": (128, 128),
        "mnist-dvs-scale4": (128, 128),
        "mnist-dvs-scale8": (128, 128),
        "mnist-dvs-scale16": (128, 128),
        "dvs-gesture": (128, 128),
    }


def test_fingerprints(write):
    source = n_mnist(write)
    memory = open_recordings(source)
    files = open_recordings(source, memory_limit=0)
    assert fingerprint(memory) == fingerprint(open_recordings(source))
    assert fingerprint(files) == fingerprint(open_recordings(source, memory_limit=0))
    assert fingerprint(memory) != fingerprint(memory.subset(np.arange(29)))
    before = fingerprint(files)
    write.write("Train/5/2.bin", bytes([1, 2, 0, 0, 9]))
    assert fingerprint(files) != before
    assert fingerprint(open_recordings(source)) != fingerprint(memory)


# The built-in set


def test_built_in_digits():
    digits = open_digits("test", 12)
    assert (len(digits), digits.height, digits.width) == (12, 34, 34)
    assert digits.classes == tuple("0123456789")
    assert digits.labels.dtype == torch.int64
    assert fingerprint(digits) == fingerprint(open_digits("test", 12))
    negated = open_digits("test", 12, variation="log_negated")
    assert "log_negated" in negated.layout
    assert negated.labels.tolist() == digits.labels.tolist()
    one, other = (found.read(np.array([3])) for found in (digits, negated))
    assert np.mean(one.p) == pytest.approx(1 - np.mean(other.p), abs=0.02)


def test_memory_recordings_check_their_parts():
    digits = open_digits("test", 3)
    one = Events.of([0], [0], [0], [0], height=3, width=3)
    arguments = [digits.classes, digits.labels, digits.names, digits.layout]
    with pytest.raises(ValueError, match="expected 3 recordings, found 1"):
        MemoryRecordings(*arguments, 34, 34, (one,))
    with pytest.raises(ValueError, match="34 x 34"):
        MemoryRecordings(*arguments, 34, 34, (one, one, one))
