from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.engine.random import SampleRandom
from modicum.errors import ConfigError, DataError
from modicum.events import EventBatch, Events, operations
from modicum.events.operations import decreases
from modicum.methods.event_augmentation.augment import (
    ESTF,
    Compose,
    Drifts,
    EventDrift,
    EventID,
    EventInvert,
    EventReverse,
)

HEIGHT, WIDTH = 20, 30
OPERATORS = {
    "reverse": EventReverse(p=1),
    "reverse y": EventReverse(1, ("y",)),
    "drift": EventDrift(p=1),
    "drift all": EventDrift(
        1, ("space", "velocity", "time"), per_polarity=True, box=(0.3, 0.9), ratio=(0.2, 0.8)
    ),
    "wrap": EventDrift(1, border="wrap"),
    "clip": EventDrift(1, ("time",), max_dt=1, border="clip", ratio=(0.5, 0.5)),
    "id": EventID(),
    "estf": ESTF(),
    "estf box": ESTF(EventReverse(1), EventDrift(1), box=(0.4, 1.0)),
    "compose": Compose((EventReverse(), EventReverse(), EventDrift())),
}


def recording(count, seed=0, span=50_000):
    rng = np.random.default_rng(seed)
    x, y, p = (rng.integers(0, n, count) for n in (WIDTH, HEIGHT, 2))
    return Events(np.sort(rng.integers(0, span, count)) + 7000, x, y, p, HEIGHT, WIDTH)


def rows(events):
    return sorted(map(tuple, events.to_array("txyp").tolist()))


def equal(one, other):
    return np.array_equal(one.to_array(), other.to_array())


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_a_recording_does_not_depend_on_its_batch(operator):
    recordings = [recording(count, count) for count in (300, 0, 1, 80, 1000, 2, 5, 300, 40, 77)]
    index = np.random.default_rng(0).permutation(1000)[: len(recordings)]
    whole = operator(EventBatch.of(recordings), SampleRandom(1, 2, index))
    for number, events in enumerate(recordings):
        alone = operator(events, SampleRandom(1, 2, index[number : number + 1]))
        assert equal(alone, whole[number])
    part = operator(EventBatch.of(recordings[3:8]), SampleRandom(1, 2, index[3:8]))
    assert all(equal(a, b) for a, b in zip(part, whole[3:8], strict=True))


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_seed_and_epoch_matter(operator):
    batch = EventBatch.of([recording(200, seed) for seed in range(12)])
    keys = ((0, 0), (0, 1), (1, 0))
    made = [operator(batch, SampleRandom(seed, epoch, np.arange(12))) for seed, epoch in keys]
    same = [[equal(a, b) for a, b in zip(made[0], other, strict=True)] for other in made[1:]]
    if not isinstance(operator, EventReverse) or len(operator.modes) > 1:
        assert not all(same[0])
        assert not all(same[1])
    assert all(equal(a, b) for a, b in zip(operator(batch, 0), made[0], strict=True))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(OPERATORS)),
    st.lists(
        st.tuples(st.integers(0, 60), st.sampled_from([1, 5, 50_000])), min_size=1, max_size=4
    ),
    st.integers(0, 10**6),
)
def test_what_holds_for_all_operators(name, sizes, seed):
    operator = OPERATORS[name]
    batch = EventBatch.of([recording(count, seed, span) for count, span in sizes])
    before = [rows(events) for events in batch]
    changed = operator(batch, seed)
    assert [rows(events) for events in batch] == before
    assert len(decreases(changed.t, changed.lengths)) == 0
    assert [getattr(changed, n).dtype for n in "txyp"] == [np.int64, np.int16, np.int16, np.uint8]
    for column, size in ((changed.x, WIDTH), (changed.y, HEIGHT), (changed.p, 2)):
        assert ((column >= 0) & (column < size)).all()
    for old, new in zip(batch, changed, strict=True):
        assert (len(new) > 0) == (len(old) > 0)
        assert len(new) <= len(old)
        if len(old):  # nothing leaves the recording's own time
            assert old.t[0] <= new.t[0]
            assert new.t[-1] <= old.t[-1]
        if name in ("reverse", "reverse y", "wrap", "clip"):
            assert len(new) == len(old)


@pytest.mark.parametrize("mode", ["time", "polarity", "x", "y"])
@pytest.mark.parametrize("options", [{}, {"ratio": (0.2, 0.7), "box": (0.3, 0.6)}])
def test_reverse_is_an_involution(mode, options):
    operator = EventReverse(1, (mode,), **options)
    events = recording(500)
    once = operator(events, 4)
    assert rows(once) != rows(events)
    # Whole recordings keep their ends, and so the fragment; others are told by the same seed only
    # if the reversal left the ends where they were.
    assert (once.t[0], once.t[-1]) == (events.t[0], events.t[-1])
    assert rows(operator(once, 4)) == rows(events)


