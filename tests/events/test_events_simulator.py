"""The simulated camera obeys the physics that the augmentations rest on, and is reproducible."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor

from modicum.errors import ConfigError, DataError
from modicum.events.camera import IDEAL, ORDINARY, Conditions
from modicum.events.container import EventBatch, Events
from modicum.events.representations import frames
from modicum.events.simulator import (
    TRIANGLE,
    VARIATIONS,
    Variation,
    digit_recordings,
    simulate,
    simulate_file,
)
from modicum.images import open_images


def recorded(video: npt.ArrayLike, times: npt.ArrayLike, conditions: Conditions = IDEAL) -> Events:
    events = simulate(np.asarray(video), times, conditions)
    assert isinstance(events, Events)
    return events


def columns(events: Events | EventBatch) -> list[list[int]]:
    return [getattr(events, name).tolist() for name in "txyp"]


def by_hand(
    video: npt.NDArray[np.float64], times: list[int], conditions: Conditions
) -> set[tuple[int, int, int, int]]:
    """Events of an ideal camera, pixel by pixel and crossing by crossing."""
    found: set[tuple[int, int, int, int]] = set()
    level = np.log(video + conditions.dark)
    for y in range(video.shape[1]):
        for x in range(video.shape[2]):
            reference = level[0, y, x]
            for step in range(1, len(times)):
                before, now = level[step - 1, y, x], level[step, y, x]
                while True:
                    if now >= reference + conditions.threshold_on:
                        reference += conditions.threshold_on
                        p = 1
                    elif now <= reference - conditions.threshold_off:
                        reference -= conditions.threshold_off
                        p = 0
                    else:
                        break
                    share = (reference - before) / (now - before)
                    t = times[step - 1] + share * (times[step] - times[step - 1])
                    found.add((math.floor(t), x, y, p))
    return found


@pytest.mark.parametrize("on_off", [(0.25, 0.25), (0.18, 0.45)])
def test_events_are_those_of_a_loop_over_pixels(on_off: tuple[float, float]) -> None:
    video = np.random.default_rng(0).random((6, 4, 5))
    times = [100, 1100, 1500, 2500, 9000, 9100]
    conditions = dataclasses.replace(IDEAL, threshold_on=on_off[0], threshold_off=on_off[1])
    events = recorded(video, times, conditions)
    assert set(zip(*columns(events), strict=True)) == by_hand(video, times, conditions)
    assert len(events) > 200
    assert events.is_sorted
    assert (events.height, events.width) == (4, 5)


def test_a_rising_pixel_fires_at_interpolated_times() -> None:
    dark = 0.1
    video = np.array([0.0, dark * (math.e - 1)])[:, None, None]  # the logarithm rises by 1
    # At 300.3, 600.6 and 900.9 us: none of them is a matter of rounding.
    events = recorded(video, [1000, 2001], dataclasses.replace(IDEAL, threshold_on=0.3))
    assert columns(events) == [[1300, 1600, 1900], [0] * 3, [0] * 3, [1] * 3]


def test_a_level_that_returns_leaves_as_many_events_of_each_sign() -> None:
    video = np.array([0.1, 0.9, 0.1, 0.9, 0.1])[:, None, None]
    events = recorded(video, np.arange(5) * 1000)
    assert events.p.sum() * 2 == len(events) > 20


# --- what a change of brightness or motion does to events (event-augmentation's page) ---------

TEN = 10


def ideal_digits(variation: Variation | None = None) -> EventBatch:
    return digit_recordings("train", TEN, variation=variation or Variation(TRIANGLE, IDEAL)).events


def volumes(batch: EventBatch) -> Tensor:
    """Counts (B, 10, 2, H, W)."""
    return frames(batch, 10, "equal")


def overlap(one: Tensor, other: Tensor) -> float:
    shared = torch.minimum(one, other).flatten(1).sum(1)
    return float((shared / torch.maximum(one, other).flatten(1).sum(1)).mean())


def correlation(one: Tensor, other: Tensor) -> float:
    pairs = zip(one.flatten(1), other.flatten(1), strict=True)
    return float(torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]).mean())


def digit_videos() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Ten bars that turn and move: (10, T, 34, 34)."""
    steps = 25
    y, x = np.mgrid[:34, :34]
    angle = np.arange(TEN)[:, None, None, None] / TEN * np.pi
    shift = np.linspace(-4, 4, steps)[:, None, None]
    across = (x - 16.5 - shift) * np.cos(angle) + (y - 16.5) * np.sin(angle)
    along = (y - 16.5) * np.cos(angle) - (x - 16.5 - shift) * np.sin(angle)
    bar = np.exp(-((across / 2) ** 2) - (along / 6) ** 4)
    return bar, np.arange(steps) * 12_500


