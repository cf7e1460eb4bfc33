"""The command line: `modicum VERB METHOD …`.

The verbs `data`, `evaluate`, `predict` and `export` are the method's own functions: their
signatures are the options, their docstrings the help. `train` parses the method's configuration and
the options every run shares. Results go to standard output, as tables or with `--json` as JSON;
everything else goes to standard error.

Exit codes: 0 done; 1 the data or files cannot be used; 2 the command makes no sense, or names what
the system does not let be read or written; 130 and 143 stopped by SIGINT and SIGTERM, a training
run with a checkpoint to resume from.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.util
import io
import json
import logging
import os
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, cast

import tyro
from rich.console import Console
from rich.table import Table

from modicum.engine.launch import become_launcher, processes_wanted
from modicum.errors import ConfigError, MissingExtraError, ModicumError
from modicum.method import CATALOGUE, Method, load_method
from modicum.system.files import to_json, what_is_wrong, whole_path

METHOD_VERBS = {
    "train": "train a network, or go on with an interrupted run",
    "evaluate": "measure a trained network on labelled data",
    "predict": "use a trained network on files",
    "export": "write a trained network for deployment",
    "data": "say what a data set holds and whether it can be used",
}
ROOM_VERBS = {
    ("data", "events"): (
        "modicum.events.survey",
        "say what event recordings hold; picture one",
    ),
    ("convert", "events"): (
        "modicum.events.survey",
        "write an event recording in another format",
    ),
    ("analyse", "drum-transfer"): (
        "modicum.methods.drum_transfer.analyse",
        "pattern and fills of grooves, bar by bar",
    ),
    ("listen", "drum-transfer"): (
        "modicum.methods.drum_transfer.listen",
        "a page for judging grooves blind",
    ),
    ("pareto", "reliant"): (
        "modicum.methods.reliant.pareto",
        "accuracy against gap over weights of the fairness term",
    ),
}
"""Verbs of one room alone, shared or a method's: the module with a function of the verb's name, its
help.
"""
HELP = """usage: modicum VERB METHOD [options]

  modicum list                    the methods
  modicum check [METHOD …]        re-run the papers' claims: baseline, method, seeds, verdict
{verbs}
`modicum VERB METHOD --help` shows the options with units and defaults. --json, anywhere, prints
results as JSON. Exit codes: 0 done, 1 unusable data or files, 2 wrong command, 130/143 interrupted.
""".format(
    verbs="".join(
        f"  modicum {command:<23} {about}\n"
        for command, about in [
            *((f"{verb} METHOD …", about) for verb, about in METHOD_VERBS.items()),
            *((f"{verb} {room} …", about) for (verb, room), (_, about) in ROOM_VERBS.items()),
        ]
    )
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; see the module's text. Returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    words = [word for word in given if word != "--json"]
    main_process = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.getLogger("modicum").setLevel(logging.INFO if main_process else logging.ERROR)
    # Accelerate and PyTorch warn about choices that are deliberate here; ours go through logging.
    warnings.filterwarnings("ignore", module="accelerate|torch")
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names need not be UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with _ending_in_order():
            if words[:1] == ["train"] and (processes := processes_wanted()) > 1:
                become_launcher(processes, given)
            result = _dispatch(words)
    except ModicumError as error:
        return _tell(error, str(error), error.exit_code, as_json=as_json and main_process)
    except OSError as error:
        if not isinstance(error.filename, str | bytes | os.PathLike):
            raise  # not of a file that somebody named
        return _tell(error, what_is_wrong(error), 2, as_json=as_json and main_process)
    except KeyboardInterrupt:
        print("modicum: stopped by SIGINT.", file=sys.stderr)
        return 130
    if result is None or not main_process:
        return 0
    try:
        print(to_json(result) if as_json else render(result), flush=True)
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1 if result.get("usable") is False else 0


def _tell(error: Exception, message: str, code: int, *, as_json: bool) -> int:
    """Say what is wrong. Returns the exit code."""
    print(f"modicum: {message}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": type(error).__name__, "message": message}))
    return code


@contextmanager
def _ending_in_order() -> Generator[None, None, None]:
    """Let SIGTERM end the program as an exception, so that processes and files are cleaned up."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _dispatch(words: list[str]) -> Mapping[str, Any] | None:
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return None
    verb, rest = words[0], words[1:]
    if verb in ("--version", "version"):
        from modicum.system.environment import version

        print(f"modicum {version()}")
        return None
    if verb == "list":
        return list_methods()
    if verb == "check":
        return _call(check, rest, "modicum check")
    if (verb, *rest[:1]) in ROOM_VERBS:
        room = rest[0]
        module = importlib.import_module(ROOM_VERBS[verb, room][0])
        return _call(getattr(module, verb), rest[1:], f"modicum {verb} {room}")
    if rooms := [room for known, room in ROOM_VERBS if known == verb and verb not in METHOD_VERBS]:
        raise ConfigError(f"modicum {verb} needs what to {verb}. Known: {', '.join(rooms)}.")
    if verb not in METHOD_VERBS:
        known = ", ".join(
            dict.fromkeys(["list", "check", *METHOD_VERBS, *(v for v, _ in ROOM_VERBS)])
        )
        raise ConfigError(f"no verb is called {verb!r}. Known: {known}. See modicum --help.")
    if verb == "train":
        return train(rest)
    if not rest or rest[0].startswith("-"):
        raise ConfigError(f"modicum {verb} needs a method. Known: {', '.join(CATALOGUE)}.")
    method = load_method(rest[0])
    if verb == "data" and not rest[1:]:
        return {"datasets": dict(method.datasets)}
    return _call(getattr(method, verb), rest[1:], f"modicum {verb} {method.name}")


