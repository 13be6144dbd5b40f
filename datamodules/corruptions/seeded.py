"""Give a noise model the DataModule's seed if it has none of its own."""

import copy
from typing import Protocol, TypeVar


class Seeded(Protocol):
    """An object with an attribute `seed`, which is None until it is set."""

    seed: int | None


Noise = TypeVar("Noise", bound=Seeded)


def seeded(noise: Noise, seed: int) -> Noise:
    """Copy a noise model and set the copy's `seed` if it is None; the original can be reused for other datasets."""
    drawn = copy.copy(noise)
    if drawn.seed is None:
        drawn.seed = seed
    return drawn
