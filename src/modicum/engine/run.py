"""A training run: its folder on disk, its device, its randomness, and the loop's iteration.

A method's loop stays its own; `Run` supplies what is the same in every loop::

    model, optimizer = run.prepare(model, optimizer)
    run.register(model=model, optimizer=optimizer)
    run.result(model, notes={"classes": classes})
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
generator, such as dropout: every process draws its own. `Run.step` averages their gradients, so a
loss may leave parameters out, call parts of a module, or hold gradients of gradients.
"""

from __future__ import annotations

import contextlib
import logging
import math
import shlex
import signal
import time
import typing
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from modicum.engine import checkpoint
from modicum.engine.devices import check_compiler, make_accelerator, to_device
from modicum.engine.distributed import average_gradients, broadcast_state, synchronise_batch_norm
from modicum.engine.finite import TrainingError as TrainingError
from modicum.engine.finite import UncheckedLoss, check_losses, check_states
from modicum.engine.fitting import LEAST_STEPS, fitting_batch
from modicum.engine.folder import RunFolder
from modicum.engine.memory import keep_freed_memory
from modicum.engine.metrics import Metrics
from modicum.engine.norms import FEW_STEPS, norms_of, recalibrated
from modicum.engine.options import RunOptions as RunOptions
from modicum.engine.random import fold_keys
from modicum.engine.signals import Interrupted, StopSignals
from modicum.engine.state import RegisteredState, differences
from modicum.errors import CheckpointError, ConfigError
from modicum.options import to_json
from modicum.system.progress import Progress
from modicum.system.terminal import counted, quantity
from modicum.weights.saved import BEST_FILE, MODEL_FILE, HasState, save_model

LOG_EVERY = 20
"""Optimizer steps whose logged values are averaged into one line of metrics.jsonl."""

SAVING_SHARE = 19
"""Least time between two checkpoints, in times of what writing the last took: at most 5 %."""

AGREE_EVERY = 8
"""Optimizer steps between which several processes agree on stopping and on checkpoints."""

_log = logging.getLogger("modicum")
_Batch = TypeVar("_Batch", covariant=True)
_Object = TypeVar("_Object")


