"""The run: exact resume, accumulation, logging, signals, errors."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from modicum.engine.devices import to_device
from modicum.engine.fitting import fitting_batch
from modicum.engine.folder import read_run
from modicum.engine.metrics import MEASURED
from modicum.engine.random import generator, permutation
from modicum.engine.run import (
    Interrupted,
    Run,
    RunOptions,
    TrainingError,
)
from modicum.errors import CheckpointError, ConfigError, DataError


@dataclass(frozen=True)
class Config:
    epochs: int = 3
    sizes: tuple[int, ...] = (1, 2)
    data: Path | None = Path("somewhere")


class Batch(NamedTuple):
    image: Tensor
    label: Tensor
    index: Tensor


class Points:
    """A two-class problem, drawn in an order that depends on the epoch."""

    def __init__(self, batch: int = 8, poison: int | None = None) -> None:
        self.batch_size = batch
        self.points = torch.randn(48, 4, generator=generator("points"))
        self.labels = (self.points.sum(1) > 0).long()
        if poison is not None:
            self.points[poison] = torch.nan

    def __len__(self) -> int:
        return len(self.points) // self.batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        order = torch.from_numpy(permutation(len(self.points), 0, epoch, "order"))
        for number in range(start, len(self)):
            index = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield Batch(self.points[index], self.labels[index], index)


def network() -> nn.Module:
    # Dropout: randomness inside the network must resume too.
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))


def train(
    folder: Path,
    *,
    stop_after: int | None = None,
    resume: bool = False,
    options: RunOptions | None = None,
    points: Points | None = None,
    epochs: int = 3,
    by_signal: int | None = None,
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Train; `stop_after` breaks off after so many steps as a crash would, or by a signal."""
    with Run(
        folder, method="test", config=Config(), options=options, resume=resume, quiet=True
    ) as run:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        model, optimizer = run.prepare(model, optimizer)
        run.register(model=model, optimizer=optimizer)
        for batch in run.batches(points or Points(), epochs=epochs):
            loss = nn.functional.cross_entropy(model(batch.image), batch.label)
            run.step(loss, optimizer, learning_rate=0.1 / (1 + run.steps))
            run.log(loss=loss)
            if run.epoch_ended:
                run.score({"accuracy": float(run.steps)}, best="accuracy")
            if stop_after is not None and run.steps + 1 == stop_after:
                if by_signal is None:
                    break
                os.kill(os.getpid(), by_signal)
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        metrics = [json.loads(line) for line in lines]
        for line in metrics:
            for name in MEASURED:
                line.pop(name, None)
        return {name: value.clone() for name, value in model.state_dict().items()}, metrics


def assert_same(one: tuple[dict[str, Tensor], Any], other: tuple[dict[str, Tensor], Any]) -> None:
    assert one[0].keys() == other[0].keys()
    for name in one[0]:
        assert torch.equal(one[0][name], other[0][name]), name
    assert one[1] == other[1]


@pytest.mark.parametrize("stop", [1, 5, 6, 7, 13, 18])
def test_a_broken_off_run_resumes_to_the_same_bits(tmp_path: Path, stop: int) -> None:
    whole = train(tmp_path / "whole")
    options = RunOptions(checkpoint_every=0)
    train(tmp_path / "broken", stop_after=stop, options=options)
    assert_same(whole, train(tmp_path / "broken", resume=True, options=options))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(signal.SIGINT)  # a shell may have started this in the background
    whole = train(tmp_path / "whole")
    with pytest.raises(Interrupted, match=r"--resume") as caught:
        train(tmp_path / "stopped", stop_after=4, by_signal=number)
    assert caught.value.exit_code == 128 + number
    assert len(list((tmp_path / "stopped" / "checkpoints").glob("*.pt"))) == 1
    assert signal.getsignal(signal.SIGINT) is before
    assert_same(whole, train(tmp_path / "stopped", resume=True))


