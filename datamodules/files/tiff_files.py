"""TIFF files: pages of 8 or 16 bits or float32, and how the pages of a stack are arranged.

A stack is written with the axes, the kind of metadata and the pixel sizes of the file from which it was computed.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffFileError, TiffPageSeries, TiffWriter, xml2dict

from datamodules.files.limits import check_is_file, check_unpacked
from datamodules.files.whole_files import DamagedFile, whole_file

SUFFIXES = (".tif", ".tiff")
TYPES = ("uint8", "uint16", "float32")
"""Types of the values in a page."""
DIGESTS = 65123
"""Tag with the digests of the inputs of the pages. TIFF leaves the tags from 65000 to private use."""
LARGEST_TIFF = 2**31
"""Size in bytes above which files are written as BigTIFF. Other TIFF files are limited to twice this size."""
_LOSSLESS = (COMPRESSION.NONE, COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE, COMPRESSION.LZMA)
_KINDS = ("imagej", "ome", "shaped")
_COUNTS = ("ImageJ", "images", "channels", "slices", "frames", "hyperstack", "shape", "axes")


@dataclass(frozen=True)
class Layout:
    """Arrangement of the pages of an image file.

    Args:
        shape: sizes of the axes above the page, such as (depth, channels). Empty for a single page.
        axes: one letter for each of these axes, as in the package `tifffile`.
        kind: kind of the metadata: `imagej`, `ome`, `shaped` (as the package `tifffile` writes them), or empty.
        planar: whether the colours of a page are stored as separate planes.
        metadata: the file's metadata, such as the distance of slices.
        resolution: pixels per unit along x and y, and the unit's code. None if unknown.
    """

    shape: tuple[int, ...] = ()
    axes: str = ""
    kind: str = ""
    planar: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    resolution: tuple[tuple[float, float], int] | None = None

    @property
    def count(self) -> int:
        """Number of pages."""
        return math.prod(self.shape)


@contextmanager
def opened_tiff(path: Path) -> Iterator[tuple[TiffFile, TiffPageSeries | None]]:
    """Open a TIFF file, and find the series that has all its pages. The series is None if no metadata define one."""
    check_is_file(path)
    with TiffFile(path) as file:
        if not len(file.pages):
            raise ValueError("it has no page")
        described = file.is_imagej or file.is_ome or file.is_shaped
        alone = file.series[0] if described and len(file.series) == 1 and file.series[0].kind in _KINDS else None
        if alone is not None and alone.is_multifile:
            raise ValueError("its pages are in several files; save them in one file")
        yield file, alone


def whole_pages(file: TiffFile) -> list[Any]:
    """List the pages of a file, without reduced copies and transparency masks."""
    pages: list[Any] = list(file.pages)
    return [page for page in pages if not (page.is_reduced or page.is_mask)] or pages[:1]


@lru_cache(maxsize=64)
def _page_positions(path: Path, changed: int) -> list[int]:
    """List the positions of the pages of a file that last changed at the time `changed`."""
    with TiffFile(path) as file:
        return [page.index for page in whole_pages(file)]


def read_layout(path: Path) -> Layout | None:
    """Read how the pages of a TIFF file are arranged. None if the file is not a TIFF file."""
    try:
        with opened_tiff(path) as (file, series):
            pages = [series.keyframe] if series is not None else whole_pages(file)
            shape: tuple[int, ...] = (len(pages),) if len(pages) > 1 else ()
            page, axes, kind = pages[0], "I" * len(shape), ""
            if series is not None:
                depth = len(series.shape) - len(page.shape)
                shape, axes, kind = series.shape[:depth], series.axes[:depth], series.kind
            known: dict[str, Any] = {}
            if kind == "imagej":
                known = dict(file.imagej_metadata or {})
            elif kind == "shaped":
                known = dict((file.shaped_metadata or ({},))[0])
            elif kind == "ome":
                known = _pixel_sizes(file.ome_metadata or "")
            given = page.tags.get("XResolution") is not None
            return Layout(
                shape,
                axes,
                kind,
                page.axes.startswith("S"),
                {key: value for key, value in known.items() if key not in _COUNTS},
                (page.resolution, int(page.resolutionunit)) if given else None,
            )
    except TiffFileError:
        return None


def _pixel_sizes(ome: str) -> dict[str, Any]:
    images = xml2dict(ome).get("OME", {}).get("Image", {})
    pixels = (images[0] if isinstance(images, list) else images).get("Pixels", {})
    return {key: value for key, value in pixels.items() if key.startswith(("PhysicalSize", "TimeIncrement"))}


def read_page(path: Path, page: int) -> NDArray[Any] | None:
    """Read a page of a TIFF file, `[H, W, C]`, with its stored type.

    None is returned for files that Pillow must read: palettes, bits packed into bytes, lossy or LZW compression,
    rotated images, and files that are not TIFF files.

    Raises:
        ValueError: if the values are of a type other than `TYPES`, or if the page is too large for the file's size.
    """
    try:
        with opened_tiff(path) as (file, series):
            contiguous = series is not None and series.dataoffset is not None
            found: Any
            if series is None:
                found = file.pages[_page_positions(path, path.stat().st_mtime_ns)[page]]
            elif contiguous:
                found = series.keyframe
            else:
                found = series[page]
            key = found.keyframe
            if key.dtype is None or (key.dtype.name not in (*TYPES, "bool")):
                stored = key.dtype or f"{key.bitspersample} bits of format {key.sampleformat}"
                raise ValueError(f"its values are of type {stored}; convert it to {', '.join(TYPES)}")
            if key.axes not in ("YX", "YXS", "SYX") or key.samplesperpixel not in (1, 3, 4):
                axes = f"{key.axes} with {key.samplesperpixel} values per pixel"
                raise ValueError(f"a page has the axes {axes}; save each channel and each slice as its own page")
            if not key.size:
                raise ValueError("it has no pixels")
            check_unpacked(path, key.nbytes)
            if (
                key.compression not in _LOSSLESS
                or key.photometric not in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB)
                or key.bitspersample != 8 * key.dtype.itemsize
                or key.tags.valueof("Orientation", 1) != 1
                or key.extrasamples
            ):
                return None
            if series is not None and series.dataoffset is not None:
                start = series.dataoffset + page * key.nbytes
                if start + key.nbytes > path.stat().st_size:
                    raise ValueError("it is truncated")
                typed = np.dtype(file.byteorder + key.dtype.char)
                pixels = file.filehandle.read_array(typed, key.size, start).reshape(key.shape)
            else:
                ends = map(sum, zip(found.dataoffsets, found.databytecounts, strict=True))
                lacks = len(found.databytecounts) != math.prod(key.chunked) or 0 in found.databytecounts
                if lacks or max(ends, default=0) > path.stat().st_size:
                    raise ValueError("it is truncated")
                pixels = found.asarray()
            pixels = np.moveaxis(pixels, 0, 2) if key.axes == "SYX" else pixels
            return np.atleast_3d(pixels).astype(key.dtype, copy=False)
    except TiffFileError:
        return None


def write_tiff(path: Path, pages: Iterable[NDArray[Any]], layout: Layout, digests: Sequence[str]) -> None:
    """Write pages to a TIFF file atomically, in their order and with the given arrangement.

    Args:
        path: path of the file.
        pages: pages `[C, H, W]` of one type with one or three channels.
        layout: arrangement of the pages.
        digests: digest of the inputs of each page, in ASCII letters and digits.
    """
    pages = iter(pages)
    first = next(pages)
    height, width, colour = *first.shape[1:], len(first) == 3
    planar = layout.planar and colour
    big = first.nbytes * len(digests) > LARGEST_TIFF
    # ImageJ's files have at most 4 GB, and colours of 8 bits.
    kind = "shaped" if layout.kind == "imagej" and (big or (colour and first.dtype != np.uint8)) else layout.kind
    form = () if not colour else (3,)
    shape = (*layout.shape, *form, height, width) if planar else (*layout.shape, height, width, *form)

    def stored(page: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(page if planar else page.transpose(1, 2, 0) if colour else page[0])

    def each() -> Iterator[NDArray[Any]]:
        yield stored(first)
        yield from map(stored, pages)

    settings: dict[str, Any] = {"photometric": "rgb" if colour else "minisblack"}
    settings |= {"planarconfig": "separate" if planar else "contig"} if colour else {}
    if layout.resolution is not None:
        settings |= {"resolution": layout.resolution[0], "resolutionunit": layout.resolution[1]}
    axes = layout.axes + ("SYX" if planar else "YXS" if colour else "YX")
    with (
        whole_file(path) as partial,
        TiffWriter(partial, bigtiff=big, imagej=kind == "imagej", ome=kind == "ome") as writer,
    ):
        if kind:
            metadata = {**layout.metadata, "axes": axes}
            tags = [(DIGESTS, "s", 0, " ".join(digests), True)]
            writer.write(each(), shape=shape, dtype=first.dtype, metadata=metadata, extratags=tags, **settings)
        else:
            for page, digest in zip(each(), digests, strict=True):
                tags = [(DIGESTS, "s", 0, digest, True)]
                writer.write(page, metadata=None, contiguous=False, extratags=tags, **settings)


def digests_in_tiff(path: Path) -> list[str]:
    """Read the digests of the pages of a TIFF file. The list is empty if the file has none.

    Raises:
        DamagedFile: if the file is damaged.
    """
    try:
        with TiffFile(path) as file:
            size = path.stat().st_size
            if any(max(page.dataoffsets) + max(page.databytecounts) > size for page in file.pages):
                raise DamagedFile(f"{path} is not a whole TIFF file")
            found = [page.tags.valueof(DIGESTS) for page in whole_pages(file)]
            return [digest for text in found if text for digest in text.split()]
    except DamagedFile:
        raise
    except Exception as error:  # the package raises almost any exception type for a damaged file
        raise DamagedFile(f"{path} is not a whole TIFF file ({error})") from error
