"""From event streams to dense tensors that networks take: frames, voxel grids, EST, time surfaces.

Every function of `events` takes one recording (`Events`) or a ragged batch of them (`EventBatch`)
and works on the whole batch at once. Results are torch tensors on the CPU, of the type `dtype`; a
batch has one more axis, B, in front of the shapes told. Polarity channels are OFF, then ON. A
recording without events gives zeros.

Raises:
    ConfigError: A number of steps or bins below 1 (for `est` 2), or an option of no known value.
    DataError: An event lies outside the sensor, or times decrease within a recording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from modicum.errors import ConfigError, DataError
from modicum.events.container import EventBatch, Events
from modicum.events.operations import decreases, first_and_last, search

SplitBy: TypeAlias = Literal["number", "time", "equal"]
Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Shares: TypeAlias = tuple[Integers, Floats]
"""Channel of the grid for each event, and what the event adds there."""

_CHUNK = 2**15
"""Events worked on at a time, so that what is computed of them stays in the processor's cache."""


def frames(
    events: Events | EventBatch,
    steps: int,
    split_by: SplitBy = "number",
    *,
    clip: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Count the events of each pixel and polarity in consecutive parts of the recording.

    With N events from time t0 to time t1, the frame of an event is

    - `"number"`: d = N // steps events a frame, the last frame takes the rest;
    - `"time"`: dt = (t1 - t0) // steps microseconds a frame, the last frame takes the rest (the
      rule of SpikingJelly);
    - `"equal"`: (t - t0) * steps // (t1 - t0 + 1), which differs in length by 1 us at most.

    Args:
        events: One recording or a batch.
        steps: Number of frames, T.
        split_by: Which of the rules.
        clip: Largest count to keep; 1 makes frames binary. None: all.
        dtype: Of the result. Counts too large for an integer type become its largest number.

    Returns:
        `(T, 2, H, W)`, or `(B, T, 2, H, W)` for a batch.
    """
    if clip is not None and clip < 1:
        raise ConfigError(f"frames: found clip={clip}, expected 1 or more, or None.")
    batch = _checked(events, steps)
    bounds = _frame_bounds(batch, steps, split_by)
    area = batch.height * batch.width
    counts = np.zeros((batch.size, steps, 2, batch.height, batch.width), np.int32)
    for part in _chunks(len(batch)):
        cell = _numbers_of_runs(bounds, part) * 2 * area + _cells(batch, part)
        # Measured against np.bincount: as fast, and without a temporary as large as the result.
        np.add.at(counts.reshape(-1), cell, np.int32(1))
    largest = clip
    if not dtype.is_floating_point:
        largest = min(torch.iinfo(dtype).max, clip or torch.iinfo(dtype).max)
    if largest is not None:
        np.minimum(counts, largest, out=counts)
    return _like(events, torch.from_numpy(counts).to(dtype))


def event_count(
    events: Events | EventBatch, *, binary: bool = False, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Count the events of each pixel and polarity over the whole recording, `(2, H, W)`.

    `binary` gives 1 for any positive count, as EventDrop's code does despite the name.
    """
    return frames(events, 1, clip=1 if binary else None, dtype=dtype).squeeze(-4)


