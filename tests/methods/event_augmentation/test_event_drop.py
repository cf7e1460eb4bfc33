from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from modicum.engine.random import SampleRandom
from modicum.errors import ConfigError
from modicum.events import EventBatch, Events
from modicum.methods.event_augmentation.event_drop import (
    Drops,
    EstShiftFlip,
    EventDrop,
    area,
    drop_random,
)

GOLDEN = load_file(Path(__file__).parents[2] / "golden/event_augmentation/augment.safetensors")


def golden(name):
    columns = (GOLDEN[f"{name}.{column}"] for column in "txyp")
    return EventBatch.of([Events.of(*columns, height=30, width=40)])


def equal(one, other):
    return np.array_equal(one.to_array(), other.to_array())


def recordings(count, events, start=0):
    rng = np.random.default_rng(count)
    made = []
    for _ in range(count):
        x, y, p = (rng.integers(0, n, events) for n in (40, 30, 2))
        made.append(Events(np.sort(rng.integers(start, 10**6, events)), x, y, p, 30, 40))
    return EventBatch.of(made)


def test_golden_time():
    start, share = GOLDEN["eventdrop.time_tstart_T"]
    found = EventDrop().apply(golden("in")[0], Drops("time", share=share, start=start))
    assert equal(found, golden("eventdrop_time")[0])


def test_golden_area():
    *centre, ratio = GOLDEN["eventdrop.area_x0_y0_ratio"]
    batch = golden("in")
    box = area(batch, np.array([centre]), np.array([ratio]))
    x0, x1, y0, y1 = np.floor(GOLDEN["eventdrop.area_box"])
    assert box.box.tolist() == [[x0, y0, x1, y1]]
    drops = Drops("area", centre=centre, ratio=ratio)
    found = EventDrop().apply(batch, drops)
    assert equal(found[0], golden("eventdrop_area_rectangle")[0])
    cross = golden("eventdrop_area_official_cross")[0]
    assert equal(EventDrop(official_area_bug=True).apply(batch, drops)[0], cross)
    assert len(cross) == 400 - 183


def test_drops_of_your_own():
    batch = recordings(4, 200)
    kinds = ["", "time", "area", "random"]
    drops = Drops(kinds, share=[0.9, 0.2, 0.9, 0.35], start=0.5, centre=(20, 15), ratio=0.5)
    found = EventDrop().apply(batch, drops, 3)
    assert equal(found[0], batch[0])
    last = int(batch[1].t[-1])
    assert not ((found[1].t > 0.5 * last) & (found[1].t < 0.7 * last)).any()
    assert not ((abs(found[2].x - 20) < 10) & (abs(found[2].y - 15) < 7)).any()
    assert len(found[3]) == 130
    whole = EventDrop().apply(batch[1], Drops("time", share=1.0))
    assert equal(whole, batch[1])  # nothing would be left
    with pytest.raises(ConfigError, match="no kind 'space'"):
        EventDrop().apply(batch, Drops("space"))


def test_what_is_drawn_can_be_applied():
    batch = recordings(40, 100)
    random = SampleRandom(1, 2, np.arange(40))
    found = EventDrop().apply(batch, EventDrop().draw(batch, random), random)
    assert all(equal(a, b) for a, b in zip(found, EventDrop()(batch, random), strict=True))


