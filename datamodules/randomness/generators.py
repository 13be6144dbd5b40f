"""Random numbers that depend only on their purpose, not on batch or rank."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


def bits_of(*words: int) -> int:
    """Hash integers, such as seed, image index and purpose, to 64 random bits.

    Args:
        words: non-negative integers.
    """
    # NumPy splits integers into 32-bit words; an array of words is used unchanged.
    whole = np.array(words, np.uint32) if max(words, default=0) < 2**32 else words
    return int(np.random.SeedSequence(whole).generate_state(1, np.uint64)[0])


def seed_of(*words: int) -> int:
    """Hash integers to a torch seed of 63 bits, see `bits_of`."""
    return bits_of(*words) >> 1


def generator_of(*words: int) -> torch.Generator:
    """Return a CPU generator seeded with `seed_of` the given integers."""
    return torch.Generator().manual_seed(seed_of(*words))


def sample_like(image: Tensor, draw: Callable[..., Tensor], generators: Sequence[torch.Generator]) -> Tensor:
    """Sample numbers with the shape, dtype and device of images, each image from its own generator.

    Args:
        image: `[B, ...]`.
        draw: sampling function: `torch.rand` or `torch.randn`.
        generators: B generators.
    """
    drawn = [draw(image.shape[1:], generator=generator, dtype=image.dtype) for generator in generators]
    return torch.stack(drawn).to(image.device)


def drawing(generator: torch.Generator | None) -> Callable[[Tensor], Tensor]:
    """Return a function that samples standard normal numbers, real or complex, in a tensor's shape, dtype and device.

    Args:
        generator: random number generator, on any device; None means torch's default generator of the tensor's device.
    """

    def draw(like: Tensor) -> Tensor:
        device = like.device if generator is None else generator.device
        return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=device).to(like.device)

    return draw
