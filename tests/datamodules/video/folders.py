"""Small folders of frames and video files."""

from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.files.video_files import encode_frames


def frames(count: int = 5, height: int = 16, width: int = 24, seed: int = 0, colour: bool = True) -> np.ndarray:
    """Draw smooth frames, `[T, H, W, C]`."""
    random = np.random.default_rng(seed)
    ramp = np.add.outer(np.linspace(0, 60, height), np.linspace(0, 60, width))
    colours = random.integers(0, 50, size=3 if colour else 1)
    return (ramp[..., None] + colours + 2 * np.arange(count)[:, None, None, None]).astype(np.uint8)


def write_frames(folder: Path, clip: np.ndarray, first: int = 0) -> None:
    """Write a folder of frames."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(clip, start=first):
        Image.fromarray(frame if frame.shape[2] == 3 else frame[..., 0]).save(folder / f"{number:08d}.png")


def write_video(path: Path, clip: np.ndarray, rate: float = 10) -> None:
    """Write a video file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encode_frames(path, clip, rate, options={"crf": "4"})
