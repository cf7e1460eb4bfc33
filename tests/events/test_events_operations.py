"""Against golden numbers, and against the definitions written out for one event at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from modicum.errors import ConfigError, DataError
from modicum.events import EventBatch, Events, operations
from modicum.events.operations import (
    Fragments,
    crop_space,
    crop_time,
    decreases,
    drift_space,
    drift_time,
    drift_velocity,
    drop_fragments,
    first_and_last,
    in_order,
    keep_or_restore,
    reverse_polarity,
    reverse_time,
    reverse_x,
    reverse_y,
    search,
)

GOLDEN = Path(__file__).parents[1] / "golden"
AUGMENT = load_file(GOLDEN / "event_augmentation/augment.safetensors")
STCF = load_file(GOLDEN / "apbs/stcf.safetensors")

HEIGHT, WIDTH = 7, 9


def golden(numbers, name, height, width):
    columns = (numbers[f"{name}.{column}"] for column in "txyp")
    return EventBatch.of([Events.of(*columns, height=height, width=width)])


def window(batch, start, end, box=None):
    box = None if box is None else np.array([box])
    return Fragments(np.array([start]), np.array([end]), box)


def same(found, expected):
    return all(
        np.array_equal(getattr(found, name), getattr(expected, name))
        for name in ("t", "x", "y", "p", "starts")
    )


def augment_cases():
    events = golden(AUGMENT, "in", 30, 40)
    start, end = AUGMENT["frag.window"].tolist()
    part = window(events, start, end)
    boxed = window(events, start, end, AUGMENT["frag.box_x0y0x1y1_inclusive"])
    whole_box = window(events, events.t[0], events.t[-1], AUGMENT["frag.box_x0y0x1y1_inclusive"])
    dx, dy, dt = AUGMENT["drift.dx_dy_dt"].tolist()
    on_only = np.array([[0, dt]])
    vx = AUGMENT["drift.velocity_vx"]
    return {
        "reverse_time": reverse_time(events),
        "reverse_time_keep_pol": reverse_time(events, couple_polarity=False),
        "reverse_polarity": reverse_polarity(events),
        "reverse_x": reverse_x(events),
        "reverse_y": reverse_y(events),
        "reverse_txp": reverse_x(reverse_time(events)),
        "frag_reverse_time": reverse_time(events, part),
        "frag_reverse_polarity": reverse_polarity(events, part),
        "frag_reverse_x_box": reverse_x(events, whole_box),
        "frag_reverse_time_box": reverse_time(events, boxed),
        "drift_xy_drop": drift_space(events, dx, dy),
        "drift_xy_wrap": drift_space(events, dx, dy, border="wrap"),
        "drift_t_drop": drift_time(events, dt),
        "drift_t_wrap": drift_time(events, dt, border="wrap"),
        "drift_t_clip": drift_time(events, dt, border="clip"),
        "frag_drift_xy_drop": drift_space(events, dx, dy, part),
        "drift_t_on_only_drop": drift_time(events, on_only),
        "drift_velocity_drop": drift_velocity(events, vx, 0),
    }


@pytest.mark.parametrize("name", augment_cases())
def test_golden_augmentation(name):
    assert same(augment_cases()[name], golden(AUGMENT, name, 30, 40))


def stcf_cases():
    events = golden(STCF, "in", 28, 36)
    start, end = STCF["crop_time.window"].tolist()
    x0, y0, width, height = STCF["crop_space.x0y0wh"].tolist()
    box = np.array([[x0, y0, x0 + width - 1, y0 + height - 1]])
    flipped = reverse_x(crop_space(crop_time(events, start, end), box, resize=True))
    return {
        "crop_time": crop_time(events, start, end),
        "crop_space_keep": crop_space(events, box),
        "crop_space_resize": crop_space(events, box, resize=True),
        "flip_x": reverse_x(events),
        "flip_time": reverse_time(events),
        "stcf_all": reverse_time(flipped, window(events, start, end)),
    }


@pytest.mark.parametrize("name", stcf_cases())
def test_golden_stcf(name):
    assert same(stcf_cases()[name], golden(STCF, name, 28, 36))


# The definitions, one event at a time -----------------------------------------------------------


def one_by_one(batch, fragments, change):
    """Apply `change(event, start, end, box)` -> event or None to the events of the fragments."""
    made = []
    for number, events in enumerate(batch):
        start, end = int(fragments.start[number]), int(fragments.end[number])
        box = (0, 0, WIDTH - 1, HEIGHT - 1)
        if fragments.box is not None:
            box = tuple(fragments.box[number].tolist())
        rows = []
        for t, x, y, p in zip(*(getattr(events, name).tolist() for name in "txyp"), strict=True):
            row = (t, x, y, p)
            inside = start <= t <= end and box[0] <= x <= box[2] and box[1] <= y <= box[3]
            rows.append(change(row, number, start, end, box) if inside else row)
        rows = sorted((row for row in rows if row is not None), key=lambda row: row[0])
        columns = np.array(rows, np.int64).reshape(-1, 4).T
        made.append(Events.of(*columns, height=HEIGHT, width=WIDTH))
    return EventBatch.of(made)


@st.composite
def batches(draw, least=0):
    recordings = []
    for _ in range(draw(st.integers(1, 4))):
        count = draw(st.integers(least, 30))
        seed = draw(st.integers(0, 2**16))
        rng = np.random.default_rng(seed)
        span = draw(st.sampled_from([1, 4, 40, 1000]))
        recordings.append(
            Events(
                np.sort(rng.integers(0, span, count)) + draw(st.sampled_from([0, 5, 10**12])),
                rng.integers(0, WIDTH, count),
                rng.integers(0, HEIGHT, count),
                rng.integers(0, 2, count),
                HEIGHT,
                WIDTH,
            )
        )
    return EventBatch.of(recordings)


@st.composite
def cases(draw, boxes=True):
    batch = draw(batches())
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    kind = draw(st.sampled_from(["whole", "window", "box"] if boxes else ["whole", "window"]))
    whole = Fragments.whole(batch)
    if kind == "whole":
        return batch, whole, rng
    span = np.maximum(whole.end - whole.start, 0)
    ends = np.sort(whole.start + (rng.random((2, batch.size)) * (span + 1)).astype(int), axis=0)
    box = None
    if kind == "box":
        x = np.sort(rng.integers(0, WIDTH, (2, batch.size)), axis=0)
        y = np.sort(rng.integers(0, HEIGHT, (2, batch.size)), axis=0)
        box = np.stack([x[0], y[0], x[1], y[1]], axis=1)
    fragments = Fragments(ends[0], ends[1], box)
    return batch, fragments.only(rng.random(batch.size) < 0.8), rng


def copies(batch):
    return {name: getattr(batch, name).copy() for name in ("t", "x", "y", "p", "starts")}


def check(batch, found, expected):
    assert same(found, expected)
    assert len(decreases(found.t, found.lengths)) == 0
    kinds = [getattr(found, name).dtype for name in "txyp"]
    assert kinds == [np.int64, np.int16, np.int16, np.uint8]
    for column, size in ((found.x, WIDTH), (found.y, HEIGHT)):
        assert ((column >= 0) & (column < size)).all()


@settings(max_examples=80, deadline=None)
@given(cases())
def test_reverse(case):
    batch, fragments, _ = case
    before = copies(batch)
    operations = {
        "time": lambda row, n, a, b, box: (a + b - row[0], *row[1:3], 1 - row[3]),
        "polarity": lambda row, n, a, b, box: (*row[:3], 1 - row[3]),
        "x": lambda row, n, a, b, box: (row[0], box[0] + box[2] - row[1], *row[2:]),
        "y": lambda row, n, a, b, box: (*row[:2], box[1] + box[3] - row[2], row[3]),
    }
    functions = {"time": reverse_time, "polarity": reverse_polarity, "x": reverse_x, "y": reverse_y}
    for name, change in operations.items():
        found = functions[name](batch, fragments)
        check(batch, found, one_by_one(batch, fragments, change))
        # Twice is nothing at all, but for the order of events at the same time.
        twice = functions[name](found, fragments)
        for one, other in zip(batch, twice, strict=True):
            assert sorted(map(tuple, one.to_array("txyp"))) == sorted(
                map(tuple, other.to_array("txyp"))
            )
    alone = reverse_time(batch, fragments, couple_polarity=False)
    both = reverse_polarity(reverse_time(batch, fragments), fragments)
    assert fragments.box is not None or same(alone, both)
    for name, column in before.items():
        assert np.array_equal(getattr(batch, name), column)


def backwards(batch, fragments):
    """Reversed in time by a sort that keeps ties, and nothing else."""
    made = []
    for number, events in enumerate(batch):
        start, end = int(fragments.start[number]), int(fragments.end[number])
        inside = (events.t >= start) & (events.t <= end)
        t = np.where(inside, start + end - events.t, events.t)
        order = np.argsort(t, kind="stable")
        p = np.where(inside, 1 - events.p, events.p)
        columns = (column[order] for column in (t, events.x, events.y, p))
        made.append(Events.of(*columns, height=events.height, width=events.width))
    return EventBatch.of(made)


def tied_recording(rng, groups, low=0):
    """A recording with so many events at each time; x and y tell all of its events apart."""
    number = np.arange(np.sum(groups))
    gaps = rng.integers(1, 3, len(groups))
    t = low + np.repeat(np.cumsum(gaps), groups)
    p = rng.integers(0, 2, len(t))
    return Events.of(t, number % 2**15, number // 2**15, p, height=2**15, width=2**15)


@st.composite
def tied_batches(draw):
    """Recordings with no, few or only ties, at small and at very large times; some are empty."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    recordings = []
    for _ in range(draw(st.integers(1, 5))):
        groups = np.ones(draw(st.integers(0, 40)), np.int64)
        grown = rng.random(len(groups)) < draw(st.sampled_from([0, 0.1, 0.5, 1]))
        groups[grown] = rng.integers(2, draw(st.sampled_from([3, 6, 60])), grown.sum())
        low = draw(st.sampled_from([0, 5, 2**61 - 100, -(2**61)]))
        recordings.append(tied_recording(rng, groups, low))
    return EventBatch.of(recordings), rng


