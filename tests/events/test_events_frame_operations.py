"""What is done to frames is what the same operation on events does, frame by frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from modicum.events import EventBatch, Events, frame_operations, operations
from modicum.events.operations import Fragments

HEIGHT, WIDTH, STEPS, BIN = 6, 8, 5, 7


def whole_bins(size, count, seed, start=3):
    """Recordings that begin and end exactly with STEPS frames of BIN microseconds."""
    rng = np.random.default_rng(seed)
    recordings = []
    for _ in range(size):
        t = np.sort(rng.integers(0, STEPS * BIN, count))
        t[0], t[-1] = 0, STEPS * BIN - 1
        x, y, p = (rng.integers(0, n, count) for n in (WIDTH, HEIGHT, 2))
        recordings.append(Events(t + start, x, y, p, HEIGHT, WIDTH))
    return EventBatch.of(recordings)


def frames_of(batch, start=3):
    """Counts (B,T,2,H,W); by absolute time, for operations may drop the first event."""
    made = torch.zeros(batch.size, STEPS, 2, batch.height, batch.width, dtype=torch.int32)
    step = (batch.t - start) // BIN
    columns = (batch.sample, step, batch.p, batch.y, batch.x)
    index = [torch.from_numpy(column.astype(np.int64)) for column in columns]
    return made.index_put_(tuple(index), torch.ones(len(batch), dtype=torch.int32), accumulate=True)


@st.composite
def cases(draw):
    size, seed = draw(st.integers(1, 3)), draw(st.integers(0, 2**16))
    batch = whole_bins(size, draw(st.integers(2, 60)), seed)
    rng = np.random.default_rng(seed + 1)
    if draw(st.booleans()):
        return batch, None, None, rng
    low, high = np.sort(rng.integers(0, STEPS, (2, size)), axis=0)
    box = None
    if draw(st.booleans()):
        x = np.sort(rng.integers(0, WIDTH, (2, size)), axis=0)
        y = np.sort(rng.integers(0, HEIGHT, (2, size)), axis=0)
        box = np.stack([x[0], y[0], x[1], y[1]], axis=1)
    return (
        batch,
        Fragments(3 + low * BIN, 3 + (high + 1) * BIN - 1, box),
        Fragments(low, high, box),
        rng,
    )


@settings(max_examples=50, deadline=None)
@given(cases())
def test_reversed_frames_are_frames_of_reversed_events(case):
    batch, of_events, of_frames, _ = case
    frames = frames_of(batch)
    before = frames.clone()
    for name in ("reverse_time", "reverse_polarity", "reverse_x", "reverse_y"):
        expected = frames_of(getattr(operations, name)(batch, of_events))
        found = getattr(frame_operations, name)(frames, of_frames)
        assert torch.equal(found, expected), name
        assert torch.equal(getattr(frame_operations, name)(found, of_frames), frames), name
    expected = frames_of(operations.reverse_time(batch, of_events, couple_polarity=False))
    found = frame_operations.reverse_time(frames, of_frames, couple_polarity=False)
    assert torch.equal(found, expected)
    assert torch.equal(frames, before)


@settings(max_examples=50, deadline=None)
@given(cases(), st.sampled_from(["drop", "wrap"]))
def test_drifting_frames_are_frames_of_drifting_events(case, border):
    batch, of_events, of_frames, rng = case
    frames = frames_of(batch)
    dx, dy = rng.integers(-WIDTH, WIDTH + 1, batch.size), rng.integers(-HEIGHT, HEIGHT, batch.size)
    expected = frames_of(operations.drift_space(batch, dx, dy, of_events, border=border))
    assert torch.equal(
        frame_operations.drift_space(frames, dx, dy, of_frames, border=border), expected
    )
    dt = rng.integers(-STEPS, STEPS + 1, (batch.size, 2))
    for shift in (dt, dt[:, 0]):
        expected = frames_of(operations.drift_time(batch, shift * BIN, of_events, border=border))
        found = frame_operations.drift_time(frames, shift, of_frames, border=border)
        assert torch.equal(found, expected)


@settings(max_examples=30, deadline=None)
@given(cases())
def test_clipped_frames_keep_all_counts(case):
    batch, _, of_frames, rng = case
    frames = frames_of(batch)
    dt = rng.integers(-STEPS, STEPS + 1, batch.size)
    found = frame_operations.drift_time(frames, dt, of_frames, border="clip")
    assert torch.equal(found.sum(dim=1), frames.sum(dim=1))


def test_velocity_drifts_by_the_middle_of_each_frame():
    frames = frames_of(whole_bins(2, 500, 0))
    found = frame_operations.drift_velocity(frames, np.array([4.0, -6.0]), np.array([0.0, 5.0]))
    for step, share in enumerate((0.1, 0.3, 0.5, 0.7, 0.9)):
        shift = (np.rint([4 * share, -6 * share]).astype(int), np.rint([0, 5 * share]).astype(int))
        expected = frame_operations.drift_space(frames, *shift)
        assert torch.equal(found[:, step], expected[:, step])


@settings(max_examples=40, deadline=None)
@given(cases(), st.booleans())
def test_cropped_frames_are_frames_of_cropped_events(case, resize):
    batch, of_events, _, _ = case
    if of_events is None or of_events.box is None:
        return
    expected = frames_of(operations.crop_space(batch, of_events.box, resize=resize))
    found = frame_operations.crop_space(frames_of(batch), of_events.box, resize=resize)
    assert torch.equal(found, expected)


GOLDEN = load_file(Path(__file__).parents[1] / "golden/apbs/stcf.safetensors")


@pytest.mark.parametrize("name", ["crop_time_nearest", "flip_x", "flip_time", "padcrop"])
def test_golden_frames(name):
    frames = GOLDEN["frames.in"][None]
    start, stop = GOLDEN["frames.crop_time_a_b"][:, None].numpy()
    pad, top, left = GOLDEN["frames.padcrop_pad_oy_ox"].tolist()
    found = {
        "crop_time_nearest": lambda: frame_operations.crop_time(frames, start, stop),
        "flip_x": lambda: frame_operations.reverse_x(frames),
        "flip_time": lambda: frame_operations.reverse_time(frames),
        "padcrop": lambda: frame_operations.drift_space(
            frames, np.array([pad - left]), np.array([pad - top])
        ),
    }[name]()
    assert torch.equal(found[0], GOLDEN[f"frames.{name}"])
