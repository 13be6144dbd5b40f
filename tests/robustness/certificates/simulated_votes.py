"""Votes drawn with known probabilities, to run certification modes without a network."""

from collections.abc import Callable

import numpy as np

from lightning_modules.robustness.certificates.adaptive_sampling import Anytime, Curve, InputSpecific, Stages
from lightning_modules.robustness.certificates.modes import Certificate, Draws, FixedSampling, Mode
from lightning_modules.robustness.certificates.statistics import gaussian_radius

SIGMA = 0.25
MODES: list[Mode] = [
    FixedSampling(n0=20, n=500, alpha=0.05),
    Stages(radius=0.3, n0=20, n=(100, 400), alpha=0.05, beta=0.01),
    InputSpecific(n0=50, n_max=800, alpha=0.05),
    Anytime(n0=20, n_max=1000, alpha=0.05),
    Anytime(radius=0.3, n0=20, n_max=1000, alpha=0.05),
    Curve(grid=0.05, n0=20, n_max=1000, alpha=0.05),
]
"""A small mode of each type."""


def radius(p_lower) -> float:
    """Return sigma Phi^-1(p) for a single vote."""
    return gaussian_radius(p_lower[0], SIGMA)


def drive(mode: Mode, votes: Callable[[Draws], list], of=radius, label: int = 0) -> tuple[Certificate, list[Draws]]:
    """Certify with the votes that a function returns for each request; return the certificate and all requests."""
    certifying, requests = mode.certify(of, label), []
    request = next(certifying)
    try:
        while True:
            requests.append(request)
            request = certifying.send(np.array(votes(request), dtype=np.int64))
    except StopIteration as end:
        return end.value, requests


def voter(p: float, random: np.random.Generator) -> Callable[[Draws], list]:
    """Return a function that votes for the first of two classes with probability p."""

    def votes(request: Draws) -> list:
        hits = random.binomial(request.stop - request.start, p)
        return [[hits, request.stop - request.start - hits]]

    return votes


def unanimous(request: Draws) -> list:
    """Return votes that are all for the first of two classes."""
    return [[request.stop - request.start, 0]]
