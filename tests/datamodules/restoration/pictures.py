"""Folders of small random images, for tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

RANDOM = np.random.default_rng(0)


def pixels(height: int = 6, width: int = 5, colour: bool = True) -> np.ndarray:
    """Draw an image, `[H, W, 3]` or `[H, W]`."""
    return RANDOM.integers(0, 256, (height, width, 3) if colour else (height, width), dtype=np.uint8)


def written(folder: Path, names: Sequence[str], **size: int) -> dict[str, np.ndarray]:
    """Write random images, and return them by name."""
    images = {name: pixels(**size) for name in names}
    for name, image in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    return images


def planes(image: np.ndarray) -> np.ndarray:
    """Return the image in the layout of image sets, `[C, H, W]`."""
    return np.atleast_3d(image).transpose(2, 0, 1)
