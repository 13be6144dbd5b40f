import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.files.image_files import UnreadableImage
from datamodules.files.pixels import read_pixels

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (5, 4, 3), dtype=np.uint8)
DEEP = RANDOM.integers(0, 4096, (5, 4), dtype=np.uint16)
LUMA = [0.299, 0.587, 0.114]


def png_of_16_bits(path: Path, pixels: np.ndarray) -> None:
    """Write a 16-bit colour image, which Pillow cannot do."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    kind = {3: 2, 4: 6}[channels]
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def saved(directory: Path, pixels: np.ndarray, name: str = "a.png", mode: str | None = None) -> Path:
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(directory / name)
    return directory / name


def test_eight_bits_stay_and_channels_are_those_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path, COLOUR)
    np.testing.assert_array_equal(read_pixels(path), COLOUR.transpose(2, 0, 1))
    assert np.abs(read_pixels(path, channels=1)[0] - COLOUR @ LUMA).max() <= 0.51
    grey = saved(tmp_path, COLOUR[..., 0], "grey.png")
    np.testing.assert_array_equal(read_pixels(grey), COLOUR[None, ..., 0])
    np.testing.assert_array_equal(read_pixels(grey, channels=3), COLOUR[None, ..., 0].repeat(3, axis=0))
    opaque = np.dstack([COLOUR, np.full((5, 4), 255, np.uint8)])
    np.testing.assert_array_equal(read_pixels(saved(tmp_path, opaque)), COLOUR.transpose(2, 0, 1))
    palette = saved(tmp_path, COLOUR[..., 0], "palette.gif", "P")
    assert read_pixels(palette).shape == (3, 5, 4)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_stay_where_white_is_known(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path, DEEP, name)
    read = read_pixels(path, data_range=4095)
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, DEEP[None])
    np.testing.assert_array_equal(read_pixels(path, 3, 4095), DEEP[None].repeat(3, axis=0))


def test_colours_of_sixteen_bits_keep_them(tmp_path: Path) -> None:
    colour = RANDOM.integers(0, 65536, (5, 4, 3), dtype=np.uint16)
    png_of_16_bits(tmp_path / "a.png", colour)
    read = read_pixels(tmp_path / "a.png", data_range=65535)
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, colour.transpose(2, 0, 1))
    assert np.abs(read_pixels(tmp_path / "a.png", 1, 65535)[0] - colour @ LUMA).max() <= 0.51


def test_the_camera_says_which_side_is_up(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOUR).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png"), np.rot90(COLOUR, -1).transpose(2, 0, 1))


CLEAR = np.dstack([COLOUR, np.arange(20, dtype=np.uint8).reshape(5, 4)])


@pytest.mark.parametrize(
    ("name", "pixels", "data_range", "message"),
    [
        ("a.png", DEEP, None, "has 16 bits, so its white value is unknown: set data.training.data_range"),
        ("a.png", DEEP, 1023, "has the value .* above data_range 1023"),
        ("a.png", COLOUR, 1023, "has 8 bits, but data_range is 1023"),
        ("a.tif", DEEP.astype(np.float32), None, "has floating-point values up to .*: set data.training.data_range"),
        ("a.png", CLEAR, None, "parts of it are transparent"),
    ],
)
def test_pixels_of_an_unknown_range_are_named(
    name: str, pixels: np.ndarray, data_range: int | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UnreadableImage, match=rf"{name} .*{message}"):
        read_pixels(saved(tmp_path, pixels, name), data_range=data_range)


def test_an_alpha_channel_of_sixteen_bits_is_named(tmp_path: Path) -> None:
    png_of_16_bits(tmp_path / "a.png", RANDOM.integers(0, 65536, (5, 4, 4), dtype=np.uint16))
    with pytest.raises(UnreadableImage, match=r"a\.png .*it has an alpha channel"):
        read_pixels(tmp_path / "a.png", data_range=65535)
