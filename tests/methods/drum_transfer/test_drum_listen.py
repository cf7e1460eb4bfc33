from __future__ import annotations

import csv
import dataclasses
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import tyro

from modicum.errors import ConfigError, DataError
from modicum.methods.drum_transfer.options import ModelReading
from modicum.methods.drum_transfer.text.drumroll import to_text
from modicum.methods.drum_transfer.text.midi import write_midi
from modicum.methods.drum_transfer.text.notation import (
    NOTATIONS,
    Groove,
)
from modicum.methods.drum_transfer.text.tablature import to_tablature
from modicum.methods.drum_transfer.verbs.answers import (
    Annotation,
    Origin,
    join_answers,
    read_answers,
    read_key,
)
from modicum.methods.drum_transfer.verbs.listen import Judged, Page, listen, write_listening_page
from modicum.options import check_arguments

TROUBLES = """
window.troubles = [];
addEventListener("error", (e) => troubles.push(String(e.message || e.target.outerHTML)), true);
addEventListener("securitypolicyviolation", (e) => troubles.push(e.violatedDirective));
for (const name of ["error", "warn"]) console[name] = (...said) => troubles.push(said.join(" "));
"""


def groove(name, seed, bars=3):
    """Two bars that depend on the name alone, the others on the seed."""
    given = np.random.default_rng(len(name)).integers(0, 2, (32, 6))
    given[0] = 1
    rest = np.random.default_rng(seed).integers(0, 2, (16 * (bars - 2), 6))
    rest[-1] = 1
    return Groove(name, to_text(np.concatenate([given, rest])), tempo=300)


def pairs(count=3):
    return [(groove(f"n{'x' * i}", i), groove(f"n{'x' * i}", 50 + i)) for i in range(count)]


def write_folders(folder, count=3):
    for first, second in pairs(count):
        for who, one in (("model", first), ("human", second)):
            (folder / who).mkdir(exist_ok=True, parents=True)
            (folder / who / f"{one.name}.txt").write_text(one.text)
    return folder / "model", folder / "human"


# The page, without a browser


def test_page_and_key(tmp_path):
    model, human = write_folders(tmp_path, 5)
    told = tyro.cli(listen, args=f"{model} --against {human} --out {tmp_path / 'out'}".split())
    page, key = (tmp_path / "out" / "page" / "index.html"), (tmp_path / "out" / "key.csv")
    assert told["page"] == str(page)
    assert (told["pairs"], told["self_contained"]) == (5, True)
    assert told["megabytes"] == pytest.approx(page.stat().st_size / 1e6, abs=0.1)
    html = page.read_text()
    assert html.count("<audio") == html.count("data:audio/wav") == html.count("<img") == 10
    for secret in ("model", "human", "nxxx"):
        assert secret not in re.sub(r"base64,[^\"]*", "", html)
    origins = read_key(key)
    assert {item for _, item in origins} == {f"{n}{side}" for n in range(1, 6) for side in "AB"}
    by_item = {item: origin for (_, item), origin in origins.items()}
    for number in range(1, 6):
        first, second = by_item[f"{number}A"], by_item[f"{number}B"]
        assert first.name == second.name
        assert {first.source, second.source} == {"model", "human"}
    left = [by_item[f"{n}A"].source for n in range(1, 6)]
    assert abs(left.count("model") - left.count("human")) == 1
    listen(model, human, tmp_path / "again")
    assert (tmp_path / "again" / "key.csv").read_bytes() == key.read_bytes()
    assert (tmp_path / "again" / "page" / "index.html").read_bytes() == page.read_bytes()


def test_a_large_page_has_its_sounds_beside_it(tmp_path):
    told = write_listening_page(tmp_path, pairs(1), ("a", "b"), Page(embed_below=0))
    assert not told["self_contained"]
    assert {path.name for path in (tmp_path / "page").iterdir()} == {
        *("index.html", "form.csv", "1A.png", "1A.wav", "1B.png", "1B.wav")
    }


