"""A sheet of labelled pictures."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_GAP = 8
_FONT_SIZE = 13
_LINE = 18


def contact_sheet(
    images: Tensor | Sequence[npt.NDArray[np.uint8]],
    titles: Sequence[str],
    *,
    columns: int | None = None,
    cell: int = 128,
) -> bytes:
    """Lay images out in a grid, each with its title below: the bytes of a PNG file.

    Small images are enlarged by a whole factor without smoothing, so that their pixels are seen;
    large ones are reduced. Lines of titles too long for their cell are cut and end in an ellipsis.

    Args:
        images: uint8, (N,C,H,W) with C 1 or 3, or a sequence of arrays (H,W,3) or (H,W) of any
            sizes.
        titles: One for each image, of one or several lines.
        columns: Images in a row; None: so that the sheet is about as wide as it is high.
        cell: Width and height of the room for each image, in pixels.

    Raises:
        ValueError: There are no images, not as many titles as images, or values are not uint8.
    """
    if isinstance(images, Tensor):
        arrays = list(images.permute(0, 2, 3, 1).cpu().numpy())
    else:
        arrays = list(images)
    if not arrays or len(arrays) != len(titles):
        raise ValueError(
            f"expected as many titles as images, at least one: found {len(arrays)} images and "
            f"{len(titles)} titles"
        )
    columns = columns or math.ceil(math.sqrt(len(arrays)))
    rows = math.ceil(len(arrays) / columns)
    room = cell + _LINE * max(title.count("\n") + 1 for title in titles) + _GAP
    size = (_GAP + columns * (cell + _GAP), _GAP + rows * room)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_FONT_SIZE)
    for number, (array, title) in enumerate(zip(arrays, titles, strict=True)):
        row, column = divmod(number, columns)
        left, top = _GAP + column * (cell + _GAP), _GAP + row * room
        picture = _fitted(array, cell)
        corner = (left + (cell - picture.width) // 2, top + (cell - picture.height) // 2)
        sheet.paste(picture, corner)
        for line, words in enumerate(title.split("\n")):
            while draw.textlength(words, font) > cell:
                words = words.removesuffix("…")[:-1] + "…"
            below = top + cell + 2 + line * _LINE
            draw.text((left + cell / 2, below), words, "black", font, anchor="ma")
    file = io.BytesIO()
    sheet.save(file, format="PNG")
    return file.getvalue()


def _fitted(array: npt.NDArray[np.uint8], cell: int) -> Image.Image:
    if array.dtype != np.uint8:
        raise ValueError(f"expected uint8 images, found {array.dtype}")
    picture = Image.fromarray(array.squeeze(2) if array.shape[2:] == (1,) else array).convert("RGB")
    longest = max(picture.size)
    if longest <= cell:
        factor = cell // longest
        size = (picture.width * factor, picture.height * factor)
        return picture.resize(size, Image.Resampling.NEAREST)
    picture.thumbnail((cell, cell), Image.Resampling.LANCZOS)
    return picture
