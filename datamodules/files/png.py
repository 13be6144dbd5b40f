"""PNG files of 8 or 16 bits.

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
UP = 2
"""Code of the PNG filter, which is stored at the start of each row. This filter subtracts the row above."""


def write_png(path: Path, pixels: NDArray, digest: str, texts: Mapping[str, str] | None = None) -> None:
    """Write an image atomically, with a digest.

    This function encodes the PNG itself, because Pillow does not write 16-bit colour images.

    Args:
        path: path of the file. A missing folder is created.
        pixels: image `[C, H, W]`, uint8 or uint16, with one or three channels.
        digest: digest of the inputs of the image, in ASCII letters and digits.
        texts: further metadata, a dictionary that maps keywords to texts. When Pillow opens the file, `Image.text`
            contains these texts.
    """
    channels, height, width = pixels.shape
    if channels not in (1, 3):
        raise ValueError(f"{path}: a PNG file must have one channel or three here, got {channels}")
    big_endian = np.ascontiguousarray(pixels.transpose(1, 2, 0)).astype(pixels.dtype.newbyteorder(">"))
    rows = np.full((height, 1 + width * channels * pixels.itemsize), UP, dtype=np.uint8)
    rows[:, 1:] = np.diff(big_endian.view(np.uint8).reshape(height, -1), axis=0, prepend=np.uint8(0))
    header = struct.pack(">2I5B", width, height, 8 * pixels.itemsize, 2 if channels == 3 else 0, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"tEXt", f"{DIGEST}\0{digest}".encode("latin-1")),
        *((b"iTXt", f"{key}\0\0\0\0\0{text}".encode()) for key, text in (texts or {}).items()),
        (b"IDAT", zlib.compress(rows.tobytes())),
        (b"IEND", b""),
    ]
    with whole_file(path) as partial, partial.open("wb") as file:
        file.write(SIGNATURE)
        for kind, content in chunks:
            file.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)))


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
