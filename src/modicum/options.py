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
import os
import types
import typing
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

import tyro
from annotated_types import Ge, Gt, Interval, Le, Lt
from typing_extensions import Unpack, is_typeddict

from modicum.errors import ConfigError

FLAT = tyro.conf.arg(name="")
"""In `Annotated`: the fields of this group are flags without a prefix."""

_Options = TypeVar("_Options")
_Result = TypeVar("_Result")


@dataclasses.dataclass(frozen=True)
class Options:
    """Base of all options: a value outside its range or choices cannot be made."""

    def __post_init__(self) -> None:
        """Raise a `ConfigError` for the first field that is not what its annotation says.

        Paths may be given as text, text as paths, and one value where several are taken.
        """
        for name, hint in _annotations(type(self)).items():
            object.__setattr__(self, name, fitting(getattr(self, name), hint))
            check(name, getattr(self, name), hint)


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


def check_arguments(function: Callable[..., _Result]) -> Callable[..., _Result]:
    """A function of the same signature that holds its arguments to their annotations first.

    Where a path is annotated, text is taken as well, and where several values are, one. A class is
    held to the annotations of its constructor: `check_arguments(Network)(**arguments)`.
    """
    signature = inspect.signature(function)
    whole: Any = function
    own: Any = whole.func if isinstance(whole, functools.partial) else whole
    if isinstance(own, type) and not dataclasses.is_dataclass(own):
        own = own.__init__

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> _Result:
        hints, bound = _annotations(own), signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            hint, kind = hints.get(name, Any), signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_KEYWORD and typing.get_origin(hint) is not Unpack:
                hint = dict[str, hint]
            elif kind is inspect.Parameter.VAR_POSITIONAL:
                hint = tuple[hint, ...]
            bound.arguments[name] = fitting(value, hint)
            check(name, bound.arguments[name], hint)
        return function(*bound.args, **bound.kwargs)

    return checked


def fitting(value: Any, hint: Any) -> Any:
    """A value as its annotation has it, where Python has several ways to say the same.

    Text or anything else that is `os.PathLike` becomes a `Path` where that is annotated, and text
    where only text is. Whole numbers become floats where these are, as they do on their way through
    JSON. One value becomes a tuple of it where a tuple of any length is annotated, as do lists,
    sets and iterators; numbers do not.
    """
    kinds = list(_kinds(hint))
    if type(value) in kinds:
        return value
    if type(value) is int and float in kinds and abs(value) < 1 << 53:
        return float(value)
    for kind in kinds:
        if typing.get_origin(kind) is tuple and typing.get_args(kind)[1:] == (...,):
            if isinstance(value, (list, tuple, AbstractSet, Iterator)):
                items: Iterable[Any] = typing.cast("Iterable[Any]", value)
            elif isinstance(value, str) or not isinstance(value, _OF_JSON):
                items = (value,)
            else:
                return value
            return tuple(fitting(item, typing.get_args(kind)[0]) for item in items)
    if isinstance(value, os.PathLike | str) and (Path in kinds or str in kinds):
        return (Path if Path in kinds else os.fspath)(typing.cast("str", value))
    return value


def _kinds(hint: Any) -> Iterator[Any]:
    """The types that an annotation allows, without what is said of them."""
    if typing.get_origin(hint) is Annotated:
        yield from _kinds(typing.get_args(hint)[0])
    elif typing.get_origin(hint) in (Union, types.UnionType):
        for choice in typing.get_args(hint):
            yield from _kinds(choice)
    else:
        yield hint


@functools.cache
def _annotations(annotated: Any) -> dict[str, Any]:
    return typing.get_type_hints(annotated, include_extras=True)


def check(name: str, value: Any, hint: Any) -> None:
    """Raise a `ConfigError` unless a value is what an annotation says, as far as it says it.

    What JSON has is checked whole: numbers, text, lists for tuples and sequences, and objects for
    dictionaries, typed ones and dataclasses. Values of other classes pass.
    """
    for where, found, expected in _misfits(name, value, hint):
        raise refuse(where, _shown(found), expected)


