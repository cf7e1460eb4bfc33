"""What a result was computed with."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

LIBRARIES = ("torch", "numpy", "accelerate", "scikit-learn", "pillow", "safetensors")


def version(distribution: str = "modicum") -> str:
    """Version of an installed distribution, or `"not installed"`."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def processor_name() -> str:
    """Marketing name of the processor where the system tells it, else its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Processor cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_environment() -> dict[str, str]:
    """Versions and hardware, for `environment.json` and the reports."""
    import torch

    described = {
        "modicum": version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "cores": str(usable_cores()),
        "torch threads": str(torch.get_num_threads()),
    }
    if torch.cuda.is_available():
        described["GPU"] = torch.cuda.get_device_name()
    return described | {name: version(name) for name in LIBRARIES}


@cache
def code_digest(room: str) -> str:
    """SHA-256 over the code a method's results depend on, and over Python's and PyTorch's versions.

    Args:
        room: The method's folder below `methods/`. The code of other methods does not count, nor
            does that of the command line and the reports.
    """
    root = Path(__file__).parents[1]
    digest = hashlib.sha256(f"{sys.version_info[:2]} {version('torch')}".encode())
    for file in sorted(root.rglob("*.py")):
        path = file.relative_to(root)
        other = path.parts[0] == "methods" and path.parts[1] != room
        if not other and path.parts[0] not in ("report", "cli.py"):
            digest.update(path.as_posix().encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
