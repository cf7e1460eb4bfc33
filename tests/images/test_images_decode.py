from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modicum.errors import DataError
from modicum.images import Geometry, RandomResizedCrop, ResizeCentreCrop, SampleRandom, decode_image
from modicum.images.decode import decode_crop, decode_label_map, image_size

CASES = Path(__file__).parents[3] / "shared" / "cases"


def smooth(width: int = 40, height: int = 30) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 / width, y * 255 / height, (x + y) * 2], axis=2).astype(np.uint8)


def test_grey_has_three_equal_channels(tmp_path: Path):
    grey = smooth()[:, :, 0]
    Image.fromarray(grey).save(tmp_path / "a.png")
    decoded = decode_image(tmp_path / "a.png")
    assert decoded.shape == (30, 40, 3)
    assert (decoded == grey[:, :, None]).all()


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path):
    deep = np.linspace(0, 65535, 64 * 4).reshape(16, 16).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    assert (decode_image(tmp_path / "a.png")[:, :, 0] == np.round(deep / 257.0)).all()


def test_alpha_is_dropped(tmp_path: Path):
    rgba = np.dstack([smooth(), np.zeros((30, 40), dtype=np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert (decode_image(tmp_path / "a.png") == smooth()).all()


def test_palette_with_transparency(tmp_path: Path):
    picture = Image.new("P", (4, 2))
    picture.putpalette([10, 20, 30, 200, 100, 0])
    picture.putpixel((3, 1), 1)
    picture.save(tmp_path / "a.png", transparency=b"\x00\x80")
    decoded = decode_image(tmp_path / "a.png")
    assert decoded[0, 0].tolist() == [10, 20, 30]
    assert decoded[1, 3].tolist() == [200, 100, 0]


def test_cmyk_jpeg_as_adobe_writes_it(tmp_path: Path):
    # Pillow writes inverted values and the Adobe marker, as Photoshop does.
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert b"Adobe" in (tmp_path / "a.jpg").read_bytes()
    assert np.abs(decode_image(tmp_path / "a.jpg").astype(int) - [255, 0, 0]).max() <= 2


def test_first_frame_of_an_animation(tmp_path: Path):
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (decode_image(tmp_path / "a.gif") == [255, 0, 0]).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
def test_formats(tmp_path: Path, suffix: str):
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(smooth()).save(tmp_path / f"a.{suffix}", **options)
    difference = np.abs(decode_image(tmp_path / f"a.{suffix}").astype(int) - smooth())
    assert difference.mean() < (2 if suffix == "jpg" else 1e-9)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(smooth()).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture))
    assert (decode_image(tmp_path / "a.png") == expected).all()
    Image.fromarray(expected).save(tmp_path / "upright.png")
    for crop in (ResizeCentreCrop(20, 16), RandomResizedCrop(16)):
        found, wanted = (cropped(tmp_path / name, crop, one()) for name in ("a.png", "upright.png"))
        assert (found == wanted).all()


def cropped(path: Path, geometry: Geometry, random: SampleRandom) -> np.ndarray:
    return decode_crop(path, geometry, random)[0].permute(1, 2, 0).numpy()


def one(index: int = 0, seed: int = 0) -> SampleRandom:
    return SampleRandom(seed, 0, np.array([index]))


def test_evaluation_crop_is_resize_then_crop(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (75, 101, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    resized = Image.fromarray(noise).resize((int(48 * 101 / 75), 48), Image.Resampling.BILINEAR)
    left, top = round((resized.width - 32) / 2), round((48 - 32) / 2)
    expected = np.asarray(resized.crop((left, top, left + 32, top + 32))).astype(int)
    decoded = cropped(tmp_path / "a.png", ResizeCentreCrop(48, 32), one())
    assert decoded.dtype == np.uint8
    assert np.abs(decoded - expected).max() <= 1


def test_training_crop_is_crop_then_resize(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (75, 101, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    crop = RandomResizedCrop(24)
    for index in range(8):
        box = crop.view(np.array([[75, 101]]), one(index)).box[0]
        part = Image.fromarray(noise).crop(tuple(box.tolist()))
        expected = np.asarray(part.resize((24, 24), Image.Resampling.BILINEAR)).astype(int)
        found = cropped(tmp_path / "a.png", crop, one(index))
        assert np.abs(found - expected).max() <= 1


def test_large_jpeg_is_decoded_at_reduced_scale_without_harm(tmp_path: Path, monkeypatch):
    Image.fromarray(smooth(1200, 800)).save(tmp_path / "a.jpg", quality=95)
    crop = RandomResizedCrop(32, area=(0.9, 1.0))
    reduced = cropped(tmp_path / "a.jpg", crop, one())
    monkeypatch.setattr(RandomResizedCrop, "allow_draft", False)
    exact = cropped(tmp_path / "a.jpg", crop, one())
    difference = np.abs(reduced.astype(int) - exact)
    assert difference.max() > 0  # else it was not reduced
    assert difference.mean() < 1.5


def broken_files(folder: Path) -> dict[str, Path]:
    good = io.BytesIO()
    Image.fromarray(smooth(200, 200)).save(good, format="JPEG")
    png = io.BytesIO()
    Image.fromarray(smooth()).save(png, format="PNG")
    flipped = bytearray(png.getvalue())
    flipped[60] ^= 0xFF
    contents = {
        "truncated.jpg": good.getvalue()[: len(good.getvalue()) // 2],
        "truncated.png": png.getvalue()[:-200],
        "damaged.png": bytes(flipped),
        "page.jpg": b"<!DOCTYPE html><html>404</html>",
        "empty.jpg": b"",
        "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("truncated.jpg", "truncated"),
        ("truncated.png", "truncated"),
        ("damaged.png", "damaged"),
        ("page.jpg", "not an image.*DOCTYPE"),
        ("empty.jpg", "empty"),
        ("script.jpg", "not an image"),
    ],
)
def test_broken_file_is_named_with_the_reason(tmp_path: Path, name: str, words: str):
    path = broken_files(tmp_path)[name]
    with pytest.raises(DataError, match=words) as caught:
        decode_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "again, or remove it" in str(caught.value)


def png(pixels: np.ndarray, rows: int) -> bytes:
    """Sound in all but that its data ends after some rows."""
    height, width = pixels.shape[:2]
    raw = b"".join(b"\0" + row.tobytes() for row in pixels[:rows])
    return png_of(width, height, 8, zlib.compress(raw), colour=2)


@pytest.mark.parametrize("rows", [0, 1, 29])
def test_png_whose_rows_end_early_is_truncated(tmp_path: Path, rows: int):
    """Between rows, Pillow takes the end of the data for that of the picture."""
    (tmp_path / "a.png").write_bytes(png(smooth(40, 30), rows))
    with pytest.raises(DataError, match="truncated"):
        decode_image(tmp_path / "a.png")


def test_jpeg_whose_blocks_end_early_is_truncated(tmp_path: Path):
    whole = io.BytesIO()
    Image.fromarray(smooth(200, 200)).save(whole, "JPEG", quality=95)
    for share in (0.7, 0.9):
        cut = whole.getvalue()[: int(share * len(whole.getvalue()))].rstrip(b"\xff")
        (tmp_path / "a.jpg").write_bytes(cut + b"\xff\xd9")
        with pytest.raises(DataError, match="truncated"):
            decode_image(tmp_path / "a.jpg")


def test_pictures_that_really_end_in_black_or_grey_are_whole(tmp_path: Path):
    black, grey = smooth(40, 30), smooth(40, 32)
    black[-8:], grey[16:] = 0, 128
    (tmp_path / "a.png").write_bytes(png(black, 30))
    assert (decode_image(tmp_path / "a.png") == black).all()
    Image.fromarray(grey).save(tmp_path / "a.jpg", quality=95)
    Image.new("L", (50, 41), 128).save(tmp_path / "b.jpg", progressive=True)
    assert (decode_image(tmp_path / "a.jpg")[24:] == 128).all()
    assert (decode_image(tmp_path / "b.jpg") == 128).all()


@pytest.mark.skipif(not CASES.is_dir(), reason="without the files of the cases")
def test_bomb_of_67_bytes_is_refused_unread(tmp_path: Path):
    with pytest.raises(DataError, match=r"too large.*MODICUM_ALLOW_LARGE"):
        decode_image(CASES / "reliability" / "png-67-bytes-2GB.png")


def test_the_limit_of_memory_is_told_and_can_be_lifted(tmp_path: Path, monkeypatch):
    for width, height in ((1, 20_000_000), (9_500, 9_500)):
        (tmp_path / "a.png").write_bytes(png_of(width, height, 8, zlib.compress(b"")))
        with pytest.raises(DataError, match=r"too large.*MODICUM_ALLOW_LARGE=1"):
            image_size(tmp_path / "a.png")
    monkeypatch.setenv("MODICUM_ALLOW_LARGE", "1")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # put back
    assert image_size(tmp_path / "a.png") == (9_500, 9_500)


def test_pipes_are_no_images(tmp_path: Path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match="no ordinary file"):
        decode_image(tmp_path / "a.png")


@pytest.mark.parametrize("orientation", [1, 6, 8])
def test_tiff_is_read_upright(tmp_path: Path, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(smooth()).save(tmp_path / "a.tif", exif=exif)
    Image.fromarray(smooth()).save(tmp_path / "a.png", exif=exif)
    expected = decode_image(tmp_path / "a.png")
    assert (decode_image(tmp_path / "a.tif") == expected).all()
    assert image_size(tmp_path / "a.tif") == expected.shape[:2]


def test_fractions_are_no_picture(tmp_path: Path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="fractions"):
        decode_image(tmp_path / "a.tif")


def test_missing_file(tmp_path: Path):
    with pytest.raises(DataError, match="not there"):
        decode_image(tmp_path / "none.png")


def test_decompression_bomb_is_refused(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(png_of(50_000, 50_000, 8, b"", colour=2))
    with pytest.raises(DataError, match="too large"):
        decode_image(tmp_path / "a.png")


def test_image_between_pillows_warning_and_error_is_refused(tmp_path: Path, monkeypatch):
    Image.fromarray(smooth()).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match="too large"):
        decode_image(tmp_path / "a.png")


def test_damaged_metadata_does_not_cost_the_picture(tmp_path: Path):
    Image.fromarray(smooth()).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert (decode_image(tmp_path / "a.png") == smooth()).all()


LEVELS = np.arange(30 * 40).reshape(30, 40)


@pytest.mark.parametrize("suffix", ["png", "gif", "bmp"])
def test_palette_indices_are_labels_whatever_their_colours(tmp_path: Path, suffix: str):
    labels = (LEVELS % 200).astype(np.uint8)
    picture = Image.new("P", (40, 30))
    picture.putdata(labels.flatten().tolist())
    picture.putpalette([(37 * n + 5) % 256 for n in range(768)])
    picture.save(tmp_path / f"a.{suffix}")
    found = decode_label_map(tmp_path / f"a.{suffix}")
    assert found.dtype == np.uint8
    assert (found == labels).all()


def test_grey_levels_are_labels(tmp_path: Path):
    Image.fromarray((LEVELS % 256).astype(np.uint8)).save(tmp_path / "8.png")
    assert (decode_label_map(tmp_path / "8.png") == LEVELS % 256).all()
    Image.fromarray((LEVELS * 50).astype(np.uint16)).save(tmp_path / "16.png")
    deep = decode_label_map(tmp_path / "16.png")
    assert deep.dtype == np.int32
    assert (deep == LEVELS * 50).all()
    Image.fromarray(LEVELS % 3 == 0).save(tmp_path / "1.png")
    assert (decode_label_map(tmp_path / "1.png") == (LEVELS % 3 == 0)).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_is_not_stretched(tmp_path: Path, bits: int):
    labels = (LEVELS % 2**bits).astype(np.uint8)
    spread = np.unpackbits(labels[..., None], axis=2)[:, :, 8 - bits :]
    lines = np.packbits(spread.reshape(30, -1), axis=1)
    raw = b"".join(b"\0" + line.tobytes() for line in lines)
    (tmp_path / "a.png").write_bytes(png_of(40, 30, bits, zlib.compress(raw)))
    assert (decode_label_map(tmp_path / "a.png") == labels).all()


def png_of(width: int, height: int, bits: int, data: bytes, colour: int = 0) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_colours_are_refused_unless_they_are_given(tmp_path: Path):
    colours = [(0, 0, 0), (255, 0, 0), (0, 128, 255)]
    labels = LEVELS % 3
    Image.fromarray(np.array(colours, np.uint8)[labels]).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="found one of the mode RGB") as caught:
        decode_label_map(tmp_path / "a.png")
    assert str(caught.value).startswith(f"{tmp_path / 'a.png'}: ")
    assert (decode_label_map(tmp_path / "a.png", colours) == labels).all()
    with pytest.raises(DataError, match=r"colour \(255, 0, 0\) of column 1, row 0 is not among"):
        decode_label_map(tmp_path / "a.png", [colours[0], colours[2]])
    many = [(0, 0, n % 256) if n < 256 else (9, 9, n % 256) for n in range(300)]
    Image.fromarray(np.array(many, np.uint8)[LEVELS % 300]).save(tmp_path / "b.png")
    assert (decode_label_map(tmp_path / "b.png", many) == LEVELS % 300).all()


def test_label_maps_that_do_not_keep_numbers(tmp_path: Path):
    Image.fromarray((LEVELS % 256).astype(np.uint8)).save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="JPEG does not keep"):
        decode_label_map(tmp_path / "a.jpg")
    Image.new("LA", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="mode LA"):
        decode_label_map(tmp_path / "a.png")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_label_map_is_turned_as_its_image(tmp_path: Path, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    grey = smooth()[:, :, 0]
    Image.fromarray(grey).save(tmp_path / "a.png", exif=exif)
    assert (decode_label_map(tmp_path / "a.png") == decode_image(tmp_path / "a.png")[:, :, 0]).all()


def test_broken_label_maps_are_named(tmp_path: Path):
    for name, words in (
        ("truncated.png", "truncated"),
        ("damaged.png", "damaged"),
        ("empty.jpg", "empty"),
    ):
        path = broken_files(tmp_path)[name]
        with pytest.raises(DataError, match=words) as caught:
            decode_label_map(path)
        assert str(caught.value).startswith(f"{path}: ")
    (tmp_path / "bomb.png").write_bytes(png_of(50_000, 50_000, 8, b""))
    with pytest.raises(DataError, match="too large"):
        decode_label_map(tmp_path / "bomb.png")
