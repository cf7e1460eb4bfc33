"""Event-camera recordings: container, file formats, representations, simulator."""

from modicum.events.container import EventBatch, Events
from modicum.events.errors import EventFormatError

__all__ = ["EventBatch", "EventFormatError", "Events"]