def test_resuming_from_the_checkpoint_before_a_damaged_one(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    options = RunOptions(checkpoint_every=0)
    train(tmp_path / "broken", stop_after=9, options=options)
    newest = max((tmp_path / "broken" / "checkpoints").glob("*.pt"))
    newest.write_bytes(newest.read_bytes()[:-1])
    assert_same(whole, train(tmp_path / "broken", resume=True, options=options))


@pytest.mark.parametrize(
    "line", [b'{"step": 9, "lo', b'{"step": 1, "x\xff": 0}\n', b'{"step": 1e999}\n', b"[" * 99999]
)
def test_a_damaged_line_of_metrics_is_dropped(tmp_path: Path, line: bytes) -> None:
    whole = train(tmp_path / "whole")
    options = RunOptions(checkpoint_every=0)
    train(tmp_path / "broken", stop_after=8, options=options)
    with (tmp_path / "broken" / "metrics.jsonl").open("ab") as file:
        file.write(line)
    assert_same(whole, train(tmp_path / "broken", resume=True, options=options))


DATA = {
    "classes": ["blue", "red"],
    "train": {"blue": 3, "red": 4},
    "nodes": 7,
    "digest": {"a": "1", "b": "2"},
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": ["green", "red"]}, r"classes: blue, red then, green, red now"),
        ({"train": {"blue": 3, "red": 5}}, r"train: red 4 then, red 5 now"),
        ({"nodes": 8}, r"nodes: 7 then, 8 now\."),
        ({"digest": {"a": "1", "b": "3"}}, r"data: changed: b\."),
        ({"digest": "written by another version"}, r"as many samples, but other ones\."),
    ],
)
def test_a_run_goes_on_with_the_same_data_only(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    for resume in (False, True):  # before the first checkpoint nothing was learned
        with Run(tmp_path, method="test", config=Config(), resume=resume, quiet=True) as run:
            run.register_data(DATA | ({} if resume else changes))
            assert not run.resumed
            run.save_checkpoint()
            break
    with Run(tmp_path, method="test", config=Config(), resume=True, quiet=True) as run:
        run.register_data(DATA | changes)
        with pytest.raises(CheckpointError, match="the run began with other data"):
            run.register_data(DATA)
        run._saved = {"data": DATA}
        with pytest.raises(CheckpointError, match=said):
            run.register_data(DATA | changes)


def train_with_norms(
    folder: Path, *, stop_after: int | None = None, resume: bool = False, epochs: int = 3
) -> tuple[list[float], dict[str, Tensor], Tensor]:
    """Validation losses, the result, and what the first layer's outputs are on average."""
    points = Points()
    options = RunOptions(checkpoint_every=0)
    how: dict[str, Any] = {"method": "test", "config": Config(), "options": options}
    with Run(folder, resume=resume, quiet=True, **how) as run:
        model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        model, optimizer = run.prepare(model, optimizer)
        run.register(model=model, optimizer=optimizer)
        losses: list[float] = []
        for batch in run.batches(points, epochs=epochs):
            model.train()
            run.step(nn.functional.cross_entropy(model(batch.image), batch.label), optimizer)
            if run.epoch_ended:
                with run.calibrated(model, points, lambda batch: model(batch.image)):
                    assert model.training
                    model.eval()
                    with torch.no_grad():
                        loss = nn.functional.cross_entropy(model(points.points), points.labels)
                    losses.append(float(loss))
            if run.steps + 1 == stop_after:
                break
        with torch.no_grad():
            means = model[0](points.points).mean(0)
        return losses, {k: v.clone() for k, v in model.state_dict().items()}, means


def test_statistics_of_norms_are_those_of_the_data_where_steps_were_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, state, means = train_with_norms(tmp_path / "few")
    torch.testing.assert_close(state["1.running_mean"], means)
    assert state["1.num_batches_tracked"] == 18
    for stop in (5, 6, 13):  # and it resumes to the bit
        train_with_norms(tmp_path / str(stop), stop_after=stop)
        _, resumed, _ = train_with_norms(tmp_path / str(stop), resume=True)
        assert all(torch.equal(state[name], resumed[name]) for name in state)
    monkeypatch.setattr("modicum.engine.run.FEW_STEPS", 0)
    lagging, plain, _ = train_with_norms(tmp_path / "many")
    assert torch.equal(plain["0.weight"], state["0.weight"])  # the training is the same
    assert losses[0] < lagging[0]
    monkeypatch.setattr("modicum.engine.run.FEW_STEPS", 12)
    _, back, _ = train_with_norms(tmp_path / "back")
    assert all(torch.equal(plain[name], back[name]) for name in plain)


def test_batches_and_epochs_fit_the_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="modicum")
    with Run(tmp_path / "run", method="test", config=Config(), quiet=True) as run:
        assert run.micro_batch_size(None, 60, usual=64) == 6
        assert not caplog.messages
        assert run.micro_batch_size(None, 61, usual=64) == 6
        assert "leaves out 1 of the 61 training samples, others each time" in caplog.text
        assert run.micro_batch_size(None, 512, usual=64) == 64
        assert run.micro_batch_size(64, 100) == 64
        assert "leaves out 36 of the 100" in caplog.text
        assert run.epochs_for(Points(), None, usual=30) == 50  # of 6 steps
        assert "50 epochs of 6 optimizer steps in batches of 8" in caplog.text
        assert run.epochs_for(Points(), 2, usual=30) == 2
        assert run.epochs_for(Points(), None, usual=60) == 60


