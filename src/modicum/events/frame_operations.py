"""The operations on events (`modicum.events.operations`) for frames that were made of events.

Frames are a tensor (B,T,2,H,W) of counts, the channels OFF and ON; every function gives a new one.
What differs from sample to sample is an array (B,); a single number serves all. Where fragments
and drifts are whole numbers of frames and the frames are equally long, the result is the frames of
the transformed events.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modicum.events.operations import Border, Fragments, Integers


def whole(frames: Tensor) -> Fragments:
    """Whole samples: from frame 0 to frame T - 1."""
    count, length = frames.shape[:2]
    return Fragments(np.zeros(count, np.int64), np.full(count, length - 1))


def reverse_time(
    frames: Tensor, fragments: Fragments | None = None, *, couple_polarity: bool = True
) -> Tensor:
    """Frames in reverse, and ON for OFF if coupled. See `operations.reverse_time`."""
    fragments = whole(frames) if fragments is None else fragments
    inside, rest = _split(frames, fragments)
    turn = fragments.start + fragments.end
    source = turn[:, None] - np.arange(frames.shape[1])
    moved = _gather(inside, 1, source[:, :, None, None, None])
    return _join(moved.flip(2) if couple_polarity else moved, rest)


def reverse_polarity(frames: Tensor, fragments: Fragments | None = None) -> Tensor:
    """ON for OFF. See `operations.reverse_polarity`."""
    inside, rest = _split(frames, fragments)
    return _join(inside.flip(2), rest)


def reverse_x(frames: Tensor, fragments: Fragments | None = None) -> Tensor:
    """Mirror left and right. See `operations.reverse_x`."""
    return _mirror(frames, fragments, 4)


def reverse_y(frames: Tensor, fragments: Fragments | None = None) -> Tensor:
    """Mirror top and bottom. See `operations.reverse_y`."""
    return _mirror(frames, fragments, 3)


def drift_space(
    frames: Tensor,
    dx: npt.ArrayLike,
    dy: npt.ArrayLike,
    fragments: Fragments | None = None,
    *,
    border: Border = "drop",
) -> Tensor:
    """Shift by (B,) pixels, or by (B,T), those of each frame. See `operations.drift_space`."""
    moved, rest = _split(frames, fragments)
    for axis, shift in ((4, dx), (3, dy)):
        size = frames.shape[axis]
        shift = np.atleast_1d(shift)
        source = np.arange(size) - shift.reshape(len(shift), -1, 1)
        if border == "wrap":
            source %= size
        moved = _gather(moved, axis, np.expand_dims(source, (2, 7 - axis)))
    return _join(moved, rest)


def drift_velocity(
    frames: Tensor,
    vx: npt.ArrayLike,
    vy: npt.ArrayLike,
    fragments: Fragments | None = None,
    *,
    border: Border = "drop",
) -> Tensor:
    """Shift more and more. See `operations.drift_velocity`.

    All events of a frame are shifted as those in its middle (inferred).
    """
    fragments = whole(frames) if fragments is None else fragments
    middle = np.arange(frames.shape[1]) + 0.5 - fragments.start[:, None]
    share = middle / np.maximum(fragments.end - fragments.start + 1, 1)[:, None]
    across, down = (np.rint(np.reshape(v, (-1, 1)) * share).astype(np.int64) for v in (vx, vy))
    return drift_space(frames, across, down, fragments, border=border)


def drift_time(
    frames: Tensor,
    dt: npt.ArrayLike,
    fragments: Fragments | None = None,
    *,
    border: Border = "drop",
) -> Tensor:
    """Shift by (B,) frames, or by (B,2), those of OFF and of ON. See `operations.drift_time`.

    Of "clip", the frames of what would leave are added to the first or the last.
    """
    inside, rest = _split(frames, fragments)
    count, length = frames.shape[:2]
    shift = np.atleast_1d(dt)
    shift = np.broadcast_to(shift.reshape(len(shift), -1), (count, 2))
    source = np.arange(length)[:, None] - shift[:, None]  # (B,T,2)
    if border == "wrap":
        source %= length
    moved = _gather(inside, 1, source[..., None, None])
    if border == "clip":
        target = np.arange(length)[:, None] + shift[:, None]
        for end, beyond in ((0, target < 0), (length - 1, target >= length)):
            kept = torch.from_numpy(beyond).to(frames.device)[..., None, None]
            moved[:, end] += inside.masked_fill(~kept, 0).sum(dim=1, dtype=moved.dtype)
    return _join(moved, rest)


def crop_time(frames: Tensor, start: Integers, stop: Integers) -> Tensor:
    """The frames from `start` to before `stop` (B,), repeated to be T frames again.

    Frame k is frame `start + floor(k (stop - start) / T)`.
    """
    length = frames.shape[1]
    source = start[:, None] + np.arange(length) * (stop - start)[:, None] // length
    return _gather(frames, 1, source[:, :, None, None, None])


def crop_space(frames: Tensor, box: Integers, *, resize: bool = False) -> Tensor:
    """Only what is in a box. See `operations.crop_space`; the frames keep their size.

    With `resize`, each count goes to the pixel that its events would go to.
    """
    sides = frames.shape[:2:-1]
    for axis, size, near, far in zip((4, 3), sides, box.T[:2], box.T[2:], strict=True):
        near, far = near[:, None], far[:, None]
        pixel = np.arange(size)
        if resize:
            span = far - near + 1
            source = near - (-pixel * span // size)  # rounded up
            fits = (source - near) * size // span == pixel
        else:
            source = np.broadcast_to(pixel, (len(frames), size))
            fits = (source >= near) & (source <= far)
        source = np.where(fits & (source <= far), source, -1)
        frames = _gather(frames, axis, np.expand_dims(source, (1, 2, 7 - axis)))
    return frames


def _gather(frames: Tensor, axis: int, source: Integers) -> Tensor:
    """Along an axis, what is at `source`, broadcast to (B,T,2,H,W); 0 where that is outside."""
    size = frames.shape[axis]
    places = torch.from_numpy(np.ascontiguousarray(source)).to(frames.device)
    outside = (places < 0) | (places >= size)
    found = frames.gather(axis, places.clamp(0, size - 1).expand(frames.shape))
    return found.masked_fill_(outside, 0)


def _split(frames: Tensor, fragments: Fragments | None) -> tuple[Tensor, Tensor | None]:
    """The frames of the events in the fragments, and of the others: none where all are in them."""
    if fragments is None:
        return frames, None
    _, length, _, height, width = frames.shape
    number = np.arange(length)
    inside = (number >= fragments.start[:, None]) & (number <= fragments.end[:, None])
    if fragments.box is None and inside.all():
        return frames, None
    inside = inside[:, :, None, None, None]
    if fragments.box is not None:
        x0, y0, x1, y1 = (side[:, None] for side in fragments.box.T)
        rows = (np.arange(height) >= y0) & (np.arange(height) <= y1)
        columns = (np.arange(width) >= x0) & (np.arange(width) <= x1)
        inside = inside & rows[:, None, None, :, None] & columns[:, None, None, None, :]
    mask = torch.from_numpy(inside).to(frames.device)
    return frames.masked_fill(~mask, 0), frames.masked_fill(mask, 0)


def _join(moved: Tensor, rest: Tensor | None) -> Tensor:
    return moved if rest is None else moved + rest


def _mirror(frames: Tensor, fragments: Fragments | None, axis: int) -> Tensor:
    inside, rest = _split(frames, fragments)
    size = frames.shape[axis]
    turn = np.full(len(frames), size - 1)
    if fragments is not None and fragments.box is not None:
        turn = fragments.box[:, 4 - axis] + fragments.box[:, 6 - axis]
    source = turn[:, None] - np.arange(size)
    return _join(_gather(inside, axis, np.expand_dims(source, (1, 2, 7 - axis))), rest)
