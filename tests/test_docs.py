from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from modicum.catalogue import CATALOGUE

pytest.importorskip("mkdocs", reason="the site is built by the extra 'docs'")
pytest.importorskip("mkdocstrings", reason="the site is built by the extra 'docs'")

ROOT = Path(__file__).parents[1]
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """What a page loads, and the names it documents."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.documents: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag in LOADED and attributes.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(attributes.get(LOADED[tag]) or "")
        if "doc-heading" in (attributes.get("class") or ""):
            self.documents.add(attributes.get("id") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert built.returncode == 0, built.stderr
    assert built.stderr == ""
    return folder


def test_every_module_for_users_is_documented(site: Path) -> None:
    documented = {name for path in site.glob("api/**/*.html") for name in Page(path).documents}
    for name in (
        "modicum.load",
        "modicum.claims.judge",
        "modicum.engine.run.Run.batches",
        "modicum.errors.DataError",
        "modicum.images.Loader",
        "modicum.method.Method",
        "modicum.report.write_check_report",
        "modicum.vision.matching.match",
        "modicum.vision.resnet.ResNet",
    ):
        assert name in documented
    engine = {path.stem for path in (ROOT / "src/modicum/engine").glob("[!_]*.py")}
    assert {f"modicum.engine.{name}" for name in engine} <= documented
    for method in CATALOGUE:
        room = f"modicum.methods.{method.replace('-', '_')}."
        assert sum(name.startswith(room) for name in documented) >= 3, room


def test_every_method_has_a_page_made_from_its_readme(site: Path) -> None:
    for method in CATALOGUE:
        page = (site / "methods" / method / "index.html").read_text(encoding="utf-8")
        readme = ROOT / "src/modicum/methods" / method.replace("-", "_") / "README.md"
        headings = re.findall(r"^## (.+)$", readme.read_text(encoding="utf-8"), re.MULTILINE)
        assert headings
        assert page.count("<h2") == len(headings)


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 10
    for path in pages:
        remote = [at for at in Page(path).loads if re.match(r"(\w+:)?//", at)]
        assert remote == [], path
    for path in site.rglob("*.css"):
        style = path.read_text(encoding="utf-8")
        assert re.findall(r"""(?:url\(|@import)\s*["']?(?:https?:)?//[^)]*""", style) == [], path
