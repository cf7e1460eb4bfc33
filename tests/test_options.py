"""Options: ranges beside fields, one check, JSON, whole paths, and groups in a command."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import tyro

from modicum.errors import ConfigError
from modicum.options import (
    FLAT,
    Ge,
    Gt,
    Interval,
    Options,
    check_arguments,
    from_json,
    replace,
    to_json,
    whole_path,
    with_whole_paths,
)


@dataclass(frozen=True)
class Adam(Options):
    """An optimizer."""

    learning_rate: Annotated[float, Gt(0)] = 0.1
    """Learning rate."""
    decay: Annotated[float, Interval(ge=0, lt=1)] | None = None
    """Penalty."""


@dataclass(frozen=True)
class Config(Options):
    """A recipe."""

    data: str = "digits"
    """Data."""
    init: Path | None = None
    """Weights."""
    adam: Annotated[Adam, FLAT] = Adam()
    teacher: Adam = Adam(0.5)
    kind: Literal["a", "b"] | None = None
    """Kind."""
    widths: Annotated[tuple[int, ...], Ge(1)] = (1, 2)
    """Widths."""
    epochs: Annotated[int, Ge(1)] = 3
    """Epochs."""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "--epochs 0: must be at least 1."),
        ({"epochs": 1.5}, "--epochs 1.5: must be a whole number."),
        ({"epochs": True}, "--epochs True: must be a whole number."),
        ({"kind": "c"}, "--kind c: must be one of a, b."),
        ({"widths": (4, 0)}, "--widths 4 0: must be at least 1."),
    ],
)
def test_what_is_out_of_range_cannot_be_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "--learning-rate 0.0: must be more than 0."),
        ({"learning_rate": float("nan")}, "--learning-rate nan: must be more than 0."),
        ({"decay": 1.0}, "--decay 1.0: must be at least 0 and below 1."),
        ({"decay": "much"}, "--decay much: must be a number."),
    ],
)
def test_groups_hold_their_ranges(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Adam(**options)
    assert str(caught.value) == message


def test_bounds_that_are_included_are_fine() -> None:
    assert Adam(decay=0).decay == 0
    assert Config(epochs=1, kind=None).epochs == 1


def test_a_function_is_held_to_its_annotations() -> None:
    @check_arguments
    def predict(path: str, batch_size: Annotated[int, Ge(1)] = 64) -> int:
        return batch_size

    assert predict("a") == 64
    assert predict("a", batch_size=1) == 1
    with pytest.raises(ConfigError, match="--batch-size 0: must be at least 1"):
        predict("a", 0)


def test_what_can_be_said_in_several_ways_becomes_what_is_annotated() -> None:
    @check_arguments
    def several(
        files: tuple[Path, ...], data: str | None = None, out: Path | str = "",
        some: str | tuple[str, ...] = (), sizes: Any = None,
    ) -> Any:  # fmt: skip
        return files, data, out, some, sizes

    a, b = Path("a"), Path("b")
    for given in ("a", a, ["a"], (a,), iter(["a"]), {"a"}):
        assert several(given)[0] == (a,)
    assert several(iter(["a", b]))[0] == (a, b)
    thing = object()  # no path: it stays what it is
    assert several(thing)[0] == (thing,)
    assert several("a", a, a, "a", a)[1:] == ("a", a, "a", a)
    assert several("a", out="a", some=[a])[2:4] == ("a", ("a",))
    config = Config(data=a, init="b", widths=[3])  # type: ignore[arg-type]
    assert (config.data, config.init, config.widths) == ("a", b, (3,))
    with pytest.raises(ConfigError, match="--files 3: must be a list"):
        several(3)


def test_json_gives_back_the_same_options() -> None:
    config = Config(init=Path("x.pth"), adam=Adam(0.2, 0.1), kind="b", widths=(3,))
    text = json.dumps(to_json(config))
    assert from_json(Config, json.loads(text)) == config
    assert from_json(Config, json.loads(json.dumps(to_json(Config())))) == Config()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"no_such": 1}, "no_such"),
        ({"adam": {"learning_rate": 0.1, "momentum": 1}}, "momentum"),
        ({"epochs": "many"}, "epochs"),
        ({"epochs": 0}, "--epochs 0: must be at least 1"),
        ({"adam": {"learning_rate": -1.0}}, "--learning-rate -1.0: must be more than 0"),
        ({"adam": 7}, "adam"),
        ({"widths": 5}, "widths"),
    ],
)
def test_json_of_something_else_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_json(Config, to_json(Config()) | change)


def test_groups_are_flat_in_a_command_and_a_second_one_has_a_prefix(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--learning-rate", "0.3", "--teacher.learning-rate", "0.7", "--epochs", "4"]
    parsed = tyro.cli(Config, args=words, default=Config(adam=Adam(decay=0.5)))
    assert parsed == Config(adam=Adam(0.3, 0.5), teacher=Adam(0.7), epochs=4)
    with pytest.raises(SystemExit) as stopped:
        tyro.cli(Config, args=["--epochs", "0"])
    assert stopped.value.code == 2
    assert "--epochs 0: must be at least 1." in capsys.readouterr().err


def test_paths_become_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits").mkdir()
    Path("photos").mkdir()
    config = with_whole_paths(Config(data="photos", init=Path("a.pth")), names={"digits"})
    assert config.data == str(tmp_path / "photos")
    assert config.init == tmp_path / "a.pth"
    assert with_whole_paths(Config(), names={"digits"}) == Config()
    assert with_whole_paths(Config(), names=()).data == str(tmp_path / "digits")
    assert whole_path("n-cars=photos") == f"n-cars={tmp_path / 'photos'}"
    assert whole_path("nothing") == "nothing"
    Path("a=b").mkdir()
    assert whole_path("a=b") == str(tmp_path / "a=b")


def test_options_stay_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().epochs = 4  # type: ignore[misc]


def test_a_copy_with_other_values_reaches_into_groups() -> None:
    changed = replace(Config(), decay=0.5, epochs=7)
    assert changed == Config(adam=Adam(decay=0.5), epochs=7)
    assert replace(changed, adam=Adam(1.0), epochs=3) == Config(adam=Adam(1.0))
    with pytest.raises(ConfigError, match="--decay 1"):
        replace(Config(), decay=1.0)
    with pytest.raises(TypeError, match="'momentum'"):
        replace(Config(), momentum=0.9)


def test_a_whole_number_is_written_as_it_is_read_back() -> None:
    """A resumed run writes the same bytes as the first."""
    config = Config(adam=Adam(learning_rate=1, decay=0))
    assert type(config.adam.learning_rate) is float
    again = from_json(Config, json.loads(json.dumps(to_json(config))))
    assert json.dumps(to_json(again)) == json.dumps(to_json(config))
