"""Generated images in a square, as one picture."""

import math
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from datamodules.files.whole_files import whole_file

CELL = 64  # least side of an image in the picture, in pixels


def save_samples(images: Tensor, path: Path) -> None:
    """Write images as one PNG, in rows of as many as there are rows; small ones are enlarged by a whole factor.

    Args:
        images: uint8 `[n, C, H, W]`, of one channel or three.
        path: of the picture.
    """
    factor = max(1, -(-CELL // images.shape[-1]))
    large = images.cpu().repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    grid = make_grid(large, nrow=math.ceil(math.sqrt(len(images))), padding=2, pad_value=255)
    with whole_file(path) as partial:
        Image.fromarray(np.ascontiguousarray(grid.permute(1, 2, 0).numpy())).save(partial)
