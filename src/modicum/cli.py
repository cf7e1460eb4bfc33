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
import errno
import importlib
import io
import itertools
import json
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

from modicum.catalogue import CATALOGUE, METHOD_VERBS, SHARED_VERBS, find_card
from modicum.errors import ConfigError, DataError, ModicumError
from modicum.system.files import DISK_FULL, to_json, what_is_wrong
from modicum.system.terminal import PlainFormatter, plain, render

if TYPE_CHECKING:
    from modicum.engine.run import Run
    from modicum.method import Recipe

HELP = """usage: modicum VERB METHOD [options]

  modicum list                    the methods
  modicum check [METHOD …]        re-run the papers' claims: baseline, method, seeds, verdict
{verbs}
`modicum VERB METHOD --help` shows the options with units and defaults. --json, anywhere, prints
results as JSON. Exit codes: 0 done, 1 unusable data or files, 2 wrong command, 130/143 interrupted.
"""


def _room_verbs() -> dict[tuple[str, str], str]:
    """Verbs of one room alone, shared or a method's: (verb, room) with a line of help."""
    rooms = SHARED_VERBS | {name: dict(card.verbs) for name, card in CATALOGUE.items()}
    return {(verb, room): about for room, verbs in rooms.items() for verb, about in verbs.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; see the module's text. Returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    words = [word for word in given if word != "--json"]
    main_process = os.environ.get("RANK", "0") == "0"
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("modicum").setLevel(logging.INFO if main_process else logging.ERROR)
    # Accelerate and PyTorch warn about choices that are deliberate here; ours go through logging.
    warnings.filterwarnings("ignore", module="accelerate|torch")
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names need not be UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with _ending_in_order():
            if words[:1] == ["train"]:
                from modicum.engine.launch import become_launcher, processes_wanted

                if (processes := processes_wanted()) > 1:
                    become_launcher(processes, given)
            result = _dispatch(words)
    except ModicumError as error:
        return _tell(error, str(error), error.exit_code, as_json=as_json and main_process)
    except BrokenPipeError:
        return _unread()
    except OSError as error:
        full = error.errno in DISK_FULL
        if not isinstance(error.filename, str | bytes | os.PathLike):
            if not full:
                raise  # not of a file that somebody named
            error.filename = os.getcwd()
        code = 1 if full else 2
        return _tell(error, what_is_wrong(error), code, as_json=as_json and main_process)
    except KeyboardInterrupt:
        print("modicum: stopped by SIGINT.", file=sys.stderr)
        return 130
    if result is None or not main_process:
        return 0
    try:
        if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]  # it was closed
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        print(to_json(result) if as_json else render(result), flush=True)
    except BrokenPipeError:
        return _unread()
    except OSError as error:  # such as of a full disk
        _unread()
        problem = f"the result cannot be written to standard output: {error.strerror}."
        return _tell(error, problem, 1, as_json=False)
    return 1 if result.get("usable") is False else 0