def test_a_negated_scene_flips_polarity_and_does_nothing_else() -> None:
    negated = ideal_digits(Variation(TRIANGLE, dataclasses.replace(IDEAL, negate=True)))
    flipped = ideal_digits()
    flipped = flipped.replace(p=1 - flipped.p)
    assert overlap(volumes(negated), volumes(flipped)) == 1
    assert columns(negated) == columns(flipped)
    # With unequal pixels too: their thresholds deviate by the same amount for ON and OFF.
    quiet = dataclasses.replace(ORDINARY, noise_rate=0.0)
    real = ideal_digits(Variation(TRIANGLE, quiet))
    negated = ideal_digits(Variation(TRIANGLE, dataclasses.replace(quiet, negate=True)))
    assert columns(negated) == columns(real.replace(p=1 - real.p))


def test_a_constant_gain_changes_nothing() -> None:
    brighter = ideal_digits(Variation(TRIANGLE, dataclasses.replace(IDEAL, gain=3.0)))
    assert overlap(volumes(brighter), volumes(ideal_digits())) == pytest.approx(1, abs=5e-4)


def test_a_mirrored_scene_mirrors_the_events() -> None:
    videos, times = digit_videos()
    events = simulate(videos, times, IDEAL)
    mirrored = simulate(videos[..., ::-1], times, IDEAL)
    assert isinstance(events, EventBatch)
    assert isinstance(mirrored, EventBatch)
    by_formula = events.replace(x=33 - events.x)
    assert overlap(volumes(mirrored), volumes(by_formula)) == 1


def test_a_shifted_scene_shifts_the_events() -> None:
    path = tuple((x + 2, y + 1) for x, y in TRIANGLE)
    shifted = ideal_digits(Variation(path, IDEAL))
    events = ideal_digits()
    moved = events.replace(x=events.x + np.int16(2), y=events.y + np.int16(1))
    assert overlap(volumes(shifted), volumes(moved)) == 1


def test_a_video_backwards_reverses_time_and_polarity() -> None:
    """An independent simulation measured 0.634 and 0.913 on ten other digits."""
    backwards = volumes(ideal_digits(Variation(TRIANGLE[::-1], IDEAL)))
    time_reversed = volumes(ideal_digits()).flip(1)
    both_reversed = time_reversed.flip(2)
    assert overlap(backwards, both_reversed) == pytest.approx(0.634, abs=0.02)
    assert correlation(backwards, both_reversed) == pytest.approx(0.913, abs=0.01)
    assert overlap(backwards, time_reversed) == pytest.approx(0.034, abs=0.005)
    assert correlation(backwards, time_reversed) == pytest.approx(-0.01, abs=0.01)


# --- randomness ----------------------------------------------------------------------------------


def test_a_sample_depends_on_its_seed_and_number_alone() -> None:
    videos, times = digit_videos()
    batch = simulate(videos, times, seed=3, index=np.arange(20, 30))
    assert isinstance(batch, EventBatch)
    alone = simulate(videos[4], times, seed=3, index=24)
    assert columns(batch[4]) == columns(alone)
    again = simulate(torch.from_numpy(videos), times, seed=3, index=20)
    assert columns(again) == columns(batch)
    assert columns(simulate(videos[4], times, seed=4, index=24)) != columns(alone)
    assert columns(simulate(videos[4], times, seed=3, index=25)) != columns(alone)
    few, many = digit_recordings("train", 3).events, digit_recordings("train", 5).events
    assert columns(few[2]) == columns(many[2])


def test_noise_is_a_poisson_process() -> None:
    still = np.full((200, 2, 20, 30), 0.5)
    events = simulate(still, [0, 1_000_000], Conditions(noise_rate=0.5))
    assert isinstance(events, EventBatch)
    mean = 0.5 * 20 * 30
    lengths = events.lengths
    assert lengths.mean() == pytest.approx(mean, abs=5 * math.sqrt(mean / 200))
    assert lengths.var() == pytest.approx(mean, rel=0.5)
    assert events.p.mean() == pytest.approx(0.5, abs=0.01)
    assert events.t.mean() == pytest.approx(500_000, rel=0.01)
    assert events.x.mean() == pytest.approx(14.5, abs=0.2)
    assert events.y.mean() == pytest.approx(9.5, abs=0.2)
    assert len(recorded(still[0], [0, 1_000_000])) == 0


def test_thresholds_differ_between_pixels() -> None:
    ramp = np.stack([np.zeros((40, 40)), np.full((40, 40), 1.0)])
    conditions = Conditions(threshold_on=0.5, threshold_sigma=0.05, noise_rate=0.0)
    events = recorded(ramp, [0, 10**6], conditions)
    rise = math.log(1.1) - math.log(0.1)
    first = np.full((40, 40), 10**6)
    np.minimum.at(first, (events.y, events.x), events.t)
    threshold = first / 1e6 * rise
    assert threshold.mean() == pytest.approx(0.5, abs=0.005)
    assert threshold.std() == pytest.approx(0.05, rel=0.1)