def _misfits(name: str, value: Any, hint: Any) -> Iterator[tuple[str, Any, str]]:
    """Where a value is not what an annotation says, what is there, and what was expected."""
    kind: Any = typing.get_origin(hint) or hint
    inside = typing.get_args(hint)
    if kind is Annotated:
        yield from _misfits(name, value, inside[0])
        numbers: Any = value if isinstance(value, (tuple, list)) else (value,)
        for bounds in (bound for bound in inside[1:] if isinstance(bound, _BOUNDS)):
            if not all(number is None or _within(number, bounds) for number in numbers):
                yield name, value, _in_words(bounds)
    elif kind in (Union, types.UnionType):
        if value is None and type(None) in inside:
            return
        choices = [choice for choice in inside if choice is not type(None)]
        found = [next(_misfits(name, value, choice), None) for choice in choices]
        misfits = [misfit for misfit in found if misfit]
        if len(misfits) == len(choices) == 1:
            yield misfits[0]
        elif len(misfits) == len(choices):
            yield name, value, " or ".join(dict.fromkeys(misfit[2] for misfit in misfits))
    elif kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, (int, kind)):
            yield name, value, "a whole number" if kind is int else "a number"
        elif isinstance(value, int) and abs(value) >= 2**63:
            yield name, value, "below 2^63"
    elif not isinstance(value, _OF_JSON):
        pass
    elif kind is Unpack:
        yield from _misfits(name, value, inside[0])
    elif kind is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in inside):
            yield name, value, f"one of {', '.join(map(str, inside))}"
    elif kind in (bool, str, Path):
        if not isinstance(value, (bool if kind is bool else str)):
            yield name, value, "true or false" if kind is bool else "text"
    elif kind in (tuple, list, Sequence):
        fixed = kind is tuple and ... not in inside
        if not isinstance(value, (tuple, list)) or (fixed and len(value) != len(inside)):  # pyright: ignore[reportUnknownArgumentType]
            yield name, value, f"{len(inside)} values" if fixed else "a list"
            return
        items = typing.cast("Sequence[Any]", value)
        for item, of_item in zip(items, inside if fixed else inside[:1] * len(items), strict=False):
            yield from _misfits(name, item, of_item)
    elif kind is Callable:
        yield name, value, "a function"
    elif (of_keys := kind in (dict, Mapping)) or is_typeddict(kind) or is_dataclass(kind):
        if not isinstance(value, Mapping):
            yield name, value, "values by name"
            return
        values = typing.cast("Mapping[str, Any]", value)
        hints = (
            dict.fromkeys(values, inside[1] if inside else Any) if of_keys else _annotations(kind)
        )
        for key in hints:
            if key in values:
                yield from _misfits(key, values[key], hints[key])
            elif key in _needed(kind):
                yield key, "is absent", "there"


def _needed(kind: Any) -> Container[str]:
    """The names a typed dictionary or dataclass cannot do without."""
    if is_typeddict(kind):
        return kind.__required_keys__
    absent = dataclasses.MISSING
    fields = dataclasses.fields(kind)
    return {f.name for f in fields if f.default is absent and f.default_factory is absent}


_OF_JSON = (bool, int, float, str, list, tuple, Mapping, type(None))
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
    """A value as one writes it after a flag, if it is short."""
    if not isinstance(value, _OF_JSON):
        return str(value)
    values: list[Any] = list(value[:20]) if isinstance(value, (tuple, list)) else [value]
    kinds = {list: "(a list)", tuple: "(a list)", dict: "(values by name)"}
    text = " ".join(kinds.get(type(item)) or str(item) for item in values)
    return text if len(text) <= 80 else f"{text[:80]}…"


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
    if not named or os.path.exists(data):  # unlike Path.exists, also of what can be no path
        name, named, path = "", "", data
    return f"{name}{named}{Path(path).resolve()}" if os.path.exists(path) else data


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
