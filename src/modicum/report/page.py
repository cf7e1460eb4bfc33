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


def write_page(path: Path, template: str | Path, **values: Any) -> Path:
    """Render `template`, a name of those here or another's file, with `values` and put the page at
    `path` in one piece.

    A reader of `path` sees the old page or the new one, never half a page. Missing parent folders
    are made.
    """
    style = Markup((_FOLDER / "style.css").read_text(encoding="utf-8"))
    if isinstance(template, Path):
        found = _TEMPLATES.from_string(template.read_text(encoding="utf-8"))
    else:
        found = _TEMPLATES.get_template(template)
    words = {"number": text.number, "duration": text.duration, "label": text.label}
    page = found.render(style=style, **words, **values)
    with atomic_write(path) as file:
        # A lone surrogate, as in a file name that is not UTF-8, cannot be encoded.
        file.write(page.encode(errors="backslashreplace"))
    return path


def data_uri(content: bytes, kind: str = "image/png") -> Markup:
    """A file, by default a PNG, as an address that contains it."""
    return Markup(f"data:{kind};base64," + base64.b64encode(content).decode("ascii"))
