"""Folders with small recordings."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile


def write(path: Path, count: int = 300, seed: int = 0, sample_rate: int = 16_000) -> np.ndarray:
    """Write noise as a recording, and return the stored values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.random.default_rng(seed).uniform(-1, 1, count), sample_rate)
    return soundfile.read(path, dtype="int16")[0]


def write_pairs(folder: Path, names: Sequence[str], kinds: tuple[str, str] = ("noisy", "clean")) -> None:
    for number, name in enumerate(names):
        for kind in kinds:
            write(folder / kind / name, 300 + 10 * number, seed=number + 100 * (kind == kinds[0]))
