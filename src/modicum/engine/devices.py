"""Where to compute."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor

from modicum.engine.launch import launched_on_cpu
from modicum.engine.nested import map_tensors
from modicum.errors import ConfigError

if TYPE_CHECKING:
    from accelerate import Accelerator

Device: TypeAlias = Literal["auto", "cpu", "cuda", "mps"]


def choose_device(wanted: Device) -> torch.device:
    """The device meant: `auto` takes a GPU where there is one.

    Raises:
        ConfigError: The device asked for is not there.
    """
    gpus = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    available = [name for name, there in gpus.items() if there() and not launched_on_cpu()] + [
        "cpu"
    ]
    if wanted == "auto":
        return torch.device(available[0])
    if wanted not in available:
        raise ConfigError(
            f"--device {wanted}: PyTorch finds no such GPU. Use --device cpu or auto."
        )
    return torch.device(wanted)


def make_accelerator(
    wanted: Device, precision: Literal["fp32", "bf16", "fp16", "mixed"], accumulate: int
) -> Accelerator:
    """Accelerate's view of device, precision and processes; see `RunOptions` for the arguments.

    Raises:
        ConfigError: The machine, or what Accelerate is set up for, does not fit.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState
    from accelerate.utils import DistributedType, GradientAccumulationPlugin, InitProcessGroupKwargs

    device = choose_device(wanted)
    on_gpu = device.type == "cuda"
    if precision == "mixed":
        precision = "fp32" if not on_gpu else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if precision == "fp16" and not on_gpu:
        raise ConfigError("--precision fp16 needs a CUDA GPU. Use bf16 or fp32 here.")
    # Accelerate keeps its state in singletons; a process that does several runs, as the claims do,
    # must not inherit the precision of the run before.
    AcceleratorState._reset_state(reset_partial_state=True)  # pyright: ignore[reportPrivateUsage]
    GradientState._reset_state()  # pyright: ignore[reportPrivateUsage]
    plugin = GradientAccumulationPlugin(num_steps=accumulate, sync_with_dataloader=False)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no" if precision == "fp32" else precision,
        gradient_accumulation_plugin=plugin,
        # While the main process looks through a large data set, the others wait.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=3))],
    )
    # Checkpoints of sharded networks (FSDP, DeepSpeed) would need to be gathered first.
    supported = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if accelerator.distributed_type not in supported:
        raise ConfigError(
            f"Accelerate is set up for {accelerator.distributed_type.value}; runs support one "
            f"process, or several with a whole copy of the network each (DDP). Change it with "
            f"`accelerate config`, or start with torchrun."
        )
    return accelerator


def check_compiler(device: torch.device) -> None:
    """Compile something small; a `ConfigError` if it fails."""
    try:
        torch.compile(torch.neg)(torch.ones(2, device=device))
    except Exception as error:  # of many kinds, and none is public
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(
            f"--compile: PyTorch cannot compile here ({reason}). It needs "
            f"a C++ compiler, and Triton on a GPU; install them, or leave --compile out."
        ) from error


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch, see `map_tensors`, with its tensors on a device; copies to a GPU do not wait."""

    def moved(tensor: Tensor) -> Tensor:
        if device.type == "cuda" and not tensor.is_cuda:
            tensor = tensor.pin_memory()  # a copy from other memory would be waited for
        return tensor.to(device, non_blocking=True)

    return map_tensors(batch, moved)
