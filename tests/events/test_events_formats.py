"""Every format, decoded: golden files, a second decoder that goes event by event, damage."""

from __future__ import annotations

import io
import logging
import random
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from event_files import AEDAT3_HEADER, aedat3_packet, golden_formats, long_files, random_events
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from modicum.events import EventFormatError, Events, read
from modicum.events.formats.aedat2 import Convention
from modicum.events.reading import Format

SHARED_GOLDEN = Path(__file__).parents[3] / "shared/golden/event-augmentation/formats.safetensors"
MUTATIONS = 20_000


def assert_columns(events: Events, **expected: npt.NDArray[Any]) -> None:
    for name, column in expected.items():
        np.testing.assert_array_equal(getattr(events, name), column, err_msg=name)


# Golden


@pytest.mark.parametrize(
    ("name", "format", "size"),
    [
        ("nmnist_bin", "atis", (34, 34)),
        ("ncaltech_bin_overflow", "atis", None),
        ("ncars_dat", None, None),
        ("cd_dat", None, (240, 304)),
    ],
)
def test_files_decode_as_the_reference_does(
    name: str, format: Format | None, size: tuple[int, int] | None
) -> None:
    golden = golden_formats()
    events = read(golden[f"{name}.bytes"].tobytes(), format=format)
    assert_columns(events, **{column: golden[f"{name}.{column}"] for column in "txyp"})
    needed = (int(golden[f"{name}.y"].max()) + 1, int(golden[f"{name}.x"].max()) + 1)
    assert (events.height, events.width) == (size or needed)


def test_aedat2_has_three_conventions() -> None:
    golden = golden_formats()
    data, t = golden["aedat2.bytes"].tobytes(), golden["aedat2.t"]
    for convention in ("jaer", "raw"):
        x, y, p = (golden[f"aedat2.{convention}_{column}"] for column in "xyp")
        assert_columns(read(data, convention=convention), t=t, x=x, y=y, p=p)
    t, x, y, polarity = (golden[f"aedat2.dat2mat_{column}"] for column in ("t", "x", "y", "pol"))
    events = read(data, convention="dat2mat")
    assert_columns(events, t=t, x=x, y=y, p=polarity == 1)
    assert (events.height, events.width) == (128, 128)


def test_aedat3_skips_other_packets_and_invalid_events() -> None:
    golden = golden_formats()
    data, valid = golden["aedat31.bytes"].tobytes(), golden["aedat31.valid"] == 1
    columns = {column: golden[f"aedat31.{column}"] for column in "txyp"}
    assert_columns(read(data, keep_invalid=True), **columns)
    assert 0 < valid.sum() < len(valid)
    assert_columns(read(data), **{name: column[valid] for name, column in columns.items()})


def test_a_real_recording_decodes_as_the_reference_does() -> None:
    if not SHARED_GOLDEN.exists():
        pytest.skip("../shared/golden is absent; real recordings are not kept here")
    golden = load_file(SHARED_GOLDEN)
    events = read(golden["real_nmnist.bytes"].tobytes(), format="atis")
    assert_columns(events, **{column: golden[f"real_nmnist.{column}"] for column in "txyp"})


# A second decoder, event by event


def slow_atis(data: bytes) -> Iterator[tuple[int, ...]]:
    shift = 0
    for x, y, high, middle, low in struct.iter_unpack("5B", data):
        if y == 240:
            shift += 2**13
        else:
            yield shift + ((high & 127) << 16 | middle << 8 | low), x, y, high >> 7


def slow_prophesee(data: bytes) -> Iterator[tuple[int, ...]]:
    wraps, last = 0, 0
    start = data.index(b"\x0c\x08") + 2
    for t, word in struct.iter_unpack("<II", data[start:]):
        if last - t > 2**31:
            wraps += 1
        last = t
        yield t + 2**32 * wraps, word & 0x3FFF, word >> 14 & 0x3FFF, word >> 28 & 1


def slow_aedat2(data: bytes, convention: str) -> Iterator[tuple[int, ...]]:
    events = list(struct.iter_unpack(">II", data[data.index(b"comment\r\n") + 9 :]))
    shift, last = 0, events[0][1]
    for address, t in events:
        x, y, bit = address >> 1 & 127, address >> 8 & 127, address & 1
        if convention == "raw":
            yield t, x, y, bit
        elif convention == "jaer":
            yield t, 127 - y, 127 - x, 1 - bit
        else:
            if t < last:
                shift += last
            last = t
            yield t + shift - events[0][1], 127 - x, y, 1 - bit


