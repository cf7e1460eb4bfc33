"""Memory between the steps of a training loop."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

import torch

if sys.platform != "win32":
    import resource

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed for the next step; whether it is glibc and took it.

    glibc hands large blocks back to the system when they are freed, and asks for them again in the
    next step; the system then clears every page. A loop that allocates the same in every step, as
    training does, spends time so: a sixth of it for a small spiking network. The price is that the
    process stays as large as it was at its largest. Numbers do not change.
    """
    if not sys.platform.startswith("linux"):
        return False
    with suppress(OSError, AttributeError):
        change = ctypes.CDLL("libc.so.6").mallopt
        return bool(change(_MMAP_THRESHOLD, _LARGEST) and change(_TRIM_THRESHOLD, _LARGEST))
    return False


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: by tensors on a GPU, else by this process (0 on Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
