"""Give a noise model the DataModule's seed if it has none of its own."""

import copy
from typing import Protocol, TypeVar


class Seeded(Protocol):
    """An object with a seed, which is None until it is set."""

    seed: int | None


Noise = TypeVar("Noise", bound=Seeded)


def seeded(noise: Noise, seed: int) -> Noise:
    """Copy a noise model, setting `seed` if it has none; the original is unchanged, so other datasets can use it."""
    drawn = copy.copy(noise)
    if drawn.seed is None:
        drawn.seed = seed
    return drawn
