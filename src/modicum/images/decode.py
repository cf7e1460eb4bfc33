"""From an image file to RGB bytes or labels, with errors that name the file.

What is done with what files contain, the field's convention (Pillow's `convert("RGB")`) unless
said otherwise:

- JPEG, PNG, WebP, BMP, GIF and TIFF are read, whatever the file's suffix says; AVIF and HEIC where
  Pillow or a plugin of it can (the extra `heif`). Of an animation, the first frame.
- Grey becomes three equal channels. CMYK is converted, Adobe's inverted kind included.
- Transparency is dropped, not composited: what is below a transparent pixel appears. The survey of
  a folder says how many images have it.
- 16-bit grey is scaled to 8 bits (Pillow alone would clip); 16-bit colour keeps its upper 8 bits.
  Grey of 12 bits in 16 becomes nearly black: the survey of a folder tells of it.
- EXIF orientation is applied.
- ICC profiles are ignored: the numbers are taken as sRGB.
- An image that would take more than 1 GiB to decode is refused, since a small file can be made to
  fill all memory: 89 million pixels, of WebP, AVIF and HEIC 53 million. `MODICUM_ALLOW_LARGE=1`
  lifts the limit.
- A file that ends early is refused, also where its decoder would fill in what is missing.
"""

from __future__ import annotations

import importlib
import io
import math
import os
import struct
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError, features
from torch import Tensor

from modicum.engine.random import SampleRandom
from modicum.errors import DataError
from modicum.images.geometry import Geometry, View
from modicum.system.files import MEMORY, large_allowed, open_ordinary

_SUFFIXES_OF = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "PNG": (".png",), "WEBP": (".webp",),
    "BMP": (".bmp",), "GIF": (".gif",), "TIFF": (".tif", ".tiff"),
}  # fmt: skip
with suppress(ImportError):
    if not features.check("avif"):  # which Pillow has had itself since 11.3
        importlib.import_module("pillow_avif")
    _SUFFIXES_OF["AVIF"] = (".avif",)
with suppress(ImportError):
    importlib.import_module("pillow_heif").register_heif_opener()
    _SUFFIXES_OF["HEIF"] = (".heic", ".heif")
Picture: TypeAlias = "str | os.PathLike[str] | Image.Image | npt.NDArray[Any] | Tensor"
"""An image: a file, or in memory. See `read_crop`."""
FORMATS = tuple(_SUFFIXES_OF)
SUFFIXES = frozenset(suffix for suffixes in _SUFFIXES_OF.values() for suffix in suffixes)

_BYTES: Mapping[str, int] = dict.fromkeys(("JPEG", "MPO", "PNG", "BMP", "GIF"), 12)
"""Memory that a pixel takes while it is decoded, turned upright and copied, by format, measured:
at most 4 of Pillow's, twice, and 3 of the result; of a progressive JPEG its coefficients, too."""
_BYTES_OF_OTHERS = 20
"""Their decoders hold frames of their own, or strips of any size."""
_BYTES_A_ROW = 64
_STRIP = 1 << 20
"""Pixels converted at a time."""
_ORIENTATION = 0x0112  # the EXIF tag
_TRANSPOSED = 5  # orientations from here on swap width and height


