"""Makes the pages of every method of the catalogue, so that a new method edits nothing here.

`methods/<name>.md` is the README of the method's room; `api/methods/<name>.md` its docstrings. The
extras are those of `pyproject.toml`.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

from mkdocs.structure.files import File, Files
from packaging.requirements import Requirement

from modicum.catalogue import CATALOGUE, room


def on_config(config: Any) -> Any:
    """Lists the pages where `mkdocs.yml` has the empty sections for them."""
    titles = {name: card.title.split(":")[0] for name, card in CATALOGUE.items()}
    for section in config["nav"]:
        if "Methods" in section:
            section["Methods"] = [{titles[n]: f"methods/{n}.md"} for n in CATALOGUE]
        if "Reference" in section:
            section["Reference"] += [
                {f"modicum.methods.{room(n)}": f"api/methods/{n}.md"} for n in CATALOGUE
            ]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages."""
    for name, card in CATALOGUE.items():
        readme = f'--8<-- "src/modicum/methods/{room(name)}/README.md"\n'
        title = card.title.split(":")[0]
        reference = f"# {title}\n\n::: modicum.methods.{room(name)}\n"
        for path, text in ((f"methods/{name}.md", readme), (f"api/methods/{name}.md", reference)):
            files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts the table of extras where a page asks for it."""
    return markdown.replace("<!-- extras -->", extras())


def extras() -> str:
    """The extras of the install, and the packages that each brings."""
    found = metadata.metadata("modicum")
    required = [Requirement(text) for text in found.get_all("Requires-Dist") or ()]
    rows: list[str] = []
    for extra in found.get_all("Provides-Extra") or ():
        names = [
            f"`{r}`".split(";")[0].rstrip("` ") + "`"
            for r in required
            if r.marker and r.marker.evaluate({"extra": extra})
        ]
        rows.append(f"| `{extra}` | {', '.join(names)} |")
    return "\n".join(["| extra | installs |", "|---|---|", *rows])
