"""The command line as a person meets it: help, lists, errors, JSON, exit codes."""

from __future__ import annotations

import ast
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import modicum
from modicum.catalogue import CATALOGUE, METHOD_VERBS, SHARED_VERBS
from modicum.cli import main
from modicum.system.terminal import ByName, Share, counted, render

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9_-]*[a-z0-9]")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((), ("--help",), ("help",)):
        code, out, _ = run(capsys, *words)
        assert code == 0
        for verb in ("list", "check", "train", "evaluate", "predict", "export", "data"):
            assert f"modicum {verb}" in out


def test_list_shows_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "list", "--json")
    assert code == 0
    assert [row["method"] for row in json.loads(out)["methods"]] == list(CATALOGUE)
    _, out, _ = run(capsys, "list")
    for name, card in CATALOGUE.items():
        assert name in out
        assert card.scarce in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fly"], "no verb is called 'fly'"),
        (["train"], "needs a method"),
        (["predict"], "needs a method"),
        (["train", "vgnett"], "Did you mean 'vgnet'"),
        (["train", "vgnet", "--preset", "x"], "no preset 'x'. Known: default"),
        (["train", "vgnet", "--resume", "runs/none"], "not a run folder"),
        (["train", "vgnet", "--resume", "runs/none", "--epochs", "3"], "remove --epochs 3"),
        (["check", "vgnet", "--seeds", "0"], "at least 1"),
        (["check", "vgnet", "--jobs", "-1"], "at least 1"),
        (["train", "vgnet", "--epochs", "0"], "--epochs 0: must be at least 1"),
        (["train", "vgnet", "--clip", "0"], "--clip 0.0: must be more than 0"),
        (["check", "--data", "x"], "exactly one method"),
    ],
)
def test_mistakes_get_one_clear_sentence(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    code, out, err = run(capsys, *words)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    code, out, _ = run(capsys, *words, "--json")
    assert message in json.loads(out)["message"]


def test_a_path_that_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = ["train", "vgnet", "--preset", "smoke", "--out", str(tmp_path / "file" / "out")]
    code, out, err = run(capsys, *words, "--json")
    assert code == 2
    assert f"modicum: {tmp_path}/file: is a file, where a folder is needed. Give another" in err
    assert json.loads(out)["error"] == "NotADirectoryError"


def test_other_errors_of_the_system_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("nothing that a person named")

    monkeypatch.setattr("modicum.cli.list_methods", fail)
    with pytest.raises(OSError, match="nothing that a person"):
        main(["list"])


def test_importing_modicum_is_fast() -> None:
    """Neither PyTorch nor a method is imported before it is used."""
    code = "import modicum, modicum.method, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_training_help_shows_units_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "vgnet", "--help"])
    assert not stopped.value.code
    said = capsys.readouterr().out
    for words in ("--learning-rate", "--checkpoint-every", "Seconds", "--preset NAME", "imagenet"):
        assert words in said
    assert "default: 30" in said


def test_results_are_rendered_for_people() -> None:
    text = render(
        {
            "top1": 97.123456,
            "usable": True,
            "parameters": {"trainable": 997358},
            "rows": [
                {"file": "a.jpg", "probability": 0.5},
                {"file": "b.jpg", "error": "truncated"},
            ],
        }
    )
    for words in ("97.12 %", "yes", "997,358", "a.jpg", "truncated"):
        assert words in text


def test_shares_and_accuracies_are_printed_in_percent() -> None:
    found = {"top1": 50.0, "loss": 0.5, "rows": [{"gap": 0.125, "ms": 2.0, "ends": [0.5, 0.75]}]}
    marked = Share.marked(found, ("gap", "ends"))
    assert json.loads(json.dumps(marked)) == found
    text = render(marked)
    for words in ("top1  50 %", "loss  0.5\n", "12.5 %", "50 %, 75 %"):
        assert words in text


def test_confusions_are_a_matrix_where_there_is_room() -> None:
    cat = {"class": "cat", "accuracy": 90.0, "taken_for": ByName(dog=1, cat=9)}
    dog = {"class": "dog", "accuracy": 100.0, "taken_for": ByName(dog=12)}
    wide = render({"classes": [cat, dog]}).splitlines()
    assert wide[0] == "classes (last columns: taken for)"
    assert [line.split() for line in wide[1:]] == [
        ["class", "accuracy", "cat", "dog"],
        ["-----", "--------", "---", "---"],
        ["cat", "90", "%", "9", "1"],
        ["dog", "100", "%", "12"],
    ]
    narrow = render({"classes": [cat, dog]}, width=24)
    assert "taken for\n  dog: 1, cat: 9" in narrow
    odd = dog | {"taken_for": ByName({"class": 2})}  # a class that is called as a column is
    assert "class: 2" in render({"classes": [cat, odd]})


def test_nothing_that_is_data_is_cut_or_interpreted() -> None:
    name = "photos/beat [take 2] [red]of[/red] a folder with a very long name/image.png"
    record = {"verdict": "does not hold", "file": name, "statement": "word " * 40, "effect": -1.25}
    wide = render({"claims": [record, record]})
    assert max(map(len, wide.splitlines())) > 200  # where there is no terminal there is no limit
    narrow = render({"claims": [record, record]}, width=80)
    assert narrow.count(name) == wide.count(name) == 2
    assert narrow.count("word") == wide.count("word") == 80
    first = narrow.splitlines()[1]
    assert first.split(maxsplit=1) == ["verdict", "does not hold"]
    for line in narrow.splitlines():
        assert len(line) <= 80 or name.split()[-1] in line
    assert "\\x1b[31m" in render({"name": "a\x1b[31mb\nc"})
    assert render({"warnings": ["One.", "Two."]}).splitlines() == [
        "warnings  One.",
        "          Two.",
    ]
    assert "\x1b" not in render({"rows": [{"name\x1b": "\x1b[2J"}]})


def test_a_result_that_cannot_be_printed_is_told() -> None:
    words = [sys.executable, "-m", "modicum", "list"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    assert ended.stderr == (
        "modicum: the result cannot be written to standard output: No space left on device.\n"
    )
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *words], stderr=subprocess.PIPE, text=True
    )
    assert closed.returncode == 1
    assert "cannot be written to standard output: Bad file descriptor" in closed.stderr


