"""Progress with an estimate of the time left: a bar on a terminal, elsewhere lines, or one line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from modicum.system.terminal import plain

LINE_SECONDS = 10.0
"""Pause between two plain lines. The first comes after a fifth of it: short work stays silent."""
NOTEBOOK_SECONDS = 0.5
"""The same in a notebook, where a line is written over the one before."""


def format_seconds(seconds: float) -> str:
    """`75.2` as `"1:15"`, `3700` as `"1:01:40"`."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


class _Bar(RichProgress):
    """A bar, and below it the note, which may be longer than a line."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """See `rich.progress.Progress`."""
        yield self.make_tasks_table(self.tasks)
        yield from (Text(plain(note)) for task in self.tasks if (note := task.fields["note"]))


class Progress:
    """Reports on work of known length to standard error, so that results can be piped.

    Args:
        what: What is being done, one or two words.
        total: Number of pieces of work.
        done: Pieces that were done before, by a run that is resumed; they do not count for speed.
        quiet: Say nothing.
    """

    def __init__(self, what: str, total: int, *, done: int = 0, quiet: bool = False) -> None:
        self._what, self._total, self._first, self._quiet = what, total, done, quiet
        self._started = time.monotonic()
        # Of a notebook's kernel; what is sent there is a cell's output, not a terminal's.
        self._over = type(sys.stderr).__module__.startswith("ipykernel.")
        self._pause = NOTEBOOK_SECONDS if self._over else LINE_SECONDS
        self._width = 0
        self._next_line = self._started + self._pause / 5
        self._bar: RichProgress | None = None
        if not quiet and sys.stderr.isatty():
            self._bar = _Bar(
                "{task.description}",
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                "left",
                TimeRemainingColumn(elapsed_when_finished=False),
                console=Console(stderr=True, markup=False, emoji=False),
            )
            self._bar.start()
            self._task = self._bar.add_task(what, total=total, completed=done, note="")

    def advance(self, done: int, note: str = "") -> None:
        """Say that `done` pieces are finished, counted from the start of the work."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        ends = self._width and done >= self._total  # a line that was begun says so
        if self._quiet or (now < self._next_line and not ends):
            return
        self._next_line = now + self._pause
        elapsed = now - self._started
        speed = (done - self._first) / elapsed
        left = format_seconds((self._total - done) / speed) if speed > 0 else "?"
        share = 100 * done // max(1, self._total)
        line = (
            f"{self._what}: {done}/{self._total} ({share} %), {format_seconds(elapsed)} elapsed, "
            f"{left} left{', ' + note if note else ''}"
        )
        start, end = ("\r", "") if self._over else ("", "\n")
        print(start + line.ljust(self._width), end=end, file=sys.stderr, flush=True)
        self._width = len(line) if self._over else 0

    def close(self) -> None:
        """Stop drawing. Safe to call twice."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._width:
            print(file=sys.stderr, flush=True)
            self._width = 0
        self._quiet = True

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@contextmanager
def report_progress(
    what: str, *, quiet: bool = False
) -> Generator[Callable[[int, int], None], None, None]:
    """Progress of work whose length is known only once it has begun.

    Yields:
        A function to be called with (pieces done, pieces in all).
    """
    progress: Progress | None = None

    def report(done: int, total: int) -> None:
        nonlocal progress
        progress = progress or Progress(what, total, quiet=quiet)
        progress.advance(done)

    try:
        yield report
    finally:
        if progress is not None:
            progress.close()
