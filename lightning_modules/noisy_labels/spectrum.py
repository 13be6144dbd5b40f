"""The singular values of features: how many directions they use, and how much the first one dominates.

With features F `[M, D]` whose rows have unit length, singular values sigma and p_i = sigma_i / sum_j sigma_j,

    SVE = -sum_i p_i log p_i,        LSVR = -log p_1.

Both lie in [0, log min(M, D)]: 0 for features along one direction, and the maximum for equal singular values.

Source: Chen et al., Understanding and Mitigating the Label Noise in Pre-training on Downstream Tasks, ICLR 2024, arXiv
2309.17002, section 2. The authors' code also subtracts each row's own mean over its features, which is left out here.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torchmetrics import Metric


def singular_value_entropy(sigma: Tensor) -> Tensor:
    """SVE, in nats, of singular values `[R]`, not negative and not all zero."""
    p = sigma / sigma.sum()
    return -torch.special.xlogy(p, p).sum()


def largest_singular_value_ratio(sigma: Tensor) -> Tensor:
    """LSVR, in nats, of singular values `[R]`, not negative and not all zero."""
    return -(sigma.max() / sigma.sum()).log()


class Spectrum(Metric):
    """Singular values of all features that it is given, from F^T F: D^2 numbers whatever M, summed over processes.

    They are the roots of eigenvalues, so one below 1e-8 of the largest is lost in rounding.

    Args:
        num_features: D.
    """

    full_state_update = False
    gram: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.set_dtype(torch.float64)
        self.add_state("gram", torch.zeros(num_features, num_features, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, features: Tensor) -> None:
        """Adds features `[B, D]`; rows are scaled to unit length."""
        rows = normalize(features.double(), dim=1)
        self.gram += rows.T @ rows

    def compute(self) -> Tensor:
        """`[D]`, in ascending order."""
        return torch.linalg.eigvalsh(self.gram).clamp(min=0).sqrt()