def test_both_grooves_of_a_pair_are_played_alike(tmp_path):
    first, second = pairs(1)[0]
    loud = np.full((48, 6), 127, np.uint8)
    other = dataclasses.replace(first, tempo=60, velocities=loud)
    write_listening_page(tmp_path / "1", [(other, first)], ("a", "b"), Page(embed_below=0))
    wavs = [(tmp_path / "1" / "page" / f"1{side}.wav").read_bytes() for side in "AB"]
    assert wavs[0] == wavs[1]

    model, human = write_folders(tmp_path, 1)
    (human / f"{second.name}.txt").write_text(to_tablature(second))  # which has a tempo
    silent = "------\n" * 16
    (model / f"{first.name}.txt").write_text(silent + first.text + silent)
    listen(model, human, tmp_path / "2", page=Page(embed_below=0))
    sizes = {(tmp_path / "2" / "page" / f"1{side}.wav").stat().st_size for side in "AB"}
    assert sizes == {len(wavs[0])}


def test_bars_follow_the_meter(tmp_path):
    """Two bars of 12 lines are given, and not two of 16."""
    given = "o-----\n" * 24
    for who, rest in (("model", "--o---\n"), ("human", "---o--\n")):
        (tmp_path / who).mkdir()
        write_midi(Groove("a", given + rest * 24), tmp_path / who / "a.mid", meter=(3, 4))
    folders = tmp_path / "model", tmp_path / "human", tmp_path / "out"
    assert listen(*folders, reading=ModelReading(meter_bars=True))["pairs"] == 1
    with pytest.raises(DataError, match="its first 2 bars are not those"):
        listen(*folders)


def test_grooves_of_other_notations(tmp_path):
    """They were refused, or made silent by --repair pad."""
    given = "O-x-X-\n------\n" * 16
    for who, rest in (("model", "--X---\n"), ("human", "---O--\n")):
        (tmp_path / who).mkdir()
        (tmp_path / who / "a.txt").write_text(given + rest * 32)
    folders = tmp_path / "model", tmp_path / "human", tmp_path / "out"
    assert listen(*folders, reading=ModelReading(notation="articulated"))["pairs"] == 1
    for repair in (None, "pad", "drop"):
        with pytest.raises(DataError, match=r"a\.txt: .* 64 lines 48 cannot .* in articulated"):
            listen(*folders, repair=repair)
    with pytest.raises(ConfigError, match="--notation shuffle: must be one of drumroll"):
        ModelReading(notation="shuffle")


def test_triplets(tmp_path):
    """Two bars of 12 lines are given; of a tab the bars tell."""
    notation = NOTATIONS["triplets"]
    given = "o-----\n" * 24
    for who, rest in (("model", "--o---\n"), ("human", "---o--\n")):
        (tmp_path / who).mkdir()
        groove = Groove("a", given + rest * 24, notation=notation)
        if who == "human":
            write_midi(groove, tmp_path / who / "a.mid")
        else:
            (tmp_path / who / "a.tab").write_text(to_tablature(groove))
    folders = tmp_path / "model", tmp_path / "human", tmp_path / "out"
    assert listen(*folders, reading=ModelReading(notation="triplets"))["pairs"] == 1
    with pytest.raises(DataError, match=r"a\.tab, line 5: .* counts 3 steps.*--notation drumroll"):
        listen(*folders)
    (tmp_path / "model" / "a.tab").rename(tmp_path / "model" / "a.txt")
    (tmp_path / "model" / "a.txt").write_text(given + "--o---\n" * 24)
    with pytest.raises(DataError, match="Read them as in training: --notation, --meter-bars, --ke"):
        listen(*folders)


def test_pick_ups_are_kept_where_training_kept_them(tmp_path):
    pick_up = "------\n" * 12 + "--o---\n" * 4
    beat = "o-----\n" * 16
    for who, rest in (("model", "--o---\n"), ("human", "---o--\n")):
        (tmp_path / who).mkdir()
        (tmp_path / who / "a.txt").write_text(pick_up + beat + rest * 32)
    folders = tmp_path / "model", tmp_path / "human", tmp_path / "out"
    assert listen(*folders, reading=ModelReading(keep_pickups=True))["pairs"] == 1
    with pytest.raises(DataError, match="its first 2 bars are not those"):
        listen(*folders)


