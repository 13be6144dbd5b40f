"""Seeds and generators that depend only on given integers, not on the batch or the rank."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


def bits_of(*words: int) -> int:
    """Hash integers, such as a seed, an image index and a stream index, to 64 random bits.

    Args:
        words: non-negative integers.
    """
    # NumPy would split a list of integers into 32-bit words. An array of 32-bit words is used unchanged.
    whole = np.array(words, np.uint32) if max(words, default=0) < 2**32 else words
    return int(np.random.SeedSequence(whole).generate_state(1, np.uint64)[0])


def seed_of(*words: int) -> int:
    """Hash integers with `bits_of` to a 63-bit seed for torch."""
    return bits_of(*words) >> 1


def generator_of(*words: int) -> torch.Generator:
    """Return a CPU generator that is seeded with given integers.

    The seed is `seed_of(*words)`.
    """
    return torch.Generator().manual_seed(seed_of(*words))


def sample_like(image: Tensor, draw: Callable[..., Tensor], generators: Sequence[torch.Generator]) -> Tensor:
    """Sample random numbers with the shape, dtype and device of a batch of images.

    A separate generator is used for each image.

    Args:
        image: batch of images, `[B, ...]`.
        draw: sampling function: `torch.rand` or `torch.randn`.
        generators: B generators, one per image.
    """
    drawn = [draw(image.shape[1:], generator=generator, dtype=image.dtype) for generator in generators]
    return torch.stack(drawn).to(image.device)


def sample_integers(high: int, n: int, generator: torch.Generator | list[torch.Generator] | None) -> Tensor:
    """Sample n uniform integers in [0, `high`), all with one generator, or each with one of n generators.

    The generators may be on any device; the integers are on the CPU.
    """
    devices = generator if isinstance(generator, list) else [generator]
    given = [(each, "cpu" if each is None else each.device) for each in devices]
    return torch.cat([torch.randint(high, (n // len(given),), generator=each, device=at).cpu() for each, at in given])


def split_generator(n: int, generator: torch.Generator | None) -> list[torch.Generator]:
    """Return n CPU generators, one per image, seeded by one generator; None uses PyTorch's global generator."""
    return [generator_of(seed) for seed in sample_integers(2**31, n, generator).tolist()]


def drawing(generator: torch.Generator | None) -> Callable[[Tensor], Tensor]:
    """Return a function that samples standard normal numbers. They have the shape, dtype and device of its argument.

    The numbers are complex if the argument is complex, and otherwise real.

    Args:
        generator: random number generator on any device. None means torch's default generator for the device of the
            argument.
    """

    def draw(like: Tensor) -> Tensor:
        device = like.device if generator is None else generator.device
        return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=device).to(like.device)

    return draw
