"""Recordings made in software: of videos, of a user's pictures, and of the built-in digits.

Every random number is a function of the seed and the sample's number alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import ImageSequence
from torch.nn import functional

from modicum.data.digits import read_digits
from modicum.engine.random import permutation
from modicum.errors import ConfigError, DataError
from modicum.events.camera import ORDINARY, Conditions, TooManyEvents, record
from modicum.events.container import EventBatch, Events
from modicum.images.decode import SUFFIXES, decode_image, image_size, opened

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Waypoints: TypeAlias = Sequence[tuple[float, float]]
"""Places (x, y) in pixels that a picture is moved through, relative to where it lies at first."""

TRIANGLE: Waypoints = ((0.0, 0.0), (2.0, 4.0), (4.0, 0.0), (0.0, 0.0))
"""How the digits of N-MNIST move, three saccades."""
SACCADE = 100_000
"""Microseconds from one waypoint to the next."""

# A small file can claim pictures without end; of large ones more is taken.
_MOST_PIXELS, _PIXELS_A_BYTE = 1 << 25, 64
_MOST_EVENTS, _EVENTS_A_BYTE = 1 << 23, 8
_LARGEST_SENSOR = 1 << 22


def simulate(
    video: npt.NDArray[Any] | torch.Tensor,
    times: npt.ArrayLike | None = None,
    conditions: Conditions = ORDINARY,
    *,
    path: Waypoints = TRIANGLE,
    steps: int = 12,
    seed: int = 0,
    index: int | Integers = 0,
) -> Events | EventBatch:
    """What an event camera would record of a video, of a batch of them, or of a still picture.

    A still picture is moved along a path, its borders continued outwards.

    Args:
        video: Linear intensities (not gamma-corrected grey levels) `(T, H, W)`, `(B, T, H, W)` for
            a batch of videos of the same times, or `(H, W)` for a still picture: floats from 0 to
            1, or bytes, which are divided by 255.
        times: Microseconds of each picture, increasing, `(T,)`, T of at least 2. None, for a still
            picture alone: each waypoint is reached 100 ms after the one before.
        conditions: The camera and the light.
        path: For a still picture: waypoints in pixels.
        steps: For a still picture: positions from one waypoint to the next, which makes T
            `(len(path) - 1) * steps + 1`. They should lie a pixel apart or less.
        seed: For the pixels' thresholds and the noise.
        index: Number of the sample, or of each of the batch, `(B,)`; an int is that of the first.

    Returns:
        Events from `times[0]` to `times[-1]` in order of time, an `EventBatch` for a batch.

    Raises:
        DataError: Wrong shapes, values outside 0 to 1, or times that do not increase.
    """
    pictures = np.asarray(video)
    still, batched = pictures.ndim == 2, pictures.ndim == 4
    positions, usual_times = _along(path, steps)
    when = usual_times if still and times is None else np.asarray(times)
    wanted = (len(positions),) if still else pictures.shape[-3:-2]
    if pictures.ndim not in (2, 3, 4) or when.shape != wanted or len(when) < 2:
        raise DataError(
            f"simulate: a video of shape {pictures.shape} with times of shape {when.shape}; "
            f"expected (T, H, W) or (B, T, H, W) and (T,), with T of at least 2; or a picture "
            f"(H, W) without times, or with one for each of {len(positions)} positions."
        )
    if not np.isfinite(when).all() or (np.diff(when) < 1).any():
        raise DataError("simulate: expected times that increase by at least 1 us at every picture.")
    if pictures.dtype == np.uint8:
        pictures = pictures / 255
    low, high = pictures.min(initial=0.0), pictures.max(initial=0.0)
    if not (low >= 0 and high <= 1):  # so that NaN is refused as well
        raise DataError(
            f"simulate: intensities go from {low} to {high}, expected 0 to 1. Divide by the "
            f"largest; to make the light brighter, use Conditions.gain."
        )
    pictures = pictures if batched else pictures[None]
    numbers = index + np.arange(len(pictures)) if isinstance(index, int) else np.asarray(index)
    if numbers.shape != (len(pictures),):
        raise DataError(
            f"simulate: {len(pictures)} videos with an index of shape {numbers.shape}; expected "
            f"({len(pictures)},)."
        )
    if still:
        moments = _moved(pictures.astype(np.float64), positions)
    else:
        moments = (pictures[:, step].astype(np.float64) for step in range(len(when)))
    batch = record(moments, when.astype(np.int64), conditions, seed, numbers)
    return batch if batched else batch[0]


def simulate_file(
    source: Path | str,
    conditions: Conditions = ORDINARY,
    *,
    path: Waypoints = TRIANGLE,
    steps: int = 12,
    frame_rate: float = 30.0,
    size: tuple[int, int] | None = None,
    seed: int = 0,
) -> Events:
    """What an event camera would record of a user's picture, animation or folder of frames.

    A still picture is moved along a path as by `simulate`. An animation is played at its own speed,
    the files of a folder in the order of their names. Colours are turned into linear luminance
    (sRGB, ITU-R BT.709).

    Args:
        source: An image file, an animated GIF or WebP, or a folder of image files of one size.
        conditions: The camera and the light.
        path: See `simulate`; in pixels of the sensor.
        steps: See `simulate`.
        frame_rate: Pictures a second, for a folder, or an animation that does not say.
        size: (height, width) of the sensor, to which pictures are resized. None: the pictures'.
        seed: For the pixels' thresholds and the noise.
    """
    source = Path(source)
    if not frame_rate > 0:
        raise ConfigError(
            f"frame_rate: found {frame_rate}, expected more than 0 pictures a second."
        )
    usual = 1e6 / frame_rate
    if source.is_dir():
        files = sorted(file for file in source.iterdir() if file.suffix.lower() in SUFFIXES)
        if len(files) < 2:
            raise DataError(
                f"{source}: holds {len(files)} image files, expected the frames of a video, two or "
                f"more, with a suffix of {', '.join(sorted(SUFFIXES))}."
            )
        shape, stored = image_size(files[0]), sum(file.stat().st_size for file in files)
        durations, pictures = [usual] * len(files), map(decode_image, files)
    else:
        shape, durations = _animation(source, usual)
        stored, pictures = source.stat().st_size, _frames(source)
    sensor = size or shape
    _hold_to_size(source, len(durations), shape, stored)
    _hold_to_size(source, len(_along(path, steps)[0]) if len(durations) == 1 else 1, sensor, stored)
    if math.prod(sensor) > _LARGEST_SENSOR:
        raise DataError(
            f"{source}: a sensor of {sensor[0]} x {sensor[1]} pixels; expected at most "
            f"{_LARGEST_SENSOR:,}. size=(height, width) makes it smaller."
        )

    def moments() -> Iterator[Floats]:
        for number, picture in enumerate(pictures):
            if size is None and picture.shape[:2] != shape:
                raise DataError(
                    f"{source}: picture 0 has {shape} pixels (height, width), picture {number} has "
                    f"{picture.shape[:2]}. Expected one size; size=(height, width) resizes them."
                )
            yield _luminance(picture, sensor)[None]

    positions, times = _along(path, steps)
    shown = moments()
    if len(durations) == 1:
        shown = _moved(next(shown), positions)
    else:
        times = np.cumsum([0, *durations[:-1]]).astype(np.int64)
        if (np.diff(times) < 1).any():
            raise DataError(f"{source}: pictures that are shown for less than a microsecond.")
    most = _MOST_EVENTS + _EVENTS_A_BYTE * stored
    try:
        return record(shown, times, conditions, seed, np.zeros(1, np.int64), most)[0]
    except TooManyEvents as error:
        raise DataError(
            f"{source}: would give more than {most:,} events. Fewer or smaller pictures, size="
            f"(height, width) or higher thresholds give fewer."
        ) from error


def _hold_to_size(source: Path, count: int, shape: tuple[int, int], stored: int) -> None:
    """Raise a `DataError` for far more pixels than files of so many bytes are likely to show."""
    most = _MOST_PIXELS + _PIXELS_A_BYTE * stored
    if count * math.prod(shape) > most:
        raise DataError(
            f"{source}: {count:,} pictures of {shape[0]} x {shape[1]} pixels, {stored:,} bytes; "
            f"expected at most {most:,} pixels. Take fewer or smaller pictures, or size=(height, "
            f"width) for a still picture."
        )


class Variation(NamedTuple):
    """How built-in recordings are made: what moves how, and under which conditions."""

    path: Waypoints = TRIANGLE
    """Each waypoint is reached 100 ms after the one before."""
    conditions: Conditions = ORDINARY


def _ramp(seconds: Floats) -> Floats:
    return 1 + seconds / 0.3


def _flicker(seconds: Floats) -> Floats:
    return 1 + 0.5 * np.sin(2 * np.pi * 10 * seconds)


VARIATIONS: Mapping[str, Variation] = MappingProxyType(
    {
        "clean": Variation(),
        "log_negated": Variation(conditions=Conditions(negate=True)),
        "reversed_motion": Variation(path=TRIANGLE[::-1]),
        "larger_motion": Variation(path=tuple((x * 7 / 4, y * 7 / 4) for x, y in TRIANGLE)),
        "threshold_1.6": Variation(conditions=Conditions(1.6 * 0.25, 1.6 * 0.25)),
        "on_off_mismatch": Variation(conditions=Conditions(threshold_on=0.18, threshold_off=0.45)),
        "inverted": Variation(conditions=Conditions(invert=True)),
        "illumination_ramp": Variation(conditions=Conditions(gain=_ramp)),
        "flicker": Variation(conditions=Conditions(gain=_flicker)),
    }
)
"""The test sets of the robustness protocol (sections 8 and 9). The light of `illumination_ramp`
doubles over 300 ms, that of `flicker` swings by half at 10 Hz; both are inferred."""


DIGIT_COUNTS: Mapping[str, int] = MappingProxyType({"train": 1200, "test": 597})
"""Recordings of each split of the built-in digits."""


class DigitRecordings(NamedTuple):
    """Recordings of handwritten digits."""

    events: EventBatch
    labels: Integers
    """The digits 0 to 9, (B,)."""


def digit_recordings(
    split: Literal["train", "test"] = "train",
    count: int | None = None,
    *,
    steps: int = 12,
    seed: int = 0,
    variation: str | Variation = "clean",
) -> DigitRecordings:
    """The built-in recordings: scikit-learn's digits, moved before the camera as in N-MNIST.

    The 8 x 8 pictures are enlarged three times (bilinearly, corners on corners), put into 34 x 34
    and moved along a triangle for 300 ms: about 5,500 events, half of them ON. The split is
    that of the built-in images "digits": 1,200 for training and 597 for testing.

    Args:
        split: "train" or "test".
        count: How many, the first of the split. None: all.
        steps: Positions from one waypoint to the next.
        seed: For the pixels' thresholds and the noise of each recording.
        variation: A name of `VARIATIONS`, or your own.
    """
    if split not in ("train", "test"):
        raise ConfigError(f"split: found {split!r}, expected 'train' or 'test'.")
    if isinstance(variation, str) and variation not in VARIATIONS:
        raise ConfigError(f"variation: found {variation!r}, expected {', '.join(VARIATIONS)}.")
    path, conditions = VARIATIONS[variation] if isinstance(variation, str) else variation
    pixels, digits = read_digits()
    order = permutation(len(digits), "digits")
    train = DIGIT_COUNTS["train"]
    part = order[:train] if split == "train" else order[train:]
    if count is not None and not 0 < count <= len(part):
        raise ConfigError(f"count: found {count}, expected 1 to {len(part)} {split} digits.")
    chosen = part[:count]
    small = torch.from_numpy(pixels[chosen]).view(-1, 1, 8, 8) / 16
    enlarged = functional.interpolate(small, (24, 24), mode="bilinear", align_corners=True)
    # 3 pixels from the left and the top, so that the 4 of the triangle's way keep it in the middle.
    pictures = functional.pad(enlarged, (3, 7, 3, 7))[:, 0].numpy()
    positions, times = _along(path, steps)
    events = record(_moved(pictures, positions), times, conditions, seed, chosen)
    return DigitRecordings(events, digits[chosen].astype(np.int64))


def _along(path: Waypoints, steps: int) -> tuple[Floats, Integers]:
    """Positions (x, y) along a path, `(T, 2)`, and their times in microseconds, `(T,)`."""
    waypoints = np.asarray(path, np.float64)
    if waypoints.ndim != 2 or waypoints.shape[1] != 2 or len(waypoints) < 2 or steps < 1:
        raise ConfigError(
            f"path: found waypoints of shape {waypoints.shape} and {steps} steps between them; "
            f"expected (x, y) of two waypoints or more, and a step or more."
        )
    where = np.arange((len(waypoints) - 1) * steps + 1) / steps
    number = np.arange(len(waypoints))
    positions = np.stack([np.interp(where, number, waypoints[:, axis]) for axis in (0, 1)], axis=1)
    return positions, (where * SACCADE).astype(np.int64)


def _moved(pictures: Floats, positions: Floats) -> Iterator[Floats]:
    """The pictures (B, H, W) at each position, interpolated bilinearly, borders continued."""
    _, height, width = pictures.shape
    reach = int(np.ceil(np.abs(positions).max(initial=0.0))) + 1
    wide = np.pad(pictures, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    for x, y in positions:
        rows = _between(wide, reach - y, height, axis=1)
        yield _between(rows, reach - x, width, axis=2)


def _between(pictures: Floats, start: float, length: int, axis: int) -> Floats:
    """A run of rows or columns that starts between two."""
    whole = int(np.floor(start))
    share = start - whole
    near, far = (
        pictures[(slice(None),) * axis + (slice(first, first + length),)]
        for first in (whole, whole + 1)
    )
    return near if share == 0 else (1 - share) * near + share * far


def _animation(file: Path, usual: float) -> tuple[tuple[int, int], list[float]]:
    """Height and width of an image file, and how many microseconds each picture is shown."""
    with opened(file) as image:
        count = getattr(image, "n_frames", 1)
        if count == 1:
            return image_size(file), [usual]
        width, height = image.size
        _hold_to_size(file, count, (height, width), file.stat().st_size)
        durations: list[float] = []
        for frame in range(count):
            image.seek(frame)
            image.load()  # WebP tells how long a picture is shown when it is decoded
            durations.append(1000 * float(image.info.get("duration", 0)) or usual)
        return (height, width), durations


def _frames(file: Path) -> Iterator[npt.NDArray[np.uint8]]:
    """The RGB pictures of an image file, one at a time."""
    with opened(file) as image:
        if getattr(image, "n_frames", 1) == 1:
            yield decode_image(file)
            return
        for frame in ImageSequence.Iterator(image):
            yield np.asarray(frame.convert("RGBA").convert("RGB"))


def _luminance(colours: npt.NDArray[np.uint8], size: tuple[int, int]) -> Floats:
    """Linear luminance `size` of sRGB bytes (H, W, 3)."""
    coded = np.arange(256) / 255
    linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    weights = np.array([0.2126, 0.7152, 0.0722])
    rows = [linear[row] @ weights for row in colours]  # the whole would take 24 bytes a pixel
    luminance = torch.from_numpy(np.stack(rows))[None, None]
    if size != colours.shape[:2]:
        luminance = functional.interpolate(luminance, size, mode="bilinear", antialias=True)
    return luminance[0, 0].clamp(0, 1).numpy()  # rounding may lead out
