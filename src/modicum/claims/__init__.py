"""A paper's claim, checked: arms, seeds, paired differences, an interval and a verdict.

A study trains every *arm* (a configuration of one method) with every seed, evaluates each network
on data that no choice was made on, and compares the arms a claim names, seed by seed. Arms are
trained by the method's own `train`; there is no second training loop for demonstrations.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import stats

from modicum.errors import ModicumError
from modicum.method import load_method, room
from modicum.system.cache import cache_folder
from modicum.system.environment import code_digest, usable_cores
from modicum.system.files import FolderLock, write_text
from modicum.system.progress import Progress

if TYPE_CHECKING:
    from torch import nn

    from modicum.engine.run import RunOptions

Word = Literal["holds", "does not hold", "inconclusive"]


@dataclass(frozen=True)
class Claim:
    """One sentence of a paper that an experiment can contradict.

    The effect is the paired difference `method - baseline` of `metric`, its sign turned so that
    larger is better. The claim says that the effect is greater than `threshold`: 0 for "is better
    than", a negative number for "loses no more than".
    """

    name: str
    statement: str
    """The claim in one sentence, with the place in the paper it comes from."""
    method: str
    """The arm the claim speaks for."""
    baseline: str
    """The arm it is compared with."""
    metric: str
    """A key of the measurements `Study.measure` returns."""
    threshold: float = 0.0
    """In the unit of the metric."""
    unit: str = "points"
    higher_is_better: bool = True
    relative: bool = False
    """The effect of a seed is a share of the baseline's metric, and so is the threshold."""


@dataclass(frozen=True)
class Picture:
    """An image for the report."""

    title: str
    caption: str
    """What to see in it; also the text for people who cannot see it."""
    png: bytes


@dataclass(frozen=True)
class Study:
    """The arms and claims of one method on one data set."""

    method: str
    """Name of the method in the catalogue."""
    data: str
    """What the arms are trained and tested on, for people."""
    arms: Mapping[str, Any]
    """Configuration of each arm, by the arm's name."""
    claims: Sequence[Claim]
    measure: Callable[[Any, nn.Module], Mapping[str, float]]
    """Measures a trained network on the test data, given its arm's configuration. A function of a
    module, so that other processes find it by name."""
    pictures: Callable[[Mapping[str, Sequence[Path]]], Sequence[Picture]]
    """Draws the method's own pictures from the run folders of each arm, one a seed."""
    caveat: str = ""
    """What this data cannot show."""
    fingerprint: str = ""
    """Changes whenever the data does; part of the key results are cached under."""
    seeds: int = 3
    """Seeds every arm is trained with, unless more or fewer are asked for."""
    options: Mapping[str, RunOptions] = field(default_factory=dict[str, "RunOptions"])
    """How some arms are executed; seed, device and workers are the check's own."""


@dataclass(frozen=True)
class ArmResult:
    """One arm trained with one seed and measured on the test data."""

    arm: str
    seed: int
    metrics: Mapping[str, float]
    curves: Mapping[str, Sequence[tuple[int, float]]]
    """For each logged quantity its values as (optimizer step, value)."""
    seconds: float
    """CPU time of training and measuring, summed over threads; of an arm that was interrupted, only
    that of its last session."""


@dataclass(frozen=True)
class Verdict:
    """What the seeds say about a claim."""

    claim: Claim
    differences: Sequence[float]
    """Effect of each seed, larger is better."""
    mean: float
    low: float
    """Lower end of the two-sided 95 % Student-t interval of the mean effect."""
    high: float
    word: Word


@dataclass(frozen=True)
class StudyResult:
    """Everything a study measured: what the report and `--json` are made from."""

    study: Study
    seeds: Sequence[int]
    results: Sequence[ArmResult]
    verdicts: Sequence[Verdict]
    pictures: Sequence[Picture]


