"""Representations equal the formulas, event by event, and the numbers of the reference code."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from modicum.errors import ConfigError, DataError
from modicum.events import representations
from modicum.events.container import EventBatch, Events
from modicum.events.representations import (
    est,
    event_count,
    event_frame,
    frames,
    normalise_frames,
    resize_frames,
    time_surface,
    voxel_grid,
)

HEIGHT, WIDTH = 5, 7
GOLDEN = Path(__file__).parents[3] / "shared/golden/event-augmentation/representations.safetensors"


def recording(length: int, duration: int, seed: int, start: int = 0) -> Events:
    random = np.random.default_rng(seed)
    return Events.of(
        start + np.sort(random.integers(0, duration + 1, length)),
        random.integers(0, WIDTH, length),
        random.integers(0, HEIGHT, length),
        random.integers(0, 2, length),
        height=HEIGHT,
        width=WIDTH,
    )


RECORDINGS = [
    recording(100, 1000, 0, start=37),
    recording(0, 1, 1),
    recording(1, 5, 2),
    recording(3, 0, 3, start=9),  # all at one time
    recording(4, 2, 4),  # shorter than the number of frames
    recording(64, 20, 5, start=10**12),  # ties, and times that float32 cannot hold
    recording(0, 1, 6),
]
BATCH = EventBatch.of(RECORDINGS)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(representations, "_CHUNK", 13)


def by_hand(
    events: Events, channels: int, shares: Callable[..., list[tuple[int, float]]]
) -> Tensor:
    """A grid `(channels, H, W)` filled in a loop over events; `shares(number, t, p)`."""
    grid = torch.zeros(channels, HEIGHT, WIDTH, dtype=torch.float64)
    for number in range(len(events)):
        t, p = int(events.t[number]), int(events.p[number])
        for channel, weight in shares(number, t, p):
            if 0 <= channel < channels:
                grid[channel, int(events.y[number]), int(events.x[number])] += weight
    return grid


def check(
    representation: Callable[[Events | EventBatch], Tensor],
    expected: Callable[[Events], Tensor],
) -> None:
    batch = representation(BATCH)
    for number, events in enumerate(RECORDINGS):
        torch.testing.assert_close(
            representation(events).double(), expected(events), rtol=1e-6, atol=1e-6
        )
        assert torch.equal(batch[number], representation(events))


@pytest.mark.parametrize("split_by", ["number", "time", "equal"])
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_frames_count_every_event_once(split_by: representations.SplitBy, steps: int) -> None:
    def expected(events: Events) -> Tensor:
        t0, t1 = (int(events.t[0]), int(events.t[-1])) if len(events) else (0, 0)

        def frame(number: int, t: int) -> int:
            if split_by == "equal":
                return (t - t0) * steps // (t1 - t0 + 1)
            part = len(events) // steps if split_by == "number" else (t1 - t0) // steps
            place = number if split_by == "number" else t - t0
            return min(place // part, steps - 1) if part else steps - 1

        grid = by_hand(events, 2 * steps, lambda number, t, p: [(2 * frame(number, t) + p, 1.0)])
        return grid.view(steps, 2, HEIGHT, WIDTH)

    check(lambda events: frames(events, steps, split_by), expected)


def test_counts_and_frames_over_the_whole_recording() -> None:
    def count(events: Events) -> Tensor:
        return by_hand(events, 2, lambda number, t, p: [(p, 1.0)])

    check(event_count, count)
    check(lambda events: event_count(events, binary=True), lambda events: count(events).sign())
    check(event_frame, lambda events: count(events).sum(0, keepdim=True))
    check(
        lambda events: event_frame(events, binary=True),
        lambda events: count(events).sign().sum(0, keepdim=True),
    )


@pytest.mark.parametrize("bins", [1, 5])
def test_bilinear_voxel_grid(bins: int) -> None:
    def expected(events: Events) -> Tensor:
        t0, span = (int(events.t[0]), max(events.duration, 1)) if len(events) else (0, 1)

        def shares(number: int, t: int, p: int) -> list[tuple[int, float]]:
            place = bins * (t - t0) / span
            lower = math.floor(place)
            sign = 2 * p - 1
            return [(lower, sign * (1 - (place - lower))), (lower + 1, sign * (place - lower))]

        return by_hand(events, bins, shares)

    check(lambda events: voxel_grid(events, bins), expected)


@pytest.mark.parametrize("kind", ["eventdrop", "eventdrop_official"])
def test_voxel_grid_of_eventdrop(kind: str) -> None:
    bins = 4

    def expected(events: Events) -> Tensor:
        largest = int(events.t.max(initial=0))

        def shares(number: int, t: int, p: int) -> list[tuple[int, float]]:
            if t == 0 and kind == "eventdrop":
                return [(0, 1.0)]
            return [(i, 1.0) for i in range(bins) if i * largest < t * bins <= (i + 1) * largest]

        return by_hand(events, bins, shares)

    check(lambda events: voxel_grid(events, bins, kind), expected)  # type: ignore[arg-type]
    early = Events.of([0, 10], [1, 1], [1, 1], [0, 1], height=HEIGHT, width=WIDTH)
    assert voxel_grid(early, bins, kind).sum() == (2 if kind == "eventdrop" else 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("official", [False, True])
def test_est_with_the_trilinear_kernel(official: bool) -> None:
    bins = 5

    def expected(events: Events) -> Tensor:
        largest = max(int(events.t.max(initial=0)), 1)

        def shares(number: int, t: int, p: int) -> list[tuple[int, float]]:
            kernel = [max(0.0, 1 - abs(t * (bins - 1) / largest - i)) for i in range(bins)]
            if official:
                kernel = [0.0 if weight == 1 else weight for weight in kernel]
            return [(p * bins + i, t / largest * kernel[i]) for i in range(bins)]

        return by_hand(events, 2 * bins, shares)

    check(lambda events: est(events, bins, official_kernel=official), expected)


@pytest.mark.parametrize("steps", [1, 4])
def test_time_surface(steps: int) -> None:
    decay = 100.0

    def expected(events: Events) -> Tensor:
        surface = torch.zeros(steps, 2, HEIGHT, WIDTH, dtype=torch.float64)
        for step in range(steps if len(events) else 0):
            # The last microsecond that frames(…, "equal") puts into this part.
            span = events.duration + 1
            now = int(events.t[0]) + math.ceil((step + 1) * span / steps) - 1
            for t, x, y, p in zip(events.t, events.x, events.y, events.p, strict=True):
                if t <= now:
                    surface[step, int(p), int(y), int(x)] = math.exp(-(now - int(t)) / decay)
        return surface

    check(lambda events: time_surface(events, steps, decay=decay), expected)


def test_clipping_and_types() -> None:
    crowded = Events.of(np.arange(300), [0] * 300, [0] * 300, [1] * 300, height=1, width=2)
    assert frames(crowded, 1).dtype == torch.float32
    assert frames(crowded, 1)[0, 1, 0].tolist() == [300, 0]
    assert frames(crowded, 1, dtype=torch.uint8)[0, 1, 0].tolist() == [255, 0]  # and not 300 - 256
    assert frames(crowded, 1, clip=1, dtype=torch.uint8)[0, 1, 0].tolist() == [1, 0]


def test_input_is_left_alone() -> None:
    events = recording(50, 1000, 7)
    before = events.to_array()
    for representation in (frames, voxel_grid, est, time_surface):
        representation(events, 4)
    assert np.array_equal(events.to_array(), before)


def test_bad_input_is_refused() -> None:
    events = recording(50, 1000, 8)
    with pytest.raises(ConfigError, match="found 0 steps or bins"):
        frames(events, 0)
    with pytest.raises(ConfigError, match="found split_by='speed'"):
        frames(events, 2, "speed")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="clip=0"):
        frames(events, 2, clip=0)
    with pytest.raises(ConfigError, match="found 1 bins"):
        est(events, 1)
    with pytest.raises(ConfigError, match="found kind='cubic'"):
        voxel_grid(events, 2, "cubic")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="decay=0"):
        time_surface(events, decay=0)
    with pytest.raises(DataError, match=r"time goes back from \d+ to \d+ us at event"):
        frames(events[::-1], 2)
    with pytest.raises(DataError, match="x goes from 0 to 6; expected 0 to 3"):
        frames(events.replace(width=4), 2)
    with pytest.raises(DataError, match="y goes from -1"):
        frames(events.replace(y=events.y - np.int16(1)), 2)
    with pytest.raises(DataError, match="a time of -5 us"):
        est(events.replace(t=events.t - events.t[0] - 5), 3)


def test_resizing() -> None:
    counts = torch.randint(0, 9, (2, 3, 2, 12, 16), generator=torch.Generator().manual_seed(0))
    nearest = resize_frames(counts, (6, 4), "nearest")
    assert torch.equal(nearest, counts[..., ::2, ::4].float())
    constant = resize_frames(torch.full((3, 2, 128, 128), 4, dtype=torch.uint8), 48)
    assert constant.dtype == torch.float32
    torch.testing.assert_close(constant, torch.full((3, 2, 48, 48), 4.0))
    picture = Image.fromarray(counts[0, 0, 0].float().numpy())
    pillow = torch.from_numpy(np.array(picture.resize((4, 3), Image.Resampling.BILINEAR)))
    torch.testing.assert_close(resize_frames(counts, (3, 4))[0, 0, 0], pillow)


def test_normalising() -> None:
    counts = torch.zeros(2, 3, 2, 4, 4, dtype=torch.uint8)
    counts[0, 0, 0, 1, 1], counts[0, 0, 1, 2, 2], counts[1, 2, 1, 0, 0] = 4, 1, 2
    largest = normalise_frames(counts, "max")
    assert largest.amax((-3, -2, -1)).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert largest[0, 0, 1, 2, 2] == 0.25
    assert torch.equal(normalise_frames(counts, "clip1"), counts.sign().float())
    assert torch.equal(normalise_frames(counts, "none"), counts.float())
    with pytest.raises(ConfigError, match="found 'min'"):
        normalise_frames(counts, "min")  # type: ignore[arg-type]


def test_frames_that_are_no_counts() -> None:
    assert normalise_frames(torch.zeros(0, 3, 2, 4, 4), "max").shape == (0, 3, 2, 4, 4)
    for value, message in ((-1.0, "negative"), (torch.nan, "NaN")):
        counts = torch.zeros(1, 3, 2, 4, 4)
        counts[0, 1, 0, 2, 2] = value
        with pytest.raises(DataError, match=message):
            normalise_frames(counts, "clip1")


def test_golden_numbers_of_a_real_recording() -> None:
    if not GOLDEN.exists():
        pytest.skip(f"{GOLDEN.name} is absent; it holds a real recording, which is not kept here")
    golden = load_file(GOLDEN)
    columns = (golden[f"ev.{name}"].numpy() for name in "txyp")
    events = Events.of(*columns, height=34, width=34)
    for rule in ("number", "time"):
        made = frames(events, 10, rule, dtype=torch.int16)
        assert torch.equal(made, golden[f"frames10_by_{rule}"])
    # tonic loses the events past the last window, which is all that differs from "time".
    window = events.duration // 8
    inside = events[: int(np.searchsorted(events.t, events.t[0] + 8 * window))]
    eighths = frames(events, 8, "time", dtype=torch.int16)
    eighths[7] = frames(inside[inside.t >= events.t[0] + 7 * window], 1, dtype=torch.int16)
    assert torch.equal(eighths, golden["tonic_frame_bins8"])
    assert len(inside) < len(events)

    voxels = voxel_grid(events, 5, dtype=torch.float64)
    torch.testing.assert_close(voxels[:, None], golden["tonic_voxel5"], rtol=0, atol=1e-9)
    for name, made in {
        "event_frame": event_frame(events, binary=True),
        "event_count_bin": event_count(events, binary=True),
        "voxgrid9": voxel_grid(events, 9, "eventdrop_official"),
        "est9_trilinear": est(events, 9, official_kernel=True).view(2, 9, 34, 34),
    }.items():
        torch.testing.assert_close(made[None], golden[f"eventdrop_{name}"], rtol=1e-5, atol=1e-4)
    missing = est(events, 9).sum() - est(events, 9, official_kernel=True).sum()
    assert missing.item() == pytest.approx(1, abs=1e-3)  # the last event


def test_frames_are_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """50 million events a second at least, of the 150 to 200 million measured on a quiet core."""
    monkeypatch.undo()
    length = 4_000_000
    random = np.random.default_rng(0)
    events = Events(
        np.sort(random.integers(0, 10**7, length)),
        random.integers(0, 240, length).astype(np.int16),
        random.integers(0, 180, length).astype(np.int16),
        random.integers(0, 2, length).astype(np.uint8),
        180,
        240,
    )
    taken: list[float] = []
    for _ in range(3):
        start = time.process_time()
        frames(events, 10, "equal")
        taken.append(time.process_time() - start)
    assert length / min(taken) > 50e6
