"""The recipes: a teacher, and a student of it or of the points alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import nn

from modicum.data.loader import Loader
from modicum.engine.devices import to_device
from modicum.engine.run import Run
from modicum.method import load_saved
from modicum.methods.toy.data import Clouds, digest_of, open_clouds
from modicum.methods.toy.losses import nearest_loss
from modicum.methods.toy.metrics import measure
from modicum.methods.toy.networks import PointNetwork
from modicum.options import FLAT, Ge, Gt, Options


@dataclass(frozen=True)
class Learning(Options):
    """What both recipes ask for."""

    data: str = "points"
    """points, built in; or a folder of .npy files, each of the shape (n, 2)."""
    epochs: Annotated[int, Ge(1)] = 10
    """Passes over the data."""
    batch_size: Annotated[int, Ge(1)] = 8
    """Clouds an optimizer step."""
    learning_rate: Annotated[float, Gt(0)] = 0.1
    """Step size of gradient descent."""


@dataclass(frozen=True)
class TeacherConfig(Options):
    """A network that learns from points."""

    learning: Annotated[Learning, FLAT] = Learning()
    width: Annotated[int, Ge(1)] = 16
    """Hidden units."""


@dataclass(frozen=True)
class StudentConfig(Options):
    """A smaller network that learns from a teacher."""

    learning: Annotated[Learning, FLAT] = Learning()
    width: Annotated[int, Ge(1)] = 4
    """Hidden units."""
    teacher_run: Path | None = None
    """Run folder of a teacher to learn from; none: learn from the points."""


def train_teacher(config: TeacherConfig, run: Run) -> nn.Module:
    """Train a network on points."""
    learning = config.learning
    loader, held_out = open_data(learning, run)
    network = PointNetwork(config.width)
    optimizer = torch.optim.SGD(network.parameters(), lr=learning.learning_rate)
    network, optimizer = run.prepare(network, optimizer)
    run.register(network=network, optimizer=optimizer)
    run.result(network, notes={"data": learning.data})
    for batch in run.batches(loader, epochs=learning.epochs):
        loss = nearest_loss(network(batch.moments), batch.points)
        run.step(loss, optimizer)
        run.log(loss=loss)
        if run.epoch_ended:
            run.score(measure(network, held_out), best="distance", higher_is_better=False)
    return run.finish()


def train_student(config: StudentConfig, run: Run) -> nn.Module:
    """Train a smaller network on what a teacher makes of the points, or on the points."""
    learning = config.learning
    loader, held_out = open_data(learning, run)
    network, teacher = PointNetwork(config.width), None
    if config.teacher_run is not None:
        teacher = run.prepare(load_saved(config.teacher_run, method="toy").module)
    optimizer = torch.optim.SGD(network.parameters(), lr=learning.learning_rate)
    network, optimizer = run.prepare(network, optimizer)
    run.register(network=network, optimizer=optimizer)
    run.result(network, notes={"data": learning.data})
    for batch in run.batches(loader, epochs=learning.epochs):
        predicted = network(batch.moments)
        if teacher is None:
            loss = nearest_loss(predicted, batch.points)
        else:
            with torch.no_grad():
                taught = teacher(batch.moments)
            loss = (predicted - taught).square().mean()
        run.step(loss, optimizer)
        run.log(loss=loss)
        if run.epoch_ended:
            run.score(measure(network, held_out), best="distance", higher_is_better=False)
    return run.finish()


def open_data(learning: Learning, run: Run) -> tuple[Loader[Clouds], Clouds]:
    """Shuffled batches, and the clouds held out of training."""
    clouds, held_out = open_clouds(learning.data, "train"), open_clouds(learning.data, "val")
    digests = {"train": digest_of(clouds), "val": digest_of(held_out)}
    run.register_data({"clouds": len(clouds.points), "digest": digests})
    size = run.micro_batch_size(learning.batch_size, len(clouds.points))
    share = run.share | {"workers": run.options.workers or 0}  # in memory: none is needed
    # Whole batches alone: processes share these equally, so the mean of theirs is the batch's.
    loader = Loader(len(clouds.points), size, clouds.batch, shuffle=True, drop_last=True, **share)
    return loader, to_device(held_out, run.device)