def _call(function: Callable[..., Any], words: Sequence[str], program: str) -> Any:
    """Call a function with options parsed after its signature."""
    return tyro.cli(function, args=words, prog=program)


# Verbs that are the same for all methods


def list_methods() -> dict[str, Any]:
    """The catalogue, and which verbs work with what is installed."""
    rows: list[dict[str, str]] = []
    for name, card in CATALOGUE.items():
        row = {"method": name, "scarce": card.scarce, "title": card.title, "paper": card.paper}
        try:
            extras = load_method(name).extras
        except MissingExtraError:
            rows.append(row | {"status": f"needs: pip install 'modicum[{card.extra}]'"})
            continue
        ready = ["check"]
        needs: list[str] = []
        for verb in METHOD_VERBS:
            library, extra = extras.get(verb, ("", ""))
            if library and importlib.util.find_spec(library) is None:
                needs.append(f"{verb} needs: pip install 'modicum[{extra}]'")
            else:
                ready.append(verb)
        rows.append(row | {"status": "; ".join(["ready: " + ", ".join(ready), *needs])})
    others = [
        {"verb": f"modicum {verb} {room}", "does": about}
        for (verb, room), (_, about) in ROOM_VERBS.items()
    ]
    return {"methods": rows, "other_verbs": others}


def train(words: Sequence[str]) -> dict[str, Any] | None:
    """`modicum train METHOD [--preset NAME] [options]`, `modicum train [METHOD] --resume DIR`."""
    from modicum.engine.run import Run, read_run

    words = list(words)
    if words in (["--help"], ["-h"]):
        print("usage: modicum train METHOD [options], or modicum train --resume DIR\n")
        print(f"`modicum train METHOD --help` shows the options. Methods: {', '.join(CATALOGUE)}.")
        return None
    name = words.pop(0) if words and not words[0].startswith("-") else None
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset")
    first.add_argument("--resume", type=Path)
    chosen, rest = first.parse_known_args(words)
    if chosen.resume is not None:
        if rest or chosen.preset:
            raise ConfigError(
                f"--resume goes on with the options the run was started with; remove "
                f"{' '.join(rest) or '--preset'}."
            )
        found, config, options = read_run(chosen.resume, lambda name: load_method(name).config)
        if name not in (None, found):
            raise ConfigError(f"{chosen.resume} is a run of the method {found!r}, not {name!r}.")
        method, folder = load_method(found), chosen.resume
    else:
        if name is None:
            raise ConfigError(
                "modicum train needs a method, or --resume DIR. Known methods: "
                f"{', '.join(CATALOGUE)}."
            )
        method = load_method(name)
        config, options, folder = _parse_training(method, chosen.preset or "default", rest)
    with Run(
        folder, method=method.name, config=config, options=options, resume=chosen.resume is not None
    ) as run:
        method.train(config, run)
        return {"run": str(folder), "report": str(folder / "report.html")} | run.last_scores