# --- the built-in digits -----------------------------------------------------------------------


def test_digits_have_the_expected_statistics() -> None:
    start = time.process_time()
    events, labels = digit_recordings("train", 600)
    assert time.process_time() - start < 6
    assert events.size == len(labels) == 600
    assert (events.height, events.width) == (34, 34)
    assert 5000 < len(events) / 600 < 6000
    assert events.p.mean() == pytest.approx(0.5, abs=0.001)
    assert events.t.min() >= 0
    assert 290_000 < events.t.max() <= 300_000
    # Almost nothing near the border: the digits stay in the picture.
    border = (events.x < 2) | (events.x > 31) | (events.y < 2) | (events.y > 31)
    assert border.mean() < 0.01


def test_digits_are_split_as_the_images_are() -> None:
    for split, length in (("train", 1200), ("test", 597)):
        images = open_images("digits", split)
        still = Variation(((0.0, 0.0), (0.0, 0.0)), IDEAL)
        labels = digit_recordings(split, steps=1, variation=still).labels
        assert len(labels) == length
        assert labels.tolist() == images.labels.tolist()


def test_variations_change_what_they_say() -> None:
    made = {name: digit_recordings("test", 20, variation=name).events for name in VARIATIONS}
    count = {name: len(events) for name, events in made.items()}
    share = {name: float(events.p.mean()) for name, events in made.items()}
    assert count["log_negated"] == count["clean"]
    assert 0.5 * count["clean"] < count["threshold_1.6"] < 0.7 * count["clean"]
    assert 1.4 * count["clean"] < count["larger_motion"] < 2.2 * count["clean"]
    assert share["on_off_mismatch"] == pytest.approx(0.45 / (0.18 + 0.45), abs=0.05)
    assert share["illumination_ramp"] > 0.6
    assert count["flicker"] > 3 * count["clean"]
    assert abs(count["inverted"] - count["clean"]) > 0.1 * count["clean"]
    backwards = volumes(made["reversed_motion"])
    assert overlap(backwards, volumes(made["clean"]).flip(1).flip(2)) > 0.5
    assert overlap(backwards, volumes(made["clean"])) < 0.5


# --- a user's own pictures -----------------------------------------------------------------------


def test_a_still_picture_is_moved(tmp_path: Path) -> None:
    picture = np.zeros((20, 30, 3), np.uint8)
    picture[8:12, 10:20] = 200
    Image.fromarray(picture).save(tmp_path / "a.png")
    events = simulate_file(tmp_path / "a.png", IDEAL)
    assert (events.height, events.width) == (20, 30)
    assert events.p.mean() == pytest.approx(0.5)
    assert events.duration > 250_000
    # It goes to the right by 4 and down by 4 at most, and nothing else moves.
    assert (events.x.min(), events.x.max()) == (10, 23)
    assert (events.y.min(), events.y.max()) == (8, 15)
    smaller = simulate_file(tmp_path / "a.png", IDEAL, size=(10, 15), path=((0, 0), (3, 0)))
    assert (smaller.height, smaller.width) == (10, 15)
    assert smaller.t.max() <= 100_000


def test_a_picture_in_memory_is_moved_as_a_file_is(tmp_path: Path) -> None:
    picture = np.zeros((20, 30), np.uint8)
    picture[8:12, 10:20] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    path = ((0, 0), (3, 1), (0, 0))
    for options in ({}, {"path": path, "steps": 5, "seed": 2}):
        made = simulate_file(tmp_path / "a.png", **options)
        assert len(made) > 100
        for same in (picture, picture / 255, torch.from_numpy(picture / 255)):
            events = simulate(same, **options)
            assert isinstance(events, Events)
            assert columns(events) == columns(made)
    faster = simulate(picture, np.arange(11) * 1000, IDEAL, path=path, steps=5)
    assert 9000 < faster.t.max() <= 10_000
    with pytest.raises(DataError, match=r"or with one for each of 37 positions"):
        simulate(picture, [0, 10])
    with pytest.raises(DataError, match=r"\(3, 4, 5\) with times of shape \(\)"):
        simulate(np.zeros((3, 4, 5)))
    with pytest.raises(DataError, match=r"shape \(5,\)"):
        simulate(np.zeros(5))
    with pytest.raises(ConfigError, match=r"found waypoints of shape \(1, 2\)"):
        simulate(picture, path=((0, 0),))