def test_tabs_and_midi_files_of_a_meter_are_cut_alike(tmp_path):
    """A model of 16-line bars wrote 3/4: 16 of its bars are 256 lines, and not 16 bars of 12."""
    text = "o-----\n" * 384
    for who in ("model", "human"):
        (tmp_path / who).mkdir()
    groove = Groove("a", text, tempo=300, meter=(3, 4))
    (tmp_path / "model" / "a.txt").write_text(to_tablature(groove))
    write_midi(groove, tmp_path / "human" / "a.mid")
    out = tmp_path / "out"
    listen(tmp_path / "model", tmp_path / "human", out, page=Page(embed_below=0))
    sizes = {(out / "page" / f"1{side}.wav").stat().st_size for side in "AB"}
    assert len(sizes) == 1


def test_folders_that_cannot_be_used(tmp_path):
    model, human = write_folders(tmp_path, 2)
    with pytest.raises(ConfigError, match="give two folders"):
        listen(model)
    with pytest.raises(ConfigError, match="both sources are called 'model'"):
        listen(model, model)
    with pytest.raises(ConfigError, match="--pairs 0"):
        check_arguments(listen)(model, human, pairs=0)
    with pytest.raises(ConfigError, match="--answers needs --key"):
        listen(judged=Judged(answers=(tmp_path / "answers.csv",)))
    with pytest.raises(DataError, match="no such file or folder"):
        listen(model, tmp_path / "absent")
    (human / "n.txt").write_text(groove("other", 1).text)
    with pytest.raises(DataError, match="first 2 bars are not those of the other"):
        listen(model, human)
    (human / "n.txt").write_text("------\n" * 32)
    with pytest.raises(DataError, match=r"n\.txt: nothing is hit"):
        listen(model, human)
    (human / "n.txt").write_text("------\n--o\n")
    with pytest.raises(DataError, match=r"human/n\.txt: of its 2 lines 1 cannot .* line 2, '--o'"):
        listen(model, human)
    (human / "n.txt").write_text("o-----\n" * 2 + "SEP\n--o\n")
    with pytest.raises(DataError, match=r"human/n\.txt, line 4, column 4: .*: --repair pad"):
        listen(model, human)
    (human / "again").mkdir()
    (human / "again" / "n.txt").write_text("o-----\n")
    with pytest.raises(DataError, match=r"human: again/n\.txt and n\.txt have the same name"):
        listen(model, human)
    (human / "again" / "n.txt").unlink()
    (human / "again").rmdir()
    for path in human.iterdir():
        path.rename(path.with_stem("other" + path.stem))
    with pytest.raises(DataError, match="no groove of the same name"):
        listen(model, human)


# The answers

KEY = {
    ("p", "1A"): Origin("model", "x"),
    ("p", "1B"): Origin("human", "x"),
    ("p", "2A"): Origin("human", "y"),
    ("p", "2B"): Origin("model", "y"),
}


def answer(item, pattern="consistent", preferred="", listener="me", **others):
    given = {"fills": "yes", "musical": "no", "short": "no", "comment": ""} | others
    return Annotation(
        page="p", listener=listener, item=item, pattern=pattern, preferred=preferred, **given
    )


def test_answers_are_counted_by_source():
    found = join_answers(
        [
            answer("1A", "chaotic", "no", fills="no"),
            answer("1B", preferred="yes", musical="yes"),
            answer("2A", preferred="equal", short="yes"),
            answer("2B", "", "equal", fills="", musical=""),
            answer("1A", "not gradable", "no", listener="you"),
            answer("1B", "repetitive", "yes", listener="you"),
        ],
        KEY,
    )
    table = {row["said"]: (row["model"], row["human"]) for row in found["table"]}
    assert table == {
        "pattern consistent": (0, 2),
        "pattern repetitive": (0, 1),
        "pattern chaotic": (1, 0),
        "pattern not gradable": (1, 0),
        "has fills": (1, 3),
        "musical": (0, 1),
        "ends too early": (0, 1),
        "not judged": (1, 0),
    }
    assert found["listeners"] == 2
    assert found["preference"] == {"prefer model": 0, "prefer human": 2, "no preference": 1}