class BatchSource(Protocol[_Batch]):
    """What `Run.batches` draws from; `modicum.images.Loader` is one."""

    batch_size: int
    """Samples a batch, over all processes together."""

    def __len__(self) -> int:
        """Batches an epoch."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[_Batch]:
        """Batches of one epoch from number `start` on.

        A batch is tensors in any nesting of dataclasses, named tuples, lists and dicts. Its
        `index`, if it has one, holds the numbers of its samples, for messages.
        """
        ...


class Run:
    """One training run. See the module's text for its use.

    Args:
        folder: The run folder. It must be absent or empty, unless `resume`.
        method: Name of the method in the catalogue.
        recipe: Name of the method's recipe.
        config: The recipe's configuration.
        options: How to execute it.
        resume: Go on from the newest checkpoint in `folder`, if there is one.
        restart: Begin the run in `folder` anew; its checkpoints and results are removed when the
            loop begins.
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
    """What `score` was last given, or the scores of what a method keeps instead of the last."""

    def __init__(
        self,
        folder: Path,
        *,
        method: str,
        recipe: str = "train",
        config: Any,
        options: RunOptions | None = None,
        resume: bool = False,
        restart: bool = False,
        quiet: bool = False,
    ) -> None:
        self.folder, self.method, self.recipe = Path(folder), method, recipe
        self.options = options = options or RunOptions()
        self.seed = options.seed
        self._config = config
        self._accelerator = make_accelerator(options.device, options.precision, options.accumulate)
        self.device = self._accelerator.device
        if self.device.type == "cpu":
            keep_freed_memory()
        self.rank = self._accelerator.process_index
        self.world = self._accelerator.num_processes
        self.is_main_process = self._accelerator.is_main_process
        self.quiet = quiet or not self.is_main_process
        self.steps = self.epoch = 0
        self.epoch_ended = self.resumed = False
        self._state = RegisteredState(self.unwrap)
        self._metrics = Metrics(
            self.folder, self.device, world=self.world, mean=self.mean, writes=self.is_main_process
        )
        self._signals = StopSignals(quiet=self.quiet)
        self._claimed: RunFolder | None = None
        self._data: dict[str, Any] | None = None
        self._result: tuple[HasState, Mapping[str, Any], Mapping[str, Any]] | None = None
        self.last_scores: dict[str, float] = {}
        self._best: dict[str, Any] | None = None
        self._unchecked: list[UncheckedLoss] = []
        self._batch, self._samples = 0, list[int]()
        self._chosen = dict[str, int]()
        self._begun = self._enough = False
        self._loops_done, self._epochs = (0, 0), 0
        self._checkpointed, self._saving_seconds, self._work_ended = time.monotonic(), 0.0, 0.0
        if self.is_main_process:
            self._claimed = RunFolder(self.folder, method=method, resume=resume, restart=restart)
        self._accelerator.wait_for_everyone()
        try:
            self._saved = self._load_checkpoint() if resume else None
        except BaseException:
            self.close()
            raise
        self.resumed = self._saved is not None
        if self._saved is not None:
            self.steps, self._best = self._saved["steps"], self._saved["best"]
            self.last_scores = self._saved["scores"]
            self._metrics.load_state_dict(self._saved["metrics"])
        torch.manual_seed(fold_keys(self.seed, "initialise") >> 1)

    def _load_checkpoint(self) -> dict[str, Any] | None:
        damaged: list[Path] = []
        saved = checkpoint.load_newest(self.folder / "checkpoints", damaged)
        steps = saved["steps"] if saved else 0
        if self.sum(torch.tensor(float(steps))).item() != steps * self.world:
            raise CheckpointError(
                f"{self.folder}: the processes found different checkpoints. With several machines "
                f"the run folder must lie on a disk that all of them see."
            )
        if saved is None and (self.folder / MODEL_FILE).exists():  # else it was killed early
            raise CheckpointError(
                f"{self.folder}: the run has ended and its checkpoints are gone, so that nothing "
                f"is left to go on with. Use {MODEL_FILE} as it is, put the checkpoints back, or "
                f"begin anew: modicum train --restart {shlex.quote(str(self.folder))}"
            )
        if self.is_main_process:
            checkpoint.set_aside(damaged)
            checkpoint.keep_newest(self.folder / "checkpoints")  # a kill may have left one more
        return saved

    def _begin(self) -> None:
        """Write what describes the run. Before the loop there is nothing worth keeping."""
        if self._begun:
            return
        self._begun = True
        if self._claimed is not None:
            options = {"config": to_json(self._config), "run": to_json(self.options)}
            description = {"method": self.method, "recipe": self.recipe} | options
            description["used"] = self._used()
            self._claimed.describe(description, processes=self.world)
            if not self.resumed:
                self._claimed.clear()
        self._metrics.begin(self.steps, resumed=self.resumed, tensorboard=self.options.tensorboard)

    def _used(self) -> dict[str, Any]:
        """What was chosen where options left it open, for people."""
        notes = self._result[2] if self._result is not None else {}
        return {"device": str(self.device)} | self._chosen | dict(notes.get("pipeline", {}))

    @property
    def share(self) -> dict[str, Any]:
        """Arguments that a loader needs of the run: `Loader(samples, batch_size, **run.share)`."""
        workers = self.options.workers
        return {"seed": self.seed, "workers": workers, "rank": self.rank, "world": self.world}

    # Preparation

    def prepare(self, *objects: Any) -> Any:
        """Place modules and optimizers on the device and make them fit for several processes.

        Returns:
            The prepared objects in the same order; the object itself if there is only one.

        Raises:
            ConfigError: `options.compile`, and PyTorch cannot compile here.
        """
        if self.options.compile:
            check_compiler(self.device)
        prepared = tuple(map(self._prepared, objects))
        return prepared[0] if len(prepared) == 1 else prepared

    def _prepared(self, unprepared: Any) -> Any:
        if isinstance(unprepared, torch.optim.Optimizer):
            return self._accelerator.prepare_optimizer(unprepared)
        if self.world > 1:
            unprepared = synchronise_batch_norm(unprepared, self.device)
        # evaluation_mode: without DistributedDataParallel, since `step` averages the gradients.
        module = self._accelerator.prepare_model(unprepared, evaluation_mode=True)
        if self.world > 1:
            broadcast_state(module)
        if self.options.compile:
            module.compile()
        return module

    def autocast(self) -> AbstractContextManager[None]:
        """The precision of the run, for what is computed by other things than prepared modules."""
        return self._accelerator.autocast()

    def main_process_first(self) -> AbstractContextManager[None]:
        """Let the main process do something, and fill caches, before the others do it."""
        return self._accelerator.main_process_first()

    def unwrap(self, module: Any) -> Any:
        """The module as it was before `prepare`, to evaluate it and to save it; else itself."""
        return self._accelerator.unwrap_model(module) if isinstance(module, nn.Module) else module

    def register(self, **objects: Any) -> None:
        """Name what a checkpoint holds: modules, optimizers, tensors.

        Everything that changes during training and is not a function of (seed, step) belongs here:
        things with `state_dict` and `load_state_dict`, or tensors (filled in place). When the run
        is resumed, this call puts the saved state into them. Every process is asked for the state,
        and the main process writes what it gave.
        """
        self._state.register(objects, self._saved["objects"] if self._saved else None)
        if self._accelerator.scaler is not None and self._saved and self._saved["scaler"]:
            self._accelerator.scaler.load_state_dict(self._saved["scaler"])

    def register_data(self, described: Mapping[str, Any]) -> None:
        """Say what is learned from, before `register`: a run is gone on with on the same data only.

        Args:
            described: JSON-able, by names for people: lists, such as of classes; numbers; mappings
                of numbers, such as the samples of each class; and under `digest` texts that change
                with the data but not with its place, by what they are digests of.
                `modicum.data.sample_set.describe` gives it of sample sets.

        Raises:
            CheckpointError: The run began with other data; the message names what differs.
        """
        self._data = dict(described)
        before = self._saved.get("data") if self._saved else None
        if before is not None and before != self._data:
            raise CheckpointError(
                f"{self.folder}: the run began with other data: {differences(before, self._data)}. "
                f"Put the data back as it was, or say where it is: modicum train --resume "
                f"{shlex.quote(str(self.folder))} --data PATH. To train on this data, begin a new "
                f"run."
            )

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

    def micro_batch_size(
        self, batch_size: int | None, samples: int, *, usual: int | None = None
    ) -> int:
        """Samples a micro-batch, over all processes: what a loader's batch must be.

        Args:
            batch_size: Samples an optimizer step; more than there are means all of them. None: the
                `usual` number, fewer of small sets (`modicum.engine.fitting.fitting_batch`).
            samples: How many there are to train on.
            usual: What the recipe takes of large sets.

        Raises:
            ConfigError: They cannot be split evenly over processes and micro-batches.
        """
        unit = self.world * self.options.accumulate
        if batch_size is None:
            batch_size = fitting_batch(samples, usual or samples, unit)
        size = min(batch_size, samples // self.world * self.world)
        if self.is_main_process:
            if size < batch_size:
                _log.info("the batch is all of the %d training samples.", size)
            elif left := samples % size:
                text = "each epoch leaves out %d of the %d training samples, others each time: %s"
                _log.info(text, left, samples, f"they do not fill a batch of {size}.")
        if size % unit:
            raise ConfigError(
                f"the batch of {size} samples cannot be split evenly over {self.world} processes "
                f"and {self.options.accumulate} micro-batches; choose another --batch-size."
            )
        self._chosen |= {"training_samples": samples, "batch_size": size}
        return size // self.options.accumulate

    def epochs_for(self, loader: BatchSource[Any], epochs: int | None, *, usual: int) -> int:
        """Passes over a loader's data: as many as given; None: the `usual` number, or more where
        that would be fewer than `modicum.engine.fitting.LEAST_STEPS` optimizer steps.
        """
        steps = max(1, len(loader) // self.options.accumulate)
        chosen = epochs or max(usual, math.ceil(LEAST_STEPS / steps))
        if chosen != (epochs or usual) and self.is_main_process:
            passes, each = counted(chosen, "epoch"), counted(steps, "optimizer step")
            text = "%s of %s in batches of %d, to fit the size of the data."
            _log.info(text, passes, each, loader.batch_size * self.options.accumulate)
        self._chosen |= {"epochs": chosen, "optimizer_steps": chosen * steps}
        return chosen

    # The loop

    def batches(
        self, loader: BatchSource[_Batch], *, epochs: int | None = None, steps: int | None = None
    ) -> Iterator[_Batch]:
        """The batches that are still to do, their tensors on the run's device.

        A loader's batch is a micro-batch: `options.accumulate` of them make an optimizer step. A
        run of several stages has one such loop for each; steps and epochs are counted on.

        Args:
            loader: Makes the batches.
            epochs: Passes over the data.
            steps: Optimizer steps, instead; the last pass may end early.

        Raises:
            ConfigError: An epoch is shorter than an optimizer step.
        """
        if (epochs is None) == (steps is None):
            raise TypeError("Run.batches: give either epochs or steps")
        micro = self.options.accumulate
        per_epoch = len(loader) // micro
        if per_epoch < 1:
            raise ConfigError(
                f"an epoch has {len(loader)} batches, fewer than the {micro} of "
                f"one optimizer step (--accumulate). Lower it, or the batch size."
            )
        start, first_epoch = self._loops_done
        end = start + (steps if steps is not None else (epochs or 0) * per_epoch)
        end_epoch = first_epoch + math.ceil((end - start) / per_epoch)
        self._loops_done = (end, end_epoch)
        if self.steps < end:  # else a stage that was done before the run was resumed
            with self._working(end) as progress:
                self._epochs = end_epoch
                for epoch in range(first_epoch + (self.steps - start) // per_epoch, end_epoch):
                    self.epoch = epoch
                    begin = start + (epoch - first_epoch) * per_epoch
                    last = min(per_epoch, end - begin) * micro
                    numbers = range((self.steps - begin) * micro, last)
                    # zip asks the numbers first, so that no batch beyond the last is drawn.
                    drawn = zip(numbers, loader.epoch(epoch, numbers.start), strict=False)
                    for self._batch, batch in drawn:
                        self._samples = _sample_indices(batch)
                        self._metrics.samples += loader.batch_size
                        yield from self._one(to_device(batch, self.device), begin + per_epoch)
                        if self._accelerator.sync_gradients:
                            self._step_done(progress, last=self.steps + 1 == end)
        self.epoch = end_epoch

    def iterations(self, until: int, *, of: int | None = None) -> Iterator[int]:
        """The numbers, from 0, of the optimizer steps that are still to do.

        A run of several stages has one such loop for each, one after the other.

        Args:
            until: The number of steps before the loop and in it.
            of: Steps of the whole run, for the progress that is shown.

        Raises:
            ConfigError: `options.accumulate` is not 1: there are no batches to split.
        """
        if self.options.accumulate != 1:
            raise ConfigError("--accumulate has no meaning for this method; leave it at 1.")
        self._loops_done, self._epochs = (until, self.epoch), 0
        self._batch, self._samples = 0, []
        if self.steps >= until:  # a stage that was done before the run was resumed
            return
        with self._working(of or until) as progress:
            while self.steps < until:
                yield from self._one(self.steps)
                if self._enough:  # steps that are left out count as done
                    self.steps, self._enough = until - 1, False
                self._step_done(progress, last=self.steps + 1 == until)

    def end_iterations(self) -> None:
        """Let the step in progress be the last of its loop of `iterations`: early stopping."""
        self._enough = True

    @contextlib.contextmanager
    def _working(self, total: int) -> Generator[Progress, None, None]:
        self._begin()
        self._metrics.start_clock()
        with self._signals, Progress("train", total, done=self.steps, quiet=self.quiet) as progress:
            yield progress
            self._look_at_losses()

    def _one(self, item: Any, epoch_end: int | None = None) -> Iterator[Any]:
        """Hand one (micro-)batch to the loop, randomness seeded and gradients applied or not."""
        with self._accelerator.accumulate():
            self.epoch_ended = self._accelerator.sync_gradients and self.steps + 1 == epoch_end
            torch.manual_seed(fold_keys(self.seed, self.steps, self._batch, self.rank) >> 1)
            self._work_ended = time.monotonic()
            yield item

    def _step_done(self, progress: Progress, *, last: bool) -> None:
        self.steps += 1
        if last or self.epoch_ended or self.steps % LOG_EVERY == 0:
            self._metrics.write_window(self.steps, self.epoch)
        progress.advance(self.steps, self._said())
        stop = self._signals.received is not None
        every = self.options.checkpoint_every
        pause = max(every, SAVING_SHARE * self._saving_seconds) if every else 0.0
        due = time.monotonic() - self._checkpointed >= pause
        if self.world > 1:  # all must do the same at the same step
            stop, due = self._agreed(stop, due)
        if last or stop or due:
            self.save_checkpoint()
        if stop:
            number = self._signals.received or int(signal.SIGTERM)
            command = shlex.join(["modicum", "train", self.method, "--resume", str(self.folder)])
            raise Interrupted(
                f"stopped by {signal.Signals(number).name} after step {self.steps}; a checkpoint "
                f"is written. Go on with: {command}",
                number,
            )

    def _said(self) -> str:
        """Epoch, newest and best score, and means of what was logged, for the progress."""
        said = [f"epoch {self.epoch + 1}/{self._epochs}"] if self._epochs else []
        if self.last_scores:
            metric = self._best["metric"] if self._best else next(iter(self.last_scores))
            score = f"{metric} {quantity(metric, self.last_scores[metric])}"
            best = f" (best {quantity(metric, self.best_score)})" if self._best else ""
            said.append(score + best)
        return ", ".join(filter(None, [*said, self._metrics.last_line]))

    def step(
        self,
        loss: Tensor | Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
        *,
        learning_rate: float | None = None,
        clip: float | None = None,
        gradients: Callable[[], Tensor | None] | None = None,
    ) -> Tensor | None:
        """Backward, clip and update, with accumulation and precision taken care of.

        Args:
            loss: A scalar, or named terms that are summed; the names are for error messages.
            optimizer: Prepared.
            learning_rate: Set on every parameter group before the update, times the group's
                `scale` if it has one.
            clip: Largest L2 norm of the gradient; none: `options.clip`.
            gradients: Called on every process between backward and clipping, where processes hold
                parts of what the optimizer updates, in place of averaging: it completes the
                gradients in place, and returns their L2 norm over all processes, a scalar, or None
                if each has them all.

        Returns:
            The L2 norm of the gradient before clipping, a scalar; None where the micro-batch is not
            the last of its step.

        Raises:
            TrainingError: A term is NaN or infinite. On a GPU it may be noticed up to some steps
                later, but before any checkpoint is written.
        """
        terms = loss if isinstance(loss, Mapping) else {"loss": loss}
        values = torch.stack([term.detach().float() for term in terms.values()])
        self._unchecked.append(
            UncheckedLoss(self.steps, self.epoch, self._batch, self._samples, tuple(terms), values)
        )
        if self.device.type == "cpu" or len(self._unchecked) >= LOG_EVERY:
            self._look_at_losses()
        total = loss if isinstance(loss, Tensor) else torch.stack(list(loss.values())).sum()
        self._accelerator.backward(total)
        norm = None
        if self._accelerator.sync_gradients:
            if gradients is not None:
                norm = gradients()
            elif self.world > 1:
                average_gradients(_parameters(optimizer))
            norm = self._clip(optimizer, clip or self.options.clip or math.inf, norm)
            if learning_rate is not None:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate * group.get("scale", 1.0)
        optimizer.step()
        optimizer.zero_grad()
        self._work_ended = time.monotonic()
        return norm

    def _clip(self, optimizer: torch.optim.Optimizer, limit: float, norm: Tensor | None) -> Tensor:
        """Bound the gradient's L2 norm, `norm` unless all is here; returns what it was before."""
        scaler = self._accelerator.scaler
        if scaler is not None and norm is not None:  # fp16: `norm` is of scaled gradients
            norm = norm / scaler.get_scale()
        self._accelerator.unscale_gradients(optimizer)
        if norm is None:
            return nn.utils.clip_grad_norm_(_parameters(optimizer), limit)
        factor = (limit / (norm + 1e-6)).clamp(max=1)  # that of clip_grad_norm_
        for parameter in _parameters(optimizer):
            if parameter.grad is not None:
                parameter.grad *= factor.to(parameter.grad.dtype)
        return norm

    def _look_at_losses(self) -> None:
        unchecked, self._unchecked = self._unchecked, []
        check_losses(unchecked)

    # Logging

    def log(self, **values: Tensor | float | None) -> None:
        """Log scalars, of which metrics.jsonl gets the means over up to 20 optimizer steps.

        None is passed over.
        """
        self._metrics.log(values)

    def scores_now(self, every: int, epochs: int) -> bool:
        """Whether the step in progress ends one of every so many epochs, or the last of them."""
        done = self.epoch + 1
        return self.epoch_ended and (done % every == 0 or done == epochs)

    @property
    def is_last_step(self) -> bool:
        """Whether the step in progress is the last of its loop."""
        return self.steps + 1 == self._loops_done[0]

    @contextlib.contextmanager
    def calibrated(
        self, module: nn.Module, loader: BatchSource[Any], forward: Callable[[Any], Any]
    ) -> Generator[None, None, None]:
        """While entered, batch normalisation has the statistics of the training data.

        For scoring, at the end of an epoch. It changes nothing once there were enough steps for the
        running statistics (`modicum.engine.norms`). Before, they are put back afterwards, but for
        the last step, after which they are the result's.

        Args:
            module: Prepared or not.
            loader: The one that is trained with.
            forward: Passes one of its batches, on the run's device, through the module.
        """
        if self.steps >= FEW_STEPS or not norms_of(module):
            yield
            return
        batches = (to_device(batch, self.device) for batch in loader.epoch(self.epoch))
        with recalibrated(module, batches, forward, keep=self.is_last_step):
            yield

    def recent(self, name: str) -> float:
        """Mean of what this process logged by a name in the newest steps; NaN where it is none."""
        return self._metrics.recent(name)

    @property
    def best(self) -> Mapping[str, Any] | None:
        """`metric`, `value` and `step` of the score for which best.safetensors was kept."""
        return self._best

    @property
    def best_score(self) -> float:
        """The best value so far of the score that decides which network is kept; NaN at first."""
        return self._best["value"] if self._best else math.nan

    def score(
        self, values: Mapping[str, float], *, best: str | None = None, higher_is_better: bool = True
    ) -> None:
        """Log measurements on held-out data, and keep the network that is best by one of them.

        Every process must call this with the same values, in a step of the loop.

        Args:
            values: Measurements.
            best: Which of them decides; the result is written to best.safetensors when it improves.
            higher_is_better: Whether a larger value of it is better.
        """
        self._metrics.pause(self._work_ended)  # measuring is no part of training's throughput
        self._work_ended = time.monotonic()
        self.last_scores = dict(values)
        self._metrics.write(values, self.steps + 1, self.epoch)
        if best is None:
            return
        value = float(values[best])
        before = self.best_score
        improved = value > before if higher_is_better else value < before
        if math.isfinite(before) and not improved:
            return
        self._best = {"metric": best, "value": value, "step": self.steps + 1}
        self._look_at_losses()
        self._look_at_state(self._state.state_dict())
        self._save_result(BEST_FILE)

    def sum(self, values: Tensor) -> Tensor:
        """`values` summed over all processes; every process gets the sum."""
        return self._reduced(values, "sum")

    def mean(self, values: Tensor) -> Tensor:
        """`values` averaged over all processes; every process gets the mean."""
        return self._reduced(values, "mean")

    def gather(self, objects: Sequence[_Object]) -> list[_Object]:
        """The objects of all processes, those of the first process first; every process gets all.

        For measures that need everything, such as average precision and rank correlation. They
        must be picklable; processes may have unequally many.
        """
        from accelerate.utils import gather_object

        return list(objects) if self.world == 1 else gather_object(list(objects))

    def _reduced(self, values: Tensor, how: str) -> Tensor:
        if self.world == 1:
            return values
        return typing.cast(Tensor, self._accelerator.reduce(values.to(self.device), how))

    # Stopping and saving

    def _agreed(self, *wishes: bool) -> list[bool]:
        """Which of some wishes any process has; asked every few steps, since asking costs time."""
        if self.steps % AGREE_EVERY:
            return [False] * len(wishes)
        return (self.sum(torch.tensor([float(wish) for wish in wishes])) > 0).tolist()

    def save_checkpoint(self) -> None:
        """Write a checkpoint of all that is registered. The loops call this in time."""
        began = time.monotonic()
        self._look_at_losses()
        # On every process: states and means may be gathered from all of them.
        objects = self._state.state_dict()
        self._look_at_state(objects)
        metrics = self._metrics.state_dict()
        if self.is_main_process:
            scaler = self._accelerator.scaler
            content = {"steps": self.steps, "best": self._best, "scores": self.last_scores}
            content["data"] = self._data
            content |= {"metrics": metrics, "scaler": scaler.state_dict() if scaler else {}}
            content["objects"] = objects
            checkpoint.save_checkpoint(self.folder / "checkpoints", self.steps, content)
        self._accelerator.wait_for_everyone()
        self._metrics.pause(began)
        self._checkpointed = time.monotonic()
        self._saving_seconds = self._checkpointed - began

    def _look_at_state(self, objects: Mapping[str, Any]) -> None:
        states = dict(objects)
        if self._result is not None:
            states["the network"] = self.unwrap(self._result[0]).state_dict()
        check_states(states, self.steps)

    def _save_result(self, name: str) -> None:
        if self._result is not None and self.is_main_process:
            module, arguments, notes = self._result
            path, network, method = self.folder / name, self.unwrap(module), self.method
            save_model(path, network, method=method, arguments=arguments, notes=notes)

    def finish(self) -> Any:
        """Write the result, and return it unwrapped; None if there is none."""
        self._begin()
        self._look_at_state(self._state.state_dict())
        self._save_result(MODEL_FILE)
        self._accelerator.wait_for_everyone()
        result = None if self._result is None else self._result[0]
        if isinstance(result, nn.Module):
            result = self._accelerator.unwrap_model(result, keep_fp32_wrapper=False)
        return result

    def close(self) -> None:
        """Give the folder back to other processes."""
        self._metrics.close()
        if self._claimed is not None:
            self._claimed.close(keep=self.resumed)
            self._claimed = None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _sample_indices(batch: Any) -> list[int]:
    """Which samples a batch holds, for the message when its loss is NaN."""
    index = batch.get("index") if isinstance(batch, dict) else getattr(batch, "index", None)
    return index.tolist() if isinstance(index, Tensor) else []
