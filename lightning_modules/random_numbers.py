"""Random numbers of an image that are the same in whatever batch and process it is."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


def seed_of(*words: int) -> int:
    """A seed for torch that follows from all of some numbers, such as seed, index of the image and purpose.

    Args:
        words: at least 0 each.
    """
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


def generator_of(*words: int) -> torch.Generator:
    """A generator, on the host, with the `seed_of` some numbers."""
    return torch.Generator().manual_seed(seed_of(*words))


def drawn_like(image: Tensor, draw: Callable[..., Tensor], generators: Sequence[torch.Generator]) -> Tensor:
    """Random numbers of the shape, type and device of images, of each image from its own generator.

    Args:
        image: `[B, ...]`.
        draw: `torch.rand` or `torch.randn`.
        generators: B of them.
    """
    drawn = [draw(image.shape[1:], generator=generator, dtype=image.dtype) for generator in generators]
    return torch.stack(drawn).to(image.device)
