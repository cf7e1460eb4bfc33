"""Damaged files of all kinds: no death, no foreign exception, no hang, no memory without measure.

`MODICUM_FUZZ=20000 pytest tests/fuzz` reads so many of each kind.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from readers import READERS

COUNT = int(os.environ.get("MODICUM_FUZZ", "0"))


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_damaged_files_do_no_harm(name: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, Path(__file__).with_name("child.py"), name, tmp_path, "0",
         str(COUNT or 20_000)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout == "done\n"