def test_reversed_time_flips_polarity_and_stays_in_place():
    events = recording(400)
    made = EventReverse(1, ("time",))(events, 0)
    ends = int(events.t[0] + events.t[-1])
    assert rows(made) == sorted((ends - t, x, y, 1 - p) for t, x, y, p in rows(events))
    uncoupled = EventReverse(1, ("time",), couple_polarity=False)(events, 0)
    assert rows(uncoupled) == sorted((ends - t, x, y, p) for t, x, y, p in rows(events))


def test_modes_and_probability_are_what_they_say():
    batch = EventBatch.of([recording(20, seed) for seed in range(3000)])
    changed = EventReverse()(batch, 0)
    kinds = {"same": 0, "time": 0, "polarity": 0, "x": 0}
    for old, new in zip(batch, changed, strict=True):
        if equal(old, new):
            kinds["same"] += 1
        elif np.array_equal(new.t, old.t) and np.array_equal(new.x, old.x):
            kinds["polarity"] += 1
        else:
            kinds["x" if np.array_equal(new.x, WIDTH - 1 - old.x) else "time"] += 1
    assert abs(kinds["same"] / 3000 - 0.5) < 0.04
    assert all(abs(kinds[mode] / 3000 - 1 / 6) < 0.03 for mode in ("time", "polarity", "x"))


def test_drifts_reach_their_limits_and_no_further():
    centre = Events.of([0, 500, 1000], [15] * 3, [10] * 3, [1] * 3, height=HEIGHT, width=WIDTH)
    batch = EventBatch.of([centre] * 2000)
    made = EventDrift(1, ("space",))(batch, 0)
    assert sorted(set((made.x - 15).tolist())) == list(range(-3, 4))  # 0.1 of 30
    assert sorted(set((made.y - 10).tolist())) == [-2, -1, 0, 1, 2]  # 0.1 of 20
    made = EventDrift(1, ("time",), border="wrap")(batch, 0)
    middle = made.t[(made.t >= 400) & (made.t <= 600)] - 500
    assert middle.min() == -99  # 0.1 of 1000 is reached with probability 0 only
    assert middle.max() == 99
    assert len(set(middle.tolist())) > 150
    made = EventDrift(1, ("velocity",))(batch, 0)
    first, last = (np.array([events.x[end] for events in made]) for end in (0, -1))
    assert (first == 15).all()
    assert sorted(set((last - 15).tolist())) == list(range(-3, 4))


def test_fragments_limit_what_changes():
    batch = EventBatch.of([recording(1000, seed) for seed in range(40)])
    changed = EventReverse(1, ("polarity",), ratio=(0.3, 0.5), box=(0.5, 0.5))(batch, 0)
    for old, new in zip(batch, changed, strict=True):
        flipped = np.flatnonzero(old.p != new.p)
        assert len(flipped) > 0
        assert np.ptp(old.t[flipped]) <= 0.5 * old.duration
        assert np.ptp(old.x[flipped]) < WIDTH / 2
        assert np.ptp(old.y[flipped]) < HEIGHT / 2
    share = [(a.p != b.p).mean() for a, b in zip(batch, changed, strict=True)]
    assert abs(np.mean(share) - 0.4 / 4) < 0.02


def test_estf_is_both_operators_on_fragments():
    events = recording(500)
    reverse, drift = EventReverse(1), EventDrift(1)
    fragments = {"ratio": (0.3, 1.0), "box": None}
    steps = (replace(reverse, **fragments), replace(drift, **fragments))
    assert equal(ESTF(reverse, drift)(events, 5), Compose(steps)(events, 5))
    assert equal(EventID(reverse, drift)(events, 5), Compose((reverse, drift))(events, 5))
    assert EventInvert is EventReverse


def test_what_would_be_empty_is_given_back():
    edge = Events.of([0, 10], [0, 0], [0, 0], [0, 1], height=HEIGHT, width=WIDTH)
    batch = EventBatch.of([edge, recording(100)] * 60)
    made = EventDrift(1, ("space",), max_shift=1.0)(batch, 1)
    kept = [equal(a, b) for a, b in zip(batch, made, strict=True)]
    assert sum(kept[::2]) > 40  # three quarters of the shifts leave the sensor
    assert all(len(events) for events in made)
    empty = Events.of([], [], [], [], height=HEIGHT, width=WIDTH)
    assert len(EventID()(empty, 0)) == 0


