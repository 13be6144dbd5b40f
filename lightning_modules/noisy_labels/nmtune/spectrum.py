"""Singular value entropy (SVE) and largest singular value ratio (LSVR) of features.

Let F, `[M, D]`, be features whose rows are normalised to unit length, sigma the singular values of F, and p_i = sigma_i
/ sum_j sigma_j. Then

    SVE = -sum_i p_i log p_i,        LSVR = -log p_1.

SVE and LSVR are in [0, log min(M, D)]. They are 0 if all features lie along one direction, and maximal if all singular
values are equal.

Source: Chen et al., Understanding and Mitigating the Label Noise in Pre-training on Downstream Tasks, ICLR 2024, arXiv
2309.17002, section 2. The authors' code also subtracts, from each normalised row, the mean of this row over features.
Here, the argument `center` selects whether and how the rows are centred.
"""

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torchmetrics import Metric

from lightning_modules.interfaces import Table

Center = Literal["none", "feature", "row"]


def singular_value_entropy(sigma: Tensor) -> Tensor:
    """Compute the SVE of singular values `[R]`, in nats.

    The singular values must be non-negative and not all zero.
    """
    p = sigma / sigma.sum()
    return -torch.special.xlogy(p, p).sum()


def largest_singular_value_ratio(sigma: Tensor) -> Tensor:
    """Compute the LSVR of singular values `[R]`, in nats.

    The singular values must be non-negative and not all zero.
    """
    return -(sigma.max() / sigma.sum()).log()


class SingularSpectrum(Metric):
    """Metric that computes the singular values of the features of a whole dataset.

    The singular values are the square roots of the eigenvalues of the Gram matrix F^T F, `[D, D]`, which is summed over
    ranks. Singular values below 1e-8 times the largest singular value are therefore lost in rounding errors.

    Args:
        num_features: number D of features.
        center: method of centring the normalised rows. `none` subtracts nothing, `feature` subtracts from each feature
            its mean over rows, and `row` subtracts from each row its mean over features.

    Raises:
        ValueError: if `center` is unknown.
    """

    full_state_update = False
    gram: Tensor
    total: Tensor
    count: Tensor

    def __init__(self, num_features: int, center: Center = "none") -> None:
        super().__init__()
        if center not in get_args(Center):
            raise ValueError(f"center must be one of {', '.join(get_args(Center))}, got {center!r}")
        self.center = center
        self.set_dtype(torch.float64)
        self.add_state("gram", torch.zeros(num_features, num_features, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(num_features, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, features: Tensor) -> None:
        """Normalise the rows of features `[B, D]` to unit length, and add them to the Gram matrix."""
        rows = normalize(features.double(), dim=1)
        if self.center == "row":
            rows = rows - rows.mean(dim=1, keepdim=True)
        self.gram += rows.T @ rows
        self.total += rows.sum(dim=0)
        self.count += len(rows)

    def compute(self) -> Tensor:
        """Return the singular values, `[D]`, in ascending order."""
        gram = self.gram
        if self.center == "feature":
            gram = gram - torch.outer(self.total, self.total) / self.count
        return torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()


def spectrum_table(spectra: Mapping[str, Tensor]) -> Table:
    """Create a table of singular values, and of the share of each value in their sum.

    The legend of its plot shows SVE and LSVR.

    Args:
        spectra: dict from the names of the features to their singular values, in descending order.
    """
    sigma = {name: values.cpu().numpy() for name, values in spectra.items()}
    shares = {name: values / values.sum() for name, values in sigma.items()}
    each, together = "share of the sum", "share of the first ones together"
    measures = {"SVE": singular_value_entropy, "LSVR": largest_singular_value_ratio}
    return Table(
        columns={
            "features": np.repeat(list(sigma), [len(values) for values in sigma.values()]),
            "position": np.concatenate([np.arange(1, len(values) + 1) for values in sigma.values()]),
            "singular_value": np.concatenate(list(sigma.values())),
            "share": np.concatenate(list(shares.values())),
        },
        drawn={
            each: np.concatenate(list(shares.values())),
            together: np.concatenate([share.cumsum() for share in shares.values()]),
        },
        logarithmic=("position", each),
        labels={
            name: f"{name}: " + ", ".join(f"{measure} {value(sigma):.2f}" for measure, value in measures.items())
            for name, sigma in spectra.items()
        },
        title="Singular values of the test set's features",
    )
