"""Pictures of a recording: a scatter in space and time, frames side by side, an animation.

ON events are blue, OFF events orange. Figures are made without pyplot, see
`modicum.report.pictures`.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageColor

from modicum.events.container import Events
from modicum.events.representations import frames
from modicum.report.pictures import png

ON, OFF = "#0b5fb0", "#d9600f"
_MOST_POINTS = 20_000
_ANIMATION_SIDE = 256
_GREY = 170


def scatter(events: Events, *, title: str = "") -> bytes:
    """Draw events as points in (time, x, y), as the bytes of a PNG file.

    Of more than 20,000 events, every n-th is drawn.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.6))
    _draw_scatter(figure, events, title)
    return png(figure)


def frame_strip(events: Events, count: int = 8, *, title: str = "") -> bytes:
    """Draw a recording as frames of equal time side by side, as the bytes of a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.25 * count, 1.25 * events.height / events.width + 0.5))
    _draw_frames(figure, events, count)
    if title:
        figure.suptitle(_plain(title), fontsize=10, y=1.02, va="bottom")
    return png(figure)


def overview(events: Events, *, title: str = "") -> bytes:
    """Draw the scatter with the frames below it, as the bytes of a PNG file."""
    from matplotlib.figure import Figure

    shape = min(1.5, events.height / events.width)
    figure = Figure(figsize=(9, 4.9 + 1.1 * shape))
    parts: Any = figure.subfigures(2, 1, height_ratios=(4.6, 0.3 + 1.1 * shape))
    _draw_scatter(parts[0], events, title)
    _draw_frames(parts[1], events, 8)
    return png(figure)


def animation(events: Events, count: int | None = None, *, seconds: float = 4.0) -> bytes:
    """Play a recording as frames, as the bytes of a GIF file that repeats.

    Args:
        events: A recording.
        count: Frames, each of an equal part of the time. None: 40, less where there would be fewer
            than 200 events in a frame, but 10 at least.
        seconds: How long it plays. A bar below the frames shows the progress.
    """
    if count is None:
        count = min(40, max(10, len(events) // 200))
    scale = max(1, _ANIMATION_SIDE // max(events.height, events.width))
    pictures: list[Image.Image] = []
    for number, picture in enumerate(coloured(events, count)):
        enlarged = picture.repeat(scale, axis=0).repeat(scale, axis=1)
        bar = np.full((4, enlarged.shape[1], 3), 255, np.uint8)
        bar[1:, : round(bar.shape[1] * (number + 1) / count)] = _GREY
        pictures.append(Image.fromarray(np.concatenate([enlarged, bar])))
    buffer = io.BytesIO()
    options = {"duration": max(20, round(1000 * seconds / count)), "loop": 0}
    pictures[0].save(buffer, format="GIF", save_all=True, append_images=pictures[1:], **options)
    return buffer.getvalue()


def _draw_scatter(figure: Any, events: Events, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes = figure.add_axes((-0.02, -0.06, 1.04, 1.06), projection="3d")
    shown = events[:: -(-len(events) // _MOST_POINTS) or 1]
    milliseconds = (shown.t - (shown.t.min() if len(shown) else 0)) / 1000
    axes.scatter(
        milliseconds,
        shown.x,
        shown.y,
        c=np.array([OFF, ON])[shown.p],  # in one go: neither polarity hides the other
        s=float(np.clip(12_000 / max(1, len(shown)), 0.6, 6)),
        linewidths=0,
        alpha=0.7,
        depthshade=False,
    )
    axes.set_xlabel("time (ms)", fontsize=9, labelpad=12)
    axes.set_ylabel("x", fontsize=9)
    axes.set_zlabel("y", fontsize=9)
    end = max(1e-3, milliseconds.max(initial=0))
    axes.set(xlim=(0, end), ylim=(0, events.width), zlim=(events.height, 0))  # rows from the top
    axes.tick_params(labelsize=8)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.zaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_box_aspect((2.5, 1, float(np.clip(events.height / events.width, 0.7, 1.1))), zoom=1.25)
    axes.view_init(elev=18, azim=-62)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color((0.965, 0.965, 0.955))
    figure.text(0.5, 0.95, _plain(title), fontsize=10, ha="center")
    for colour, name, place in ((ON, "ON", 0.12), (OFF, "OFF", 0.155)):
        figure.text(place, 0.88, name, color=colour, fontsize=10)


def _draw_frames(figure: Any, events: Events, count: int) -> None:
    pictures = coloured(events, count)
    row = figure.subplots(1, count, squeeze=False)[0]
    figure.subplots_adjust(left=0.02, right=0.98, wspace=0.06, bottom=0.02, top=0.86)
    for number, (axes, picture) in enumerate(zip(row, pictures, strict=True)):
        axes.imshow(picture, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("#b9bdc2")
        start = events.duration * number / count / 1000
        axes.set_title(f"{start:,.0f} ms", fontsize=8, pad=3)


def coloured(events: Events, count: int) -> npt.NDArray[np.uint8]:
    """Frames as pictures on white, `(count, H, W, 3)`: the more events, the darker."""
    counts = frames(events.sort(), count, "equal", dtype=torch.float32).numpy()
    positive = counts[counts > 0]
    full = max(1.0, float(np.quantile(positive, 0.98))) if len(positive) else 1.0
    # A single event is to be seen as well.
    ink = np.where(counts > 0, 0.3 + 0.7 * np.minimum(1, counts / full), 0)[..., None]
    off, on = (np.array(ImageColor.getrgb(colour)) / 255 for colour in (OFF, ON))
    light = (1 - ink[:, 0] * (1 - off)) * (1 - ink[:, 1] * (1 - on))
    return np.rint(255 * light).astype(np.uint8)


def _plain(text: str) -> str:
    """Text that Matplotlib takes for no formula."""
    return text.replace("$", r"\$")