# Forms of input --------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["xytp", "ptyx"])
@pytest.mark.parametrize(
    ("kind", "coding"),
    [(np.bool_, "bool"), (np.int8, "signed"), (np.uint8, "01"), (float, "signed")],
)
def test_structured_arrays_come_back_as_they_were(order, kind, coding):
    events = recording(200)
    array = np.empty(200, [(n, kind if n == "p" else np.uint16) for n in order])
    for name in order:
        array[name] = getattr(events, name)
    if coding == "signed":
        array["p"] = 2 * events.p.astype(int) - 1
    before = array.copy()
    expected = EventReverse(1)(events, 3)
    made = EventReverse(1)(array, 3, sensor=(HEIGHT, WIDTH))
    assert np.array_equal(array, before)
    assert made.dtype == array.dtype
    assert all(np.array_equal(made[name], getattr(expected, name)) for name in "txy")
    values = {"bool": [False, True], "signed": [-1, 1], "01": [0, 1]}[coding]
    assert np.array_equal(made["p"], np.array(values)[expected.p])


@pytest.mark.parametrize("kind", [np.float32, np.int64])
@pytest.mark.parametrize("signed", [False, True])
def test_plain_arrays_come_back_as_they_were(kind, signed):
    events = recording(200)
    array = events.to_array("txpy", signed=signed).astype(kind)
    made = EventID()(array, np.random.default_rng(3), columns="txpy", sensor=(HEIGHT, WIDTH))
    again = EventID()(array, np.random.default_rng(3), columns="txpy", sensor=(HEIGHT, WIDTH))
    seed = int(np.random.default_rng(3).integers(2**63))
    assert np.array_equal(made, EventID()(events, seed).to_array("txpy", signed=signed))
    assert np.array_equal(made, again)
    assert made.dtype == kind


def test_a_coding_that_cannot_be_seen_can_be_told():
    array = np.array([[1, 2, 3, 1]])
    flip = EventReverse(1, ("polarity",))
    assert flip(array, 0, sensor=(9, 9)).tolist() == [[1, 2, 3, 0]]
    assert flip(array, 0, sensor=(9, 9), signed=True).tolist() == [[1, 2, 3, -1]]


def test_unsorted_events():
    events = recording(50)
    mixed = events[np.random.default_rng(0).permutation(50)]
    with pytest.raises(DataError, match=r"time goes back from \d+ to \d+ us at event .* of 50"):
        EventID()(mixed, 0)
    assert equal(EventID()(mixed, 0, assume_sorted=False), EventID()(mixed.sort(), 0))


def test_errors_have_numbers():
    array = recording(10).to_array()
    with pytest.raises(DataError, match=r"pass sensor=\(height, width\)"):
        EventID()(array, 0)
    with pytest.raises(DataError, match="expected 0 to 4"):
        EventID()(array, 0, sensor=(5, 5))
    with pytest.raises(DataError, match=r"t\[0\] is nan"):
        EventID()(np.array([[1, 2, np.nan, 1]]), 0, sensor=(5, 5))
    with pytest.raises(DataError, match="polarity has the values \\[2\\]"):
        EventID()(np.array([[1, 2, 3, 2]]), 0, sensor=(5, 5))
    extra = np.zeros(1, [(n, np.int64) for n in "txyp"] + [("sort", np.int64)])
    with pytest.raises(DataError, match="Leave out: sort"):
        EventID()(extra, 0, sensor=(5, 5))
    with pytest.raises(DataError, match="random numbers for 3 samples; there are 1"):
        EventID()(recording(10), SampleRandom(0, 0, np.arange(3)))
    with pytest.raises(DataError, match=r"\(10, 3, 20, 30\)"):
        EventID().frames(np.zeros((10, 3, 20, 30)), 0)
    with pytest.raises(DataError, match="T of 1 at least"):
        EventID().frames(np.zeros((0, 2, 20, 30)), 0)


@pytest.mark.parametrize(
    ("operator", "options", "message"),
    [
        (EventReverse, {"p": 1.5}, "p is 1.5"),
        (EventReverse, {"modes": ()}, r"modes is \(\)"),
        (EventReverse, {"modes": "x"}, "modes is 'x'"),
        (EventReverse, {"modes": ("space",)}, "time, polarity, x, y"),
        (EventReverse, {"ratio": (0.0, 1.0)}, r"ratio is \(0.0, 1.0\)"),
        (EventReverse, {"box": (0.5, 0.2)}, r"box is \(0.5, 0.2\)"),
        (EventDrift, {"max_shift": 1.2}, "max_shift is 1.2"),
        (EventDrift, {"max_dt": float("nan")}, "max_dt is nan"),
        (EventDrift, {"border": "clip"}, "Only drifts in time can be clipped"),
    ],
)
def test_options_that_make_no_sense(operator, options, message):
    with pytest.raises(ConfigError, match=message):
        operator(**options)


