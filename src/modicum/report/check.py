"""The report of `modicum check`: what was claimed, what the seeds say, and everything measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from modicum.claims import Stage, StudyResult, Verdict, Word
from modicum.options import check_arguments
from modicum.report import text
from modicum.report.page import data_uri, write_page
from modicum.report.plots import STRETCHES, arm_class, effect_plot, line_plot, paired_plot
from modicum.system.environment import describe_environment

_WORDS: tuple[Word, ...] = ("holds", "does not hold", "inconclusive")


@check_arguments
def write_check_report(path: Path, studies: Sequence[StudyResult], *, command: str) -> Path:
    """Write what `studies` found as one HTML file that needs no other file and no network.

    Args:
        path: Where the report goes, and what is returned; it appears whole, and missing parent
            folders are made.
        studies: What was measured, at least one. All arms and seeds of a study are shown; what a
            seed lacks is called missing.
        command: The command line that computes the same again.

    Raises:
        ValueError: There is no study.
    """
    if not studies:
        raise ValueError("a report needs at least one study, got none")
    sections = [_section(result, f"study-{place}") for place, result in enumerate(studies, 1)]
    return write_page(
        path,
        "check.html",
        title="modicum check: " + ", ".join(result.study.method for result in studies),
        sections=sections,
        counts=sum((section["counts"] for section in sections), Counter[Word]()),
        words=_WORDS,
        stretches=STRETCHES,
        command=command,
        environment=describe_environment(),
    )


# What the template prints


def _section(result: StudyResult, anchor: str) -> dict[str, Any]:
    """A study; arms have a name and a CSS class, pictures a title, a caption and an address."""
    arms = [(name, arm_class(index)) for index, name in enumerate(result.study.arms)]
    differing, shared = _settings(result.study.arms)
    return {
        "result": result,
        "anchor": anchor,
        "counts": Counter(verdict.word for verdict in result.verdicts),
        "findings": [_finding(result, verdict, dict(arms)) for verdict in result.verdicts],
        "arms": arms,
        "measured": _measured(result, arms),
        "differing": differing,
        "shared": shared,
        "curves": _curves(result),
        "pictures": [(p.title, p.caption, data_uri(p.png), "") for p in result.pictures],
        "seconds": sum(one.seconds for one in result.results),
    }


def _finding(result: StudyResult, verdict: Verdict, styles: Mapping[str, str]) -> dict[str, Any]:
    claim = verdict.claim
    places = text.decimals([verdict.mean, verdict.low, verdict.high], significant=3)
    better = "higher" if claim.higher_is_better else "lower"
    metrics, names = _metric(result, claim.metric), (claim.baseline, claim.method)
    values = ([metrics.get((arm, seed), math.nan) for seed in result.seeds] for arm in names)
    classes, label = (styles[names[0]], styles[names[1]]), f"{claim.metric} ({better} is better)"
    return {
        "verdict": verdict,
        "effect": text.number(verdict.mean, places, signed=True),
        "interval": text.interval(verdict.low, verdict.high, places),
        "threshold": text.short(claim.threshold),
        "pairs": paired_plot(result.seeds, *values, names=names, classes=classes, label=label),
        "effects": effect_plot(verdict, result.seeds),
    }


def _metric(result: StudyResult, name: str) -> dict[tuple[str, int], float]:
    """One metric by arm and seed."""
    return {(r.arm, r.seed): r.metrics[name] for r in result.results if name in r.metrics}


def _measured(
    result: StudyResult, arms: Sequence[tuple[str, str]]
) -> dict[str, list[dict[str, Any]]]:
    """The rows of each metric: the mean of an arm, then every seed."""
    tables = {
        name: _metric(result, name)
        # A dict keeps the order in which the metrics were measured, a set would not.
        for name in dict.fromkeys(name for one in result.results for name in one.metrics)
    }
    tables["CPU seconds"] = {(one.arm, one.seed): one.seconds for one in result.results}
    return {name: _rows(table, arms, result.seeds) for name, table in tables.items()}


def _rows(
    table: Mapping[tuple[str, int], float], arms: Sequence[tuple[str, str]], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    integers = all(value.is_integer() for value in map(float, table.values()))
    places = 0 if integers else text.decimals(table.values(), significant=4)
    rows: list[dict[str, Any]] = []
    for arm, style in arms:
        values = [table.get((arm, seed)) for seed in seeds]
        known = [value for value in values if value is not None]
        mean = sum(known) / len(known) if len(known) == len(values) else None
        cells = [text.number(value, places) for value in values]
        row = {"arm": arm, "style": style, "mean": text.number(mean, places), "seeds": cells}
        rows.append(row)
    return rows


def _settings(arms: Mapping[str, Stage]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The settings of the arms: those that differ, and those that are the same for all."""
    tables = [_of_chain(stage) for stage in arms.values()]
    names = dict.fromkeys(name for table in tables for name in table)
    values = {name: [table.get(name, "missing") for table in tables] for name in names}
    differing = {name: row for name, row in values.items() if len(set(row)) > 1}
    return differing, {name: row[0] for name, row in values.items() if name not in differing}


def _of_chain(stage: Stage) -> dict[str, str]:
    """The settings of a stage, and in place of the folder of one before it, that one's."""
    settings = flatten(stage.config)
    for name, before in stage.inputs.items():
        settings.pop(name, None)
        settings |= {f"{name}.{key}": value for key, value in _of_chain(before).items()}
    return settings


def flatten(config: Any, prefix: str = "") -> dict[str, str]:
    """A dataclass or nested mapping as `{dotted name: printed value}`."""
    if is_dataclass(config) and not isinstance(config, type):
        config = asdict(config)
    if not isinstance(config, Mapping):
        return {prefix or "setting": text.value(config)}
    flat: dict[str, str] = {}
    for name, value in config.items():
        flat |= flatten(value, f"{prefix}.{name}" if prefix else f"{name}")
    return flat


def _curves(result: StudyResult) -> list[tuple[str, Markup]]:
    plots: list[tuple[str, Markup]] = []
    for name in dict.fromkeys(name for one in result.results for name in one.curves):
        known = [(one.arm, one.curves[name]) for one in result.results if one.curves.get(name)]
        curves = {arm: [curve for of, curve in known if of == arm] for arm in result.study.arms}
        plots.append((name, line_plot(curves, label=name)))
    return plots
