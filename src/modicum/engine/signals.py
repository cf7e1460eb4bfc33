"""Signals that ask a run to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import types
from typing import Any

from modicum.errors import ModicumError

SAME_WISH_SECONDS = 1.0
"""Two signals within this time are one wish: a terminal and a launcher may both send one."""


class Interrupted(ModicumError):  # noqa: N818 (it reports a wish, not a fault)
    """The run was asked to stop, and has written a checkpoint. The exit code is 128 + signal."""

    def __init__(self, message: str, signal_number: int = signal.SIGTERM) -> None:
        super().__init__(message)
        self.exit_code = 128 + int(signal_number)


class StopSignals:
    """While entered, SIGINT and SIGTERM are noted rather than obeyed; a second one is obeyed."""

    def __init__(self, *, quiet: bool) -> None:
        self.received: int | None = None
        """The first signal that arrived."""
        self._quiet, self._received_at = quiet, 0.0
        self._handlers: dict[int, Any] = {}

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._received_at = number, now
            if not self._quiet and sys.stderr is not None:  # pyright: ignore  # None: it is closed
                with contextlib.suppress(OSError):  # not print: it may be in the middle of a line
                    os.write(2, b"stopping after this step\n")
        elif now - self._received_at > SAME_WISH_SECONDS:
            raise KeyboardInterrupt

    def __enter__(self) -> StopSignals:
        with contextlib.suppress(ValueError):  # not in the main thread: signals are not ours
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())
