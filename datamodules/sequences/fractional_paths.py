"""Paths of fractional Ornstein-Uhlenbeck processes of known H, as points or as videos of a ball."""

import torch
from torch import Tensor

from datamodules.arguments import at_least, positive, within
from datamodules.randomness.counter import CounterRNG
from datamodules.sequences.fractional_motion import drawn_paths, pulled_covariance
from datamodules.sequences.sequence_set import SequenceSet, SequenceSource


class DrawnPaths(SequenceSource):
    """Paths that are drawn when they are asked for, from (seed, split, epoch, position) alone.

    Args:
        law: what they are drawn from.
        count: paths of the split.
        stream: number of the split.
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
        return self.law.seen(path, numbers)


class FractionalPaths(SequenceSet):
    """Points of dX = -theta X dt + scale dB from X(0) = 0, seen with Gaussian errors; B has stationary increments.

    Training has new paths in every pass.

    Args:
        hurst: H of B, in (0, 1).
        theta: pull to 0, at least 0.
        scale: of the noise.
        sigma: standard deviation of the errors.
        dim: D, independent coordinates of a point.
        num_times: points of a path.
        interval: time between two of them.
        num_training: paths of an epoch of training.
        num_test: paths to test with.
        seed: random seed of paths and errors; None takes that of the data.

    Raises:
        ValueError: if an argument is out of range.
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
        """Give what batches say of all paths."""
        return {"sigma": torch.full((self.num_times,), self.sigma, dtype=torch.float64)}

    def seen(self, path: Tensor, numbers: CounterRNG) -> Tensor:
        """Observe paths, `[B, F, D]`, with errors from further numbers."""
        return path + self.sigma * numbers.normal(path)


class FractionalBalls(FractionalPaths):
    """Videos of a ball, exp(-|p - X|^2 / (2 radius^2)) at the points p of [-1, 1]^2, whose place is such a path.

    Args:
        hurst: H of B, in (0, 1).
        theta: pull to the middle, at least 0.
        scale: of the noise, where half a frame is 1.
        radius: of the ball.
        image_size: height and width of a frame, in pixels.
        num_times: frames of a video.
        interval: time between two of them.
        num_training: videos of an epoch of training, all new.
        num_test: videos to test with.
        seed: random seed of the paths; None takes that of the data.

    Raises:
        ValueError: if an argument is out of range.
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

    def seen(self, path: Tensor, numbers: CounterRNG) -> Tensor:
        place = torch.linspace(-1, 1, self.shape[-1], dtype=torch.float32)
        row, column = (torch.exp(-((place - x.float()) ** 2) / (2 * self.radius**2)) for x in path.split(1, dim=-1))
        return (row[..., :, None] * column[..., None, :])[:, :, None]
