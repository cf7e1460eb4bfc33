from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from modicum.engine.random import SampleRandom
from modicum.errors import ConfigError
from modicum.events import EventBatch, Events
from modicum.events.operations import Fragments
from modicum.methods.apbs.stcf import STCF, Crops

HEIGHT, WIDTH = 20, 30
ALL = {"crop_time": 1, "crop_space": 1, "flip": 1, "flip_time": 1}
OPERATORS = {
    "default": STCF(),
    "resize": STCF(**ALL),
    "keep": STCF(**ALL, space="keep"),
    "pad": STCF(**ALL, space="pad"),
    "strong": STCF(0.7, 0.7, 0.5, 0.5, length=(0.1, 0.3), side=(0.05, 0.4)),
}
GOLDEN = load_file(Path(__file__).parents[2] / "golden/apbs/stcf.safetensors")


def recording(count, seed=0, span=50_000):
    rng = np.random.default_rng(seed)
    x, y, p = (rng.integers(0, n, count) for n in (WIDTH, HEIGHT, 2))
    return Events(np.sort(rng.integers(0, span, count)) + 7000, x, y, p, HEIGHT, WIDTH)


def equal(one, other):
    return np.array_equal(one.to_array(), other.to_array())


def window(start, end):
    return Fragments(np.array([start]), np.array([end]))


def test_golden_all_four_in_order():
    columns = {name: GOLDEN[f"in.{name}"] for name in "txyp"}
    events = Events.of(*columns.values(), height=28, width=36)
    x0, y0, width, height = GOLDEN["crop_space.x0y0wh"].tolist()
    crops = Crops(
        window=window(*GOLDEN["crop_time.window"].tolist()),
        box=(x0, y0, x0 + width - 1, y0 + height - 1),
        flip=True,
        flip_time=True,
    )
    found = STCF().apply(events, crops)
    for name in "txyp":
        assert np.array_equal(getattr(found, name), GOLDEN[f"stcf_all.{name}"])
    of_batch = STCF().apply(EventBatch.of([events]), crops)
    assert equal(of_batch[0], found)


def test_golden_frames():
    frames = torch.from_numpy(GOLDEN["frames.in"])[None]
    a, b = GOLDEN["frames.crop_time_a_b"].tolist()
    pad, top, left = GOLDEN["frames.padcrop_pad_oy_ox"].tolist()
    for name, crops in {
        "crop_time_nearest": Crops(window(a, b - 1)),
        "flip_x": Crops(flip=True),
        "flip_time": Crops(flip_time=True),
        # A window at (top, left) of the padded frame is a shift by pad - left and pad - top.
        "padcrop": Crops(dx=pad - left, dy=pad - top),
    }.items():
        found = STCF().apply_frames(frames, crops)
        assert np.array_equal(found[0].numpy(), GOLDEN[f"frames.{name}"]), name


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_what_is_drawn_can_be_applied(operator):
    batch = EventBatch.of([recording(200, seed) for seed in range(12)])
    random = SampleRandom(1, 2, np.arange(12))
    drawn = operator.draw(batch, random)
    expected = operator(batch, random)
    found = operator.apply(batch, drawn)
    assert all(equal(a, b) for a, b in zip(found, expected, strict=True))
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (12, 6, 2, HEIGHT, WIDTH)))
    found = operator.apply_frames(frames, operator.draw_frames(frames, random))
    assert torch.equal(found, operator.frames(frames, random))


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_a_sample_does_not_depend_on_its_batch(operator):
    recordings = [recording(count, count) for count in (300, 0, 1, 80, 1000, 2, 5, 300)]
    index = np.arange(8) * 3 + 1
    whole = operator(EventBatch.of(recordings), SampleRandom(1, 2, index))
    frames = np.random.default_rng(0).integers(0, 3, (8, 6, 2, HEIGHT, WIDTH))
    made = operator.frames(frames, SampleRandom(1, 2, index))
    before = frames.copy()
    for number, events in enumerate(recordings):
        random = SampleRandom(1, 2, index[number : number + 1])
        assert equal(operator(events, random), whole[number])
        assert np.array_equal(operator.frames(frames[number], random), made[number])
    assert np.array_equal(frames, before)
    tensor = operator.frames(torch.from_numpy(frames).float(), SampleRandom(1, 2, index))
    assert np.array_equal(tensor.numpy(), made)
    assert not np.array_equal(operator.frames(frames, SampleRandom(1, 3, index)), made)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(OPERATORS)),
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from([1, 5, 50_000])), min_size=1),
    st.integers(0, 10**6),
)
def test_what_holds_for_all(name, sizes, seed):
    batch = EventBatch.of([recording(count, seed, span) for count, span in sizes])
    before = [events.to_array() for events in batch]
    changed = OPERATORS[name](batch, seed)
    for old, new, copy in zip(batch, changed, before, strict=True):
        assert np.array_equal(old.to_array(), copy)
        assert (len(new) > 0) == (len(old) > 0)
        assert len(new) <= len(old)
        assert new.is_sorted
        if len(old):
            assert old.t[0] <= new.t[0]
            assert new.t[-1] <= old.t[-1]
    for column, size in ((changed.x, WIDTH), (changed.y, HEIGHT), (changed.p, 2)):
        assert ((column >= 0) & (column < size)).all()


