"""Reading and packing of raw images of Bayer sensors, and also of X-Trans sensors.

Each pixel of a raw image has one value, measured through a red, green or blue filter.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.arguments import one_of
from datamodules.files.array_files import read_npz
from datamodules.files.limits import check_is_file, to_int64
from datamodules.files.xtrans import packed_xtrans, start_of

PATTERNS = ("RGGB", "BGGR", "GRBG", "GBRG")
SUFFIXES = (".npz", ".arw", ".nef", ".cr2", ".cr3", ".dng", ".raf", ".rw2")
"""Suffixes of raw images: camera formats, and `.npz` files that contain `bayer`, `black`, `white` and `pattern`."""
MOST = 65_535
"""Largest 16-bit number."""
PLACES = ((0, 0), (0, 1), (1, 1), (1, 0))
"""Row and column of the channels R, G, B, G in a 2 x 2 cell that begins with red."""


def pack_bayer(bayer: NDArray[Any], pattern: str = "RGGB") -> NDArray[Any]:
    """Pack a Bayer image into the channels R, G, B, G.

    The first two channels come from one sensor row, and the last two channels from the next row.

    If the pattern does not begin with red, the image is cropped so that its pattern begins with red. Incomplete cells
    are left out.

    Args:
        bayer: image `[H, W]`.
        pattern: colours of the 2 x 2 cell at the top left, row by row.

    Returns:
        Packed image, `[4, H / 2, W / 2]`, with H / 2 and W / 2 rounded down.
    """
    one_of(PATTERNS, pattern=pattern)
    top, left = divmod(pattern.index("R"), 2)
    bayer = bayer[top:, left:]
    height, width = bayer.shape[0] // 2 * 2, bayer.shape[1] // 2 * 2
    return np.stack([bayer[row:height:2, column:width:2] for row, column in PLACES])


def unpack_bayer(planes: NDArray[Any]) -> NDArray[Any]:
    """Unpack the channels R, G, B, G, `[4, H, W]`, into a Bayer image `[2 H, 2 W]` that begins with red."""
    _, height, width = planes.shape
    bayer = np.empty((2 * height, 2 * width), dtype=planes.dtype)
    for plane, (row, column) in zip(planes, PLACES, strict=True):
        bayer[row::2, column::2] = plane
    return bayer


SRGB_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
"""Matrix that converts linear sRGB to XYZ, with the white point D65."""


def camera_to_srgb(xyz_to_camera: NDArray[Any]) -> NDArray[np.float64]:
    """Compute the matrix `[3, 3]` that maps white-balanced camera colours to linear sRGB, as LibRaw does.

    The matrix maps white to white.

    Args:
        xyz_to_camera: matrix `[3, 3]` from XYZ to camera colours.
    """
    to_camera = xyz_to_camera @ np.array(SRGB_TO_XYZ)
    return np.linalg.inv(to_camera / to_camera.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class RawImage:
    """A raw image with its levels and colour pattern.

    Args:
        bayer: image `[H, W]`, uint16.
        black: black level.
        white: white level. Pixels saturate at this level.
        pattern: colours of the cell at the top left of the image, row by row. The cell has 2 x 2 pixels, or 6 x 6 for
            X-Trans.
        rendering: white balance and colour matrix of the camera, `[4, 3]`. Row 0 contains the white-balance gains of R,
            G and B relative to G. The other rows are the matrix from white-balanced colours to linear sRGB. `rendering`
            is None if the white balance or the matrix is unknown.
    """

    bayer: NDArray[np.uint16]
    black: int
    white: int
    pattern: str = "RGGB"
    rendering: NDArray[np.float32] | None = None

    def pack(self) -> NDArray[np.uint16]:
        """Return channels R, G, B, G, `[4, H / 2, W / 2]`, clipped to [black, white].

        The black level is subtracted. For X-Trans images, return nine channels instead (see `packed_xtrans`).
        """
        pack = pack_bayer if self.pattern in PATTERNS else packed_xtrans
        planes = pack(self.bayer, self.pattern).clip(self.black, self.white)
        return (planes - np.uint16(self.black)).astype(np.uint16)


def check_levels(raw: RawImage, path: Path, xtrans: bool = False) -> RawImage:
    """Reject impossible levels and patterns.

    Args:
        raw: the raw image.
        path: file of the image, for error messages.
        xtrans: whether the sensor must be an X-Trans sensor instead of a Bayer sensor.
    """
    if not 0 <= raw.black < raw.white <= MOST:
        raise ValueError(f"{path}: black must be below white, both in 0 ... {MOST}, got {raw.black} and {raw.white}")
    if not raw.bayer.size:
        raise ValueError(f"{path} has no pixel")
    if xtrans and start_of(raw.pattern) is None:
        raise ValueError(f"{path} has the pattern {raw.pattern}; expected an X-Trans cell of 36 colours")
    if not xtrans and raw.pattern not in PATTERNS:
        raise ValueError(f"{path} has the pattern {raw.pattern}; expected one of {', '.join(PATTERNS)}")
    if (data_range := int(raw.bayer.max())) > raw.white:
        raise ValueError(f"{path} has the value {data_range}, above the white level {raw.white}")
    return raw


def read_headerless(path: Path, height: int, width: int, black: int, white: int, pattern: str = "RGGB") -> RawImage:
    """Read a raw file that has no header and consists of 16-bit little-endian numbers.

    Args:
        path: raw file.
        height: number of sensor rows.
        width: number of sensor columns.
        black: black level.
        white: white level. Pixels saturate at this level.
        pattern: colours of the 2 x 2 cell at the top left, row by row.
    """
    size = path.stat().st_size
    if size != 2 * height * width:
        raise ValueError(f"{path} has {size} bytes; {height} x {width} pixels of 16 bits need {2 * height * width}")
    return check_levels(RawImage(np.fromfile(path, dtype="<u2").reshape(height, width), black, white, pattern), path)


def read_raw(path: Path, xtrans: bool = False) -> RawImage:
    """Read a raw image from a camera format, with the package `rawpy`, or from an `.npz` file.

    An `.npz` file contains `bayer` `[H, W]` uint16, `black`, `white` and `pattern`. Only camera formats contain the
    white balance and the colour matrix (`rendering`).

    Args:
        path: the file.
        xtrans: whether the sensor must be an X-Trans sensor instead of a Bayer sensor.
    """
    if path.suffix.lower() == ".npz":
        try:
            held = read_npz(path, ("bayer", "black", "white", "pattern"))
            black, white = (int(to_int64(held[key], 0, MOST, path, key).reshape(())) for key in ("black", "white"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} lacks bayer, black, white or pattern ({error})") from error
        raw = RawImage(held["bayer"], black, white, str(held["pattern"]))
        if raw.bayer.ndim != 2 or raw.bayer.dtype != np.uint16:
            raise ValueError(f"{path}: bayer is {raw.bayer.dtype} {list(raw.bayer.shape)}; expected uint16 [H, W]")
        return check_levels(raw, path, xtrans)
    try:
        import rawpy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path}: camera raw formats are read by rawpy; pip install 'noiseworks[raw]'"
        ) from error
    try:
        check_is_file(path)
        with rawpy.imread(str(path)) as file:
            cell = file.raw_pattern
            if cell is None or cell.shape != ((6, 6) if xtrans else (2, 2)):
                kind = "none" if cell is None else "Bayer, 2 x 2" if xtrans else "X-Trans, 6 x 6"
                expected = (
                    "only X-Trans patterns, 6 x 6, are expected here"
                    if xtrans
                    else "only Bayer patterns, 2 x 2, are supported"
                )
                raise ValueError(f"its colour filter is {kind}; {expected}")
            colours = [chr(file.color_desc[colour]) for colour in cell.ravel()]
            black = round(float(np.mean(file.black_level_per_channel)))
            bayer = np.array(file.raw_image_visible, dtype=np.uint16)
            white = int(file.white_level)
            rendering = _rendering(file)
    except Exception as error:  # for a damaged file
        raise ValueError(f"{path} cannot be read as a raw image: {error}") from error
    # Hot pixels may be above the white level.
    return check_levels(RawImage(bayer.clip(max=white), black, white, "".join(colours), rendering), path, xtrans)


def _rendering(file: Any) -> NDArray[np.float32] | None:
    """Read `RawImage.rendering`. Return None if the file lacks the white balance or the colour matrix."""
    gains, matrix = (getattr(file, key, None) for key in ("camera_whitebalance", "rgb_xyz_matrix"))
    if gains is None or matrix is None:
        return None
    gains, matrix = np.array(gains[:3], dtype=float), np.array(matrix, dtype=float)[:3]
    if not (np.isfinite(gains).all() and (gains > 0).all() and np.linalg.matrix_rank(matrix) == 3):
        return None
    return np.vstack([gains / gains[1], camera_to_srgb(matrix)]).astype(np.float32)


def find_raw(folder: Path, name: str) -> Path:
    """Find the raw image with a given name and any suffix."""
    for path in sorted(folder.glob(f"{name}.*")):
        if path.suffix.lower() in SUFFIXES:
            return path
    raise FileNotFoundError(f"{folder / name} does not exist with any of the suffixes {', '.join(SUFFIXES)}")
