"""The error of files that are not what an event format says."""

from __future__ import annotations

from pathlib import Path

from modicum.errors import DataError


class EventFormatError(DataError):
    """An event file breaks its format. The message names the file and the byte offset."""

    def __init__(self, path: Path | str, offset: int, what: str) -> None:
        super().__init__(f"{path}, byte {offset:,}: {what}")
        self.path = Path(path)
        self.offset = offset
        self.what = what

    def __reduce__(self) -> tuple[type[EventFormatError], tuple[Path, int, str]]:
        # Exceptions are pickled by their message, from which this one cannot be made again.
        return type(self), (self.path, self.offset, self.what)
