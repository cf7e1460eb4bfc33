from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.errors import DataError
from modicum.events import EventBatch, Events

SIMPLE = Events.of([1, 5, 5, 9], [0, 1, 2, 3], [3, 2, 1, 0], [0, 1, 1, 0], height=4, width=5)


def same(one: Events, other: Events) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in "txyp")


def test_columns_have_fixed_types_and_cannot_be_written_to() -> None:
    t = np.array([1.7, 2.0])
    events = Events.of(t, np.array([0, 1], np.uint8), [1, 0], np.array([True, False]))
    kinds = [getattr(events, name).dtype for name in "txyp"]
    assert kinds == [np.int64, np.int16, np.int16, np.uint8]
    assert events.t.tolist() == [1, 2]
    assert (events.height, events.width) == (2, 2)
    for name in "txyp":
        with pytest.raises(ValueError, match="read-only"):
            getattr(events, name)[0] = 1
    t[0] = 5  # the caller's own array can still be written to
    assert events.t.tolist() == [1, 2]


@pytest.mark.parametrize("coding", [[0, 1, 1, 0], [-1, 1, 1, -1], [False, True, True, False]])
def test_polarity_may_be_coded_in_three_ways(coding: list[int]) -> None:
    assert Events.of([1, 2, 3, 4], [0] * 4, [0] * 4, coding).p.tolist() == [0, 1, 1, 0]
    as_float = np.array(coding, np.float32)
    assert Events.of([1, 2, 3, 4], [0] * 4, [0] * 4, as_float).p.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": [0, 5]}, r"x goes from 0 to 5.*4 rows and 5 columns: expected 0 to 4"),
        ({"y": [-1, 0]}, r"y goes from -1 to 0"),
        ({"p": [-1, 0]}, r"polarity has the values \[-1, 0\]"),
        ({"p": [0, 2]}, r"polarity has the values \[0, 2\]"),
        ({"p": [0.5, 1]}, r"p\[0\] is 0.5"),
        ({"x": [0.5, 1]}, r"x\[0\] is 0.5"),
        ({"t": [0, np.nan]}, r"t\[1\] is nan; expected a whole number. Such values: 1 of 2"),
        ({"t": [0, np.inf]}, r"t\[1\] is inf"),
        ({"t": [0, 1e19]}, r"t\[1\] is 1e\+19"),
        ({"t": np.array([0, 2**63], np.uint64)}, r"t\[1\] is 9223372036854775808"),
        ({"t": ["0", "1"]}, r"t is of type <U1; expected numbers"),
        ({"x": [0, 1, 2]}, r"shapes .*'x': \(3,\)"),
        ({"x": [[0, 1]]}, r"expected four of one length"),
    ],
)
def test_values_that_are_no_events_are_refused(changes: dict[str, object], message: str) -> None:
    columns: dict[str, object] = {"t": [0, 1], "x": [0, 1], "y": [0, 1], "p": [0, 1]}
    with pytest.raises(DataError, match=message):
        Events.of(**(columns | changes), height=4, width=5)  # type: ignore[arg-type]