def _parse_training(method: Method, preset: str, words: Sequence[str]) -> tuple[Any, Any, Path]:
    from modicum.engine.run import RunOptions

    if preset not in method.presets:
        raise ConfigError(
            f"{method.name} has no preset {preset!r}. Known: {', '.join(method.presets)}."
        )
    start = method.presets[preset]
    flat = tyro.conf.arg(name="")
    command = dataclasses.make_dataclass(
        "Training",
        [
            ("config", Annotated[method.config, flat], dataclasses.field(default=start.config)),
            ("options", Annotated[RunOptions, flat], dataclasses.field(default=start.options)),
            (
                "out",
                Annotated[
                    Path,
                    tyro.conf.arg(
                        help="Run folder to make.", help_behavior_hint="runs/METHOD-TIME"
                    ),
                ],
                dataclasses.field(default=Path()),
            ),
        ],
        frozen=True,
    )
    presets = "\n".join(f"  {name}: {p.about}" for name, p in method.presets.items())
    parsed: Any = tyro.cli(
        command,
        args=words,
        prog=f"modicum train {method.name}",
        description=(
            f"Train {method.card.title} ({method.card.paper}).\n\n"
            f"--preset NAME starts from a recipe (here: {preset}), and other options change it:\n"
            f"{presets}\n\n"
            f"--resume DIR goes on with an interrupted run, with the options it was started with."
        ),
    )
    time_now = time.strftime("%Y%m%d-%H%M%S")
    # An empty path, the option's default, is the current folder and as true as any.
    out = Path("runs") / f"{method.name}-{time_now}" if parsed.out == Path() else parsed.out
    return _with_whole_paths(parsed.config, method), parsed.options, out


def _with_whole_paths(config: Any, method: Method) -> Any:
    """A configuration that means the same files whatever folder the run is resumed from."""
    whole: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Path):
            whole[field.name] = value.resolve()
        elif field.name == "data" and value not in method.datasets:
            whole[field.name] = whole_path(value)
    return dataclasses.replace(config, **whole)


def check(
    methods: tyro.conf.Positional[tuple[str, ...]] = (),
    seeds: int | None = None,
    report: Path = Path("out"),
    data: str | None = None,
    jobs: int | None = None,
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
    from modicum.claims import StudyResult, run_study, summarise
    from modicum.report import write_check_report
    from modicum.system.files import write_text

    for option, number in (("seeds", seeds), ("jobs", jobs)):
        if number is not None and number < 1:
            raise ConfigError(f"--{option} {number}: must be at least 1.")
    if data is not None and len(methods) != 1:
        raise ConfigError("--data goes with exactly one method: modicum check METHOD --data PATH.")
    chosen = list(methods) or [name for name in CATALOGUE if _installed(name)]
    # All of them before the first is trained: a wrong name or path is said at once.
    studies = [load_method(name).study(data) for name in chosen]
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
    skipped = sorted(set(CATALOGUE) - set(chosen)) if not methods else []
    notes = {"not_installed": skipped} if skipped else {}
    return summary | notes | {"report": str(report / "report.html")}


def _installed(name: str) -> bool:
    try:
        load_method(name)
    except MissingExtraError:
        return False
    return True


# Results for people


def render(result: Mapping[str, Any]) -> str:
    """A verb's result as text: numbers and words in lines, lists of records as tables, a mapping of
    such lists as a table each.
    """
    console = Console(width=None if sys.stdout.isatty() else 160)
    tables: list[tuple[str, list[dict[str, Any]]]] = []
    plain: dict[str, Any] = {}
    for name, value in result.items():
        if _is_table(value):
            tables.append((name, value))
        elif isinstance(value, Mapping) and value and all(map(_is_table, value.values())):
            tables += [(f"{name} of {key}", table) for key, table in value.items()]
        else:
            plain[name] = value
    with console.capture() as captured:
        if plain:
            grid = Table.grid(padding=(0, 2))
            for name, value in _lines(plain):
                grid.add_row(name, _format(value))
            console.print(grid)
        for name, records in tables:
            table = Table(title=name.replace("_", " "), title_justify="left")
            columns = list(dict.fromkeys(column for record in records for column in record))
            for column in columns:
                numeric = all(isinstance(r.get(column, 0), (int, float)) for r in records)
                table.add_column(column.replace("_", " "), justify="right" if numeric else "left")
            for record in records:
                table.add_row(*(_format(record.get(column, "")) for column in columns))
            console.print(table)
    return captured.get().rstrip()


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _lines(values: Mapping[str, Any], indent: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as indented lines."""
    lines: list[tuple[str, Any]] = []
    for name, value in values.items():
        label = indent + str(name).replace("_", " ")
        if isinstance(value, Mapping):
            nested = cast("Mapping[str, Any]", value)
            lines += [(label, ""), *_lines(nested, indent + "  ")]
        else:
            lines.append((label, value))
    return lines


def _format(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(_format(item) for item in cast("list[Any]", value))
    return "" if value is None else str(value)
