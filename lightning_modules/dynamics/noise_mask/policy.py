"""The policy for noise masks: its network, the distribution of mask cells, and the training objectives."""

import torch
from torch import Tensor, nn
from torch.distributions import Beta

from datamodules.arguments import at_least
from datamodules.corruptions.image_noise import RNG

MIXING, MOMENTUM = 0.9, 0.99
"""Weight of the base in the log-parameters of an image, and momentum of the base."""
EDGE = 1e-6


class MaskPolicy(nn.Module):
    """A network with two heads that predict the log-parameters of the Beta distributions of a mask's cells.

    Each head has three layers.

    Args:
        network: network that maps images `[B, C, H, W]` to features `[B, num_features]`.
        num_features: number of features, and width of the heads.
        grid: number g of mask cells along each side.
    """

    def __init__(self, network: nn.Module, num_features: int, grid: int) -> None:
        super().__init__()
        at_least(1, num_features=num_features, grid=grid)
        self.network = network
        self.grid = grid

        def layers() -> list[nn.Module]:
            return [nn.Linear(num_features, num_features), nn.BatchNorm1d(num_features), nn.ReLU(inplace=True)]

        self.heads = nn.ModuleList(
            nn.Sequential(*layers(), *layers(), nn.Linear(num_features, grid * grid)) for _ in range(2)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Map images to the concatenation of the log-parameters a and b, `[B, 2 g g]`."""
        features = self.network(image)
        return torch.cat([head(features) for head in self.heads], dim=1)


def mix_log_parameters(base: Tensor, own: Tensor) -> Tensor:
    """Mix the log-parameters `base` with the log-parameters `own` of an image: 0.9 base + 0.1 own."""
    return MIXING * base + (1 - MIXING) * own


def update_base(base: Tensor, mean: Tensor) -> Tensor:
    """Update the base towards the mean of a batch: 0.99 base + 0.01 mean."""
    return MOMENTUM * base + (1 - MOMENTUM) * mean


def drawn_cells(log_a: Tensor, log_b: Tensor, numbers: RNG) -> Tensor:
    """Sample cells from Beta(exp log_a, exp log_b), without gradients, as G_a / (G_a + G_b) for Gamma variables G.

    Args:
        log_a: log-parameters a, `[B, K]`.
        log_b: log-parameters b, `[B, K]`.
        numbers: random number generator of the images in the batch.

    Returns:
        The cells in [1e-6, 1 - 1e-6], `[B, K]`.
    """
    shape = torch.stack([log_a, log_b], dim=1).detach().exp()
    # G_s = G_(s+1) U^(1/s) is used, so that log G is numerically stable also for small shape parameters s
    log_gamma = numbers.gamma(shape + 1).log() + numbers.uniform(shape).log() / shape
    return (log_gamma[:, 0] - log_gamma[:, 1]).sigmoid().clamp(EDGE, 1 - EDGE)


def log_densities(cells: Tensor, log_a: Tensor, log_b: Tensor) -> Tensor:
    """Compute the log-densities, `[B, K]`, of cells M: log Beta(M_j; exp log_a_j, exp log_b_j)."""
    return Beta(log_a.exp(), log_b.exp(), validate_args=False).log_prob(cells)


def paper_code(cost: Tensor, density: Tensor) -> Tensor:
    """Compute the objective of the authors' code, which is mean_b logsumexp_j l_bj times the mean cost.

    Args:
        cost: cross-entropy of each image of the global batch, `[B]`.
        density: logsumexp_j l_bj over the log-densities of the cells of each image, `[B]`.
    """
    return density.mean() * cost.mean()


def reinforce(cost: Tensor, density: Tensor, baseline: Tensor) -> Tensor:
    """Compute the mean cost plus a surrogate whose gradient is the REINFORCE estimate for the expected cost.

    Args:
        cost: cross-entropy of each image of the global batch, `[B]`.
        density: sum_j l_bj over the log-densities of the cells of each image, `[B]`.
        baseline: scalar that is subtracted from the cost.
    """
    return cost.mean() + ((cost.detach() - baseline) * density).mean()
