"""Where to compute."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch

from modicum.engine.launch import launched_on_cpu
from modicum.errors import ConfigError

Device: TypeAlias = Literal["auto", "cpu", "cuda", "mps"]


def choose_device(wanted: Device) -> torch.device:
    """The device meant: `auto` takes a GPU where there is one.

    Raises:
        ConfigError: The device asked for is not there.
    """
    only_cpu = launched_on_cpu()
    available = {
        "cuda": torch.cuda.is_available() and not only_cpu,
        "mps": torch.backends.mps.is_available() and not only_cpu,
        "cpu": True,
    }
    if wanted == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    if not available[wanted]:
        raise ConfigError(
            f"--device {wanted}: PyTorch finds no such GPU. Use --device cpu or auto."
        )
    return torch.device(wanted)