@pytest.mark.parametrize("samples", [*range(1, 40), 100, 499, 513])
@pytest.mark.parametrize("unit", [1, 2, 6])
def test_few_samples_are_left_out_of_fitting_batches(samples: int, unit: int) -> None:
    size = fitting_batch(samples, 64, unit)
    assert size % unit == 0
    if unit <= samples:
        assert size <= min(64, max(8, samples))
        assert samples % size <= max(unit, 3, samples / 7)


def test_accumulated_micro_batches_make_the_same_step(tmp_path: Path) -> None:
    def one(folder: str, batch: int, accumulate: int) -> dict[str, Tensor]:
        options = RunOptions(accumulate=accumulate)
        with Run(tmp_path / folder, method="test", config=Config(), options=options) as run:
            model = nn.Linear(4, 2)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            model, optimizer = run.prepare(model, optimizer)
            run.register(model=model, optimizer=optimizer)
            for drawn in run.batches(Points(batch), epochs=2):
                loss = nn.functional.cross_entropy(model(drawn.image), drawn.label)
                run.step(loss, optimizer)
            assert run.steps == 12
            return model.state_dict()

    whole, split = one("whole", 8, 1), one("split", 4, 2)
    for name in whole:
        torch.testing.assert_close(whole[name], split[name])


def test_iterations_resume(tmp_path: Path) -> None:
    def descend(folder: Path, stop: int | None = None, resume: bool = False) -> Tensor:
        options = RunOptions(checkpoint_every=0)
        with Run(folder, method="test", config=Config(), options=options, resume=resume) as run:
            proxies = torch.randn(5, requires_grad=True)
            optimizer = torch.optim.Adam([proxies], lr=0.1)
            optimizer = run.prepare(optimizer)
            run.register(proxies=proxies, optimizer=optimizer)
            for step in run.iterations(30):
                run.step({"fit": (proxies - torch.randn(5)).square().sum()}, optimizer)
                if step == stop:
                    break
            return proxies.detach().clone()

    whole = descend(tmp_path / "whole")
    descend(tmp_path / "broken", stop=17)
    assert torch.equal(whole, descend(tmp_path / "broken", resume=True))


