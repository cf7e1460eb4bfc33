"""An event camera in software: from brightness to events.

Each pixel keeps the logarithm of the brightness at its last event. When the brightness has moved
from there by a threshold, the pixel fires and takes the new level as its reference. Between two
pictures of a video, brightness is taken to change linearly in its logarithm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from modicum.engine.random import uniform
from modicum.errors import ConfigError
from modicum.events.container import EventBatch

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Fired: TypeAlias = tuple[Integers, Integers, npt.NDArray[np.bool_]]
"""Events in columns: pixel in the batch, time in microseconds, whether ON."""

_TIE = 1e-6
"""Share of a threshold by which a change may miss it. Where a pixel returns to an earlier level,
the change is often the threshold itself, and rounding shall not decide whether it fires."""


@dataclass(frozen=True)
class Conditions:
    """The camera and the light. The defaults are those of the built-in recordings."""

    threshold_on: float = 0.25
    """Rise of the logarithm of brightness that makes an ON event."""
    threshold_off: float = 0.25
    """Fall that makes an OFF event."""
    threshold_sigma: float = 0.03
    """Standard deviation of the thresholds among pixels. A pixel's two thresholds deviate by the
    same amount (inferred), so that a negated scene flips polarities and does nothing else."""
    noise_rate: float = 0.1
    """Events without a cause, per second and pixel."""
    dark: float = 0.1
    """Brightness of black: the camera sees `log(gain * (intensity + dark))`. (That `gain` lights
    black as well is inferred; a constant gain then changes nothing.)"""
    gain: float | Callable[[Floats], Floats] = 1.0
    """Strength of the light, or a function that gives it for times `(T,)` in seconds."""
    negate: bool = False
    """Negate the logarithm of brightness."""
    invert: bool = False
    """Take 1 - intensity for the intensity, a photographic negative."""

    def __post_init__(self) -> None:
        for name in ("threshold_on", "threshold_off", "dark"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: found {getattr(self, name)}, expected more than 0.")
        for name in ("threshold_sigma", "noise_rate"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name}: found {getattr(self, name)}, expected 0 or more.")


ORDINARY = Conditions()
IDEAL = Conditions(threshold_sigma=0.0, noise_rate=0.0)
"""A camera whose pixels are all alike and never fire without a cause."""


class TooManyEvents(Exception):  # noqa: N818
    """A video gives more events than were expected at most."""


def record(
    pictures: Iterable[Floats], times: Integers, conditions: Conditions, seed: int, index: Integers,
    most: int | None = None,
) -> EventBatch:  # fmt: skip
    """What cameras would record of a batch of videos, in a loop over time alone.

    `pictures` are intensities (B, H, W) at each of the times in microseconds, (T,); `index` has the
    number of each sample, (B,), for its random numbers. `TooManyEvents` is raised where there are
    more than `most`.
    """
    seconds = (times - times[0]) / 1e6
    gain = conditions.gain(seconds) if callable(conditions.gain) else conditions.gain
    if not (np.asarray(gain) > 0).all():
        raise ConfigError("gain: found values that are not above 0; light cannot be negative.")
    log_gain = np.broadcast_to(np.log(gain), len(times))

    steps = zip(times, log_gain, pictures, strict=True)
    before, first_gain, picture = next(steps)
    shape = picture.shape
    level = _log_brightness(picture, first_gain, conditions)
    reference = level.copy()  # the level at each pixel's last event
    on, off = _thresholds(conditions, seed, index, shape[1] * shape[2])
    fires_on, fires_off = on * (1 - _TIE), -off * (1 - _TIE)
    found: list[Fired] = [_noise(conditions, seed, index, shape, times)]
    counted = 0
    for now, step_gain, picture in steps:
        previous, level = level, _log_brightness(picture, step_gain, conditions)
        change = level - reference
        place = np.flatnonzero((change >= fires_on) | (change <= fires_off))
        rises = change[place] > 0
        threshold = np.where(rises, on[place], off[place])
        crossings = np.floor(np.abs(change[place]) / threshold + _TIE).astype(np.int64)
        counted += int(crossings.sum())
        if most is not None and counted > most:
            raise TooManyEvents
        step = np.where(rises, threshold, -threshold)
        # An event for each crossing; `order` counts those of one pixel from 1.
        event = np.repeat(np.arange(len(place)), crossings)
        order = np.arange(1, len(event) + 1) - (np.cumsum(crossings) - crossings)[event]
        start = previous[place]
        slope = level[place] - start
        way = (reference[place] - start)[event] + order * step[event]
        share = np.clip(way / np.where(slope == 0, 1.0, slope)[event], 0.0, 1.0)
        time = before + (share * (now - before)).astype(np.int64)
        found.append((place[event], time, rises[event]))
        reference[place] += crossings * step
        before = now
    return _batch_of(found, shape, times)


def _log_brightness(picture: Floats, log_gain: np.float64, conditions: Conditions) -> Floats:
    """The level each pixel sees, (B * H * W,)."""
    intensity = 1 - picture if conditions.invert else picture
    level = np.log(intensity.ravel() + conditions.dark)
    level += log_gain
    return -level if conditions.negate else level


def _thresholds(conditions: Conditions, seed: int, index: Integers, area: int) -> list[Floats]:
    """ON and OFF thresholds of each pixel, (B * H * W,), never below a tenth of the mean."""
    draws = torch.from_numpy(uniform(index, area, seed, "thresholds of the pixels").ravel())
    normal = torch.special.ndtri(draws.clamp_min_(2.0**-54)).numpy()
    deviation = conditions.threshold_sigma * normal
    means = (conditions.threshold_on, conditions.threshold_off)
    return [np.maximum(mean + deviation, 0.1 * mean) for mean in means]


def _noise(
    conditions: Conditions, seed: int, index: Integers, shape: tuple[int, ...], times: Integers
) -> Fired:
    """Events of a Poisson process a sample: pixel in the batch, time, whether ON.

    Gaps between its events are exponentially distributed. Enough are drawn to reach the end: their
    number has ten standard deviations to spare.
    """
    area = shape[1] * shape[2]
    rate, duration = conditions.noise_rate * area / 1e6, int(times[-1] - times[0])
    mean = rate * duration
    if mean == 0:
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, np.zeros(0, np.bool_)
    draws = int(mean + 10 * np.sqrt(mean) + 10)
    gaps = -np.log1p(-uniform(index, draws, seed, "gaps of the noise")) / rate
    time = np.cumsum(gaps, axis=1)
    sample, number = np.nonzero(time < duration)
    pixel_and_sign = np.floor(uniform(index, draws, seed, "pixels of the noise") * (2 * area))
    drawn = pixel_and_sign.astype(np.int64)[sample, number]
    when = times[0] + time[sample, number].astype(np.int64)
    return sample * area + drawn // 2, when, drawn % 2 > 0


def _batch_of(found: Sequence[Fired], shape: tuple[int, ...], times: Integers) -> EventBatch:
    """Events in order of sample, then time, from (pixel in the batch, time, whether ON)."""
    count, height, width = shape
    place, time, rises = (np.concatenate(column) for column in zip(*found, strict=True))
    sample, pixel = np.divmod(place, height * width)
    order = np.argsort(sample * (times[-1] - times[0] + 1) + time - times[0], kind="stable")
    row, column = np.divmod(pixel[order], width)
    starts = np.concatenate([[0], np.cumsum(np.bincount(sample, minlength=count))])
    return EventBatch(time[order], column, row, rises[order], height, width, starts)