def event_frame(
    events: Events | EventBatch, *, binary: bool = False, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Count the events of each pixel, of both polarities together, `(1, H, W)`.

    `binary` makes the map of each polarity binary before adding them, so values are 0, 1 and 2, as
    EventDrop's code does.
    """
    return event_count(events, binary=binary, dtype=dtype).sum(-3, keepdim=True, dtype=dtype)


def voxel_grid(
    events: Events | EventBatch,
    bins: int,
    kind: Literal["bilinear", "eventdrop", "eventdrop_official"] = "bilinear",
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Sum events in C bins of time, without polarity channels: `(C, H, W)`.

    - `"bilinear"` (Rebecq et al., E2VID; tonic): an event at `s = bins (t - t0) / (t1 - t0)` gives
      its polarity, -1 or 1, to the bins floor(s) and floor(s) + 1 in proportion to its nearness.
      The share of bins past the last is lost.
    - `"eventdrop"`: bin i counts the events with `i / bins < t / t1 <= (i + 1) / bins`; events at
      t = 0 belong to the first bin. Times count from 0, not from the first event.
    - `"eventdrop_official"`: as EventDrop's code has it, which loses the events at t = 0.

    Raises:
        DataError: A time below 0, for EventDrop's kinds.
    """
    batch = _checked(events, bins)
    first, last = first_and_last(batch)

    def bilinear(part: slice, sample: Integers) -> Iterator[Shares]:
        span = np.maximum(last - first, 1)[sample]
        lower, rest = np.divmod(bins * (batch.t[part] - first[sample]), span)
        share = rest / span
        sign = 2.0 * batch.p[part] - 1.0
        yield lower, sign * (1 - share)
        yield lower + 1, sign * share

    def eventdrop(part: slice, sample: Integers) -> Iterator[Shares]:
        # The bound i / bins of a bin belongs to the bin before it: rounded up, less 1.
        channel = -(-bins * batch.t[part] // np.maximum(last, 1)[sample]) - 1
        if kind == "eventdrop":
            channel = np.maximum(channel, 0)
        yield channel, np.ones(len(channel))

    if kind == "bilinear":
        return _like(events, _sum_shares(batch, bins, bilinear, dtype))
    if kind not in ("eventdrop", "eventdrop_official"):
        raise ConfigError(
            f"voxel_grid: found kind={kind!r}, expected 'bilinear', 'eventdrop' or "
            f"'eventdrop_official'."
        )
    refuse_negative_times(batch)
    return _like(events, _sum_shares(batch, bins, eventdrop, dtype))


def est(
    events: Events | EventBatch,
    bins: int,
    *,
    official_kernel: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The event spike tensor (Gehrig et al., ICCV 2019) with its fixed, trilinear kernel.

    With `s = t / t1` of its recording, an event adds `s * max(0, 1 - |(bins - 1) s - i|)` to bin i
    of its pixel and polarity. Times count from 0, not from the first event, and none is below. Of C
    bins, 2 or more, the result is `(2C, H, W)`: C bins of OFF events, then C bins of ON.

    With `official_kernel`, the kernel is 0 in place of 1 exactly at the centre of a bin, as in the
    authors' code, so that the last event of each recording vanishes.
    """
    if bins < 2:
        raise ConfigError(f"est: found {bins} bins, expected 2 or more.")
    batch = _checked(events, bins)
    refuse_negative_times(batch)
    _, last = first_and_last(batch)

    def trilinear(part: slice, sample: Integers) -> Iterator[Shares]:
        t, span = batch.t[part], np.maximum(last, 1)[sample]
        lower, rest = np.divmod((bins - 1) * t, span)
        share = rest / span
        at_lower = np.where(rest == 0, 0.0, 1 - share) if official_kernel else 1 - share
        # The last event has no bin after its own; its share there is 0.
        upper = np.minimum(lower + 1, bins - 1)
        off_or_on = bins * batch.p[part].astype(np.int64)
        yield off_or_on + lower, t / span * at_lower
        yield off_or_on + upper, t / span * share

    return _like(events, _sum_shares(batch, 2 * bins, trilinear, dtype))


def time_surface(
    events: Events | EventBatch,
    steps: int = 1,
    *,
    decay: float = 50_000.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """How recently each pixel and polarity fired: `exp(-(now - time of its last event) / decay)`.

    It is taken at the ends of `steps` parts of equal time (see `frames`), the last of which is the
    time of the last event; 0 where nothing has fired yet. After Lagorce et al., "HOTS" (2017).
    `decay` is in microseconds, the result `(T, 2, H, W)`.
    """
    if not decay > 0:
        raise ConfigError(f"time_surface: found decay={decay}, expected microseconds above 0.")
    batch = _checked(events, steps)
    shape = (batch.size, steps, 2, batch.height, batch.width)
    area = batch.height * batch.width
    never = np.iinfo(np.int64).min
    last = np.full(batch.size * steps * 2 * area, never)
    bounds = _frame_bounds(batch, steps, "equal")
    for part in _chunks(len(batch)):
        # Assigned to in order of time, a cell keeps its last event.
        last[_numbers_of_runs(bounds, part) * 2 * area + _cells(batch, part)] = batch.t[part]
    last = np.maximum.accumulate(last.reshape(shape), axis=1)
    start, end = first_and_last(batch)
    now = _equal_starts(start, end, np.arange(1, steps + 1), steps) - 1
    age = np.where(last == never, np.inf, now[:, :, None, None, None] - last)
    return _like(events, torch.from_numpy(np.exp(-age / decay)).to(dtype))


def resize_frames(
    frames: Tensor, size: int | tuple[int, int], mode: Literal["bilinear", "nearest"] = "bilinear"
) -> Tensor:
    """Frames `(..., H, W)` of any number type as float32 `(..., height, width)`.

    Args:
        frames: Such as `(B, T, 2, H, W)`.
        size: New side, or (height, width), such as 48.
        mode: `"bilinear"` averages over what a new pixel covers, as TET's preparation through
            Pillow does; `"nearest"` picks one, as NDA's does.
    """
    height, width = (size, size) if isinstance(size, int) else size
    stacked = frames.reshape(-1, 1, *frames.shape[-2:]).float()
    resized = functional.interpolate(
        stacked, (height, width), mode=mode, antialias=mode == "bilinear"
    )
    return resized.view(*frames.shape[:-2], height, width)


def normalise_frames(frames: Tensor, how: Literal["max", "none", "clip1"]) -> Tensor:
    """Bring counts `(..., 2, H, W)` to the range a recipe expects, as float32.

    `"max"` divides each frame by its own largest count, of both polarities (TET); `"clip1"` makes
    counts 0 or 1; `"none"` leaves them (NDA).

    Raises:
        ConfigError: There is no such way.
        DataError: A value is negative or NaN, and so no count.
    """
    frames = frames.float()
    if frames.numel() and not bool(frames.min() >= 0):  # a NaN makes the minimum NaN
        what = "NaN" if bool(frames.isnan().any()) else "negative values"
        raise DataError(
            f"normalise_frames: frames hold {what}; expected counts of events, 0 or more. Check "
            f"the recording and its representation."
        )
    if how == "max":
        return frames / frames.amax((-3, -2, -1), keepdim=True).clamp_min(1.0)
    if how == "clip1":
        return frames.clamp_max(1.0)
    if how != "none":
        raise ConfigError(f"normalise_frames: found {how!r}, expected 'max', 'none' or 'clip1'.")
    return frames


def refuse_negative_times(batch: EventBatch) -> None:
    """Raise a `DataError` for times below 0, for what divides times by the largest."""
    if len(batch) and batch.t.min() < 0:
        raise DataError(
            f"events: found a time of {batch.t.min()} us; this representation divides times by the "
            f"largest, so it expects 0 or more. Shift the times to start at 0."
        )


def _sum_shares(
    batch: EventBatch,
    channels: int,
    shares: Callable[[slice, Integers], Iterator[Shares]],
    dtype: torch.dtype,
) -> Tensor:
    """The grid `(B, channels, H, W)` of the sums of what events give to its cells.

    `shares` is called with a part of the events and the recording of each. It yields channels
    `(n,)` and what each event adds to its pixel there; channels that are not there are left out.
    """
    area = batch.height * batch.width
    sums = np.zeros((batch.size, channels, batch.height, batch.width))
    for part in _chunks(len(batch)):
        sample = _numbers_of_runs(batch.starts, part)
        pixel = _pixels(batch, part)
        for channel, weight in shares(part, sample):
            inside = (channel >= 0) & (channel < channels)
            cell = (sample * channels + np.where(inside, channel, 0)) * area + pixel
            np.add.at(sums.reshape(-1), cell, np.where(inside, weight, 0.0))
    return torch.from_numpy(sums).to(dtype)


def _checked(events: Events | EventBatch, parts: int) -> EventBatch:
    """The events as a batch; raises what the text of this module says."""
    if parts < 1:
        raise ConfigError(f"representations: found {parts} steps or bins, expected 1 or more.")
    batch = EventBatch.of([events]) if isinstance(events, Events) else events
    if not len(batch):
        return batch
    for name, size in (("x", batch.width), ("y", batch.height), ("p", 2)):
        column: npt.NDArray[Any] = getattr(batch, name)
        low, high = int(column.min()), int(column.max())
        if low < 0 or high >= size:
            raise DataError(
                f"events: {name} goes from {low} to {high}; expected 0 to {size - 1} with a sensor "
                f"of {batch.height} rows and {batch.width} columns. Events.of checks such values."
            )
    if len(places := decreases(batch.t, batch.lengths)):
        raise DataError(
            f"events: time goes back from {batch.t[places[0] - 1]} to {batch.t[places[0]]} us at "
            f"event {places[0]}; representations need events in order of time. Use Events.sort()."
        )
    return batch


def _like(events: Events | EventBatch, result: Tensor) -> Tensor:
    """Without the axis of the batch, for one recording."""
    return result[0] if isinstance(events, Events) else result


def _chunks(length: int) -> Iterator[slice]:
    for start in range(0, length, _CHUNK):
        yield slice(start, min(start + _CHUNK, length))


def _pixels(batch: EventBatch, part: slice) -> Integers:
    """Number of the pixel of each event: y * width + x."""
    pixel = batch.y[part].astype(np.int64)
    pixel *= batch.width
    pixel += batch.x[part]
    return pixel


def _cells(batch: EventBatch, part: slice) -> Integers:
    """Number of the pixel and polarity of each event: (p * height + y) * width + x."""
    cell = _pixels(batch, part)
    cell += batch.p[part] * np.int64(batch.height * batch.width)
    return cell


def _frame_bounds(batch: EventBatch, steps: int, split_by: SplitBy) -> Integers:
    """Where each frame of each recording starts among the events, and N: (B * steps + 1,).

    Events are in order, so a frame is a run of them, and only its start has to be found.
    """
    step = np.arange(steps)
    if split_by == "number":
        first_of_frame = batch.starts[:-1, None] + batch.lengths[:, None] // steps * step
    elif split_by in ("time", "equal"):
        first, last = first_and_last(batch)
        if split_by == "time":
            start_time = first[:, None] + (last - first)[:, None] // steps * step
        else:
            start_time = _equal_starts(first, last, step, steps)
        first_of_frame = search(batch, start_time, "left")
    else:
        raise ConfigError(
            f"frames: found split_by={split_by!r}, expected 'number', 'time' or 'equal'."
        )
    return np.append(first_of_frame.ravel(), len(batch))


def _equal_starts(first: Integers, last: Integers, step: Integers, steps: int) -> Integers:
    """The first microsecond whose (t - first) * steps // (last - first + 1) is `step`: (B, T)."""
    span = (last - first + 1)[:, None]
    return first[:, None] - -step * span // steps


def _numbers_of_runs(bounds: Integers, part: slice) -> Integers:
    """Which of the runs that start at `bounds` each event of a slice is in."""
    first, last = np.searchsorted(bounds, (part.start, part.stop), side="right") - 1
    lengths = np.diff(bounds[first : last + 2].clip(part.start, part.stop))
    return np.repeat(np.arange(first, first + len(lengths)), lengths)
