"""The command line: `modicum VERB METHOD …`.

The verbs `data`, `evaluate`, `predict` and `export` are the method's own functions: their
signatures are the options, their docstrings the help. `train` parses the method's configuration and
the options every run shares. Results go to standard output, as tables or with `--json` as JSON;
everything else goes to standard error.

Exit codes: 0 done; 1 the data or files cannot be used; 2 the command makes no sense; 130 and 143
stopped by SIGINT and SIGTERM, a training run with a checkpoint to resume from.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import tyro
from rich.console import Console
from rich.table import Table

from modicum.errors import ConfigError, MissingExtraError, ModicumError
from modicum.method import CATALOGUE, Method, load_method

METHOD_VERBS = {
    "train": "train a network, or go on with an interrupted run",
    "evaluate": "measure a trained network on labelled data",
    "predict": "use a trained network on files",
    "export": "write a trained network for deployment",
    "data": "say what a data set holds and whether it can be used",
}
HELP = """usage: modicum VERB METHOD [options]

  modicum list                    the methods
  modicum check [METHOD …]        re-run the papers' claims: baseline, method, seeds, verdict
{verbs}
`modicum VERB METHOD --help` shows the options with units and defaults. --json, anywhere, prints
results as JSON. Exit codes: 0 done, 1 unusable data or files, 2 wrong command, 130/143 interrupted.
""".format(
    verbs="".join(
        f"  modicum {f'{verb} METHOD …':<23} {METHOD_VERBS[verb]}\n" for verb in METHOD_VERBS
    )
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; see the module's text. Returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    words = [word for word in words if word != "--json"]
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.getLogger("modicum").setLevel(logging.INFO)
    # Accelerate and PyTorch warn about choices that are deliberate here; ours go through logging.
    warnings.filterwarnings("ignore", module="accelerate|torch")
    try:
        result = _dispatch(words)
        if result is not None:
            print(json.dumps(result, indent=2) if as_json else render(result), flush=True)
    except ModicumError as error:
        kind = type(error).__name__
        print(f"modicum: {error}", file=sys.stderr)
        if as_json:
            print(json.dumps({"error": kind, "message": str(error)}))
        return error.exit_code
    except KeyboardInterrupt:
        print("modicum: stopped by SIGINT.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 1 if result is not None and result.get("usable") is False else 0


def _dispatch(words: list[str]) -> Mapping[str, Any] | None:
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return None
    verb, rest = words[0], words[1:]
    if verb in ("--version", "version"):
        from modicum.engine.environment import version

        print(f"modicum {version()}")
        return None
    if verb == "list":
        return list_methods()
    if verb == "check":
        return _call(check, rest, "modicum check")
    if verb not in METHOD_VERBS:
        known = ", ".join(["list", "check", *METHOD_VERBS])
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
        try:
            load_method(name)
            status = "ready: train, evaluate, predict, export, data, check"
        except MissingExtraError:
            status = f"needs: pip install 'modicum[{card.extra}]'"
        rows.append(
            {
                "method": name,
                "scarce": card.scarce,
                "title": card.title,
                "paper": card.paper,
                "status": status,
            }
        )
    return {"methods": rows}


def train(words: Sequence[str]) -> dict[str, Any]:
    """`modicum train METHOD [--preset NAME] [options]`, `modicum train [METHOD] --resume DIR`."""
    from modicum.engine.launch import become_launcher, processes_wanted
    from modicum.engine.run import Run, read_run

    if (processes := processes_wanted()) > 1:
        become_launcher(processes, ["train", *words])
    words = list(words)
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
    out = parsed.out
    if out == Path():
        out = Path("runs") / f"{method.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    return parsed.config, parsed.options, out


def check(
    methods: tyro.conf.Positional[tuple[str, ...]] = (),
    seeds: int = 3,
    report: Path = Path("out"),
    data: str | None = None,
    jobs: int | None = None,
    fresh: bool = False,
) -> dict[str, Any]:
    """Re-run the papers' central claims, baseline against method, and say which hold.

    Args:
        methods: Methods to check; all of them if none is named.
        seeds: How many seeds every arm is trained with.
        report: Folder to write report.html and results.json to.
        data: A data set of yours to check one method's claims on, in place of the built-in one.
        jobs: Arms trained at a time; the number of cores if not given.
        fresh: Train every arm anew instead of using results of earlier checks by the same code.
    """
    from modicum.claims import run_study, summarise
    from modicum.engine.files import write_text
    from modicum.report import write_check_report

    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: must be at least 1.")
    if data is not None and len(methods) != 1:
        raise ConfigError("--data goes with exactly one method: modicum check METHOD --data PATH.")
    studies = [
        run_study(load_method(name).study(data), range(seeds), jobs=jobs, fresh=fresh)
        for name in methods or CATALOGUE
    ]
    command = "modicum check " + " ".join(
        [*methods, f"--seeds {seeds}", *([f"--data {data}"] if data else [])]
    )
    report.mkdir(parents=True, exist_ok=True)
    page = write_check_report(report / "report.html", studies, command=command)
    summary = summarise(studies)
    write_text(report / "results.json", json.dumps(summary, indent=2) + "\n")
    for claim in summary["claims"]:
        del claim["statement"]  # in results.json and the report; too long for a line of a table
    return summary | {"report": str(page)}


# Results for people


def render(result: Mapping[str, Any]) -> str:
    """A verb's result as text: numbers and words in lines, lists of records as tables."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    with console.capture() as captured:
        plain = {name: value for name, value in result.items() if not _is_table(value)}
        if plain:
            grid = Table.grid(padding=(0, 2))
            for name, value in _lines(plain):
                grid.add_row(name, _format(value))
            console.print(grid)
        for name, value in result.items():
            if _is_table(value):
                records = cast("list[dict[str, Any]]", value)
                table = Table(title=name.replace("_", " "), title_justify="left")
                columns = list(dict.fromkeys(column for record in records for column in record))
                for column in columns:
                    numeric = all(isinstance(r.get(column, 0), (int, float)) for r in records)
                    table.add_column(
                        column.replace("_", " "), justify="right" if numeric else "left"
                    )
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
