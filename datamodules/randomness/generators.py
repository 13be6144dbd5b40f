"""Random numbers that follow from what they are for, so that they are the same in whatever batch and process."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


def bits_of(*words: int) -> int:
    """Draw 64 bits that follow from all of some numbers, such as seed, index of the image and purpose.

    Args:
        words: at least 0 each.
    """
    # NumPy takes integers apart into words of 32 bits, which these mostly are: an array of them is taken as it is.
    whole = np.array(words, np.uint32) if max(words, default=0) < 2**32 else words
    return int(np.random.SeedSequence(whole).generate_state(1, np.uint64)[0])


def seed_of(*words: int) -> int:
    """Draw a seed for torch, which takes 63 bits, from some numbers, see `bits_of`."""
    return bits_of(*words) >> 1


def generator_of(*words: int) -> torch.Generator:
    """Make a generator, on the host, with the `seed_of` some numbers."""
    return torch.Generator().manual_seed(seed_of(*words))


def sample_like(image: Tensor, draw: Callable[..., Tensor], generators: Sequence[torch.Generator]) -> Tensor:
    """Draw numbers of the shape, type and device of images, of each image from its own generator.

    Args:
        image: `[B, ...]`.
        draw: `torch.rand` or `torch.randn`.
        generators: B of them.
    """
    drawn = [draw(image.shape[1:], generator=generator, dtype=image.dtype) for generator in generators]
    return torch.stack(drawn).to(image.device)


def drawing(generator: torch.Generator | None) -> Callable[[Tensor], Tensor]:
    """Make a function that draws standard normal numbers of a tensor's shape, type and device, real or complex.

    Args:
        generator: source of the numbers, on whichever device that is; None is torch's own of the tensor's device.
    """

    def draw(like: Tensor) -> Tensor:
        device = like.device if generator is None else generator.device
        return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=device).to(like.device)

    return draw
