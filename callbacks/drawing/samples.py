"""Draw generated images as one grid."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torchvision.utils import make_grid

from datamodules.files.whole_files import whole_file

CELL = 64  # minimum side of an image in the grid, in pixels


def save_samples(images: Tensor, path: Path) -> None:
    """Write images to one PNG file as a square grid; small images are enlarged by an integer factor.

    Args:
        images: images `[n, C, H, W]`, uint8, with one or three channels.
        path: PNG file to write.
    """
    large = _enlarge(images)
    grid = make_grid(large, nrow=math.ceil(math.sqrt(len(images))), padding=2, pad_value=255)
    with whole_file(path) as partial:
        Image.fromarray(np.ascontiguousarray(grid.permute(1, 2, 0).numpy())).save(partial)


def save_rows(images: Tensor, captions: Sequence[str], names: Sequence[str], path: Path, cell: int = CELL) -> None:
    """Write rows of images with captions to one PNG file; small images are enlarged by an integer factor.

    Each caption is above its row. The file's metadata has two entries: `rows` lists the complete captions, one per
    line, and `columns` lists the names.

    Args:
        images: images `[R, n, C, H, W]`, uint8, with one or three channels.
        captions: R captions; a caption that is wider than its row is cut off.
        names: n names of the columns.
        path: PNG file to write.
        cell: minimum width of an image, in pixels.
    """
    rows = [make_grid(_enlarge(row, cell), nrow=len(row), padding=2, pad_value=255) for row in images]
    height, width = rows[0].shape[1:]
    line = max(14, height // 20)
    font = ImageFont.load_default(0.75 * line)
    sheet = Image.new("RGB", (width, (line + height) * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        top = place * (line + height)
        draw.text((2, top), " ".join(caption.split()), "black", font)
        sheet.paste(Image.fromarray(np.ascontiguousarray(row.permute(1, 2, 0).numpy())), (0, top + line))
    texts = PngInfo()
    texts.add_itxt("rows", "\n".join(captions))
    texts.add_itxt("columns", "\n".join(names))
    with whole_file(path) as partial:
        sheet.save(partial, pnginfo=texts)


def _enlarge(images: Tensor, cell: int = CELL) -> Tensor:
    """Enlarge small images by an integer factor."""
    factor = max(1, -(-cell // images.shape[-1]))
    return images.cpu().repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
