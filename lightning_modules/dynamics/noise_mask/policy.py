"""Policy of noise masks: network, distribution of the cells, and objectives."""

import torch
from torch import Tensor, nn
from torch.distributions import Beta

from datamodules.arguments import at_least
from datamodules.corruptions.image_noise import RNG

MIXING, MOMENTUM = 0.9, 0.99
"""Weight of the base in an image's log-parameters, and momentum of the base."""
EDGE = 1e-6


class MaskPolicy(nn.Module):
    """Predict the log-parameters of the Beta distributions of the cells of a mask, by two three-layer heads on one
    network.

    Args:
        network: maps images `[B, C, H, W]` to features `[B, num_features]`.
        num_features: width of the features and of the heads.
        grid: g, mask cells per side.
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
        """Map images to a and b, concatenated, `[B, 2 g g]`."""
        features = self.network(image)
        return torch.cat([head(features) for head in self.heads], dim=1)


def mixed(base: Tensor, own: Tensor) -> Tensor:
    """Mix the base with the log-parameters of an image: 0.9 base + 0.1 own."""
    return MIXING * base + (1 - MIXING) * own


def moved(base: Tensor, mean: Tensor) -> Tensor:
    """Update the base towards the mean of a batch: 0.99 base + 0.01 mean."""
    return MOMENTUM * base + (1 - MOMENTUM) * mean


def drawn_cells(log_a: Tensor, log_b: Tensor, numbers: RNG) -> Tensor:
    """Sample cells from Beta(exp log_a, exp log_b), as G_a / (G_a + G_b) of Gamma variables, without gradient.

    Args:
        log_a: log-parameters a, `[B, K]`.
        log_b: log-parameters b, `[B, K]`.
        numbers: random number generator for the images.

    Returns:
        Cells `[B, K]`, in [1e-6, 1 - 1e-6].
    """
    shape = torch.stack([log_a, log_b], dim=1).detach().exp()
    # log G, stable for small shapes too: G_s = G_(s+1) U^(1/s)
    log_gamma = numbers.gamma(shape + 1).log() + numbers.uniform(shape).log() / shape
    return (log_gamma[:, 0] - log_gamma[:, 1]).sigmoid().clamp(EDGE, 1 - EDGE)


def log_densities(cells: Tensor, log_a: Tensor, log_b: Tensor) -> Tensor:
    """Compute log Beta(M_j; exp log_a_j, exp log_b_j), `[B, K]`."""
    return Beta(log_a.exp(), log_b.exp(), validate_args=False).log_prob(cells)


def paper_code(cost: Tensor, density: Tensor) -> Tensor:
    """Compute the objective of the authors' code, mean_b logsumexp_j l_bj times the mean cost.

    Args:
        cost: cross-entropy of each image of the global batch, `[B]`.
        density: logsumexp_j l_bj, `[B]`.
    """
    return density.mean() * cost.mean()


def reinforce(cost: Tensor, density: Tensor, baseline: Tensor) -> Tensor:
    """Compute the mean cost plus a REINFORCE surrogate. Its gradient estimates the gradient of the expected cost.

    Args:
        cost: cross-entropy of each image of the global batch, `[B]`.
        density: sum_j l_bj, `[B]`.
        baseline: scalar that REINFORCE subtracts from the cost.
    """
    return cost.mean() + ((cost.detach() - baseline) * density).mean()
