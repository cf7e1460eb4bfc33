"""Options of `modicum train` for networks that train in a second."""

from __future__ import annotations

from collections.abc import Mapping

SMALL: Mapping[str, Mapping[str, object]] = {
    "vgnet": {"channels": "8 8 16 32 32", "layers": "1 1 1 1", "size": 32, "short-side": 32},
    "apbs": {"network": "small", "time-steps": 4},
    "event-augmentation": {"network": "small", "time-steps": 4},
}
"""By method."""
