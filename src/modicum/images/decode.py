"""From an image file to RGB bytes or labels, with errors that name the file.

What is done with what files contain, the field's convention (Pillow's `convert("RGB")`) unless
said otherwise:

- JPEG, PNG, WebP, BMP and GIF are read, whatever the file's suffix says. Of an animation, the
  first frame.
- Grey becomes three equal channels. CMYK is converted, Adobe's inverted kind included.
- Transparency is dropped, not composited: what is below a transparent pixel appears. The survey of
  a folder says how many images have it.
- 16-bit grey is scaled to 8 bits (Pillow alone would clip); 16-bit colour keeps its upper 8 bits.
- EXIF orientation is applied.
- ICC profiles are ignored: the numbers are taken as sRGB.
- An image of more pixels than `PIL.Image.MAX_IMAGE_PIXELS` (89 million) is refused, since a small
  file can be made to fill all memory.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from modicum.engine.random import SampleRandom
from modicum.errors import DataError
from modicum.images.geometry import Geometry, View

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif"})

_ORIENTATION = 0x0112  # the EXIF tag
_TRANSPOSED = 5  # orientations from here on swap width and height


def decode_image(path: Path) -> npt.NDArray[np.uint8]:
    """Decode a whole file to RGB, uint8 (H,W,3).

    Raises:
        DataError: The file is missing, unreadable, not an image, truncated, damaged or too large.
    """
    with opened(path) as image:
        return np.array(_upright_rgb(image))


def decode_label_map(
    path: Path, colours: Sequence[tuple[int, int, int]] | None = None
) -> npt.NDArray[np.integer[Any]]:
    """Decode a map of labels, such as a segmentation mask: the numbers as they are in the file.

    Of an image with a palette these are the indices, whatever their colours; of grey of 1 to 16
    bits the grey levels; of coloured labels what `colours` says. EXIF orientation is applied.

    Args:
        path: The file.
        colours: The colour of each label from 0 on, for files whose labels are written as colours.

    Returns:
        (H,W), int32 for 16-bit grey, else uint8.

    Raises:
        DataError: As `decode_image`; or the file has colours but no `colours` are given, a colour
            that is not among them, transparency, or a format that does not keep numbers.
    """
    with opened(path) as image:
        if image.format == "JPEG":
            raise DataError(
                f"{path}: a JPEG does not keep the numbers of a label map. Export it as PNG."
            )
        scale = _GREY_SCALES.get(_raw_mode(image), 1)
        image.load()
        turn = _UPRIGHT.get(_orientation(image))
        if turn is not None:
            image = image.transpose(turn)
        if colours is not None:
            return _labels_of(np.asarray(image.convert("RGB")), colours, path)
        if image.mode in ("1", "L", "P"):
            return np.asarray(image).astype(np.uint8) // scale
        if image.mode == "I" or image.mode.startswith("I;16"):
            return np.asarray(image).astype(np.int32)
        raise DataError(
            f"{path}: expected a label map, an image with a palette or grey levels, found one of "
            f"the mode {image.mode}. Give the colour of each label if labels are written as "
            f"colours, or export the map with a palette."
        )


_GREY_SCALES = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies grey of few bits with, by the name of how it is stored."""


def _raw_mode(image: Any) -> str:
    arguments = image.tile[0][3] if image.tile else ""
    return str(arguments if isinstance(arguments, str) else next(iter(arguments or ()), ""))


def _labels_of(
    pixels: npt.NDArray[np.uint8], colours: Sequence[tuple[int, int, int]], path: Path
) -> npt.NDArray[np.integer[Any]]:
    weights = np.array([65536, 256, 1])
    known, found = np.array(colours, np.int64) @ weights, pixels.astype(np.int64) @ weights
    order = known.argsort(kind="stable")
    place = order[np.searchsorted(known, found, sorter=order).clip(max=len(known) - 1)]
    unknown = np.argwhere(known[place] != found)
    if len(unknown):
        row, column = unknown[0].tolist()
        raise DataError(
            f"{path}: the colour {tuple(pixels[row, column].tolist())} of column {column}, row "
            f"{row} is not among the {len(known)} colours of labels. Add it, or mend the map."
        )
    return place.astype(np.uint8 if len(known) <= 256 else np.int32)


