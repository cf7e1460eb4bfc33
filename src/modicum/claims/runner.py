"""Running a study: every stage once, side by side in processes, whatever is interrupted."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from modicum.claims.claim import ArmResult, Study, StudyResult, judge_study
from modicum.claims.stages import Training, digest_of_function, training_of
from modicum.data.folders import some
from modicum.engine.metrics import MEASURED
from modicum.errors import CheckpointError, DataError, ModicumError
from modicum.method import load_method, load_saved
from modicum.system.environment import usable_cores
from modicum.system.files import FolderLock, file_digest, read_json, write_text
from modicum.system.progress import Progress

THREADS = 1
"""PyTorch threads of a stage. Stages run side by side, and sums must not depend on how many do."""

STOPPING_SECONDS = 20.0
"""How long an interrupted stage may take to write its checkpoint."""

_log = logging.getLogger("modicum")


def run_study(
    study: Study, seeds: Iterable[int], *, jobs: int | None = None, fresh: bool = False
) -> StudyResult:
    """Train and measure every arm with every seed, in parallel processes, and judge the claims.

    A finished stage is kept in the cache folder, see `modicum.claims.stages`: a second check is
    instant, and one that was interrupted goes on where it was.

    Args:
        study: What to run.
        seeds: Seeds, the same for every arm.
        jobs: Stages trained at a time; the number of usable cores if not given.
        fresh: Train every stage anew.
    """
    seeds = list(seeds)
    trainings = {
        (arm, seed): training_of(study.method, stage, seed, study.fingerprint)
        for seed in seeds
        for arm, stage in study.arms.items()
    }
    _work_off(study, trainings, jobs, fresh)
    results = [_read_result(arm, trainings[arm, seed]) for arm in study.arms for seed in seeds]
    verdicts = judge_study(study, results, seeds)
    runs = {arm: [trainings[arm, seed].folder for seed in seeds] for arm in study.arms}
    return StudyResult(study, seeds, results, verdicts, study.pictures(runs))


# Stages in processes


def _work_off(
    study: Study, trainings: Mapping[tuple[str, int], Training], jobs: int | None, fresh: bool
) -> None:
    """Train all stages of arms that are not there yet, each after those it starts from."""
    to_measure = {last.folder: arm for (arm, _), last in trainings.items()}
    # Seed by seed: an interrupted check then has whole seeds to show.
    stages = {one.folder: one for last in trainings.values() for one in last.chain()}
    measured_by = digest_of_function(study.measure)
    waiting = {
        folder: one
        for folder, one in stages.items()
        if fresh or not _is_done(folder, measured_by if folder in to_measure else None)
    }
    damaged = [folder for folder in waiting if folder.exists() and not _is_done(folder, None)]
    if damaged and not fresh:
        text = "%d of %d results kept of earlier checks are damaged and computed again: %s."
        _log.warning(text, len(damaged), len(stages), some(map(str, damaged)))
    if not waiting:
        return
    # A process that has run PyTorch in threads must not be forked.
    context = multiprocessing.get_context("spawn")
    jobs = min(jobs or usable_cores(), len(waiting))
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_follow_parent)
    running: dict[Future[None], Path] = {}
    done, note = 0, ""
    try:
        with Progress(f"check {study.method}", len(waiting)) as progress:
            while waiting or running:
                blocked = {*waiting, *running.values()}
                for folder, one in list(waiting.items()):
                    if not any(before.folder in blocked for before in one.inputs.values()):
                        measured = study if folder in to_measure else None
                        running[pool.submit(_work, one, measured, measured_by, fresh)] = folder
                        del waiting[folder]
                finished, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                    one = stages[running.pop(future)]
                    name = to_measure.get(one.folder, one.stage.recipe)
                    done, note = done + 1, f"{name}, seed {one.seed} done"
                progress.advance(done, note)
    except BrokenProcessPool as error:
        raise ModicumError(
            f"a process that trained an arm of {study.method} died, perhaps for lack of memory. "
            f"Finished arms are kept; try again with fewer at a time (--jobs 1)."
        ) from error
    finally:
        # After an interruption finished stages are on disk, those in progress leave a checkpoint.
        workers = multiprocessing.active_children() if running else []
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join(STOPPING_SECONDS)
            worker.kill()
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """Prepare a worker: it is stopped by its parent alone, and ends when the parent has died."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C goes to the parent as well

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(training: Training, study: Study | None, measured_by: str, fresh: bool) -> None:
    """Train one stage in a process of its own, unless it is there, and measure it for a study."""
    import torch

    torch.set_num_threads(THREADS)
    folder = training.folder
    with FolderLock(folder.with_suffix(".lock"), wait=True):  # of another check, if there is one
        if fresh or not _is_done(folder, None):
            _train(training, fresh)
        result = _kept(folder)
        if study is None or result is None or result.get("measured_by") == measured_by:
            return
        began = time.process_time()
        metrics = study.measure(training.config, load_saved(folder).module)
        result |= {
            "metrics": {name: float(value) for name, value in metrics.items()},
            "measured_by": measured_by,
            "measuring_seconds": time.process_time() - began,
        }
        _keep(folder, result)


