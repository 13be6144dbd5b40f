"""Calibration of a camera's noise from a folder of raw images: flat frames and dark frames."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.corruptions.image_noise.calibration import Recording, flat_frames, photon_transfer, recording
from datamodules.files.bayer import SUFFIXES, RawImage, pack_bayer, read_raw, unpack_bayer

ROWS = 256
"""Number of rows that are analysed, in the middle of a dark frame. It is limited because the fit sorts all pixels."""
CLIPPED = 1e-3
"""Largest allowed fraction of saturated pixels in a flat frame; more saturated pixels would bias the variance."""


class Frames(NamedTuple):
    """The recordings of a camera at all gains, and the black and white levels of its sensor."""

    recordings: dict[str, list[Recording]]
    """Two recordings for each gain, by the name of the gain's folder."""
    black: int
    white: int


def read_frames(folder: Path) -> Frames:
    """Estimate the noise parameters at each gain of a camera.

    `folder` contains one subfolder for each gain (ISO). Each subfolder contains a folder `dark` with at least two
    frames without light, and a folder `flat/<level>` for each of at least two brightness levels. Each `flat/<level>`
    contains at least two frames of an evenly lit, unfocused surface. Only the first two dark frames are used.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; expected one folder for each gain")
    gains = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(gains) < 3:
        raise ValueError(f"{folder} has {len(gains)} folders of gains, but a calibration needs at least 3")
    recordings: dict[str, list[Recording]] = {}
    first: RawImage | None = None
    for gain in gains:
        dark = _frames(gain / "dark", first)
        first = first or dark[0]
        if any(frame.bayer.min() == frame.bayer.max() for frame in dark):
            raise ValueError(
                f"{gain / 'dark'} has a frame in which all values are equal: is it clipped at the black level?"
            )
        flat = gain / "flat"
        levels = sorted(path for path in flat.iterdir() if path.is_dir()) if flat.is_dir() else []
        if len(levels) < 2:
            raise FileNotFoundError(f"{flat} has {len(levels)} folders of brightness levels, expected at least 2")
        points = []
        for level in levels:
            frames = _frames(level, first)
            clipped = max(float((frame.bayer >= frame.white).mean()) for frame in frames)
            if clipped > CLIPPED:
                raise ValueError(f"{level}: {clipped:.1%} of the pixels are saturated; use a shorter exposure")
            planes = [pack_bayer(frame.bayer, frame.pattern) for frame in frames]
            points += [flat_frames([plane[colour] for plane in planes], first.black) for colour in range(4)]
        try:
            slope, _ = photon_transfer(*(np.array(values) for values in zip(*points, strict=True)))
        except ValueError as error:
            raise ValueError(f"{flat}: {error}") from error
        recordings[gain.name] = [recording(_middle(frame), slope, first.black) for frame in dark[:2]]
    assert first is not None
    return Frames(recordings, first.black, first.white)


def _frames(folder: Path, first: RawImage | None) -> Sequence[RawImage]:
    """Read two or more raw images from a folder, and check that all match `first` in size, levels and pattern."""
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if len(paths) < 2:
        raise FileNotFoundError(f"{folder} has {len(paths)} raw images, expected at least 2 ({', '.join(SUFFIXES)})")
    frames = []
    for path in paths:
        frame = read_raw(path)
        first = first or frame
        for name, own, other in (
            ("size", frame.bayer.shape, first.bayer.shape),
            ("black level", frame.black, first.black),
            ("white level", frame.white, first.white),
            ("pattern", frame.pattern, first.pattern),
        ):
            if own != other:
                raise ValueError(f"{path} has the {name} {own}, but other frames have {other}")
        frames.append(frame)
    return frames


def _middle(frame: RawImage) -> np.ndarray:
    """Return the middle rows of a frame, starting at a red pixel."""
    planes = pack_bayer(frame.bayer, frame.pattern)
    top = max(planes.shape[1] - ROWS // 2, 0) // 2
    return unpack_bayer(planes[:, top : top + ROWS // 2])
