from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from event_files import random_events
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.errors import ConfigError, DataError
from modicum.events import Events, read, write
from modicum.events.writing import encode

SUFFIXES = [".npz", ".npy", ".dat", ".bin", ".bs2"]
FORMATS = {".npz": "npz", ".npy": "npy", ".dat": "prophesee", ".bin": "atis", ".bs2": "atis"}


def events_of(t: Any, x: Any = 0, y: Any = 0, p: Any = 0, *, size: int = 300) -> Events:
    columns = np.broadcast_arrays(t, x, y, p)
    return Events.of(*columns, height=size, width=size)


def assert_same(one: Events, other: Events) -> None:
    np.testing.assert_array_equal(one.to_array("txyp"), other.to_array("txyp"))


STEPS = st.lists(
    st.tuples(st.integers(0, 2**24), st.integers(0, 255), st.integers(0, 239), st.integers(0, 1)),
    max_size=40,
)


@settings(deadline=None)
@given(
    rows=STEPS,
    start=st.integers(0, 2**31),
    backwards=st.booleans(),
    suffix=st.sampled_from(SUFFIXES),
)
def test_what_is_written_is_read(
    rows: list[tuple[int, ...]], start: int, backwards: bool, suffix: str
) -> None:
    """Times grow by up to 17 seconds from event to event, and may fall a little now and then."""
    steps, *others = np.array(rows, np.int64).reshape(-1, 4).T
    t = start + np.cumsum(steps)
    if backwards:
        t[1::2] -= np.minimum(t[1::2], 1000)
    events = Events.of(t, *others, height=240, width=256)
    data = encode(suffix, events)
    back = read(data, format=FORMATS[suffix], sensor=(240, 256))  # type: ignore[arg-type]
    assert_same(back, events)
    if suffix in (".npz", ".dat"):  # these know the size of the sensor
        assert_same(read(data, format=FORMATS[suffix]), events)  # type: ignore[arg-type]


@settings(deadline=None)
@given(
    columns=st.lists(
        st.tuples(
            st.integers(-(2**62), 2**62),
            st.integers(0, 2**15 - 1),
            st.integers(0, 2**15 - 1),
            st.integers(0, 1),
        ),
        max_size=20,
    ),
    suffix=st.sampled_from(SUFFIXES),
)
def test_a_format_gives_the_same_events_or_refuses(
    columns: list[tuple[int, ...]], suffix: str
) -> None:
    values = np.array(columns, np.int64).reshape(-1, 4).T
    events = Events.of(*values, height=2**15, width=2**15)
    try:
        data = encode(suffix, events)
    except DataError:
        assert suffix in (".dat", ".bin", ".bs2")
        return
    assert_same(read(data, format=FORMATS[suffix]), events)  # type: ignore[arg-type]


def test_files_are_read_by_their_suffix(tmp_path: Path) -> None:
    events = random_events(1000)
    for suffix in SUFFIXES:
        path = tmp_path / "new folder" / f"a{suffix.upper()}"
        write(path, events)
        assert_same(read(path), events)
    assert {path.suffix.lower() for path in path.parent.iterdir()} == set(SUFFIXES)


def test_hdf5_files_give_the_same_events_back(tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="needs the extra 'events'")
    for events in (random_events(1000), random_events(0)):
        write(tmp_path / "a.h5", events)
        back = read(tmp_path / "a.h5")
        assert_same(back, events)
        assert (back.height, back.width) == (events.height, events.width)


def test_long_recordings_fit_40_bits() -> None:
    """23 bits last 8.4 s; here are ten minutes, with the ends of the 23 bits."""
    events = events_of([0, 2**23 - 1, 2**23, 2**23 + 8191, 2**23 + 8192, 600_000_000])
    data = encode(".bin", events)
    assert_same(read(data, format="atis"), events)
    assert (len(data) // 5 - len(events)) == -(-(600_000_000 - 2**23 + 1) // 2**13)


@pytest.mark.parametrize(
    ("suffix", "events", "message"),
    [
        (".bin", events_of([0], x=256), "x goes up to 256 and y up to 0"),
        (".bin", events_of([0], y=240), "y up to 240; the largest are x = 255, y = 239"),
        (".bs2", events_of([-1]), "the earliest time is -1 us"),
        (".bin", events_of([10**9, 0]), "the time of event 1 is 0 us, too far before"),
        (".bin", events_of([10**15]), "122,070,311,477 overflow markers"),
        (".dat", events_of([0], x=2**14, size=2**15), "x goes up to 16384"),
        (".dat", events_of([-5]), "the earliest time is -5 us"),
        (".dat", events_of([2**32]), "stored modulo 2^32 us"),
        (".dat", events_of([2**32 - 1, 0]), "stored modulo 2^32 us"),
        (".dat", events_of([0, 2**33]), "stored modulo 2^32 us"),
    ],
)
def test_events_a_format_cannot_hold_are_refused(
    suffix: str, events: Events, message: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    with pytest.raises(DataError, match="cannot hold these events") as caught:
        write(path, events)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="AEDAT is read, but not written"):
        write(tmp_path / "a.aedat", random_events(3))
    with pytest.raises(ConfigError, match=r"suffix '.txt'. Known: .npz, .npy"):
        write(tmp_path / "a.txt", random_events(3))
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write(path, events_of([1, 2]))
    before = path.read_bytes()
    with pytest.raises(DataError):
        write(path, events_of([-1]))
    assert path.read_bytes() == before
    write(path, events_of([1, 2, 3]))
    assert len(read(path)) == 3
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]
