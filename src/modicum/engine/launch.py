"""`accelerate launch --cpu --num_processes N` with N processes, also without MPI.

On CPUs Accelerate's launcher leaves the starting of processes to `mpirun`; where that is not asked
for it starts a single process, without a word, whatever `--num_processes` says. A run that was
meant for N processes would then train N times as long. So the one process that was started becomes
PyTorch's launcher of N, which needs nothing installed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import psutil

from modicum.errors import ConfigError


def launched_on_cpu() -> bool:
    """Whether Accelerate's launcher was told to use CPUs only (`accelerate launch --cpu`)."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")


def processes_wanted() -> int:
    """How many processes Accelerate's launcher was asked for but did not start; else 1.

    Raises:
        ConfigError: It was asked for several, but how many cannot be found out.
    """
    if not launched_on_cpu() or "WORLD_SIZE" in os.environ or "MASTER_ADDR" not in os.environ:
        return 1  # it sets an address only where several processes were asked for
    try:
        parent = psutil.Process().parent()
        words = parent.cmdline() if parent is not None else []
    except psutil.Error:
        return 1
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, _, value = word.replace("-", "_").lstrip("_").partition("=")
        if name == "num_processes" and (value or following).isdecimal():
            return int(value or following)
    raise ConfigError(
        "accelerate was set up for several processes on CPUs, but starts only one without MPI, and "
        "how many is not said. Use: torchrun --nproc_per_node N -m modicum …"
    )


def become_launcher(processes: int, words: Sequence[str]) -> None:
    """Replace this process by PyTorch's launcher of `modicum WORDS` in so many processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc_per_node", str(processes), "-m", "modicum", *words]
    os.execv(sys.executable, launcher)
