"""Reads damaged files, one after another: `child.py READER FOLDER FIRST COUNT`.

Prints a line for each file that did harm. What is read is in FOLDER/damaged, for who finds this
process dead.
"""

from __future__ import annotations

import logging
import resource
import signal
import sys
import warnings
from pathlib import Path
from types import FrameType

import numpy as np
from readers import READERS

from modicum.errors import ModicumError

SECONDS = 5.0
"""CPU time that a file may take."""
MEMORY = 1 << 30
"""Bytes that a file may take, besides twice its own."""


def damage(data: bytes, random: np.random.Generator) -> bytes:
    """The bytes after one to five changes of what files suffer and attackers do."""
    found = bytearray(data)
    for _ in range(random.integers(1, 6)):
        at, size = int(random.integers(len(found) + 1)), int(random.integers(1, 9))
        what = random.integers(7)
        if what == 0 and at < len(found):
            found[at] = int(random.integers(256))
        elif what == 1 and at < len(found):
            found[at] ^= 1 << int(random.integers(8))
        elif what == 2:
            del found[at : at + size]
        elif what == 3:
            found[at:at] = random.bytes(size)
        elif what == 4:
            found[at : at + size] = bytes([int(random.choice([0, 127, 128, 255]))]) * size
        elif what == 5:
            found[at:at] = found[at : at + 8 * size]
        elif random.integers(4) == 0:
            del found[at:]
    return bytes(found)


class _LateError(BaseException):
    """A file took too long; no reader takes it for an error of the file."""


def _late(number: int, frame: FrameType | None) -> None:
    raise _LateError


def main(name: str, folder: str, first: int, count: int) -> None:
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    reader = READERS[name]
    whole = Path(folder) / "whole"
    whole.mkdir(exist_ok=True)
    (Path(folder) / "damaged").mkdir(exist_ok=True)
    files = reader.files(whole)
    signal.signal(signal.SIGPROF, _late)
    for file in files:  # imports and caches take memory once
        try:
            reader.read(file)
        except ModicumError:  # noqa: PERF203
            pass
        except Exception as error:  # counted below, where the file is damaged by nothing
            print(f"{file.name}: {type(error).__name__}: {error}", flush=True)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    for index in range(first, first + count):
        file = files[index % len(files)]
        data = damage(file.read_bytes(), np.random.default_rng([index, len(name)]))
        damaged = Path(folder) / "damaged" / file.name
        damaged.write_bytes(data)
        limit = pages * resource.getpagesize() + MEMORY + 2 * len(data)
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            reader.read(damaged)
        except ModicumError:
            pass
        except BaseException as error:
            print(f"{file.name} {index}: {type(error).__name__}: {error}"[:300], flush=True)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
