from __future__ import annotations

import io

import numpy as np
import pytest
from event_files import random_events
from PIL import Image

from modicum.errors import ConfigError
from modicum.events import Events
from modicum.events.pictures import animation, frame_strip, overview, scatter

EMPTY = Events.of([], [], [], [], height=5, width=7)
ONE = Events.of([5], [6], [0], [1], height=5, width=7)
BACKWARDS = Events.of([5, 1], [6, 0], [0, 4], [1, 0], height=5, width=7)


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def colours(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize("draw", [scatter, frame_strip, overview])
@pytest.mark.parametrize("events", [EMPTY, BACKWARDS, random_events(30_000)], ids=repr)
def test_pictures_are_png_of_any_recording(draw: object, events: Events) -> None:
    image = opened(draw(events, title="50 $ and $x"))  # type: ignore[operator]
    assert image.format == "PNG"
    assert min(image.size) > 80


def test_on_is_blue_and_off_is_orange() -> None:
    for draw in (scatter, frame_strip):
        pixels = {}
        for p in (0, 1):
            events = random_events(2000, 20, 20).replace(p=np.full(2000, p))
            found = colours(opened(draw(events))).reshape(-1, 3)
            pixels[p] = (found[:, 2] - found[:, 0]).astype(int)
        # the scatter names both colours, hence the comparison
        assert (pixels[1] > 60).sum() > 5 * (pixels[0] > 60).sum()
        assert (pixels[0] < -60).sum() > 5 * (pixels[1] < -60).sum()


def test_the_animation_plays_the_events_in_order_of_time() -> None:
    """One event in each of 12 frames, moving to the right along a row."""
    step = np.arange(12)
    events = Events.of(step * 1000, step, np.full(12, 3), step % 2, height=8, width=12)
    image = opened(animation(events, 12, seconds=3.0))
    assert (image.format, image.n_frames) == ("GIF", 12)  # type: ignore[attr-defined]
    assert image.info["duration"] == 250
    assert image.info["loop"] == 0
    scale = image.width // 12
    for number in range(12):
        image.seek(number)
        pixels = colours(image)[: 8 * scale : scale, ::scale]
        inked = np.argwhere(pixels.min(axis=2) < 200)
        assert inked.tolist() == [[3, number]]
        blue = pixels[3, number, 2] > pixels[3, number, 0]
        assert blue == (number % 2 == 1)


def test_sparse_recordings_are_played_in_fewer_frames() -> None:
    for count, frames in ((100, 10), (4000, 20), (30_000, 40)):
        image = opened(animation(random_events(count)))
        assert image.n_frames == frames  # type: ignore[attr-defined]


def test_there_is_a_frame_at_least() -> None:
    for draw in (frame_strip, animation):
        with pytest.raises(ConfigError):
            draw(ONE, 0)
