"""Notations by name: the drumroll of the paper and its extensions (specification, section 2.6).

What their letters mean is told in `kit`. Of two hits in one cell the one later in its column is
written, so that loud stands before soft and, equally loud, `o` before `x`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from modicum.errors import ConfigError
from modicum.methods.drum_transfer.notation import DRUMROLL, Notation

LOUDNESS = Notation(("-oO",) * 6)
"""Loud `O` and soft `o`."""
ARTICULATED = Notation(("-oO", "-xoXO", "-xoXO", "-oO", "-xoXO", "-oO"))
"""Loudness, and `x` and `X` for the bow of the ride, the cross-stick and the closed hi-hat."""
NOTATIONS: Mapping[str, Notation] = {
    "drumroll": DRUMROLL,
    "loudness": LOUDNESS,
    "articulated": ARTICULATED,
    "rows": replace(ARTICULATED, layout="rows"),
    "triplets": replace(DRUMROLL, steps_per_beat=3),
    "sextuplets": replace(DRUMROLL, steps_per_beat=6),
    "twelfths": replace(DRUMROLL, steps_per_beat=12),
}
"""`rows` is the layout and the letters of the follow-up paper. Steps a quarter note are 4, but for
`triplets` 3, for shuffles; `sextuplets` 6, for eighths and their triplets; `twelfths` 12, for 16ths
and triplets.
"""


def notation_named(name: str) -> Notation:
    """A notation of `NOTATIONS`.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in NOTATIONS:
        raise ConfigError(f"--notation {name}: expected {', '.join(NOTATIONS)}.")
    return NOTATIONS[name]