def judge(claim: Claim, method: Sequence[float], baseline: Sequence[float]) -> Verdict:
    """Compare two arms seed by seed.

    Args:
        claim: What is claimed.
        method: The claim's metric for the method's arm, one value a seed.
        baseline: The same for the baseline, in the same order of seeds.

    Returns:
        *holds* when the whole 95 % interval of the mean effect lies above the threshold, *does not
        hold* when it lies at or below it, *inconclusive* otherwise and with fewer than two seeds.
        With identical differences for every seed the interval is a point.
    """
    sign = 1.0 if claim.higher_is_better else -1.0
    differences = sign * (np.asarray(method, dtype=np.float64) - np.asarray(baseline))
    if claim.relative:
        with np.errstate(divide="ignore", invalid="ignore"):  # nothing to have a share of
            differences = differences / np.asarray(baseline)
    mean = float(differences.mean())
    if len(differences) < 2:
        return Verdict(claim, differences.tolist(), mean, -np.inf, np.inf, "inconclusive")
    error = float(differences.std(ddof=1)) / np.sqrt(len(differences))
    margin = float(stats.t.ppf(0.975, len(differences) - 1)) * error
    low, high = mean - margin, mean + margin
    word: Word = "inconclusive"
    if low > claim.threshold:
        word = "holds"
    elif high <= claim.threshold:
        word = "does not hold"
    return Verdict(claim, differences.tolist(), mean, low, high, word)


# Running a study

THREADS = 1
"""PyTorch threads of an arm. Arms run side by side, and sums must not depend on how many do."""


def run_study(
    study: Study, seeds: Iterable[int], *, jobs: int | None = None, fresh: bool = False
) -> StudyResult:
    """Train and measure every arm with every seed, in parallel processes, and judge the claims.

    A finished arm is kept in the cache folder under a hash of its configuration, seed, data and the
    code it ran: a second check is instant, and one that was interrupted goes on where it was.

    Args:
        study: What to run.
        seeds: Seeds, the same for every arm.
        jobs: Arms trained at a time; the number of usable cores if not given.
        fresh: Train every arm anew.
    """
    seeds = list(seeds)
    tasks = [(arm, seed) for arm in study.arms for seed in seeds]
    folders = {task: _arm_folder(study, *task) for task in tasks}
    missing = [t for t in tasks if fresh or not (folders[t] / "result.json").is_file()]
    if missing:
        _train_arms(study, {task: folders[task] for task in missing}, jobs, fresh)
    results = [_read_result(arm, seed, folders[arm, seed]) for arm, seed in tasks]
    values = {(r.arm, r.seed): r.metrics for r in results}
    verdicts = [
        judge(
            claim,
            [values[claim.method, seed][claim.metric] for seed in seeds],
            [values[claim.baseline, seed][claim.metric] for seed in seeds],
        )
        for claim in study.claims
    ]
    runs = {arm: [folders[arm, seed] for seed in seeds] for arm in study.arms}
    return StudyResult(study, seeds, results, verdicts, study.pictures(runs))


def _arm_folder(study: Study, arm: str, seed: int) -> Path:
    code = code_digest(room(study.method))
    config = json.dumps(asdict(study.arms[arm]), sort_keys=True, default=str)
    options = json.dumps(asdict(_options(study, arm, seed)), sort_keys=True, default=str)
    key = "\n".join([study.method, config, options, study.fingerprint, code])
    return cache_folder() / "claims" / hashlib.sha256(key.encode()).hexdigest()[:32]


def _options(study: Study, arm: str, seed: int) -> RunOptions:
    from modicum.engine.run import RunOptions

    usual = study.options.get(arm, RunOptions())
    return dataclasses.replace(usual, seed=seed, device="cpu", workers=0)


