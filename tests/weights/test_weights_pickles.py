"""Pickles of arrays are read as they were written; nothing else is, and nothing is run."""

from __future__ import annotations

import argparse
import os
import pickle
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modicum.errors import DataError
from modicum.weights.pickles import read_pickle

ARRAYS: dict[str, Any] = {
    "rows": np.arange(12, dtype=np.float32).reshape(3, 4),
    "columns": np.asfortranarray(np.arange(12, dtype=np.int16).reshape(3, 4)),
    "big": np.arange(5, dtype=">i4"),
    "big too": np.arange(3, dtype=">i4"),  # the type is written once
    "long": np.arange(1000.0),
    "none": np.empty((0, 7)),
    "names": np.array(["car", "bicycle"]),
    "scalar": np.float64(0.1),
    "point": np.array(3),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_is_written_is_read(tmp_path: Path, protocol: int) -> None:
    content: dict[str, Any] = {
        "model": OrderedDict(ARRAYS),
        "again": [ARRAYS["rows"], (1, -(10**30), 0.5, None, True, "ü", b"\x00\xff", b"")],
    }
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    read = read_pickle(path)
    assert list(read) == list(content)
    assert read["again"][1] == content["again"][1]
    assert read["again"][0] is read["model"]["rows"]
    assert list(read["model"]) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert type(read["model"][name]) is type(array)
        assert read["model"][name].dtype in (array.dtype, array.dtype.newbyteorder("="))
        assert np.array_equal(read["model"][name], array)
        if array.ndim:
            read["model"][name][:0] = array[:0]  # can be written to


class Calls:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_is_run(tmp_path: Path, protocol: int) -> None:
    hostile = Calls(os.mkdir, str(tmp_path / "made"))
    path = tmp_path / "a.pkl"
    for content in (hostile, {"model": hostile}, np.array([hostile], dtype=object)):
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        with pytest.raises(DataError, match=r"a\.pkl: the pickle .*not read"):
            read_pickle(path)
    assert not (tmp_path / "made").exists()
    path.write_bytes(pickle.dumps(hostile, protocol=protocol))
    with pytest.raises(DataError, match=r"asks for (posix|nt)\.mkdir"):
        read_pickle(path)
    path.write_bytes(pickle.dumps(argparse.Namespace(a=1), protocol=protocol))
    with pytest.raises(DataError, match=r"asks for (argparse\.Namespace|copyreg|copy_reg)"):
        read_pickle(path)


def build(name: bytes, state: bytes) -> bytes:
    return b"\x80\x02c" + name + b"\n" + state + b"b."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (b"\x80\x02garbage", "damaged"),
        (pickle.dumps(ARRAYS)[:-20], "damaged"),
        (build(b"numpy\ndtype", b"N}X\x01\x00\x00\x00aK\x01s\x86"), "sets attributes"),
        (build(b"collections\nOrderedDict", b"}X\x01\x00\x00\x00aK\x01s"), "sets attributes"),
        (b"\x80\x02cbuiltins\nbytes\nK\x09\x85R.", "damaged"),  # bytes(9) would take 9 bytes
        (b"\x80\x02cnumpy\nndarray\nK\x09\x85\x81.", "damaged"),  # and so would an array
        (b"cos\nsystem\n.", r"asks for os\.system"),
        (b"(ios\nsystem\n.", r"asks for os\.system"),
        (b"P1\n.", "damaged"),
    ],
)  # fmt: skip
def test_what_is_no_pickle_of_arrays_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_pickle(path)
    assert str(path) in str(caught.value)


def array_of(shape: tuple[int, ...], data: bytes, kind: str = "u1") -> bytes:
    """A pickle of an array that claims to be of another shape than its bytes."""
    state = (1, shape, np.dtype(kind), False, data)
    reconstruct = np.empty(0).__reduce__()[0]
    whole = pickle.dumps([reconstruct, (np.ndarray, (0,), b"b"), state], protocol=2)
    # The list of the three becomes a call and what it is built with.
    head, _, tail = whole.partition(b"]q\x00(")
    body = tail[: tail.rindex(b"e.")]
    arguments, _, state_part = body.partition(b"(K\x01")
    return head + arguments + b"R(K\x01" + state_part + b"b."


def test_the_sizes_of_arrays_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(array_of((2, 3), b"abcdef"))
    assert read_pickle(path).tolist() == [list(b"abc"), list(b"def")]
    for content in (
        array_of((10**10,), b"abcdef"),
        array_of((-2, -3), b"abcdef"),
        array_of((2**40, 2**40, 0), b"abcdef"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"of shape .* holds 6 bytes"):
            read_pickle(path)
    path.write_bytes(array_of((10**12,), b"", "U"))
    with pytest.raises(DataError, match="array of <U0"):
        read_pickle(path)


BOMBS = {
    "a number for the memo": b"Nr\xff\xff\xff\x1f.",
    "a number in decimals": b"Np1000000000\n.",
    "bytes": b"\x80\x04\x8e" + (2**36).to_bytes(8, "little"),
    "text": b"\x80\x04\x8d" + (2**36).to_bytes(8, "little"),
    "mutable bytes": b"\x80\x05\x96" + (2**33).to_bytes(8, "little"),
    "a frame": b"\x80\x04\x95" + (2**36).to_bytes(8, "little"),
    "a long number": b"\x80\x02\x8b" + (2**31 - 1).to_bytes(4, "little"),
    # One text of 10 kB, encoded ten thousand times.
    "a multiplied text": pickle.dumps("x" * 10_000, 2)[:-1]
    + b"0c_codecs\nencode\nq\x01](" + b"h\x01h\x00\x85R" * 10_000 + b"e.",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_memory_stays_near_the_size_of_the_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(BOMBS[name])
    tracemalloc.start()
    try:
        if "number for" in name or "decimals" in name:
            assert read_pickle(path) is None
        else:
            with pytest.raises(
                DataError, match="larger than the file" if "mult" in name else "dam"
            ):
                read_pickle(path)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 1e6 + 30 * len(BOMBS[name])
