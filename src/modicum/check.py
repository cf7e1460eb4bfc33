"""`modicum check`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import tyro

from modicum.catalogue import CATALOGUE
from modicum.claims.claim import Study, StudyResult, summarise
from modicum.claims.runner import run_study
from modicum.errors import ConfigError, MissingExtraError
from modicum.method import load_method
from modicum.options import Ge
from modicum.report import write_check_report
from modicum.system.files import to_json, write_text


def check(
    methods: tyro.conf.Positional[tuple[str, ...]] = (),
    seeds: Annotated[int, Ge(1)] | None = None,
    report: Path = Path("out"),
    data: str | None = None,
    jobs: Annotated[int, Ge(1)] | None = None,
    fresh: bool = False,
) -> dict[str, Any]:
    """Re-run the papers' central claims, baseline against method, and say which hold.

    Args:
        methods: Methods to check; all of them if none is named.
        seeds: How many seeds every arm is trained with; none: 3, or what the method says.
        report: Folder to write report.html and results.json to.
        data: A data set of yours to check one method's claims on, in place of the built-in one.
        jobs: Arms trained at a time; the number of cores if not given.
        fresh: Train every arm anew instead of using results of earlier checks by the same code.
    """
    if data is not None and len(methods) != 1:
        raise ConfigError("--data goes with exactly one method: modicum check METHOD --data PATH.")
    # All of them before the first is trained: a wrong name or path is said at once.
    found = {name: _study(name, data, needed=bool(methods)) for name in methods or CATALOGUE}
    studies = [study for study in found.values() if study is not None]
    not_installed = [name for name, study in found.items() if study is None]
    words = ["modicum", "check", *methods]
    words += [] if seeds is None else ["--seeds", str(seeds)]
    command = shlex.join(words + (["--data", data] if data is not None else []))
    summary: dict[str, Any] = {}
    results: list[StudyResult] = []
    for study in studies:
        results.append(run_study(study, range(seeds or study.seeds), jobs=jobs, fresh=fresh))
        # After every method, so that an interruption leaves those that are done.
        write_check_report(report / "report.html", results, command=command)
        summary = summarise(results)
        write_text(report / "results.json", to_json(summary) + "\n")
    for claim in summary["claims"]:
        del claim["statement"]  # in results.json and the report; too long for a line of a table
    notes = {"not_installed": not_installed} if not_installed else {}
    return summary | notes | {"report": str(report / "report.html")}


def _study(name: str, data: str | None, *, needed: bool) -> Study | None:
    """The study of a method; None if a library is missing and the method was not asked for."""
    try:
        return load_method(name).load("study")(data)
    except MissingExtraError:
        if needed:
            raise
        return None
