"""Progress where standard error is no terminal: rare lines, in a notebook one that changes."""

from __future__ import annotations

import io
from contextlib import redirect_stderr

import pytest

from modicum.system import progress
from modicum.system.progress import Progress, report_progress


class Cell(io.StringIO):
    """The output of a notebook's cell."""

    def shown(self) -> str:
        """What stands there: a carriage return goes back to the beginning of the line."""
        lines = []
        for line in self.getvalue().split("\n"):
            row = ""
            for part in line.split("\r"):
                row = part + row[len(part) :]
            lines.append(row.rstrip())
        return "\n".join(lines)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that `Progress` is told."""
    now = [100.0]

    class Clock:
        monotonic = staticmethod(lambda: now[0])

    monkeypatch.setattr(progress, "time", Clock)
    return now


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    monkeypatch.setattr(Cell, "__module__", "ipykernel.iostream")
    return Cell()


def work(clock: list[float], seconds: float, total: int = 1000) -> None:
    with Progress("train", total) as told:
        for done in range(1, total + 1):
            clock[0] += seconds / total
            told.advance(done, "loss 0.5" if done < total else "loss")


def test_in_a_notebook_one_line_is_written_over(cell: Cell, clock: list[float]) -> None:
    with redirect_stderr(cell):
        work(clock, 3600)
    assert cell.shown() == "train: 1000/1000 (100 %), 1:00:00 elapsed, 0:00 left, loss\n"
    with redirect_stderr(cell):
        work(clock, 5)
    assert cell.shown().count("\n") == 2
    assert cell.getvalue().count("\r") <= 1 + 1000 + 5 / progress.NOTEBOOK_SECONDS + 1


def test_short_work_is_silent_in_a_notebook(cell: Cell, clock: list[float]) -> None:
    with redirect_stderr(cell):
        work(clock, 0.09)
        with report_progress("look") as report:
            report(1, 1)
    assert cell.getvalue() == ""


def test_in_a_file_lines_are_rare(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    work(clock, 60)
    lines = capsys.readouterr().err.splitlines()
    assert 5 <= len(lines) <= 7
    assert lines[0].startswith("train: 34/1000 (3 %)")
