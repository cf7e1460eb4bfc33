"""What a run logs: means over windows of steps, a JSON object a line, and TensorBoard's files."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modicum.engine.memory import peak_memory
from modicum.errors import require
from modicum.system.files import atomic_write, naming
from modicum.system.terminal import quantity

MEASURED = ("seconds", "samples_per_second", "peak_memory_mib")
"""Names in a line that say how the machine did; all others are the same bits for the same seed."""


class Metrics:
    """The log of a run, `metrics.jsonl` in its folder.

    Args:
        folder: The run folder.
        device: Where logged tensors may lie.
        world: Processes that train together.
        mean: Averages a tensor over them.
        writes: Whether this process writes files.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        *,
        world: int,
        mean: Callable[[Tensor], Tensor],
        writes: bool,
    ) -> None:
        self.last_line = ""
        """The newest means as text, for the progress."""
        self.samples = 0
        """Samples trained on, by all processes, since the window began."""
        self._path, self._device = folder / "metrics.jsonl", device
        self._world, self._mean, self._writes = world, mean, writes
        self._window: dict[str, list[Any]] = {}
        self._before: dict[str, float] = {}
        self._earlier_seconds = 0.0
        self._started = self._window_started = time.monotonic()
        self._board: Any = None

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of the run so far, those before it was resumed included."""
        return self._earlier_seconds + time.monotonic() - self._started

    def begin(self, steps: int, *, resumed: bool, tensorboard: bool) -> None:
        """Open the files; lines after optimizer step `steps` go, as they will be logged again."""
        if not self._writes:
            return
        lines: list[bytes] = []
        if resumed and self._path.is_file():
            lines = [x for x in self._path.read_bytes().splitlines() if _step_of(x) <= steps]
        with atomic_write(self._path) as file:
            file.write(b"".join(line + b"\n" for line in lines))
        if tensorboard:
            require("tensorboard", "tensorboard", "--tensorboard")
            from torch.utils.tensorboard.writer import SummaryWriter

            board = str(self._path.parent / "tensorboard")
            self._board = SummaryWriter(board, purge_step=steps + 1)

    def start_clock(self) -> None:
        """Measure the throughput from this moment on."""
        self.samples, self._window_started = 0, time.monotonic()

    def pause(self, since: float) -> None:
        """Leave the time since a moment of `time.monotonic` out of the throughput."""
        self._window_started += time.monotonic() - since

    def log(self, values: Mapping[str, Tensor | float | None]) -> None:
        """Add values to the window; tensors stay where they are."""
        for name, value in values.items():
            if isinstance(value, Tensor):
                value = value.detach().double() if self._device.type != "mps" else value.detach()
            if value is not None:
                total, count = self._window.get(name, (0.0, 0))
                self._window[name] = [total + value, count + 1]

    def recent(self, name: str) -> float:
        """Mean of a value in the window, or in the one before; NaN where there is none."""
        total, count = self._window.get(name, (self._before.get(name, math.nan), 1))
        return float(total) / count

    def write_window(self, step: int, epoch: int) -> None:
        """Write the means of the window, over all processes, and begin the next."""
        window, self._window = self._averaged(), {}
        means = {name: float(total) / count for name, (total, count) in window.items()}
        self._before = means
        speed = self.samples / max(time.monotonic() - self._window_started, 1e-9)
        self.start_clock()
        if not window:
            return
        measured = {"samples_per_second": round(speed, 1)} if speed else {}
        measured["peak_memory_mib"] = round(peak_memory(self._device) / 2**20, 1)
        self.write(means, step, epoch, measured)
        shown = {**means, **({"samples/s": speed} if speed else {})}
        self.last_line = ", ".join(
            f"{name} {quantity(name, value)}" for name, value in shown.items()
        )

    def _averaged(self) -> dict[str, list[Any]]:
        """The window with its sums averaged over the processes."""
        if self._world == 1 or not self._window:
            return self._window
        kind = torch.float32 if self._device.type == "mps" else torch.float64
        entries = self._window.values()
        sums = [torch.as_tensor(total, dtype=kind, device=self._device) for total, _ in entries]
        averaged = self._mean(torch.stack(sums)).cpu()
        counts = [count for _, count in entries]
        return dict(zip(self._window, map(list, zip(averaged, counts, strict=True)), strict=True))

    def write(
        self,
        values: Mapping[str, float],
        step: int,
        epoch: int,
        measured: Mapping[str, float] | None = None,
    ) -> None:
        """Write one line: what was logged and, in `measured`, what depends on the machine."""
        if not self._writes:
            return
        line: dict[str, Any] = {"step": step, "epoch": epoch, "seconds": round(self.seconds, 3)}
        line |= measured or {}
        # JSON has no NaN; null is what other readers understand.
        line |= {n: float(v) if math.isfinite(v) else None for n, v in values.items()}
        with naming(self._path), self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs; lines written before it are on disk afterwards."""
        if self._writes:
            with naming(self._path), self._path.open("a") as file:
                os.fsync(file.fileno())
        if self._board is not None:
            self._board.flush()
        return {"window": self._averaged(), "seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._window, self._earlier_seconds = state["window"], state["seconds"]

    def close(self) -> None:
        """Close the files. Safe to call twice."""
        if self._board is not None:
            self._board.close()
            self._board = None


def _step_of(line: bytes) -> float:
    """The step a line was logged after; infinity where it was torn by a crash or damaged."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return math.inf
