"""Bridges of fractional Brownian motion: each path is observed only at its end, where the value is near 0."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from datamodules.arguments import at_least, one_of, positive, within
from datamodules.sequences.fractional_motion import KINDS, Kind, posterior_std, pulled_covariance
from datamodules.sequences.sequence_set import SequenceSet, SequenceSource


class UnseenPaths(SequenceSource):
    """Paths with a single observation: the value 0 at the last time."""

    in_memory = True

    def __init__(self, count: int, num_times: int, truth: Mapping[str, Tensor]) -> None:
        self.count = count
        self.num_times = num_times
        self.truth = truth

    def __len__(self) -> int:
        return self.count

    def fetch(self, index: Tensor, visit: int) -> Tensor:
        return torch.zeros(len(index), self.num_times, 1)


class BridgePaths(SequenceSet):
    """Paths of dX = -theta X dt + dB that start at X(0) = 0.

    The only observation is the value 0 at the end of the path, with a Gaussian observation error.

    B is exact fractional Brownian motion. Batches contain `exact_std`, the standard deviation of the path at each time,
    given the observation.

    Args:
        hurst: Hurst index H of B, in (0, 1).
        kind: type of fractional Brownian motion: `I` has stationary increments; `II` has no past before time 0.
        theta: rate of mean reversion towards 0, at least 0.
        end: time of the observation.
        sigma: standard deviation of the observation error.
        num_times: number of equally spaced times of a path, from 0 to `end`.
        num_training: number of training paths per epoch.
        num_test: number of test paths.
    """

    shape = (1,)

    def __init__(
        self,
        hurst: float,
        kind: Kind = "I",
        theta: float = 0.0,
        end: float = 2.0,
        sigma: float = 0.1,
        num_times: int = 201,
        num_training: int = 32,
        num_test: int = 256,
    ) -> None:
        positive(end=end, sigma=sigma)
        at_least(2, num_times=num_times, num_test=num_test)
        at_least(1, num_training=num_training)
        at_least(0, theta=theta)
        within(0, 1, "()", hurst=hurst)
        one_of(KINDS, kind=kind)
        self.num_times = num_times
        self.interval = end / (num_times - 1)
        self.law = (hurst, kind, theta)
        self.sigma = sigma
        self.num_training = num_training
        self.num_test = num_test

    def training(self) -> UnseenPaths:
        return UnseenPaths(self.num_training, self.num_times, {"sigma": self._sigmas()})

    def test(self) -> UnseenPaths:
        sigmas = self._sigmas()
        exact = posterior_std(pulled_covariance(self.interval, self.num_times, *self.law), sigmas)
        return UnseenPaths(self.num_test, self.num_times, {"sigma": sigmas, "exact_std": exact})

    def _sigmas(self) -> Tensor:
        sigmas = torch.full((self.num_times,), math.inf, dtype=torch.float64)
        sigmas[-1] = self.sigma
        return sigmas
