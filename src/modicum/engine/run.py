"""A training run: its folder on disk, its device, its randomness, and the loop's iteration.

A method's loop stays its own; `Run` supplies what is the same in every loop::

    model, optimizer = run.prepare(model, optimizer)
    run.register(model=model, optimizer=optimizer)
    for batch in run.batches(loader, epochs=config.epochs):
        loss = criterion(model(batch.image), batch.label)
        run.step(loss, optimizer, learning_rate=schedule(run.steps))
        run.log(loss=loss)
        if run.epoch_ended:
            run.score({"top1": ...}, best="top1")
    run.finish()

Killed at any moment, the run resumes from its newest checkpoint and, on a CPU, ends with the same
bits as if it had never stopped: data order and augmentation are functions of (seed, epoch, index),
PyTorch's global generator is seeded anew at every step from (seed, step, process), and schedules
are functions of the step, so a checkpoint holds little but the kept objects and the number of
steps. Several processes give the result of one, to rounding, save for noise drawn from the global
generator, such as dropout: every process draws its own.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shlex
import signal
import time
import types
import typing
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import (
    DistributedType,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
)
from torch import Tensor, nn

from modicum.engine import checkpoint
from modicum.engine.devices import Device, choose_device
from modicum.engine.distributed import synchronise_batch_norm
from modicum.engine.memory import keep_freed_memory
from modicum.engine.random import fold_keys
from modicum.errors import CheckpointError, ConfigError, DataError, ModicumError, require
from modicum.options import Ge, Gt, Options, from_json, to_json
from modicum.system.environment import describe_environment
from modicum.system.files import FolderLock, write_text
from modicum.system.progress import Progress
from modicum.weights.saved import BEST_FILE, MODEL_FILE, HasState, save_model

LOG_EVERY = 20
"""Optimizer steps whose logged values are averaged into one line of metrics.jsonl."""

AGREE_EVERY = 8
"""Optimizer steps between which several processes agree on stopping and on checkpoints."""

SAME_WISH_SECONDS = 1.0
"""Two signals within this time are one wish: a terminal and a launcher may both send one."""

_log = logging.getLogger("modicum")
_Batch = TypeVar("_Batch", bound=tuple[Any, ...], covariant=True)


class TrainingError(ModicumError):
    """Training cannot go on: a loss is no longer a finite number."""

    def __init__(self, message: str, samples: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.samples = samples
        """Numbers of the samples that the loss is of, where they are known."""


class Interrupted(ModicumError):  # noqa: N818 (it reports a wish, not a fault)
    """The run was asked to stop, and has written a checkpoint. The exit code is 128 + signal."""

    def __init__(self, message: str, signal_number: int = signal.SIGTERM) -> None:
        super().__init__(message)
        self.exit_code = 128 + int(signal_number)


@dataclass(frozen=True)
class RunOptions(Options):
    """How a run is executed, whatever the method."""

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
    """Seconds from one checkpoint to the next; 0: one after every step."""
    tensorboard: bool = False
    """Also write TensorBoard event files to the run folder."""


class BatchSource(Protocol[_Batch]):
    """What `Run.batches` draws from; `modicum.images.Loader` is one."""

    def __len__(self) -> int:
        """Batches an epoch."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[_Batch]:
        """Batches of one epoch from number `start` on, named tuples of tensors."""
        ...


class _Unchecked(NamedTuple):
    """A loss that has not been looked at yet, since looking waits for the GPU."""

    step: int
    epoch: int
    batch: int
    samples: list[int]
    names: tuple[str, ...]
    values: Tensor