def slow_aedat3(data: bytes, keep_invalid: bool) -> Iterator[tuple[int, ...]]:
    place = len(AEDAT3_HEADER)
    while place < len(data):
        kind, _, size, _, overflow, _, count, _ = struct.unpack_from("<hhiiiiii", data, place)
        place += 28
        for first in range(place, place + size * count, size):
            word, t = struct.unpack_from("<II", data, first)
            if kind == 1 and (word & 1 or keep_invalid):
                yield overflow << 31 | t, word >> 17, word >> 2 & 0x7FFF, word >> 1 & 1
        place += size * count


SLOW: list[tuple[str, dict[str, Any], Callable[..., Iterator[tuple[int, ...]]]]] = [
    ("atis", {}, slow_atis),
    ("prophesee", {}, slow_prophesee),
    *(("aedat2", {"convention": name}, slow_aedat2) for name in get_args(Convention)),
    ("aedat3", {"keep_invalid": False}, slow_aedat3),
    ("aedat3", {"keep_invalid": True}, slow_aedat3),
]


@pytest.mark.parametrize(("format", "options", "slow"), SLOW, ids=str)
def test_blocks_are_decoded_as_event_by_event(
    format: Format, options: dict[str, Any], slow: Callable[..., Iterator[tuple[int, ...]]]
) -> None:
    data = long_files()[format]
    expected = np.array(list(slow(data, **options)))
    np.testing.assert_array_equal(read(data, format=format, **options).to_array("txyp"), expected)


@pytest.mark.parametrize("name", ["npz", "npy", "npy pack", "npy pack, Fortran order"])
def test_arrays_give_the_events_they_were_made_of(name: str) -> None:
    expected = random_events(50_000, 128, 128, seed=0)
    assert_columns(read(long_files()[name]), **{n: getattr(expected, n) for n in "txyp"})


def test_packs_in_seconds_become_microseconds() -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([[1, 2, 0.0, -1], [3, 4, 0.25, 1], [3, 4, 0.300001, 1]], np.float32))
    events = read(stream.getvalue())
    assert events.t.tolist() == [0, 250_000, 300_001]
    assert events.p.tolist() == [0, 1, 1]


def test_hdf5_as_ours_and_as_dsec(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="needs the extra 'events'")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["events/t"] = np.array([0, 2**32 - 1], np.uint32)
        file["events/x"] = np.array([639, 0], np.uint16)
        file["events/y"] = np.array([0, 479], np.uint16)
        file["events/p"] = np.array([0, 1], np.uint8)
        file["t_offset"] = 2**40
        file["ms_to_idx"] = np.arange(3)
    events = read(path)
    assert events.t.tolist() == [2**40, 2**40 + 2**32 - 1]
    assert (events.height, events.width) == (480, 640)
    assert events.x.tolist() == [639, 0]
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(EventFormatError, match="HDF5 cannot read it"):
        read(path)
    with h5py.File(path, "w") as file:
        file["events/t"] = np.zeros(3)
    with pytest.raises(EventFormatError, match="no data sets events/t, events/x"):
        read(path)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_hdf5_with_times_that_are_floats(kind: type[np.floating[Any]], tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="needs the extra 'events'")
    path = tmp_path / "a.h5"
    for times in ([1.0, 2.5], [1.0, np.nan], [np.inf, 2.0]):
        with h5py.File(path, "w") as file:
            file["events/t"] = np.array(times, kind)
            for name in "xyp":
                file[f"events/{name}"] = np.zeros(2, np.uint8)
            file["t_offset"] = 2**40
        if np.isfinite(times).all():
            assert read(path).t.tolist() == [2**40 + 1, 2**40 + 2]
        else:
            with pytest.raises(EventFormatError, match=r"t\[[01]\] is (nan|inf); expected a whole"):
                read(path)


@pytest.mark.parametrize("offset", [np.nan, np.inf, "late", [1, 2], 2**63])
def test_hdf5_with_an_offset_that_is_none(offset: Any, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="needs the extra 'events'")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name in "txyp":
            file[f"events/{name}"] = np.zeros(2, np.uint8)
        file["t_offset"] = np.uint64(offset) if offset == 2**63 else offset
    with pytest.raises(
        EventFormatError, match=r"t_offset is .*; expected a number of microseconds"
    ):
        read(path)


# Damage


