from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Draw a smooth image, like a photograph: two ways of reducing it give nearly the same result."""
    coarse = np.random.default_rng(seed).integers(256, size=(6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def save(path: Path, image: Image.Image | np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, image)
    else:
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def grey(path: Path, level: int, size: int = 20) -> None:
    save(path, Image.new("RGB", (size, size), (level, level, level)))


def shades(root: Path, split: str, classes: list[str], per_class: int = 4) -> None:
    """Write images that are identified by their pixels: red is the class, and green the position in the class."""
    for category, name in enumerate(classes):
        for position in range(per_class):
            colour = (10 * category, 10 * position, 100)
            save(root / split / name / f"{position}.png", Image.new("RGB", (40, 30), colour))


WNIDS = [f"n{number:08d}" for number in (1440764, 1443537, 1484850, 1491361)]