@pytest.mark.parametrize(
    "operator",
    [
        STCF(0, 1, 1, 0),
        STCF(0, 0.5, 0.5, 0.5, side=(0.3, 0.7)),
        STCF(0, 0.7, 0.5, 0.5, space="keep"),
        STCF(0, 0.7, 0.5, 0.5, space="pad"),
    ],
    ids=str,
)
def test_frames_are_changed_as_events_are(operator):
    rng = np.random.default_rng(0)
    recordings = []
    for _ in range(30):
        t = np.sort(rng.integers(0, 8 * 50, 200))
        t[0], t[-1] = 0, 8 * 50 - 1
        x, y, p = (rng.integers(0, n, 200) for n in (WIDTH, HEIGHT, 2))
        recordings.append(Events(t + 600, x, y, p, HEIGHT, WIDTH))
    batch = EventBatch.of(recordings)

    def frames_of(batch):
        made = np.zeros((batch.size, 8, 2, HEIGHT, WIDTH), np.int64)
        np.add.at(made, (batch.sample, (batch.t - 600) // 50, batch.p, batch.y, batch.x), 1)
        return made

    expected = frames_of(operator(batch, 9))
    assert not np.array_equal(expected, frames_of(batch))
    assert np.array_equal(operator.frames(frames_of(batch), 9), expected)


def test_chances_and_shares():
    batch = EventBatch.of([recording(400, seed) for seed in range(800)])
    made = STCF(0.5, 0, 0)(batch, 0)
    cut = made.lengths < batch.lengths
    assert abs(cut.mean() - 0.5) < 0.06
    assert abs((made.lengths / 400)[cut].mean() - 0.9) < 0.01
    made = STCF(0, 1, 0, space="keep")(batch, 0)
    assert abs((made.lengths / 400).mean() - 0.925**2) < 0.02
    flipped = STCF(0, 0, 0.5)(batch, 0)
    share = np.mean([not equal(a, b) for a, b in zip(batch, flipped, strict=True)])
    assert abs(share - 0.5) < 0.06
    made = STCF(0, 0, 0, 1)(batch, 0)  # time and polarity, both together
    assert (made.p.sum(), len(made)) == (len(batch) - batch.p.sum(), len(batch))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip": 1.5}, "flip is 1.5"),
        ({"crop_time": float("nan")}, "crop_time is nan"),
        ({"length": (0, 1)}, r"length is \(0, 1\)"),
        ({"side": (0.9, 0.8)}, r"side is \(0.9, 0.8\)"),
        ({"space": "zoom"}, "space='zoom'"),
        ({"pad": -1}, "pad=-1"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ConfigError, match=message):
        STCF(**options)