def npy(array: npt.NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def npz(**changes: Any) -> bytes:
    arrays: dict[str, Any] = {
        **{name: np.array([0, 1]) for name in "txyp"},
        **{"height": np.array(4), "width": np.array(4)},
    }
    stream = io.BytesIO()
    np.savez(stream, **{k: v for k, v in (arrays | changes).items() if v is not None})
    return stream.getvalue()


DAT = b"% Version 2\n% Height 4\n% Width 5\n\x0c\x08"
GOOD_DAT = struct.pack("<II", 7, 4 | 3 << 14 | 1 << 28)
ATIS = bytes([3, 2, 128, 0, 9])
AEDAT2 = b"#!AER-DAT2.0\r\n"
PACKET = aedat3_packet([1, 2], [3, 4], [5, 6], [0, 1])


@pytest.mark.parametrize(
    ("data", "format", "offset", "message"),
    [
        (ATIS + b"ab", "atis", 5, "2 bytes left over after 1 event of 5 bytes"),
        (DAT + GOOD_DAT + b"abc", None, len(DAT) + 8, "3 bytes left over"),
        (DAT + GOOD_DAT * 2 + struct.pack("<II", 7, 5), None, len(DAT) + 16, "x = 5, y = 0 is out"),
        (b"% a\n\x0c\x04", None, 5, "the events have 4 bytes; expected 8"),
        (b"% a\n\x0e\x08", None, 4, "events are of type 0x0E"),
        (b"% a\n\x0c", None, 4, "the file ends after its header"),
        (b"% a\n% no end", None, 4, "header line, begun by %, has no end"),
        (b"% a\n% Width 40000\n\x0c\x08", None, 4, "width is 40000; expected 1 to 32768"),
        (b"% evt 2.0\n% a\n\x0c\x08", None, 0, "'evt 2.0': a RAW file"),
        (b"% a\n% format EVT3;height=4\n", None, 4, "a RAW file, which is not read"),
        (b"#!AER-DAT3.1\r\n", "aedat2", 0, "the version is AEDAT 3.1; expected 2.0"),
        (b"# old\r\n" + bytes(6), "aedat2", 0, "AEDAT 1 or no AEDAT"),
        (b"", "aedat2", 0, "no line #!AER-DAT2.0"),
        (AEDAT2 + bytes(9), None, 22, "1 byte left over"),
        (AEDAT2 + bytes(8) + b"#" + bytes(7), None, 22, "event 1 is 0x23000000"),
        (AEDAT2 + b"#" + bytes(7), None, 14, "event 0 is 0x23000000; expected at most 0xFFFF"),
        (b"#!AER-DAT2.0\r\n#!END", "aedat3", 0, "the version is AEDAT 2.0; expected 3.1"),
        (b"#!AER-DAT4.0\r\n", None, 0, "AEDAT 4.0 is not read; expected AEDAT 2.0 or 3.1"),
        (b"%", "aedat3", 0, "there is no line #!AER-DAT3.1"),
        (b"#!AER-DAT3.1\r\n#Source", None, 0, "line #!END-HEADER is missing"),
        (AEDAT3_HEADER + PACKET[:20], None, len(AEDAT3_HEADER), "20 bytes left over"),
        (AEDAT3_HEADER + PACKET[:-1], None, len(AEDAT3_HEADER), "runs past the end of the file"),
        (
            AEDAT3_HEADER + PACKET + aedat3_packet([2**31], [0], [0], [0]),
            None,
            len(AEDAT3_HEADER + PACKET) + 28,
            "time of an event is 2,147,483,648; expected below 2^31",
        ),
        (
            AEDAT3_HEADER + PACKET + aedat3_packet([1] * 3, [0, 0, 0], [0, 128, 0], [0] * 3),
            None,
            len(AEDAT3_HEADER + PACKET) + 28 + 8,
            "x = 0, y = 128 is outside the sensor of 128 rows",
        ),
        (
            AEDAT3_HEADER + aedat3_packet([1] * 3, [0, 0, 200], [0] * 3, [0] * 3, valid=[1, 0, 1]),
            None,
            len(AEDAT3_HEADER) + 28 + 16,
            "x = 200",
        ),
        *(
            (
                AEDAT3_HEADER + aedat3_packet([], [], [], [], **changes),
                None,
                len(AEDAT3_HEADER),
                message,
            )
            for changes, message in (
                ({"event": 16}, "polarity events of 16 bytes; expected 8"),
                ({"number": -1}, "no packet starts here: type 1, -1 events"),
                ({"number": 2, "capacity": 1}, "2 events of a capacity of 1"),
                ({"event": 0}, "0 bytes each"),
                ({"overflow": -1}, "time overflow -1"),
                ({"kind": -7}, "type -7"),
            )
        ),
        (npy(np.zeros((3, 5))), None, 0, r"shape (3, 5) and type float64; expected (N, 4)"),
        (npy(np.zeros(3)), None, 0, r"shape (3,)"),
        (npy(np.zeros(3, [("t", "i8"), ("x", "i2")])), None, 0, "missing: y, p"),
        (npy(np.array([[{}]])), None, 0, "not of plain numbers"),
        (npy(np.zeros((2, 4)))[:-8], None, 128 + 32, "says 2 events of 32 bytes"),
        (npy(np.zeros((4, 2)).T[:, :4])[:50], None, 0, "header is damaged"),
        (npy(np.array([[0, 0, 0, 0], [0.5, 0, 0, 1]])), None, 128, "x[1] is 0.5"),
        (npy(np.array([[0, 0, 0, 0], [0, 0, 0, 3]])), None, 128, "polarity has the values [0, 3]"),
        (b"PK\x03\x04abc", None, 0, "the archive is damaged"),
        (npz(t=None), None, 0, "there is no array t"),
        (npz(height=None), None, 0, "there is no array height"),
        (npz(x=np.array([0])), None, 0, "the arrays have different lengths"),
        (npz(x=np.array([0, 4])), None, 0, "x = 4, y = 1 is outside the sensor of 4 rows"),
        (npz(x=np.array([0, -1])), None, 0, "x goes from -1"),
        (npz(x=np.array(["a", "b"])), None, 0, "not of plain numbers"),
        (npz(x=np.zeros((2, 2))), None, 0, "expected one number an event"),
        (npz(width=np.array(0)), None, 0, "width is 0; expected 1 to 32768 pixels"),
        (npz(width=np.array(2**20)), None, 0, "width is 1048576; expected"),
        (b"\x00\x01\x02", None, 0, "no known format"),
    ],
)
def test_damage_is_named_with_its_place(
    data: bytes, format: Format | None, offset: int, message: str
) -> None:
    with pytest.raises(EventFormatError) as caught:
        read(data, format=format)
    assert message in str(caught.value)
    assert caught.value.offset == offset
    assert str(caught.value).startswith(f"<bytes>, byte {offset:,}: ")


def test_an_event_after_dropped_records_is_named_with_its_place() -> None:
    marker = bytes([0, 240, 0, 0, 0])
    data = marker + ATIS * 3 + marker + bytes([200, 2, 128, 0, 9])
    with pytest.raises(EventFormatError) as caught:
        read(data, format="atis", sensor=(34, 34))
    assert caught.value.offset == 25


@pytest.mark.parametrize(
    ("data", "format", "count"),
    [
        (ATIS * 2 + b"ab", "atis", 2),
        (DAT + GOOD_DAT + b"abc", None, 1),
        (AEDAT2 + bytes(20), None, 2),
        (AEDAT3_HEADER + PACKET + PACKET[:20], None, 2),
        (AEDAT3_HEADER + PACKET + PACKET[:-1], None, 3),
        (npy(np.zeros((3, 4)))[:-1], None, 2),
    ],
)
def test_what_is_whole_can_be_had(
    data: bytes, format: Format | None, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(read(data, format=format, strict=False)) == count
    assert len(caplog.records) == 1
    assert "What comes before is used" in caplog.text
    with pytest.raises(EventFormatError, match=r"strict=False in Python.* --no-strict"):
        read(data, format=format)


@pytest.mark.parametrize(
    ("data", "format"),
    [
        (b"", "atis"),
        (b"", "prophesee"),
        (DAT, None),
        (AEDAT2, None),
        (AEDAT3_HEADER, None),
        (npy(np.zeros((0, 4))), None),
        (npz(**{name: np.zeros(0, np.int64) for name in "txyp"}), None),
    ],
)
def test_files_without_events_are_read(data: bytes, format: Format | None) -> None:
    assert len(read(data, format=format)) == 0


def test_a_dat_file_may_have_no_header() -> None:
    events = read(GOOD_DAT * 2, format="prophesee")
    assert events.to_array("txyp").tolist() == [[7, 4, 3, 1]] * 2


def test_a_header_line_is_text() -> None:
    """The rule for `#` as the first byte of an event, in a file that has such events no longer."""
    data = AEDAT2 + "# µs, tab\there\r\n".encode() + struct.pack(">II", 0x0102, 5)
    assert read(data, convention="raw").to_array("txyp").tolist() == [[5, 1, 1, 0]]


def test_an_npz_cannot_claim_more_than_it_could_hold() -> None:
    count, stream = 10**8, io.BytesIO()
    header = io.BytesIO()
    shape = {"descr": "<i8", "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in "txyp":
            archive.writestr(f"{name}.npy", header.getvalue())
    data = stream.getvalue()
    with pytest.raises(EventFormatError, match=r"t\.npy.*expected one number an event"):
        read(data)
    size = len(header.getvalue())
    claimed = data.replace(struct.pack("<I", size), struct.pack("<I", size + 8 * count))
    assert claimed != data
    with pytest.raises(EventFormatError, match=r"t\.npy.*expected one number an event"):
        read(claimed)


# Anything at all


def assert_events_or_error(data: bytes, format: Format, **options: Any) -> bool:
    """Whether there were events; anything but events within the sensor and our error fails."""
    try:
        events = read(data, format=format, **options)
    except EventFormatError:
        return False
    assert 0 <= events.x.min(initial=0) <= events.x.max(initial=0) < events.width
    assert 0 <= events.y.min(initial=0) <= events.y.max(initial=0) < events.height
    assert events.p.max(initial=0) <= 1
    return True


STARTS = [
    b"",
    b"% Height 9\n% Width 9\n\x0c\x08",
    AEDAT2,
    AEDAT3_HEADER,
    b"\x93NUMPY\x01\x00",
    b"PK",
]


@settings(deadline=None)
@given(
    data=st.tuples(st.sampled_from(STARTS), st.binary(max_size=200)).map(b"".join),
    format=st.sampled_from(get_args(Format)[:-1]),
    strict=st.booleans(),
)
def test_any_bytes_give_events_or_our_error(data: bytes, format: Format, strict: bool) -> None:
    assert_events_or_error(data, format, strict=strict)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A file with a few bytes changed, cut off, put in, taken out, or its header damaged."""
    changed, place, size = bytearray(data), rng.randrange(len(data)), rng.randrange(1, 20)
    match rng.randrange(6):
        case 0:
            for _ in range(rng.randrange(1, 9)):
                changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 1:
            del changed[place:]
        case 2:
            changed[place:place] = rng.randbytes(size)
        case 3:
            del changed[place : place + size]
        case 4:
            for _ in range(rng.randrange(1, 5)):
                changed[rng.randrange(min(len(data), 256))] = rng.randrange(256)
        case _:  # a number of a header at one of its limits
            place = rng.randrange(min(len(data), 512))
            limit = rng.choice((0, -1, 1, 2**31 - 1, -(2**31)))
            changed[place : place + 4] = struct.pack("<i", limit)
    return bytes(changed)


def test_damaged_files_give_events_or_our_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Mutations of golden and made files, and of real ones where they are there."""
    caplog.set_level(logging.ERROR)
    golden = golden_formats()
    small = random_events(150)
    columns = {name: getattr(small, name) for name in "txyp"}
    compressed = io.BytesIO()
    np.savez_compressed(compressed, **columns, height=np.int64(100), width=np.int64(120))
    sources: list[tuple[bytes, Format]] = [
        (golden["nmnist_bin.bytes"].tobytes(), "atis"),
        (golden["ncaltech_bin_overflow.bytes"].tobytes(), "atis"),
        (golden["ncars_dat.bytes"].tobytes(), "prophesee"),
        (golden["cd_dat.bytes"].tobytes(), "prophesee"),
        (golden["aedat2.bytes"].tobytes(), "aedat2"),
        (golden["aedat31.bytes"].tobytes(), "aedat3"),
        (npy(small.to_array().astype(np.float32)), "npy"),
        (npy(small.to_structured()), "npy"),
        (npz(**columns, height=np.int64(100), width=np.int64(120)), "npz"),
        (compressed.getvalue(), "npz"),
    ]
    data = SHARED_GOLDEN.parents[2] / "data"
    sources += [(path.read_bytes(), "atis") for path in sorted(data.glob("nmnist-small/0000?.bin"))]
    sources += [(path.read_bytes(), "prophesee") for path in data.glob("ncars-sample/*.dat")]
    rng = random.Random(0)
    conventions = get_args(Convention)
    read_anyway = 0
    tracemalloc.start()
    for number in range(MUTATIONS):
        if number == MUTATIONS // 20:  # following memory makes everything slow
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 32 * 2**20
        source, format = sources[number % len(sources)]
        read_anyway += assert_events_or_error(
            mutated(source, rng),
            format,
            strict=bool(number & 1),
            convention=conventions[number % 3],
            keep_invalid=bool(number & 2),
            sensor=(100, 120) if number % 5 == 0 else None,
        )
    assert 0.2 * MUTATIONS < read_anyway < 0.9 * MUTATIONS  # both ends are reached