def test_a_pair_without_preference_is_one_whoever_says_so():
    """Of either groove or of both, by any listener; of grooves of other names, two are a pair."""
    key = KEY | {("p", name): Origin("model", name) for name in ("waltz", "rock")}
    given = [answer("1A", preferred="equal"), answer("2B", preferred="equal")]
    given += [answer("2A", preferred="equal"), answer("1B", listener="you", preferred="equal")]
    given += [answer(name, preferred="equal") for name in ("waltz", "rock")]
    assert join_answers(given, key)["preference"]["no preference"] == 4
    assert join_answers(given[:1], key)["preference"]["no preference"] == 1


def test_names_that_are_formulas_come_back(tmp_path):
    told = write_listening_page(tmp_path, pairs(1), ("=cmd", "-b"))
    assert "'=cmd" in Path(told["key"]).read_text("utf-8-sig")
    assert {origin.source for origin in read_key(Path(told["key"])).values()} == {"=cmd", "-b"}


def test_p_values():
    # Eight of nine preferences: 2 (1 + 9) / 2^9. Table [[1, 8], [8, 1]]: 2 (81 + 1) / C(18, 9).
    key = {("p", f"{n}{s}"): Origin(s, f"{n}") for n in range(9) for s in "AB"}
    answers = [
        answer(f"{n}{s}", "consistent" if good else "chaotic", "yes" if good else "no")
        for n in range(9)
        for s, good in (("A", n < 1), ("B", n >= 1))
    ]
    found = join_answers(answers, key, tests=True)
    assert found["preference"]["p"] == pytest.approx(20 / 512)
    assert found["table"][0]["p"] == pytest.approx(2 * 82 / 48620)
    assert found["table"][4]["p"] == pytest.approx(1)
    none = join_answers([answer("0A")], key, tests=True)
    assert np.isnan(none["preference"]["p"])


def test_answers_that_do_not_fit_the_key():
    with pytest.raises(DataError, match="item '3A' of the page 'p', which is not in the key"):
        join_answers([answer("3A")], KEY)
    with pytest.raises(DataError, match="'1A' of the page 'p' is answered twice by me"):
        join_answers([answer("1A"), answer("1A")], KEY)
    with pytest.raises(DataError, match="no answers"):
        join_answers([], KEY)


def test_an_empty_form_lies_beside_the_page(tmp_path):
    told = write_listening_page(tmp_path, pairs(2), ("a", "b"))
    path, key = Path(told["form"]), read_key(Path(told["key"]))
    asked = read_answers(path)
    assert [(one.page, one.item) for one in asked] == list(key)
    assert {one.pattern for one in asked} == {""}
    text = path.read_text("utf-8-sig")
    path.write_text(text.replace(",", ";"))  # as spreadsheets save it
    assert read_answers(path) == asked
    assert len(join_answers(asked, key)["table"]) > 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("consistent", "fine", "line 2, column pattern: found 'fine'; expected consistent"),
        ("pattern", "patterns", "lacks the columns pattern; found page"),
        (",consistent", ",", "line 2, column musical: found 'good'"),
        ("p,me", "p;me", "line 2: expected 9 fields"),
        ("p,me", 'p,"me', "unexpected end of data"),
    ],
)
def test_answers_that_cannot_be_read(tmp_path, old, new, said):
    header = "page,listener,item,pattern,fills,musical,short,preferred,comment\n"
    musical = "good" if "musical" in said else "yes"
    text = header + f"p,me,1A,consistent,yes,{musical},no,yes,\n"
    (tmp_path / "a.csv").write_text(text.replace(old, new))
    with pytest.raises(DataError, match=said):
        read_answers(tmp_path / "a.csv")


# The page in a browser


def settle(browser, script, value=True):
    until = time.monotonic() + 20
    while (found := browser.evaluate(script)) != value:
        assert time.monotonic() < until, (script, found)
        time.sleep(0.02)


