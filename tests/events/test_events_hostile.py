"""Recordings made to read other files, to fill memory or to hang: one sentence, and little memory.

Memory is what Python and NumPy take; HDF5's own is bounded by what is asked of it.
"""

from __future__ import annotations

import io
import os
import subprocess
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from modicum.cli import main
from modicum.errors import DataError
from modicum.events import open_recordings, read
from modicum.events.formats.recording import EventFormatError

h5py = pytest.importorskip("h5py", reason="needs the extra 'events'")

COLUMNS: dict[str, npt.NDArray[Any]] = {
    "t": np.arange(40), "x": np.arange(40), "y": np.arange(40), "p": np.arange(40) % 2
}  # fmt: skip
SECRET = b"a secret of forty bytes, from elsewhere."


def refusal(path: Path) -> str:
    """What is said of a file that is refused, in a moment and little memory."""
    tracemalloc.start()
    begin = time.process_time()
    try:
        with pytest.raises(DataError) as caught:
            read(path)
        assert time.process_time() - begin < 5
        assert tracemalloc.get_traced_memory()[1] < 2**28
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(str(path))
    assert SECRET[:8].decode() not in message
    return message


def external_storage(group: Any, other: Path) -> None:
    group.create_dataset("x", (40,), np.uint8, external=[(str(other), 0, 40)])


def external_link(group: Any, other: Path) -> None:
    group["x"] = h5py.ExternalLink(str(other.with_suffix(".h5")), "secret")


def soft_link(group: Any, other: Path) -> None:
    group["x"] = h5py.SoftLink("/events/t")


def virtual(group: Any, other: Path) -> None:
    layout = h5py.VirtualLayout((40,), np.uint8)
    layout[:] = h5py.VirtualSource(str(other.with_suffix(".h5")), "secret", (40,))
    group.create_virtual_dataset("x", layout)


def references(group: Any, other: Path) -> None:
    group.create_dataset("x", data=[group.ref] * 40, dtype=h5py.ref_dtype)


def variable_length(group: Any, other: Path) -> None:
    group.create_dataset("x", (40,), h5py.vlen_dtype(np.int32))


def texts(group: Any, other: Path) -> None:
    group["x"] = ["9"] * 40


def compound(group: Any, other: Path) -> None:
    group["x"] = np.zeros(40, [("x", "i4")])


def opaque(group: Any, other: Path) -> None:
    group["x"] = np.zeros(40, "V4")


def nothing(group: Any, other: Path) -> None:
    group["x"] = h5py.Empty("i4")


def a_group(group: Any, other: Path) -> None:
    group.create_group("x")


def pairs(group: Any, other: Path) -> None:
    group["x"] = np.zeros((40, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (external_storage, "the numbers of x lie in other files"),
        (virtual, "the numbers of x lie in other files"),
        (external_link, "x is a link"),
        (soft_link, "x is a link"),
        (references, "x is of the type object"),
        (variable_length, "x is of the type object"),
        (texts, "x is of the type object"),
        (compound, "x is of the type"),
        (opaque, "x is of the type"),
        (nothing, "x is no data set"),
        (a_group, "x is no data set"),
        (pairs, "are of 40, 40 x 2, 40, 40 numbers"),
    ],
)
def test_hdf5_that_holds_no_numbers_of_its_own_is_refused(
    make: Callable[[Any, Path], None], message: str, tmp_path: Path
) -> None:
    path, other = tmp_path / "a.h5", tmp_path / "other"
    other.write_bytes(SECRET)
    with h5py.File(other.with_suffix(".h5"), "w") as file:
        file["secret"] = np.frombuffer(SECRET, np.uint8)
    with h5py.File(path, "w") as file:
        group = file.create_group("events")
        for name in "typ":
            group[name] = COLUMNS[name]
        make(group, other)
    assert message in refusal(path)


