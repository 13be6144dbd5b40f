"""Clips of crops that move over photographs. They can be used instead of real videos."""

import numpy as np
from numpy.typing import NDArray

from datamodules.arguments import at_least
from datamodules.restoration.photographs import Photographs
from datamodules.video.clips import ArrayFrames, Clips, ClipSet, Split


class MovingPhotographs(ClipSet):
    """Clips of crops that move straight over bundled photographs, by whole numbers of pixels per frame.

    The photograph, the direction and the position of each clip are random. Training clips are cut from ten photographs.
    Validation and test clips are cut from three other photographs.

    Args:
        samples: number of training clips.
        test_samples: number of test clips, and also of validation clips.
        num_frames: number of frames per clip.
        image_size: height and width of a frame, in pixels.
        photograph_size: height and width of the photographs, in pixels.
        max_speed: largest displacement along each axis, in pixels per frame.
        colour: whether to return colour frames. False converts the photographs to grey.
        seed: seed of the clips. None means the seed of the DataModule.
    """

    def __init__(
        self,
        samples: int = 400,
        test_samples: int = 16,
        num_frames: int = 4,
        image_size: int = 32,
        photograph_size: int = 128,
        max_speed: int = 3,
        colour: bool = False,
        seed: int | None = None,
    ) -> None:
        at_least(1, samples=samples, test_samples=test_samples, num_frames=num_frames, image_size=image_size)
        at_least(0, max_speed=max_speed)
        at_least(image_size + max_speed * (num_frames - 1), photograph_size=photograph_size)
        self.samples = samples
        self.test_samples = test_samples
        self.num_frames = num_frames
        self.image_size = image_size
        self.max_speed = max_speed
        self.photographs = Photographs(photograph_size, colour)
        self.channels = self.photographs.channels
        self.seed = seed

    def clips(self, split: Split) -> Clips:
        count = self.samples if split == "training" else self.test_samples
        random = np.random.default_rng([self.seed or 0, ("training", "validation", "test").index(split)])
        images = np.stack(self.photographs.images(split).stored).astype(np.uint8)
        moved = translating_crops(images, count, self.num_frames, self.image_size, self.max_speed, random)
        names = [f"clip_{number:04d}" for number in range(count)]
        return Clips(names, [ArrayFrames(clip) for clip in moved], in_memory=True)


def translating_crops(
    images: NDArray[np.uint8], count: int, frames: int, size: int, max_speed: int, random: np.random.Generator
) -> NDArray[np.uint8]:
    """Cut clips from images, by moving a crop along a straight line.

    Args:
        images: images `[N, C, S, S]`.
        count: number of clips.
        frames: number of frames per clip.
        size: height and width of a crop, in pixels.
        max_speed: largest displacement along each axis, in pixels per frame.
        random: random number generator for the image, the direction and the position of each clip.

    Returns:
        Clips `[count, frames, C, size, size]`.
    """
    chosen = random.integers(len(images), size=count)
    speed = random.integers(-max_speed, max_speed + 1, size=(count, 2))
    way = speed * (frames - 1)
    least = np.maximum(-way, 0)
    room = images.shape[-1] - size - np.abs(way)
    start = least + random.integers(room + 1)
    corner = start[:, None] + speed[:, None] * np.arange(frames)[:, None]
    row, column = (corner[:, :, axis, None] + np.arange(size) for axis in (0, 1))
    cut = images[chosen[:, None, None, None], :, row[..., None], column[:, :, None]]
    return np.ascontiguousarray(np.moveaxis(cut, -1, 2))
