"""Training objectives that do not need the exact normalising constant Z.

Z is replaced by a moving average or by the mean over a batch, or is learned by noise-contrastive estimation.
"""

import math
from abc import ABC, abstractmethod

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.arguments import within
from datamodules.distributed.collectives import world_size

LARGEST_LOG_WEIGHT = 20.0


def log_mean_exp(values: Tensor) -> Tensor:
    """Compute log mean exp(v) over the values of all ranks, in float64 and without a gradient.

    Args:
        values: values v on this rank, `[B]`; B may differ between ranks.
    """
    values = values.detach().double()
    top = values.max()
    if world_size() > 1:
        dist.all_reduce(top, dist.ReduceOp.MAX)
    sums = torch.stack([(values - top).exp().sum(), torch.full_like(top, len(values))])
    if world_size() > 1:
        dist.all_reduce(sums)
    return top + (sums[0] / sums[1]).log()


class EnergyObjective(nn.Module, ABC):
    """Base class of losses that depend on the energies of data and noise samples.

    The network is trained with the gradient of the loss with respect to these energies.
    """

    @abstractmethod
    def forward(self, at_data: Tensor, at_noise: Tensor, log_q_data: Tensor, log_q_noise: Tensor) -> Tensor:
        """Compute the loss for the rows of the current rank.

        Args:
            at_data: energies f(x) of the data, `[B]`.
            at_noise: energies f(z) of the noise samples, `[B]`.
            log_q_data: log q(x) of the data, `[B]`.
            log_q_noise: log q(z) of the noise samples, `[B]`.
        """

    @abstractmethod
    def log_partition(self) -> Tensor:
        """Return the estimate of log Z that is used in training."""


def weighted_loss(at_data: Tensor, at_noise: Tensor, log_weight: Tensor) -> Tensor:
    """Compute -mean f(x) + mean w f(z), where the weights w = exp(log_weight) are constant and clipped at e^20."""
    weight = log_weight.detach().clamp(max=LARGEST_LOG_WEIGHT).exp().to(at_noise.dtype)
    return (weight * at_noise).mean() - at_data.mean()


class MovingAverage(EnergyObjective):
    """The objective of MECO, which divides by a moving average of the batch estimates of Z.

    The average is the same on all ranks.

    Args:
        beta: weight of the current batch in the moving average, in (0, 1].
    """

    log_u: Tensor

    def __init__(self, beta: float = 0.1) -> None:
        super().__init__()
        within(0, 1, "(]", beta=beta)
        self.beta = beta
        self.register_buffer("log_u", torch.tensor(math.nan, dtype=torch.float64))

    def forward(self, at_data: Tensor, at_noise: Tensor, log_q_data: Tensor, log_q_noise: Tensor) -> Tensor:
        log_weight = at_noise.detach().double() - log_q_noise
        batch = log_mean_exp(log_weight)
        kept = self.log_u + (math.log1p(-self.beta) if self.beta < 1 else -math.inf)
        average = torch.logaddexp(kept, batch + math.log(self.beta))
        self.log_u = torch.where(self.log_u.isnan(), batch, average)
        return weighted_loss(at_data, at_noise, log_weight - self.log_u)

    def log_partition(self) -> Tensor:
        return self.log_u


class PlugIn(MovingAverage):
    """The plug-in objective, which divides by the estimate of Z from the current batch.

    The objective is self-normalised importance sampling; its gradient is biased.
    """

    def __init__(self) -> None:
        super().__init__(beta=1.0)


class NoiseContrastive(EnergyObjective):
    """Logistic loss that classifies data and noise samples with the logit f(x) + c - log q(x) (NCE).

    The learned constant c replaces -log Z.

    Args:
        start: initial value of the learned constant c.
    """

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.c = nn.Parameter(torch.tensor(start))

    def forward(self, at_data: Tensor, at_noise: Tensor, log_q_data: Tensor, log_q_noise: Tensor) -> Tensor:
        return F.softplus(log_q_data - at_data - self.c).mean() + F.softplus(at_noise + self.c - log_q_noise).mean()

    def log_partition(self) -> Tensor:
        return -self.c.detach()