@pytest.mark.parametrize("start", [0, 400_000])
def test_rates(start):
    """Each choice in a quarter of the recordings, and as many events dropped as the rules say."""
    batch = recordings(2000, 200, start)
    random = SampleRandom(0, 0, np.arange(2000))
    made = EventDrop()(batch, random)
    choice = np.floor(4 * random.uniform(5, "event drop")[:, 0])
    share = 1 - made.lengths / batch.lengths
    assert np.abs(np.bincount(choice.astype(int)) / 2000 - 0.25).max() < 0.03
    assert (share[choice == 0] == 0).all()

    # An area: the mean over all centres of the pixels in it, both ends included. At the left and
    # top it is moved into the sensor, at the right and bottom cut.
    centres = (np.arange(1000) + 0.5) / 1000
    expected = []
    for ratio in (0.05, 0.1, 0.15, 0.2, 0.25):
        parts = []
        for size in (40, 30):
            low = np.floor(np.maximum(size * (centres - ratio / 2), 0))
            parts.append(
                np.mean(np.minimum(np.floor(low + size * ratio), size - 1) - low + 1) / size
            )
        expected.append(parts[0] * parts[1])
    assert abs(share[choice == 2].mean() - np.mean(expected)) < 0.003

    # Any: exactly the nine shares, equally often.
    shares, counts = np.unique(np.rint(share[choice == 3] * 100), return_counts=True)
    assert shares.tolist() == [10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert np.abs(counts / counts.sum() - 1 / 9).max() < 0.05

    # A time: of a uniform start s and length T, the part of (0, 1) or, from 0.4 on, of (0.4, 1).
    s = (np.arange(1000) + 0.5) / 1000
    lengths = np.arange(1, 10)[:, None] / 10
    begin = start / 10**6
    lost = np.clip(np.minimum(s + lengths, 1) - np.maximum(s, begin), 0, None) / (1 - begin)
    lost[lost > 0.995] = 0  # what would be empty is given back
    assert abs(share[choice == 1].mean() - lost.mean()) < 0.03


def test_the_cross_is_only_given_on_request():
    batch = recordings(400, 100)
    lost = [(batch.lengths - EventDrop(bug)(batch, 0).lengths).sum() for bug in (False, True)]
    assert lost[1] > lost[0]
    random = SampleRandom(0, 0, np.arange(400))
    choice = np.floor(4 * random.uniform(5, "event drop")[:, 0])
    for number in np.flatnonzero(choice == 2)[:20]:
        old, new = batch[number], EventDrop(True)(batch, random)[number]
        gone = np.setdiff1d(np.unique(old.x), np.unique(new.x))
        if len(new) < len(old) and len(gone):
            break
    else:
        raise AssertionError("no column was emptied")


def test_every_event_is_dropped_as_often():
    batch = EventBatch.of([recordings(1, 10)[0]] * 4000)
    random = SampleRandom(3, 0, np.arange(4000))
    made = drop_random(batch, np.full(4000, 0.35), random)
    assert (made.lengths == 7).all()  # 10 - int(3.5)
    left = np.concatenate([np.isin(batch[0].t, events.t) for events in made]).reshape(4000, 10)
    assert np.abs(left.mean(axis=0) - 0.7).max() < 0.03
    assert np.abs(np.corrcoef(left.T)[np.triu_indices(10, 1)] + 1 / 9).max() < 0.06


def test_nothing_is_left_empty():
    batch = EventBatch.of(
        [Events.of([5], [3], [3], [1], height=30, width=40), recordings(1, 1)[0]] * 200
    )
    for operator in (EventDrop(), EventDrop(True), EstShiftFlip(40)):
        assert (operator(batch, 0).lengths == 1).all()
    zero = Events.of([0, 0], [1, 2], [1, 2], [0, 1], height=30, width=40)
    assert all(len(events) for events in EventDrop()(EventBatch.of([zero] * 100), 0))


@pytest.mark.parametrize("operator", [EventDrop(), EventDrop(True), EstShiftFlip()], ids=str)
def test_a_recording_does_not_depend_on_its_batch(operator):
    whole = [recordings(1, count)[0] for count in (3, 90, 0, 400, 33, 1, 250, 60)]
    index = np.arange(8) * 5 + 2
    made = operator(EventBatch.of(whole), SampleRandom(1, 2, index))
    for number, events in enumerate(whole):
        alone = operator(events, SampleRandom(1, 2, index[number : number + 1]))
        assert equal(alone, made[number])
        assert alone.is_sorted


def test_est_shifts_and_flips():
    centre = Events.of([1, 2], [20, 20], [15, 15], [0, 1], height=30, width=40)
    made = EstShiftFlip(5)(EventBatch.of([centre] * 3000), 0)
    # A flip takes x = 20 to 19, so both together reach from 14 to 25.
    assert sorted(set(made.x.tolist())) == list(range(14, 26))
    assert sorted(set(made.y.tolist())) == list(range(10, 21))
    flips = EstShiftFlip(0)(EventBatch.of([centre] * 3000), 0).x[::2] == 19
    assert abs(flips.mean() - 0.5) < 0.04
    with pytest.raises(ConfigError, match="max_shift is -1"):
        EstShiftFlip(-1)
    with pytest.raises(ConfigError, match="flip is 2"):
        EstShiftFlip(flip=2)
    with pytest.raises(ConfigError, match="EventDrop works on events alone"):
        EventDrop().frames(np.zeros((3, 2, 4, 4)), 0)
