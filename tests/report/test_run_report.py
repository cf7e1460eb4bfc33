from __future__ import annotations

import io
import json
import time
import wave
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from modicum.errors import DataError
from modicum.report import write_run_report

HOSTILE = "<script>document.title='owned'</script>"


def make_run(folder: Path) -> Path:
    folder.mkdir()
    config = {
        "method": "vgnet",
        "config": {"learning_rate": 0.001, "augment": {"flip": True}, "note": HOSTILE},
        "run": {"seed": 3},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "environment.json").write_text(json.dumps({"python": "3.11.7", "torch": "2.13.0"}))
    lines: list[dict[str, Any]] = []
    for step in range(1, 401):
        clock = {"step": step, "epoch": step // 100, "seconds": step / 4}
        lines.append(clock | {"loss": None if step == 200 else 2 / step, "lr": 1e-3})
        if step % 100 == 0:
            lines.append(clock | {HOSTILE: 60 + step / 20})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_report_shows_curves_values_settings_and_environment(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run-3")
    assert write_run_report(folder) == folder / "report.html"
    page = (folder / "report.html").read_text("utf-8")
    assert "<title>vgnet: run-3</title>" in page
    assert page.count('class="plot"') == 3
    assert "1 value not finite" in page
    for shown in ("learning_rate", "augment.flip", "3.11.7", "1 min 40 s", ">400<", ">80<"):
        assert shown in page
    assert "<script" not in page
    assert len(page) < 60_000


def test_a_torn_last_line_is_passed_over(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    whole = write_run_report(folder).read_bytes()
    with (folder / "metrics.jsonl").open("a") as log:
        log.write('{"step": 401, "los')
    assert write_run_report(folder).read_bytes() == whole


def test_other_broken_lines_are_counted(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as log:
        log.write('{"step": 401, "los\n[1, 2]\n{"loss": 1}\n\n{"step": 402, "loss": 0.5}\n')
    page = write_run_report(folder).read_text("utf-8")
    assert "3 lines of metrics.jsonl could not be read" in page
    assert ">402<" in page


def test_of_a_step_logged_twice_the_later_line_counts(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as log:
        log.write('{"step": 1, "loss": 7.25, "flag": true, "word": "text"}\n')
    page = write_run_report(folder).read_text("utf-8")
    assert ">7.25<" in page
    assert "flag" not in page


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"method": "vgnet", "config": {}, "run": {}}')
    assert "Nothing has been logged yet." in write_run_report(tmp_path).read_text("utf-8")


def test_pictures_are_embedded_with_their_captions(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "pictures").mkdir()
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    (folder / "pictures" / "wrong_answers.png").write_bytes(buffer.getvalue())
    (folder / "pictures" / "wrong_answers.txt").write_text('Ten "errors" <b>\n')
    page = write_run_report(folder).read_text("utf-8")
    assert 'src="data:image/png;base64,' in page
    assert 'alt="Ten &#34;errors&#34; &lt;b&gt;"' in page
    assert "wrong answers" in page

    (folder / "pictures" / "other.png").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match=r"other\.png is not a PNG"):
        write_run_report(folder)


def scored(folder: Path, classes: int) -> Path:
    make_run(folder)
    lines = [
        {"step": 10, "epoch": 0, "seconds": 1, "loss": 2.0, "peak_memory_mib": 9.0},
        {"step": 10, "epoch": 0, "seconds": 1, "top1": 81.25, "top5": 100.0, "val_loss": 0.5},
        {"step": 20, "epoch": 1, "seconds": 2, "loss": 1.0, "samples_per_second": 7.0},
        {"step": 20, "epoch": 1, "seconds": 2, "top1": 75.0, "top5": 100.0, "val_loss": 0.25},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    names = [f"class {n} {HOSTILE}" for n in range(classes)]
    rows = [[(n == m and 3) or int(n > m) for m in range(classes)] for n in range(classes)]
    found = {"classes": names, "matrix": rows}
    wrong = {"sample": "b/7.jpg", "class": "b", "taken_for": "a", "probability": 0.934}
    (folder / "confusion.json").write_text(json.dumps(found | {"mistakes": [wrong]}))
    return folder


def test_a_report_begins_with_its_result(tmp_path: Path) -> None:
    folder = scored(tmp_path / "run", 4)
    (folder / "config.json").write_text(
        json.dumps({"method": "vgnet", "used": {"epochs": 38}, "config": {"epochs": None}})
    )
    page = write_run_report(folder).read_text("utf-8")
    body = page.partition("<main>")[2]
    places = [body.index(text) for text in (
        "81.25 %", "75 %", "Optimizer steps", 'id="result"', 'id="classes"', 'id="values"',
        "Chosen for this data", "not given",
    )]  # fmt: skip
    assert places == sorted(places)
    assert "top-1 accuracy" in body
    assert "top-5" not in page  # of four classes
    assert "top5" not in page
    result = body.partition('id="result"')[2].partition("</section>")[0]
    assert 'loss</th><td class="n mean">0.25' in result  # the lower the better
    assert "peak_memory" not in result
    assert ">100 %<" in body  # of the first class
    assert ">75 %<" in body
    assert ">b/7.jpg</th><td>b</td><td>a</td>" in body
    assert ">93 %<" in body
    assert "<script" not in page


def test_many_classes_are_a_list_those_with_mistakes_first(tmp_path: Path) -> None:
    page = write_run_report(scored(tmp_path / "run", 31)).read_text("utf-8")
    assert "top-5 accuracy" in page
    assert page.index("class 30 ") < page.index("class 0 ")
    assert page.count("class 3 ") == 1


@pytest.mark.parametrize(
    "content", [[], {}, {"classes": ["a"], "matrix": [[1, 2]]}, {"classes": ["a"], "matrix": 3},
                {"classes": ["a"], "matrix": [["x"]]}, {"classes": [], "matrix": []},
                {"classes": ["a"], "matrix": [[-1]]},
                {"classes": ["a"], "matrix": [[1]], "mistakes": [{"sample": "x"}]}],
)  # fmt: skip
def test_what_is_no_confusion_matrix_is_refused(tmp_path: Path, content: Any) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "confusion.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"confusion\.json: expected the names of classes"):
        write_run_report(folder)


def test_settings_are_words(tmp_path: Path) -> None:
    settings = {"a": None, "b": True, "c": [1, 2.5], "d": [], "e": {"f": "x"}}
    folder = make_run(tmp_path / "run")
    (folder / "config.json").write_text(json.dumps({"method": "m", "config": settings}))
    (folder / "environment.json").write_text(json.dumps({"gpu": {"name": None}}))
    page = write_run_report(folder).read_text("utf-8")
    rows = ("a</th><td>not given<", "b</th><td>yes<", "c</th><td>1, 2.5<", "d</th><td>none<",
            "e.f</th><td>x<", "gpu.name</th><td>not given<")  # fmt: skip
    for row in rows:
        assert row in page


@pytest.mark.parametrize("width", [375, 1280])
def test_pictures_are_enlarged_and_sounds_play(browser: Any, tmp_path: Path, width: int) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "pictures").mkdir()
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20)).save(buffer, "PNG")
    (folder / "pictures" / "a.png").write_bytes(buffer.getvalue())
    with wave.open(str(folder / "pictures" / "a.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    browser.open(write_run_report(folder), width=width)
    image = "document.querySelector('.enlarge img')"
    assert browser.evaluate(f"{image}.getBoundingClientRect().width") <= 60
    for large in (True, False):
        browser.evaluate(f"{image}.click()")
        assert (browser.evaluate(f"{image}.getBoundingClientRect().width") >= width - 20) is large
    until = time.monotonic() + 20
    while browser.evaluate("document.querySelector('audio').duration") != 1:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert [at for at in browser.requests if not at.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize("content", ["{", "[]", None, "\x00", "[" * 100_000])
def test_a_folder_that_is_not_a_run_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(DataError, match=r"config\.json"):
        write_run_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("width", [375, 1280])
def test_in_a_browser(browser: Any, tmp_path: Path, width: int) -> None:
    browser.open(write_run_report(make_run(tmp_path / ("run-" + "x" * 60))), width=width)
    assert browser.evaluate("document.title").startswith("vgnet: run-")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.querySelectorAll('svg.plot').length") == 3
    assert [at for at in browser.requests if not at.startswith(("file:", "data:"))] == []
