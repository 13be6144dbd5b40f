"""Dataset of whole clips for evaluation, and random number generators for clips."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.corruptions.clip_degradation import Chain
from datamodules.loading.global_batches import Request
from datamodules.video.clip_noise import ClipNoise
from datamodules.video.clips import Clips

PLACE, DEGRADATION, NOISE = 1, 2, 3
"""Indices of the random streams of a clip."""
TESTED = 2**31
"""Epoch index for the random numbers of validation and test clips. Training never reaches this epoch."""


def random_of(seed: int, epoch: int, position: int, stream: int) -> np.random.Generator:
    """Return a random number generator for one clip and one random stream."""
    return np.random.default_rng([seed, epoch, position, stream])


def frames_to_clip(frames: np.ndarray) -> Tensor:
    """Convert 8-bit frames to a float32 clip in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).float().div_(255)


def as_levels(clip: Tensor) -> np.ndarray:
    """Convert a clip in [0, 1] to frames of 8-bit integers (uint8)."""
    return clip.mul(255).round().to(torch.uint8).numpy()


class WholeClips:
    """Dataset of whole clips, in which long clips are split into consecutive parts.

    Args:
        clips: clips of the dataset.
        degradation: function that degrades the clean clips if there are no degraded clips.
        noise: source of noise sequences.
        longest: largest number of frames per part. None leaves clips whole.
    """

    def __init__(self, clips: Clips, degradation: Chain | None, noise: ClipNoise | None, longest: int | None) -> None:
        self.clips = clips
        self.degradation = degradation
        self.noise = noise
        self.in_memory = clips.in_memory
        self.parts: list[tuple[int, int, int]] = []
        self.sizes: list[tuple[int, ...]] = []
        for position, stored in enumerate(clips.stored):
            time, *size = stored.shape
            for first in range(0, time, longest or time):
                count = min(longest or time, time - first)
                self.parts.append((position, first, count))
                self.sizes.append((count, *size))

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, request: Request) -> dict[str, Any]:
        rows = request.indices.tolist()
        read = [self.part(row) for row in rows]
        batch: dict[str, Any] = {
            "index": request.indices,
            "global_batch_size": request.global_batch_size,
            "name": [self.clips.names[self.parts[row][0]] for row in rows],
            "first": [self.parts[row][1] for row in rows],
        }
        if self.clips.rates is not None:
            batch["rate"] = [self.clips.rates[self.parts[row][0]] for row in rows]
        return batch | {key: torch.from_numpy(np.stack([one[key] for one in read])) for key in read[0]}

    def part(self, row: int) -> dict[str, np.ndarray]:
        """Read one part of a clip, degrade it if necessary, and return a dict of 8-bit frames `[T, C, H, W]`."""
        position, first, count = self.parts[row]
        kinds = {"clean": self.clips.clean, "noisy": self.clips.noisy}
        part = {key: clips[position].read(first, count) for key, clips in kinds.items() if clips is not None}
        if "noisy" not in part and self.degradation is not None:
            scale = self.degradation.scale
            height, width = (side // scale * scale for side in part["clean"].shape[2:])
            part["clean"] = np.ascontiguousarray(part["clean"][..., :height, :width])
            part["noisy"] = as_levels(
                self.degradation(frames_to_clip(part["clean"]), random_of(0, TESTED, row, DEGRADATION))
            )
        if self.noise is not None:
            self.noise.check(part["noisy"].shape, "data.test_noise")
            part["noise"] = self.noise.draw(part["noisy"], random_of(0, TESTED, row, NOISE))
        return part