def test_a_nan_stops_with_step_term_and_batch(tmp_path: Path) -> None:
    points = Points(poison=11)
    order = permutation(48, 0, 0, "order").tolist()
    batch = order.index(11) // 8
    with pytest.raises(TrainingError) as caught:
        train(tmp_path / "run", points=points, options=RunOptions(checkpoint_every=0))
    message = str(caught.value)
    assert f"step {batch} (epoch 0, batch {batch})" in message
    assert "loss = nan" in message
    if batch:
        kept = max((tmp_path / "run" / "checkpoints").glob("*.pt"))
        state = torch.load(kept, weights_only=True)["objects"]["model"]
        assert all(value.isfinite().all() for value in state.values())


def test_the_nan_term_is_named(tmp_path: Path) -> None:
    with Run(tmp_path, method="test", config=Config(), quiet=True) as run:
        weight = torch.ones((), requires_grad=True)
        optimizer = run.prepare(torch.optim.SGD([weight], lr=0.1))
        run.register(weight=weight)

        def descend() -> None:
            for step in run.iterations(5):
                kl = weight * (torch.inf if step == 2 else 1.0)
                run.step({"task": weight * 1.0, "kl": kl}, optimizer)

        with pytest.raises(TrainingError, match=r"step 2 .*: kl = inf"):
            descend()


def test_metrics_are_means_of_windows(tmp_path: Path) -> None:
    with Run(tmp_path, method="test", config=Config(), quiet=True) as run:
        for step in run.iterations(43):
            run.log(number=float(step), tensor=torch.tensor(float(step)))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["number"], line["tensor"]) for line in lines] == [
        (20, 9.5, 9.5),
        (40, 29.5, 29.5),
        (43, 41.0, 41.0),
    ]


def test_clipping_bounds_the_update(tmp_path: Path) -> None:
    with Run(
        tmp_path, method="test", config=Config(), options=RunOptions(clip=0.5), quiet=True
    ) as run:
        weight = torch.zeros(3, requires_grad=True)
        optimizer = run.prepare(torch.optim.SGD([weight], lr=1.0))
        for _ in run.iterations(1):
            run.step((weight * torch.tensor([3.0, 4.0, 12.0])).sum(), optimizer)
    assert weight.detach().norm().item() == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize(("norm", "moved"), [(None, 0.5), (26.0, 0.25), (0.4, 13.0)])
def test_gradients_are_completed_before_they_are_clipped(
    tmp_path: Path, norm: float | None, moved: float
) -> None:
    """A norm that is told is that of all processes; without one it is worked out here."""
    with Run(
        tmp_path, method="test", config=Config(), options=RunOptions(clip=0.5), quiet=True
    ) as run:
        weight = torch.zeros(3, requires_grad=True)
        optimizer = run.prepare(torch.optim.SGD([weight], lr=1.0))

        def complete() -> Tensor | None:
            assert weight.grad is not None
            assert weight.grad.tolist() == [3, 0, 0]
            weight.grad += torch.tensor([0.0, 4.0, 12.0])
            return None if norm is None else torch.tensor(norm)

        for _ in run.iterations(1):
            run.step(weight[0] * 3, optimizer, gradients=complete)
    assert weight.detach().norm().item() == pytest.approx(moved, rel=1e-5)
    assert weight.grad is None


def test_gradients_are_completed_once_for_accumulated_batches(tmp_path: Path) -> None:
    found: list[float] = []
    options = RunOptions(accumulate=2)
    with Run(tmp_path, method="test", config=Config(), options=options, quiet=True) as run:
        weight = torch.zeros((), requires_grad=True)
        optimizer = run.prepare(torch.optim.SGD([weight], lr=0.0))

        def complete() -> None:
            assert weight.grad is not None
            found.append(weight.grad.item())

        for _ in run.batches(Points(24), epochs=1):  # two batches, one step
            run.step(weight * 3, optimizer, gradients=complete)
    assert found == [3.0]


