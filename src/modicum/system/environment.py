"""What a result was computed with."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

LIBRARIES = ("torch", "numpy", "accelerate", "scikit-learn", "pillow", "safetensors")


def version(distribution: str = "modicum") -> str:
    """Version of an installed distribution, or `"not installed"`."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def missing_of_extra(extra: str) -> list[str]:
    """Distributions that an extra of modicum names and that are not installed."""
    from packaging.requirements import Requirement

    try:
        required = [Requirement(text) for text in metadata.requires("modicum") or ()]
    except metadata.PackageNotFoundError:  # run from its source alone
        return []
    of_extra = [r for r in required if r.marker is not None and r.marker.evaluate({"extra": extra})]
    return [r.name for r in of_extra if version(r.name) == "not installed"]


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