class Run:
    """One training run. See the module's text for its use.

    Args:
        folder: The run folder. It must be absent or empty, unless `resume`.
        method: Name of the method in the catalogue.
        recipe: Name of the method's recipe.
        config: The recipe's configuration.
        options: How to execute it.
        resume: Go on from the newest checkpoint in `folder`, if there is one.
        quiet: No progress on standard error.

    Raises:
        ConfigError: The folder is in use, or the options do not fit the machine.
        CheckpointError: Every checkpoint is damaged.
    """

    folder: Path
    device: torch.device
    steps: int
    """Optimizer steps done: the 0-based number of the step in progress."""
    epoch: int
    """Passes over the data done: the 0-based number of the pass in progress."""
    epoch_ended: bool
    """Whether the step in progress is the last of its epoch."""
    resumed: bool
    """Whether the run goes on from a checkpoint."""
    quiet: bool
    """Whether this process says nothing: every one but the main process does."""
    last_scores: dict[str, float]
    """What `score` was last given."""

    def __init__(
        self,
        folder: Path,
        *,
        method: str,
        recipe: str = "train",
        config: Any,
        options: RunOptions | None = None,
        resume: bool = False,
        quiet: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.method = method
        self.recipe = recipe
        self.options = options = options or RunOptions()
        self.seed = options.seed
        self._config = config
        self._accelerator = _accelerator(options)
        self.device = self._accelerator.device
        if self.device.type == "cpu":
            keep_freed_memory()
        self.rank = self._accelerator.process_index
        self.world = self._accelerator.num_processes
        self.is_main_process = self._accelerator.is_main_process
        self.quiet = quiet or not self.is_main_process
        self.steps = self.epoch = 0
        self.epoch_ended = False
        self._kept: dict[str, Any] = {}
        self._result: tuple[HasState, Mapping[str, Any], Mapping[str, Any]] | None = None
        self.last_scores: dict[str, float] = {}
        self._best: dict[str, Any] | None = None
        self._window: dict[str, list[Any]] = {}
        self._unchecked: list[_Unchecked] = []
        self._samples: list[int] = []
        self._batch = 0
        self._note = ""
        self._enough = False
        self._signal: int | None = None
        self._signalled = 0.0
        self._checkpointed = time.monotonic()
        self._started = time.monotonic()
        self._earlier_seconds = 0.0
        self._lock: FolderLock | None = None
        self._begun = False
        self._board: Any = None
        self._restored: dict[str, Any] | None = None

        if self.is_main_process:
            self._claim_folder(resume)
        self._accelerator.wait_for_everyone()
        if resume:
            try:
                self._restored = checkpoint.load_newest(self.folder / "checkpoints")
            except BaseException:
                self.close()
                raise
        restored_steps = self._restored["steps"] if self._restored else 0
        if self.sum(torch.tensor(float(restored_steps))).item() != restored_steps * self.world:
            self.close()
            raise CheckpointError(
                f"{self.folder}: the processes found different checkpoints. With several machines "
                f"the run folder must lie on a disk that all of them see."
            )
        if self._restored is not None:
            self.steps = self._restored["steps"]
            self._best = self._restored["best"]
            self.last_scores = self._restored["scores"]
            self._window = self._restored["window"]
            self._earlier_seconds = self._restored["seconds"]
        self.resumed = self._restored is not None
        torch.manual_seed(fold_keys(self.seed, "initialise") >> 1)

    # The folder

    def _claim_folder(self, resume: bool) -> None:
        """Make the folder ours: two processes writing one run would destroy both."""
        used = self.folder.is_dir() and {path.name for path in self.folder.iterdir()} - {".lock"}
        if used and not resume:
            raise ConfigError(
                f"{self.folder}: the run folder exists and is not empty. Go on with it by "
                f"`modicum train {self.method} --resume {self.folder}`, or give another --out."
            )
        try:
            self._lock = FolderLock(self.folder)
        except BlockingIOError as error:
            raise ConfigError(
                f"{self.folder}: another process is writing this run. Wait for it, or stop it."
            ) from error
        for left in (self.folder / "checkpoints").glob(".*"):  # half written when it was killed
            left.unlink()

    def _begin_files(self) -> None:
        """Write what describes the run. Before the loop there is nothing worth keeping."""
        if self._begun or not self.is_main_process:
            return
        self._begun = True
        described = {
            "method": self.method,
            "recipe": self.recipe,
            "config": to_json(self._config),
            "run": to_json(self.options),
        }
        if not (self.folder / "config.json").is_file():
            write_text(self.folder / "config.json", json.dumps(described, indent=2) + "\n")
        environment = describe_environment() | {"processes": str(self.world)}
        write_text(self.folder / "environment.json", json.dumps(environment, indent=2) + "\n")
        metrics = self.folder / "metrics.jsonl"
        kept: list[str] = []
        if self.resumed and metrics.is_file():
            # What was logged after the checkpoint will be logged again.
            kept = [line for line in metrics.read_text().splitlines() if self._is_past(line)]
        write_text(metrics, "".join(line + "\n" for line in kept))
        if self.options.tensorboard:
            require("tensorboard", "tensorboard", "--tensorboard")
            from torch.utils.tensorboard.writer import SummaryWriter

            self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.steps + 1)

    def _is_past(self, line: str) -> bool:
        try:
            return int(json.loads(line)["step"]) <= self.steps
        except (ValueError, KeyError, TypeError):  # torn by a crash
            return False

    @property
    def share(self) -> dict[str, Any]:
        """Arguments that a loader needs of the run: `Loader(samples, batch_size, **run.share)`.

        That is the seed of its order, its workers, and which process's share of a batch it makes.
        """
        return {
            "seed": self.seed,
            "workers": self.options.workers,
            "rank": self.rank,
            "world": self.world,
        }

    # Preparation

    def prepare(self, *objects: Any) -> Any:
        """Place modules and optimizers on the device and spread them over the processes.

        Returns:
            The prepared objects in the same order; the object itself if there is only one.
        """
        if self.world > 1:
            objects = tuple(
                synchronise_batch_norm(o, self.device) if isinstance(o, nn.Module) else o
                for o in objects
            )
        return self._accelerator.prepare(*objects)

    @contextlib.contextmanager
    def autocast(self) -> Generator[None, None, None]:
        """The precision of the run, for what is computed by other things than prepared modules."""
        with self._accelerator.autocast():
            yield

    @contextlib.contextmanager
    def main_process_first(self) -> Generator[None, None, None]:
        """Let the main process do something, and fill caches, before the others do it."""
        with self._accelerator.main_process_first():
            yield

    def unwrap(self, module: Any) -> Any:
        """The module as it was before `prepare`, to evaluate it and to save it; else itself."""
        return self._accelerator.unwrap_model(module) if isinstance(module, nn.Module) else module

    def register(self, **objects: Any) -> None:
        """Name what a checkpoint holds: modules, optimizers, tensors.

        Everything that changes during training and is not a function of (seed, step) belongs here.
        When the run is resumed, this call puts the saved state into the objects.

        Args:
            objects: Things with `state_dict` and `load_state_dict`, or tensors (filled in place).
                Every process is asked for the state, and the main process writes what it gave.
        """
        self._kept.update(objects)
        if self._restored is None:
            return
        for name, kept in objects.items():
            if name not in self._restored["objects"]:
                found = ", ".join(self._restored["objects"])
                raise ConfigError(
                    f"{self.folder}: the checkpoint holds {found}, but no {name!r}. It was written "
                    f"by another version of the method; resume it with that version."
                )
            state = self._restored["objects"][name]
            if isinstance(kept, Tensor):
                with torch.no_grad():
                    kept.copy_(state)
            elif isinstance(kept, nn.Module):
                self.unwrap(kept).load_state_dict(state)
            else:
                kept.load_state_dict(state)
        if self._accelerator.scaler is not None and self._restored["scaler"]:
            self._accelerator.scaler.load_state_dict(self._restored["scaler"])

    def result(
        self,
        module: HasState,
        *,
        arguments: Mapping[str, Any] | None = None,
        notes: Mapping[str, Any],
    ) -> None:
        """Name what this run is for: it is written when the run ends and when it is best.

        Args:
            module: A network, prepared or not, or anything else with a state dict of tensors.
            arguments: What `Method.network` rebuilds it from, JSON-able; none: `module.arguments`.
            notes: What using it needs, JSON-able.
        """
        if arguments is None:
            arguments = typing.cast("Mapping[str, Any]", self.unwrap(module).arguments)
        self._result = (module, arguments, notes)

    def micro_batch_size(self, batch_size: int, samples: int) -> int:
        """Samples a micro-batch, over all processes: what a loader's batch must be.

        Args:
            batch_size: Samples an optimizer step that are wanted; more than there are means all.
            samples: Samples of the training set.

        Raises:
            ConfigError: They cannot be split evenly over processes and micro-batches.
        """
        size = min(batch_size, samples // self.world * self.world)
        if size < batch_size and self.is_main_process:
            _log.info("the batch is all of the %d training samples.", size)
        if size % (self.world * self.options.accumulate):
            raise ConfigError(
                f"the batch of {size} samples cannot be split evenly over {self.world} processes "
                f"and {self.options.accumulate} micro-batches; choose another --batch-size."
            )
        return size // self.options.accumulate

    # The loop

    def batches(self, loader: BatchSource[_Batch], epochs: int) -> Iterator[_Batch]:
        """The batches of all epochs that are still to do, their tensors on the run's device.

        A loader's batch is a micro-batch: `options.accumulate` of them make an optimizer step.
        """
        per_epoch = len(loader) // self.options.accumulate
        if per_epoch < 1:
            raise ConfigError(
                f"an epoch has {len(loader)} batches, fewer than the {self.options.accumulate} of "
                f"one optimizer step (--accumulate). Lower it, or the batch size."
            )
        total = epochs * per_epoch
        with self._working(total) as progress:
            for epoch in range(self.steps // per_epoch, epochs):
                self.epoch = epoch
                first = (self.steps % per_epoch) * self.options.accumulate
                numbers = range(first, per_epoch * self.options.accumulate)
                # zip asks the numbers first, so that no batch beyond the last is drawn.
                for self._batch, batch in zip(numbers, loader.epoch(epoch, first), strict=False):
                    self._samples = _sample_indices(batch)
                    yield from self._one(_to_device(batch, self.device), per_epoch)
                    if self._accelerator.sync_gradients:
                        self._step_done(progress, last=self.steps + 1 == total)
            self.epoch = epochs

    def iterations(self, until: int, *, of: int | None = None) -> Iterator[int]:
        """The numbers, from 0, of the optimizer steps that are still to do.

        A run of several stages has one such loop for each, one after the other.

        Args:
            until: Where the loop ends: the number of steps before it and in it.
            of: Steps of the whole run, for the progress that is shown.

        Raises:
            ConfigError: `options.accumulate` is not 1: there are no batches to split.
        """
        if self.options.accumulate != 1:
            raise ConfigError("--accumulate has no meaning for this method; leave it at 1.")
        if self.steps >= until:  # a stage that was done before the run was resumed
            return
        with self._working(of or until) as progress:
            while self.steps < until:
                yield from self._one(self.steps, None)
                if self._enough:  # steps that are left out count as done
                    self.steps, self._enough = until - 1, False
                self._step_done(progress, last=self.steps + 1 == until)

    def end_iterations(self) -> None:
        """Let the step in progress be the last of its loop of `iterations`: early stopping."""
        self._enough = True

    @contextlib.contextmanager
    def _working(self, total: int) -> Generator[Progress, None, None]:
        self._begin_files()
        with (
            self._listening(),
            Progress("train", total, done=self.steps, quiet=self.quiet) as progress,
        ):
            yield progress
            self._look_at_losses()

    def _one(self, item: Any, per_epoch: int | None) -> Iterator[Any]:
        """Hand one (micro-)batch to the loop, randomness seeded and gradients gathered or not."""
        modules = [o for o in self._kept.values() if isinstance(o, nn.Module)]
        with self._accelerator.accumulate(*modules):
            self.epoch_ended = (
                per_epoch is not None
                and self._accelerator.sync_gradients
                and (self.steps + 1) % per_epoch == 0
            )
            torch.manual_seed(fold_keys(self.seed, self.steps, self._batch, self.rank) >> 1)
            yield item

    def _step_done(self, progress: Progress, *, last: bool) -> None:
        self.steps += 1
        if last or self.epoch_ended or self.steps % LOG_EVERY == 0:
            self._write_window()
        progress.advance(self.steps, self._note)
        stop = self._signal is not None
        due = time.monotonic() - self._checkpointed >= self.options.checkpoint_every
        if self.world > 1:  # all must do the same at the same step
            stop, due = self._agreed(stop, due)
        if last or stop or due:
            self.save_checkpoint()
        if stop:
            number = self._signal or int(signal.SIGTERM)
            command = shlex.join(["modicum", "train", self.method, "--resume", str(self.folder)])
            raise Interrupted(
                f"stopped by {signal.Signals(number).name} after step {self.steps}; a checkpoint "
                f"is written. Go on with: {command}",
                number,
            )

    def step(
        self,
        loss: Tensor | Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
        *,
        learning_rate: float | None = None,
        gradients: Callable[[], Tensor | None] | None = None,
    ) -> None:
        """Backward, clip and update, with accumulation and precision taken care of.

        Args:
            loss: A scalar, or named terms that are summed; the names are for error messages.
            optimizer: A prepared optimizer.
            learning_rate: Set on every parameter group before the update, times the group's
                `scale` if it has one.
            gradients: Called on every process between backward and clipping, where processes hold
                parts of what the optimizer updates: it completes the gradients in place, and
                returns their L2 norm over all processes, a scalar, or None if each has them all.

        Raises:
            TrainingError: A term is NaN or infinite. On a GPU it may be noticed up to some steps
                later, but before any checkpoint is written.
        """
        terms = loss if isinstance(loss, Mapping) else {"loss": loss}
        values = torch.stack([term.detach().float() for term in terms.values()])
        self._unchecked.append(
            _Unchecked(self.steps, self.epoch, self._batch, self._samples, tuple(terms), values)
        )
        if self.device.type == "cpu" or len(self._unchecked) >= LOG_EVERY:
            self._look_at_losses()
        total = loss if isinstance(loss, Tensor) else torch.stack(list(loss.values())).sum()
        self._accelerator.backward(total)
        if self._accelerator.sync_gradients:
            norm = gradients() if gradients is not None else None
            if self.options.clip is not None:
                self._clip(optimizer, self.options.clip, norm)
            if learning_rate is not None:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate * group.get("scale", 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def _clip(self, optimizer: torch.optim.Optimizer, limit: float, norm: Tensor | None) -> None:
        """Bound the L2 norm of the gradient, which is `norm` unless it is all on this process."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if norm is None:
            self._accelerator.clip_grad_norm_(parameters, limit)
            return
        scaler = self._accelerator.scaler
        scale = 1.0 if scaler is None else scaler.get_scale()  # fp16: of gradients and norm alike
        factor = (limit * scale / norm).clamp(max=1)
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad *= factor.to(parameter.grad.dtype)

    def _look_at_losses(self) -> None:
        unchecked, self._unchecked = self._unchecked, []
        if not unchecked:
            return
        finite = torch.stack([u.values.sum() for u in unchecked]).isfinite().tolist()
        for entry in (u for u, fine in zip(unchecked, finite, strict=True) if not fine):
            values = dict(zip(entry.names, entry.values.tolist(), strict=True))
            bad = [name for name, value in values.items() if not math.isfinite(value)]
            shown = ", ".join(map(str, entry.samples[:8])) + (", …" if entry.samples[8:] else "")
            raise TrainingError(
                f"the loss is not finite at step {entry.step} (epoch {entry.epoch}, batch "
                f"{entry.batch}): {', '.join(f'{name} = {values[name]}' for name in bad or values)}"
                + (f"; samples of that batch, by their index: {shown}" if shown else "")
                + ". Lower the learning rate, clip the gradient (--clip 1), or look at those "
                "samples. The newest checkpoint is from before.",
                entry.samples,
            )

    # Logging

    def log(self, **values: Tensor | float) -> None:
        """Log training values; metrics.jsonl gets their means over up to 20 optimizer steps."""
        for name, value in values.items():
            if isinstance(value, Tensor):
                value = value.detach().double() if self.device.type != "mps" else value.detach()
            entry = self._window.setdefault(name, [0.0, 0])
            entry[0], entry[1] = entry[0] + value, entry[1] + 1

    def _write_window(self) -> None:
        window, self._window = self._window, {}
        if not window:
            return
        window = self._averaged(window)
        means = {name: float(total) / count for name, (total, count) in window.items()}
        self._write(means)
        self._note = ", ".join(f"{name} {value:.4g}" for name, value in means.items())

    def _averaged(self, window: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """A window of logged values with its sums averaged over the processes."""
        if self.world == 1 or not window:
            return window
        kind = torch.float32 if self.device.type == "mps" else torch.float64
        sums = [
            torch.as_tensor(total, dtype=kind, device=self.device) for total, _ in window.values()
        ]
        averaged = self.mean(torch.stack(sums)).cpu()
        counts = [count for _, count in window.values()]
        return {n: [a, c] for n, a, c in zip(window, averaged, counts, strict=True)}

    def scores_now(self, every: int, epochs: int) -> bool:
        """Whether the step in progress ends an epoch to score after.

        Args:
            every: Epochs from one score to the next.
            epochs: Epochs of the run; the last is always scored.
        """
        done = self.epoch + 1
        return self.epoch_ended and (done % every == 0 or done == epochs)

    def score(
        self, values: Mapping[str, float], *, best: str | None = None, higher_is_better: bool = True
    ) -> None:
        """Log measurements on held-out data, and keep the network that is best by one of them.

        Every process must call this with the same values, in a step of the loop.

        Args:
            values: Measurements.
            best: Which of them decides; the result is written to best.safetensors when
                it improves.
            higher_is_better: Whether a larger value of it is better.
        """
        self.last_scores = dict(values)
        self._write(values, step=self.steps + 1)
        if best is None:
            return
        value = float(values[best])
        if self._best is not None and math.isfinite(self._best["value"]):
            margin = value - self._best["value"]
            if not (margin > 0 if higher_is_better else margin < 0):
                return
        self._best = {"metric": best, "value": value, "step": self.steps + 1}
        self._look_at_losses()
        self._look_at_state()
        self._save_result(BEST_FILE)

    def _write(self, values: Mapping[str, float], step: int | None = None) -> None:
        if not self.is_main_process:
            return
        step = self.steps if step is None else step
        line: dict[str, Any] = {
            "step": step,
            "epoch": self.epoch,
            "seconds": round(self.seconds, 3),
        }
        # JSON has no NaN; null is what other readers understand.
        line |= {n: float(v) if math.isfinite(v) else None for n, v in values.items()}
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of the run so far, those before it was resumed included."""
        return self._earlier_seconds + time.monotonic() - self._started

    def sum(self, values: Tensor) -> Tensor:
        """`values` summed over all processes; every process gets the sum."""
        return self._reduced(values, "sum")

    def mean(self, values: Tensor) -> Tensor:
        """`values` averaged over all processes; every process gets the mean."""
        return self._reduced(values, "mean")

    def _reduced(self, values: Tensor, how: str) -> Tensor:
        if self.world == 1:
            return values
        return typing.cast(Tensor, self._accelerator.reduce(values.to(self.device), how))

    # Stopping and saving

    @contextlib.contextmanager
    def _listening(self) -> Generator[None, None, None]:
        """Note SIGINT and SIGTERM instead of dying; a second one takes effect at once."""

        def note(number: int, frame: types.FrameType | None) -> None:
            now = time.monotonic()
            if self._signal is not None and now - self._signalled > SAME_WISH_SECONDS:
                raise KeyboardInterrupt
            if self._signal is None:
                self._signal, self._signalled = number, now
                if not self.quiet:  # not print: it may be in the middle of another line
                    os.write(2, b"stopping after this step\n")

        handlers: dict[int, Any] = {}
        with contextlib.suppress(ValueError):  # not in the main thread: signals are not ours
            for number in (signal.SIGINT, signal.SIGTERM):
                handlers[number] = signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _agreed(self, *wishes: bool) -> list[bool]:
        """Which of some wishes any process has; asked every few steps, since asking costs time."""
        if self.steps % AGREE_EVERY:
            return [False] * len(wishes)
        return (self.sum(torch.tensor([float(wish) for wish in wishes])) > 0).tolist()

    def save_checkpoint(self) -> None:
        """Write a checkpoint of everything kept. `batches` and `iterations` call this in time."""
        self._look_at_losses()
        # On every process: a state may be gathered from all of them.
        objects = {name: self._state_of(kept) for name, kept in self._kept.items()}
        self._look_at_state(objects)
        window = self._averaged(self._window)
        if self.is_main_process:
            # Lines logged before the checkpoint are not logged again after it.
            with (self.folder / "metrics.jsonl").open("a") as file:
                os.fsync(file.fileno())
            if self._board is not None:
                self._board.flush()
            scaler = self._accelerator.scaler
            content = {
                "steps": self.steps,
                "best": self._best,
                "scores": self.last_scores,
                "window": window,
                "seconds": self.seconds,
                "scaler": scaler.state_dict() if scaler is not None else {},
                "objects": objects,
            }
            checkpoint.save_checkpoint(self.folder / "checkpoints", self.steps, content)
        self._accelerator.wait_for_everyone()
        self._checkpointed = time.monotonic()

    def _look_at_state(self, objects: Mapping[str, Any] | None = None) -> None:
        """Raise a `TrainingError` where what is registered, or the result, is not finite.

        A finite loss can have a gradient that is not, and a run cannot recover from that.

        Args:
            objects: States of what is kept, if they are at hand.
        """
        if objects is None:
            objects = {name: self._state_of(kept) for name, kept in self._kept.items()}
        states = dict(objects)
        if self._result is not None:
            states["the network"] = self._state_of(self._result[0])
        for name, state in states.items():
            # The tensors of an optimizer lie deeper: they follow from those of its module.
            tensors = {name: state} if isinstance(state, Tensor) else state
            for key, tensor in tensors.items():
                if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                    continue
                if not bool(tensor.isfinite().all()):
                    raise TrainingError(
                        f"after step {self.steps}, {key} of {name!r} holds numbers that are not "
                        f"finite, though the loss was: its gradient was not. Lower the learning "
                        f"rate, or clip the gradient (--clip 1). The newest checkpoint is from "
                        f"before."
                    )

    def _state_of(self, kept: Any) -> Any:
        if isinstance(kept, Tensor):
            return kept.detach().cpu()
        return (self.unwrap(kept) if isinstance(kept, nn.Module) else kept).state_dict()

    def _save_result(self, name: str) -> None:
        if self._result is not None and self.is_main_process:
            module, arguments, notes = self._result
            save_model(
                self.folder / name,
                self.unwrap(module),
                method=self.method,
                arguments=arguments,
                notes=notes,
            )

    def finish(self) -> Any:
        """Write the result, and return it unwrapped; None if there is none."""
        self._begin_files()
        self._look_at_state()
        self._save_result(MODEL_FILE)
        self._accelerator.wait_for_everyone()
        if self._result is None:
            return None
        result = self._result[0]
        if not isinstance(result, nn.Module):
            return result
        return self._accelerator.unwrap_model(result, keep_fp32_wrapper=False)

    def close(self) -> None:
        """Give the folder back to other processes."""
        if self._board is not None:
            self._board.close()
            self._board = None
        if self._lock is not None:
            self._lock.release()
            if not self._begun and not self.resumed:
                with contextlib.suppress(OSError):  # of a run that never began, nothing stays
                    self._lock.path.unlink()
                    self.folder.rmdir()
            self._lock = None

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.close()


class DescribedRun(NamedTuple):
    """What a run folder was started with."""

    method: str
    recipe: str
    config: Any
    options: RunOptions


def read_run(folder: Path, config_of: Callable[[str, str], type[Any]]) -> DescribedRun:
    """What a run folder was started with.

    Args:
        folder: A run folder.
        config_of: From the names of a method and a recipe to the configuration class.

    Raises:
        ConfigError: It is not a run folder, or was written by another version.
    """
    file = folder / "config.json"
    try:
        described = json.loads(file.read_text())
        names = described["method"], described["recipe"]
        config, options = described["config"], described["run"]
    except FileNotFoundError as error:
        raise ConfigError(
            f"{folder}: not a run folder (it holds no config.json). Expected the folder given to "
            f"`modicum train … --out`."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file}: not the description of a run ({error!r}). Restore it from a backup, or train "
            f"anew in another folder."
        ) from error
    return DescribedRun(
        *names, from_json(config_of(*names), config), from_json(RunOptions, options)
    )


def _accelerator(options: RunOptions) -> Accelerator:
    """Accelerate's view of device, precision and processes, as the options ask."""
    device = choose_device(options.device)
    on_gpu = device.type == "cuda"
    precision = options.precision
    if precision == "mixed":
        precision = "fp32" if not on_gpu else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if precision == "fp16" and not on_gpu:
        raise ConfigError("--precision fp16 needs a CUDA GPU. Use bf16 or fp32 here.")
    # Accelerate keeps its state in singletons; a process that does several runs, as the claims do,
    # must not inherit the precision of the run before.
    AcceleratorState._reset_state(reset_partial_state=True)  # pyright: ignore[reportPrivateUsage]
    GradientState._reset_state()  # pyright: ignore[reportPrivateUsage]
    plugin = GradientAccumulationPlugin(num_steps=options.accumulate, sync_with_dataloader=False)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no" if precision == "fp32" else precision,
        gradient_accumulation_plugin=plugin,
        # While the main process looks through a large data set, the others wait.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=3))],
    )
    if accelerator.distributed_type not in SUPPORTED:
        raise ConfigError(
            f"Accelerate is set up for {accelerator.distributed_type.value}; runs support one "
            f"process, or several with a whole copy of the network each (DDP). Change it with "
            f"`accelerate config`, or start with torchrun."
        )
    return accelerator


SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
"""Checkpoints of sharded networks (FSDP, DeepSpeed) would need to be gathered first."""


def _to_device(batch: Any, device: torch.device) -> Any:
    """Move the tensors of a named tuple."""
    if device.type == "cpu":
        return batch
    moved = (v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for v in batch)
    return type(batch)(*moved)


def _sample_indices(batch: Any) -> list[int]:
    """Which samples a batch holds, for the message when its loss is NaN."""
    index = getattr(batch, "index", None)
    return index.tolist() if isinstance(index, Tensor) else []
