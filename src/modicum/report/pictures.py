"""PNG pictures for `modicum.claims.Picture`, drawn with Matplotlib.

Figures are made with `matplotlib.figure.Figure`, never through pyplot, which keeps global state
and may want a screen.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def png(figure: Figure, *, dots_per_inch: int = 120) -> bytes:
    """The figure as the bytes of a PNG file, cropped to what is drawn."""
    buffer = io.BytesIO()
    # Without a software entry the same figure gives the same bytes under any Matplotlib.
    figure.savefig(
        buffer, format="png", dpi=dots_per_inch, bbox_inches="tight", metadata={"Software": None}
    )
    return buffer.getvalue()


def image_grid(
    images: npt.NDArray[np.uint8] | Sequence[npt.NDArray[np.uint8]],
    captions: Sequence[str] | None = None,
    *,
    columns: int = 3,
) -> bytes:
    """Images in rows, each with its caption over it, as the bytes of a PNG file.

    Args:
        images: 8-bit images of shape `(height, width, 3)` or `(height, width)`, at least one. They
            may differ in size.
        captions: A text for each image, or `None`.
        columns: How many images stand in a row. The captions of three are readable on a phone.

    Raises:
        ValueError: There are no images, or not as many captions as images.
    """
    from matplotlib.figure import Figure  # half a second that reports without pictures spare

    texts = [""] * len(images) if captions is None else list(captions)
    if len(images) == 0 or len(texts) != len(images):
        raise ValueError(
            f"image_grid needs at least one image and a caption for each, "
            f"got {len(images)} images and {len(texts)} captions"
        )
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    texts = [textwrap.fill(text, 18) for text in texts]
    tallest = max(image.shape[0] / image.shape[1] for image in images)
    lines = max(len(text.splitlines()) for text in texts)
    row_height = 1.3 * tallest + 0.1 + 0.15 * lines
    figure = Figure(figsize=(1.4 * columns, row_height * rows), layout="constrained")
    for place, (image, text) in enumerate(zip(images, texts, strict=True)):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_axis_off()
        # Dollar signs would start a formula.
        axes.set_title(text.replace("$", r"\$"), fontsize=9, pad=3)
    return png(figure)
