"""Paths of fractional Ornstein-Uhlenbeck processes with known Hurst index, seen as points or as videos of a ball."""

import torch
from torch import Tensor

from datamodules.arguments import at_least, positive, within
from datamodules.randomness.counter import CounterRNG
from datamodules.sequences.fractional_motion import drawn_paths, pulled_covariance
from datamodules.sequences.sequence_set import SequenceSet, SequenceSource


class DrawnPaths(SequenceSource):
    """Paths that are generated on access. A path depends only on (seed, split, epoch, position).

    Args:
        law: dataset that defines the distribution of paths.
        count: number of paths in the split.
        stream: index of the split. It selects the random numbers of the split.
    """

    in_memory = True

    def __init__(self, law: "FractionalPaths", count: int, stream: int) -> None:
        self.law = law
        self.count = count
        self.stream = stream
        self.truth = law.truth()
        self.covariance = pulled_covariance(law.interval, law.num_times, law.hurst, "I", law.theta)

    def __len__(self) -> int:
        return self.count

    def fetch(self, index: Tensor, epoch: int) -> Tensor:
        numbers = CounterRNG(self.law.seed or 0, epoch, index, self.stream)
        like = torch.empty(len(index), self.law.num_times - 1, self.law.dim, dtype=torch.float64)
        path = self.law.scale * drawn_paths(self.covariance, numbers.normal(like))
        return self.law.observe(path, numbers)


class FractionalPaths(SequenceSet):
    """Points on paths of dX = -theta X dt + scale dB with X(0) = 0, observed with Gaussian errors.

    B is fractional Brownian motion with stationary increments.

    New paths are generated for each pass over the training set.

    Args:
        hurst: Hurst index H of B, in (0, 1).
        theta: rate of mean reversion towards 0, at least 0.
        scale: factor by which the noise B is multiplied.
        sigma: standard deviation of the observation errors.
        dim: number of independent coordinates of a point, D.
        num_times: number of observed points per path.
        interval: time between successive points.
        num_training: number of training paths per epoch.
        num_test: number of test paths.
        seed: seed of the paths and the observation errors. None means the seed of the DataModule.
    """

    def __init__(
        self,
        hurst: float,
        theta: float = 0.2,
        scale: float = 0.1,
        sigma: float = 0.01,
        dim: int = 2,
        num_times: int = 50,
        interval: float = 1 / 30,
        num_training: int = 6000,
        num_test: int = 300,
        seed: int | None = None,
    ) -> None:
        within(0, 1, "()", hurst=hurst)
        at_least(0, theta=theta)
        positive(scale=scale, sigma=sigma, interval=interval)
        at_least(1, dim=dim, num_training=num_training, num_test=num_test)
        at_least(2, num_times=num_times)
        self.hurst = hurst
        self.theta = theta
        self.scale = scale
        self.sigma = sigma
        self.dim = dim
        self.shape: tuple[int, ...] = (dim,)
        self.num_times = num_times
        self.interval = interval
        self.num_training = num_training
        self.num_test = num_test
        self.seed = seed

    def training(self) -> DrawnPaths:
        return DrawnPaths(self, self.num_training, 1000)

    def test(self) -> DrawnPaths:
        return DrawnPaths(self, self.num_test, 2000)

    def truth(self) -> dict[str, Tensor]:
        """Return ground truth about all paths. It is added to the batches."""
        return {"sigma": torch.full((self.num_times,), self.sigma, dtype=torch.float64)}

    def observe(self, path: Tensor, numbers: CounterRNG) -> Tensor:
        """Add observation errors to paths `[B, F, D]`, using the next random numbers."""
        return path + self.sigma * numbers.normal(path)


class FractionalBalls(FractionalPaths):
    """Videos of a ball on a fractional path X. The brightness at p in [-1, 1]^2 is exp(-|p - X|^2 / (2 radius^2)).

    Args:
        hurst: Hurst index H of B, in (0, 1).
        theta: rate of mean reversion towards the centre, at least 0.
        scale: factor by which the noise B is multiplied. The unit of length is half of a frame's width.
        radius: radius of the ball. The unit of length is half of a frame's width.
        image_size: height and width of a frame, in pixels.
        num_times: number of frames of a video.
        interval: time between successive frames.
        num_training: number of training videos per epoch. New videos are generated for each epoch.
        num_test: number of test videos.
        seed: seed of the paths. None means the seed of the DataModule.
    """

    def __init__(
        self,
        hurst: float,
        theta: float = 0.2,
        scale: float = 0.1,
        radius: float = 0.05,
        image_size: int = 64,
        num_times: int = 50,
        interval: float = 1 / 30,
        num_training: int = 6000,
        num_test: int = 300,
        seed: int | None = None,
    ) -> None:
        positive(radius=radius)
        at_least(2, image_size=image_size)
        super().__init__(hurst, theta, scale, 1.0, 2, num_times, interval, num_training, num_test, seed)
        self.radius = radius
        self.shape = (1, image_size, image_size)

    def truth(self) -> dict[str, Tensor]:
        return {}

    def observe(self, path: Tensor, numbers: CounterRNG) -> Tensor:
        place = torch.linspace(-1, 1, self.shape[-1], dtype=torch.float32)
        row, column = (torch.exp(-((place - x.float()) ** 2) / (2 * self.radius**2)) for x in path.split(1, dim=-1))
        return (row[..., :, None] * column[..., None, :])[:, :, None]
