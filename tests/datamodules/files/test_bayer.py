import math
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from datamodules.files.bayer import (
    SRGB_TO_XYZ,
    RawImage,
    camera_to_srgb,
    find_raw,
    pack_bayer,
    read_headerless,
    read_raw,
    unpack_bayer,
)
from datamodules.files.xtrans import packed_xtrans

COLOURS = {"R": 0, "G": 1, "B": 2}


def mosaic(pattern: str, height: int, width: int) -> np.ndarray:
    """Create the Bayer mosaic of an image with value 0 in red, 1 in green and 2 in blue."""
    cell = np.array([COLOURS[colour] for colour in pattern]).reshape(2, 2)
    return np.tile(cell, (height // 2 + 1, width // 2 + 1))[:height, :width].astype(np.uint16)


@pytest.mark.parametrize("pattern", ["RGGB", "BGGR", "GRBG", "GBRG"])
@pytest.mark.parametrize("size", [(8, 6), (9, 7)])
def test_channels_are_red_green_blue_green_whatever_the_pattern(pattern: str, size: tuple[int, int]) -> None:
    planes = pack_bayer(mosaic(pattern, *size), pattern)
    assert [np.unique(plane).tolist() for plane in planes] == [[0], [1], [2], [1]]


def test_unpacking_is_the_inverse_and_rows_stay_rows() -> None:
    bayer = np.arange(48, dtype=np.uint16).reshape(6, 8)
    planes = pack_bayer(bayer)
    np.testing.assert_array_equal(unpack_bayer(planes), bayer)
    np.testing.assert_array_equal(planes[:, 1, 0], [16, 17, 25, 24])


def test_a_raw_image_is_packed_above_its_black_level() -> None:
    raw = RawImage(np.array([[60, 64], [100, 1023]], dtype=np.uint16), 64, 1000)
    np.testing.assert_array_equal(raw.pack()[:, 0, 0], [0, 0, 936, 36])
    assert raw.pack().dtype == np.uint16


def test_files_without_a_header_have_the_size_and_levels_stated(tmp_path: Path) -> None:
    values = np.arange(12, dtype="<u2").reshape(3, 4)
    values.tofile(tmp_path / "a.raw")
    np.testing.assert_array_equal(read_headerless(tmp_path / "a.raw", 3, 4, 0, 11).bayer, values)
    with pytest.raises(ValueError, match=r"a.raw has 24 bytes; 4 x 4 pixels of 16 bits need 32"):
        read_headerless(tmp_path / "a.raw", 4, 4, 0, 11)
    with pytest.raises(ValueError, match=r"a.raw has the value 11, above the white level 10"):
        read_headerless(tmp_path / "a.raw", 3, 4, 0, 10)
    with pytest.raises(ValueError, match=r"a.raw: black must be below white, .* got 20 and 11"):
        read_headerless(tmp_path / "a.raw", 3, 4, 20, 11)


def test_numpys_files_are_read_and_checked(tmp_path: Path) -> None:
    bayer = np.arange(16, dtype=np.uint16).reshape(4, 4)
    good: dict[str, Any] = {"bayer": bayer, "black": 2, "white": 15, "pattern": "GBRG"}
    np.savez(tmp_path / "a.npz", **good)
    raw = read_raw(find_raw(tmp_path, "a"))
    assert (raw.black, raw.white, raw.pattern) == (2, 15, "GBRG")
    for change, message in (
        ({"bayer": bayer.astype(float)}, r"bayer is float64 \[4, 4\]; expected uint16"),
        ({"white": 10}, "has the value 15, above the white level 10"),
        ({"pattern": "RGB"}, "has the pattern RGB; expected one of RGGB"),
    ):
        np.savez(tmp_path / "b.npz", **good | change)
        with pytest.raises(ValueError, match=f"b.npz.*{message}"):
            read_raw(tmp_path / "b.npz")
    (tmp_path / "c.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"c.npz lacks bayer"):
        read_raw(tmp_path / "c.npz")
    with pytest.raises(FileNotFoundError, match=r"none does not exist with any of the suffixes .npz, .arw"):
        find_raw(tmp_path, "none")


def test_files_of_cameras_are_read_by_rawpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stub with the attributes of rawpy stands in for it, because its test files are not available."""
    (tmp_path / "a.ARW").touch()
    monkeypatch.setitem(sys.modules, "rawpy", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"a.ARW: camera raw formats are read by rawpy; pip install .noiseworks\[raw\]"
    ):
        read_raw(find_raw(tmp_path, "a"))

    class File:
        color_desc = b"RGBG"
        raw_pattern = np.array([[2, 3], [1, 0]])
        black_level_per_channel = (512, 512, 512, 512)
        white_level = 900
        raw_image_visible = np.array([[512, 600], [700, 1000]], dtype=np.uint16)

        def __enter__(self) -> "File":
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setitem(sys.modules, "rawpy", types.SimpleNamespace(imread=lambda path: File()))
    raw = read_raw(tmp_path / "a.ARW")
    assert (raw.black, raw.white, raw.pattern, raw.bayer.tolist()) == (512, 900, "BGGR", [[512, 600], [700, 900]])
    assert raw.rendering is None
    matrix = np.vstack([np.diag([2.0, 1.0, 4.0]) @ np.linalg.inv(SRGB_TO_XYZ), np.zeros((1, 3))])
    monkeypatch.setattr(File, "camera_whitebalance", [512.0, 256.0, 384.0, 0.0], raising=False)
    monkeypatch.setattr(File, "rgb_xyz_matrix", matrix, raising=False)
    np.testing.assert_allclose(read_raw(tmp_path / "a.ARW").rendering, [[2, 1, 1.5], *np.eye(3)], atol=1e-6)
    monkeypatch.setattr(File, "rgb_xyz_matrix", np.zeros((4, 3)))  # a camera that is unknown to LibRaw
    assert read_raw(tmp_path / "a.ARW").rendering is None
    for cell, kind in ((np.zeros((6, 6), int), "X-Trans, 6 x 6"), (None, "none")):
        monkeypatch.setattr(File, "raw_pattern", cell)
        with pytest.raises(ValueError, match=rf"a.ARW cannot be read .*: its colour filter is {kind}; only Bayer"):
            read_raw(tmp_path / "a.ARW")


def test_colours_of_a_camera_are_undone_and_white_stays_white() -> None:
    mixed = np.random.default_rng(0).uniform(0.1, 1, (3, 3)) + np.eye(3)  # from linear sRGB to camera colours
    matrix = camera_to_srgb(mixed @ np.linalg.inv(SRGB_TO_XYZ))
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    light = np.array([0.2, 0.5, 0.7])
    balanced = (mixed @ light) / mixed.sum(axis=1)  # with gains that make white neutral
    np.testing.assert_allclose(matrix @ balanced, light)


XTRANS = "GGRGGBGGBGGRBRGRBGGGBGGRGGRGGBRBGBRG"


@pytest.mark.parametrize("cell", ["RGGB", "GBRG", XTRANS])
def test_rawpy_reads_what_a_digital_negative_holds(cell: str, tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    values = np.random.default_rng(0).integers(60, 1000, (96, 120)).astype(np.uint16)
    side = math.isqrt(len(cell))
    identity = [number for value in np.eye(3, dtype=int).flat for number in (int(value), 1)]
    tags = [
        (33421, "H", 2, (side, side), True),  # the cell's size, and its colours
        (33422, "B", len(cell), bytes("RGB".index(colour) for colour in cell), True),
        (50706, "B", 4, bytes([1, 4, 0, 0]), True),  # version, camera, black, white and colour matrix
        (50708, "s", 0, "Camera", True),
        (50714, "H", 1, 64, True),
        (50717, "H", 1, 1023, True),
        (50721, "2i", 9, tuple(identity), True),
    ]
    tifffile.imwrite(tmp_path / "a.dng", values, photometric="cfa", extratags=tags, metadata=None, software=None)
    if cell == XTRANS:
        with pytest.raises(ValueError, match=r"a.dng cannot be read .*: its colour filter is X-Trans, 6 x 6"):
            read_raw(tmp_path / "a.dng")
        raw = read_raw(tmp_path / "a.dng", xtrans=True)
        assert (raw.black, raw.white, raw.pattern) == (64, 1023, cell)
        np.testing.assert_array_equal(raw.pack(), packed_xtrans(values, cell).clip(64, 1023) - 64)
    else:
        with pytest.raises(ValueError, match="its colour filter is Bayer, 2 x 2; only X-Trans"):
            read_raw(tmp_path / "a.dng", xtrans=True)
        raw = read_raw(tmp_path / "a.dng")
        assert (raw.black, raw.white, raw.pattern) == (64, 1023, cell)
        np.testing.assert_array_equal(raw.bayer, values)
