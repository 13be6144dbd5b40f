"""Regression data for shallow linear networks: points x and targets A x, with an ill-conditioned matrix A.

    y = A x,   A = diag(1 ... c) U,   U uniform on [0, 1]^(K x D),   x standard normal.

Source: B. Recht's notebook on shallow linear networks; Lavington et al., Target-based Surrogates for Stochastic
Optimization, ICML 2023, arXiv 2302.02607.
"""

from collections.abc import Mapping

import numpy as np
import torch

from datamodules.arguments import at_least, within
from datamodules.tables.table_set import Rows, TableSet


class IllConditionedMap(TableSet):
    """Rows with `features` x and `target` A x, without noise. The test set equals the training set.

    Args:
        dim: dimension D of x.
        outputs: dimension K of A x, at least 2.
        samples: number of rows.
        least: smallest factor c, in (0, 1]. The K rows of U are multiplied by evenly spaced factors, from 1 for the
            first row to c for the last row.
        seed: seed of A and x. None means the seed of the DataModule.
    """

    def __init__(
        self, dim: int = 6, outputs: int = 10, samples: int = 1000, least: float = 1e-10, seed: int | None = None
    ) -> None:
        at_least(1, dim=dim, samples=samples)
        at_least(2, outputs=outputs)
        within(0, 1, "(]", least=least)
        self.dim = dim
        self.outputs = outputs
        self.samples = samples
        self.least = least
        self.seed = seed

    @property
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"features": (self.dim,), "target": (self.outputs,)}

    def training(self) -> Rows:
        random = np.random.default_rng([self.seed or 0, 0])
        a = np.linspace(1, self.least, self.outputs)[:, None] * random.random((self.outputs, self.dim))
        x = random.standard_normal((self.samples, self.dim))
        return Rows({"features": torch.from_numpy(x), "target": torch.from_numpy(x @ a.T)})

    def test(self) -> Rows:
        return self.training()
