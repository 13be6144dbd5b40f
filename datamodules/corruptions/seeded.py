"""Seeding of noise models: a noise model without a seed uses the seed of the DataModule."""

import copy
from typing import Protocol, TypeVar


class Seeded(Protocol):
    """An object with an attribute `seed`, which is None if it has not been set."""

    seed: int | None


Noise = TypeVar("Noise", bound=Seeded)


def with_seed(noise: Noise, seed: int) -> Noise:
    """Copy a noise model. If the `seed` of the copy is None, set it to the argument `seed`.

    The original is not changed, so it can be used for other datasets.
    """
    drawn = copy.copy(noise)
    if drawn.seed is None:
        drawn.seed = seed
    return drawn