def decode_image(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """Decode a whole file to RGB, uint8 (H,W,3).

    Raises:
        DataError: The file is missing, unreadable, not an image, truncated, damaged or too large.
    """
    path = Path(path)
    with opened(path) as image:
        return upright_rgb(image, path)


def decode_label_map(
    path: str | os.PathLike[str], colours: Sequence[tuple[int, int, int]] | None = None
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
    path = Path(path)
    with opened(path) as image:
        if image.format == "JPEG":
            raise DataError(
                f"{path}: a JPEG does not keep the numbers of a label map. Export it as PNG."
            )
        scale = _GREY_SCALES.get(_raw_mode(image), 1)
        _load(image, path)
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
        part = upright_rgb(image, path, (left, top, right, bottom))
        pixels = torch.from_numpy(part).permute(2, 0, 1)
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
        turned = _orientation(image) >= _TRANSPOSED
        if turned and image.format == "TIFF":  # Pillow turns them itself, the size at once or not
            image.load()
            turned = False
        width, height = image.size
        return (width, height) if turned else (height, width)


def read_crop(image: Picture, geometry: Geometry, channels: int = 3) -> Tensor:
    """The crop of evaluation, which draws nothing, of an image: uint8 `(channels, size, size)`.

    Args:
        image: A file; a Pillow image; bytes (H,W) or (H,W,C) of NumPy, or (C,H,W) of PyTorch, with
            C 1 (grey), 3 (RGB) or 4 (RGB and transparency, which is dropped).
        geometry: What is seen of it.
        channels: 1 is the luma (ITU-R BT.601, as Pillow's "L"), 3 is RGB.

    Raises:
        DataError: As `decode_image`; or it is something else.
    """
    random = SampleRandom(0, 0, np.zeros(1, dtype=np.int64))
    if isinstance(image, str | os.PathLike):
        image = decode_crop(Path(image), geometry, random)[0]
    else:
        pixels = torch.from_numpy(_pixels(image)).permute(2, 0, 1)
        image = geometry(pixels[None], random)[0]
    if channels == 1:
        luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
        image = (image * luma).sum(0, keepdim=True).round().to(torch.uint8)
    return image


def _pixels(image: Image.Image | npt.NDArray[Any] | Tensor) -> npt.NDArray[np.uint8]:
    """RGB (H,W,3) of an image in memory."""
    given = image.permute(1, 2, 0) if isinstance(image, Tensor) and image.ndim == 3 else image
    if not isinstance(given, Image.Image):
        array = np.asarray(given.cpu() if isinstance(given, Tensor) else given)
        if array.dtype != np.uint8 or not (array.ndim == 2 or array.shape[2:] in _SHAPES):
            raise DataError(
                f"an image in memory: found {type(image).__name__} of {array.dtype} "
                f"{tuple(getattr(image, 'shape', ()))}; expected a Pillow image, or bytes (uint8) "
                f"from 0 to 255: (H, W) or (H, W, 3) of NumPy, (3, H, W) of PyTorch. Give several "
                f"as a list."
            )
        given = Image.fromarray(array.reshape(array.shape[: 2 + (array.shape[2:] != (1,))]))
    # A copy has no file, at whose end would be looked.
    return upright_rgb(given.copy(), Path("an image in memory"))


_SHAPES = ((1,), (3,), (4,))


@contextmanager
def opened(path: Path) -> Generator[Image.Image, None, None]:
    """The file as a Pillow image that is not decoded yet; whatever fails inside is a DataError."""
    if large_allowed():
        Image.MAX_IMAGE_PIXELS = None
    try:
        with open_ordinary(path) as file, Image.open(file, formats=FORMATS) as image:
            if not large_allowed():
                (width, height), kind = image.size, image.format or ""
                # Pillow also keeps a place for each row.
                needed = height * (width * _BYTES.get(kind, _BYTES_OF_OTHERS) + _BYTES_A_ROW)
                pixels, most = width * height, Image.MAX_IMAGE_PIXELS or MEMORY
                if needed > MEMORY or pixels > most:
                    raise Image.DecompressionBombError(
                        f"{width:,} x {height:,} pixels take {needed / 2**30:.1f} GiB; decoded are "
                        f"images of 1 GiB and {most:,} pixels"
                    )
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
            f"refused, the image is too large ({error}). Make it smaller or, if you trust it, set "
            f"MODICUM_ALLOW_LARGE=1."
        )
    try:
        with open_ordinary(path) as file:
            start = file.read(16)
    except OSError:
        return f"the file cannot be read ({error})."
    mend = "Fetch or export the file again, or remove it."
    if not start:
        return f"the file is empty. {mend}"
    if isinstance(error, UnidentifiedImageError):
        return (
            f"not an image of the formats read ({', '.join(FORMATS)}); it begins with "
            f"{start.decode('latin-1')!r}. "
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


def upright_rgb(
    image: Image.Image, path: Path, box: tuple[int, int, int, int] | None = None
) -> npt.NDArray[np.uint8]:
    """(H,W,3) of an image or of a box of it (left, top, right, bottom), once it is upright."""
    _load(image, path)
    if image.mode == "F":
        raise DataError(
            f"{path}: holds fractions (mode F), of which nobody knows what is white. Export "
            f"it with 8 or 16 bits a channel."
        )
    turn = _UPRIGHT.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)
    left, top, right, bottom = box or (0, 0, *image.size)
    pixels = np.empty((bottom - top, right - left, 3), np.uint8)
    rows = max(1, _STRIP // max(1, right - left))
    for start in range(top, bottom, rows):  # the whole of it would take memory several times
        end = min(start + rows, bottom)
        pixels[start - top : end - top] = np.asarray(_rgb(image.crop((left, start, right, end))))
    return pixels


def _rgb(image: Image.Image) -> Image.Image:
    if is_deep(image):
        deep = np.asarray(image).astype(np.float64)
        image = Image.fromarray(np.round(deep.clip(0, 65535) / 257.0).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns
    return image if image.mode == "RGB" else image.convert("RGB")


def is_deep(image: Image.Image) -> bool:
    """Whether an image is grey of more than 8 bits."""
    return image.mode == "I" or image.mode.startswith("I;16")


def _load(image: Image.Image, path: Path) -> None:
    """Decode an image, and find out whether its file ends early where its decoder does not say so.

    What is missing are then rows of zeros at the end of a PNG, and blocks of mid-grey at that of a
    JPEG. An image may really end so, and is decoded again: into memory that is not zero, or with
    more bytes before the end of the JPEG. Only where something is missing, that shows.
    """
    image.load()
    end = _last_rows(image)
    if image.format == "PNG" and not end.any(axis=tuple(range(1, end.ndim))).all():
        with Image.open(path, formats=("PNG",)) as other:
            other.im = Image.new(other.mode, other.size, 255).im
            found, again = end, _last_rows(other)
    elif image.format == "JPEG" and (abs(end[-1, -1].astype(int) - 128) <= 1).all():
        head, mark, tail = path.read_bytes().rpartition(b"\xff\xd9")
        contents = head + mark + tail, head + bytes(range(7, 247)) + mark + tail
        found, again = map(_thumbnail, contents)
    else:
        return
    if (found != again).any():
        raise OSError("image file is truncated: its end is missing")


def _last_rows(image: Image.Image) -> npt.NDArray[Any]:
    """Two, since the last pass of an interlaced image holds every second one."""
    return np.asarray(image.crop((0, max(0, image.height - 2), image.width, image.height)))


def _thumbnail(jpeg: bytes) -> npt.NDArray[np.uint8]:
    image = Image.open(io.BytesIO(jpeg), formats=("JPEG",))
    image.draft(None, (1, 1))  # a pixel a block
    return np.asarray(image)