def test_an_animation_is_played_at_its_speed(tmp_path: Path) -> None:
    shades = [0, 255, 0]
    pictures = [Image.new("L", (6, 4), shade) for shade in shades]
    pictures[0].save(
        tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=[40, 20, 30]
    )
    events = simulate_file(tmp_path / "a.gif", IDEAL)
    bright, dark = events[events.p == 1], events[events.p == 0]
    assert 0 < bright.t.min() < bright.t.max() <= 40_000
    assert 40_000 < dark.t.min() < dark.t.max() <= 60_000
    assert len(bright) == len(dark) == 24 * math.floor(math.log(1.1 / 0.1) / 0.25)


def test_a_folder_of_frames_is_played(tmp_path: Path) -> None:
    for number, grey in enumerate([0, 128, 255]):
        Image.new("RGB", (6, 4), (grey, grey, grey)).save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    events = simulate_file(tmp_path, IDEAL, frame_rate=100)
    # sRGB 128 is a linear intensity of 0.216.
    middle = math.floor((math.log(0.1 + 0.2159) - math.log(0.1)) / 0.25)
    assert (events.t <= 10_000).sum() == 24 * middle
    assert events.t.max() <= 20_000


def test_bad_input_is_refused(tmp_path: Path) -> None:
    video, times = np.zeros((3, 4, 5)), [0, 10, 20]
    with pytest.raises(DataError, match=r"video of shape \(3, 4, 5\) with times of shape \(2,\)"):
        simulate(video, times[:2])
    with pytest.raises(DataError, match="T of at least 2"):
        simulate(video[:1], times[:1])
    with pytest.raises(DataError, match="times that increase"):
        simulate(video, [0, 10, 10])
    with pytest.raises(DataError, match=r"from 0.0 to 255.0, expected 0 to 1"):
        simulate(video + np.array([0, 255, 0])[:, None, None], times)
    with pytest.raises(DataError, match="intensities go from nan"):
        simulate(np.where(video == 0, np.nan, video), times)
    with pytest.raises(DataError, match=r"1 videos with an index of shape \(2,\)"):
        simulate(video, times, index=np.arange(2))
    with pytest.raises(ConfigError, match="threshold_on: found 0"):
        Conditions(threshold_on=0)
    with pytest.raises(ConfigError, match="noise_rate: found -1"):
        Conditions(noise_rate=-1)
    with pytest.raises(ConfigError, match="light cannot be negative"):
        simulate(video, times, Conditions(gain=lambda seconds: seconds - 1))
    with pytest.raises(ConfigError, match="found 'sunny', expected clean, log_negated"):
        digit_recordings(variation="sunny")
    with pytest.raises(ConfigError, match="expected 'train' or 'test'"):
        digit_recordings("val")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="found 598, expected 1 to 597"):
        digit_recordings("test", 598)
    with pytest.raises(ConfigError, match=r"found waypoints of shape \(1, 2\)"):
        digit_recordings("test", 1, variation=Variation(((0, 0),)))
    with pytest.raises(ConfigError, match="frame_rate: found 0"):
        simulate_file(tmp_path, frame_rate=0)
    with pytest.raises(DataError, match="holds 0 image files"):
        simulate_file(tmp_path)
    with pytest.raises(DataError, match="not there"):
        simulate_file(tmp_path / "absent.png")
    Image.new("L", (6, 4)).save(tmp_path / "0.png")
    Image.new("L", (6, 5)).save(tmp_path / "1.png")
    with pytest.raises(DataError, match=r"picture 0 has \(4, 6\) pixels .* picture 1 has \(5, 6\)"):
        simulate_file(tmp_path)
    assert simulate_file(tmp_path, IDEAL, size=(4, 4)).height == 4


def test_pictures_without_end_are_refused(tmp_path: Path) -> None:
    flat = [Image.new("L", (2000, 2000), 255 * (number % 2)) for number in range(40)]
    for file in ("a.gif", "a.webp"):
        flat[0].save(tmp_path / file, save_all=True, append_images=flat[1:], duration=20)
        with pytest.raises(DataError, match=r"40 pictures of 2000 x 2000 pixels"):
            simulate_file(tmp_path / file, size=(8, 8))
    Image.new("L", (4000, 2000)).save(tmp_path / "wide.png")
    with pytest.raises(DataError, match="37 pictures of 2000 x 4000 pixels"):
        simulate_file(tmp_path / "wide.png")
    assert simulate_file(tmp_path / "wide.png", IDEAL, size=(4, 8)).width == 8


def test_events_without_end_are_refused(tmp_path: Path) -> None:
    flat = [Image.new("L", (1000, 1000), 255 * (number % 2)) for number in range(6)]
    flat[0].save(tmp_path / "a.gif", save_all=True, append_images=flat[1:], duration=20)
    with pytest.raises(DataError, match="would give more than 8,"):
        simulate_file(tmp_path / "a.gif")
