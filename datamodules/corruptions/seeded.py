"""Noise without a seed of its own, whose draw is that of the data that it is given to."""

import copy
from typing import Protocol, TypeVar


class Seeded(Protocol):
    """An object with a seed, which is None until it gets one."""

    seed: int | None


Noise = TypeVar("Noise", bound=Seeded)


def seeded(noise: Noise, seed: int) -> Noise:
    """Copy a noise, with its own seed or else with `seed`; the caller's stays as it is, for other data sets."""
    drawn = copy.copy(noise)
    if drawn.seed is None:
        drawn.seed = seed
    return drawn
