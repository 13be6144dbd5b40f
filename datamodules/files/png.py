"""PNG files of 8 or 16 bits. A clip is an animated PNG file, which loses nothing and which browsers play.

Each file also stores a digest of the inputs from which the image was computed.
"""

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.files.whole_files import DamagedFile, whole_file

SIGNATURE = b"\x89PNG\r\n\x1a\n"
DIGEST = "hash_of_given"
"""Key of the digest in the file's metadata."""
FRAME_RATE = 16
"""Frames per second of clips, as many as Wan generates."""
UP = 2
"""Code of the PNG filter, which is stored at the start of each row. This filter subtracts the row above."""


def write_png(path: Path, pixels: NDArray, digest: str, texts: Mapping[str, str] | None = None) -> None:
    """Write an image atomically, with a digest.

    This function encodes the PNG itself, because Pillow does not write 16-bit colour images.

    Args:
        path: path of the file. A missing folder is created.
        pixels: image `[C, H, W]`, or clip `[T, C, H, W]`, uint8 or uint16, with one or three channels.
        digest: digest of the inputs of the image, in ASCII letters and digits.
        texts: further metadata, a dictionary that maps keywords to texts. When Pillow opens the file, `Image.text`
            contains these texts.
    """
    frames = pixels if pixels.ndim == 4 else pixels[None]
    count, channels, height, width = frames.shape
    if channels not in (1, 3):
        raise ValueError(f"{path}: a PNG file must have one channel or three here, got {channels}")
    header = struct.pack(">2I5B", width, height, 8 * pixels.itemsize, 2 if channels == 3 else 0, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"tEXt", f"{DIGEST}\0{digest}".encode("latin-1")),
        *((b"iTXt", f"{key}\0\0\0\0\0{text}".encode()) for key, text in (texts or {}).items()),
    ]
    if count > 1:
        chunks.append((b"acTL", struct.pack(">2I", count, 0)))  # the animation is repeated without end
    for number, frame in enumerate(frames):
        content = _compressed_rows(frame)
        if count > 1:  # all chunks of frames but `IDAT` are numbered
            place = (width, height, 0, 0, 1, FRAME_RATE, 0, 0)
            chunks.append((b"fcTL", struct.pack(">5I2H2B", max(0, 2 * number - 1), *place)))
        chunks.append((b"fdAT", struct.pack(">I", 2 * number) + content) if number else (b"IDAT", content))
    chunks.append((b"IEND", b""))
    with whole_file(path) as partial, partial.open("wb") as file:
        file.write(SIGNATURE)
        for kind, content in chunks:
            file.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)))


def _compressed_rows(image: NDArray) -> bytes:
    """Compress an image, `[C, H, W]`, with one filter for all rows."""
    _, height, width = image.shape
    big_endian = np.ascontiguousarray(image.transpose(1, 2, 0)).astype(image.dtype.newbyteorder(">"))
    rows = np.full((height, 1 + width * len(image) * image.itemsize), UP, dtype=np.uint8)
    rows[:, 1:] = np.diff(big_endian.view(np.uint8).reshape(height, -1), axis=0, prepend=np.uint8(0))
    return zlib.compress(rows.tobytes())


def digest_in_png(path: Path) -> str | None:
    """Read the digest from a PNG file. Return None if the file has no digest.

    Raises:
        DamagedFile: if the file is truncated, or a checksum does not match.
    """
    content = memoryview(path.read_bytes())
    found, position = None, len(SIGNATURE)
    try:
        intact = content[:position] == SIGNATURE
        kind = b""
        while intact and kind != b"IEND":
            (length,) = struct.unpack_from(">I", content, position)
            chunk = content[position + 4 : position + 8 + length]
            intact = struct.unpack_from(">I", content, position + 8 + length)[0] == zlib.crc32(chunk)
            kind, position = bytes(chunk[:4]), position + 12 + length
            if kind == b"tEXt" and bytes(chunk[4:]).startswith(f"{DIGEST}\0".encode()):
                found = bytes(chunk[5 + len(DIGEST) :]).decode("latin-1")
        intact = intact and position == len(content)
    except struct.error:
        intact = False
    if not intact:
        raise DamagedFile(f"{path} is not a whole PNG file")
    return found