@pytest.mark.parametrize("side", [0, -1, 2**15 + 1])
def test_the_sensor_has_a_size(side: int) -> None:
    empty = np.zeros(0)
    with pytest.raises(ValueError, match="expected sides of 1 to 32768"):
        Events(empty, empty, empty, empty, side, 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("sides", [{"height": 0}, {"width": 0}, {"height": -3, "width": 4}])
def test_a_sensor_without_pixels_is_refused(sides: dict[str, int]) -> None:
    for columns in ([], [0]):
        with pytest.raises(DataError, match="expected sides of 1 to 32768"):
            Events.of(columns, columns, columns, columns, **sides)


def test_constructor_looks_at_shapes() -> None:
    two, three = np.zeros(2), np.zeros(3)
    with pytest.raises(ValueError, match=r"column y has the shape \(3,\), expected \(2,\)"):
        Events(two, two, three, two, 4, 4)  # type: ignore[arg-type]


def test_empty_recordings_work() -> None:
    empty = Events.of([], [], [], [], height=3, width=3)
    assert (len(empty), empty.duration, empty.is_sorted) == (0, 0, True)
    assert empty.sort() is empty
    assert empty.to_array().shape == (0, 4)
    assert same(Events.from_structured(empty.to_structured()), empty)


EVENTS = st.lists(
    st.tuples(
        st.integers(-(2**62), 2**62), st.integers(0, 99), st.integers(0, 49), st.integers(0, 1)
    ),
    max_size=20,
).map(
    lambda rows: Events.of(
        *(np.array([row[k] for row in rows], np.int64) for k in range(4)), height=50, width=100
    )
)


@settings(deadline=None)
@given(events=EVENTS, order=st.permutations("txyp"), signed=st.booleans())
def test_arrays_and_structured_arrays_give_the_same_events_back(
    events: Events, order: list[str], signed: bool
) -> None:
    columns = "".join(order)
    structured = events.to_structured(columns)
    assert structured.dtype.names == tuple(order)
    assert same(Events.from_structured(structured, height=50, width=100), events)
    array = events.to_array(columns, signed=signed)
    assert same(Events.from_array(array, columns, height=50, width=100), events)


def test_arrays_of_other_shapes_are_refused() -> None:
    with pytest.raises(DataError, match=r"shape \(2, 3\)"):
        Events.from_array(np.zeros((2, 3)))
    with pytest.raises(DataError, match="letters t, x, y, p"):
        Events.from_array(np.zeros((2, 4)), "xytz")
    with pytest.raises(DataError, match="fields t, x, y; missing: p"):
        Events.from_structured(np.zeros(2, [("t", "i8"), ("x", "i2"), ("y", "i2")]))


@settings(deadline=None)
@given(events=EVENTS)
def test_sorting_is_stable(events: Events) -> None:
    rows = events.to_array("txyp").tolist()
    expected = sorted(rows, key=lambda row: row[0])
    assert events.sort().to_array("txyp").tolist() == expected
    assert events.is_sorted == (
        rows == expected or [r[0] for r in rows] == [r[0] for r in expected]
    )


def test_selecting_keeps_the_sensor() -> None:
    for key in (slice(1, 3), np.array([1, 2]), np.array([False, True, True, False])):
        part = SIMPLE[key]
        assert part.to_array("txyp").tolist() == [[5, 1, 2, 1], [5, 2, 1, 1]]
        assert (part.height, part.width) == (4, 5)
    assert SIMPLE.duration == 8
    assert SIMPLE.replace(height=9).height == 9
    assert "4 events" in repr(SIMPLE)


def test_copies_cannot_be_written_to_either() -> None:
    """As those that worker processes send."""
    batch = EventBatch.of([SIMPLE, SIMPLE[1:]])
    for made in (SIMPLE, batch):
        for other in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made), copy.copy(made)):
            assert type(other) is type(made)
            assert same(other, made)
            assert (other.height, other.width) == (4, 5)
            assert not any(getattr(other, name).flags.writeable for name in "txyp")
    assert pickle.loads(pickle.dumps(batch)).starts.tolist() == [0, 4, 7]


def test_a_larger_sensor_is_taken_and_a_smaller_one_refused() -> None:
    assert SIMPLE.on_sensor(4, 9).width == 9
    with pytest.raises(DataError, match=r"a sensor of 4 x 5 pixels .* expected was one of 4 x 3"):
        SIMPLE.on_sensor(4, 3)


def test_batches_give_their_recordings_back() -> None:
    empty = Events.of([], [], [], [], height=1, width=9)
    parts = [SIMPLE, empty, SIMPLE[1:]]
    batch = EventBatch.of(parts)
    assert (batch.size, len(batch), batch.height, batch.width) == (3, 7, 4, 9)
    assert batch.lengths.tolist() == [4, 0, 3]
    assert batch.sample.tolist() == [0, 0, 0, 0, 2, 2, 2]
    assert all(same(one, other) for one, other in zip(batch, parts, strict=True))
    assert same(batch[-1], parts[-1])
    assert [len(events) for events in batch[1:]] == [0, 3]
    with pytest.raises(IndexError):
        batch[3]
    kept = batch.keep(batch.p == 1)
    assert kept.lengths.tolist() == [2, 0, 2]
    assert same(kept[2], SIMPLE[1:3])
    assert EventBatch.of([SIMPLE]).size == 1
    with pytest.raises(DataError, match="at least one recording"):
        EventBatch.of([])
