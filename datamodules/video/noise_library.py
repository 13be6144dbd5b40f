"""Libraries of noise sequences that were extracted from videos."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.video.clip_noise import ClipNoise
from datamodules.video.folder_sets import named_clips, open_clip


class NoiseLibrary(ClipNoise):
    """Noise sequences in frame folders, as written by `train.py noise_library`. One sequence is sampled for each clip.

    A sequence that is longer or larger than the clip is cropped at a random position. All sequences are read into
    memory on first access.

    Args:
        folder: folder of the library, with frames `<folder>/<sequence>/00000000.png` and so on.
        loop: whether to repeat sequences that are shorter than a clip. False rejects these sequences.
        match_mean: whether to shift the mean of a sequence to the mean of its clip, in each channel.
    """

    def __init__(self, folder: str, loop: bool = False, match_mean: bool = False) -> None:
        self.folder = Path(folder).expanduser()
        self.loop = loop
        self.match_mean = match_mean
        self._read: dict[int, dict[str, NDArray[np.uint8]]] = {}

    def sequences(self, channels: int) -> dict[str, NDArray[np.uint8]]:
        """Read all sequences, each `[T, C, h, w]`, into a dict by name."""
        if channels not in self._read:
            paths = named_clips(self.folder, "the noise library")
            clips = {name: open_clip(path, channels) for name, path in paths.items()}
            self._read[channels] = {name: clip.read(0, clip.shape[0]) for name, clip in clips.items()}
        return self._read[channels]

    def check(self, shape: tuple[int, ...], name: str) -> None:
        time, channels, height, width = shape
        for title, sequence in self.sequences(channels).items():
            own_time, _, own_height, own_width = sequence.shape
            if own_height < height or own_width < width:
                raise ValueError(
                    f"{name}: sequence {title} of {self.folder} has {own_height} x {own_width} pixels, less than the "
                    f"{height} x {width} of a degraded clip; collect windows of at least this size"
                )
            if own_time < time and not self.loop:
                raise ValueError(
                    f"{name}: sequence {title} of {self.folder} has {own_time} frames, fewer than the {time} of a "
                    f"clip; collect longer sequences, or set loop to repeat this one"
                )

    def draw(self, clip: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
        time, channels, height, width = clip.shape
        sequences = list(self.sequences(channels).values())
        sequence = sequences[random.integers(len(sequences))]
        room = [max(own - wanted, 0) + 1 for own, wanted in zip(sequence.shape, clip.shape, strict=True)]
        first, _, top, left = (int(random.integers(places)) for places in room)
        frames = (first + np.arange(time)) % len(sequence)
        noise = sequence[frames, :, top : top + height, left : left + width]
        if not self.match_mean:
            return noise
        shift = clip.mean(axis=(0, 2, 3), keepdims=True) - noise.mean(axis=(0, 2, 3), keepdims=True)
        return (noise + shift).round().clip(0, 255).astype(np.uint8)
