"""Draw generated images as one square grid."""

import math
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from datamodules.files.whole_files import whole_file

CELL = 64  # minimum side of an image in the grid, in pixels


def save_samples(images: Tensor, path: Path) -> None:
    """Write images to one PNG file as a square grid. Small images are enlarged by an integer factor.

    Args:
        images: images `[n, C, H, W]`, uint8, with one or three channels.
        path: file of the grid.
    """
    factor = max(1, -(-CELL // images.shape[-1]))
    large = images.cpu().repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    grid = make_grid(large, nrow=math.ceil(math.sqrt(len(images))), padding=2, pad_value=255)
    with whole_file(path) as partial:
        Image.fromarray(np.ascontiguousarray(grid.permute(1, 2, 0).numpy())).save(partial)