@pytest.mark.parametrize("embed_below", [50, 0])
def test_the_page_opens_and_plays(tmp_path, browser, embed_below):
    browser._call("Page.addScriptToEvaluateOnNewDocument", source=TROUBLES)
    told = write_listening_page(tmp_path, pairs(1), ("a", "b"), Page(embed_below=embed_below))
    browser.open(tmp_path / "page" / "index.html")
    settle(browser, "[...document.querySelectorAll('audio')].every((a) => a.duration > 3)")
    settle(browser, "[...document.images].every((i) => i.naturalWidth > 500)")
    assert browser.evaluate("troubles.join()") == ""
    assert not [url for url in browser.requests if not url.startswith(("file:", "data:"))]
    # Fields have names that are read aloud, and all can be reached by the keyboard.
    unlabelled = "[...document.querySelectorAll('input, textarea')].filter((f) => !f.labels.length)"
    assert browser.evaluate(f"{unlabelled}.length") == 0
    assert browser.evaluate("[...document.querySelectorAll('[tabindex=\"-1\"]')].length") == 0
    browser.open(tmp_path / "page" / "index.html", width=390)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    assert told["pairs"] == 1


def test_answers_survive_and_end_up_in_the_csv(tmp_path, browser):
    browser._call("Page.addScriptToEvaluateOnNewDocument", source=TROUBLES)
    browser._call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    write_listening_page(tmp_path, pairs(2), ("a", "b"))
    page, comment = tmp_path / "page" / "index.html", 'He said "no",\n=SUM(1) ünï; <b>'
    browser.open(page)
    browser.evaluate("localStorage.clear()")
    for name in ("1A-pattern=chaotic", "1A-fills=no", "1A-musical=yes", "1A1B-preferred=1B"):
        field, value = name.split("=")
        browser.evaluate(f'document.querySelector(\'[name="{field}"][value="{value}"]\').click()')
    browser.evaluate("document.querySelector('[name=\"2B-short\"]').click()")
    browser.evaluate("document.querySelector('[value=equal][name=\"2A2B-preferred\"]').click()")
    for field, value in (("listener", "me"), ("1A-comment", comment)):
        browser.evaluate(f"document.querySelector('[name=\"{field}\"]').focus()")
        browser._call("Input.insertText", text=value)
    said = "document.getElementById('progress').textContent"
    assert browser.evaluate(said) == "1 of 4 grooves answered in full"

    browser.open(page)  # as after the tab was closed
    assert browser.evaluate(said) == "1 of 4 grooves answered in full"
    browser.evaluate("document.getElementById('save').focus()")
    for kind in ("keyDown", "keyUp"):
        browser._call(
            "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r",
            windowsVirtualKeyCode=13,
        )  # fmt: skip
    until = time.monotonic() + 20
    while not (saved := list(tmp_path.glob("answers-*.csv"))):
        assert time.monotonic() < until, "nothing was saved"
        time.sleep(0.05)
    assert browser.evaluate("troubles.join()") == ""
    with saved[0].open(encoding="utf-8-sig", newline="") as file:
        (_, first, *_) = list(csv.reader(file, strict=True))
    assert first[1:] == ["me", "1A", "chaotic", "no", "yes", "no", "no", comment]
    read = {one.item: one for one in read_answers(saved[0])}
    assert (read["1B"].preferred, read["1B"].pattern) == ("yes", "")
    assert [read[item].short for item in ("1A", "1B", "2A", "2B")] == ["no", "no", "no", "yes"]
    assert read["2A"].preferred == read["2B"].preferred == "equal"
    found = listen(judged=Judged(answers=(saved[0],), key=tmp_path / "key.csv"))
    assert sum(found["preference"].values()) == 2
    json.dumps(found)

    browser.evaluate("window.confirm = () => true")
    browser.evaluate("document.getElementById('clear').click()")
    browser.open(page)
    assert browser.evaluate(said) == "0 of 4 grooves answered in full"
    assert browser.evaluate("document.querySelector('[name=\"1A-comment\"]').value") == ""
