"""Grooves one can hear: a small synthetic drum kit, or a SoundFont.

The built-in kit is computed, so that it needs no file and no licence: a swept sine for the kick,
noise over a body for the snare, filtered noise for hi-hat and cymbals, decaying sines for the toms.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import wave
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from modicum.engine.random import uniform
from modicum.errors import DataError, require
from modicum.methods.drum_transfer.text.drumroll import Hits, to_hits
from modicum.methods.drum_transfer.text.kit import writing_tables
from modicum.methods.drum_transfer.text.notation import INSTRUMENTS, Groove
from modicum.options import check_arguments
from modicum.system.files import atomic_write

Samples = npt.NDArray[np.float32]

RATE = 44_100
"""Samples a second."""
TAIL = 2.0
"""Seconds after the last step, in which cymbals ring out. No sound of the kit is longer."""

CRASH, RIDE, BELL, SNARE, CROSS_STICK, KICK, HI_HAT, OPEN_HI_HAT, TOMS = (
    49, 51, 53, 38, 37, 36, 42, 46, 50
)  # fmt: skip
"""MIDI pitches of the sounds, all that `kit` writes."""
_MIX = {
    CRASH: (0.42, -0.4), RIDE: (0.3, 0.4), BELL: (0.3, 0.4), SNARE: (0.85, 0.0),
    CROSS_STICK: (0.6, 0.0), KICK: (0.95, 0.0), HI_HAT: (0.32, -0.3), OPEN_HI_HAT: (0.3, -0.3),
    TOMS: (0.75, 0.2),
}  # fmt: skip
"""How loud each sound is in the mix, and where it comes from, from -1, left, to 1, right."""
_TEMPOS = (10.0, 1000.0)
_MOST_SECONDS = 900
_PIECE = 1 << 18
_FADE = 220
"""Samples, 5 ms, in which a choked hi-hat falls silent: at once, but without a click."""


@lru_cache(maxsize=4)
def sounds(seed: int = 0) -> Mapping[int, Samples]:
    """The sounds of the built-in drum kit by MIDI pitch, `(samples,)`, float32, 44.1 kHz.

    A function of `seed` alone, which is that of the noise in them.
    """

    def time(seconds: float) -> npt.NDArray[np.float64]:
        return np.arange(int(seconds * RATE)) / RATE

    def noise(name: str, length: int, low: float, high: float) -> npt.NDArray[np.float64]:
        """White noise through the magnitude of a second-order Butterworth band, of mean power 1."""
        white = 2 * uniform([0], length, seed, "drum kit", name)[0] - 1
        hertz = np.maximum(np.fft.rfftfreq(length, 1 / RATE), 1e-9)
        band = 1 / np.sqrt((1 + (low / hertz) ** 4) * (1 + (hertz / high) ** 4))
        shaped = np.fft.irfft(np.fft.rfft(white) * band, length)
        return shaped / np.sqrt(np.mean(shaped**2))

    def sweep(t: npt.NDArray[np.float64], low: float, high: float, fall: float) -> Samples:
        """A sine whose frequency falls from `high` to `low`, by 1/e every `fall` seconds."""
        turns = low * t + (high - low) * fall * (1 - np.exp(-t / fall))
        return np.sin(2 * np.pi * turns).astype(np.float32)

    def partials(t: npt.NDArray[np.float64], *hertz: float) -> npt.NDArray[np.float64]:
        """Sines that are no multiples of each other, as of struck metal."""
        return np.sin(2 * np.pi * np.outer(hertz, t)).mean(0)

    shots: dict[int, npt.NDArray[np.floating[Any]]] = {}
    t = time(0.5)
    shots[KICK] = sweep(t, 48, 190, 0.028) * np.exp(-t / 0.11)
    shots[KICK] += 0.25 * noise("kick", len(t), 1500, 8000) * np.exp(-t / 0.004)
    shots[TOMS] = sweep(t, 105, 170, 0.05) * np.exp(-t / 0.13)
    shots[TOMS] += 0.12 * noise("toms", len(t), 800, 6000) * np.exp(-t / 0.008)
    t = time(0.35)
    shots[SNARE] = 0.55 * sweep(t, 180, 330, 0.012) * np.exp(-t / 0.05)
    shots[SNARE] += 0.32 * noise("snare", len(t), 1800, 9000) * np.exp(-t / 0.075)
    t = time(0.12)
    shots[CROSS_STICK] = 0.6 * partials(t, 1120, 1710, 2530) * np.exp(-t / 0.014)
    shots[CROSS_STICK] += 0.25 * noise("cross-stick", len(t), 1500, 7000) * np.exp(-t / 0.005)
    shots[HI_HAT] = 0.5 * noise("hi-hat", len(t), 8000, 15000) * np.exp(-t / 0.022)
    t = time(0.9)
    shots[OPEN_HI_HAT] = 0.45 * noise("open hi-hat", len(t), 7000, 15000) * np.exp(-t / 0.22)
    t = time(1.2)
    shots[RIDE] = 0.22 * noise("ride", len(t), 5500, 14000) * np.exp(-t / 0.3)
    shots[RIDE] += 0.5 * partials(t, 3140, 4377, 5710) * np.exp(-t / 0.12)
    shots[BELL] = 0.12 * noise("bell", len(t), 6000, 14000) * np.exp(-t / 0.3)
    shots[BELL] += 1.0 * partials(t, 812, 1303, 2417, 3391) * np.exp(-t / 0.24)
    t = time(TAIL)
    ringing = 0.35 * np.exp(-t / 0.07) + 0.3 * np.exp(-t / 0.42)
    shots[CRASH] = noise("crash", len(t), 2500, 13000) * ringing
    # The last twentieth fades to nothing, so that no sound ends in a click.
    return {
        pitch: (shot * np.minimum(1, 20 * np.linspace(1, 0, len(shot)))).astype(np.float32)
        for pitch, shot in shots.items()
    }


@check_arguments
def render(
    groove: Groove,
    *,
    seed: int = 0,
    channels: Literal[1, 2] = 2,
    soundfont: Path | None = None,
) -> npt.NDArray[np.int16]:
    """Play a groove at its tempo, with its velocities where it has them.

    The gain does not depend on what is played, so that grooves are equally loud; where many
    instruments meet, a soft limiter keeps the sum below full scale. A hi-hat chokes the open one
    before it.

    Args:
        groove: What to play.
        seed: Of the noise in the built-in kit.
        channels: 2, stereo, or 1.
        soundfont: An .sf2 or .sf3 file to play with instead; needs the library symusic.

    Returns:
        `(samples, channels)`, 44.1 kHz, with 2 seconds after the last step.

    Raises:
        DataError: The tempo is none, it would sound for more than a quarter of an hour, the text is
            no text in the groove's notation, or the SoundFont cannot be played.
        MissingExtraError: `soundfont` is given and symusic is not installed.
    """
    if not _TEMPOS[0] <= groove.tempo <= _TEMPOS[1]:
        raise DataError(
            f"{groove.name}: the tempo is {groove.tempo:g}; expected {_TEMPOS[0]:g} to "
            f"{_TEMPOS[1]:g} quarter notes a minute."
        )
    hits = to_hits(groove.text, groove.notation, source=groove.name)
    period = 60 * RATE / (groove.tempo * groove.notation.steps_per_beat)
    onsets = np.rint(np.arange(len(hits) + 1) * period).astype(np.int64)
    length = int(onsets[-1]) + int(TAIL * RATE)
    if length > _MOST_SECONDS * RATE:
        raise DataError(
            f"{groove.name}: would sound for {length / RATE:,.0f} s; at most {_MOST_SECONDS} s are "
            f"played. Take fewer bars or a faster tempo, or leave out wav."
        )
    if soundfont is None:
        mix = _play(groove, hits, onsets, length, seed, channels)
    else:
        mix = _play_soundfont(groove, soundfont, length, channels)
    # x / (1 + x^4)^(1/4): nearly x up to one half, and never 1.
    played = np.empty(mix.shape, np.int16)
    for start in range(0, length, _PIECE):  # a long one takes no room for its powers
        part = mix[:, start : start + _PIECE]
        power = np.square(np.square(part))
        power += 1
        part /= np.sqrt(np.sqrt(power))
        part *= 32767
        played[:, start : start + _PIECE] = np.rint(part)
    return played.T


def _play(
    groove: Groove, hits: Hits, onsets: npt.NDArray[np.int64], length: int, seed: int, channels: int
) -> Samples:
    """The mix `(channels, length)` of the built-in kit before the limiter."""
    written = writing_tables(groove.notation)
    placed = {pitch: _placed(shot, *_MIX[pitch], channels) for pitch, shot in sounds(seed).items()}
    mix = np.zeros((channels, length), np.float32)
    for instrument in range(len(INSTRUMENTS)):
        steps = np.flatnonzero(hits[:, instrument])
        characters = hits[steps, instrument]
        velocity = written.velocity[instrument, characters]
        if groove.velocities is not None:
            known = groove.velocities[steps, instrument]
            velocity = np.where(known > 0, known, velocity)
        gains = ((velocity / 127) ** 1.5).astype(np.float32)
        starts = onsets[steps]
        nexts = np.append(starts, length)[1:]
        pitches = written.pitch[instrument, characters].tolist()
        # A slice for each hit, of 5,000 to 88,000 samples. The loop costs 4 ms for 16 bars, where
        # convolving six tracks of 1.5 million samples costs 150 ms.
        for pitch, start, following, gain in zip(pitches, starts, nexts, gains, strict=True):
            shot = placed[pitch] * gain
            if pitch == OPEN_HI_HAT and start + shot.shape[1] > following + _FADE:
                shot = shot[:, : following - start + _FADE]
                shot[:, -_FADE:] *= np.linspace(1, 0, _FADE, dtype=np.float32)
            mix[:, start : start + shot.shape[1]] += shot
    return mix


def _placed(shot: Samples, level: float, side: float, channels: int) -> Samples:
    """A sound `(channels, samples)` where it belongs, equally loud everywhere."""
    angle = np.pi / 4 * (1 + side)
    sides = [1] if channels == 1 else 2**0.5 * np.array([np.cos(angle), np.sin(angle)])
    return level * (np.asarray(sides, np.float32)[:, None] * shot)


_LONGEST = 120
"""Seconds that a SoundFont may take to play a groove."""
_PLAY = """
import sys
import numpy
import symusic
soundfont, midi, out, rate, channels = sys.argv[1:]
player = symusic.Synthesizer(soundfont, int(rate))
played = player.render(symusic.Score(midi), stereo=channels == "2")
numpy.save(out, numpy.asarray(played, numpy.float32).reshape(int(channels), -1))
"""


def _play_soundfont(groove: Groove, soundfont: Path, length: int, channels: int) -> Samples:
    from modicum.methods.drum_transfer.text.midi import write_midi

    symusic = require("symusic", "music", "playing a SoundFont")
    if not soundfont.is_file():
        raise DataError(f"{soundfont}: no such file; expected a SoundFont, .sf2 or .sf3.")
    with tempfile.TemporaryDirectory() as folder:
        midi, out = Path(folder) / "groove.mid", Path(folder) / "played.npy"
        write_midi(groove, midi)
        words = [soundfont.resolve(), midi, out, RATE, channels]
        try:  # in a process of its own, which a damaged SoundFont kills
            ended = subprocess.run(
                [sys.executable, "-c", _PLAY, *map(str, words)],
                cwd=folder, capture_output=True, text=True, errors="replace", timeout=_LONGEST,
            )  # fmt: skip
            said = ended.stderr.strip().rpartition("\n")[2]
            reason = said or f"its player ended with {ended.returncode}" if ended.returncode else ""
        except subprocess.TimeoutExpired:
            reason = f"it takes more than {_LONGEST} seconds"
        if reason:
            raise DataError(
                f"{soundfont}: symusic {symusic.__version__} cannot play it ({reason}); expected a "
                f"SoundFont, .sf2 or .sf3. Version 0.5.9 is known to work. Without a SoundFont "
                f"the built-in kit plays."
            )
        sounding = np.load(out, allow_pickle=False)
    mix = np.zeros((channels, length), np.float32)
    kept = min(length, sounding.shape[1])
    mix[:, :kept] = sounding[:, :kept]
    return mix


def to_wav(samples: npt.NDArray[np.int16]) -> bytes:
    """Samples `(samples, channels)` as a WAV file, 16 bits, 44.1 kHz."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(samples.shape[1])
        writer.setsampwidth(2)
        writer.setframerate(RATE)
        writer.writeframes(samples.astype("<i2").tobytes())
    return file.getvalue()


@check_arguments
def write_wav(path: Path, groove: Groove, *, soundfont: Path | None = None) -> None:
    """Play a groove in stereo into a WAV file, which appears whole; see `render`."""
    with atomic_write(path) as file:
        file.write(to_wav(render(groove, soundfont=soundfont)))