@pytest.mark.parametrize("link", [h5py.ExternalLink("b.h5", "events"), h5py.SoftLink("/other")])
def test_a_group_that_is_a_link_is_refused(link: Any, tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        with h5py.File(tmp_path / name, "w") as file:
            group = file.create_group("events" if name == "b.h5" else "other")
            for column, values in COLUMNS.items():
                group[column] = values
            if name == "a.h5":
                file["events"] = link
    assert "events is a link" in refusal(tmp_path / "a.h5")


@pytest.mark.parametrize("value", [np.zeros((300, 3)), "34", h5py.Empty("i4"), [34, 34], 0, 2**40])
def test_a_size_that_is_none_is_refused(value: Any, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for column, values in COLUMNS.items():
            file[f"events/{column}"] = values
        file["events"].attrs["height"], file["events"].attrs["width"] = value, 34
    assert "height is " in refusal(tmp_path / "a.h5")


def filled(path: Path, count: int, **options: Any) -> Path:
    """A file that claims `count` events, with the first 40."""
    with h5py.File(path, "w") as file:
        for column, values in COLUMNS.items():
            data_set = file.create_dataset(f"events/{column}", (count,), "i8", **options)
            data_set[:40] = values
    return path


def test_hdf5_cannot_claim_more_than_it_stores(tmp_path: Path) -> None:
    path = filled(tmp_path / "a.h5", 10**12, chunks=(1024,))
    assert "claims 1,000,000,000,000 numbers" in refusal(path)
    path = filled(path, 10**8, chunks=(1024,), compression="gzip")
    assert "claims 100,000,000 numbers" in refusal(path)
    path = filled(path, 10**7, chunks=(10**7,), compression="lzf")
    assert "is compressed in pieces" in refusal(path)
    path = filled(path, 4000, chunks=(1024,), compression="gzip")  # the rest was never written
    assert len(read(path)) == 4000
    path = filled(path, 10**6, chunks=(10**6,), compression="lzf")
    assert len(read(path)) == 10**6


def test_what_is_packed_too_well_is_not_read_whole(tmp_path: Path) -> None:
    count, path = 3 * 10**7, tmp_path / "a.npz"
    np.savez_compressed(path, **{name: np.zeros(count, np.uint8) for name in "txyp"},
                        height=np.int64(4), width=np.int64(4))  # fmt: skip
    assert "take 0.4 GiB of memory" in refusal(path)
    count, path = 10**5, tmp_path / "b.npz"
    np.savez_compressed(path, **{name: np.zeros(count, np.uint8) for name in "txyp"},
                        height=np.int64(4), width=np.int64(4))  # fmt: skip
    assert len(read(path)) == count


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_an_archive_of_another_compression_is_not_unpacked(method: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
        for name in ("t", "x", "y", "p", "height", "width"):
            stream = io.BytesIO()
            np.save(stream, np.zeros(1000, np.int64))
            archive.writestr(f"{name}.npy", stream.getvalue())
    assert "is compressed otherwise than by NumPy" in refusal(tmp_path / "a.npz")


@pytest.mark.parametrize("kind", ["i8", "u8", "f8"])
def test_times_that_overflow_are_refused(kind: str, tmp_path: Path) -> None:
    times = np.array([0, 2**63 - 1], np.dtype(kind) if kind != "f8" else np.float64)
    for offset in (0, 2**61):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            for name in "xyp":
                file[f"events/{name}"] = np.zeros(2, np.uint8)
            file["events/t"], file["t_offset"] = times, offset
        assert "2^62" in (message := refusal(tmp_path / "a.h5")) or "expected a whole" in message


def test_the_question_of_seconds_takes_no_memory(tmp_path: Path) -> None:
    pack = np.zeros((2 * 10**6, 4), np.float32)
    pack[-1] = 0.25
    np.save(tmp_path / "a.npy", pack)
    with pytest.raises(EventFormatError, match="expected a whole number"):
        read(tmp_path / "a.npy")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("suffix", [".bin", ".npy", ".npz", ".h5", ".dat", ".aedat"])
def test_a_pipe_is_no_recording(suffix: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"a{suffix}")
    assert "is no ordinary file" in refusal(tmp_path / f"a{suffix}")


CASES = Path(__file__).parents[3] / "shared" / "cases"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("events-external-storage.h5", "the numbers of x lie in other files"),
        ("events-10-to-12.h5", "claims 1,000,000,000,000 numbers"),
        ("events-overflow.h5", "HDF5 cannot read it"),
    ],
)
def test_cases_of_users(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = CASES / "reliability" / name
    if not path.exists():
        pytest.skip("needs ../shared/cases")
    assert message in refusal(path)
    assert main(["convert", "events", str(path), str(tmp_path / "out.npz")]) == 1
    assert message.split()[0] in (said := " ".join(capsys.readouterr().err.split()))
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


# Folders


def folder(root: Path, *names: str) -> Path:
    """A folder of one's own with a recording of each name."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(bytes([1, 1, 0, 0, 9]))
    return root


def links_in_a_circle(root: Path) -> None:
    (root / "a" / "loop").symlink_to("loop")
    (root / "a" / "loop.bin").symlink_to("other.bin")
    (root / "a" / "other.bin").symlink_to("loop.bin")


def links_to_each_other(root: Path) -> None:
    (root / "a" / "over").symlink_to(root / "b")
    (root / "b" / "back").symlink_to(root / "a")


def links_that_multiply(root: Path) -> None:
    for level in range(30):
        (root / "a" / f"{level + 1}").mkdir()
        for link in "xy":
            (root / "a" / str(level or "") / link).symlink_to(root / "a" / f"{level + 1}")


def a_link_to_itself(root: Path) -> None:
    (root / "c").symlink_to("c")


def a_link_out(root: Path) -> None:
    (root / "a" / "secret.bin").symlink_to(root.parent / "secret.bin")


def folders_in_folders(root: Path) -> None:
    path = root / "a"
    for _ in range(1200):
        path /= "d"
        path.mkdir()
    (path / "deep.bin").write_bytes(bytes(5))


@pytest.mark.parametrize("make", [links_in_a_circle, links_to_each_other, links_that_multiply,
                                  a_link_to_itself, a_link_out, folders_in_folders])  # fmt: skip
def test_folders_with_links_are_read_once_or_refused(
    make: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder(tmp_path, "secret.bin")
    root = folder(tmp_path / "data", "a/1.bin", "a/2.bin", "b/1.bin", "b/2.bin")
    make(root)
    begin = time.process_time()
    found = open_recordings(root, holdout=0, skip_bad=True)
    names = found.names.tolist()
    assert {"a/1.bin", "a/2.bin", "b/1.bin", "b/2.bin"} <= {name[-7:] for name in names}
    assert "secret.bin" not in "".join(names)
    assert len(names) <= 8
    if make not in (a_link_to_itself, folders_in_folders):
        with pytest.raises(DataError, match="symbolic link leads"):
            open_recordings(root, holdout=0)
    assert main(["data", "events", str(root)]) in (0, 1)
    assert "Traceback" not in capsys.readouterr().err
    assert time.process_time() - begin < 5
    subprocess.run(["rm", "-r", root], check=True)  # pytest's own way has no end of recursion


def test_files_of_one_number_are_not_lost(tmp_path: Path) -> None:
    root = folder(tmp_path, "1.bin", "01.bin", "2.bin")
    (root / "labels.tsv").write_text("1\t3\n2\t4\n")
    with pytest.raises(DataError, match=r"01\.bin and 1\.bin have the same number"):
        open_recordings(f"n-mnist={root}")
    (root / "01.bin").unlink()
    (root / "labels.tsv").write_text("1\t3\n2\t4\n01\t5\n")
    with pytest.raises(
        DataError, match=r"line 3: expected the number of a file and a digit.*each number once"
    ):
        open_recordings(f"n-mnist={root}")


LONG = "9" * 5000


@pytest.mark.parametrize("line", [f"{LONG}\t1", f"1\t{LONG}", "1\t-1", "1", "\0", "x" * 200_000])
def test_numbers_without_end_in_a_list_are_refused(line: str, tmp_path: Path) -> None:
    root = folder(tmp_path, "1.bin")
    (root / "labels.tsv").write_text(line)
    with pytest.raises(DataError, match=r"labels\.tsv"):
        open_recordings(f"n-mnist={root}")


@pytest.mark.parametrize("row", [f"{LONG},1,2", f"1,2,{LONG}", f"1,{LONG},{LONG}9"])
def test_numbers_without_end_in_gestures_are_refused(row: str, tmp_path: Path) -> None:
    root = folder(tmp_path, "user01_led.aedat")
    (root / "user01_led_labels.csv").write_text(f"class,startTime_usec,endTime_usec\n{row}\n")
    with pytest.raises(DataError, match=r"user01_led_labels\.csv, line 2: expected a class"):
        open_recordings(f"dvs-gesture={root}")
    (root / "trials_to_train.txt").write_text(f"user{LONG}_led.aedat\n")
    with pytest.raises(DataError, match=r"trials_to_train\.txt: lists user999"):
        open_recordings(f"dvs-gesture={root}")


@pytest.mark.parametrize("table", ["labels.tsv", "trials_to_train.txt", "user01_led_labels.csv"])
def test_a_list_is_no_link_and_no_pipe(table: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("root:x:0:0\n")
    root = folder(tmp_path / "data", "1.bin", "user01_led.aedat")
    name = "n-mnist" if table == "labels.tsv" else "dvs-gesture"
    (root / table).symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match="the symbolic link leads out of") as caught:
        open_recordings(f"{name}={root}")
    assert "root:x" not in str(caught.value)
    (root / table).unlink()
    if table != "labels.tsv":  # a pipe there is no list
        os.mkfifo(root / table)
        with pytest.raises(DataError):
            open_recordings(f"{name}={root}")
