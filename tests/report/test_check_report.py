from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from modicum.claims import ArmResult, Claim, Picture, Stage, Study, StudyResult, judge
from modicum.report import write_check_report

HOSTILE = "<script>document.title='owned'</script><img src=http://example.org/x.png>"
WORDS = ("holds", "does not hold", "inconclusive")


@dataclass(frozen=True)
class Config:
    network: str
    epochs: int = 3


def no_measure(config: Any, module: Any) -> Mapping[str, float]:
    raise AssertionError("a report measures nothing")


def no_pictures(folders: Any) -> Sequence[Picture]:
    raise AssertionError("a report draws no pictures of its own")


def tiny_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (600, 40), "teal").save(buffer, "PNG")
    return buffer.getvalue()


def make_study(
    name: str, seeds: Sequence[int], *, worst: float = 2.0, note: str = ""
) -> StudyResult:
    """A study in which `good` beats `plain`, `bad` loses to it, and `noisy` is undecided."""
    offsets = {"plain": 0.0, "good": 3.0, "bad": -3.0, "noisy": 0.1}
    wobble = {"plain": 0.0, "good": 0.1, "bad": 0.1, "noisy": worst}
    results = [
        ArmResult(
            arm,
            seed,
            {
                "accuracy": 80 + offset + wobble[arm] * (-1) ** place,
                "parameters": 1_012_345.0,
            },
            {
                "loss": [(step, 2.0 / step) for step in range(1, 30)],
                "validation/accuracy": [(10, 70.0), (20, 75.0 + place)],
            },
            seconds=12.5,
        )
        for arm, offset in offsets.items()
        for place, seed in enumerate(seeds)
    ]
    claims = [
        Claim(f"{arm} is better", f"{arm} beats plain (section 4).", arm, "plain", "accuracy")
        for arm in ("good", "bad", "noisy")
    ]

    def values(arm: str) -> list[float]:
        return [r.metrics["accuracy"] for r in results if r.arm == arm]

    return StudyResult(
        Study(
            method=name,
            data="Handwritten digits " + note,
            arms={arm: Stage(Config(network=arm)) for arm in offsets},
            claims=claims,
            measure=no_measure,
            pictures=no_pictures,
            caveat="Digits say little about photographs. " + note,
        ),
        seeds,
        results,
        [judge(claim, values(claim.method), values(claim.baseline)) for claim in claims],
        [Picture("Filters " + note, "Round bumps. " + note, tiny_png())],
    )


class References(HTMLParser):
    """Collects every address the elements and styles of a page refer to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
                self.found.append(value or "")
            elif name == "style":
                self.found += re.findall(r"url\(.*", value or "")

    def handle_data(self, data: str) -> None:
        self.found += re.findall(r"url\(.*|@import.*", data)


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three studies, one with a single seed, all full of hostile text."""
    studies = [
        make_study("vgnet", [1, 2, 3, 5], note=HOSTILE),
        make_study(HOSTILE, [1], note="one seed"),
        make_study("broken", [1, 2], worst=math.nan),
    ]
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    assert write_check_report(path, studies, command="modicum check --seeds 4 " + HOSTILE) == path
    return path


def test_the_page_is_one_small_file_that_refers_to_nothing_outside(page_path: Path) -> None:
    page = page_path.read_text(encoding="utf-8")
    outside = [
        at for at in References(page).found if not at.startswith(("#", "data:image/png;base64,"))
    ]
    assert outside == []
    assert len(page) < 500_000
    assert [path.name for path in page_path.parent.iterdir()] == ["report.html"]


def test_hostile_text_is_escaped_everywhere(page_path: Path) -> None:
    page = page_path.read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_the_page_shows_what_was_found(page_path: Path) -> None:
    page = page_path.read_text(encoding="utf-8")
    for expected in (
        "good beats plain (section 4).",
        "+3.00",
        "no interval with one seed",
        "no interval: a value is not finite",
        "not a number",
        "1,012,345",
        "What this cannot show.",
        "modicum check --seeds 4",
        "torch",
    ):
        assert expected in page
    assert page.count("Digits say little about photographs.") == 3


def test_a_missing_measurement_is_called_missing(tmp_path: Path) -> None:
    study = make_study("vgnet", [1, 2])
    partial = StudyResult(study.study, study.seeds, study.results[:-1], study.verdicts, [])
    page = write_check_report(tmp_path / "report.html", [partial], command="").read_text("utf-8")
    assert page.count(">missing<") == 6  # the seed and the mean, of two metrics and of the seconds


def test_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one study"):
        write_check_report(tmp_path / "report.html", [], command="")


def test_a_failed_report_leaves_the_old_one(tmp_path: Path) -> None:
    path = write_check_report(tmp_path / "r.html", [make_study("vgnet", [1, 2])], command="")
    before = path.read_bytes()
    study = make_study("vgnet", [1, 2])
    torn = StudyResult(study.study, [1, 2, 3], study.results, study.verdicts, [])
    with pytest.raises(ValueError, match="zip"):
        write_check_report(path, [torn], command="")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


OVERFLOWING = """
  [...document.querySelectorAll('body *')]
    .filter(e => !e.closest('.scroll, pre, svg, .verdicts thead'))
    .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5)
    .map(e => e.outerHTML.slice(0, 80))
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_in_a_browser(browser: Any, page_path: Path, width: int, dark: bool) -> None:
    browser.open(page_path, width=width, dark=dark)
    assert [at for at in browser.requests if not at.startswith(("file:", "data:"))] == []
    title = browser.evaluate("document.title")
    assert title.startswith("modicum check: vgnet, <script>")
    assert browser.evaluate("document.scripts.length") == 0

    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(OVERFLOWING) == []

    verdicts = browser.evaluate(
        "[...document.querySelectorAll('.verdicts td[data-label=Verdict]')]"
        ".filter(e => e.checkVisibility()).map(e => e.innerText.trim())"
    )
    assert verdicts == ["holds", "does not hold", "inconclusive"] + ["inconclusive"] * 3 + [
        "holds",
        "does not hold",
        "inconclusive",
    ]
    # The words are told apart by colour, and without colours by the shape before them.
    for look in ("getComputedStyle(e).color", "e.querySelector('svg').innerHTML"):
        looks = [
            browser.evaluate(
                f"(e => {look})(document.querySelector('.verdicts .{word.replace(' ', '-')}'))"
            )
            for word in WORDS
        ]
        assert len(set(looks)) == 3
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == dark


def test_in_a_browser_the_page_is_laid_out_for_assistive_technology(
    browser: Any, page_path: Path
) -> None:
    browser.open(page_path)
    assert browser.evaluate("document.querySelectorAll('h1').length") == 1
    for wrong in (
        "table:not(:has(caption))",
        "th:not([scope])",
        "img:not([alt])",
        "img[alt='']",
        "svg[role=img]:not([aria-label])",
    ):
        assert browser.evaluate(f'document.querySelectorAll("{wrong}").length') == 0, wrong
    links = "[...document.querySelectorAll('a')].map(a => !!document.querySelector(a.hash))"
    assert set(browser.evaluate(links)) == {True}
    identifiers = browser.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(identifiers) == len(set(identifiers))
    assert browser.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