def _train_arms(
    study: Study, folders: Mapping[tuple[str, int], Path], jobs: int | None, fresh: bool
) -> None:
    jobs = min(jobs or usable_cores(), len(folders))
    # A process that has run PyTorch in threads must not be forked.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_follow_parent)
    # Seed by seed: an interrupted check then has whole seeds to show.
    ordered = sorted(folders, key=lambda task: task[1])
    pending: dict[Future[None], tuple[str, int]] = {
        pool.submit(_train_arm, study, arm, seed, folders[arm, seed], fresh): (arm, seed)
        for arm, seed in ordered
    }
    done, note = 0, ""
    try:
        with Progress(f"check {study.method}", len(folders)) as progress:
            while pending:
                finished, _ = wait(pending, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                    arm, seed = pending.pop(future)
                    done, note = done + 1, f"{arm}, seed {seed} done"
                progress.advance(done, note)
    except BrokenProcessPool as error:
        raise ModicumError(
            f"a process that trained an arm of {study.method} died, perhaps for lack of memory. "
            f"Finished arms are kept; try again with fewer at a time (--jobs 1)."
        ) from error
    finally:
        # After an interruption finished arms are on disk, and arms in progress leave a checkpoint.
        workers = multiprocessing.active_children() if pending else []
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join(STOPPING_SECONDS)
            worker.kill()
        pool.shutdown(cancel_futures=True)


STOPPING_SECONDS = 20.0
"""How long an interrupted arm may take to write its checkpoint."""


def _follow_parent() -> None:
    """Prepare a worker: it is stopped by its parent alone, and ends when the parent has died."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C goes to the parent as well

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _train_arm(study: Study, arm: str, seed: int, folder: Path, fresh: bool) -> None:
    """Train one arm in a process of its own and leave its run folder and result in `folder`."""
    import torch

    from modicum.engine.run import Interrupted, Run

    torch.set_num_threads(THREADS)
    config = study.arms[arm]
    working = folder.with_suffix(".part")
    with FolderLock(folder.with_suffix(".lock"), wait=True):  # of another check, if there is one
        if (folder / "result.json").is_file() and not fresh:
            return
        if fresh:
            shutil.rmtree(working, ignore_errors=True)
        began = time.process_time()
        options = _options(study, arm, seed)
        try:
            with Run(
                working,
                method=study.method,
                config=config,
                options=options,
                resume=True,
                quiet=True,
            ) as run:
                module = load_method(study.method).train(config, run)
        except Interrupted:
            os._exit(143)  # rather than return, and be given the next arm
        metrics = study.measure(config, module.eval())
        seconds = time.process_time() - began
        result = {"metrics": {name: float(v) for name, v in metrics.items()}, "seconds": seconds}
        write_text(working / "result.json", json.dumps(result, indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        working.rename(folder)


def _read_result(arm: str, seed: int, folder: Path) -> ArmResult:
    result = json.loads((folder / "result.json").read_text())
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        logged = json.loads(line)
        for name, value in logged.items():
            if name not in ("step", "epoch", "seconds") and value is not None:
                curves.setdefault(name, []).append((logged["step"], value))
    return ArmResult(arm, seed, result["metrics"], curves, result["seconds"])


def summarise(studies: Sequence[StudyResult]) -> dict[str, Any]:
    """The results of studies as JSON-able records: one a claim, and for each method one an arm."""

    def number(value: float) -> float | None:
        return round(value, 6) + 0.0 if math.isfinite(value) else None  # + 0.0: no minus zero

    claims = [
        {
            "method": result.study.method,
            "claim": verdict.claim.name,
            "statement": verdict.claim.statement,
            "effect": number(verdict.mean),
            "low": number(verdict.low),
            "high": number(verdict.high),
            "threshold": verdict.claim.threshold,
            "unit": verdict.claim.unit,
            "seeds": len(result.seeds),
            "verdict": verdict.word,
        }
        for result in studies
        for verdict in result.verdicts
    ]
    arms = {
        result.study.method: [
            {
                "arm": arm,
                **{
                    metric: number(float(np.mean([r.metrics[metric] for r in of_arm])))
                    for metric in of_arm[0].metrics
                },
                "cpu_seconds": number(float(np.mean([r.seconds for r in of_arm]))),
            }
            for arm in result.study.arms
            if (of_arm := [r for r in result.results if r.arm == arm])
        ]
        for result in studies
    }
    notes = {r.study.method: f"{r.study.data} {r.study.caveat}".strip() for r in studies}
    return {"notes": notes, "arms": arms, "claims": claims}
