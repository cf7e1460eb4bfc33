"""How a run is executed, whatever the method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from modicum.engine.devices import Device
from modicum.options import Ge, Gt, Options


@dataclass(frozen=True)
class RunOptions(Options):
    """The options that `modicum train` has for every recipe."""

    seed: int = 0
    """Seed of initialisation, data order, augmentation and dropout."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU when there is one."""
    precision: Literal["fp32", "bf16", "fp16", "mixed"] = "fp32"
    """Number format of activations. mixed: bf16 or fp16, whichever the GPU has; fp32 on a CPU."""
    accumulate: Annotated[int, Ge(1)] = 1
    """Micro-batches an optimizer step; the batch is split, so memory falls and the step is the same
    but for batch statistics."""
    clip: Annotated[float, Gt(0)] | None = None
    """Largest L2 norm of the gradient; none: no clipping."""
    workers: Annotated[int, Ge(0)] | None = None
    """Processes that decode data; none: chosen from the data and the cores."""
    checkpoint_every: Annotated[float, Ge(0)] = 60.0
    """Seconds from one checkpoint to the next, longer where checkpoints would otherwise take more
    than 5 % of the time; 0: one after every step."""
    tensorboard: bool = False
    """Also write TensorBoard event files to the run folder."""
    compile: bool = False
    """Compile networks by torch.compile: the first steps take up to minutes, later ones less time.
    Needs a C++ compiler, and Triton on a GPU."""
