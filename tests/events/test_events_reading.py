from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from event_files import AEDAT3_HEADER, aedat3_packet, golden_formats, long_files, random_events

from modicum.errors import ConfigError, DataError, MissingExtraError
from modicum.events import EventFormatError, Events, detect, read, windows, write

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "aedat2": [{"convention": "jaer"}, {"convention": "dat2mat"}, {"convention": "raw"}],
    "aedat3": [{"keep_invalid": False}, {"keep_invalid": True}],
}
CASES = [(name, options) for name in long_files() for options in OPTIONS.get(name, [{}])]


def assert_same(parts: Iterable[Events], whole: Events) -> None:
    joined = np.concatenate([part.to_array("txyp") for part in parts])
    np.testing.assert_array_equal(joined, whole.to_array("txyp"))


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
@pytest.mark.parametrize("size", [999, 16_384, 10**9])
def test_windows_together_are_the_whole(name: str, options: dict[str, Any], size: int) -> None:
    data, format = long_files()[name], name.split()[0]
    whole = read(data, format=format, **options)
    parts = list(windows(data, size, format=format, **options))
    assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1)
    assert 0 < len(parts[-1]) <= size
    assert_same(parts, whole)
    assert {(p.height, p.width) for p in parts} == {(whole.height, whole.width)}


def test_windows_of_a_mapped_file(tmp_path: Path) -> None:
    """Files of a mebibyte and more are mapped into memory."""
    events = random_events(200_000)
    write(tmp_path / "a.dat", events)
    assert (tmp_path / "a.dat").stat().st_size > 2**20
    assert_same(windows(tmp_path / "a.dat", 50_000), events)
    assert_same([read(tmp_path / "a.dat")], events)


def test_windows_of_hdf5(tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="needs the extra 'events'")
    events = random_events(300_000)
    write(tmp_path / "a.h5", events)
    assert_same(windows(tmp_path / "a.h5", 70_000), events)


def test_windows_before_the_damage_are_given() -> None:
    data = bytearray(long_files()["aedat2"])
    data[-8] = 1  # an address no DVS128 has
    found: list[Events] = []
    with pytest.raises(EventFormatError, match="event 49,999"):
        found.extend(windows(bytes(data), 1000))
    assert len(found) >= 48
    assert_same(found, read(long_files()["aedat2"])[: 1000 * len(found)])


def test_windows_of_nothing_are_none() -> None:
    assert list(windows(b"", format="atis")) == []
    with pytest.raises(ConfigError, match="expected 1 at least"):
        next(windows(b"", 0, format="atis"))


@pytest.mark.parametrize(
    ("key", "suffix", "format"),
    [
        ("nmnist_bin", ".bin", "atis"),
        ("nmnist_bin", ".BS2", "atis"),
        ("cd_dat", ".dat", "prophesee"),
        ("cd_dat", ".unknown", "prophesee"),
        ("aedat2", ".aedat", "aedat2"),
        ("aedat2", ".dat", "aedat2"),  # as old versions of jAER name it
        ("aedat31", ".aedat", "aedat3"),
    ],
)
def test_the_format_is_found(key: str, suffix: str, format: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(golden_formats()[f"{key}.bytes"].tobytes())
    assert detect(path) == format
    assert len(read(path)) == len(read(path, format=format))  # type: ignore[arg-type]


def test_the_format_of_arrays_is_found(tmp_path: Path) -> None:
    for name, format in (("npz", "npz"), ("npy", "npy"), ("npy pack", "npy")):
        path = tmp_path / "without_suffix"
        path.write_bytes(long_files()[name])
        assert detect(path) == format
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    assert detect(path) == "h5"


def test_events_that_look_like_a_mark_are_events(tmp_path: Path) -> None:
    """`PK` and `%` are pixels as well, and the suffix says which."""
    path = tmp_path / "a.bin"
    for start in (b"PK\x03\x04", b"% a\n"):
        path.write_bytes(start + b"\0")
        events = read(path)
        assert (events.x.tolist(), events.y.tolist()) == ([start[0]], [start[1]])


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"some text")
    with pytest.raises(EventFormatError, match=r"a\.txt, byte 0: no known format.*format="):
        read(path)
    for missing in (tmp_path, tmp_path / "none.bin"):
        with pytest.raises(DataError, match="cannot be read: "):
            read(missing)


@pytest.mark.parametrize(
    "options",
    [
        {"convention": "upright"},
        {"format": "raw"},
        {"sensor": (0, 5)},
        {"sensor": (5, 2**16)},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    for reader in (read, lambda *a, **k: list(windows(*a, **k))):
        with pytest.raises(ConfigError, match="expected"):
            reader(golden_formats()["cd_dat.bytes"].tobytes(), **options)


def test_the_sensor_may_be_given() -> None:
    data = golden_formats()["nmnist_bin.bytes"].tobytes()
    events = read(data, format="atis", sensor=(180, 240))
    assert (events.height, events.width) == (180, 240)
    with pytest.raises(EventFormatError, match="outside the sensor of 20 rows and 240 columns"):
        read(data, format="atis", sensor=(20, 240))
    events = read(golden_formats()["cd_dat.bytes"].tobytes(), sensor=(480, 640))
    assert (events.height, events.width) == (480, 640)
    assert (read(b"", format="atis", sensor=(3, 4)).width) == 4


def test_sorting_is_on_request() -> None:
    data = bytes([1, 1, 0, 0, 9, 2, 2, 128, 0, 5])
    assert read(data, format="atis").t.tolist() == [9, 5]
    assert read(data, format="atis", sort=True).to_array("txyp").tolist() == [
        [5, 2, 2, 1],
        [9, 1, 1, 0],
    ]


def test_h5py_is_asked_for_when_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"modicum\[events\]"):
        read(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(MissingExtraError, match=r"modicum\[events\]"):
        write(tmp_path / "a.h5", random_events(3))


def test_little_memory_is_held(tmp_path: Path) -> None:
    """Of a file most of which are other packets, the events alone are kept."""
    frames = aedat3_packet([0] * 5000, [0] * 5000, [0] * 5000, [0] * 5000, kind=2)
    events = read(AEDAT3_HEADER + frames + aedat3_packet([1], [2], [3], [1]))
    assert len(events) == 1
    assert events.t.base is None or events.t.base.nbytes < 1000


def test_every_real_recording_is_read(shared_data: Callable[[str], Path]) -> None:
    paths = sorted(shared_data("nmnist-small").glob("*.bin"))
    total = 0
    for path in paths:
        events = read(path, sensor=(34, 34))
        assert events.is_sorted
        assert 250_000 < events.duration < 350_000
        total += len(events)
    assert (len(paths), total) == (600, 2_440_263)
    (car,) = shared_data("ncars-sample").glob("*.dat")
    events = read(car)
    assert 99_000 < events.duration <= 100_000
    assert events.height <= 100
    assert events.width <= 120