# Frames ----------------------------------------------------------------------------------------


def frames_of(batch, steps, start, bin_length):
    made = np.zeros((batch.size, steps, 2, batch.height, batch.width), np.int64)
    np.add.at(made, (batch.sample, (batch.t - start) // bin_length, batch.p, batch.y, batch.x), 1)
    return made


@pytest.mark.parametrize(
    "operator",
    [
        EventReverse(modes=("time", "polarity", "x", "y")),
        EventReverse(1, couple_polarity=False),
        EventReverse(1, ("polarity", "x"), box=(0.3, 0.8)),
        EventDrift(modes=("space",)),
        EventDrift(1, ("space",), border="wrap", box=(0.3, 0.8)),
        EventID(EventReverse(1), EventDrift(1, ("space",))),
    ],
    ids=str,
)
def test_frames_are_changed_as_events_are(operator):
    steps, bin_length, start = 8, 50, 600
    rng = np.random.default_rng(0)
    recordings = []
    for _ in range(25):
        t = np.sort(rng.integers(0, steps * bin_length, 200))
        t[0], t[-1] = 0, steps * bin_length - 1
        x, y, p = (rng.integers(0, n, 200) for n in (WIDTH, HEIGHT, 2))
        recordings.append(Events(t + start, x, y, p, HEIGHT, WIDTH))
    batch = EventBatch.of(recordings)
    frames = frames_of(batch, steps, start, bin_length)
    expected = frames_of(operator(batch, 9), steps, start, bin_length)
    assert not np.array_equal(expected, frames)
    assert np.array_equal(operator.frames(frames, 9), expected)


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_frames_do_not_depend_on_their_batch_or_kind(operator):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 3, (2, 6, 5, 2, 8, 9))
    before = frames.copy()
    random = SampleRandom(1, 2, np.arange(12) * 3)
    made = operator.frames(frames, random)
    assert np.array_equal(frames, before)
    assert (made >= 0).all()
    assert made.shape == frames.shape
    assert made.dtype == frames.dtype
    flat, flat_made = frames.reshape(12, 5, 2, 8, 9), made.reshape(12, 5, 2, 8, 9)
    tensor = operator.frames(torch.from_numpy(flat).float(), random)
    assert np.array_equal(tensor.numpy(), flat_made)
    alone = operator.frames(flat[7], SampleRandom(1, 2, np.array([21])))
    assert np.array_equal(alone, flat_made[7])


@pytest.mark.parametrize("name", ["drift", "drift all", "wrap", "clip"])
def test_what_is_drawn_can_be_applied(name):
    operator = OPERATORS[name]
    batch = EventBatch.of([recording(200, seed) for seed in range(12)])
    random = SampleRandom(1, 2, np.arange(12))
    found = operator.apply(batch, operator.draw(batch, random))
    assert all(equal(a, b) for a, b in zip(found, operator(batch, random), strict=True))
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (12, 6, 2, HEIGHT, WIDTH)))
    found = operator.apply_frames(frames, operator.draw_frames(frames, random))
    assert torch.equal(found, operator.frames(frames, random))


def test_drifts_of_your_own():
    one = recording(300)
    drift = EventDrift(border="wrap")
    moved = drift.apply(one, Drifts("space", dx=3, dy=-2))
    assert equal(moved, operations.drift_space(one, 3, -2, border="wrap"))
    assert equal(drift.apply(one, Drifts("", dx=3)), one)
    batch = EventBatch.of([one, one, one])
    drifts = Drifts(["time", "", "velocity"], vx=[0, 0, 4.5], dt=[[100, -50]] * 3)
    found = drift.apply(batch, drifts)
    assert equal(found[0], operations.drift_time(one, [[100, -50]], border="wrap"))
    assert equal(found[1], one)
    assert equal(found[2], operations.drift_velocity(one, 4.5, 0, border="wrap"))
    frames = torch.rand(2, 4, 2, HEIGHT, WIDTH)
    later = drift.apply_frames(frames, Drifts(["time", "space"], dx=1, dt=1))
    assert torch.equal(later[0], frames[0].roll(1, 0))
    assert torch.equal(later[1], frames[1].roll(1, -1))
    with pytest.raises(ConfigError, match="no mode 'place'"):
        drift.apply(one, Drifts("place"))