def _unread() -> int:
    """The reader of our output, such as `head`, has seen enough. Returns the exit code."""
    with suppress(OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _tell(error: Exception, message: str, code: int, *, as_json: bool) -> int:
    """Say what is wrong; `code` is returned."""
    print("modicum: " + "\n".join(map(plain, message.split("\n"))), file=sys.stderr)
    if as_json:
        print(json.dumps({"error": type(error).__name__, "message": message}))
    return code


@contextmanager
def _ending_in_order() -> Generator[None, None, None]:
    """Let SIGTERM end the program as an exception, so that processes and files are cleaned up."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # signals are not ours
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _dispatch(words: list[str]) -> Mapping[str, Any] | None:
    if not words or words[0] in ("-h", "--help", "help"):
        lines = [(f"{verb} METHOD …", about) for verb, about in METHOD_VERBS.items()]
        lines += [(f"{verb} {room} …", about) for (verb, room), about in _room_verbs().items()]
        verbs = "".join(f"  modicum {command:<23} {about}\n" for command, about in lines)
        print(HELP.format(verbs=verbs), end="")
        return None
    verb, rest = words[0], words[1:]
    if verb in ("--version", "version"):
        from modicum.system.environment import version

        print(f"modicum {version()}")
        return None
    if verb == "list":
        return list_methods()
    if verb == "check":
        from modicum.check import check

        return _call(check, rest, "modicum check")
    of_rooms = _room_verbs()
    if verb not in METHOD_VERBS and verb not in {known for known, _ in of_rooms}:
        known = dict.fromkeys(["list", "check", *METHOD_VERBS, *(known for known, _ in of_rooms)])
        raise ConfigError(
            f"no verb is called {verb!r}. Known: {', '.join(known)}. See modicum --help."
        )
    if verb == "train":
        return train(rest)
    room = rest[0] if rest and not rest[0].startswith("-") else None
    if (verb, room) not in of_rooms and verb not in METHOD_VERBS:
        known = ", ".join(name for known, name in of_rooms if known == verb)
        raise ConfigError(f"modicum {verb} needs what to {verb}. Known: {known}.")
    if room is None:
        raise ConfigError(f"modicum {verb} needs a method. Known: {', '.join(CATALOGUE)}.")
    if room in SHARED_VERBS:
        if verb not in SHARED_VERBS[room]:
            raise ConfigError(f"{room} has no verb {verb}. Known: {', '.join(SHARED_VERBS[room])}.")
        function = getattr(importlib.import_module(f"modicum.{room}.verbs"), verb)
        return _call(function, rest[1:], f"modicum {verb} {room}")
    from modicum.method import load_method

    method = load_method(room)
    if verb == "data" and not rest[1:]:
        return {"datasets": dict(method.load("datasets"))}
    return _call(method.verb(verb), rest[1:], f"modicum {verb} {room}")


def _call(function: Callable[..., Any], words: Sequence[str], program: str) -> Any:
    """Call a function with options parsed after its signature and held to its annotations."""
    import tyro

    from modicum.options import check_arguments

    return tyro.cli(check_arguments(function), args=words, prog=program)


# Verbs that are the same for all methods


def list_methods() -> dict[str, Any]:
    """The catalogue, and which verbs work with what is installed."""
    from modicum.system.environment import missing_of_extra

    rows: list[dict[str, str]] = []
    for name, card in CATALOGUE.items():
        missing = [v for v, extra in card.verb_extras.items() if missing_of_extra(extra)]
        status = ["ready: " + ", ".join(v for v in ("check", *METHOD_VERBS) if v not in missing)]
        status += [f"{v} needs: pip install 'modicum[{card.verb_extras[v]}]'" for v in missing]
        if card.extra and missing_of_extra(card.extra):
            status.append(f"more with: pip install 'modicum[{card.extra}]'")
        about = {"scarce": card.scarce, "title": card.title, "paper": card.paper}
        rows.append({"method": name} | about | {"status": "; ".join(status)})
    verbs = _room_verbs().items()
    others = [{"verb": f"modicum {verb} {room}", "does": about} for (verb, room), about in verbs]
    return {"methods": rows, "other_verbs": others}


def train(words: Sequence[str]) -> dict[str, Any] | None:
    """`modicum train METHOD [RECIPE] [--preset NAME] [options]`, `modicum train --resume DIR` or,
    to begin a run of the same options anew in its folder, `modicum train --restart DIR`.
    """
    words = list(words)
    if words in (["--help"], ["-h"]):
        print("usage: modicum train METHOD [options], or modicum train --resume|--restart DIR\n")
        print(f"`modicum train METHOD --help` shows the options. Methods: {', '.join(CATALOGUE)}.")
        return None
    name = words.pop(0) if words and not words[0].startswith("-") else None
    recipes = find_card(name).recipes if name else {}
    recipe_name = words.pop(0) if words and words[0] in recipes else None
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset")
    first.add_argument("--resume", type=Path)
    first.add_argument("--restart", type=Path)
    asked, rest = first.parse_known_args(words)
    again: Path | None = asked.resume or asked.restart
    if name is None and again is None:
        raise ConfigError(
            f"modicum train needs a method, or --resume DIR. Known methods: {', '.join(CATALOGUE)}."
        )
    if again is None and recipes and recipe_name is None:
        known = "".join(f"\n  modicum train {name} {r}: {about}" for r, about in recipes.items())
        if "--help" in words or "-h" in words:
            print(f"{find_card(str(name)).title}. Its recipes, each with --help:{known}")
            return None
        raise ConfigError(f"modicum train {name} needs the name of a recipe:{known}")

    from modicum.engine.folder import DescribedRun, read_run
    from modicum.engine.run import Run
    from modicum.method import load_method
    from modicum.options import path_options, replace, with_whole_paths
    from modicum.report import write_run_report

    if again is not None:
        folder = again

        def described() -> DescribedRun:
            return read_run(folder, lambda method, name: load_method(method).recipe(name).config)

        places: dict[str, Any] = {}
        if rest:
            with suppress(ModicumError):  # which is said below, after what is odd
                places = path_options(described().config)
        moved, odd = _moved(rest, places)
        if odd or asked.preset or (asked.resume and asked.restart):
            odd = " ".join(odd) or "--restart or --preset"
            raise ConfigError(
                f"--resume and --restart take the options the run was started with; remove {odd}. "
                f"Only what was moved is said anew, such as --data PATH. More epochs would be "
                f"another schedule of the learning rate, from the first step on: a new run."
            )
        started = described()
        for what, named in {"method": name, "recipe": recipe_name}.items():
            if named not in (None, there := getattr(started, what)):
                raise ConfigError(f"{folder} is a run of the {what} {there!r}, not {named!r}.")
        name, recipe_name, config, options = started
        recipe = load_method(name).recipe(recipe_name)
        if moved:
            config = replace(config, **moved)
            config = with_whole_paths(config, load_method(name).load("datasets"))
    else:
        assert name is not None
        recipe_name = recipe_name or next(iter(load_method(name).recipes))
        recipe = load_method(name).recipe(recipe_name)
        called = f"{name} {recipe_name}" if recipes else name
        config, options, folder = _parse_training(recipe, called, asked.preset or "default", rest)
        config = with_whole_paths(config, load_method(name).load("datasets"))
    how: dict[str, Any] = {"method": name, "recipe": recipe_name, "config": config}
    how |= {"resume": asked.resume is not None, "restart": asked.restart is not None}
    with Run(folder, **how, options=options) as run:
        try:
            recipe.train(config, run)
        except DataError as error:
            if again is None or not (lost := _lost(config)):
                raise
            raise DataError(
                f"{error} If {' and '.join(lost)} was moved, say where it is: modicum train "
                f"--resume {folder} --{next(iter(lost))} PATH."
            ) from error
        if run.is_main_process:
            write_run_report(folder)
        written = {"run": str(folder), "report": str(folder / "report.html")}
        return written | run.last_scores | _best_and_classes(run)


def _best_and_classes(run: Run) -> dict[str, Any]:
    """The score that best.safetensors has, and what the last network takes each class for."""
    from modicum.mistakes import of_classes
    from modicum.system.files import read_json

    found: dict[str, Any] = {}
    if run.best is not None:
        found["best"] = {run.best["metric"]: run.best["value"], "after_step": run.best["step"]}
    confusion = run.folder / "confusion.json"
    if confusion.exists():
        counted = read_json(confusion)
        found |= of_classes(counted["classes"], counted["matrix"])
    return found


def _moved(words: list[str], places: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """New values of some of the options `places`, and the words that are none."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name, place in places.items():
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, type=type(place))
    moved, odd = parser.parse_known_args(words)
    return {name: value for name, value in vars(moved).items() if value is not None}, odd


