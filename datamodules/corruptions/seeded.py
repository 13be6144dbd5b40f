"""Give a noise model the seed of the DataModule if the noise model has no seed."""

import copy
from typing import Protocol, TypeVar


class Seeded(Protocol):
    """An object with an attribute `seed`, which is None until it is set."""

    seed: int | None


Noise = TypeVar("Noise", bound=Seeded)


def seeded(noise: Noise, seed: int) -> Noise:
    """Copy a noise model, and set `seed` of the copy if it is None.

    The original can be reused for other datasets.
    """
    drawn = copy.copy(noise)
    if drawn.seed is None:
        drawn.seed = seed
    return drawn