def test_a_run_folder_is_made_where_none_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").touch()
    code, out, err = run(capsys, "train", "vgnet", "--preset", "smoke", "--json")
    assert code == 0, err
    first = json.loads(out)["run"]
    assert first.startswith("runs/vgnet-")
    monkeypatch.setattr("modicum.cli.time.strftime", lambda _: first.removeprefix("runs/vgnet-"))
    code, out, err = run(capsys, "train", "vgnet", "--preset", "smoke", "--json")
    assert code == 0, err
    assert json.loads(out)["run"] == f"{first}.2"  # of the same second


def test_a_reader_that_has_seen_enough_ends_the_help() -> None:
    words = [sys.executable, "-m", "modicum", "train", "vgnet", "--help"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
    assert process.returncode == 0


def test_names_of_others_stay_and_what_is_empty_is_said() -> None:
    result = {
        "per_class": ByName({"seg_test": 6}),
        "problems": [],
        "ignored": {},
        "groups": [["a_1.jpg", "b.jpg"], ["c.jpg", "d.jpg"]],
        "such_as": [{"same_as": "e", "split": "val"}],
        "stability": math.nan,
        "warnings": [
            "A sentence that is longer than what is left of its line, though not by much."
        ],
        "rows": [{"is_member=yes": 1, "base_rate": 0.5}],
    }
    assert render(result, width=80).splitlines() == [
        "per class",
        "  seg_test  6",
        "problems    none",
        "ignored     none",
        "groups      a_1.jpg, b.jpg",
        "            c.jpg, d.jpg",
        "stability   undefined",
        "warnings    A sentence that is longer than what is left of its line, though not",
        "            by much.",
        "",
        "such as",
        "same as  split",
        "-------  -----",
        "e        val",
        "",
        "rows",
        "is_member=yes  base rate",
        "-------------  ---------",
        "            1        0.5",
    ]
    sentence = "Six words that have no room."
    assert render({"a name of thirty letters or so": [sentence]}, width=40).splitlines() == [
        "a name of thirty letters or so",
        f"  {sentence}",
    ]
    assert counted(1, "image") == "1 image"
    assert counted(2000, "class has", "classes have") == "2,000 classes have"


def strings(path: Path) -> Iterator[str]:
    """The texts of a module but for docstrings."""
    tree = ast.parse(path.read_text())
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def test_options_that_messages_name_exist(capsys: pytest.CaptureFixture[str]) -> None:
    verbs = [(verb, name) for name in CATALOGUE for verb in METHOD_VERBS if verb != "train"]
    verbs += [(verb, room) for room, known in SHARED_VERBS.items() for verb in known]
    verbs += [(verb, name) for name, card in CATALOGUE.items() for verb in card.verbs]
    for name, card in CATALOGUE.items():
        verbs += [("train", name, recipe) for recipe in card.recipes] or [("train", name)]
    for words in [("check",), *verbs]:
        with pytest.raises(SystemExit):
            main([*words, "--help"])
    known = set(OPTION.findall(capsys.readouterr().out))
    known |= {"--json", "--help", "--version", "--restart"}
    known |= {"--local-dir", "--no-deps"}  # of hf and pip
    known |= {"--nproc_per_node", "--standalone"}  # of torchrun
    source = Path(modicum.__file__).parent
    named = {
        (option, path.relative_to(source).as_posix())
        for path in source.rglob("*.py")
        for text in strings(path)
        for option in OPTION.findall(text)
        if path.name != "generator.py"  # whose texts are lines of drums
    }
    assert {place for place in named if place[0] not in known} == set()
    assert len(named) > 100
