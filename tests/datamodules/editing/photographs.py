"""A folder of photographs to protect, for tests."""

import json
from pathlib import Path

import numpy as np

from tests.datamodules.image_folders import save


def photographs(directory: Path) -> Path:
    """Write two photographs with seen and unseen masks and prompts into a new folder."""
    random = np.random.default_rng(0)
    for name, seen in (("one", ["seen"]), ("two", ["seen_face", "seen_hand"])):
        pixels = random.integers(0, 256, size=(20, 20, 3), dtype=np.uint8)
        save(directory / "photos" / "images" / f"{name}.png", pixels)
        for number, mask in enumerate([*seen, "unseen1"]):
            white = np.zeros((20, 20), dtype=np.uint8)
            white[2 + number : 12, 4:15] = 255
            save(directory / "photos" / "masks" / name / f"{mask}.png", white)
    (directory / "photos" / "prompts.json").write_text(json.dumps({"one": ["a cat", "a"], "two": ["a cat"]}))
    return directory / "photos"
