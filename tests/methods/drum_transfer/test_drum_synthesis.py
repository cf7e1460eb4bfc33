from __future__ import annotations

import dataclasses
import importlib.util
import io
import time
import wave
from pathlib import Path

import numpy as np
import pytest

from modicum.errors import DataError
from modicum.methods.drum_transfer.rendering import synthesis
from modicum.methods.drum_transfer.rendering.synthesis import (
    RATE,
    TAIL,
    render,
    sounds,
    to_wav,
    write_wav,
)
from modicum.methods.drum_transfer.text.drumroll import to_text
from modicum.methods.drum_transfer.text.notation import DRUMROLL, INSTRUMENTS, Groove, Notation

ARTICULATED = Notation(("-oO", "-xoXO", "-xoXO", "-oO", "-xoXO", "-oO"))
STRUCK = [0, 6, 16, 21, 37, 47]
"""Steps far enough apart for cymbals to fade."""


def groove(cells, steps=48, notation=DRUMROLL, **options):
    """A groove from {(step, instrument): index of the character}."""
    hits = np.zeros((steps, 6), np.int8)
    for (step, instrument), character in cells.items():
        hits[step, INSTRUMENTS.index(instrument)] = character
    return Groove("test", to_text(hits, notation), notation=notation, **options)


def onsets(samples):
    """Seconds at which the energy of a millisecond is four times that of the 25 before it."""
    frame = RATE // 1000
    energy = (samples.astype(np.float64) / 32768) ** 2
    energy = energy[: len(energy) // frame * frame].reshape(-1, frame).mean(1)
    before = np.lib.stride_tricks.sliding_window_view(np.pad(energy, (25, 0)), 25)[: len(energy)]
    rises = np.flatnonzero(energy > 4 * before.max(1) + 1e-6)
    first = np.diff(rises, prepend=-100) > 30
    return rises[first] * frame / RATE


@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_hits_sound_when_their_step_begins(instrument):
    played = groove({(step, instrument): 1 for step in STRUCK}, tempo=97.3)
    heard = onsets(render(played).mean(1))
    np.testing.assert_allclose(heard, np.array(STRUCK) * 60 / 97.3 / 4, rtol=0, atol=0.005)


@pytest.mark.parametrize(("steps", "beats"), [(4, 3), (3, 4), (6, 4)])
def test_steps_are_as_long_as_tempo_and_notation_say(steps, beats):
    notation = Notation(steps_per_beat=steps, beats_per_bar=beats)
    played = groove({(0, "kick"): 1, (40, "snare"): 1}, notation=notation, tempo=133)
    step = 60 / 133 / steps
    np.testing.assert_allclose(onsets(render(played).mean(1)), [0, 40 * step], atol=0.005)
    assert len(render(played)) == round(48 * step * RATE) + TAIL * RATE


def test_every_character_has_a_sound_of_its_own():
    heard = set()
    for instrument, column in zip(INSTRUMENTS, ARTICULATED.columns, strict=True):
        for character in range(1, len(column)):
            cell = {(0, instrument): character}
            heard.add(render(groove(cell, 1, ARTICULATED), channels=1).tobytes())
    assert len(heard) == sum(len(column) - 1 for column in ARTICULATED.columns)


def test_capitals_and_velocities_are_louder():
    def peak(character, velocities=None):
        played = groove({(0, "kick"): character}, 4, ARTICULATED, velocities=velocities)
        return int(abs(render(played).astype(int)).max())

    velocities = np.zeros((4, 6), np.uint8)
    velocities[0, 3] = 20
    assert peak(2) > 1.5 * peak(1) > 3 * peak(1, velocities)
    assert peak(1, np.zeros((4, 6), np.uint8)) == peak(1)  # unknown


def test_a_hi_hat_chokes_the_open_one_before_it():
    opened, closed = {(0, "hi-hat"): 4}, {(4, "hi-hat"): 3}  # O, then X
    alone, both, after = (
        render(groove(cells, 16, ARTICULATED), channels=1).astype(int)[:, 0]
        for cells in (opened, opened | closed, closed)
    )
    begins = RATE // 2
    assert (both[:begins] == alone[:begins]).all()
    silent = begins + RATE * 6 // 1000
    assert abs(both - after)[silent:].max() <= 1
    assert abs(alone)[silent:].max() > 500


def test_the_loudest_groove_does_not_clip_and_every_sound_ends():
    loudest = groove({(s, i): 1 for s in range(48) for i in INSTRUMENTS}, tempo=200)
    loudest = dataclasses.replace(loudest, velocities=np.full((48, 6), 127, np.uint8))
    samples = render(loudest)
    assert samples.dtype == np.int16
    assert samples.shape[1] == 2
    assert 30000 < abs(samples.astype(int)).max() < 32767
    assert abs(samples[-RATE // 100 :].astype(int)).max() < 40
    assert all(len(shot) <= TAIL * RATE and abs(shot[-1]) < 1e-3 for shot in sounds(0).values())


def test_it_is_a_function_of_the_seed():
    played = groove({(0, "snare"): 1}, 4)
    sounds.cache_clear()
    first = render(played, seed=1).tobytes()
    sounds.cache_clear()
    assert render(played, seed=1).tobytes() == first != render(played, seed=2).tobytes()


def test_sixteen_bars_take_a_fifth_of_a_second_at_most():
    played = groove({(s, i): 1 for s in range(256) for i in INSTRUMENTS}, 256)
    render(played)
    began = time.process_time()
    render(played)
    assert time.process_time() - began < 0.2


@pytest.mark.parametrize("channels", [1, 2])
def test_wav_files(tmp_path, channels):
    played = groove({(0, "kick"): 1}, 4)
    samples = render(played, channels=channels)
    content = to_wav(samples)
    if channels == 2:
        write_wav(tmp_path / "new" / "a.wav", played)
        assert content == (tmp_path / "new" / "a.wav").read_bytes()
    with wave.open(io.BytesIO(content)) as file:
        assert file.getparams()[:3] == (channels, 2, RATE)
        read = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, channels)
    assert (read == samples).all()


@pytest.mark.parametrize("tempo", [0, -1, float("nan"), float("inf"), 1e-9])
def test_a_tempo_that_is_none_is_refused(tmp_path, tempo):
    with pytest.raises(DataError, match="expected 10 to 1000 quarter notes"):
        write_wav(tmp_path / "a.wav", groove({(0, "kick"): 1}, 4, tempo=tempo))
    assert not list(tmp_path.iterdir())


def test_a_soundfont_plays():
    pytest.importorskip("symusic")
    found = importlib.util.find_spec("pretty_midi")
    font = Path(str(found and found.origin)).parent / "TimGM6mb.sf2"
    if not font.exists():
        pytest.skip("no SoundFont: pretty_midi, which brings one, is not installed")
    played = groove({(step, "snare"): 1 for step in STRUCK}, tempo=97.3)
    for channels in (1, 2):
        samples = render(played, channels=channels, soundfont=font)
        assert samples.shape == render(played, channels=channels).shape
        expected = np.array(STRUCK) * 60 / 97.3 / 4
        np.testing.assert_allclose(onsets(samples.mean(1)), expected, rtol=0, atol=0.006)


def test_a_soundfont_that_kills_its_player_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("symusic")
    (tmp_path / "a.sf2").write_text("damaged")
    monkeypatch.setattr(synthesis, "_PLAY", "import os; os.abort()")
    with pytest.raises(DataError, match=r"a\.sf2: symusic .* \(its player ended with"):
        render(groove({(0, "kick"): 1}, 4), soundfont=tmp_path / "a.sf2")
    monkeypatch.setattr(synthesis, "_PLAY", "import time; time.sleep(9)")
    monkeypatch.setattr(synthesis, "_LONGEST", 0.2)
    with pytest.raises(DataError, match="it takes more than"):
        render(groove({(0, "kick"): 1}, 4), soundfont=tmp_path / "a.sf2")


def test_what_is_no_soundfont_is_refused(tmp_path):
    pytest.importorskip("symusic")
    played = groove({(0, "kick"): 1}, 4)
    with pytest.raises(DataError, match="no such file"):
        render(played, soundfont=tmp_path / "absent.sf2")
    (tmp_path / "text.sf2").write_text("no SoundFont")
    with pytest.raises(DataError, match=r"text\.sf2: symusic .* cannot play it"):
        render(played, soundfont=tmp_path / "text.sf2")


def test_a_sound_of_hours_is_refused():
    with pytest.raises(DataError, match=r"would sound for 240,002 s; at most 900 s"):
        render(Groove("long", "o-----\n" * 160_000, tempo=10))
