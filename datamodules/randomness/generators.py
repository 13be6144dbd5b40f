"""Random numbers that depend only on their purpose, not on the batch or the rank."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


def bits_of(*words: int) -> int:
    """Hash integers, such as a seed, the index of an image and the number of a purpose, to 64 random bits.

    Args:
        words: non-negative integers.
    """
    # NumPy splits integers into 32-bit words; an array of words is used unchanged.
    whole = np.array(words, np.uint32) if max(words, default=0) < 2**32 else words
    return int(np.random.SeedSequence(whole).generate_state(1, np.uint64)[0])


def seed_of(*words: int) -> int:
    """Hash integers to a seed of 63 bits for torch, by `bits_of`."""
    return bits_of(*words) >> 1


def generator_of(*words: int) -> torch.Generator:
    """Return a CPU generator.

    Its seed is `seed_of` the given integers.
    """
    return torch.Generator().manual_seed(seed_of(*words))


def sample_like(image: Tensor, draw: Callable[..., Tensor], generators: Sequence[torch.Generator]) -> Tensor:
    """Sample numbers with the shape, dtype and device of images.

    Each image has a separate generator.

    Args:
        image: `[B, ...]`.
        draw: sampling function: `torch.rand` or `torch.randn`.
        generators: B generators.
    """
    drawn = [draw(image.shape[1:], generator=generator, dtype=image.dtype) for generator in generators]
    return torch.stack(drawn).to(image.device)


def sample_integers(high: int, n: int, generator: torch.Generator | list[torch.Generator] | None) -> Tensor:
    """Sample n integers from 0 to `high` - 1, uniformly, from one generator or one from each of n generators."""
    given = generator if isinstance(generator, list) else [generator]
    return torch.cat([torch.randint(high, (n // len(given),), generator=each) for each in given])


def drawing(generator: torch.Generator | None) -> Callable[[Tensor], Tensor]:
    """Return a function that samples standard normal numbers, with the shape, dtype and device of a tensor.

    The numbers are real or complex, as the tensor.

    Args:
        generator: random number generator on any device. None means the default generator of torch for the device of
            the tensor.
    """

    def draw(like: Tensor) -> Tensor:
        device = like.device if generator is None else generator.device
        return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=device).to(like.device)

    return draw
