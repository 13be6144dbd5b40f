"""TIFF files of microscopes: what is read is written with the same axes, type and metadata."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from datamodules.files.image_files import UnreadableImage
from datamodules.files.pixels import page_layout, page_names, read_pixels
from datamodules.files.tiff_files import Layout, digests_in_tiff, write_tiff
from datamodules.files.whole_files import DamagedFile

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 4096, (3, 2, 8, 10), dtype=np.uint16)
COLOUR = RANDOM.integers(0, 4096, (2, 8, 10, 3), dtype=np.uint16)
SIZES = {"resolution": (4, 4), "resolutionunit": "CENTIMETER"}
FILES: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "ImageJ": (
        GREY,
        {"imagej": True, "metadata": {"axes": "ZCYX", "spacing": 0.5, "unit": "um"}, "resolution": (4, 4)},
    ),
    "ImageJ, float": (GREY.astype(np.float32) - 9, {"imagej": True, "metadata": {"axes": "TZYX"}}),
    "OME": (GREY, {"ome": True, "metadata": {"axes": "ZCYX", "PhysicalSizeX": 0.25}}),
    "OME, colour": (COLOUR, {"ome": True, "photometric": "rgb", "metadata": {"axes": "ZYXS"}}),
    "tifffile": (GREY.astype(np.float32) / 7, {"metadata": {"axes": "ZCYX"}, **SIZES}),
    "plain": (GREY[0], {"metadata": None}),
    "one page": (GREY[0, 0], {"metadata": None, **SIZES}),
    "one float page": (-GREY[0, 0].astype(np.float32), {}),
    "8 bits": (GREY[0].astype(np.uint8), {}),
    "deflate in tiles": (GREY[0], {"compression": "zlib", "tile": (16, 16)}),
    "colours in planes": (COLOUR.transpose(0, 3, 1, 2), {"photometric": "rgb", "planarconfig": "separate"}),
    "big-endian": (GREY[0], {"byteorder": ">"}),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_stack_is_written_as_it_was_read(kind: str, tmp_path: Path) -> None:
    stored, settings = FILES[kind]
    tifffile.imwrite(path := tmp_path / "a.tif", stored, **{"photometric": "minisblack", **settings})
    layout = page_layout(path)
    assert layout is not None
    white = None if stored.dtype == np.uint8 else 4096
    pages = [read_pixels(path, data_range=white, page=page) for page in range(layout.count)]
    digests = [f"{page}" for page in range(layout.count)]
    write_tiff(tmp_path / "b.tif", pages, layout, digests)
    with tifffile.TiffFile(path) as given, tifffile.TiffFile(tmp_path / "b.tif") as found:
        for before, after in zip(given.series, found.series, strict=True):
            assert (after.axes, after.shape, after.dtype) == (before.axes, before.shape, before.dtype)
        np.testing.assert_array_equal(found.asarray(), stored)
        assert (found.is_imagej, found.is_ome) == (given.is_imagej, given.is_ome)
        for key in ("spacing", "unit"):
            assert (found.imagej_metadata or {}).get(key) == (given.imagej_metadata or {}).get(key)
        assert ("PhysicalSizeX" in (found.ome_metadata or "")) == (kind == "OME")
        assert found.pages[0].tags.valueof("XResolution") == given.pages[0].tags.valueof("XResolution")
    assert digests_in_tiff(tmp_path / "b.tif") == digests
    assert page_names(layout, "a") == (["a"] if stored.ndim == 2 else [f"a/{page + 1}" for page in range(len(pages))])


def test_pillow_reads_what_tifffile_cannot(tmp_path: Path) -> None:
    for number, stored in enumerate([GREY[0, 0], GREY[0, 0].astype(np.float32), COLOUR[0].astype(np.uint8)]):
        Image.fromarray(stored).save(path := tmp_path / f"{number}.tif", compression="tiff_lzw")
        found = read_pixels(path, data_range=255 if stored.dtype == np.uint8 else 4096)
        assert found.dtype == stored.dtype
        np.testing.assert_array_equal(found.transpose(1, 2, 0).squeeze(), stored)


def test_floating_point_colours_become_grey_without_rounding(tmp_path: Path) -> None:
    colour = COLOUR[0].astype(np.float32) / 4096
    tifffile.imwrite(tmp_path / "a.tif", colour, photometric="rgb")
    found = read_pixels(tmp_path / "a.tif", 1, data_range=1)
    np.testing.assert_allclose(found[0], colour @ np.array([0.299, 0.587, 0.114]), rtol=1e-6)


def stored_as(values: np.ndarray, **settings: Any) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, values, **{"photometric": "minisblack", **settings})


def cut(values: np.ndarray, **settings: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        stored_as(values, **settings)(path)
        path.write_bytes(path.read_bytes()[:-60])

    return write


def huge(path: Path) -> None:
    """Declare 100,000 x 100,000 pixels in a file of some bytes."""
    stored_as(GREY[0, 0], metadata=None)(path)
    with tifffile.TiffFile(path, mode="r+") as file:
        for name in ("ImageWidth", "ImageLength"):
            file.pages[0].tags[name].overwrite(100_000)


def alpha(path: Path) -> None:
    tifffile.imwrite(path, np.dstack([COLOUR[0], GREY[0, 0]]), photometric="rgb", extrasamples=["unassalpha"])


FLAWED = GREY[0, 0].astype(np.float32)
FLAWED[0, :2] = np.nan, np.inf
HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "64-bit float": (stored_as(FLAWED.astype(np.float64)), "values are of type float64; convert it to uint8, uint16"),
    "64-bit integer": (stored_as(GREY[0, 0].astype(np.int64)), "values are of type int64; convert it"),
    "signed": (stored_as(GREY[0, 0].astype(np.int16)), "values are of type int16; convert it"),
    "complex": (stored_as(FLAWED.astype(np.complex64)), "values are of type complex64; convert it"),
    "half": (stored_as(GREY[0, 0].astype(np.float16)), "values are of type float16; convert it"),
    "planar": (stored_as(GREY[:, 0].repeat(2, 0)[:5], planarconfig="separate"), "save each channel and each slice as"),
    "two channels in a pixel": (stored_as(COLOUR[0, ..., :2], planarconfig="contig"), "YXS with 2 values per pixel"),
    "alpha": (alpha, "compressed or have alpha; write it uncompressed and without alpha"),
    "NaN": (stored_as(FLAWED), "has 2 values that are NaN or infinite; replace them"),
    "below the range": (stored_as(GREY[0, 0].astype(np.float32) * -2), "has the value -.*, above data_range 4096"),
    "truncated": (cut(GREY[0, 0]), "it is truncated"),
    "truncated stack": (cut(GREY[0]), "cannot be read as an image"),
    "truncated tiles": (cut(GREY[0, 0], tile=(16, 16)), "it is truncated"),
    "truncated deflate": (cut(GREY[0, 0], compression="zlib"), "cannot be read as an image"),
    "huge": (huge, "it unpacks to 20000000000 bytes, more than the limit of"),
    "no page": (lambda path: path.write_bytes(struct.pack("<2sHI", b"II", 42, 0)), "cannot be read as an image"),
    "a circle of pages": (
        lambda path: path.write_bytes(struct.pack("<2sHIHI", b"II", 42, 8, 0, 8)),
        "cannot be read as an image",
    ),
    "text": (lambda path: path.write_text("no image"), "cannot be read as an image"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_named_in_one_sentence(kind: str, tmp_path: Path) -> None:
    write, message = HOSTILE[kind]
    write(path := tmp_path / "a.tif")
    with pytest.raises(UnreadableImage, match=rf"a\.tif .*{message}") as error:
        read_pixels(path, data_range=4096, page=1 if "stack" in kind else 0)
    assert "\n" not in str(error.value)


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    write_tiff(path := tmp_path / "a.tif", [GREY[0, 0][None]], Layout(), ["a"])
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DamagedFile, match=r"a\.tif is not a whole TIFF file"):
        digests_in_tiff(path)