def decode_view(path: Path, view: View, geometry: Geometry) -> Tensor:
    """Decode what all views of one file, drawn by a geometry, show: RGB, uint8 (V,3,*view.size).

    A JPEG of which at least four times as many pixels as needed would be decoded in each direction
    is decoded at a reduced scale that leaves at least twice as many, where the geometry allows it.

    Raises:
        DataError: As `decode_image`.
    """
    with opened(path) as image:
        if geometry.allow_draft and geometry.resample in ("bilinear", "bicubic"):
            sides = (view.box[:, 2:] - view.box[:, :2]).flip(1).double()
            keep = float((2.0 * view.resized / sides).max())
            before = image.size[0]
            image.draft(None, (math.ceil(image.size[0] * keep), math.ceil(image.size[1] * keep)))
            if image.size[0] < before:
                scale = image.size[0] / before
                view = replace(view, box=(view.box * scale).double().round().long())
        corners = view.box.unflatten(1, (2, 2))
        left, top, right, bottom = *corners.amin((0, 1)).tolist(), *corners.amax((0, 1)).tolist()
        part = _upright_rgb(image).crop((left, top, right, bottom))  # before it is copied to NumPy
        pixels = torch.from_numpy(np.array(part)).permute(2, 0, 1)
    inside = replace(view, box=view.box - torch.tensor([left, top, left, top]))
    return inside.images(pixels[None], geometry.resample, geometry.fill)


def decode_crop(path: Path, geometry: Geometry, random: SampleRandom) -> Tensor:
    """Decode what a geometry shows of one file, of its random numbers: RGB, uint8 (V,3,H,W).

    Raises:
        DataError: As `decode_image`.
    """
    return decode_view(path, geometry.view(np.array([image_size(path)]), random), geometry)


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image as it is decoded, from the head of its file.

    Raises:
        DataError: The file is missing, unreadable, not an image or too large.
    """
    with opened(path) as image:
        width, height = image.size
        return (width, height) if _orientation(image) >= _TRANSPOSED else (height, width)


def read_crop(path: Path, geometry: Geometry, channels: int = 3) -> Tensor:
    """The crop of evaluation, which draws nothing, of one file: uint8 `(channels, size, size)`.

    One channel is the luma (ITU-R BT.601, as Pillow's "L"), three are RGB.

    Raises:
        DataError: As `decode_image`.
    """
    image = decode_crop(path, geometry, SampleRandom(0, 0, np.zeros(1, dtype=np.int64)))[0]
    if channels == 1:
        luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
        image = (image * luma).sum(0, keepdim=True).round().to(torch.uint8)
    return image


@contextmanager
def opened(path: Path) -> Generator[Image.Image, None, None]:
    """The file as a Pillow image that is not decoded yet; whatever fails inside is a DataError."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError(f"{width} x {height} pixels")
            yield image
    except DataError:
        raise
    except Exception as error:  # decoders raise almost anything on hostile or broken bytes
        raise DataError(f"{path}: {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    """What is wrong with a file and what to do about it."""
    if isinstance(error, FileNotFoundError):
        return "the file is not there (any more). Was the folder changed after it was opened?"
    if isinstance(error, PermissionError):
        return "the file may not be read. Give yourself read permission."
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return (
            f"refused, the image is too large ({error}); at most {Image.MAX_IMAGE_PIXELS} pixels "
            f"are decoded. Make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it."
        )
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return f"the file cannot be read ({error})."
    mend = "Fetch or export the file again, remove it, or leave such files out with skip_bad."
    if not start:
        return f"the file is empty. {mend}"
    if isinstance(error, UnidentifiedImageError):
        return (
            f"not an image of the formats read ({', '.join(FORMATS)}); it begins with {start!r}. "
            f"{mend}"
        )
    if isinstance(error, OSError | EOFError | struct.error | IndexError) and (
        "truncated" in str(error).lower() or isinstance(error, EOFError | IndexError)
    ):
        return f"the image is truncated ({error}). {mend}"
    return f"the image is damaged ({type(error).__name__}: {error}). {mend}"


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none or the metadata is broken."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata must not cost a good picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    orientation = _orientation(image)
    if image.mode == "I" or image.mode.startswith("I;16"):
        deep = np.asarray(image).astype(np.float64)
        rgb = Image.fromarray(np.round(deep.clip(0, 65535) / 257.0).astype(np.uint8)).convert("RGB")
    elif image.mode == "P" and "transparency" in image.info:
        rgb = image.convert("RGBA").convert("RGB")  # straight to RGB, Pillow warns
    else:
        rgb = image if image.mode == "RGB" else image.convert("RGB")
    if orientation != 1:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    return rgb