def _lost(config: Any) -> dict[str, str]:
    """What a configuration names and is not there any more."""
    from modicum.options import path_options

    places = {name: str(value).partition("=") for name, value in path_options(config).items()}
    paths = {name: place[2] or place[0] for name, place in places.items()}
    return {
        name.replace("_", "-"): path
        for name, path in paths.items()
        if os.sep in path and not Path(path).exists()
    }


def _parse_training(
    recipe: Recipe, called: str, preset: str, words: Sequence[str]
) -> tuple[Any, Any, Path]:
    import tyro

    from modicum.engine.options import RunOptions
    from modicum.options import FLAT

    method = called.split()[0]
    if preset not in recipe.presets:
        raise ConfigError(f"{called} has no preset {preset!r}. Known: {', '.join(recipe.presets)}.")
    start = recipe.presets[preset]
    out = tyro.conf.arg(help="Run folder to make.", help_behavior_hint="runs/METHOD-TIME")
    parts = {
        "config": (Annotated[recipe.config, FLAT], start.config),
        "options": (Annotated[RunOptions, FLAT], start.options),
        "out": (Annotated[Path, out], Path()),
    }
    fields = [(part, kind, dataclasses.field(default=it)) for part, (kind, it) in parts.items()]
    command = dataclasses.make_dataclass("Training", fields, frozen=True)
    presets = "\n".join(f"  {name}: {p.about}" for name, p in recipe.presets.items())
    parsed: Any = tyro.cli(
        command,
        args=words,
        prog=f"modicum train {called}",
        description=(
            f"Train {CATALOGUE[method].title} ({CATALOGUE[method].paper}).\n\n"
            f"--preset NAME starts from a recipe (here: {preset}), and other options change it:\n"
            f"{presets}\n\n"
            f"--resume DIR goes on with an interrupted run, with the options it was started with; "
            f"--restart DIR begins it anew."
        ),
    )
    folder: Path = parsed.out
    if folder == Path():  # the option's default
        stamp = f"runs/{method}-{time.strftime('%Y%m%d-%H%M%S')}"
        several = os.environ.get("WORLD_SIZE", "1") != "1"  # processes, which name the same
        numbered = (Path(f"{stamp}.{number}") for number in itertools.count(2))
        names = itertools.chain([Path(stamp)], numbered)
        folder = next(name for name in names if several or not name.exists())
    return parsed.config, parsed.options, folder
