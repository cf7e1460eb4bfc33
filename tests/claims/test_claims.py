"""Verdicts follow from the interval; studies run, are cached, and go on after an interruption."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from scipy import stats
from torch import nn

from modicum.claims import Claim, Picture, Stage, Study, judge, run_study, summarise
from modicum.method import load_method
from modicum.system.cache import cache_folder

CLAIM = Claim("a", "The method is better.", method="m", baseline="b", metric="top1")


@pytest.mark.parametrize(
    ("method", "baseline", "threshold", "higher", "word"),
    [
        ([3.0, 3.1, 3.2], [1.0, 1.0, 1.0], 0.0, True, "holds"),
        ([3.0, 3.1, 3.2], [1.0, 1.0, 1.0], 0.0, False, "does not hold"),
        ([1.0, 1.0, 1.0], [3.0, 3.1, 3.2], 0.0, False, "holds"),
        ([1.0, 5.0, 0.0], [1.5, 1.0, 1.0], 0.0, True, "inconclusive"),
        ([9.0, 9.1, 9.2], [10.0, 10.0, 10.0], -2.0, True, "holds"),
        ([7.0, 7.1, 7.2], [10.0, 10.0, 10.0], -2.0, True, "does not hold"),
        ([1.0, 1.0], [1.0, 1.0], 0.0, True, "inconclusive"),  # nothing is known of what varies
        ([9.0], [1.0], 0.0, True, "inconclusive"),
    ],
)
def test_verdicts(
    method: list[float], baseline: list[float], threshold: float, higher: bool, word: str
) -> None:
    claim = dataclasses.replace(CLAIM, threshold=threshold, higher_is_better=higher)
    verdict = judge(claim, method, baseline)
    assert verdict.word == word
    assert verdict.low <= verdict.mean <= verdict.high


def test_a_relative_effect_is_a_share_of_the_baseline() -> None:
    claim = dataclasses.replace(CLAIM, threshold=0.65, higher_is_better=False, relative=True)
    verdict = judge(claim, [1.0, 0.5, 0.6], [4.0, 5.0, 6.0])
    assert verdict.differences == pytest.approx([0.75, 0.9, 0.9])
    assert verdict.word == "inconclusive"
    assert judge(claim, [1.0, 1.1, 2.0], [10.0, 10.0, 20.0]).word == "holds"
    assert judge(claim, [0.0, 1.0], [0.0, 10.0]).word == "inconclusive"


def test_the_interval_is_students_t() -> None:
    verdict = judge(CLAIM, [3.0, 5.0, 4.0, 4.5], [1.0, 2.0, 2.5, 1.0])
    differences = [2.0, 3.0, 1.5, 3.5]
    assert verdict.differences == differences
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert verdict.low == pytest.approx(expected.low)
    assert verdict.high == pytest.approx(expected.high)
    single = judge(CLAIM, [1.0], [0.0])
    assert math.isinf(single.low)
    assert math.isinf(single.high)


def measure(config: Any, network: nn.Module) -> Mapping[str, float]:
    return {"top1": float(sum(p.sum() for p in network.parameters()))}


def pictures(runs: Mapping[str, Sequence[Path]]) -> Sequence[Picture]:
    assert all((run / "model.safetensors").is_file() for many in runs.values() for run in many)
    return [Picture("Runs", str(len(runs)), b"")]


def smoke_study(fingerprint: str = "") -> Study:
    config = load_method("vgnet").recipe().presets["smoke"].config
    return Study(
        method="vgnet",
        data="digits",
        arms={"m": Stage(dataclasses.replace(config, epochs=1)), "b": Stage(config)},
        claims=[CLAIM],
        measure=measure,
        pictures=pictures,
        fingerprint=fingerprint,
    )


@pytest.mark.usefixtures("forked_workers")
def test_a_study_runs_once_and_is_remembered(capsys: pytest.CaptureFixture[str]) -> None:
    first = run_study(smoke_study(), [0, 1])
    assert [(r.arm, r.seed) for r in first.results] == [("m", 0), ("m", 1), ("b", 0), ("b", 1)]
    assert first.results[0].metrics != first.results[1].metrics
    assert "loss" in first.results[0].curves
    assert first.pictures[0].caption == "2"
    assert first.verdicts[0].differences == [
        first.results[i].metrics["top1"] - first.results[i + 2].metrics["top1"] for i in range(2)
    ]
    # Measured times differ from run to run, so equal times are remembered ones.
    again = run_study(smoke_study(), [0, 1])
    assert [r.seconds for r in again.results] == [r.seconds for r in first.results]
    fresh = run_study(smoke_study(), [0], fresh=True)
    assert fresh.results[0].seconds != first.results[0].seconds
    assert fresh.results[0].metrics == first.results[0].metrics
    other = run_study(smoke_study("other data"), [0])
    assert other.results[0].seconds != fresh.results[0].seconds

    summary = summarise([first])
    assert summary["claims"][0]["verdict"] == first.verdicts[0].word
    assert {arm["arm"] for arm in summary["arms"]["vgnet"]} == {"m", "b"}


@pytest.mark.usefixtures("forked_workers")
def test_finished_arms_survive_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C after the first arm: its result is kept and not trained again."""
    from modicum.claims import runner

    class Interrupting(runner.Progress):
        def advance(self, done: int, note: str = "") -> None:
            if done:
                raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(runner, "Progress", Interrupting)
        with pytest.raises(KeyboardInterrupt):
            run_study(smoke_study(), [0], jobs=1)
    found = (cache_folder() / "claims").glob("*/result.json")
    kept = [file for file in found if file.parent.suffix != ".part"]
    assert kept
    before = {file: file.stat().st_mtime_ns for file in kept}
    result = run_study(smoke_study(), [0], jobs=1)
    assert len(result.results) == 2
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())


