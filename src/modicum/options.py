"""Options: frozen dataclasses whose fields are the flags of the command line.

A field's docstring is the help of its flag, and its range stands beside it::

    @dataclass(frozen=True)
    class Config(Options):
        reading: Annotated[Reading, FLAT] = Reading()
        batch_size: Annotated[int, Ge(1)] = 64
        \"\"\"Images an optimizer step.\"\"\"

What several recipes or verbs ask for is a group of its own that they compose: marked `FLAT`, its
fields are flags like the others; a second instance of a group, not marked, puts its field's name
before them (`--teacher.learning-rate`).
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import operator
import types
import typing
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union

import tyro
from annotated_types import Ge, Gt, Interval, Le, Lt

from modicum.errors import ConfigError

FLAT = tyro.conf.arg(name="")
"""In `Annotated`: the fields of this group are flags without a prefix."""

_Options = TypeVar("_Options")
_Result = TypeVar("_Result")
_Given = ParamSpec("_Given")


@dataclasses.dataclass(frozen=True)
class Options:
    """Base of all options: a value outside its range or choices cannot be made."""

    def __post_init__(self) -> None:
        """Raise a `ConfigError` for the first field that is not what its annotation says."""
        for name, hint in _annotations(type(self)).items():
            _check(name, getattr(self, name), hint)


def replace(options: _Options, **values: Any) -> _Options:
    """A copy with other values, also of the fields of groups marked `FLAT`, by their own names.

    Raises:
        TypeError: There is no such field.
    """
    own = {field.name for field in dataclasses.fields(typing.cast(Any, options))}
    changes = {name: value for name, value in values.items() if name in own}
    others = {name: value for name, value in values.items() if name not in own}
    for name, hint in _annotations(type(options)).items():
        if FLAT in typing.get_args(hint):
            group = getattr(options, name)
            of_group = {key: others.pop(key) for key in _flags(type(group)) & others.keys()}
            if of_group:
                changes[name] = replace(group, **of_group)
    return dataclasses.replace(typing.cast(Any, options), **changes, **others)


def _flags(kind: type[Any]) -> set[str]:
    """Names of the fields of options and of their groups marked `FLAT`."""
    names: set[str] = set()
    for name, hint in _annotations(kind).items():
        inside = typing.get_args(hint)
        names |= _flags(inside[0]) if FLAT in inside else {name}
    return names


def refuse(option: str, value: Any, expected: str) -> ConfigError:
    """The error, to be raised, for an option whose value is not as `expected`: "at least 1"."""
    return ConfigError(f"--{option.replace('_', '-')} {value}: must be {expected}.")


def check_arguments(function: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """A function of the same signature that holds its arguments to their annotations first."""
    signature = inspect.signature(function)
    hints = _annotations(function)

    @functools.wraps(function)
    def checked(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if name in hints:
                _check(name, value, hints[name])
        return function(*args, **kwargs)

    return checked


@functools.cache
def _annotations(annotated: Any) -> dict[str, Any]:
    return typing.get_type_hints(annotated, include_extras=True)


def _check(name: str, value: Any, hint: Any) -> None:
    """Raise a `ConfigError` unless a value is what an annotation says, as far as it says it."""
    kind, inside = typing.get_origin(hint), typing.get_args(hint)
    if kind is Annotated:
        _check(name, value, inside[0])
        values = typing.cast("tuple[Any, ...]", value) if isinstance(value, tuple) else (value,)
        for bounds in (bound for bound in inside[1:] if isinstance(bound, _BOUNDS)):
            if not all(_within(number, bounds) for number in values):
                raise refuse(name, _shown(value), _in_words(bounds))
    elif kind in (Union, types.UnionType):
        if value is None and type(None) in inside:
            return
        others = [choice for choice in inside if choice is not type(None)]
        if len(others) == 1:
            _check(name, value, others[0])
    elif kind is Literal and value not in inside:
        raise refuse(name, value, f"one of {', '.join(map(str, inside))}")
    elif kind is tuple and inside[1:] == (...,) and isinstance(value, tuple):
        for item in typing.cast("tuple[Any, ...]", value):
            _check(name, item, inside[0])
    elif hint in (int, float) and (isinstance(value, bool) or not isinstance(value, (int, hint))):
        raise refuse(name, value, "a whole number" if hint is int else "a number")


_BOUNDS = (Ge, Gt, Le, Lt, Interval)
_COMPARISONS = {"ge": operator.ge, "gt": operator.gt, "le": operator.le, "lt": operator.lt}


def _within(value: Any, bounds: Any) -> bool:
    """Whether a number is within bounds; NaN never is."""
    found = ((holds, getattr(bounds, name, None)) for name, holds in _COMPARISONS.items())
    return all(holds(value, bound) for holds, bound in found if bound is not None)


def _in_words(bounds: Any) -> str:
    interval = isinstance(bounds, Interval)
    words = {"ge": "at least", "gt": "above" if interval else "more than",
             "le": "at most", "lt": "below" if interval else "less than"}  # fmt: skip
    found = [(word, getattr(bounds, name, None)) for name, word in words.items()]
    return " and ".join(f"{word} {bound:g}" for word, bound in found if bound is not None)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, typing.cast("tuple[Any, ...]", value)))
    return str(value)


def path_options(options: Any) -> dict[str, Any]:
    """Options, those of groups included, that say where something lies: `data`, and paths."""
    found: dict[str, Any] = {}
    for name, value in vars(options).items():
        if isinstance(value, Options):
            found |= path_options(value)
        elif isinstance(value, Path) or (name == "data" and isinstance(value, str)):
            found[name] = value
    return found


# Options as JSON


def to_json(options: Any) -> dict[str, Any]:
    """Options, nested ones included, as JSON-able values: paths become strings, tuples lists."""
    return _converter().unstructure(options)


def from_json(kind: type[_Options], values: Mapping[str, Any]) -> _Options:
    """The options that `to_json` gave.

    Raises:
        ConfigError: A field is unknown, or a value is not what its field takes.
    """
    from cattrs import BaseValidationError, transform_error

    try:
        return _converter().structure(values, kind)
    except BaseValidationError as error:
        errors = list(_leaves(error))
        if ours := [found for found in errors if isinstance(found, ConfigError)]:
            raise ours[0] from error
        said = "; ".join(transform_error(error, path="config"))
        raise ConfigError(
            f"config.json does not hold the options of {kind.__name__} ({said}). It was written by "
            f"another version of modicum, or changed by hand; resume the run with that version."
        ) from error


def _leaves(error: BaseException) -> list[BaseException]:
    inner: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    return [leaf for each in inner for leaf in _leaves(each)] if inner else [error]


@functools.cache
def _converter() -> Any:
    from cattrs import Converter

    converter = Converter(forbid_extra_keys=True, unstruct_collection_overrides={tuple: list})
    converter.register_unstructure_hook(Path, str)
    converter.register_structure_hook(Path, lambda value, _: Path(value))
    return converter


# Paths


def whole_path(data: str) -> str:
    """What `--data`, PATH or NAME=PATH, names, so that it means the same in any folder.

    The path becomes whole; what is not there is left as it is.
    """
    name, named, path = data.partition("=")
    if not named or Path(data).exists():
        name, named, path = "", "", data
    return f"{name}{named}{Path(path).resolve()}" if Path(path).exists() else data


def with_whole_paths(options: _Options, names: Container[str]) -> _Options:
    """Options that mean the same files whatever folder they are used from.

    Paths in them become whole, and fields called `data` unless they are among `names`.
    """
    whole: dict[str, Any] = {}
    for field in dataclasses.fields(typing.cast(Any, options)):
        value = getattr(options, field.name)
        if isinstance(value, Path):
            whole[field.name] = value.resolve()
        elif isinstance(value, Options):
            whole[field.name] = with_whole_paths(value, names)
        elif field.name == "data" and isinstance(value, str) and value not in names:
            whole[field.name] = whole_path(value)
    return dataclasses.replace(typing.cast(Any, options), **whole)