def test_bf16_trains(tmp_path: Path) -> None:
    state, metrics = train(tmp_path / "bf16", options=RunOptions(precision="bf16"))
    assert all(value.dtype == torch.float32 for value in state.values())
    assert metrics[-1]["step"] == 18
    _, exact = train(tmp_path / "fp32")
    losses = [[line["loss"] for line in m if "loss" in line] for m in (metrics, exact)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


class Gathered:
    """Keeps a tensor as things do that processes hold parts of."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def state_dict(self) -> dict[str, Tensor]:
        return {"rows": self.tensor.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.tensor.copy_(state["rows"])


@pytest.mark.parametrize("is_main", [True, False])
def test_every_process_gives_the_state_and_the_main_one_writes(
    tmp_path: Path, is_main: bool
) -> None:
    asked: list[bool] = []
    with Run(tmp_path, method="test", config=Config(), quiet=True) as run:
        kept = Gathered(torch.ones(2))
        give = kept.state_dict
        kept.state_dict = lambda: asked.append(True) or give()  # pyright: ignore
        run.register(kept=kept)
        run.is_main_process = is_main
        run.save_checkpoint()
        run.is_main_process = True
    assert asked == [True]
    assert len(list(tmp_path.glob("checkpoints/*.pt"))) == is_main


def test_a_gathered_state_that_is_not_finite_never_reaches_a_checkpoint(tmp_path: Path) -> None:
    with Run(tmp_path, method="test", config=Config(), quiet=True) as run:
        run.register(kept=Gathered(torch.tensor([1.0, torch.inf])))
        with pytest.raises(TrainingError, match="rows of 'kept'"):
            run.save_checkpoint()
    assert not list(tmp_path.glob("checkpoints/*.pt"))


def test_a_gradient_that_is_not_finite_never_reaches_a_checkpoint(tmp_path: Path) -> None:
    options = RunOptions(checkpoint_every=0)
    with Run(tmp_path, method="test", config=Config(), options=options, quiet=True) as run:
        weight = torch.ones((), requires_grad=True)
        optimizer = run.prepare(torch.optim.SGD([weight], lr=0.1))
        run.register(weight=weight)

        def descend() -> None:
            for step in run.iterations(5):
                # The square root's gradient at zero is infinite, its value is not.
                run.step((weight * 0).abs().sqrt() if step == 2 else weight * 1.0, optimizer)

        with pytest.raises(TrainingError, match="after step 3, weight of 'weight'"):
            descend()
    kept = max((tmp_path / "checkpoints").glob("*.pt"))
    restored = torch.load(kept, weights_only=True)
    assert restored["steps"] == 2
    assert restored["objects"]["weight"].isfinite()


def test_a_run_that_never_began_leaves_nothing(tmp_path: Path) -> None:
    with Run(tmp_path / "run", method="test", config=Config(), quiet=True):
        pass
    assert not (tmp_path / "run").exists()
    train(tmp_path / "run")


def test_stages_end_early_and_resume(tmp_path: Path) -> None:
    def stages(folder: Path, *, resume: bool, stop_at: int | None) -> list[tuple[int, float]]:
        drawn = torch.zeros(2)
        seen: list[tuple[int, float]] = []
        options = RunOptions(checkpoint_every=0, device="cpu")
        with Run(folder, method="test", config=Config(), options=options, resume=resume) as run:
            run.register(drawn=drawn)
            for stage, until in enumerate((10, 20)):
                for step in run.iterations(until, of=20):
                    drawn[stage] += torch.rand(())
                    seen.append((step, float(drawn[stage])))
                    if step in (3, 16):
                        run.end_iterations()
                    if step == stop_at:
                        return seen
        return seen

    whole = stages(tmp_path / "whole", resume=False, stop_at=None)
    assert [step for step, _ in whole] == [0, 1, 2, 3, 10, 11, 12, 13, 14, 15, 16]
    for stop in (2, 3, 11):
        folder = tmp_path / str(stop)
        before = stages(folder, resume=False, stop_at=stop)
        after = stages(folder, resume=True, stop_at=None)
        assert before[:-1] + after == whole


def test_iterations_refuse_micro_batches(tmp_path: Path) -> None:
    options = RunOptions(accumulate=2)
    with (
        Run(tmp_path, method="test", config=Config(), options=options, quiet=True) as run,
        pytest.raises(ConfigError, match="no meaning"),
    ):
        next(run.iterations(4))


def test_a_used_folder_is_not_overwritten(tmp_path: Path) -> None:
    train(tmp_path / "run")
    with pytest.raises(ConfigError, match="exists and is not empty"):
        train(tmp_path / "run")


def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    with (
        Run(tmp_path, method="test", config=Config(), quiet=True),
        pytest.raises(ConfigError, match="another process is writing"),
    ):
        Run(tmp_path, method="test", config=Config(), resume=True, quiet=True)


def test_a_run_can_be_read_back(tmp_path: Path) -> None:
    options = RunOptions(seed=5, clip=1.0)
    config = Config(epochs=7, sizes=(3,), data=None)
    with Run(tmp_path, method="test", config=config, options=options, quiet=True) as run:
        assert list(run.iterations(1)) == [0]
    found = read_run(tmp_path, lambda method, recipe: {("test", "train"): Config}[method, recipe])
    assert found == ("test", "train", config, options)
    with pytest.raises(ConfigError, match="not a run folder"):
        read_run(tmp_path / "nothing", lambda *_: Config)
    for content, message in (("{", "no usable JSON"), ("[" * 100_000, "no usable JSON"),
                             ("{}", "not the description of a run")):  # fmt: skip
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(DataError, match=message):
            read_run(tmp_path, lambda *_: Config)


def test_options_out_of_range_are_refused() -> None:
    for options in ({"accumulate": 0}, {"clip": 0.0}, {"workers": -1}, {"checkpoint_every": -1.0}):
        with pytest.raises(ConfigError, match="must be"):
            RunOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (RunOptions(precision="fp16", device="cpu"), "needs a CUDA GPU"),
        (RunOptions(accumulate=7), "fewer than the 7"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: RunOptions, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(tmp_path, options=options)


def test_tensorboard_files_are_written_on_request(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path / "run", options=RunOptions(tensorboard=True))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "accuracy"}
    assert [event.step for event in events.Scalars("accuracy")] == [6, 12, 18]


def test_a_result_is_anything_with_a_state(tmp_path: Path) -> None:
    class Recipe:
        arguments = {"width": 3}  # noqa: RUF012

        def state_dict(self) -> dict[str, Tensor]:
            return {"images": torch.arange(3.0)}

    with Run(tmp_path, method="test", config=Config(), quiet=True) as run:
        recipe = Recipe()
        run.result(recipe, notes={"classes": ["a"]})
        for _ in run.iterations(1):
            run.score({"top1": 1.0}, best="top1")
        assert run.finish() is recipe
    for name in ("model", "best"):
        with safe_open(tmp_path / f"{name}.safetensors", "pt") as file:
            assert file.get_tensor("images").tolist() == [0, 1, 2]
            assert json.loads(file.metadata()["modicum.arguments"]) == {"width": 3}


def test_a_loader_gets_its_share(tmp_path: Path) -> None:
    options = RunOptions(seed=7, workers=0)
    with Run(tmp_path, method="test", config=Config(), options=options, quiet=True) as run:
        assert run.share == {"seed": 7, "workers": 0, "rank": 0, "world": 1}


def losses_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stop", [None, 3, 7, 11, 12])
def test_loops_by_steps_and_epochs_follow_one_another_and_resume(
    tmp_path: Path, stop: int | None
) -> None:
    """8 steps are an epoch and a third of the next; the second loop goes on with the third."""

    def stages(folder: Path, *, resume: bool = False, stop: int | None = None) -> Any:
        seen: list[tuple[int, int, bool, list[int]]] = []
        options = RunOptions(checkpoint_every=0)
        with Run(folder, method="test", config=Config(), options=options, resume=resume) as run:
            drawn = torch.zeros(1)
            run.register(drawn=drawn)
            for loop in ({"steps": 8}, {"epochs": 1}):
                for batch in run.batches(Points(), **loop):
                    drawn += torch.rand(())
                    seen.append((run.steps, run.epoch, run.epoch_ended, batch.index.tolist()))
                    if run.steps == stop:
                        return seen, drawn
        return seen, drawn

    whole, drawn = stages(tmp_path / "whole")
    assert [entry[:3] for entry in whole] == [
        (step, (step + 4) // 6 if step >= 8 else step // 6, step in (5, 13)) for step in range(14)
    ]
    order = [i for e in (0, 1, 2) for i in permutation(48, 0, e, "order")[: 16 if e == 1 else 48]]
    assert [i for entry in whole for i in entry[3]] == order
    if stop is not None:
        before, _ = stages(tmp_path / "broken", stop=stop)
        after, again = stages(tmp_path / "broken", resume=True)
        assert before[:-1] + after == whole
        assert torch.equal(drawn, again)
    with (
        Run(tmp_path / "both", method="test", config=Config(), quiet=True) as run,
        pytest.raises(TypeError, match="either epochs or steps"),
    ):
        next(run.batches(Points(), epochs=1, steps=1))


@dataclass(frozen=True)
class Target:
    boxes: list[Tensor]
    name: str


def test_nested_batches_move_to_the_device() -> None:
    device = torch.device("meta")  # a device that every machine has
    target = Target([torch.zeros(2, 4), torch.zeros(0, 4)], "a")
    batch = {"image": torch.zeros(3), "targets": (target, None), "index": Batch(*torch.zeros(3, 1))}
    moved = to_device(batch, device)
    assert moved["image"].device == moved["index"].label.device == device
    assert type(moved["index"]) is Batch
    assert [tuple(boxes.shape) for boxes in moved["targets"][0].boxes] == [(2, 4), (0, 4)]
    assert all(boxes.device == device for boxes in moved["targets"][0].boxes)
    assert moved["targets"][0].name == "a"
    assert moved["targets"][1] is None
    assert target.boxes[0].device.type == "cpu"


def test_ragged_targets_train_and_are_named_when_a_loss_is_not_finite(tmp_path: Path) -> None:
    class Ragged:
        batch_size = 2

        def __len__(self) -> int:
            return 3

        def epoch(self, epoch: int, start: int = 0) -> Iterator[dict[str, Any]]:
            for number in range(start, 3):
                yield {
                    "points": [torch.ones(number + 1), torch.ones(0)],
                    "index": torch.tensor([number, number + 10]),
                }

    def descend(run: Run, weight: Tensor, optimizer: Any) -> None:
        for batch in run.batches(Ragged(), epochs=1):
            count = torch.cat(batch["points"]).sum()
            run.step(weight * (count if count < 3 else torch.inf), optimizer)

    with Run(tmp_path, method="test", config=Config(), quiet=True) as run:
        weight = torch.ones((), requires_grad=True)
        optimizer = run.prepare(torch.optim.SGD([weight], lr=0.1))
        with pytest.raises(TrainingError, match="by their index: 2, 12"):
            descend(run, weight, optimizer)
    assert weight.item() == pytest.approx(1 - 0.1 - 0.2)


def test_the_norm_before_clipping_is_returned(tmp_path: Path) -> None:
    norms: list[float] = []
    with Run(
        tmp_path, method="test", config=Config(), options=RunOptions(clip=0.5), quiet=True
    ) as run:
        weight = torch.zeros(3, requires_grad=True)
        optimizer = run.prepare(torch.optim.SGD([weight], lr=1.0))
        moved = torch.zeros(3)
        for clip in (None, 2.0, 100.0):
            before = weight.detach().clone()
            for _ in run.iterations(run.steps + 1):
                loss = (weight * torch.tensor([3.0, 4.0, 12.0])).sum()
                norm = run.step(loss, optimizer, clip=clip)
                run.log(gradient=norm)
                assert norm is not None
                norms.append(norm.item())
            moved[len(norms) - 1] = (weight.detach() - before).norm()
    assert norms == pytest.approx([13, 13, 13], rel=1e-5)
    assert moved.tolist() == pytest.approx([0.5, 2, 13], rel=1e-5)


def test_a_micro_batch_has_no_norm(tmp_path: Path) -> None:
    options = RunOptions(accumulate=2)
    with Run(tmp_path, method="test", config=Config(), options=options, quiet=True) as run:
        weight = torch.zeros((), requires_grad=True)
        optimizer = run.prepare(torch.optim.SGD([weight], lr=0.0))
        norms: list[Tensor | None] = []
        for batch in run.batches(Points(12), epochs=1):
            norms.append(run.step(weight * batch.label.sum(), optimizer))
            run.log(gradient=norms[-1])
    assert [norm is None for norm in norms] == [True, False, True, False]
    assert losses_of(tmp_path)[-1]["gradient"] == pytest.approx(
        sum(norm.item() for norm in norms if norm is not None) / 2
    )


def test_throughput_leaves_measuring_and_checkpoints_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("modicum.engine.run.time.monotonic", lambda: now[0])

    def save(folder: Path, steps: int, content: Any) -> None:
        now[0] += 7.0

    monkeypatch.setattr("modicum.engine.checkpoint.save_checkpoint", save)
    options = RunOptions(checkpoint_every=0)
    with Run(tmp_path, method="test", config=Config(), options=options, quiet=True) as run:
        weight = torch.zeros((), requires_grad=True)
        optimizer = run.prepare(torch.optim.SGD([weight], lr=0.0))
        for batch in run.batches(Points(), epochs=2):
            now[0] += 0.5
            run.step(weight * 1.0, optimizer)
            run.log(size=float(len(batch.index)))
            if run.epoch_ended:
                now[0] += 100.0
                run.score({"top1": 1.0})
    scored, logged = losses_of(tmp_path)[-2:]
    assert "samples_per_second" not in scored
    assert logged["samples_per_second"] == 16.0
    assert logged["peak_memory_mib"] > 1


def test_checkpoints_take_a_twentieth_of_the_time_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("modicum.engine.run.time.monotonic", lambda: now[0])
    saved: list[float] = []

    def save(folder: Path, steps: int, content: Any) -> None:
        now[0] += 2.0
        saved.append(now[0])

    monkeypatch.setattr("modicum.engine.checkpoint.save_checkpoint", save)
    options = RunOptions(checkpoint_every=10)
    with Run(tmp_path, method="test", config=Config(), options=options, quiet=True) as run:
        for _ in run.iterations(100):
            now[0] += 1.0
    # The first after 10 s; every further one 19 times 2 s after the one before has ended.
    assert saved == [12, 52, 92, 108]


def test_objects_are_gathered_in_one_process(tmp_path: Path) -> None:
    with Run(tmp_path, method="test", config=Config(), quiet=True) as run:
        assert run.gather(({"a": 1}, None)) == [{"a": 1}, None]


@pytest.mark.slow  # importing the compiler takes half a minute
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's compiler, for itself
def test_a_compiled_network_is_saved_like_another(tmp_path: Path) -> None:
    assert not RunOptions().compile
    if shutil.which("g++") is None:
        pytest.skip("there is no C++ compiler")
    plain, _ = train(tmp_path / "plain", epochs=1)
    compiled, _ = train(tmp_path / "compiled", epochs=1, options=RunOptions(compile=True))
    assert compiled.keys() == plain.keys()
    assert all(value.isfinite().all() for value in compiled.values())


def test_a_missing_compiler_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any) -> Any:
        raise RuntimeError("no compiler found\nmore")

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(ConfigError, match=r"--compile: .*RuntimeError: no compiler found\)\. It"):
        train(tmp_path, options=RunOptions(compile=True))