@settings(max_examples=150, deadline=None)
@given(tied_batches(), st.sampled_from([1, 2, 7, 16, 64, 2**17]), st.booleans())
def test_ties_keep_their_order_in_every_chunk(case, chunk, whole):
    batch, rng = case
    fragments = Fragments.whole(batch)
    if not whole and len(batch):
        edges = np.zeros((2, batch.size), np.int64)
        for number, events in enumerate(batch):
            if len(events):
                edges[:, number] = np.sort(rng.choice(events.t, 2))
        fragments = Fragments(*edges).only((batch.lengths > 0) & (rng.random(batch.size) < 0.8))
    before = copies(batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operations, "_CHUNK", chunk)
        found = reverse_time(batch, fragments)
    assert same(found, backwards(batch, fragments))
    for name, column in before.items():
        assert np.array_equal(getattr(batch, name), column)


def long_streams():
    """Sizes of the groups at one time in streams around and above the size of a chunk."""
    rng = np.random.default_rng(0)
    chunk, ones = operations._CHUNK, np.ones
    few, many = (np.where(rng.random(2 * chunk) < share, 2, 1) for share in (0.05, 0.6))
    return {
        "empty": [[]],
        "one event": [[1]],
        "no ties": [ones(2 * chunk + 5)],
        "few ties": [few],
        "many ties": [many],
        "groups of ten": [np.full(chunk // 2, 10)],
        "exactly one chunk": [ones(chunk)],
        "a group ends with the chunk": [[*ones(chunk - 3), 3, 3, 3, *ones(chunk)]],
        "the chunk's last event begins a group": [[*ones(chunk - 1), 5, *ones(chunk)]],
        "a group over the end": [[*ones(chunk - 2), 5, *ones(10)]],
        "a group longer than a chunk": [[1, 2, chunk + 7, 3, 1]],
        "nothing but such a group": [[3 * chunk]],
        "after nearly a chunk": [[*ones(chunk - 1), 2 * chunk + 1, *ones(chunk), 2]],
        "ragged": [[], few, [1], [chunk + 3], [], [2, 2], many, ones(3), []],
    }


@pytest.mark.parametrize("name", long_streams())
def test_reverse_long_streams(name):
    rng = np.random.default_rng(1)
    groups = [np.asarray(group, np.int64) for group in long_streams()[name]]
    batch = EventBatch.of([tied_recording(rng, group) for group in groups])
    whole = Fragments.whole(batch)
    assert same(reverse_time(batch), backwards(batch, whole))
    middle = (whole.end - whole.start) // 3
    inner = Fragments(whole.start + middle, whole.end - middle)
    assert same(reverse_time(batch, inner), backwards(batch, inner))


@settings(max_examples=80, deadline=None)
@given(cases(), st.sampled_from(["drop", "wrap"]))
def test_drift_space(case, border):
    batch, fragments, rng = case
    dx, dy = rng.integers(-WIDTH, WIDTH + 1, batch.size), rng.integers(-3, 4, batch.size)
    vx, vy = rng.uniform(-WIDTH, WIDTH, batch.size), rng.integers(-3, 4, batch.size)

    def place(row, x, y):
        if border == "wrap":
            x, y = x % WIDTH, y % HEIGHT
        return (row[0], x, y, row[3]) if 0 <= x < WIDTH and 0 <= y < HEIGHT else None

    def shift(row, n, start, end, box):
        return place(row, row[1] + int(dx[n]), row[2] + int(dy[n]))

    def accelerate(row, n, start, end, box):
        share = (row[0] - start) / max(end - start, 1)
        return place(row, row[1] + round(vx[n] * share), row[2] + round(float(vy[n] * share)))

    found = drift_space(batch, dx, dy, fragments, border=border)
    check(batch, found, one_by_one(batch, fragments, shift))
    found = drift_velocity(batch, vx, vy, fragments, border=border)
    check(batch, found, one_by_one(batch, fragments, accelerate))


@settings(max_examples=80, deadline=None)
@given(cases(), st.sampled_from(["drop", "wrap", "clip"]), st.booleans())
def test_drift_time(case, border, per_polarity):
    batch, fragments, rng = case
    first, last = first_and_last(batch)
    dt = rng.integers(-30, 31, (batch.size, 2))

    def shift(row, n, start, end, box):
        t = row[0] + int(dt[n, row[3] if per_polarity else 0])
        low, high = int(first[n]), int(last[n])
        if border == "wrap":
            t = low + (t - low) % (high - low + 1)
        elif border == "clip":
            t = min(max(t, low), high)
        return (t, *row[1:]) if low <= t <= high else None

    found = drift_time(batch, dt if per_polarity else dt[:, 0], fragments, border=border)
    check(batch, found, one_by_one(batch, fragments, shift))


@settings(max_examples=80, deadline=None)
@given(cases(), st.booleans())
def test_crop_and_drop(case, resize):
    batch, fragments, _ = case
    found = drop_fragments(batch, fragments)
    check(batch, found, one_by_one(batch, fragments, lambda *_: None))
    window = replace(fragments, box=None)
    for number, (old, new) in enumerate(
        zip(batch, crop_time(batch, window.start, window.end), strict=True)
    ):
        inside = (old.t >= window.start[number]) & (old.t <= window.end[number])
        assert np.array_equal(new.to_array(), old[inside].to_array())
    if fragments.box is None:
        return

    def stretch(row, n, start, end, box):
        x0, y0, x1, y1 = box
        x = (row[1] - x0) * WIDTH // (x1 - x0 + 1)
        y = (row[2] - y0) * HEIGHT // (y1 - y0 + 1)
        return (row[0], x, y, row[3]) if resize else row

    whole = replace(Fragments.whole(batch), box=fragments.box)
    outside = one_by_one(batch, whole, lambda *_: None)
    cropped = crop_space(batch, fragments.box, resize=resize)
    assert len(cropped) + len(outside) == len(batch)
    check(batch, cropped, one_by_one(crop_space(batch, fragments.box), whole, stretch))


@settings(max_examples=40, deadline=None)
@given(batches(), st.integers(0, 2**16))
def test_keep_or_restore(batch, seed):
    mask = np.repeat(np.random.default_rng(seed).random(batch.size) < 0.5, batch.lengths)
    mask &= np.random.default_rng(seed).random(len(batch)) < 0.5
    after = reverse_polarity(batch.keep(mask))
    restored = keep_or_restore(batch, after)
    for old, new, result in zip(batch, after, restored, strict=True):
        expected = new if len(new) else old
        assert np.array_equal(result.to_array(), expected.to_array())


@settings(max_examples=40, deadline=None)
@given(batches(), st.integers(0, 2**16))
def test_in_order(batch, seed):
    shuffled = batch.replace(t=np.random.default_rng(seed).permutation(batch.t.copy()))
    if batch.size > 1 and seed % 2 and len(batch):  # so far apart that one key does not fit int64
        shuffled = shuffled.replace(t=shuffled.t + np.arange(len(batch)) * (2**62 // len(batch)))
    for before, after in zip(shuffled, in_order(shuffled), strict=True):
        assert np.array_equal(before.sort().to_array(), after.to_array())


@given(batches(), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_search(batch, seed):
    rng = np.random.default_rng(seed)
    for shape in ((batch.size,), (batch.size, 3)):
        times = rng.integers(-5, 60, shape)
        for side in ("left", "right"):
            expected = [
                start + np.searchsorted(one.t, wanted, side)
                for start, one, wanted in zip(batch.starts, batch, times, strict=False)
            ]
            found = search(batch, times, side)
            assert found.shape == shape
            assert np.array_equal(found, np.reshape(expected, shape))


def test_the_largest_sensor_does_not_overflow():
    side = 2**15
    events = Events(np.arange(3), np.array([0, 5, side - 1]), np.zeros(3), np.ones(3), side, side)
    batch = EventBatch.of([events])
    assert reverse_x(batch).x.tolist() == [side - 1, side - 6, 0]
    assert drift_space(batch, side, 0).x.tolist() == []
    assert drift_space(batch, -side, 0).x.tolist() == []
    assert drift_space(batch, side, 0, border="wrap").x.tolist() == [0, 5, side - 1]
    assert drift_space(batch, side - 1, 0, border="wrap").x.tolist() == [side - 1, 4, side - 2]
    box = np.array([[side - 2, 0, side - 1, side - 1]])
    assert reverse_x(batch, window(batch, 0, 2, box[0])).x.tolist() == [0, 5, side - 2]
    assert crop_space(batch, box, resize=True).x.tolist() == [side // 2]


def test_errors_have_numbers():
    batch = golden(AUGMENT, "in", 30, 40)
    with pytest.raises(DataError, match=r"drift of 41 pixels on a sensor of 30 x 40"):
        drift_space(batch, 41, 0)
    with pytest.raises(DataError, match=r"vy: a drift of nan pixels"):
        drift_velocity(batch, 0, float("nan"))
    with pytest.raises(DataError, match=r"\(3,\); expected one number or \(1,\)"):
        drift_time(batch, np.zeros(4, np.int64)[:3])
    with pytest.raises(ConfigError, match="clip is for time"):
        drift_space(batch, 1, 0, border="clip")
    with pytest.raises(ConfigError, match="'bounce'"):
        drift_time(batch, 1, border="bounce")
    with pytest.raises(DataError, match=r"\[5, 0, 40, 3\]"):
        reverse_x(batch, window(batch, 0, 9, [5, 0, 40, 3]))
    with pytest.raises(DataError, match=r"ends of shape \(2,\)"):
        reverse_time(batch, Fragments(np.zeros(1, np.int64), np.zeros(2, np.int64)))


@pytest.mark.parametrize(
    "operation",
    [
        reverse_time,
        reverse_polarity,
        reverse_x,
        reverse_y,
        in_order,
        lambda events: drift_space(events, 2, -1),
        lambda events: drift_velocity(events, 3.0, 0.5),
        lambda events: drift_time(events, [[20, -30]]),
        lambda events: crop_time(events, 10, 70),
        lambda events: crop_space(events, (1, 1, 5, 4), resize=True),
        lambda events: drop_fragments(events, window(None, 10, 70, (0, 0, 4, 4))),
        lambda events: reverse_x(events, Fragments.whole(events)),
    ],
)
def test_one_recording_is_a_batch_of_one(operation):
    random = np.random.default_rng(0)
    columns = (random.integers(0, high, 50) for high in (WIDTH, HEIGHT, 2))
    one = Events.of(np.sort(random.integers(0, 100, 50)), *columns, height=HEIGHT, width=WIDTH)
    found = operation(one)
    assert isinstance(found, Events)
    assert same(EventBatch.of([found]), operation(EventBatch.of([one])))


def test_a_box_may_serve_all_recordings():
    one = Events.of([1, 2], [0, 3], [0, 3], [0, 1], height=HEIGHT, width=WIDTH)
    found = crop_space(EventBatch.of([one, one]), (2, 2, 4, 4))
    assert found.t.tolist() == [2, 2]