def _train(training: Training, fresh: bool) -> None:
    """Leave the run folder of a stage in its place, whole."""
    from modicum.engine.run import Interrupted, Run, RunOptions

    working = training.folder.with_suffix(".part")
    if fresh:
        shutil.rmtree(working, ignore_errors=True)
    began = time.process_time()
    options = dataclasses.replace(
        training.stage.options or RunOptions(), seed=training.seed, device="cpu", workers=0
    )
    how: dict[str, Any] = {"options": options, "quiet": True}
    method, recipe, config = training.method, training.stage.recipe, training.config
    how |= {"method": method, "recipe": recipe, "config": config}
    try:
        try:
            run = Run(working, resume=True, **how)
        except CheckpointError:  # all that an interrupted training left is damaged
            run = Run(working, restart=True, **how)
        with run:
            load_method(method).recipe(recipe).train(config, run)
    except Interrupted:
        os._exit(143)  # rather than return, and be given the next stage
    made = [path for path in working.iterdir() if path.is_file() and path.name != ".lock"]
    files = {path.name: file_digest(path) for path in made if path.name != RESULT}
    _keep(working, {"seconds": time.process_time() - began, "files": files})
    shutil.rmtree(training.folder, ignore_errors=True)
    working.rename(training.folder)


# Results on disk

RESULT = "result.json"
"""Of a finished stage seconds, digests of its files, and what was measured of it, if it is the last
of an arm; and a digest of all that."""


def _is_done(folder: Path, measured_by: str | None) -> bool:
    """Whether a stage is finished, and measured by code of this digest if one is given."""
    result = _kept(folder)
    return result is not None and measured_by in (None, result.get("measured_by"))


def _kept(folder: Path) -> dict[str, Any] | None:
    """What is kept of a finished stage; None where it is absent or damaged."""
    try:
        result = read_json(folder / RESULT)
        if isinstance(result, dict) and result.pop("digest", None) == _digest(result):
            files: dict[str, str] = result["files"]
            if all(file_digest(folder / name) == digest for name, digest in files.items()):
                return result
    except (DataError, OSError):
        pass
    return None


def _keep(folder: Path, result: dict[str, Any]) -> None:
    text = json.dumps(result | {"digest": _digest(result)}, indent=2)
    write_text(folder / RESULT, text + "\n")


def _digest(result: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()


def _read_result(arm: str, training: Training) -> ArmResult:
    chain = [json.loads((one.folder / RESULT).read_text()) for one in training.chain()]
    seconds = sum(one["seconds"] for one in chain) + chain[-1]["measuring_seconds"]
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in (training.folder / "metrics.jsonl").read_text().splitlines():
        logged = json.loads(line)
        for name, value in logged.items():
            if name not in ("step", "epoch", *MEASURED) and value is not None:
                curves.setdefault(name, []).append((logged["step"], value))
    return ArmResult(arm, training.seed, chain[-1]["metrics"], curves, seconds)
