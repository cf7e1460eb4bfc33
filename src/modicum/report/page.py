"""Fills a template and writes the page whole."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from modicum.report import text
from modicum.system.files import atomic_write

_FOLDER = Path(__file__).parent / "templates"
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Render `template` with `values` and put the page at `path` in one piece.

    A reader of `path` sees the old page or the new one, never half a page. Missing parent folders
    are made.
    """
    style = Markup((_FOLDER / "style.css").read_text(encoding="utf-8"))
    page = _TEMPLATES.get_template(template).render(
        style=style, number=text.number, duration=text.duration, **values
    )
    with atomic_write(path) as file:
        # A lone surrogate, as in a file name that is not UTF-8, cannot be encoded.
        file.write(page.encode(errors="backslashreplace"))
    return path


def data_uri(png: bytes) -> Markup:
    """A PNG file as an address that contains it."""
    return Markup("data:image/png;base64," + base64.b64encode(png).decode("ascii"))
