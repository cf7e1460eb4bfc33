"""Event files made for the tests of this folder."""

from __future__ import annotations

import functools
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from modicum.events import Events

GOLDEN = Path(__file__).parents[1] / "golden" / "event_augmentation"
AEDAT3_HEADER = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n"


@functools.cache
def golden_formats() -> dict[str, npt.NDArray[Any]]:
    """`<name>.bytes`, whole files, and the columns that are expected of them."""
    return load_file(GOLDEN / "formats.safetensors")


def random_events(count: int, height: int = 100, width: int = 120, seed: int = 0) -> Events:
    rng = np.random.default_rng(seed)
    return Events.of(
        np.sort(rng.integers(0, 1_000_000, count)),
        rng.integers(0, width, count),
        rng.integers(0, height, count),
        rng.integers(0, 2, count),
        height=height,
        width=width,
    )


def aedat3_packet(
    t: npt.ArrayLike,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    p: npt.ArrayLike,
    *,
    valid: npt.ArrayLike = 1,
    overflow: int = 0,
    kind: int = 1,
    **changes: int,
) -> bytes:
    """A packet of AEDAT 3.1; `changes` are other numbers for its header."""
    t, x, y, p = (np.asarray(column, np.int64) for column in (t, x, y, p))
    words = np.empty((len(t), 2), "<u4")
    words[:, 0] = x << 17 | y << 2 | p << 1 | np.asarray(valid, np.int64)
    words[:, 1] = t
    fields = {"event": 8, "capacity": len(t), "number": len(t), "valid": len(t)} | changes
    numbers = (fields["event"], 4, overflow, fields["capacity"], fields["number"], fields["valid"])
    return struct.pack("<hhiiiiii", kind, 1, *numbers) + words.tobytes()


@functools.cache
def long_files() -> dict[str, bytes]:
    """For each format a file of several blocks, with everything that runs on from block to block.

    Overflow markers, times that wrap, times that decrease, packets of all sizes, invalid events.
    """
    rng = np.random.default_rng(1)
    count = 50_000
    events = random_events(count, 128, 128)
    t, x, y, p = (getattr(events, name).astype(np.int64) for name in "txyp")
    atis = rng.integers(0, 200, (count, 5), dtype=np.uint8)
    atis[rng.random(count) < 0.01, 1] = 240
    dat = np.empty((count, 2), "<u4")
    dat[:, 0] = (t * 40_000) % 2**32
    dat[:, 1] = x | y << 14 | p << 28
    aedat2 = np.empty((count, 2), ">u4")
    aedat2[:, 0] = x << 1 | y << 8 | p | (rng.random(count) < 0.1) << 15
    aedat2[:, 1] = 1000 + t % 300_000
    packets = [AEDAT3_HEADER]
    start = 0
    while start < count:
        size = int(rng.choice([0, 1, 50, 20_000]))
        part = slice(start, start + size)
        here = len(t[part])
        packets.append(aedat3_packet([0] * 3, [0] * 3, [0] * 3, [0] * 3, kind=0))
        valid = rng.random(here) < 0.9
        columns = (t[part], x[part], y[part], p[part])
        packets.append(aedat3_packet(*columns, valid=valid, overflow=start // 30_000))
        start += size
    npz, stored, pack, fortran = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    sides = {"height": np.int64(128), "width": np.int64(128)}
    np.savez_compressed(npz, t=t, x=x, y=y, p=p, **sides)
    np.save(stored, events.to_structured("pyxt"))
    rows = np.stack([x, y, t, 2 * p - 1], axis=1).astype(np.float32)
    np.save(pack, rows)
    np.save(fortran, np.asfortranarray(rows.astype(np.float64)))
    return {
        "atis": atis.tobytes(),
        "prophesee": b"% Height 128\n% Width 128\n\x0c\x08" + dat.tobytes(),
        "aedat2": b"#!AER-DAT2.0\r\n# a comment\r\n" + aedat2.tobytes(),
        "aedat3": b"".join(packets),
        "npz": npz.getvalue(),
        "npy": stored.getvalue(),
        "npy pack": pack.getvalue(),
        "npy pack, Fortran order": fortran.getvalue(),
    }
