"""Made-up grooves by rule, for tests, demonstrations and documentation without any data.

A groove has a style, which gives the patterns of its hands and its kick drum, often over two bars.
Bars differ from the pattern by a few added and omitted hits, the more the livelier the groove is;
the last bar of a phrase of four or eight bars mostly ends in a fill, and the bar after a fill
begins with a crash. Everything is a function of the seed and the number of the groove.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modicum.engine.random import uniform
from modicum.errors import ConfigError
from modicum.methods.drum_transfer.text.drumroll import to_text
from modicum.methods.drum_transfer.text.notation import DRUMROLL, INSTRUMENTS, Groove

Numbers = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_STEPS = DRUMROLL.steps_per_bar
_CRASH, _RIDE, _SNARE, _KICK, _HAT, _TOMS = range(len(INSTRUMENTS))


@dataclass(frozen=True)
class Style:
    """Patterns of 16 steps to choose from, spaces between; as many of each part in every style."""

    tempo: tuple[int, int]
    """Least and greatest, quarter notes a minute."""
    ride: float
    """Chance that the ride keeps time, and not the hi-hat."""
    ghosts: float
    """Chance of a soft snare hit between the written ones, by step, in a lively groove."""
    time: str
    """Patterns of the hi-hat or the ride."""
    snare: str
    kick: str


STYLES = {
    "rock": Style((84, 146), 0.25, 0.02,
        "o-o-o-o-o-o-o-o- o---o---o---o--- o-o-o-o-o-o-o-oo",
        "----o-------o--- ----o-------o-o-",
        "o-------o------- o-------o-o----- o-----o-o------- o-o-----o-o----- o-----o---o---o-"),
    "funk": Style((88, 118), 0.1, 0.1,
        "oooooooooooooooo o-o-o-o-o-o-o-o- o-ooo-ooo-ooo-oo",
        "----o-------o--- ----o--o-o--o---",
        "o--o------o----- o-o----o--o--o-- o-----oo--o----- o--o--o---o--o-- oo-----o--oo----"),
    "hip-hop": Style((72, 104), 0.05, 0.06,
        "o-o-o-o-o-o-o-o- o-o-o-ooo-o-o-oo o---o-o-o---o-o-",
        "----o-------o--- ----o--o----o---",
        "o------o--o----- o--o------oo---- oo-----o--o----o o-----o---o--o-- o------oo-------"),
    "jazz": Style((118, 224), 0.9, 0.1,
        "o---o-o-o---o-o- o---o--oo---o--o o---o---o---o-o-",
        "---------------- ------o---------",
        "---------------- o--------------- o-------o------- ----------o----- o---o---o---o---"),
    "latin": Style((96, 132), 0.5, 0.02,
        "o-ooo-ooo-ooo-oo o-o-oo-oo-o-oo-o o-o-o-o-o-o-o-o-",
        "---o--o----o--o- o--o--o---o-o---",
        "o-----ooo-----oo o--o---oo--o---o o-----o-o-----o- o--o----o--o---- o-------o-----o-"),
    "disco": Style((108, 128), 0.0, 0.02,
        "--o---o---o---o- o-o-o-o-o-o-o-o- oooooooooooooooo",
        "----o-------o--- ----o-------o--o",
        "o---o---o---o--- o---o---o---o-o- o---o--oo---o--- o---o---o-o-o--- o-o-o---o-o-o---"),
    "soul": Style((80, 112), 0.3, 0.06,
        "o-o-o-o-o-o-o-o- o-o-o-o-o-ooo-o- o---o---o---o---",
        "----o-------o--- o---o---o---o---",
        "o-----o-o------- o--o--o---o----- o-----o---oo---- o-o---o-o-o----- o--o----o-o-----"),
    "reggae": Style((64, 84), 0.05, 0.03,
        "o-o-o-o-o-o-o-o- --o---o---o---o- o-ooo-ooo-ooo-oo",
        "--------o------- --------o-----o-",
        "--------o------- o-------o------- o---o---o---o--- --------o---o--- ------o-o-------"),
}  # fmt: skip
"""The styles by name, all equally likely."""


def made_up_grooves(index: Sequence[int] | range, *, seed: int = 0, bars: int = 16) -> list[Groove]:
    """Grooves of so many bars in 4/4, in the notation of the paper, with their velocities.

    Args:
        index: Numbers of the grooves, 0 or more. A groove is a function of its number and the seed
            alone, whatever others are asked for.
        seed: Of all of them.
        bars: Bars of each; a groove of fewer bars is the beginning of that of more.

    Raises:
        ConfigError: `bars` is less than 1, or a number is negative.
    """
    if bars < 1 or min(index, default=0) < 0:
        raise ConfigError(
            f"made-up grooves: found {bars} bars and the least number {min(index, default=0)}; "
            f"expected at least 1 bar, and numbers from 0."
        )
    draw, names = _Draws(np.asarray(index, np.int64), seed, bars), list(STYLES)
    style = draw.integer("style", len(names))
    low, high = np.array([STYLES[name].tempo for name in names])[style].T
    tempo = low + draw.integer("tempo", high - low + 1)
    hits, velocities = _play(draw, style)
    texts = [to_text(groove.reshape(-1, len(INSTRUMENTS)).astype(np.int8)) for groove in hits]
    return [
        Groove(
            f"made-up_{number:06d}_{names[kind]}_{speed}", text, float(speed),
            velocities=played.reshape(-1, len(INSTRUMENTS)),
        )
        for number, kind, speed, text, played in zip(
            index, style.tolist(), tempo.tolist(), texts, velocities, strict=True
        )
    ]  # fmt: skip


def style_of(groove: Groove) -> str:
    """The style of a made-up groove, from its name."""
    return groove.name.split("_")[2]


@dataclass(frozen=True)
class _Draws:
    """Random numbers in [0, 1) of grooves, each a function of seed, groove and what it is for."""

    index: npt.NDArray[np.int64]
    seed: int
    bars: int

    def one(self, name: str) -> Numbers:
        """`(grooves,)`."""
        return uniform(self.index, 1, self.seed, "groove", name)[:, 0]

    def integer(self, name: str, below: int | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """`(grooves,)`, from 0."""
        return (self.one(name) * below).astype(np.int64)

    def bar(self, name: str) -> Numbers:
        """`(grooves, bars)`."""
        return uniform(self.index, self.bars, self.seed, "groove", name)

    def step(self, name: str) -> Numbers:
        """`(grooves, bars, 16)`."""
        draws = uniform(self.index, self.bars * _STEPS, self.seed, "groove", name)
        return draws.reshape(-1, self.bars, _STEPS)


def _play(draw: _Draws, style: npt.NDArray[np.int64]) -> tuple[Flags, npt.NDArray[np.uint8]]:
    """Hits and velocities, `(grooves, bars, 16, 6)`; what is worked with below has all but the
    last of these dimensions.
    """
    step, bar = np.arange(_STEPS), np.arange(draw.bars)
    kind = list(STYLES.values())

    def pattern(part: str, name: str) -> Flags:
        written = np.array([[list(row) for row in getattr(of, part).split()] for of in kind]) == "o"
        choice = draw.integer(name, written.shape[1])
        return written[style, choice][:, None]

    def chance(name: str, of: float | Numbers) -> Flags:
        return (draw.one(name) < of)[:, None, None]

    lively = draw.one("lively")[:, None, None]
    every, snare = pattern("time", "time"), pattern("snare", "snare")
    answers = chance("answer", 0.6) & (bar % 2 == 1)[:, None]
    kick = np.where(answers, pattern("kick", "answering kick"), pattern("kick", "kick"))
    # What differs from bar to bar: kicks and hands off the beat, and soft hits of the snare.
    weak = step % 4 != 0
    kick = kick ^ (weak & (draw.step("kick") < 0.08 * lively))
    every = every ^ ((step % 2 == 1) & (draw.step("time") < 0.06 * lively))
    rate = np.array([of.ghosts for of in kind])[style][:, None, None]
    ghost = ~snare & weak & (draw.step("ghost") < rate * 2 * lively)

    phrase = np.where(chance("phrase", 0.6), 4, 8)[..., 0]
    fills = ((bar + 1) % phrase == 0) & (draw.bar("fill") < 0.85)
    start = np.array([12, 12, 8, 8, 8, 4, 0])[(draw.bar("start") * 7).astype(np.int64)]
    turn = start + (draw.bar("turn") * (_STEPS + 1 - start)).astype(np.int64)
    fill = fills[..., None] & (step >= start[..., None])
    density = np.array([0.95, 0.55, 0.8, 0.55] * 4)
    struck = fill & (draw.step("strike") < density)
    toms = struck & (step >= turn[..., None])
    begins = np.concatenate([draw.one("opening")[:, None] < 0.3, fills[:, :-1]], 1)
    crash = begins[..., None] & (step == 0)
    kick = np.where(fill, (step % 4 == 0) & (draw.step("kick in fill") < 0.5), kick) | crash
    snare = np.where(fill, struck & ~toms, snare | ghost)
    every = every & ~fill & ~crash
    ride = chance("ride", np.array([of.ride for of in kind])[style])
    # Some change hands for every other eight bars.
    ride = ride ^ (chance("change", 0.3) & (bar // 8 % 2 == 1)[:, None])

    hits = np.zeros((len(style), draw.bars, _STEPS, len(INSTRUMENTS)), bool)
    for column, part in (
        (_CRASH, crash), (_RIDE, every & ride), (_SNARE, snare), (_KICK, kick),
        (_HAT, every & ~ride), (_TOMS, toms),
    ):  # fmt: skip
        hits[..., column] = part
    loudness = np.broadcast_to(np.array([100, 62, 82, 62] * 4)[:, None], hits.shape).copy()
    loudness[..., _SNARE] = np.where(ghost, 42, 106)
    loudness[fill] = (84 + 2 * step)[np.nonzero(fill)[2], None]
    loudness[..., _CRASH] = 116
    played = loudness + (draw.step("touch")[..., None] * 17).astype(np.int64) - 8
    return hits, np.where(hits, played, 0).astype(np.uint8)