@pytest.mark.usefixtures("forked_workers")
def test_damaged_results_are_computed_again(caplog: pytest.LogCaptureFixture) -> None:
    first = run_study(smoke_study(), [0, 1])
    kept = sorted((cache_folder() / "claims").glob("*/result.json"))
    before = {file: file.stat().st_mtime_ns for file in kept}
    kept[0].write_text("")
    kept[1].write_text(kept[1].read_text().replace('"top1": ', '"top1": 1'))
    (kept[2].parent / "metrics.jsonl").write_text('{"step": 1')
    (kept[2].parent.with_suffix(".part") / "checkpoints").mkdir(parents=True)
    damaged = kept[2].parent.with_suffix(".part") / "checkpoints/step-00000001-0123456789abcdef.pt"
    damaged.write_text("damaged as well")
    again = run_study(smoke_study(), [0, 1])
    assert [r.metrics for r in again.results] == [r.metrics for r in first.results]
    assert [r.curves for r in again.results] == [r.curves for r in first.results]
    assert [file.stat().st_mtime_ns == before[file] for file in kept] == [False] * 3 + [True]
    (told,) = [record.getMessage() for record in caplog.records if "damaged" in record.message]
    assert "3 of 4 results kept of earlier checks are damaged and computed again" in told
    assert all(str(file.parent) in told for file in kept[:3])


def test_sigterm_ends_a_check_in_order(tmp_path: Path) -> None:
    """Both arms in progress leave a checkpoint, and no process is left behind."""
    process = subprocess.Popen(
        [sys.executable, "-m", "modicum", "check", "vgnet", "--seeds", "1", "--jobs", "2"]
        + ["--report", str(tmp_path / "out")],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"MODICUM_CACHE": str(tmp_path / "cache")},
    )
    cache = tmp_path / "cache" / "claims"
    deadline = time.monotonic() + 120
    while len([f for f in cache.glob("*.part/metrics.jsonl") if f.stat().st_size]) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    assert "Traceback" not in stderr
    psutil.wait_procs(workers, timeout=10)
    assert not [worker for worker in workers if worker.is_running()]
    assert len(list(cache.glob("*.part/checkpoints/*.pt"))) == 2
