from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PAGES = """
import resource, torch
from modicum.engine.memory import keep_freed_memory
keep = {keep}
assert not keep or keep_freed_memory()
for _ in range(3):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_pages_are_not_asked_for_again() -> None:
    faults = {
        keep: int(
            subprocess.run(
                [sys.executable, "-c", PAGES.format(keep=keep)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for keep in (False, True)
    }
    assert faults[True] < faults[False] / 2, faults
